//! `abra-dir fetch` against what surrounds it: the caller's git variables and configuration, no git, a stop halfway.

use crate::support::*;
use nix::sys::signal::Signal::{self, SIGINT, SIGKILL, SIGTERM};
use std::fs;
use std::path::{Path, PathBuf};

/// A sandbox with one recipe, a decoy repository, and a program that leaves a trace when somebody runs it.
struct Trap {
    sandbox: Sandbox,
    recipe: Recipe,
    decoy: Recipe,
    hooks: PathBuf,
}

impl Trap {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let recipe = Canonical::new(&sandbox).add_recipe("immich");
        let decoy = Canonical::at(sandbox.path("decoys"), sandbox.path("decoy-remotes")).add_recipe("decoy");
        let hooks = sandbox.path("template/hooks");
        fs::create_dir_all(&hooks).unwrap();
        let body = format!("#!/bin/sh\necho \"$0 $*\" >>'{}'\nexit 1\n", sandbox.path("trace").display());
        for name in ["post-checkout", "reference-transaction", "post-index-change", "program"] {
            program(&hooks.join(name), &body);
        }
        Self { sandbox, recipe, decoy, hooks }
    }

    fn program(&self) -> PathBuf {
        self.hooks.join("program")
    }

    /// A git configuration that would spoil a clone in every way that we know.
    fn config(&self) -> String {
        let (hooks, program, remote) = (self.hooks.display(), self.program(), self.recipe.remote.display());
        let (template, program) = (self.sandbox.path("template"), program.display());
        format!(
            "[core]\n\thooksPath = {hooks}\n\tfsmonitor = {program}\n\tautocrlf = true\n\teol = crlf\n\tfileMode = false\n\
             \tsymlinks = false\n\tattributesFile = {attributes}\n\tsparseCheckout = true\n\
             [init]\n\ttemplateDir = {template}\n\tdefaultBranch = evil\n\
             [clone]\n\tdefaultRemoteName = evil\n[checkout]\n\tdefaultRemote = evil\n\
             [url \"{decoy}\"]\n\tinsteadOf = {canonical}\n[url \"evil:\"]\n\tinsteadOf = {remote}\n\
             [filter \"evil\"]\n\tsmudge = {program}\n\tclean = {program}\n\
             [uploadpack]\n\tpackObjectsHook = {program}\n[protocol]\n\tallow = never\n[remote \"origin\"]\n\turl = evil\n",
            attributes = self.sandbox.path("attributes").display(),
            template = template.display(),
            decoy = self.decoy.path.display(),
            canonical = self.recipe.path.display(),
        )
    }

    /// Fetches in a hostile environment, both ways; the result must be as ever.
    fn expect_unmoved(&self, id: &str, hostile: impl Fn(Guard<'_>) -> Guard<'_>) {
        for (way, args) in [("at", &["--ref", RELEASE][..]), ("staged", &["--staged"])] {
            let run = RunCopy::create(&self.sandbox, &format!("{id}-{way}"));
            let output = hostile(run.fetch("immich", args.iter().copied())).output();
            assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "{id} {way}");
            let commit = self.recipe.commit(if way == "at" { RELEASE } else { "main" });
            let tree = run.tree("immich");
            let checked = check_copy(&self.recipe, &tree, &commit).and_then(|()| check_names(&self.recipe, &tree));
            checked.unwrap_or_else(|fault| panic!("{id} {way}: {fault}"));
            let verified = hostile(run.ask("verify", [])).output();
            assert_eq!((verified.code(), verified.stderr.as_str()), (0, ""), "{id} {way}: verify");
        }
        assert_eq!(fs::read_to_string(self.sandbox.path("trace")).unwrap_or_default(), "", "{id}");
    }
}

/// Seen failing with `GIT_…` passed on to git.
#[test]
fn git_variables_of_the_caller_have_no_influence() {
    let trap = Trap::new();
    let before = (fingerprint(&trap.recipe.path), fingerprint(&trap.decoy.path));
    fs::write(trap.sandbox.path("config"), trap.config()).unwrap();
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    let (decoy, config) = (path(&trap.decoy.path), path(&trap.sandbox.path("config")));
    let (program, template) = (path(&trap.program()), path(&trap.sandbox.path("template")));
    let git_dir = format!("{decoy}/.git");
    let count = [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "core.hooksPath"), ("GIT_CONFIG_VALUE_0", "@")];
    let groups: Vec<Vec<(&str, String)>> = vec![
        vec![("GIT_DIR", git_dir.clone())],
        vec![("GIT_WORK_TREE", decoy.clone()), ("GIT_DIR", git_dir.clone())],
        vec![("GIT_INDEX_FILE", format!("{git_dir}/index"))],
        vec![("GIT_OBJECT_DIRECTORY", format!("{git_dir}/objects"))],
        vec![("GIT_ALTERNATE_OBJECT_DIRECTORIES", format!("{git_dir}/objects"))],
        vec![("GIT_COMMON_DIR", git_dir)],
        count.map(|(name, value)| (name, value.replace('@', trap.hooks.to_str().unwrap()))).to_vec(),
        vec![("GIT_CONFIG_PARAMETERS", format!("'core.hooksPath'='{}'", trap.hooks.display()))],
        vec![("GIT_CONFIG_GLOBAL", config.clone()), ("GIT_CONFIG_SYSTEM", config)],
        vec![("GIT_TEMPLATE_DIR", template.clone())],
        vec![("GIT_EXEC_PATH", template)],
        vec![("GIT_ALLOW_PROTOCOL", "none".to_owned()), ("GIT_DEFAULT_HASH", "sha256".to_owned())],
        vec![("GIT_NAMESPACE", "evil".to_owned()), ("GIT_SHALLOW_FILE", program.clone())],
        vec![("GIT_TRACE", format!("{decoy}/trace")), ("GIT_TRACE2", format!("{decoy}/trace2"))],
        vec![("GIT_EXTERNAL_DIFF", program.clone()), ("GIT_SSH_COMMAND", program.clone()), ("GIT_PAGER", program)],
    ];
    for (n, group) in groups.iter().enumerate() {
        trap.expect_unmoved(&format!("{n}-{}", group[0].0), |guard| {
            group.iter().fold(guard, |g, (name, value)| g.env(name, value))
        });
    }
    trap.expect_unmoved("all", |guard| groups.iter().flatten().fold(guard, |g, (name, value)| g.env(name, value)));
    before.0.expect_same(&fingerprint(&trap.recipe.path));
    before.1.expect_same(&fingerprint(&trap.decoy.path));
}

/// A hook path, a template, a filter, a rewritten URL: the operator's own git may have them. Seen failing with HOME and
/// XDG_CONFIG_HOME passed on to git.
#[test]
fn git_configuration_of_the_caller_has_no_influence() {
    let trap = Trap::new();
    fs::write(trap.sandbox.path("attributes"), "* filter=evil text eol=crlf\n").unwrap();
    fs::write(trap.sandbox.path("home/.gitconfig"), trap.config()).unwrap();
    let before = fingerprint(&trap.recipe.path);
    trap.expect_unmoved("home", |guard| guard);
    fs::remove_file(trap.sandbox.path("home/.gitconfig")).unwrap();
    let xdg = trap.sandbox.path("xdg");
    fs::create_dir_all(xdg.join("git")).unwrap();
    fs::write(xdg.join("git/config"), trap.config()).unwrap();
    fs::write(xdg.join("git/attributes"), "* filter=evil text eol=crlf\n").unwrap();
    fs::write(xdg.join("git/ignore"), "*\n").unwrap();
    trap.expect_unmoved("xdg", |guard| guard.env("XDG_CONFIG_HOME", &xdg));
    before.expect_same(&fingerprint(&trap.recipe.path));
}

/// Standing in some other repository, or in a directory that is gone. Seen failing with git left to look around.
#[test]
fn where_the_caller_stands_has_no_influence() {
    let trap = Trap::new();
    trap.expect_unmoved("decoy", |guard| guard.cwd(&trap.decoy.path));
    trap.expect_unmoved("canonical", |guard| guard.cwd(&trap.recipe.path));
    let gone = ["/bin/sh", "-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"", "sh"];
    trap.expect_unmoved("gone", |guard| guard.under(gone));
}

/// What a run makes must not depend on the caller's umask beyond what it takes away; a copy stays usable.
/// Seen failing with the modes of a `--staged` tree left to the umask.
#[test]
fn the_umask_of_the_caller_does_not_lose_the_executable_bit() {
    let trap = Trap::new();
    let tight = ["/bin/sh", "-c", "umask 077; exec \"$@\"", "sh"];
    trap.expect_unmoved("tight", |guard| guard.under(tight));
}

/// Seen failing with a missing git taken for a missing recipe (66).
#[test]
fn without_git_it_says_so_and_leaves_nothing() {
    let trap = Trap::new();
    let run = RunCopy::create(&trap.sandbox, "r1");
    fs::create_dir(trap.sandbox.path("no-bin")).unwrap();
    let before = run.names();
    for args in [&[][..], &["--staged"]] {
        let output = run.fetch("immich", args.iter().copied()).env("PATH", trap.sandbox.path("no-bin")).output();
        assert_eq!((output.code(), output.text().as_str()), (1, ""), "{}", output.stderr);
        assert!(output.stderr.contains("git"), "{}", output.stderr);
        assert_eq!(run.names(), before);
    }
    run.fetched("immich", []);
}

/// A `git` in front of the real one: after its call number `at` it says so in `ready`, and hangs.
fn slow_git(sandbox: &Sandbox, at: usize) -> String {
    let real =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|dir| dir.join("git")).find(|p| p.exists());
    let here = sandbox.path(format!("slow{at}"));
    fs::create_dir(&here).unwrap();
    let body = format!(
        "#!/bin/sh\nS='{here}'\necho \"$*\" >>\"$S/calls\"\nn=$(wc -l <\"$S/calls\")\n[ \"$n\" -ge {at} ] || exec '{real}' \"$@\"\n\
         '{real}' \"$@\"\necho \"$$\" >\"$S/ready\"\nexec sleep 600\n",
        here = here.display(),
        real = real.unwrap().display(),
    );
    program(&here.join("git"), &body);
    format!("{}:{}", here.display(), std::env::var("PATH").unwrap())
}

/// Stops a fetch at each of its calls of git, one after the other; gives how many there are.
fn stop_at_each_call(args: &[&str], signal: Signal, stopped: impl Fn(&Trap, &RunCopy<'_>, &[String])) -> usize {
    let trap = Trap::new();
    let before = fingerprint(&trap.recipe.path);
    for at in 1.. {
        let run = RunCopy::create(&trap.sandbox, &format!("r{at}"));
        let names = run.names();
        let mut fetch = run.fetch("immich", args.iter().copied()).env("PATH", slow_git(&trap.sandbox, at)).spawn();
        let ready = trap.sandbox.path(format!("slow{at}/ready"));
        let end = eventually(SOON, "the slow git, or the end", || {
            let end = fetch.try_wait();
            if ready.exists() || end.is_some() { Ok(end) } else { Err("neither") }
        });
        if let Some(end) = end {
            assert_eq!(end.code, 0, "{}", fetch.stderr());
            return at - 1;
        }
        fetch.signal(signal);
        fetch.expect_code(128 + signal as i32);
        eventually(SOON, "end of git", || trap.sandbox.nothing_left());
        assert_eq!(fetch.stdout(), "");
        stopped(&trap, &run, &names);
        before.expect_same(&fingerprint(&trap.recipe.path));
        // And it can be asked again.
        let tree = run.fetched("immich", args.iter().copied());
        check_repository(&trap.recipe, &tree).unwrap();
        run.expect_verified();
    }
    0
}

/// Seen failing with the work directory left behind; or let the default action end the fetch: then git lives on.
#[test]
fn a_stopped_fetch_ends_its_git_and_leaves_nothing() {
    for (signal, args) in [(SIGTERM, &["--ref", RELEASE][..]), (SIGINT, &["--staged"])] {
        let calls = stop_at_each_call(args, signal, |_, run, names| assert_eq!(run.names(), names));
        assert!(calls > 0, "the slow git was never called");
    }
}

/// Seen failing without git's parent-death signal; or clone into `recipes/` itself.
#[test]
fn a_killed_fetch_takes_its_git_along_and_its_half_is_no_recipe() {
    let calls = stop_at_each_call(&["--ref", RELEASE], SIGKILL, |trap, run, names| {
        let new: Vec<_> = run.names().into_iter().filter(|name| !names.contains(name)).collect();
        assert!(new.iter().all(|name| name.starts_with(".ccci-guard/fetch-")), "{new:?}");
        let list = abra_dir(&trap.sandbox, ["list"]).output();
        assert_eq!(list.code(), 0, "{}", list.stderr);
        let text = list.text();
        let ours: Vec<_> = text.lines().filter(|line| line.split_whitespace().next() == Some(&run.id)).collect();
        assert!(ours.len() == 1 && !ours[0].contains("immich"), "{text}");
        assert_eq!(run.ask("path", ["immich"]).output().code(), 66);
        run.expect_verified();
    });
    assert!(calls > 0, "the slow git was never called");
}

/// To see it fail, remove only what `recipes/` names.
#[test]
fn what_a_killed_fetch_left_goes_with_the_abra_dir() {
    let trap = Trap::new();
    let run = RunCopy::create(&trap.sandbox, "r1");
    let mut fetch = run.fetch("immich", []).env("PATH", slow_git(&trap.sandbox, 1)).spawn();
    eventually(SOON, "the slow git", || if trap.sandbox.path("slow1/ready").exists() { Ok(()) } else { Err("no") });
    fetch.signal(SIGKILL);
    fetch.expect_code(137);
    let removed = run.ask("remove", []).output();
    assert_eq!(removed.code(), 0, "{}", removed.stderr);
    let left: Vec<_> = fs::read_dir(trap.sandbox.runs_dir()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
