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
