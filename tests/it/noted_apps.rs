//! Apps that the harness noted in CCCI_RUN_APPS_FILE: its dependencies, torn down after a stop, each under its lock.

use crate::support::*;
use nix::sys::signal::Signal;

const FIRST: &str = "keyc-0a1b2c.ci.example.net";
const SECOND: &str = "mail-3d4e5f.ci.example.net";

/// A harness that notes `lines`, then waits.
fn noting(lines: &str) -> String {
    format!("printf '{lines}' >> \"$CCCI_RUN_APPS_FILE\"; exec \"$F\" print-signals TERM=0")
}

fn stop(guard: Guard<'_>, lines: &str) -> Proc {
    let mut guard = guard.report().sh(&noting(lines)).spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    guard
}

/// The apps of the `end` lines, in order; every line must say that the app's own lock was held.
fn torn_down(teardown: &Teardown) -> Vec<String> {
    let lines = teardown.lines();
    assert_eq!(teardown.count("overlap"), 0, "{lines:?}");
    assert!(lines.iter().all(|l| l.contains("lock=held")), "{lines:#?}");
    (0..teardown.count("end")).map(|n| teardown.value("end", n, "app")).collect()
}

fn result_of<'a>(report: &'a serde_json::Value, app: &str) -> &'a serde_json::Value {
    let apps = report["teardown"]["apps"].as_array().unwrap();
    let entry = apps.iter().find(|a| a["app"] == app);
    &entry.unwrap_or_else(|| panic!("no {app} in {report}"))["result"]
}

/// Dependencies are torn down after the app, each under its own lock, which is free afterwards.
///
/// Fails when the file is not read, or a noted app is touched without its lock.
#[test]
fn noted_dependencies_are_torn_down_under_their_locks() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command_by_app(""));
    stop(guard, &format!("{FIRST}\\n{SECOND}\\n"));
    assert_eq!(torn_down(&teardown), [APP, FIRST, SECOND]);
    let report = sandbox.report();
    assert_eq!(report["teardown"]["result"], "ok", "{report}");
    for app in [APP, FIRST, SECOND] {
        assert_eq!(result_of(&report, app), "ok");
        assert!(lock_is_free(&sandbox.lock_path(app)), "{app}");
    }
    sandbox.expect_nothing_left();
}

/// One that another run holds is left alone and reported; the others are torn down.
///
/// Fails when its lock is waited for, or ignored.
#[test]
fn a_noted_app_that_another_run_holds_is_left_alone() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let _other = FileLock::take(&sandbox.lock_path(FIRST));
    let guard = sandbox.bare().app().teardown(teardown.command_by_app(""));
    let guard = stop(guard, &format!("{FIRST}\\n{SECOND}\\n"));
    assert_eq!(torn_down(&teardown), [APP, SECOND]);
    let report = sandbox.report();
    assert_eq!(result_of(&report, FIRST), "skipped", "{report}");
    assert_eq!(result_of(&report, SECOND), "ok");
    assert!(guard.stderr().contains(FIRST), "told: {}", guard.stderr());
    assert!(!lock_is_free(&sandbox.lock_path(FIRST)), "still the other's");
}

/// Without `--app` (a harness that locks by itself) the noted apps are all there is.
///
/// Fails when the command runs once more for no app.
#[test]
fn without_an_app_the_noted_ones_are_torn_down() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    stop(sandbox.bare().teardown(teardown.command_by_app("")), &format!("{FIRST}\\n{SECOND}\\n"));
    assert_eq!(torn_down(&teardown), [FIRST, SECOND]);
    sandbox.expect_nothing_left();
}

/// No app known at all: a command runs once, for none.
///
/// Fails when it does not run, or runs with an empty name.
#[test]
fn without_any_app_the_command_runs_once() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    stop(sandbox.bare().teardown(teardown.plain_command()), "");
    assert_eq!((teardown.count("start"), teardown.count("end")), (1, 1));
    let app = teardown.value("start", 0, "app");
    assert!(app == "unset" || app.is_empty(), "{app}");
}

/// A line that is no domain is reported and touches nothing; doubles, blank lines and a missing last newline
/// do not matter.
///
/// Fails when a name from the file becomes a path, or one bad line hides the good ones.
#[test]
fn a_noted_line_that_is_no_domain_is_skipped() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command_by_app(""));
    let lines = format!("../x\\n\\n{FIRST}\\nUPPER.example.net\\n{FIRST}\\n-rf\\n{APP}\\n{SECOND}");
    stop(guard, &lines);
    assert_eq!(torn_down(&teardown), [APP, FIRST, SECOND]);
    let files: Vec<_> = std::fs::read_dir(sandbox.lock_dir()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(files.len() == 3, "{files:?}");
}

/// A dependency that a running harness has locked by itself, through a process that is gone by the time of the
/// teardown, is free then: torn down.
///
/// Fails when the dependency's lock is tried before the tree is dead.
#[test]
fn a_dependency_that_the_harness_itself_held_is_torn_down() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let lock = sandbox.lock_path(FIRST);
    let script = format!(
        "printf '{FIRST}\\n' >> \"$CCCI_RUN_APPS_FILE\"; setsid \"$F\" hold-lock '{}' & exec \"$F\" print-signals TERM=0",
        lock.display()
    );
    let guard = sandbox.bare().app().teardown(teardown.command_by_app("")).report().sh(&script);
    let mut guard = guard.spawn();
    guard.ready();
    guard.ready();
    assert!(!lock_is_free(&lock), "the test is void");
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    assert_eq!(torn_down(&teardown), [APP, FIRST]);
    sandbox.expect_nothing_left();
}

/// The harness put something else in its file's place: nothing waits for it, nothing follows it, the app of `--app` is
/// torn down, and the report says that something is not known.
///
/// Seen failing with the file simply read: a FIFO held the worker for ever, `/dev/zero` filled the memory.
#[test]
fn what_is_no_file_of_notes_holds_nothing_up() {
    let places = ["mkfifo", "ln -s /dev/zero", "ln -s /etc/passwd", "mkdir"];
    for place in places {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.bare().app().teardown(teardown.command_by_app("")).report();
        let script =
            format!("rm \"$CCCI_RUN_APPS_FILE\"; {place} \"$CCCI_RUN_APPS_FILE\"; exec \"$F\" print-signals TERM=0");
        let mut guard = guard.sh(&script).spawn();
        guard.ready();
        guard.signal(Signal::SIGTERM);
        guard.expect_code(143);
        assert_eq!(torn_down(&teardown), [APP], "{place}");
        let report = sandbox.report();
        assert_eq!(result_of(&report, APP), "ok", "{place}: {report}");
        assert_eq!(report["teardown"]["result"], "failed", "{place}: {report}");
        assert!(guard.stderr().contains("noted apps can't be read"), "{place}: {}", guard.stderr());
        sandbox.expect_nothing_left();
    }
}

/// A teardown of very many apps is no takeover: what the supervisor says of it fits a message.
///
/// Seen failing with the lists in the message: it was too long, was cut, and hid the end of the run from the monitor.
#[test]
fn very_many_names_do_not_silence_the_supervisor() {
    let sandbox = Sandbox::new();
    let lines: String = (0..3000).map(|n| format!("../no-domain-{n}\\n")).collect();
    let guard = stop(sandbox.bare().teardown("true"), &lines);
    let report = sandbox.report();
    assert_eq!(report["takeover"], false, "{report}");
    assert_eq!(report["teardown"]["apps"].as_array().unwrap().len(), 3000);
    assert!(!guard.stderr().contains("supervisor is gone"), "{}", guard.stderr());
    assert_eq!(guard.stderr().matches("and 2980 more").count(), 1, "{}", guard.stderr());
    sandbox.expect_nothing_left();
}
