//! The deadline: in time, told ahead when asked, and it gives 142 whatever the harness then does.

use crate::support::*;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Mission 15: deadline 2 s: teardown, 142, lock free.
///
/// Fails when the deadline counts from another moment, is checked only at some interval, or the teardown is
/// left out for this cause.
#[test]
fn a_deadline_of_two_seconds_stops_and_tears_down() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).deadline("2s").report();
    let mut guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    let ready = Instant::now();
    assert_eq!(guard.signal_line(), "TERM 1");
    within("the stop", ready.elapsed(), Duration::from_millis(1800)..Duration::from_secs(5));
    let exit = guard.expect_code(142);
    within("the run", exit.after, Duration::from_secs(2)..Duration::from_secs(10));
    teardown.expect_one();
    assert_eq!(teardown.value("start", 0, "cause"), "deadline");
    sandbox.expect_nothing_left();
    let report = sandbox.report();
    assert_eq!(report["cause"], "deadline");
    assert_eq!(report["harness"]["status"]["code"], 0);
    assert!(guard.stderr().contains("deadline 2s reached"), "{}", guard.stderr());
}

/// A harness that ignores TERM is killed after the grace, and that is still 142 (not 137).
///
/// Fails when the harness's end decides the code, or the grace is not kept.
#[test]
fn a_harness_that_ignores_the_stop_is_killed_after_the_grace_with_142() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).deadline("1s").grace("1500ms");
    let mut guard = guard.report().fixture("ignore-term").spawn();
    guard.ready();
    let exit = guard.expect_code(142);
    within("deadline and grace", exit.after, Duration::from_millis(2400)..Duration::from_secs(9));
    teardown.expect_one();
    assert_eq!(sandbox.report()["harness"]["status"]["signal"], 9);
    sandbox.expect_nothing_left();
}

/// The wait for the lock does not count.
///
/// Fails when the clock starts with the guard.
#[test]
fn waiting_for_the_lock_does_not_use_the_deadline_up() {
    let sandbox = Sandbox::new();
    let held = FileLock::take(&sandbox.lock_path(APP));
    let guard = sandbox.bare().app().teardown("none").deadline("2s");
    let mut guard = guard.sh("echo ready; sleep 1; exit 7").spawn();
    guard.expect_stderr("waiting");
    // Longer than what the harness would then have left; a real wait, not a handshake.
    std::thread::sleep(Duration::from_millis(1500));
    drop(held);
    guard.ready();
    guard.expect_code(7);
}

/// A deadline that is not reached changes nothing, and the harness is told when it would be.
///
/// Fails when `CCCI_DEADLINE_AT` is not the epoch second of the deadline.
#[test]
fn the_harness_is_told_its_deadline() {
    let sandbox = Sandbox::new();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let output = sandbox.bare().deadline("1h").sh("echo $CCCI_DEADLINE_AT; exit 7").output();
    assert_eq!(output.code(), 7);
    let text = output.text();
    let at: f64 = text.trim().parse().unwrap_or_else(|_| panic!("epoch seconds: {text:?}"));
    let expected = (before + 3600) as f64;
    assert!((expected - 1.0..expected + 30.0).contains(&at), "{at}, expected {expected}");
}

/// `--warn-before 1s --warn-signal USR1`: the signal that long before, then the deadline.
///
/// Fails when the warning comes with the deadline, or at the start, or is only logged.
#[test]
fn a_warning_comes_ahead_of_the_deadline() {
    let sandbox = Sandbox::new();
    let guard = sandbox.bare().deadline("3s").args(["--warn-before", "1500ms", "--warn-signal", "USR1"]);
    let mut guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    let ready = Instant::now();
    assert_eq!(guard.signal_line(), "USR1 1");
    within("the warning", ready.elapsed(), Duration::from_millis(1200)..Duration::from_millis(2900));
    assert_eq!(guard.signal_line(), "TERM 1");
    within("the stop", ready.elapsed(), Duration::from_millis(2800)..Duration::from_secs(7));
    guard.expect_code(142);
}

/// Without `--warn-signal` the warning is a line of the log, and no signal.
///
/// Fails when a default signal is sent.
#[test]
fn a_warning_without_a_signal_is_a_line() {
    let sandbox = Sandbox::new();
    let guard = sandbox.bare().deadline("2s").args(["--warn-before", "1s"]);
    let mut guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    guard.expect_stderr("warning");
    assert_eq!(guard.signal_line(), "TERM 1", "the first signal is the deadline's");
    guard.expect_code(142);
}

/// TERM in the same millisecond as the deadline, 100 times: one teardown, 143 or 142.
///
/// Fails when two causes start two stops, or the second one changes the code to something else.
#[test]
fn a_request_together_with_the_deadline_is_one_stop() {
    let mut random = Random::from_clock("TERM at the deadline");
    let together = 4;
    for _ in 0..rounds(100).div_ceil(together) {
        let sandbox = Sandbox::new();
        let runs: Vec<_> = (0..together)
            .map(|n| {
                let teardown = sandbox.teardown_in(&format!("teardown-{n}.log"));
                let guard = sandbox.bare().deadline("1s").teardown(teardown.plain_command());
                let guard = guard.fixture("print-signals TERM=0").spawn();
                guard.ready();
                (Instant::now(), guard, teardown)
            })
            .collect();
        for (ready, guard, _) in &runs {
            // The deadline runs since shortly before `ready`.
            let moment = Duration::from_millis(995) + random.time_below(Duration::from_millis(6));
            std::thread::sleep(moment.saturating_sub(ready.elapsed()));
            guard.signal(Signal::SIGTERM);
        }
        for (_, mut guard, teardown) in runs {
            let code = guard.code();
            assert!(code == 142 || code == 143, "{code}: {}", guard.stderr());
            teardown.expect_one();
        }
        sandbox.expect_nothing_left();
    }
}
