//! `ccci-guard exec`: the same checks, lock, session and deadline, and then nobody but the harness is there.

use crate::support::{APP, FIXTURE, Proc, SOON, Sandbox, alive, eventually, held, process, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Fails with `run` behind the name `exec`.
#[test]
fn it_becomes_the_harness() {
    let sandbox = Sandbox::new();
    let mut guard = sandbox.exec().app().deadline("1h").sh("echo ready $$; read x; exit 9");
    guard = guard.stdin(std::process::Stdio::piped());
    let mut guard = guard.spawn();
    assert_eq!(guard.ready_pid(), guard.pid());
    let tree = guard.tree();
    assert_eq!(tree.len(), 1, "no resident process: {tree:?}");
    drop(guard.stdin());
    guard.expect_code(9);
}

/// Seen failing with the descriptor left close-on-exec.
#[test]
fn the_harness_holds_the_lock_until_it_ends() {
    let sandbox = Sandbox::new();
    let mut guard = sandbox.exec().app().sh("echo ready; exec sleep 60").spawn();
    guard.ready();
    assert!(!sandbox.lock_is_free());
    let out = sandbox.exec().app().args(["--lock-timeout", "0s"]).harness(["true"]).output();
    assert_eq!(out.code(), 75, "{}", out.stderr);
    assert!(out.stderr.contains(&format!("held by pid {}", guard.pid())), "{}", out.stderr);
    guard.signal(Signal::SIGKILL);
    assert_eq!(guard.code(), 137);
    eventually(SOON, "the lock is free", || held(&sandbox.lock_path(APP)));
}

/// alarm(2) survives exec: SIGALRM ends the harness, a shell shows 142.
/// Fails with the alarm set before the lock was had, and with whole seconds rounded down.
#[test]
fn the_deadline_is_an_alarm() {
    let sandbox = Sandbox::new();
    for (deadline, low) in [("1s", 990), ("1500ms", 1490)] {
        let out = sandbox.exec().app().deadline(deadline).harness(["sleep", "60"]).output();
        assert_eq!(out.code(), 142, "{deadline}; {}", out.stderr);
        within(deadline, out.exit.after, Duration::from_millis(low)..Duration::from_millis(low + 5000));
    }
    let out = sandbox.exec().app().deadline("1s").harness(["true"]).output();
    assert_eq!(out.code(), 0);
}

/// Blocked or ignored by the caller, it would never come.
/// Fails with the caller's mask and dispositions restored as they were.
#[test]
fn the_alarm_gets_through() {
    let sandbox = Sandbox::new();
    for under in [&["--block-all"][..], &["--block", "ALRM"], &["--ignore", "ALRM"]] {
        let under: Vec<&str> = [&[FIXTURE, "exec-with"], under, &["--"]].concat();
        let out = sandbox.exec().deadline("1s").under(&under).harness(["sleep", "60"]).output();
        assert_eq!(out.code(), 142, "{under:?}; {}", out.stderr);
    }
}

/// Nobody stays to stop the harness, so it gets the notice itself.
/// Fails with PDEATHSIG set before the set-up was finished and cleared by it.
#[test]
fn the_caller_s_death_is_a_sigterm() {
    let sandbox = Sandbox::new();
    let line = sandbox.exec().app().fixture("print-signals TERM=0").line();
    let caller = sandbox.shell(&format!("{line}; true"));
    let harness = caller.ready_pid();
    caller.signal(Signal::SIGKILL);
    assert_eq!(caller.line(), "TERM 1");
    eventually(SOON, "the harness's end", || if alive(harness) { Err("alive") } else { Ok(()) });
    eventually(SOON, "the lock is free", || held(&sandbox.lock_path(APP)));
}

/// Fails with the check done by the resident form only.
#[test]
fn an_orphan_is_refused() {
    let sandbox = Sandbox::new();
    let out = sandbox.exec().app().args(["--parent-pid", "1"]).harness(["touch", "started"]).output();
    assert_eq!(out.code(), 125, "{}", out.stderr);
    assert!(out.stderr.contains("orphan"), "{}", out.stderr);
    assert!(!sandbox.path("work/started").exists() && !sandbox.lock_path(APP).exists());
    let parent = std::process::id().to_string();
    let out = sandbox.exec().app().args(["--parent-pid", &parent]).harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
}

/// A process group's leader can't start a session (setsid(2)): kept, and logged.
/// Fails with the error of setsid handed up.
#[test]
fn a_group_leader_keeps_its_session() {
    let sandbox = Sandbox::new();
    let guard = sandbox.exec().args(["-v"]).own_group().sh("echo ready $$; exec sleep 60").spawn();
    let harness = process(guard.ready_pid()).unwrap();
    assert_eq!(harness.group, harness.pid);
    assert_ne!(harness.session, harness.pid);
    guard.expect_stderr("session");

    let guard = sandbox.exec().sh("echo ready $$; exec sleep 60").spawn();
    let harness = process(guard.ready_pid()).unwrap();
    assert_eq!(harness.session, harness.pid, "else a session of its own");
    assert_eq!(guard.stderr(), "", "which is nothing to talk about");
}

/// Neither abra nor Docker nor a way to tear down is needed.
/// Fails with the check for a teardown shared with `run`.
#[test]
fn it_needs_no_way_to_tear_down() {
    let sandbox = Sandbox::new();
    let out = sandbox.exec().app().env("PATH", "/nonexistent").harness(["/bin/true"]).output();
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    let out = sandbox.exec().app().args(["--zone", "other.example.net"]).harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
}

/// State files stay for `state gc`; the owner file says whether the run lives.
/// Fails with the owner's descriptor made close-on-exec.
#[test]
fn its_state_stays_and_its_owner_file_tells_the_run_s_life() {
    let sandbox = Sandbox::new();
    let guard = sandbox.exec().args(["--run-id", "r1"]);
    let mut guard = guard.sh("echo ready; echo file $CCCI_DEPLOY_COUNT_FILE; exec sleep 60").spawn();
    guard.ready();
    let deploys = PathBuf::from(guard.expect_line("file "));
    assert!(deploys.to_str().unwrap().contains(&guard.pid().to_string()), "{deploys:?}");
    let owners = owner_files(&sandbox);
    assert!(owners.iter().any(|owner| held(owner).is_err()), "no locked owner file: {owners:?}");
    guard.signal(Signal::SIGTERM);
    assert_eq!(guard.code(), 143);
    assert!(deploys.is_file());
    for owner in owners {
        eventually(SOON, "the owner file is free", || held(&owner));
    }
}

fn owner_files(sandbox: &Sandbox) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![sandbox.state_dir()];
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("owner")) {
                found.push(path);
            }
        }
    }
    found
}

/// Signals go to the harness itself, which is all there is.
/// Fails with a handler of ours left in place over the exec.
#[test]
fn it_is_the_harness_that_gets_the_signals() {
    let sandbox = Sandbox::new();
    let mut guard: Proc = sandbox.exec().app().fixture("print-signals TERM=5").spawn();
    guard.ready();
    for (signal, line) in [(Signal::SIGHUP, "HUP 1"), (Signal::SIGUSR1, "USR1 1"), (Signal::SIGTERM, "TERM 1")] {
        kill(Pid::from_raw(guard.pid().as_raw()), signal).unwrap();
        assert_eq!(guard.line(), line);
    }
    guard.expect_code(5);
}
