//! `ccci-guard doctor`: each line about this host seen both well and not, and what the command as such promises.
//!
//! The programs that it asks are in `doctor_tools.rs`. What no healthy kernel does is done by a seccomp filter.

mod host;
mod seccomp;

pub use host::{Host, Lines, NAMES};

use crate::locks_command::{Nobody, refused, unshared};
use crate::support::*;
use nix::errno::Errno;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Fails when any line takes a healthy host for a sick one.
#[test]
fn a_host_that_is_ready_has_no_other_line() {
    let host = Host::new();
    let lines = host.lines();
    lines.expect_others_ok(&[]);
    lines.expect("lock-directory", "ok", host.0.lock_dir().to_str().unwrap());
    lines.expect("runs-directory", "ok", host.0.runs_dir().to_str().unwrap());
    lines.expect("canonical-abra-dir", "ok", host.0.path("home/.abra").to_str().unwrap());
    assert_eq!(host.0.left().len(), 0);
}

/// For people: a line each, the next step below it where there is one; nothing on stderr; colour on terminals only.
/// To see it fail: leave the next step out.
#[test]
fn text_has_a_line_each_and_the_next_step() {
    let host = Host::new();
    host.without("abra");
    let out = host.doctor(&[]).output();
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""), "a warning is no failure");
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), NAMES.len() + 1, "{text}");
    let next = lines.iter().position(|line| line.trim_start().starts_with("next: ")).expect("a next step");
    assert!(lines[next - 1].starts_with("warning  abra "), "{text}");
    assert!(lines[next].contains("CCCI_ABRA"), "{text}");
    for (name, line) in NAMES.iter().zip(lines.iter().filter(|line| !line.starts_with(' '))) {
        assert_eq!(line.split_whitespace().nth(1), Some(*name), "{text}");
    }
    assert!(!text.contains('\x1b'), "{text:?}");
    host.without("docker");
    assert_eq!(host.doctor(&[]).output().code(), 1, "an error line");

    let terminal = Pty::new();
    let bin = format!("PATH={}", host.0.path("bin").display());
    let mut program = terminal.spawn(&host.0, &["env", &bin, GUARD, "doctor"]);
    assert_eq!(program.code(), 1);
    let at = terminal.expect(0, "\x1b[1;31merror  \x1b[0m  docker ");
    let mut program = terminal.spawn(&host.0, &["env", &bin, "NO_COLOR=1", GUARD, "doctor"]);
    assert_eq!(program.code(), 1);
    terminal.expect(at, "janitor-timer ");
    let plain = terminal.expect(at, "error    docker ");
    assert!(!terminal.shown()[plain - 20..].contains('\x1b'), "{}", terminal.shown());
}

/// Fails when a usage error is told with the status of an unready host, or of a run.
#[test]
fn usage_errors_are_2() {
    let host = Host::new();
    for (args, words) in [
        (&["--no-such-option"] as &[&str], "--no-such-option"),
        (&["surplus"], "surplus"),
        (&["--deadline", "120"], "needs a unit"),
        (&["--deadline", "0s"], "--deadline"),
        (&["--deadline", "50M"], "minutes are m"),
    ] {
        refused(&host.doctor(args).output(), 2, words);
    }
    refused(&host.doctor(&[]).env("CCCI_DEADLINE", "120").output(), 2, "CCCI_DEADLINE='120'");
    assert!(host.calls().is_empty(), "{:?}", host.calls());
}

/// Missing, where it can be made and where not; no directory; closed to this user.
/// To see it fail: make the directory on the way, or look at its mode only (root may write anywhere).
#[test]
fn the_lock_directory_is_looked_at() {
    let host = Host::new();
    let missing = host.0.path("made-later");
    let lines = host.look(host.doctor(&["--lock-dir", missing.to_str().unwrap()]));
    lines.expect("lock-directory", "warning", "is not there yet");
    lines.expect("lock-directory", "warning", missing.to_str().unwrap());
    lines.expect("lock-conflict", "warning", "see lock-directory");
    lines.expect_others_ok(&["lock-directory", "lock-conflict"]);
    assert!(!missing.exists(), "it changes nothing");

    let lines = host.look(host.doctor(&[]).env("CCCI_APP_LOCK_DIR", host.0.path("no/such")));
    lines.expect("lock-directory", "error", "nor can it be made");
    lines.expect("lock-directory", "error", "CCCI_APP_LOCK_DIR");

    fs::write(host.0.path("file"), "").unwrap();
    let lines = host.look(host.doctor(&[]).env("CCCI_APP_LOCK_DIR", host.0.path("file")));
    lines.expect("lock-directory", "error", "CCCI_APP_LOCK_DIR");

    let Some(nobody) = Nobody::in_sandbox(&host.0) else { return };
    let lines = host.look(nobody.runs(host.doctor(&[])));
    lines.expect("lock-directory", "error", "can't be written to by this user");
    lines.expect("lock-conflict", "error", "cannot lock a file there");
    fs::set_permissions(host.0.lock_dir(), fs::Permissions::from_mode(0o1777)).unwrap();
    let lines = host.look(nobody.runs(host.doctor(&[])));
    lines.expect("lock-directory", "ok", "locks");
    lines.expect("lock-conflict", "ok", "refused");
    assert_nothing_in(&host.0.lock_dir());
}

#[track_caller]
fn assert_nothing_in(directory: &Path) {
    let left: Vec<_> = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// A flock(2) that always succeeds, as on a file system that only pretends: locks there exclude nobody.
/// To see it fail: lock once only. Whatever comes of it, nothing stays in the lock directory.
#[test]
fn locks_that_exclude_nobody_are_found_out() {
    let host = Host::new();
    host.lines().expect("lock-conflict", "ok", "refused");
    assert_nothing_in(&host.0.lock_dir());
    let Some(filter) = seccomp::filter("flock", None, 0) else { return };
    let lines = host.look(host.doctor(&[]).under(filter));
    lines.expect("lock-conflict", "error", "exclude nobody");
    lines.expect("lock-conflict", "error", "CCCI_APP_LOCK_DIR");
    assert_nothing_in(&host.0.lock_dir());
    // None at all: ENOLCK, as NFS without its lock daemon has it.
    let Some(filter) = seccomp::filter("flock", None, Errno::ENOLCK as i32) else { return };
    host.look(host.doctor(&[]).under(filter)).expect("lock-conflict", "error", "cannot lock a file there");
    assert_nothing_in(&host.0.lock_dir());
}

/// The three system calls that a guard lives on, each taken away: the line says which, and all others are still there.
/// To see it fail: call for the guard's own use first, and end with that error.
#[test]
fn a_kernel_that_refuses_is_told() {
    let host = Host::new();
    host.lines().expect("kernel", "ok", "pidfd work");
    let cases = [
        (seccomp::filter("pidfd_open", None, Errno::ENOSYS as i32), "warning", "pidfd_open"),
        (seccomp::filter("prctl", Some(libc::PR_SET_PDEATHSIG), Errno::EPERM as i32), "error", "parent-death"),
        (seccomp::filter("prctl", Some(libc::PR_SET_CHILD_SUBREAPER), Errno::EPERM as i32), "error", "subreaper"),
    ];
    for (filter, status, words) in cases {
        let Some(filter) = filter else { return };
        let lines = host.look(host.doctor(&[]).under(filter));
        lines.expect("kernel", status, words);
        lines.expect("kernel", status, "seccomp");
    }
}

/// Fails when the guard's own mask is looked at, which has its own signals in it.
#[test]
fn odd_signals_from_the_caller_are_named() {
    let host = Host::new();
    let with =
        |options: &[&str]| host.look(host.doctor(&[]).under([FIXTURE, "exec-with"]).under(options).under(["--"]));
    let lines = with(&["--default-all"]);
    lines.expect("signals", "ok", "nothing odd");
    let lines = with(&["--default-all", "--block", "TERM", "--block", "USR1"]);
    lines.expect("signals", "warning", "TERM");
    lines.expect("signals", "warning", "USR1");
    lines.expect_others_ok(&["signals"]);
    with(&["--default-all", "--block-all"]).expect("signals", "warning", "HUP");
    let lines = with(&["--default-all", "--ignore", "CHLD"]);
    lines.expect("signals", "warning", "SIGCHLD is ignored");
    // The programs are called, and their ends seen, all the same.
    lines.expect_others_ok(&["signals"]);
}

/// Missing, no directory, closed to this user. Fails when root's rights are taken for everybody's.
#[test]
fn the_runs_directory_is_looked_at() {
    let host = Host::new();
    let missing = host.0.path("no/such");
    let lines = host.look(host.doctor(&["--runs-dir", missing.to_str().unwrap()]));
    lines.expect("runs-directory", "warning", missing.to_str().unwrap());
    lines.expect("runs-directory", "warning", "CCCI_RUNS_DIR");
    lines.expect_others_ok(&["runs-directory"]);
    fs::write(host.0.path("file"), "").unwrap();
    let lines = host.look(host.doctor(&[]).env("CCCI_RUNS_DIR", host.0.path("file")));
    lines.expect("runs-directory", "error", "no directory");
    let Some(nobody) = Nobody::in_sandbox(&host.0) else { return };
    host.look(nobody.runs(host.doctor(&[]))).expect("runs-directory", "warning", "can't be written to by this user");
}

/// Found in the home, named, without servers, not there at all. Fails with a named one's `servers` not looked for.
#[test]
fn the_host_s_own_abra_dir_is_looked_for() {
    let host = Host::new();
    host.lines().expect("canonical-abra-dir", "ok", "found in the home");
    let own = host.0.path("home/.abra");
    let lines = host.look(host.doctor(&["--canonical-abra-dir", own.to_str().unwrap()]));
    lines.expect("canonical-abra-dir", "ok", own.to_str().unwrap());
    let lines = host.look(host.doctor(&[]).env("CCCI_CANONICAL_ABRA_DIR", host.0.path("work")));
    lines.expect("canonical-abra-dir", "error", "has no directory 'servers'");
    lines.expect("canonical-abra-dir", "error", "CCCI_CANONICAL_ABRA_DIR");
    // Nobody has no home that /etc/passwd could name.
    let Some(nobody) = Nobody::in_sandbox(&host.0) else { return };
    fs::remove_dir(host.0.path("home/.abra/servers")).unwrap();
    let lines = host.look(nobody.runs(host.doctor(&[])));
    lines.expect("canonical-abra-dir", "warning", "CCCI_CANONICAL_ABRA_DIR");
    // With abra on PATH a run would be refused.
    lines.expect("teardown", "error", "no ABRA_DIR of this host");
    lines.expect("teardown", "error", "CCCI_CANONICAL_ABRA_DIR");
    host.without("abra");
    host.look(nobody.runs(host.doctor(&[]))).expect("teardown", "ok", "by the Swarm sweep");
}

/// Against the limit of the runner above: Drone's default of an hour, or the one that an admin tells in minutes.
/// To see it fail: compare with `>` only, or take the minutes for seconds.
#[test]
fn the_deadline_is_held_against_the_runner_s_limit() {
    let host = Host::new();
    let look = |variables: &[(&str, &str)]| {
        let guard = variables.iter().fold(host.doctor(&[]), |guard, (name, value)| guard.env(name, value));
        host.look(guard)
    };
    look(&[]).expect("deadline", "ok", "none asked about");
    look(&[("CCCI_DEADLINE", "2h")]).expect("deadline", "ok", "2h; no runner above");
    look(&[("DRONE", "true")]).expect("deadline", "warning", "set CCCI_DEADLINE");
    for told in ["2h", "1h"] {
        let lines = look(&[("DRONE", "true"), ("CCCI_DEADLINE", told)]);
        lines.expect("deadline", "error", "is not shorter than Drone's default limit of 1h");
        lines.expect("deadline", "error", "CCCI_DEADLINE to 50m");
        lines.expect_others_ok(&["deadline"]);
    }
    let lines = look(&[("DRONE", "true"), ("CCCI_DEADLINE", "55m")]);
    lines.expect("deadline", "warning", "for the teardown");
    look(&[("DRONE", "true"), ("CCCI_DEADLINE", "50m")]).expect("deadline", "ok", "50m, before Drone's default");
    let told = [("DRONE_BUILD_NUMBER", "7"), ("DRONE_REPO_TIMEOUT", "180")];
    look(&[told[0], told[1], ("CCCI_DEADLINE", "2h")]).expect("deadline", "ok", "before the runner's limit of 3h");
    look(&[told[0], told[1], ("CCCI_DEADLINE", "3h")]).expect("deadline", "error", "the runner's limit of 3h");
    for odd in ["", "0", "-5", "1h", "99999999999999999999"] {
        let lines = look(&[("DRONE", "true"), ("DRONE_REPO_TIMEOUT", odd), ("CCCI_DEADLINE", "2h")]);
        lines.expect("deadline", "error", "Drone's default limit of 1h");
    }
    let lines = host.look(host.doctor(&["--deadline", "50m"]).env("DRONE", "true").env("CCCI_DEADLINE", "2h"));
    lines.expect("deadline", "ok", "50m");
}

/// A reader that closes early is a quiet end; a full disk is a sentence and status 1.
/// To see it fail: `println!`, which panics; or forget what write(2) said.
#[test]
fn an_output_that_takes_nothing_is_no_panic() {
    let host = Host::new();
    for json in [&[] as &[&str], &["--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = host.doctor(json).stdout(writer).output();
        assert_eq!((out.code(), out.stderr.as_str()), (0, ""), "{json:?}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        refused(&host.doctor(json).stdout(full).output(), 1, "No space left on device");
    }
    let path = format!("PATH='{}'", host.0.path("bin").display());
    let mut shell = host.0.shell(&format!("{path} {} >&-", host.doctor(&[]).line()));
    assert!(matches!(shell.code(), 0 | 1), "{}", shell.stderr());
    assert!(!shell.stderr().contains("panicked"), "{}", shell.stderr());
}

/// A lock directory that became read-only, and a host without /proc: told in the lines, all others as ever.
/// To see it fail: look at the directory's mode only; or list /proc with `unwrap`.
#[test]
fn a_read_only_lock_directory_and_no_proc_are_no_panic() {
    let Some(unshare) = unshared("m") else { return };
    let host = Host::new();
    let locks = host.0.lock_dir();
    let read_only = format!("mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}'", locks.display());
    let under = |before: &str| {
        // mount(8) is on the tests' PATH, the stand-ins alone on the doctor's.
        let script = format!("{before} && PATH='{}' exec \"$@\"", host.0.path("bin").display());
        let guard = host.doctor(&[]).under(&unshare).under(["/bin/sh", "-c", &script, "sh"]);
        host.look(guard.env("PATH", std::env::var("PATH").unwrap_or_default()))
    };
    let lines = under(&read_only);
    lines.expect("lock-directory", "error", "CCCI_APP_LOCK_DIR");
    lines.expect("lock-conflict", "error", "Read-only file system");
    lines.expect_others_ok(&["lock-directory", "lock-conflict"]);
    let lines = under("mount -t tmpfs none /proc");
    lines.expect_others_ok(&["kernel"]);
}
