//! The status tells the truth: the harness's own passes through, each cause has its number, the first cause wins.

use crate::lock_holder::Holder;
use crate::support::{APP, SOON, Sandbox, within};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An executable file (or, with another mode, one that is not).
fn program(sandbox: &Sandbox, name: &str, content: &[u8], mode: u32) -> PathBuf {
    let path = sandbox.path("work").join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn both(check: impl Fn(&Sandbox, &str)) {
    for form in ["run", "exec"] {
        check(&Sandbox::new(), form);
    }
}

/// Runs `command` in the given form, with a lock and nothing to tear down.
#[track_caller]
fn ends(sandbox: &Sandbox, form: &str, command: &[&str]) -> (i32, String) {
    let guard = if form == "exec" { sandbox.exec() } else { sandbox.run().args(["--teardown", "none"]) };
    let out = guard.app().harness(command).output();
    (out.code(), out.stderr)
}

/// Seen failing with 78 taken for an error of our own.
#[test]
fn the_harness_s_own_status_passes() {
    both(|sandbox, form| {
        for status in [0, 1, 2, 7, 70, 75, 78, 125, 126, 127, 128, 137, 142, 143, 255] {
            let (code, stderr) = ends(sandbox, form, &["/bin/sh", "-c", &format!("exit {status}")]);
            assert_eq!(code, status, "{form}; {stderr}");
            assert_eq!(stderr, "", "{form}: silent unless something happens");
        }
    });
}

/// Seen failing with the bare signal number instead of 128+n.
#[test]
fn a_signal_of_its_own_is_128_and_its_number() {
    both(|sandbox, form| {
        for (name, code) in [("SEGV", 139), ("KILL", 137), ("TERM", 143), ("PIPE", 141), ("USR1", 138)] {
            let script = format!("ulimit -c 0; kill -s {name} $$; sleep 60");
            let (seen, stderr) = ends(sandbox, form, &["/bin/sh", "-c", &script]);
            assert_eq!(seen, code, "{form} {name}; {stderr}");
        }
    });
}

/// Seen failing with CannotExecute mapped to 127.
#[test]
fn a_command_that_can_t_be_run() {
    both(|sandbox, form| {
        let text = program(sandbox, "text", b"#!/bin/sh\nexit 0\n", 0o644);
        let windows = program(sandbox, "windows", b"#!/bin/sh\r\nexit 0\r\n", 0o755);
        let nowhere = program(sandbox, "nowhere", b"#!/no/such/interpreter -x\nexit 0\n", 0o755);
        let dangling = sandbox.path("work/dangling");
        std::os::unix::fs::symlink("/no/such/file", &dangling).unwrap();
        let directory = sandbox.path("work");
        let cases: [(&Path, i32, &str); 8] = [
            (Path::new("no-such-command-anywhere"), 127, "no-such-command-anywhere"),
            (Path::new("./missing"), 127, "./missing"),
            (Path::new(""), 127, "cannot run"),
            (&dangling, 127, "dangling"),
            (&text, 126, "text"),
            (&directory, 126, "directory"),
            (&windows, 127, r"/bin/sh\r"),
            (&nowhere, 127, "/no/such/interpreter"),
        ];
        for (command, code, words) in cases {
            let (seen, stderr) = ends(sandbox, form, &[command.to_str().unwrap()]);
            assert_eq!(seen, code, "{form} {command:?}; {stderr}");
            assert!(stderr.contains(words), "{form} {command:?}: {words:?} not in {stderr:?}");
            assert!(stderr.starts_with("ccci-guard: error: "), "{form} {command:?}: {stderr:?}");
        }
        sandbox.expect_nothing_left();
    });
}

/// As execvp(3) has it: a file without a `#!` line is a script for /bin/sh.
/// Seen failing with plain execve(2).
#[test]
fn a_script_without_a_first_line_runs() {
    both(|sandbox, form| {
        let script = program(sandbox, "bare-script", b"test \"$1\" = 'a b' && exit 9\n", 0o755);
        let (code, stderr) = ends(sandbox, form, &[script.to_str().unwrap(), "a b"]);
        assert_eq!(code, 9, "{form}; {stderr}");
    });
}

/// The search goes on behind a file of that name that can't be executed, and over directories.
/// Seen failing with CannotExecute mapped to 127, and with the search ended at the first name that exists.
#[test]
fn a_command_is_looked_for_in_the_caller_s_path() {
    both(|sandbox, form| {
        for (dir, mode) in [("first", 0o644), ("third", 0o755)] {
            fs::create_dir(sandbox.path(dir)).unwrap();
            let path = sandbox.path(dir).join("the-command");
            fs::write(&path, "#!/bin/sh\nexit 5\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(sandbox.path("second/the-command")).unwrap();
        let path = ["first", "second", "third"].map(|dir| sandbox.path(dir).to_str().unwrap().to_owned()).join(":");
        let guard = if form == "exec" { sandbox.exec() } else { sandbox.run() };
        let out = guard.env("PATH", format!("{path}:/usr/bin:/bin")).harness(["the-command"]).output();
        assert_eq!(out.code(), 5, "{form}; {}", out.stderr);

        let guard = if form == "exec" { sandbox.exec() } else { sandbox.run() };
        let out = guard.env("PATH", sandbox.path("first")).harness(["the-command"]).output();
        assert_eq!(out.code(), 126, "{form}: found, not executable; {}", out.stderr);
    });
}

/// A command that isn't there must not cost hours of queue.
/// Fails with the command looked up by the harness's process only.
#[test]
fn a_missing_command_does_not_wait_for_the_lock() {
    both(|sandbox, form| {
        let _held = Holder::take(sandbox, &sandbox.lock_path(APP));
        let (code, stderr) = ends(sandbox, form, &["no-such-command-anywhere"]);
        assert_eq!(code, 127, "{form}; {stderr}");
        assert!(!stderr.contains("waiting"), "{form}: {stderr}");
    });
    both(|sandbox, form| {
        let (code, stderr) = ends(sandbox, form, &["no-such-command-anywhere"]);
        assert_eq!(code, 127, "{form}; {stderr}");
        assert!(!sandbox.lock_path(APP).exists(), "{form}: no lock file for a run that could not be");
    });
}

/// A program whose ELF interpreter is missing, as a glibc program is on a musl host: found, executable, and only
/// the exec itself tells that it can't be run.
fn without_its_loader(sandbox: &Sandbox) -> PathBuf {
    let mut bytes = fs::read("/bin/true").unwrap();
    let loader = b"/ld-linux";
    let at = bytes.windows(loader.len()).position(|part| part == loader).expect("a dynamic /bin/true of glibc");
    bytes[at + 1] = b'x';
    program(sandbox, "no-loader", &bytes, 0o755)
}

/// Nothing has been started, so nothing is torn down, with `always` either.
/// Fails with the failed exec taken for an exit of the harness.
#[test]
fn nothing_is_torn_down_for_a_command_that_never_ran() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let command = without_its_loader(&sandbox);
    let guard = sandbox.run().app().teardown(teardown.command()).args(["--teardown-on", "always"]).report();
    let out = guard.harness([&command]).output();
    assert_eq!(out.code(), 127, "{}", out.stderr);
    teardown.expect_none();
    assert!(sandbox.lock_is_free());
    sandbox.expect_nothing_left();
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(sandbox.path("report.json")).unwrap()).unwrap();
    assert_eq!((&report["cause"], &report["harness"]["status"]), (&"guard-error".into(), &serde_json::Value::Null));
}

/// "No such file" about a file that is there sends people looking in the wrong place.
/// Fails with the words of ENOENT.
#[test]
fn a_missing_loader_is_named() {
    both(|sandbox, form| {
        let command = without_its_loader(sandbox);
        let (code, stderr) = ends(sandbox, form, &[command.to_str().unwrap()]);
        assert_eq!(code, 127, "{form}; {stderr}");
        assert!(stderr.contains("/xd-linux"), "{form}: the interpreter is not named: {stderr}");
    });
}

/// Seen failing with every signal mapped to 143.
#[test]
fn each_request_to_stop_has_its_status() {
    let requests = [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129), (Signal::SIGQUIT, 131)];
    for (signal, code) in requests {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.run().app().teardown(teardown.command());
        let mut guard = guard.sh("trap 'exit 0' TERM INT HUP QUIT; echo ready; while :; do sleep 0.05; done").spawn();
        guard.ready();
        guard.signal(signal);
        guard.expect_code(code);
        teardown.expect_one();
        assert!(sandbox.lock_is_free());
        sandbox.expect_nothing_left();
    }
}

/// Exit 0 from the TERM handler does not make a cancelled run a good one.
/// Seen failing with the harness's own end taken as the cause whatever came before.
#[test]
fn a_harness_that_exits_0_when_asked_to_stop_gives_143() {
    let sandbox = Sandbox::new();
    let mut guard = sandbox.run().sh("trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done").spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
}

/// It had to be killed, but the deadline came first.
/// Seen failing with the harness's own end taken as the cause whatever came before.
#[test]
fn a_harness_that_ignores_the_deadline_gives_142() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.run().app().teardown(teardown.command()).deadline("1s").grace("500ms");
    let out = guard.sh("trap '' TERM; while :; do sleep 0.05; done").output();
    assert_eq!(out.code(), 142, "{}", out.stderr);
    within("deadline and grace", out.exit.after, Duration::from_millis(1450)..SOON);
    teardown.expect_one();
    sandbox.expect_nothing_left();
}

/// The pipe's reader is gone before the first word: no SIGPIPE, no panic, and the teardown runs.
/// Seen failing with the log written by a write that panics.
#[test]
fn a_reader_that_is_gone_changes_nothing() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().deadline("1s").teardown(teardown.command()).harness(["sleep", "9"]);
    let mut command = sandbox.command("bash");
    command.arg("-c").arg(format!("({}) 2>&1 | true; echo \"status ${{PIPESTATUS[0]}}\"", guard.line()));
    let mut shell = sandbox.spawn(command);
    assert_eq!(shell.expect_line("status"), "142");
    shell.expect_code(0);
    teardown.expect_one();
    assert!(sandbox.lock_is_free());
    sandbox.expect_nothing_left();
}

/// A wrap of `setsid … & trap … wait` had turned a green build red.
/// Fails with the guard's CONT to its caller's group.
#[test]
fn a_shell_around_it_sees_the_same_status() {
    let sandbox = Sandbox::new();
    let line = |command: &[&str]| sandbox.bare().harness(command).line();
    let (good, seven) = (line(&["true"]), line(&["sh", "-c", "exit 7"]));
    let mut shell = sandbox.shell(&format!(
        "trap 'echo trap $?' EXIT\nset -e\n{good}\necho good $?\n{seven} || echo seven $?\n{seven}\necho not reached"
    ));
    shell.expect_code(7);
    assert_eq!(shell.stdout(), "good 0\nseven 7\ntrap 7\n");
}

/// Only the harness's 0 is changed by a teardown that went wrong.
/// Seen failing with 70 for every failed teardown.
#[test]
fn a_failed_teardown_turns_0_into_70_and_nothing_else() {
    for (harness, code) in [(0, 70), (7, 7), (78, 78)] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.run().app().teardown(teardown.command_with("--exit 3"));
        let out = guard.args(["--teardown-on", "always"]).sh(&format!("exit {harness}")).output();
        assert_eq!(out.code(), code, "{}", out.stderr);
        teardown.expect_one();
    }
}

/// `failure`: a harness that exits non-zero; `always`: whatever it does; `stop`: only after a stop.
/// Seen failing with `failure` due at every exit.
#[test]
fn teardown_on_decides_which_ends_are_followed_by_one() {
    for (when, harness, due) in [
        ("stop", "exit 0", false),
        ("stop", "exit 7", false),
        ("failure", "exit 0", false),
        ("failure", "exit 7", true),
        ("always", "exit 0", true),
        ("always", "exit 7", true),
        // It got that signal from somebody else: it can't have torn down itself.
        ("stop", "kill -KILL $$", true),
    ] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        sandbox.run().app().teardown(teardown.command()).args(["--teardown-on", when]).sh(harness).output();
        assert_eq!(teardown.check_one().is_ok(), due, "{when}, {harness}: {:?}", teardown.lines());
        if !due {
            teardown.expect_none();
        }
    }
}
