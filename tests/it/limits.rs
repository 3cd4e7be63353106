//! A limit is lowered under a guard that runs: what it has is enough for the end, or the other one has it.
//!
//! `fault_matrix.rs` does the same at each phase.

use crate::support::*;
use nix::sys::signal::Signal;

/// With a limit below the number of those that it waits for, poll(2) takes none. Signals and ends are still seen.
///
/// Seen failing with poll(2) as the only way to wait: awake for ever, and deaf.
#[test]
fn a_guard_without_descriptors_still_hears() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let mut guard = sandbox.run().app().teardown(teardown.command()).fixture("print-signals TERM=0").spawn();
    guard.ready();
    limit(guard.pid(), "--nofile=0:0");
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    teardown.expect_one();
    sandbox.expect_nothing_left();
}

/// A supervisor that can't start a worker ends, and the monitor, which can, finishes the run.
///
/// Seen failing with a supervisor that went on without: nothing torn down, and no report either.
#[test]
fn a_supervisor_that_cannot_start_the_teardown_hands_it_over() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.run().app().teardown(teardown.command()).report();
    let mut guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    limit(guard.supervisor(), "--nofile=0:0");
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    teardown.expect_one();
    sandbox.expect_nothing_left();
    let report = sandbox.report();
    assert_eq!((&report["cause"], &report["takeover"]), (&"signal".into(), &true.into()), "{report}");
}

/// The same with a child of the harness that must be killed: who can't read `/proc` can't find it.
///
/// Seen failing with a supervisor that gave up on those that it could not see: left behind when the guard had returned.
#[test]
fn a_supervisor_that_cannot_see_survivors_hands_them_over() {
    let sandbox = Sandbox::new();
    let script = "\"$F\" ignore-term >/dev/null & trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut guard = sandbox.run().app().teardown("none").sh(script).spawn();
    guard.ready();
    limit(guard.supervisor(), "--nofile=0:0");
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    sandbox.expect_nothing_left();
}

/// A supervisor that can't be forked is an error like any other before the start: said, and reported.
///
/// Seen failing with a report for errors before the lock only.
#[test]
fn a_run_whose_supervisor_cannot_be_forked_is_reported() {
    let Some((sandbox, fixture)) = for_nobody() else {
        return;
    };
    give(&sandbox.path(""), NOBODY);
    let guard = sandbox.run().program(sandbox.path("bin/ccci-guard")).user(NOBODY, NOBODY);
    let lock = FileLock::take(&sandbox.lock_path(APP));
    give(&sandbox.lock_dir(), NOBODY);
    let mut guard = guard.app().teardown("none").report().harness([fixture]).spawn();
    guard.expect_stderr("waiting");
    limit(guard.pid(), "--nproc=0:0");
    drop(lock);
    guard.expect_code(125);
    assert!(guard.stderr().contains("error: cannot start the supervisor: "), "{}", guard.stderr());
    let report = sandbox.report();
    assert_eq!((&report["cause"], &report["exit_code"]), (&"guard-error".into(), &125.into()), "{report}");
    sandbox.expect_nothing_left();
}
