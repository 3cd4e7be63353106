//! The tests' own tools can see what they are there to see; else every other test here proves nothing.

use crate::support::*;
use nix::sys::signal::Signal::SIGKILL;
use nix::unistd::Pid;
use std::time::Duration;

/// Fails when `lock_is_free` always says free, or always held.
#[test]
fn a_held_lock_is_seen_held_and_a_freed_one_free() {
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    assert!(sandbox.lock_is_free(), "no file");
    let mut command = sandbox.command(FIXTURE);
    command.arg("hold-lock").arg(&path);
    let mut holder = sandbox.spawn(command);
    holder.ready();
    assert!(!sandbox.lock_is_free(), "held by the fixture");
    holder.signal(SIGKILL);
    assert_eq!(holder.code(), 137);
    assert!(sandbox.lock_is_free(), "its holder is dead");
}

/// Fails when a daemon (double fork, own session, its parent gone) drops out of the count.
#[test]
fn a_daemon_is_found_by_its_mark_and_killed_with_the_sandbox() {
    let sandbox = Sandbox::new();
    let mut starter = sandbox.shell("\"$F\" fork-and-outlive setsid double ignore");
    starter.ready();
    assert_eq!(starter.code(), 0);
    let left = sandbox.left();
    assert_eq!(left.len(), 1, "{left:?}");
    drop(sandbox);
    let daemon = left[0].pid;
    eventually(SOON, "end of the daemon", || if alive(daemon) { Err("alive") } else { Ok(()) });
}

/// Fails when the role takes no lock of its own, or the check does not look for `overlap`.
#[test]
fn two_teardowns_at_a_time_are_seen() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let _held = FileLock::take(&sandbox.lock_path(APP));
    let slow = teardown.command_with("--sleep 400");
    let mut first = sandbox.shell(&slow);
    teardown.expect_start(0);
    let mut second = sandbox.shell(&teardown.command());
    assert_eq!((first.code(), second.code()), (0, 0));
    assert_eq!(teardown.count("overlap"), 1);
    let fault = teardown.check_one().expect_err("two at a time");
    assert!(fault.contains("two teardowns"), "{fault}");
}

/// Fails when an unfinished run counts as complete, or its repetition as a second one.
#[test]
fn a_killed_teardown_and_its_repetition_count_as_one() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let lock = FileLock::take(&sandbox.lock_path(APP));
    let mut killed = sandbox.shell(&teardown.command_with("--hang"));
    teardown.expect_start(0);
    killed.signal(SIGKILL);
    assert_eq!(killed.code(), 137);
    assert!(teardown.check_one().is_err(), "none has ended");
    assert_eq!(sandbox.shell(&teardown.command()).code(), 0);
    teardown.expect_one();
    drop(lock);
    assert_eq!(sandbox.shell(&teardown.command()).code(), 0);
    let fault = teardown.check_one().expect_err("a second one, with the lock free");
    assert!(fault.contains("not exactly one"), "{fault}");
}

/// Fails when the terminal is not the program's controlling one: then ^C is only a byte.
#[test]
fn the_terminal_sends_its_signals() {
    let sandbox = Sandbox::new();
    let terminal = Pty::new();
    let mut program = terminal.spawn(&sandbox, &[FIXTURE, "print-signals", "INT=7"]);
    let at = terminal.expect(0, "ready");
    terminal.write("\x03");
    terminal.expect(at, "INT 1");
    assert_eq!(program.code(), 7);
}

/// Fails when a zombie counts as alive, or a stopped process as running.
#[test]
fn zombies_are_gone_and_stopped_processes_are_not() {
    let sandbox = Sandbox::new();
    let parent = sandbox.shell("sleep 60 & echo ready $!; kill -STOP $$");
    let child = parent.ready_pid();
    eventually(SOON, "the stopped shell", || if stopped(parent.pid()) { Ok(()) } else { Err("runs") });
    assert!(alive(parent.pid()));
    nix::sys::signal::kill(child, SIGKILL).unwrap();
    // Its parent is stopped and can't reap it.
    eventually(SOON, "the zombie", || if alive(child) { Err("alive") } else { Ok(()) });
    assert!(alive(Pid::this()));
    within("the look", parent.started().elapsed(), ..Duration::from_secs(30));
}
