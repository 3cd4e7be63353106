//! System calls that fail, one kind at a time (`strace --inject`), and a `/proc` that is read-only or not there: what the
//! pages say comes of it, and never a hang.
//!
//! With `-D` the tracer is no parent of the guard. A count (`when=`) is each process's own: `when=1` meets the monitor, and
//! `when=2` or `when=3+` the supervisor, which makes that call more often.

use crate::support::*;
use nix::sys::signal::Signal;
use std::process::Command;
use std::time::Duration;

/// What comes of a run with a deadline of 1 s and a teardown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// As without the error: 142, torn down.
    Goes,
    /// 125 and this sentence; nothing runs.
    Refused(&'static str),
    /// 126 and this sentence: the command can't be executed.
    NotRun(&'static str),
    /// 142, and the teardown could not be run, which is said and reported.
    NotTornDown(&'static str),
}

use Outcome::*;

/// The harness of these tests, for an error of its execve(2) alone.
const HARNESS: &str = "-P=harness";
/// The same of the teardown command's.
const SHELL: &str = "-P=shell";

#[rustfmt::skip]
const CASES: [(&str, &[&str], Outcome); 24] = [
    // Without a pidfd the death signal and getppid(2) tell of the parent's end (`docs/design/orphan-check.md`).
    ("pidfd_open:error=ENOSYS", &[], Goes),
    ("pidfd_open:error=EPERM", &[], Goes),
    // Then they stay in the caller's session: less protection, and no reason not to run.
    ("setsid:error=EPERM", &[], Goes),
    ("prctl:error=EINVAL:when=1", &[], Refused("cannot ask for the parent's death signal: ")),
    ("prctl:error=EINVAL:when=2", &[], Refused("cannot become a subreaper: ")),
    ("timerfd_create:error=EMFILE", &[], Refused("cannot make a timer")),
    ("timerfd_create:error=ENOSYS", &[], Refused("cannot make a timer")),
    ("timerfd_settime:error=ENOSYS", &[], Refused("cannot make a timer")),
    ("flock:error=EINTR:when=1+2", &[], Goes),
    ("flock:error=ENOLCK:when=1", &[], Refused("No locks available")),
    ("flock:error=ENOLCK:when=2", &[], Refused("can't be locked: No locks available")),
    ("waitid:error=EINTR:when=1+2", &[], Goes),
    ("ppoll:error=EINTR:when=1+2", &[], Goes),
    ("memfd_create:error=ENOSYS", &[], Refused("cannot make shared memory: ")),
    ("socketpair:error=EMFILE", &[], Refused("cannot make a timer and a socket: ")),
    ("pipe2:error=EMFILE", &[], Refused("cannot make a pipe: ")),
    // The supervisor's third is the worker's gate: the monitor goes on.
    ("pipe2:error=EMFILE:when=3+", &[], Goes),
    ("clone,?clone3,?fork,?vfork:error=EAGAIN:when=1", &[], Refused("cannot start the supervisor: ")),
    ("clone,?clone3,?fork,?vfork:error=ENOMEM:when=1", &[], Refused("cannot start the supervisor: ")),
    ("clone,?clone3,?fork,?vfork:error=EAGAIN:when=2", &[], Goes),
    ("execve:error=ENOMEM", &[HARNESS], NotRun("Out of memory")),
    ("execve:error=EACCES", &[HARNESS], NotRun("not executable for us")),
    ("execve:error=ENOMEM", &[SHELL], NotTornDown("teardown of")),
    ("execve:error=EACCES", &[SHELL], NotTornDown("teardown of")),
];

fn strace() -> bool {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).output().is_ok_and(|out| out.status.success());
    need("strace, and ptrace(2) allowed", works)
}

/// Seen failing with the flocks not made again after EINTR (125), with a timer that can't be set taken for a set one
/// (the deadline never came), and with a supervisor that does not hand over (`pipe2`, `clone`: not torn down).
#[test]
fn a_system_call_that_fails_never_hangs_a_run() {
    if !strace() {
        return;
    }
    in_parallel("a_system_call_that_fails_never_hangs_a_run", CASES.len(), |number, _| {
        let (inject, options, outcome) = CASES[number];
        if let Err(panic) = std::panic::catch_unwind(|| play(inject, options, outcome)) {
            panic!("{inject} {options:?}: {}", words(&*panic));
        }
    });
}

/// The guard's command line under a tracer that makes these calls fail.
fn traced(sandbox: &Sandbox, inject: &str, options: &[&str]) -> Vec<String> {
    let harness = sandbox.path("harness").display().to_string();
    let path = |option: &&str| match *option {
        HARNESS => format!("-P{harness}"),
        SHELL => "-P/bin/sh".to_owned(),
        other => other.to_owned(),
    };
    let tracer = ["strace", "-f", "-D", "-qq", "-o", "/dev/null", "-e"].map(str::to_owned);
    tracer.into_iter().chain([format!("inject={inject}")]).chain(options.iter().map(path)).collect()
}

fn play(inject: &str, options: &[&str], outcome: Outcome) {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    copy_program(FIXTURE, sandbox.path("harness"));
    let guard = sandbox.run().app().teardown(teardown.command()).deadline("1s").report();
    let guard = guard.harness([sandbox.path("harness").as_os_str(), "print-signals".as_ref(), "TERM=0".as_ref()]);
    let mut guard = guard.under(traced(&sandbox, inject, options)).spawn();
    let exit = guard.wait(SOON);
    // The tracer ends a moment after those that it traces.
    sandbox.expect_over(Duration::from_secs(5));
    let (stderr, report) = (guard.stderr(), sandbox.report());
    let (code, words) = match outcome {
        Goes => (142, ""),
        Refused(words) => (125, words),
        NotRun(words) => (126, words),
        NotTornDown(words) => (142, words),
    };
    assert_eq!(exit.code, code, "{stderr}");
    assert!(stderr.contains(words), "{words:?} not in {stderr}");
    assert_eq!(report["exit_code"], code, "{report}");
    if outcome == Goes {
        teardown.expect_one()
    } else {
        teardown.expect_none()
    }
    let failed = report["teardown"]["result"] == "failed";
    assert_eq!(failed, matches!(outcome, NotTornDown(_)), "{report}");
}

/// The caller gets SIGKILL and there is no pidfd of it: the death signal tells.
///
/// Seen failing without the death signal: the run went on.
#[test]
fn the_caller_s_end_is_noticed_without_pidfd() {
    if !strace() {
        return;
    }
    for error in ["ENOSYS", "EPERM"] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.bare().app().teardown(teardown.command()).fixture("print-signals TERM=0");
        let guard = guard.called_by_shell().under(traced(&sandbox, &format!("pidfd_open:error={error}"), &[]));
        let caller = guard.spawn();
        caller.ready();
        caller.signal(Signal::SIGKILL);
        assert_eq!(caller.signal_line(), "TERM 1");
        sandbox.expect_over(SOON);
        teardown.expect_one();
    }
}

/// EINTR and ENOLCK of a lock that is waited for: the wait goes on, or ends with a sentence.
///
/// Seen failing with the waiting thread's flock not made again after EINTR.
#[test]
fn a_wait_for_a_lock_is_interrupted_or_can_t_go_on() {
    if !strace() {
        return;
    }
    let sandbox = Sandbox::new();
    let lock = FileLock::take(&sandbox.lock_path(APP));
    let tracer = traced(&sandbox, "flock:error=EINTR:when=1+2", &[]);
    let mut guard = sandbox.run().app().teardown("none").sh("exit 7").under(tracer).spawn();
    guard.expect_stderr("waiting for app lock");
    drop(lock);
    guard.expect_code(7);
    sandbox.expect_over(SOON);
}

/// `/proc` that can only be read: nothing differs.
///
/// Seen failing with `/proc` not there: then survivors are not found.
#[test]
fn a_read_only_proc_is_as_good_as_any() {
    if !need("root, to mount", nix::unistd::geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.run().app().teardown(teardown.command()).args(["--teardown-on", "always"]);
    let guard =
        guard.under(mounted("mount -o remount,ro,bind /proc /proc")).sh("\"$F\" ignore-term >/dev/null & exit 0");
    let mut guard = guard.spawn();
    guard.expect_code(0);
    teardown.expect_one();
    sandbox.expect_nothing_left();
    assert!(guard.stderr().contains("that outlived the harness"), "{}", guard.stderr());
}

/// No `/proc`: the run, its deadline and its teardown are as always, since wait(2) tells who is there.
///
/// Seen failing with a lock that `/proc` does not show taken for a lost one: nothing torn down.
#[test]
fn without_proc_a_run_ends_and_is_torn_down() {
    if !need("root, to mount", nix::unistd::geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.run().app().teardown(teardown.command()).deadline("1s").fixture("print-signals TERM=0");
    let mut guard = guard.under(mounted("mount -t tmpfs none /proc")).spawn();
    guard.expect_code(142);
    teardown.expect_one();
    sandbox.expect_nothing_left();
    assert!(!guard.stderr().contains("unlocked"), "{}", guard.stderr());
}

/// No `/proc`, and a child of the harness that stays: it can't be found, which is said, and 0 becomes 70; no hang.
///
/// Seen failing with an empty list of names for those that could not be killed.
#[test]
fn without_proc_survivors_are_given_up_and_said() {
    if !need("root, to mount", nix::unistd::geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let guard = sandbox.run().app().teardown("none").under(mounted("mount -t tmpfs none /proc"));
    let mut guard = guard.sh("\"$F\" ignore-term >/dev/null & exit 0").spawn();
    let exit = guard.expect_code(70);
    within("the end", exit.after, Duration::from_secs(6)..Duration::from_secs(12));
    assert!(guard.stderr().contains("could not kill: children that /proc does not show"), "{}", guard.stderr());
    assert!(sandbox.lock_is_free(), "the lock is held");
}

fn mounted(mount: &str) -> [String; 5] {
    ["unshare", "-m", "sh", "-c", &format!("{mount} && exec \"$0\" \"$@\"")].map(str::to_owned)
}
