//! `--stop-on-closed-output`: nobody reads our output any more, so the runner has crashed: stop, 141.

use crate::support::*;
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, PipeReader};

/// A harness that tells a file what it was asked, and stays out of the closed pipe.
fn harness(sandbox: &Sandbox) -> String {
    let file = sandbox.path("asked").display().to_string();
    format!(
        "trap 'echo TERM >> {file}; exit 0' TERM; trap 'echo USR1 >> {file}' USR1; echo ready; \
             while :; do sleep 0.05; done"
    )
}

/// Starts `guard` with stdout or stderr on a pipe of ours; gives that pipe's reading end, harness ready.
fn with_pipe(sandbox: &Sandbox, guard: Guard<'_>, stderr: bool) -> (Proc, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let script = harness(sandbox);
    if stderr {
        let guard = guard.stderr(writer).sh(&script).spawn();
        guard.ready();
        return (guard, reader);
    }
    let guard = guard.stdout(writer).sh(&script).spawn();
    let mut lines = BufReader::new(reader);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (guard, lines.into_inner())
}

/// Fails when the closed pipe is only seen by a write, which a silent run never does.
#[test]
fn a_closed_pipe_stops_the_run_when_asked() {
    for stderr in [false, true] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.bare().app().teardown(teardown.command()).report();
        let (mut guard, reader) = with_pipe(&sandbox, guard.arg("--stop-on-closed-output"), stderr);
        drop(reader);
        guard.expect_code(141);
        assert_eq!(std::fs::read_to_string(sandbox.path("asked")).unwrap(), "TERM\n");
        teardown.expect_one();
        assert_eq!(teardown.value("start", 0, "cause"), "output-closed");
        assert_eq!(sandbox.report()["cause"], "output-closed");
        sandbox.expect_nothing_left();
    }
}

/// Without the option a closed pipe changes nothing.
///
/// Fails when the guard stops, or dies of SIGPIPE at its next line.
#[test]
fn a_closed_pipe_changes_nothing_by_default() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command());
    let (mut guard, reader) = with_pipe(&sandbox, guard, false);
    drop(reader);
    guard.signal(Signal::SIGUSR1);
    let asked = sandbox.path("asked");
    eventually(SOON, "the forwarded signal", || {
        let text = std::fs::read_to_string(&asked).unwrap_or_default();
        if text == "USR1\n" { Ok(()) } else { Err(text) }
    });
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    teardown.expect_one();
}

/// A pipe that is read, a file and /dev/null are no closed output.
///
/// Fails when anything that poll(2) can't watch counts as closed.
#[test]
fn an_open_output_does_not_stop_the_run() {
    let sandbox = Sandbox::new();
    let file = std::fs::File::create(sandbox.path("out")).unwrap();
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    for stdout in [Some(file), Some(null), None] {
        let mut guard = sandbox.bare().arg("--stop-on-closed-output").sh("sleep 0.5; exit 7");
        if let Some(stdout) = stdout {
            guard = guard.stdout(stdout);
        }
        guard.spawn().expect_code(7);
    }
}

/// A socket as stdout may have something to read for the harness: the guard, which waits for its end, must neither take
/// that for the end nor spin on it.
///
/// Seen failing when outputs were polled for reading: 141.
#[test]
fn a_socket_with_something_to_read_is_no_closed_output() {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    let sandbox = Sandbox::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"for the harness\n").unwrap();
    let guard = sandbox.run().arg("--stop-on-closed-output").stdout(OwnedFd::from(theirs)).sh("sleep 0.7; exit 7");
    let mut guard = guard.spawn();
    let supervisor = guard.supervisor();
    // Clock ticks (1/100 s) in user and system mode, proc(5).
    let ticks = || -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
    };
    let mut used = 0;
    eventually(SOON, "the supervisor's end", || match ticks() {
        Some(now) if alive(supervisor) => {
            used = now;
            Err("alive")
        }
        _ => Ok(()),
    });
    guard.expect_code(7);
    assert!(used < 20, "{used} ticks of processor time in 0.7 s");
}
