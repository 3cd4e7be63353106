//! Real Python 3 harnesses under the guard: their handlers, their children, their exit status.

use crate::support::*;
use nix::sys::signal::Signal;
use std::time::Duration;

fn python_run<'a>(sandbox: &'a Sandbox, script: &str) -> Guard<'a> {
    sandbox.bare().app().harness([python(), "-c", script])
}

/// SIGTERM in the middle of a child process: the `finally:` runs, the child (which was not signalled) is waited
/// for by the harness itself, and only then the guard's teardown starts.
///
/// Fails when the stop signal goes to the whole group: `abra` would be cut off in mid-work.
#[test]
fn a_child_of_the_harness_is_not_signalled_while_the_harness_lives() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let script = "import signal, subprocess, sys\n\
        signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n\
        child = subprocess.Popen(['sh', '-c', 'echo ready; sleep 1.2; echo child done; exit 5'])\n\
        code = child.wait()\n\
        print('child', code, flush=True)\nsys.exit(0)\n";
    let mut guard = python_run(&sandbox, script).teardown(teardown.command()).spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    assert_eq!([guard.line(), guard.line(), guard.line()], ["asked", "child done", "child 5"]);
    guard.expect_code(143);
    teardown.expect_one();
    sandbox.expect_nothing_left();
}

/// SIGINT gives Python its KeyboardInterrupt, and the guard 130.
///
/// Fails when INT arrives ignored or blocked: Python then never raises it.
#[test]
fn sigint_is_a_keyboard_interrupt() {
    let sandbox = Sandbox::new();
    let script = "import time\ntry:\n    print('ready', flush=True)\n    time.sleep(60)\n\
        except KeyboardInterrupt:\n    print('interrupted', flush=True)\n";
    let guard = python_run(&sandbox, script).teardown("none").default_signals();
    let mut guard = guard.spawn();
    guard.ready();
    guard.signal(Signal::SIGINT);
    assert_eq!(guard.line(), "interrupted");
    guard.expect_code(130);
}

/// SIGCHLD ignored by the caller: Python would report 0 for a child's exit 7 (util-linux#4014 is the kind).
///
/// Fails when SIGCHLD is not set to default for the harness.
#[test]
fn the_status_of_a_python_child_survives_an_ignored_sigchld() {
    let sandbox = Sandbox::new();
    let script = "import subprocess, sys\nsys.exit(subprocess.run(['sh', '-c', 'exit 7']).returncode)\n";
    let guard = python_run(&sandbox, script).teardown("none");
    let output = guard.under([FIXTURE, "exec-with", "--ignore", "CHLD", "--"]).output();
    assert_eq!(output.code(), 7, "{}", output.stderr);
}

/// A harness with a `finally:` and one that has none, both stopped by the deadline.
///
/// Fails when the first is not given its time, or the second is not torn down.
#[test]
fn with_and_without_a_finally_block_the_deadline_ends_in_a_teardown() {
    let with = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n\
        try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    time.sleep(0.7)\n    print('finally', flush=True)\n";
    let without = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n";
    for (script, said) in [(with, "finally"), (without, "")] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = python_run(&sandbox, script).teardown(teardown.command()).deadline("1s");
        let mut guard = guard.spawn();
        guard.ready();
        guard.expect_code(142);
        guard.expect_eof(Duration::from_secs(5));
        assert_eq!(guard.stdout().lines().nth(1).unwrap_or_default(), said);
        teardown.expect_one();
        sandbox.expect_nothing_left();
    }
}

/// Python's pool of workers, its resource tracker and a daemon thread: all processes are gone.
///
/// Fails when helpers that Python re-parents are missed.
#[test]
fn a_multiprocessing_pool_is_gone_with_its_harness() {
    let sandbox = Sandbox::new();
    let script = "import multiprocessing, os, time\n\
        if __name__ == '__main__':\n    context = multiprocessing.get_context('fork')\n\
        \x20   pool = context.Pool(4, initializer=os.setsid)\n    pool.map(abs, range(4))\n\
        \x20   print('ready', flush=True)\n    time.sleep(60)\n";
    let mut guard = python_run(&sandbox, script).teardown("none").spawn();
    guard.ready();
    assert!(guard.tree().len() >= 7, "the test is void: {:?}", guard.tree());
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    sandbox.expect_nothing_left();
}
