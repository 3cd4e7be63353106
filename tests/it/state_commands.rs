//! `ccci-guard state`: the state files of a harness that has no guard above it, and the few words by which one that
//! has a guard finds and writes its own.

use crate::support::{Guard, SOON, Sandbox, need, rounds};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const KINDS: [(&str, &str); 5] = [
    ("deploys", "CCCI_DEPLOY_COUNT_FILE"),
    ("opstate", "CCCI_OP_STATE_FILE"),
    ("deps", "CCCI_DEPS_FILE"),
    ("depskip", "CCCI_DEPS_SKIP_FILE"),
    ("apps", "CCCI_RUN_APPS_FILE"),
];

/// `ccci-guard state ARGS`.
fn state<'a>(sandbox: &'a Sandbox, args: &[&str]) -> Guard<'a> {
    sandbox.plain().arg("state").args(args)
}

/// The same for run `r1`, process 4242.
fn of_r1<'a>(sandbox: &'a Sandbox, args: &[&str]) -> Guard<'a> {
    state(sandbox, args).args(["--run-id", "r1", "--pid", "4242"])
}

/// Makes the files of run `r1`, process 4242.
#[track_caller]
fn init(sandbox: &Sandbox) -> PathBuf {
    let out = of_r1(sandbox, &["init"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    path(sandbox, "deploys")
}

#[track_caller]
fn path(sandbox: &Sandbox, kind: &str) -> PathBuf {
    let out = of_r1(sandbox, &["path", kind]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = out.text();
    assert_eq!(text.matches('\n').count(), 1, "one line: {text:?}");
    PathBuf::from(text.trim_end_matches('\n'))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Refused: the status, a sentence for people and nothing on stdout.
#[track_caller]
fn refused(guard: Guard<'_>, code: i32, what: &str) -> String {
    let out = guard.output();
    assert_eq!(out.code(), code, "{what}: {}", out.stderr);
    assert_eq!(out.text(), "", "{what}: stdout carries data only");
    assert!(!out.stderr.trim().is_empty(), "{what}: says why");
    assert!(!out.stderr.contains("panicked"), "{what}: {}", out.stderr);
    out.stderr
}

/// `init` makes two files, closed to others whatever the umask, and says what `env` says; a shell can take that.
/// To see it fail: make the files with the umask's mode, or leave the quotes out.
#[test]
fn init_makes_the_files_and_env_names_them() {
    let sandbox = Sandbox::new();
    let line = of_r1(&sandbox, &["init"]).line();
    let mut made = sandbox.shell(&format!("umask 000; exec {line}"));
    made.expect_code(0);
    let said = made.stdout();
    let out = of_r1(&sandbox, &["env"]).output();
    assert_eq!((out.code(), out.text()), (0, said.clone()), "{}", out.stderr);
    assert_eq!(said.lines().count(), 6, "{said}");
    assert!(said.lines().any(|line| line == "export CCCI_RUN_ID='r1'"), "{said}");
    for (kind, variable) in KINDS {
        let file = path(&sandbox, kind);
        assert!(file.is_absolute() && file.starts_with(sandbox.state_dir()), "{file:?}");
        assert!(file.to_str().unwrap().contains("4242"), "keyed by the process: {file:?}");
        let expected = format!("export {variable}='{}'", file.display());
        assert!(said.lines().any(|line| line == expected), "no {expected:?} in {said}");
        let is_made = ["deploys", "apps"].contains(&kind);
        assert_eq!(file.exists(), is_made, "{kind}");
        if is_made {
            assert_eq!((fs::read(&file).unwrap(), mode(&file)), (Vec::new(), 0o600), "{kind}");
        }
        assert_eq!(mode(file.parent().unwrap()), 0o700, "the directory");
    }
    // What was printed is for eval, also where a path has a blank and a quote in it.
    let odd = sandbox.path("it's a place");
    let init = of_r1(&sandbox, &["init"]).arg("--state-dir").arg(&odd).line();
    let mut shell = sandbox.shell(&format!(
        "unset CCCI_RUN_ID; eval \"$({init})\" && echo \"$CCCI_RUN_ID\" && echo \"$CCCI_DEPLOY_COUNT_FILE\" && \
         \"$G\" state record-deploy one && sh -c 'cat \"$CCCI_DEPLOY_COUNT_FILE\"'"
    ));
    shell.expect_code(0);
    assert_eq!(shell.line(), "r1");
    let deploys = PathBuf::from(shell.line());
    assert!(deploys.starts_with(&odd) && deploys.is_file(), "{deploys:?}");
    assert_eq!(shell.line(), "one", "the exported variables are the default run: {}", shell.stderr());
}

/// Once there, they are nobody's to make again.
/// To see it fail: create the files with truncation instead of O_EXCL.
#[test]
fn init_changes_nothing_that_is_there() {
    let sandbox = Sandbox::new();
    let deploys = init(&sandbox);
    fs::write(&deploys, "one\n").unwrap();
    refused(of_r1(&sandbox, &["init"]), 73, "a second init");
    assert_eq!(fs::read_to_string(&deploys).unwrap(), "one\n");
    // Another process of the same run has its own.
    let out = state(&sandbox, &["init", "--run-id", "r1", "--pid", "4243"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert_eq!(fs::read_to_string(&deploys).unwrap(), "one\n");
    // A live run's are not to be made by hand either.
    let run = sandbox.run().args(["--run-id", "r2"]).sh("echo ready; sleep 60").spawn();
    run.ready();
    let harness = run.harness().to_string();
    refused(state(&sandbox, &["init", "--run-id", "r2", "--pid", &harness]), 73, "a live run's");
}

/// Deploys and apps come one a line; `show` counts and names.
/// To see it fail: count bytes, or leave a key out.
#[test]
fn what_is_recorded_is_shown() {
    let sandbox = Sandbox::new();
    let deploys = init(&sandbox);
    let longest = "d".repeat(255);
    let names = ["immich", "näme mit blank", "immich", "-v1", longest.as_str()];
    for name in names {
        let out = of_r1(&sandbox, &["record-deploy"]).args(["--", name]).output();
        assert_eq!((out.code(), out.text().as_str()), (0, ""), "{name:?}: {}", out.stderr);
    }
    assert_eq!(fs::read_to_string(&deploys).unwrap(), names.map(|name| format!("{name}\n")).concat());
    for app in ["keyc-0b52fe.ci.example.net", "a.b"] {
        let out = of_r1(&sandbox, &["record-app", app]).output();
        assert_eq!((out.code(), out.text().as_str()), (0, ""), "{app}: {}", out.stderr);
    }
    let apps = fs::read_to_string(path(&sandbox, "apps")).unwrap();
    assert_eq!(apps, "keyc-0b52fe.ci.example.net\na.b\n");

    let out = of_r1(&sandbox, &["show", "--json"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
    let paths: Value = KINDS.iter().map(|(kind, _)| ((*kind).to_owned(), json!(path(&sandbox, kind)))).collect();
    assert_eq!(shown, json!({"run_id": "r1", "pid": 4242, "deploys": 5, "paths": paths}));
    let out = of_r1(&sandbox, &["show"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    for word in ["r1", "4242", "5", deploys.to_str().unwrap()] {
        assert!(out.text().contains(word), "no {word} in {}", out.text());
    }
}

/// A name that would be two lines, or none, is no name; a domain is a checked one.
/// To see it fail: write what was given.
#[test]
fn what_is_no_line_is_not_recorded() {
    let sandbox = Sandbox::new();
    let deploys = init(&sandbox);
    for name in ["", "a\nb", "a\n", "a\tb", "\x7f", "\x1b[31m", &"d".repeat(256)] {
        refused(of_r1(&sandbox, &["record-deploy", name]), 2, &format!("{name:?}"));
    }
    refused(of_r1(&sandbox, &["record-deploy"]), 2, "no name");
    for app in ["", "Immi.example", "a..b", "a.b.", "-a.b", "a_b.c", "../x", "a b", "a.b\n"] {
        refused(of_r1(&sandbox, &["record-app", app]), 2, &format!("{app:?}"));
    }
    assert_eq!(fs::read_to_string(&deploys).unwrap(), "");
    assert_eq!(fs::read_to_string(path(&sandbox, "apps")).unwrap(), "");
}

/// Below a guard no option is needed: its variables say whose.
/// To see it fail: take the parent's pid, or the run's id alone, for the key.
#[test]
fn below_a_guard_its_own_run_is_meant() {
    let sandbox = Sandbox::new();
    let kinds = KINDS.map(|(kind, variable)| {
        format!("[ \"$(\"$G\" state path {kind})\" = \"${variable}\" ] || echo wrong {kind}; ")
    });
    let script = format!(
        "{}sh -c '\"$G\" state record-deploy one'; \"$G\" state record-deploy two; \"$G\" state record-app x.y; \
         [ \"$(\"$G\" state env | sort)\" = \"$(\"$G\" state env --run-id r1 --pid $$ | sort)\" ] || echo wrong env; \
         cat \"$CCCI_RUN_APPS_FILE\"; echo pid $$; echo paths $CCCI_DEPLOY_COUNT_FILE; \"$G\" state show --json",
        kinds.concat()
    );
    for form in [sandbox.run(), sandbox.exec()] {
        let out = form.args(["--run-id", "r1"]).sh(&script).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        let text = out.text();
        assert!(!text.contains("wrong"), "{text}; {}", out.stderr);
        let after = |word: &str| text.lines().find_map(|line| line.strip_prefix(word)).unwrap().to_owned();
        assert_eq!(text.lines().next(), Some("x.y"));
        let json = &text[text.find('{').unwrap()..];
        let shown: Value = serde_json::from_str(json).unwrap();
        assert_eq!(shown["run_id"], "r1");
        assert_eq!(shown["pid"].to_string(), after("pid "));
        assert_eq!(shown["deploys"], 2);
        assert_eq!(shown["paths"]["deploys"], after("paths "));
    }
}

/// Whose is needed, and well formed.
/// To see it fail: guess the caller's pid.
#[test]
fn without_a_run_or_with_a_bad_one_it_is_a_usage_error() {
    let sandbox = Sandbox::new();
    let run = ["init", "env", "show", "path deploys", "record-deploy x", "record-app x.y"];
    for command in run {
        let words: Vec<&str> = command.split(' ').collect();
        for whose in ["", "--run-id r1", "--pid 4242", "--run-id r1 --pid 0", "--run-id r1 --pid -5"] {
            let guard = state(&sandbox, &words).args(whose.split_whitespace());
            refused(guard, 2, &format!("{command}, {whose:?}"));
        }
        for id in ["", ".", "..", "a/b", "../x", "/etc", &"i".repeat(65), "a b"] {
            let guard = state(&sandbox, &words).args(["--run-id", id, "--pid", "4242"]);
            refused(guard, 2, &format!("{command}, run id {id:?}"));
        }
        refused(state(&sandbox, &words).args(["--run-id", "r1", "--pid", "12x"]), 2, command);
    }
    refused(of_r1(&sandbox, &["path", "nonsense"]), 2, "a kind that there is not");
    refused(of_r1(&sandbox, &["path"]), 2, "no kind");
    refused(state(&sandbox, &[]), 2, "no command");
    refused(state(&sandbox, &["gc", "--run-id", "r1"]), 2, "gc of half a name");
    assert_eq!(fs::read_dir(sandbox.state_dir()).unwrap().count(), 0, "nothing was made");
    // The same words with a run are understood.
    init(&sandbox);
    for command in run.iter().filter(|command| **command != "init") {
        let out = of_r1(&sandbox, &command.split(' ').collect::<Vec<_>>()).output();
        assert_eq!(out.code(), 0, "{command}: {}", out.stderr);
    }
}

/// 66 where that run has none, also where only the file in question is gone; nothing is made by the way.
/// To see it fail: open with O_CREAT.
#[test]
fn what_is_not_there_is_not_made() {
    let sandbox = Sandbox::new();
    let commands = [&["show"][..], &["show", "--json"], &["record-deploy", "x"], &["record-app", "x.y"]];
    for command in commands {
        refused(of_r1(&sandbox, command), 66, &format!("{command:?}"));
    }
    assert_eq!(fs::read_dir(sandbox.state_dir()).unwrap().count(), 0, "nothing was made");
    let deploys = init(&sandbox);
    fs::remove_file(&deploys).unwrap();
    refused(of_r1(&sandbox, &["record-deploy", "x"]), 66, "the file is gone");
    assert!(!deploys.exists());
    // One of the two, by name; and by the variables, where no run is looked for.
    fs::write(&deploys, "").unwrap();
    let apps = path(&sandbox, "apps");
    fs::remove_file(&apps).unwrap();
    refused(of_r1(&sandbox, &["record-app", "x.y"]), 66, "the apps are gone");
    assert!(!apps.exists());
    let script = "rm \"$CCCI_DEPLOY_COUNT_FILE\"; \"$G\" state record-deploy x; echo $?; \"$G\" state show; echo $?; \
                  [ -e \"$CCCI_DEPLOY_COUNT_FILE\" ] && echo made";
    let out = sandbox.run().sh(script).output();
    assert_eq!(out.text(), "66\n66\n", "{}", out.stderr);
}

/// A symlink where a file should be could reach any file: refused, and its target is as it was.
/// To see it fail: open without O_NOFOLLOW.
#[test]
fn a_symlink_is_not_followed() {
    let sandbox = Sandbox::new();
    let deploys = init(&sandbox);
    let apps = path(&sandbox, "apps");
    let canary = sandbox.path("canary");
    fs::write(&canary, "canary\n").unwrap();
    for file in [&deploys, &apps] {
        fs::remove_file(file).unwrap();
        symlink(&canary, file).unwrap();
    }
    refused(of_r1(&sandbox, &["record-deploy", "x"]), 1, "record-deploy");
    refused(of_r1(&sandbox, &["record-app", "x.y"]), 1, "record-app");
    refused(of_r1(&sandbox, &["show", "--json"]), 1, "show");
    assert_eq!(fs::read_to_string(&canary).unwrap(), "canary\n");

    // A dangling one would be made where it points.
    let nowhere = sandbox.path("nowhere");
    fs::remove_file(&deploys).unwrap();
    symlink(&nowhere, &deploys).unwrap();
    refused(of_r1(&sandbox, &["record-deploy", "x"]), 1, "a dangling one");
    let planted = deploys.with_file_name("4244.deploys");
    symlink(&nowhere, &planted).unwrap();
    let out = state(&sandbox, &["init", "--run-id", "r1", "--pid", "4244"]).output();
    assert!([1, 73].contains(&out.code()), "{}: {}", out.code(), out.stderr);
    assert!(!nowhere.exists(), "made through a symlink");
}

/// Fifty at once: each line whole, none lost.
/// To see it fail: read, add a line, write the whole back; or write where the end was when it was opened.
#[test]
fn appends_at_once_lose_no_line() {
    for round in 0..rounds(10) {
        let sandbox = Sandbox::new();
        let deploys = init(&sandbox);
        let one = of_r1(&sandbox, &["record-deploy"]).line();
        let script = format!("for i in $(seq 50); do {one} deploy-$i-$(printf %0200d $i) & done; wait");
        let mut shell = sandbox.shell(&script);
        assert_eq!(shell.wait(SOON * 3).code, 0, "{}", shell.stderr());
        let text = fs::read_to_string(&deploys).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let mut expected: Vec<String> = (1..=50).map(|i| format!("deploy-{i}-{i:0200}")).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected, "round {round}; {}", shell.stderr());
    }
}

/// A disk that takes nothing more is told, not passed over: by a limit of file sizes, and (as root) by a full one.
/// To see it fail: ignore what write(2) gives.
#[test]
fn a_full_disk_is_an_error() {
    let sandbox = Sandbox::new();
    let deploys = init(&sandbox);
    let line = of_r1(&sandbox, &["record-deploy", "one"]).line();
    let mut shell = sandbox.shell(&format!("trap '' XFSZ; ulimit -f 0; exec {line}"));
    assert_eq!(shell.code(), 1, "{}", shell.stderr());
    assert!(shell.stderr().contains(deploys.to_str().unwrap()), "names the file: {}", shell.stderr());
    assert_eq!(fs::read(&deploys).unwrap(), b"");

    if !need("root, to mount a small disk", nix::unistd::geteuid().is_root()) {
        return;
    }
    let small = sandbox.path("small");
    fs::create_dir(&small).unwrap();
    let on_it = |words: &[&str]| of_r1(&sandbox, words).arg("--state-dir").arg(&small).line();
    let script = format!(
        "mount -t tmpfs -o size=4k none '{0}' && {1} >/dev/null && head -c 4096 /dev/zero >'{0}'/full; \
         {2}; echo status $?; {3}",
        small.display(),
        on_it(&["init"]),
        on_it(&["record-deploy", "one"]),
        on_it(&["show", "--json"]),
    );
    let mut shell = {
        let mut command = sandbox.command("unshare");
        command.args(["-m", "sh", "-c", &script]);
        sandbox.spawn(command)
    };
    assert_eq!(shell.code(), 0, "{}", shell.stderr());
    assert_eq!(shell.line(), "status 1", "{}", shell.stderr());
    let text = shell.stdout();
    let shown: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    assert_eq!(shown["deploys"], 0);
}

/// The places are those of a run: the run's directory, else a private one; `path` and `show` find them there.
/// To see it fail: look into the first place only.
#[test]
fn the_places_are_those_of_a_run() {
    let sandbox = Sandbox::new();
    let in_runs = |words: &[&str]| of_r1(&sandbox, words).env_remove("CCCI_STATE_DIR");
    let out = in_runs(&["init"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let file = PathBuf::from(in_runs(&["path", "deploys"]).output().text().trim());
    assert!(file.starts_with(sandbox.runs_dir().join("r1")) && file.is_file(), "{file:?}");
    assert_eq!(mode(&sandbox.runs_dir().join("r1")), 0o755, "the run's directory is the harness's");
    assert_eq!((mode(file.parent().unwrap()), mode(&file)), (0o700, 0o600));

    let runtime = sandbox.path("runtime");
    fs::create_dir(&runtime).unwrap();
    let private = |words: &[&str]| {
        let runtime = runtime.clone();
        in_runs(words).env("CCCI_RUNS_DIR", "/proc/no-such-place").env("XDG_RUNTIME_DIR", runtime)
    };
    let out = private(&["init"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let out = private(&["record-deploy", "one"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let out = private(&["show", "--json"]).output();
    let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
    let file = PathBuf::from(shown["paths"]["deploys"].as_str().unwrap());
    assert!(file.starts_with(&runtime), "{file:?}");
    assert_eq!((shown["deploys"].as_u64(), mode(&file), mode(file.parent().unwrap())), (Some(1), 0o600, 0o700));
}
