//! A guard that is an orphan already refuses to start; one that only looks like one runs.
//!
//! The rules are those of docs/design/orphan-check.md, (a) to (d). Namespaces are made with unshare(1).

use crate::support::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;

/// unshare(1) for a pid namespace of its own, as root or as anybody.
fn unshare() -> Vec<&'static str> {
    if nix::unistd::geteuid().is_root() {
        vec!["unshare", "-pf", "--mount-proc"]
    } else {
        vec!["unshare", "-Urpf", "--mount-proc"]
    }
}

fn can_unshare() -> bool {
    let words = unshare();
    let done = Command::new(words[0]).args(&words[1..]).arg("true").output();
    need("pid namespaces (unshare -pf)", done.is_ok_and(|o| o.status.success()))
}

/// An app, a teardown that would leave a trace, and a harness that would speak.
fn run<'a>(sandbox: &'a Sandbox, teardown: &Teardown) -> Guard<'a> {
    sandbox.bare().app().teardown(teardown.command()).sh("echo harness; exit 7")
}

#[track_caller]
fn expect_refused(sandbox: &Sandbox, teardown: &Teardown, guard: Guard<'_>) {
    let output = guard.output();
    assert_eq!(output.code(), 125, "{}", output.stderr);
    assert!(output.stderr.contains("orphan"), "says why: {}", output.stderr);
    assert_eq!(output.text(), "", "nothing may run");
    teardown.expect_none();
    assert!(!sandbox.lock_path(APP).exists(), "a refused start makes no lock file");
    sandbox.expect_nothing_left();
}

#[track_caller]
fn expect_ran(guard: Guard<'_>) {
    let output = guard.output();
    assert_eq!(output.code(), 7, "{}", output.stderr);
    assert!(output.text().contains("harness"), "{}", output.text());
}

/// Mission 14: already orphaned: refuses. Here under a subreaper that is not pid 1, in another session: rule (b).
///
/// Fails when `getppid() == 1` is the test, or when the check is left out.
#[test]
fn an_orphan_in_another_session_is_refused() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    expect_refused(&sandbox, &teardown, run(&sandbox, &teardown).under([FIXTURE, "orphan"]));
}

/// Mission 14 again, without any subreaper of ours: adopted by whatever adopts on this machine.
///
/// Fails as above. (Nobody can wait for such a guard: its words and its silence are the proof.)
#[test]
fn an_orphan_adopted_by_init_is_refused() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    // A session of its own; its leader ends; the one below it waits for that, then becomes the guard.
    let guard = run(&sandbox, &teardown).line();
    let inner = format!("while [ -d /proc/$1 ] && ! grep -q '^State:.Z' /proc/$1/status; do :; done; exec {guard}");
    let leader = "sh -c \"$INNER\" sh $$ & exit 0";
    let mut command = sandbox.command("setsid");
    command.args(["-w", "sh", "-c", leader]).env("INNER", inner);
    let mut starter = sandbox.spawn(command);
    assert_eq!(starter.code(), 0);
    starter.expect_stderr("orphan");
    starter.expect_eof(SOON);
    assert_eq!(starter.stdout(), "", "nothing may run");
    teardown.expect_none();
    assert!(!sandbox.lock_path(APP).exists());
}

/// In the same session only the exact parent pid can tell: rule (a).
///
/// Fails when `--parent-pid` is not compared with `getppid()`.
#[test]
fn an_orphan_in_its_own_session_is_refused_by_its_parent_pid() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = run(&sandbox, &teardown).args(["--parent-pid", "PARENT"]);
    expect_refused(&sandbox, &teardown, guard.under([FIXTURE, "orphan", "same-session"]));
    let from_environment = run(&sandbox, &teardown).env("CCCI_PARENT_PID", "1");
    expect_refused(&sandbox, &teardown, from_environment);
}

/// The right parent pid starts the run.
///
/// Fails when anything but equality is asked.
#[test]
fn the_right_parent_pid_runs() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let own = std::process::id().to_string();
    expect_ran(run(&sandbox, &teardown).args(["--parent-pid", &own]));
    let script = "\"$@\" --parent-pid $$ -- sh -c 'echo harness; exit 7'; exit $?";
    let guard = sandbox.bare().app().teardown("none").under(["/bin/sh", "-c", script, "sh"]);
    expect_ran(guard);
}

/// `--allow-orphan` skips the check, says so, and does not stop when the starter ends.
///
/// Fails when it skips only a part of it, or still watches.
#[test]
fn an_allowed_orphan_runs_and_says_so() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = run(&sandbox, &teardown).arg("--allow-orphan").under([FIXTURE, "orphan"]);
    let output = guard.output();
    assert_eq!((output.code(), output.text().as_str()), (7, "harness\n"), "{}", output.stderr);
    assert!(output.stderr.contains("orphan"), "says so: {}", output.stderr);
}

/// `--allow-orphan`: the caller ends, the run goes on.
///
/// Fails when PDEATHSIG is set, or the caller's pidfd is watched, in spite of it.
#[test]
fn an_allowed_orphan_outlives_its_caller() {
    let sandbox = Sandbox::new();
    let guard = sandbox.bare().app().teardown("none").arg("--allow-orphan");
    let mut caller = guard.fixture("print-signals USR1=0").called_by_shell().spawn();
    caller.ready();
    let monitor = caller.monitor();
    caller.signal(Signal::SIGKILL);
    assert_eq!(caller.code(), 137);
    kill(monitor, Signal::SIGUSR1).unwrap();
    assert_eq!(caller.signal_line(), "USR1 1", "and no TERM before it");
    sandbox.expect_over(SOON);
}

/// `unshare -pf --mount-proc sh -c "G …; echo $?"`: a healthy child of pid 1 (coreutils 9.10 took it for an orphan).
///
/// Fails when `getppid() == 1` means orphan.
#[test]
fn a_child_of_pid_1_runs() {
    if !can_unshare() {
        return;
    }
    let sandbox = Sandbox::new();
    let script = "\"$@\"; echo \"status $?\"";
    let guard = sandbox.bare().sh("exit 7").under(unshare()).under(["sh", "-c", script, "sh"]);
    let output = guard.output();
    assert_eq!((output.code(), output.text().as_str()), (0, "status 7\n"), "{}", output.stderr);
    let direct = sandbox.bare().sh("exit 7").under(unshare()).under([FIXTURE, "init"]).output();
    assert_eq!(direct.code(), 7, "{}", direct.stderr);
}

/// The guard as pid 1 itself: its parent, outside the namespace, shows as 0.
///
/// Fails when ppid 0 is an orphan's, or pid 1 can't wait for its children.
#[test]
fn pid_1_with_parent_0_runs() {
    if !can_unshare() {
        return;
    }
    let sandbox = Sandbox::new();
    let output = sandbox.bare().sh("exit 7").under(unshare()).output();
    assert_eq!(output.code(), 7, "{}", output.stderr);
}

/// Entered from outside (`nsenter`, `docker exec`): ppid 0 and not pid 1. It runs. (Its caller's end can't be
/// told: a new parent, too, is outside and shows as 0, and after `docker exec` the first one always ends.)
///
/// Fails when ppid 0 is refused, or a death signal is believed where getppid() can't confirm it.
#[test]
fn a_guard_entered_from_outside_its_pid_namespace_runs() {
    if !can_unshare() || !need("root, for nsenter", nix::unistd::geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("unshare");
    command.args(["-pf", "--mount-proc", FIXTURE, "init", FIXTURE, "print-signals"]);
    let namespace = sandbox.spawn(command);
    namespace.ready();
    let init = children(namespace.pid())[0].pid.to_string();
    let enter = ["nsenter", "-t", &init, "-p", "-m", "--"];
    let output = sandbox.bare().sh("exit 7").under(enter).output();
    assert_eq!(output.code(), 7, "{}", output.stderr);
}

/// An init that gives its only child a session of its own, as dumb-init does: a session leader below pid 1 runs.
///
/// Fails when a session leader whose parent is 1 is taken for an orphan wherever pid 1 is no systemd.
#[test]
fn a_session_leader_below_a_small_init_runs() {
    if !can_unshare() {
        return;
    }
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let below = run(&sandbox, &teardown).under(unshare()).under([FIXTURE, "init", "setsid"]);
    expect_ran(below);
    let dumb_init = Command::new("dumb-init").arg("--version").output().is_ok();
    if need("dumb-init", dumb_init) {
        expect_ran(run(&sandbox, &teardown).under(unshare()).under(["dumb-init", "--"]));
    }
}

/// A session leader below systemd that systemd did not start (its SYSTEMD_EXEC_PID is an ancestor's): rule (c).
/// The one that it did start runs.
///
/// Fails when the variable is not compared with the own pid, or its absence means orphan.
#[test]
fn a_session_leader_that_systemd_did_not_start_is_refused() {
    if !can_unshare() {
        return;
    }
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    // pid 1 is known by its name; here an init of ours bears it.
    let systemd = sandbox.path("systemd");
    std::os::unix::fs::symlink(FIXTURE, &systemd).unwrap();
    let below = || {
        let guard = run(&sandbox, &teardown).under(unshare());
        guard.under([systemd.as_os_str(), "init".as_ref(), "setsid".as_ref()])
    };
    expect_refused(&sandbox, &teardown, below().env("SYSTEMD_EXEC_PID", "4242"));
    expect_ran(below());
    let started = below().under(["sh", "-c", "SYSTEMD_EXEC_PID=$$ exec \"$@\"", "sh"]);
    expect_ran(started);
}

/// The parent is gone before the guard's first look: it has no way to know, unless it was told whose child it is.
///
/// Fails when the wrong parent starts a run that nobody waits for.
#[test]
fn a_refused_orphan_names_the_parent_that_it_missed() {
    let sandbox = Sandbox::new();
    let gone = sandbox.shell("exit 0");
    let pid = gone.pid();
    eventually(SOON, "its end", || if alive(pid) { Err("alive") } else { Ok(()) });
    let guard = sandbox.bare().args(["--parent-pid", &pid.to_string()]).sh("echo harness").output();
    assert_eq!((guard.code(), guard.text().as_str()), (125, ""));
    assert!(guard.stderr.contains(&pid.to_string()), "{}", guard.stderr);
    assert!(guard.stderr.contains("nothing was started"), "{}", guard.stderr);
    assert_ne!(pid, Pid::this());
}
