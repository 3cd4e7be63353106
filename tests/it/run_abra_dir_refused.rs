//! Where `run --abra-dir auto` can't have a directory of its own, the run is refused: one sentence, nothing started,
//! nothing left, and what is there already stays as it is.

use crate::run_abra_dir::{Untouched, abra_of, auto, end, run_ids, start};
use crate::support::{Canonical, Guard, Sandbox, need};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

/// Refused at the start: 125, a sentence with `words`, no harness; no lock held, nothing else left than before.
#[track_caller]
fn refused(sandbox: &Sandbox, guard: Guard<'_>, words: &str) {
    let before = Untouched::see(sandbox);
    let out = guard.app().args(["--teardown", "none"]).sh("echo started").output();
    assert_eq!((out.code(), out.text().as_str()), (125, ""), "{}", out.stderr);
    let errors: Vec<_> = out.stderr.lines().filter(|line| line.starts_with("ccci-guard: error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", out.stderr);
    assert!(errors[0].contains(words), "no {words:?} in {:?}", errors[0]);
    before.expect(sandbox);
    assert!(sandbox.lock_is_free());
}

/// An explicit id that a live run has: refused, and that run goes on as if nothing had been.
/// To see it fail: share the id, ask the state's directory only, or replace what is there.
#[test]
fn an_explicit_id_of_a_live_run_is_refused() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let (run, abra) = start(auto(&sandbox).args(["--run-id", "7"]));
    fs::create_dir(abra.join("recipes/mine")).unwrap();
    refused(&sandbox, auto(&sandbox).args(["--run-id", "7"]), "7");
    refused(&sandbox, auto(&sandbox).env("CCCI_RUN_ID", "7"), "7");
    // Its state is somewhere else: the ABRA_DIR itself says whose it is.
    let elsewhere = sandbox.path("elsewhere");
    refused(&sandbox, auto(&sandbox).args(["--run-id", "7"]).arg("--state-dir").arg(&elsewhere), "7");
    assert!(!elsewhere.join("7").exists());
    assert!(abra.join("recipes/mine").is_dir());
    end(run);
    // A live run without an ABRA_DIR of its own has the id all the same.
    let guard = sandbox.run().args(["--run-id", "8"]).sh("echo ready; read x; exit 0").stdin(Stdio::piped());
    let run = guard.spawn();
    run.ready();
    refused(&sandbox, auto(&sandbox).args(["--run-id", "8"]), "8");
    end(run);
    assert_eq!(run_ids(&sandbox), Vec::<String>::new());
    // And free it is again.
    end(start(auto(&sandbox).args(["--run-id", "7"])).0);
}

/// An `abra` without our mark is somebody's results, one of `abra-dir create` is its maker's: refused, untouched.
/// To see it fail: replace what nobody holds.
#[test]
fn an_explicit_id_with_a_foreign_abra_is_refused() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let unmarked = abra_of(&sandbox, "7");
    fs::create_dir_all(&unmarked).unwrap();
    refused(&sandbox, auto(&sandbox).args(["--run-id", "7"]), unmarked.to_str().unwrap());
    fs::write(unmarked.join("theirs"), "").unwrap();
    refused(&sandbox, auto(&sandbox).args(["--run-id", "7"]), unmarked.to_str().unwrap());
    let file = abra_of(&sandbox, "8");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "").unwrap();
    refused(&sandbox, auto(&sandbox).args(["--run-id", "8"]), file.to_str().unwrap());
    let link = abra_of(&sandbox, "9");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(sandbox.path("work"), &link).unwrap();
    refused(&sandbox, auto(&sandbox).args(["--run-id", "9"]), link.to_str().unwrap());
    let out = sandbox.plain().args(["abra-dir", "create", "--run-id", "10"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    refused(&sandbox, auto(&sandbox).args(["--run-id", "10"]), abra_of(&sandbox, "10").to_str().unwrap());
}

/// Without a canonical ABRA_DIR, or with one that has no servers, there is nothing to build from.
/// To see it fail: link to what is not there.
#[test]
fn without_a_canonical_one_the_run_is_refused() {
    let sandbox = Sandbox::new();
    let empty = sandbox.path("empty");
    fs::create_dir(&empty).unwrap();
    for (name, dir) in [("missing", sandbox.path("missing")), ("empty", empty)] {
        let flag = auto(&sandbox).args(["--run-id", "7"]).arg("--canonical-abra-dir").arg(&dir);
        refused(&sandbox, flag, name);
        let variable = auto(&sandbox).env("CCCI_CANONICAL_ABRA_DIR", &dir);
        refused(&sandbox, variable, name);
    }
    assert_eq!(run_ids(&sandbox), Vec::<String>::new());
}

/// The runs directory is made where its last component is missing; where it can't be used the run is refused.
/// To see it fail: make it with all its parents, or run on without an ABRA_DIR.
#[test]
fn the_runs_directory_is_made_or_it_is_an_error() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let runs = sandbox.path("new-runs");
    let script = "echo $ABRA_DIR; [ -d \"$ABRA_DIR/recipes\" ]";
    let line = auto(&sandbox).args(["--run-id", "7"]).arg("--runs-dir").arg(&runs).sh(script).line();
    let mut run = sandbox.shell(&format!("umask 000; {line}"));
    run.expect_code(0);
    assert_eq!(run.line(), runs.join("7/abra").display().to_string());
    assert_eq!(fs::metadata(&runs).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(&runs).unwrap().count(), 0);

    let deep = sandbox.path("not/there");
    refused(&sandbox, auto(&sandbox).arg("--runs-dir").arg(&deep), deep.to_str().unwrap());
    assert!(!sandbox.path("not").exists());
    let file = sandbox.path("a-file");
    fs::write(&file, "").unwrap();
    refused(&sandbox, auto(&sandbox).arg("--runs-dir").arg(&file), file.to_str().unwrap());
    refused(&sandbox, auto(&sandbox).args(["--runs-dir", "/proc"]), "/proc");
}

/// Nobody would remove what `exec` builds: the flag is refused, the variable is for others.
/// To see it fail: read the variable in both forms.
#[test]
fn exec_builds_none() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let out = sandbox.exec().args(["--abra-dir", "auto"]).harness(["echo", "started"]).output();
    assert_eq!((out.code(), out.text().as_str()), (125, ""), "{}", out.stderr);
    assert!(out.stderr.contains("--abra-dir"), "{}", out.stderr);
    let guard = sandbox.exec().env("CCCI_ABRA_DIR", "auto").env("ABRA_DIR", "/the/callers");
    let out = guard.sh("echo ${ABRA_DIR-unset}").output();
    assert_eq!((out.code(), out.text().as_str()), (0, "/the/callers\n"), "{}", out.stderr);
    let out = sandbox.exec().env("CCCI_ABRA_DIR", "auto").sh("echo ${ABRA_DIR-unset}").output();
    assert_eq!((out.code(), out.text().as_str()), (0, "unset\n"), "{}", out.stderr);
    assert_eq!(run_ids(&sandbox), Vec::<String>::new());
}

/// A plain user whose runs directory is somebody else's: told, with the variable or flag that helps.
/// To see it fail: go on without an ABRA_DIR, or panic.
#[test]
fn a_runs_directory_that_is_not_ours_is_an_error() {
    if !need("root, to become somebody else", nix::unistd::geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = sandbox.path("ccci-guard");
    crate::support::copy_program(crate::support::GUARD, &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = 65534;
    for dir in [sandbox.lock_dir(), sandbox.state_dir()] {
        std::os::unix::fs::chown(&dir, Some(nobody), Some(nobody)).unwrap();
    }
    let run = || auto(&sandbox).program(&program).user(nobody, nobody).args(["--run-id", "7"]);
    refused(&sandbox, run(), sandbox.runs_dir().to_str().unwrap());
    // With one of its own it runs: the canonical one is only read.
    std::os::unix::fs::chown(sandbox.runs_dir(), Some(nobody), Some(nobody)).unwrap();
    let out = run().sh("ls \"$ABRA_DIR/servers\"; touch \"$ABRA_DIR/recipes/x\"").output();
    assert_eq!((out.code(), out.text().as_str()), (0, "ci.example.net\n"), "{}", out.stderr);
    assert_eq!(run_ids(&sandbox), Vec::<String>::new());
    assert!(canonical.servers().is_dir());
}

/// A start that fails half way, here for want of descriptors, takes everything away again; but for what it has no
/// descriptor left to remove, which is a dead run's then, and gc's.
/// To see it fail: let gc look at whole ones only, or leave the state's directory where the build fails.
#[test]
fn for_want_of_descriptors_nothing_is_left_for_long() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    for limit in 3..=32 {
        let line = auto(&sandbox).args(["--run-id", "7"]).app().args(["--teardown", "none"]).sh("exit 7").line();
        let mut shell = sandbox.shell(&format!("ulimit -n {limit}; exec {line}"));
        let code = shell.code();
        assert!([7, 125, 127].contains(&code), "{limit} descriptors: {code}; {}", shell.stderr());
        if code == 125 && shell.stderr().contains("Too many open files") {
            let whole = abra_of(&sandbox, "7").exists();
            assert!(!whole || shell.stderr().contains("abra-dir gc"), "{limit} descriptors: {}", shell.stderr());
            let gc = sandbox.plain().args(["abra-dir", "gc"]).output();
            assert_eq!(gc.code(), 0, "{}", gc.stderr);
            // Not when something is in it.
            let _ = fs::remove_dir(sandbox.runs_dir().join("7"));
        }
        assert_eq!(run_ids(&sandbox), Vec::<String>::new(), "{limit} descriptors: {code}; {}", shell.stderr());
        assert_eq!(fs::read_dir(sandbox.state_dir()).unwrap().count(), 0, "{limit} descriptors: {code}");
        assert!(sandbox.lock_is_free());
    }
}

/// The same on a disk that takes only so many things: the run is refused, or it runs and is removed.
/// To see it fail: leave a build that failed where it is.
#[test]
fn on_a_full_disk_nothing_is_left() {
    if !need("root, to mount a small disk", nix::unistd::geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let runs = sandbox.runs_dir();
    let line = auto(&sandbox).args(["--run-id", "7"]).sh("exit 7").line();
    let mut codes = Vec::new();
    for inodes in 1..=12 {
        let script = format!(
            "mount -t tmpfs -o nr_inodes={inodes} none '{0}' && {line}; echo status $?; ls -A '{0}'",
            runs.display()
        );
        let mut command = sandbox.command("unshare");
        command.args(["-m", "sh", "-c", &script]);
        let mut shell = sandbox.spawn(command);
        assert_eq!(shell.code(), 0, "{}", shell.stderr());
        let said = shell.stdout();
        let (first, rest) = said.split_once('\n').unwrap();
        assert_eq!(rest, "", "{inodes} inodes, {first}; {}", shell.stderr());
        codes.push(first.strip_prefix("status ").unwrap().parse::<i32>().unwrap());
    }
    assert!(codes.iter().all(|code| [7, 125].contains(code)), "{codes:?}");
    assert_eq!((codes.first(), codes.last()), (Some(&125), Some(&7)), "{codes:?}");
}
