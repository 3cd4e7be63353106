//! An app has one owner at a time, and none once its owner's processes are dead: the kernel's word, not ours.

use crate::support::*;
use nix::sys::signal::{Signal, kill};
use std::time::Duration;

/// Mission 1: SIGKILL of the holder frees the lock by itself.
///
/// Fails when anything that outlives the killed ones has the lock open (a helper that was forked and
/// forgotten), or when a waiter asks a pid in the file instead of the kernel.
#[test]
fn sigkill_of_the_holder_frees_the_lock_by_itself() {
    let sandbox = Sandbox::new();
    let first = sandbox.bare().app().teardown("none").fixture("print-signals").spawn();
    first.ready();
    assert!(!sandbox.lock_is_free());
    let all = first.tree();
    assert!(all.len() >= 3, "monitor, supervisor, harness: {all:?}");
    let mut second = sandbox.bare().app().teardown("none").sh("echo ready; exit 7").spawn();
    second.expect_stderr("waiting");
    for process in all {
        let _ = kill(process.pid, Signal::SIGKILL);
    }
    second.ready();
    second.expect_code(7);
    sandbox.expect_over(SOON);
}

/// The same where the holder is no guard at all: an old harness with a flock of its own.
///
/// Fails when the guard waits for anything but the flock.
#[test]
fn sigkill_of_a_foreign_holder_lets_the_guard_in() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(FIXTURE);
    command.arg("hold-lock").arg(sandbox.lock_path(APP));
    let holder = sandbox.spawn(command);
    holder.ready();
    let mut guard = sandbox.bare().app().teardown("none").sh("echo ready").spawn();
    guard.expect_stderr("waiting");
    assert_eq!(guard.try_line(Duration::from_millis(300)), None, "started while another holds the lock");
    holder.signal(Signal::SIGKILL);
    guard.ready();
    guard.expect_code(0);
}

/// Mission 2: LOCK_NB: held says held, unheld acquires.
///
/// Fails when `--lock-timeout 0s` waits, or when a held lock is taken for a free one.
#[test]
fn without_waiting_held_says_held_and_unheld_acquires() {
    let sandbox = Sandbox::new();
    let now = || sandbox.bare().app().teardown("none").args(["--lock-timeout", "0s"]);
    let held = FileLock::take(&sandbox.lock_path(APP));
    let refused = now().sh("echo ran").output();
    assert_eq!(refused.code(), 75, "{}", refused.stderr);
    assert_eq!(refused.text(), "", "nothing may run");
    assert!(refused.stderr.contains(APP), "names the app: {}", refused.stderr);
    within("the refusal", refused.exit.after, ..Duration::from_secs(5));
    drop(held);
    let ran = now().sh("echo ran").output();
    assert_eq!((ran.code(), ran.text().as_str()), (0, "ran\n"), "{}", ran.stderr);
}

/// A stranger's flock sees the guard's: both use the same file and the same call.
///
/// Fails when the guard locks with fcntl(2), which flock(2) does not see, or another file.
#[test]
fn a_strangers_flock_finds_the_running_guards_lock_held() {
    let sandbox = Sandbox::new();
    let mut guard = sandbox.bare().app().teardown("none").fixture("print-signals USR1=7").spawn();
    guard.ready();
    assert!(FileLock::try_take(&sandbox.lock_path(APP)).is_none());
    guard.signal(Signal::SIGUSR1);
    guard.expect_code(7);
    assert!(FileLock::try_take(&sandbox.lock_path(APP)).is_some());
}

/// Mission 3: a child that outlives the holder does not keep the lock (a harness adapted as the docs say).
///
/// All three are killed, so that nobody can say LOCK_UN: only the descriptor that the harness made
/// non-inheritable stands between the child and the lock. Fails when `set_inheritable` is left out.
#[test]
fn a_child_that_outlives_a_killed_run_does_not_keep_the_lock() {
    let sandbox = Sandbox::new();
    let script = "import os, subprocess, sys, time\n\
        fd = int(os.environ['CCCI_APP_LOCK_FD'])\n\
        os.set_inheritable(fd, False)\n\
        child = subprocess.Popen(['sleep', '60'], close_fds=False, start_new_session=True)\n\
        print('ready', child.pid, flush=True)\n\
        time.sleep(60)\n";
    let run = sandbox.bare().app().teardown("none").harness([python(), "-c", script]).spawn();
    let child = run.ready_pid();
    for process in run.tree().into_iter().filter(|p| p.pid != child) {
        let _ = kill(process.pid, Signal::SIGKILL);
    }
    eventually(SOON, "the lock", || held(&sandbox.lock_path(APP)));
    assert!(alive(child), "the child should have outlived them all");
}

/// Mission 3: a child that outlives the holder does not keep the lock (any harness under `--survivors leave`).
///
/// The child has the lock's descriptor, so that only an explicit LOCK_UN frees it. Fails when the guard
/// relies on the descriptors being closed.
#[test]
fn a_child_that_is_left_on_purpose_does_not_keep_the_lock() {
    let sandbox = Sandbox::new();
    let guard = sandbox.bare().app().teardown("none").args(["--survivors", "leave"]);
    let mut guard = guard.fixture("fork-and-outlive setsid double").spawn();
    guard.ready();
    guard.expect_code(0);
    assert!(sandbox.lock_is_free(), "kept by the child");
    let left = sandbox.left();
    let [child] = left.iter().filter(|p| !p.is_guard()).collect::<Vec<_>>()[..] else {
        panic!("one child should be left alone: {left:?}");
    };
    let fds = std::fs::read_dir(format!("/proc/{}/fd", child.pid)).unwrap().flatten();
    let targets: Vec<_> = fds.filter_map(|e| std::fs::read_link(e.path()).ok()).collect();
    assert!(targets.contains(&sandbox.lock_path(APP)), "the test is void: {targets:?}");
}

/// Mission 4: a second acquire of the same domain blocks until the first is done, teardown included.
///
/// Fails when the lock is released before the teardown has ended, or the second harness starts early.
#[test]
fn a_second_run_of_one_domain_blocks_until_the_first_is_done() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let first = sandbox.bare().app().teardown(teardown.command_with("--sleep 700"));
    let mut first = first.fixture("print-signals TERM=0").spawn();
    first.ready();
    let log = teardown.log().display();
    let second = sandbox.bare().app().teardown("none").sh(&format!("echo ready; cat '{log}'"));
    let mut second = second.spawn();
    second.expect_stderr(&format!("waiting for app lock {APP}"));
    first.signal(Signal::SIGTERM);
    second.ready();
    // What the second harness saw when it began: both lines of the first one's teardown.
    let (start, end) = (second.line(), second.line());
    assert!(start.starts_with("start ") && end.starts_with("end "), "{start} / {end}");
    first.expect_code(143);
    second.expect_code(0);
    teardown.expect_one();
    sandbox.expect_nothing_left();
}

/// Two domains do not wait for each other.
///
/// Fails when the lock is one for the host.
#[test]
fn another_domain_does_not_wait() {
    let sandbox = Sandbox::new();
    let first = sandbox.bare().app().teardown("none").fixture("print-signals").spawn();
    first.ready();
    let other = sandbox.bare().args(["--app", "keyc-0a1b2c.ci.example.net"]).teardown("none");
    let other = other.args(["--lock-timeout", "0s"]).sh("exit 7").output();
    assert_eq!(other.code(), 7, "{}", other.stderr);
}
