//! The teardown command: when it runs, where, how often, for how long, and what its end is worth.

use crate::support::*;
use nix::sys::signal::{Signal, kill};
use std::time::Duration;

/// A run with a teardown, brought to its stop by TERM.
fn stopped_run(sandbox: &Sandbox, teardown: &str, options: &[&str]) -> Proc {
    let guard = sandbox.bare().app().teardown(teardown).args(options).report();
    let guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    guard
}

/// A teardown that hangs is killed at its limit, with all it started: `timeout`, and the lock is free.
///
/// Fails when the limit is only for the first process of the step, or TERM is all it gets.
#[test]
fn a_teardown_that_hangs_is_killed_at_its_limit() {
    for options in ["--hang", "--hang --ignore-term --leave"] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let limit = ["--teardown-timeout", "1s"];
        let mut guard = stopped_run(&sandbox, &teardown.command_with(options), &limit);
        let exit = guard.expect_code(143);
        within("the end", exit.after, Duration::from_secs(1)..Duration::from_secs(12));
        let report = sandbox.report();
        assert_eq!(report["teardown"]["result"], "timeout", "{report}");
        assert_eq!(report["teardown"]["ran"], true);
        assert_eq!((teardown.count("start"), teardown.count("end")), (1, 0), "{:?}", teardown.lines());
        sandbox.expect_nothing_left();
    }
}

/// A teardown exits 3 while 200 adopted children die: the guard reports 3 (containerd/containerd#2855).
///
/// Fails when a loop that reaps everything swallows the command's status, or takes an orphan's for it.
#[test]
fn the_teardowns_status_is_not_lost_among_adopted_children() {
    for round in 0..rounds(50) {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let mut guard = stopped_run(&sandbox, &teardown.command_with("--children 200 --exit 3"), &[]);
        guard.expect_code(143);
        teardown.expect_one();
        let report = sandbox.report();
        assert_eq!(report["teardown"]["status"], 3, "round {round}: {report}");
        assert_eq!(report["teardown"]["result"], "failed", "round {round}: {report}");
        sandbox.expect_nothing_left();
    }
}

/// A teardown whose command is killed from outside is run once more; when that one too is killed, it has failed.
///
/// Fails when it is repeated for ever, or not at all.
#[test]
fn a_teardown_killed_from_outside_is_run_once_more() {
    for kills in [1, 2] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let mut guard = stopped_run(&sandbox, &teardown.command_with("--sleep 1000"), &[]);
        for n in 0..kills {
            kill(teardown.expect_start(n), Signal::SIGKILL).unwrap();
        }
        guard.expect_code(143);
        assert_eq!(teardown.count("start"), 2, "{:?}", teardown.lines());
        let result = sandbox.report()["teardown"]["result"].clone();
        if kills == 1 {
            teardown.expect_one();
            assert_eq!(result, "ok");
        } else {
            assert_eq!((teardown.count("end"), result), (0, "failed".into()));
        }
        sandbox.expect_nothing_left();
    }
}

/// A shell stands between: it reports its killed child as 137, which counts as killed too.
///
/// Fails when only a wait status with a signal counts.
#[test]
fn a_teardown_killed_behind_a_shell_is_run_once_more() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let command = teardown.command_with("--sleep 800").replacen("exec ", "", 1) + "; exit $?";
    let mut guard = stopped_run(&sandbox, &command, &[]);
    kill(teardown.expect_start(0), Signal::SIGKILL).unwrap();
    guard.expect_code(143);
    assert_eq!(teardown.count("start"), 2, "{:?}", teardown.lines());
    teardown.expect_one();
    assert_eq!(sandbox.report()["teardown"]["result"], "ok");
}

/// A teardown that fails by itself is not repeated.
///
/// Fails when every failure is.
#[test]
fn a_teardown_that_fails_is_not_repeated() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let mut guard = stopped_run(&sandbox, &teardown.command_with("--exit 1"), &[]);
    guard.expect_code(143);
    assert_eq!(teardown.count("start"), 1, "{:?}", teardown.lines());
    assert_eq!(sandbox.report()["teardown"]["result"], "failed");
}

/// `--teardown-on`: `always` also after 0, `failure` after anything else, `stop` (the default) after neither;
/// a teardown that was due and failed turns 0 into 70, and leaves every other code.
///
/// Fails when the option widens too much, or a failure is not told.
#[test]
fn teardown_on_decides_which_exits_are_torn_down() {
    let table = [
        ("stop", "0", "", 0, 0),
        ("stop", "7", "", 7, 0),
        ("failure", "0", "", 0, 0),
        ("failure", "7", "", 7, 1),
        ("always", "0", "", 0, 1),
        ("always", "7", "", 7, 1),
        ("always", "0", "--exit 3", 70, 1),
        ("failure", "7", "--exit 3", 7, 1),
    ];
    for (on, status, options, code, count) in table {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.bare().app().teardown(teardown.command_with(options));
        let guard = guard.args(["--teardown-on", on]).report().sh(&format!("exit {status}"));
        guard.spawn().expect_code(code);
        assert_eq!(teardown.count("end"), count, "{on} {status} {options}");
        let report = sandbox.report();
        assert_eq!(report["teardown"]["ran"], count == 1, "{on} {status}: {report}");
        if count == 1 {
            assert_eq!(teardown.value("start", 0, "cause"), "harness-exit");
            assert_eq!(teardown.value("start", 0, "status"), status);
        }
    }
}

/// Where it runs: in `/`, with nothing on stdin, a session of its own, the lock's descriptor, the words of the run.
///
/// Fails when it inherits the harness's place, which a runner may have removed.
#[test]
fn the_teardown_has_a_place_of_its_own() {
    let sandbox = Sandbox::new();
    let script = format!(
        "{{ pwd; readlink /proc/self/fd/0; readlink /proc/self/fd/$CCCI_APP_LOCK_FD; \
         echo $CCCI_TEARDOWN_APP $CCCI_TEARDOWN_STACK $CCCI_TEARDOWN_CAUSE $CCCI_HARNESS_STATUS; \
         cut -d' ' -f6 /proc/$$/stat; echo $$; }} > '{}'",
        sandbox.path("seen").display()
    );
    let mut guard = stopped_run(&sandbox, &script, &[]);
    let monitors_session = process(guard.pid()).map(|p| p.session.to_string());
    guard.expect_code(143);
    let seen = std::fs::read_to_string(sandbox.path("seen")).unwrap();
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[..2], ["/", "/dev/null"]);
    assert_eq!(lines[2], sandbox.lock_path(APP).to_str().unwrap());
    assert_eq!(lines[3], format!("{APP} immi-ad3e33_ci_example_net signal 0"));
    assert_ne!(Some(lines[4].to_owned()), monitors_session, "its session");
}

/// Its output reaches our stderr, marked, and all of it the log file, also when it is much.
///
/// Fails when nobody reads the pipe (then it hangs at 64 KiB), or the lines go to stdout. (Stderr is best
/// effort: a reader that is slower than the command misses lines, and must not slow it down.)
#[test]
fn the_teardowns_output_is_told_on_stderr_and_in_the_log() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("guard.log");
    let script = "echo first; echo on stderr >&2; i=0; while [ $i -lt 3000 ]; do \
        echo 0123456789012345678901234567890123456789; i=$((i+1)); done; echo last";
    let mut guard = stopped_run(&sandbox, script, &["--log-file", log.to_str().unwrap()]);
    guard.expect_code(143);
    guard.expect_eof(Duration::from_secs(5));
    let stderr = guard.stderr();
    for words in ["first", "on stderr"] {
        let line = format!("ccci-guard: teardown: {words}");
        assert!(stderr.lines().any(|l| l == line), "{line:?} in {}", &stderr[..stderr.len().min(600)]);
    }
    let logged = std::fs::read_to_string(log).unwrap();
    assert_eq!(logged.matches("0123456789012345678901234567890123456789").count(), 3000);
    assert!(logged.contains("teardown: last"), "the last line is missing");
    assert_eq!(guard.stdout().lines().filter(|l| l.starts_with("TERM")).count(), 1);
    assert!(!guard.stdout().contains("first"), "stdout carries data only");
}

/// A child that the teardown leaves with its output open does not keep the guard waiting.
///
/// Fails when the worker reads to the end of file instead of to the end of the command.
#[test]
fn a_child_that_keeps_the_teardowns_output_open_is_not_waited_for() {
    let sandbox = Sandbox::new();
    let mut guard = stopped_run(&sandbox, "setsid sleep 60 & echo done", &[]);
    let exit = guard.expect_code(143);
    within("the end", exit.after, ..Duration::from_secs(10));
    sandbox.expect_nothing_left();
}

/// The command was never there: a failed teardown, told as such, and no hang.
///
/// Fails when a 127 of the shell counts as done.
#[test]
fn a_teardown_command_that_is_missing_has_failed() {
    let sandbox = Sandbox::new();
    let guard = sandbox.bare().app().teardown("/nonexistent/teardown").args(["--teardown-on", "always"]);
    guard.report().sh("exit 0").spawn().expect_code(70);
    let report = sandbox.report();
    assert_eq!(report["teardown"]["status"], 127, "{report}");
    assert_eq!(report["teardown"]["result"], "failed");
    sandbox.expect_nothing_left();
}

/// A harness that never started is not torn down: 127, and nothing to clean.
///
/// Fails when the teardown is bound to the guard's end instead of the harness's start.
#[test]
fn a_harness_that_never_started_is_not_torn_down() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).args(["--teardown-on", "always"]);
    guard.harness(["/nonexistent/harness"]).spawn().expect_code(127);
    teardown.expect_none();
    sandbox.expect_nothing_left();
}
