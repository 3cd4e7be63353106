//! "Still ours?": before a teardown the guard looks whether the lock is its own, and never touches another's app.

use crate::support::*;
use nix::sys::signal::Signal;
use std::fs;

/// A run whose harness has freed the shared lock, as none may, and waits.
fn unlocked_run(sandbox: &Sandbox, teardown: &Teardown) -> Proc {
    let guard = sandbox.bare().app().teardown(teardown.command()).grace("2s").report();
    let guard = guard.fixture("unlock-inherited").spawn();
    guard.ready();
    assert!(sandbox.lock_is_free(), "the test is void: LOCK_UN freed nothing");
    guard
}

/// LOCK_UN by a misbehaving process, and nobody took it: locked again, logged, torn down.
///
/// Fails when the flag "we locked it" is believed: the trace then says `lock=free`.
#[test]
fn a_lost_lock_that_nobody_took_is_taken_again() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let mut guard = unlocked_run(&sandbox, &teardown);
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    teardown.expect_one();
    assert!(guard.stderr().contains("lock"), "logged: {}", guard.stderr());
    assert_eq!(sandbox.report()["teardown"]["result"], "ok");
    sandbox.expect_nothing_left();
}

/// LOCK_UN, and another run took it since: that run's app is left alone: `skipped`, the code stays.
///
/// Fails when the teardown runs without the lock, or the guard waits for the other.
#[test]
fn an_app_that_another_run_took_is_left_alone() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let mut guard = unlocked_run(&sandbox, &teardown);
    let mut other = sandbox.bare().app().teardown("none").fixture("print-signals USR1=7").spawn();
    other.ready();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    teardown.expect_none();
    let report = sandbox.report();
    assert_eq!(report["teardown"]["result"], "skipped", "{report}");
    assert!(!sandbox.lock_is_free(), "the other's lock was freed");
    other.signal(Signal::SIGUSR1);
    other.expect_code(7);
    sandbox.expect_nothing_left();
}

/// The path leads to another file since, which another run has locked: left alone.
///
/// Fails when only the descriptor is asked: it still shows our lock, on an inode that nobody else will find.
#[test]
fn an_app_whose_lock_file_was_replaced_and_taken_is_left_alone() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).report();
    let mut guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    let path = sandbox.lock_path(APP);
    fs::rename(&path, sandbox.path("elsewhere")).unwrap();
    let other = FileLock::take(&path);
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    teardown.expect_none();
    assert_eq!(sandbox.report()["teardown"]["result"], "skipped");
    drop(other);
    sandbox.expect_nothing_left();
}

/// The file was removed under the live run and nobody made a new one: taken again under its name, torn down.
///
/// Fails when the teardown runs while a newcomer could take the name: the trace then says `lock=free`.
#[test]
fn an_app_whose_lock_file_vanished_is_locked_again() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).report();
    let mut guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    fs::remove_file(sandbox.lock_path(APP)).unwrap();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    teardown.expect_one();
    sandbox.expect_nothing_left();
}

/// The same loss, seen by whoever takes over: the supervisor is dead, the monitor asks the same question.
///
/// Fails when the take-over skips the look.
#[test]
fn the_question_is_asked_after_a_takeover_too() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let mut guard = unlocked_run(&sandbox, &teardown);
    let other = FileLock::take(&sandbox.lock_path(APP));
    nix::sys::signal::kill(guard.supervisor(), Signal::SIGKILL).unwrap();
    guard.expect_code(137);
    teardown.expect_none();
    let report = sandbox.report();
    assert_eq!(report["teardown"]["result"], "skipped", "{report}");
    drop(other);
    sandbox.expect_nothing_left();
}

/// The whole lock directory is another since (moved away, or a file system mounted over it), and another run has the
/// app's lock in the new one: left alone. Where nobody has it, it is taken there and the app is torn down under it.
///
/// Seen failing with the file looked for in the directory that was opened at the start.
#[test]
fn an_app_whose_lock_directory_was_replaced_is_the_new_owner_s() {
    for taken in [true, false] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.bare().app().teardown(teardown.command()).report();
        let mut guard = guard.fixture("print-signals TERM=0").spawn();
        guard.ready();
        fs::rename(sandbox.lock_dir(), sandbox.path("elsewhere")).unwrap();
        fs::create_dir(sandbox.lock_dir()).unwrap();
        let other = taken.then(|| FileLock::take(&sandbox.lock_path(APP)));
        guard.signal(Signal::SIGTERM);
        guard.expect_code(143);
        let result = sandbox.report()["teardown"]["result"].clone();
        if taken {
            teardown.expect_none();
            assert_eq!(result, "skipped");
        } else {
            teardown.expect_one();
            assert_eq!(result, "ok");
        }
        drop(other);
        sandbox.expect_nothing_left();
    }
}
