//! Mission case 18: runs that fetch one recipe at the same time, while somebody works in the canonical ABRA_DIR.

use crate::support::*;
use std::fs;
use std::path::{Path, PathBuf};

/// A process that changes the canonical repository again and again, until it is told to end.
struct Busy {
    proc: Proc,
    stop: PathBuf,
    rounds: PathBuf,
}

impl Busy {
    /// `script` is one round; `$R` is the canonical tree, `$O` its remote, `$n` counts. Returns once one round is done.
    fn start(sandbox: &Sandbox, recipe: &Recipe, name: &str, script: &str) -> Self {
        let (stop, rounds) = (sandbox.path(format!("{name}.stop")), sandbox.path(format!("{name}.rounds")));
        // The settings of the tests' own git, on a command of the sandbox, so that it ends with it.
        let mut command = sandbox.command("/bin/sh");
        for (key, value) in git_command(&recipe.path).get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        let body =
            format!("set -e; n=0; while [ ! -e \"$STOP\" ]; do n=$((n+1)); {script}; echo $n >\"$ROUNDS\"; done");
        command.args(["-c", &body]).env("R", &recipe.path).env("O", &recipe.remote).current_dir(&recipe.path);
        command.env("STOP", &stop).env("ROUNDS", &rounds);
        let busy = Self { proc: sandbox.spawn(command), stop, rounds };
        busy.more();
        busy
    }

    fn count(&self) -> u32 {
        fs::read_to_string(&self.rounds).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Waits for one more round from now.
    #[track_caller]
    fn more(&self) {
        let from = self.count();
        eventually(SOON, "one more round of the busy process", || {
            if self.count() > from { Ok(()) } else { Err(self.proc.stderr()) }
        });
    }

    #[track_caller]
    fn end(mut self) {
        fs::write(&self.stop, "").unwrap();
        self.proc.expect_code(0);
        assert!(self.count() > 2, "it was hardly busy: {} rounds", self.count());
    }
}

/// Two runs at the same time, each at its own ref, `count` times; each tree must be right.
#[track_caller]
fn two_at_a_time(sandbox: &Sandbox, recipe: &Recipe, count: usize) {
    let pairs = [(RELEASE, OLD_RELEASE), ("main", BRANCH), (OLD_RELEASE, "main"), (BRANCH, RELEASE)];
    for round in 0..count {
        let (one, other) = pairs[round % pairs.len()];
        let start = |id: &str, reference: &str| {
            let id = format!("{id}{round}");
            let at = format!("immich@{reference}");
            (RunCopy::of(sandbox, &id), abra_dir(sandbox, ["create", "--run-id", &id, "--recipe", &at]).spawn())
        };
        let (mut a, mut b) = (start("a", one), start("b", other));
        for ((run, proc), reference) in [(&mut a, one), (&mut b, other)] {
            proc.expect_code(0);
            assert_eq!(proc.stderr(), "", "{reference}");
            let checked = check_copy(recipe, &run.tree("immich"), &recipe.commit(reference));
            checked.unwrap_or_else(|fault| panic!("round {round}, {reference}: {fault}"));
            run.expect_verified();
            let removed = run.ask("remove", []).output();
            assert_eq!(removed.code(), 0, "{}", removed.stderr);
        }
    }
    let left: Vec<_> = fs::read_dir(sandbox.runs_dir()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// With one tree for both the later checkout decides. Seen failing with the canonical's index refreshed.
#[test]
fn two_runs_fetch_one_recipe_at_different_refs() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    let before = fingerprint(canonical.path());
    two_at_a_time(&sandbox, &recipe, rounds(50));
    before.expect_same(&fingerprint(canonical.path()));
}

/// Two fetches into one ABRA_DIR: one gets it, the other is told. Seen failing with what is there replaced.
#[test]
fn of_two_fetches_into_one_abra_dir_one_wins() {
    let sandbox = Sandbox::new();
    let recipe = Canonical::new(&sandbox).add_recipe("immich");
    for round in 0..rounds(30) {
        let run = RunCopy::create(&sandbox, &format!("r{round}"));
        let mut both = [RELEASE, "main"].map(|at| (at, run.fetch("immich", ["--ref", at]).spawn()));
        let codes = both.each_mut().map(|(_, fetch)| fetch.code());
        let winner = match codes {
            [0, 73] => both[0].0,
            [73, 0] => both[1].0,
            _ => panic!("{codes:?}: {} {}", both[0].1.stderr(), both[1].1.stderr()),
        };
        expect_copy(&recipe, &run.tree("immich"), &recipe.commit(winner));
        assert!(!run.names().iter().any(|name| name.contains("fetch-")), "{:?}", run.names());
        run.expect_verified();
    }
}

/// What a `git fetch` writes in the repository that it runs in: objects, refs, its own notes.
fn written_by_fetch(path: &Path) -> bool {
    let Ok(path) = path.strip_prefix("recipes/immich/.git") else { return false };
    let first = path.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
    matches!(
        first.as_deref(),
        None | Some("objects" | "refs" | "logs" | "FETCH_HEAD" | "packed-refs" | "info" | "gc.pid")
    )
}

#[track_caller]
fn expect_untouched_while(name: &str, script: &str, count: usize) {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    let before = fingerprint(canonical.path());
    let busy = Busy::start(&sandbox, &recipe, name, script);
    two_at_a_time(&sandbox, &recipe, count);
    for staged in 0..count.div_ceil(4) {
        let run = RunCopy::create(&sandbox, &format!("s{staged}"));
        let tree = run.fetched("immich", ["--staged"]);
        assert_eq!(git(&tree, ["rev-parse", "HEAD"]), recipe.commit("main"));
        assert_eq!(git(&tree, ["status", "--porcelain", "--ignored"]), "");
        run.expect_verified();
    }
    busy.more();
    busy.end();
    let ours = |print: Fingerprint| print.only(|path| !written_by_fetch(path));
    ours(before).expect_same(&ours(fingerprint(canonical.path())));
    assert_eq!(locks(&recipe.path.join(".git")), [""; 0]);
    recipe.git(["fsck", "--full"]);
}

/// Seen failing with the canonical's index refreshed.
#[test]
fn canonical_is_fetched_into_meanwhile() {
    let script = "c=$(git -C \"$O\" commit-tree -p next -m $n 'next^{tree}'); git -C \"$O\" update-ref refs/heads/next $c; \
                  git -C \"$O\" tag t$n $c; git fetch -q origin";
    expect_untouched_while("fetching", script, rounds(50));
}

/// Packs vanish while they are read: seen failing without `--no-local`, where `git clone` copies files.
#[test]
fn canonical_is_repacked_meanwhile() {
    let script = "c=$(git commit-tree -p origin/next -m $n 'main^{tree}'); git update-ref refs/remotes/origin/next $c; \
                  git gc -q --prune=now";
    expect_untouched_while("repacking", script, rounds(50));
}

/// A `git` that died in the canonical, or one at work there: reading needs no lock, and removes none.
/// To see it fail, copy `.git` with all that is in it.
#[test]
fn a_lock_in_the_canonical_stops_nobody_and_stays() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    for name in ["index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock"] {
        fs::write(recipe.path.join(".git").join(name), "").unwrap();
    }
    let before = fingerprint(canonical.path());
    let ways: [(&str, &[&str], &str); 3] =
        [("head", &[], "main"), ("at", &["--ref", RELEASE], RELEASE), ("staged", &["--staged"], "main")];
    for (id, args, reference) in ways {
        let run = RunCopy::create(&sandbox, id);
        expect_copy(&recipe, &run.fetched("immich", args.iter().copied()), &recipe.commit(reference));
        run.expect_verified();
    }
    before.expect_same(&fingerprint(canonical.path()));
}

/// Many at a time, as on a host that was rebooted into a queue. Seen failing with the canonical's index
/// refreshed; or build in a place of one name for all.
#[test]
fn many_runs_fetch_at_once() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    let before = fingerprint(canonical.path());
    let refs = ["main", RELEASE, OLD_RELEASE, BRANCH, REMOTE_BRANCH];
    let start = |n: usize| {
        let (id, at) = (format!("r{n}"), format!("immich@{}", refs[n % refs.len()]));
        abra_dir(&sandbox, ["create", "--run-id", &id, "--recipe", &at]).spawn()
    };
    let mut all: Vec<_> = (0..rounds(100)).map(start).collect();
    for (n, proc) in all.iter_mut().enumerate() {
        proc.expect_code(0);
        let reference = if n % refs.len() == 4 { "origin/next" } else { refs[n % refs.len()] };
        expect_copy(&recipe, &RunCopy::of(&sandbox, &format!("r{n}")).tree("immich"), &recipe.commit(reference));
    }
    before.expect_same(&fingerprint(canonical.path()));
}
