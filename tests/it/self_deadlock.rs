//! A harness that was not adapted locks its app's file by itself, and so waits for its own guard for ever.
//!
//! The looks come 10 s and 60 s after the start, so this is for the full counts only; `tests/switched` plays it
//! with shorter times.

use crate::support::*;
use std::time::Duration;

/// Warned with the harness's pid and the page to read, then stopped: 70, `self-deadlock`, torn down.
///
/// Fails when /proc/locks is not looked at: the run then waits for its deadline.
#[test]
fn a_harness_that_waits_for_its_own_guards_lock_is_stopped() {
    if !full() {
        println!("the full counts only (CCCI_IT_FULL=1): it takes more than 60 s");
        return;
    }
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let lock = sandbox.lock_path(APP);
    let guard = sandbox.bare().app().teardown(teardown.command()).report().grace("2s");
    let harness = [FIXTURE.as_ref(), "hold-lock".as_ref(), lock.as_os_str(), "wait".as_ref()];
    let mut guard = guard.harness(harness).spawn();
    let pid = guard.harness();
    let exit = guard.wait(Duration::from_secs(120));
    assert_eq!(exit.code, 70, "{}", guard.stderr());
    within("the stop", exit.after, Duration::from_secs(58)..Duration::from_secs(80));
    let stderr = guard.stderr();
    assert!(stderr.contains(&pid.to_string()) && stderr.contains("docs/harness.md"), "{stderr}");
    assert_eq!(guard.stdout(), "", "it can never have had the lock");
    teardown.expect_one();
    assert_eq!(teardown.value("start", 0, "cause"), "self-deadlock");
    assert_eq!(sandbox.report()["cause"], "self-deadlock");
    sandbox.expect_nothing_left();
}
