//! A harness that locks its own app's file by itself waits for its own guard for ever: the guard sees it.

use crate::lock_holder::Holder;
use crate::support::{APP, FIXTURE, Guard, SOON, Sandbox, alive, eventually, python, within};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const HARNESS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/harness.py");

/// With the looks after 0.3 s and 1.5 s instead of 10 s and 60 s.
fn run(sandbox: &Sandbox) -> Guard<'_> {
    let guard = sandbox.run().app().grace("1s").report();
    guard.env("CCCI_TEST_SELF_DEADLOCK_FIRST", "300ms").env("CCCI_TEST_SELF_DEADLOCK_STOP", "1500ms")
}

fn report(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&fs::read_to_string(sandbox.path("report.json")).unwrap()).unwrap()
}

/// The harness itself, and a grandchild in a session of its own.
/// Fails with the look at /proc/locks left out (the run lasts for ever), and with children only looked at.
#[test]
fn it_is_warned_of_and_stopped() {
    for grandchild in [false, true] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let path = sandbox.lock_path(APP).to_str().unwrap().to_owned();
        let command = [python(), HARNESS, "--lock-itself", &path, "--wait"].map(str::to_owned).to_vec();
        let command = if grandchild { [vec!["setsid".to_owned(), "-w".to_owned()], command].concat() } else { command };
        let mut guard = run(&sandbox).teardown(teardown.command()).harness(command).spawn();
        guard.expect_stderr("started by this run, waits for the lock that this run holds");
        let warned = guard.started().elapsed();
        within("the warning", warned, Duration::from_millis(290)..Duration::from_millis(1500));
        let waiter = guard.tree().into_iter().find(|p| p.name.starts_with("python3")).expect("the harness");
        let text = guard.stderr();
        let words = format!("ccci-guard: warning: pid {} ({})", waiter.pid, waiter.name);
        assert!(text.contains(&words), "{words:?} not in {text}");
        assert!(text.contains("docs/harness.md"), "{text}");

        let exit = guard.expect_code(70);
        within("the stop", exit.after, Duration::from_millis(1490)..SOON);
        let report = report(&sandbox);
        assert_eq!((&report["cause"], &report["exit_code"]), (&"self-deadlock".into(), &70.into()));
        assert!(!alive(waiter.pid));
        teardown.expect_one();
        assert_eq!(teardown.value("start", 0, "cause"), "self-deadlock");
        assert!(sandbox.lock_is_free());
        sandbox.expect_nothing_left();
    }
}

/// One that gives up in time is only warned of.
/// Fails with the stop decided at the first look.
#[test]
fn one_that_gives_up_goes_on() {
    let sandbox = Sandbox::new();
    let script = "timeout 0.8 flock \"$CCCI_APP_LOCK_PATH\" true; echo gave up $?; sleep 1.5; exit 9";
    let mut guard = run(&sandbox).args(["--teardown", "none"]).sh(script).spawn();
    guard.expect_line("gave up 124");
    guard.expect_code(9);
    assert!(guard.stderr().contains("waits for the lock that this run holds"), "{}", guard.stderr());
}

/// Waiting for somebody else's lock is what locks are for.
/// Fails with every waiting descendant counted.
#[test]
fn another_s_lock_is_no_deadlock() {
    let sandbox = Sandbox::new();
    let other = sandbox.lock_path("keyc-0b52fe.ci.example.net");
    let held = Holder::take(&sandbox, &other);
    let harness = [FIXTURE.to_owned(), "hold-lock".to_owned(), other.to_str().unwrap().to_owned(), "wait".to_owned()];
    let mut guard = run(&sandbox).args(["--teardown", "none"]).harness(harness).spawn();
    let inode = format!(":{} ", fs::metadata(&other).unwrap().ino());
    eventually(SOON, "it waits", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        if locks.lines().any(|l| l.contains("-> FLOCK") && l.contains(&inode)) { Ok(()) } else { Err(locks) }
    });
    // Past both looks.
    while guard.started().elapsed() < Duration::from_millis(2500) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(guard.try_wait().is_none(), "{}", guard.stderr());
    assert_eq!(guard.stderr(), "");
    held.release();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
}

/// Another run that waits for our lock is no descendant: it waits, and we go on.
/// Fails with the waiter's ancestors not looked at.
#[test]
fn another_run_that_waits_is_no_deadlock() {
    let sandbox = Sandbox::new();
    let mut holder = run(&sandbox).args(["--teardown", "none"]).sh("echo ready; sleep 2.5; exit 9").spawn();
    holder.ready();
    let mut waiter = sandbox.run().app().args(["--teardown", "none"]).harness(["true"]).spawn();
    waiter.expect_stderr("waiting for app lock");
    holder.expect_code(9);
    assert_eq!(holder.stderr(), "");
    waiter.expect_code(0);
}
