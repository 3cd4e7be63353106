//! The line in a lock file is a hint for people: written by the holder alone, read by nobody who decides.

use crate::lock_holder::Holder;
use crate::support::{APP, Guard, SOON, Sandbox, eventually};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

fn guard(sandbox: &Sandbox) -> Guard<'_> {
    sandbox.run().app().args(["--teardown", "none"])
}

/// Seen failing with the file not cut before the line is written.
#[test]
fn the_holder_says_who_it_is() {
    let sandbox = Sandbox::new();
    // A longer line of an earlier holder must not show through at the end.
    fs::write(sandbox.lock_path(APP), format!("{}\n", "x".repeat(5000))).unwrap();
    let before = SystemTime::now() - Duration::from_secs(1);
    let holder = guard(&sandbox).args(["--run-id", "1187", "--deadline", "2h"]).sh("echo ready; sleep 60").spawn();
    holder.ready();
    let text = eventually(SOON, "one line", || {
        let text = fs::read_to_string(sandbox.lock_path(APP)).unwrap();
        if text.contains("deadline_at") { Ok(text) } else { Err(text) }
    });
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{text:?}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["pid"], holder.monitor().as_raw());
    assert_eq!(line["run_id"], "1187");
    assert_eq!(line["command"], "/bin/sh -c echo ready; sleep 60");
    let file = fs::metadata(sandbox.lock_path(APP)).unwrap();
    let modified = file.modified().unwrap();
    assert!(modified >= before && modified <= SystemTime::now(), "the time it was taken: {modified:?}");
}

/// Waiting, giving up, being refused, being stopped: none of it touches the holder's line, nor its time.
/// Seen failing with the file truncated at the open.
#[test]
fn a_waiter_never_changes_the_holder_s_line() {
    let sandbox = Sandbox::new();
    let holder = guard(&sandbox).args(["--run-id", "1187"]).sh("echo ready; sleep 60").spawn();
    holder.ready();
    let path = sandbox.lock_path(APP);
    let look = || {
        let file = fs::metadata(&path).unwrap();
        (fs::read(&path).unwrap(), file.mtime(), file.mtime_nsec(), file.ino(), file.mode())
    };
    let before = look();
    assert!(!before.0.is_empty());

    assert_eq!(guard(&sandbox).args(["--lock-timeout", "0s"]).harness(["true"]).output().code(), 75);
    assert_eq!(guard(&sandbox).args(["--lock-timeout", "100ms"]).harness(["true"]).output().code(), 75);
    assert_eq!(sandbox.exec().app().args(["--lock-timeout", "0s"]).harness(["true"]).output().code(), 75);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut waiter = guard(&sandbox).harness(["true"]).spawn();
        waiter.expect_stderr("waiting for app lock");
        assert_eq!(look(), before, "while one waits");
        waiter.signal(signal);
        assert_eq!(waiter.code(), 128 + signal as i32);
    }
    assert_eq!(look(), before);
}

/// Pid reuse, another boot, garbage, nothing, far too much: flock alone decides.
/// Seen failing with the line in the file as the only source.
#[test]
fn whatever_the_line_says_flock_decides() {
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    let living = std::process::id();
    let lines: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\n".to_vec(),
        b"garbage".to_vec(),
        b"\xff\xfe\0\0".to_vec(),
        b"{\"pid\":".to_vec(),
        b"{\"pid\":\"x\",\"run_id\":7}\n".to_vec(),
        format!("{{\"pid\":{living},\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":null}}\n").into_bytes(),
        b"{\"pid\":1,\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":null,\"boot_id\":\"other\"}\n".to_vec(),
        b"{\"pid\":4194303,\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":1}\n".to_vec(),
        b"{\"pid\":-1,\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":null}\n".to_vec(),
        b"{\"pid\":1,\"run_id\":\"a\\u001b[2Jb\\nc\",\"command\":\"\\u001b]0;x\\u0007\\r\\n\",\"deadline_at\":null}\n"
            .to_vec(),
        vec![b'['; 1 << 20],
    ];
    for line in lines {
        let what = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        // Free: it is had at once, whatever stands there.
        fs::write(&path, &line).unwrap();
        let out = guard(&sandbox).args(["--lock-timeout", "0s"]).harness(["true"]).output();
        assert_eq!(out.code(), 0, "{what:?}, free; {}", out.stderr);
        // Held: it is not had, and the words about it are one clean line.
        fs::write(&path, &line).unwrap();
        let held = Holder::take(&sandbox, &path);
        let out = guard(&sandbox).args(["--lock-timeout", "0s"]).harness(["true"]).output();
        assert_eq!(out.code(), 75, "{what:?}, held; {}", out.stderr);
        assert!(out.stderr.lines().all(|line| line.starts_with("ccci-guard: ")), "{what:?}: {:?}", out.stderr);
        assert!(!out.stderr.contains('\x1b') && !out.stderr.contains('\r'), "{what:?}: {:?}", out.stderr);
        assert!(out.stderr.len() < 2000, "{what:?}: {} bytes of message", out.stderr.len());
        // The holder by flock is another than the line says; a line of somebody else is not taken for its own.
        let named = out.stderr.contains(&format!("by pid {}", held.pid()));
        assert!(named, "{what:?}: {:?}", out.stderr);
        assert_eq!(fs::read(&path).unwrap(), line, "{what:?}: not ours to write");
        held.release();
    }
}

/// A command line of any length or content stays one line of JSON.
/// Seen failing with the line put together by `format!`.
#[test]
fn any_command_makes_a_line() {
    let sandbox = Sandbox::new();
    let long = "y".repeat(100_000);
    for word in ["a\nb", "\"", "\\", "\u{1b}[31m", "ü", long.as_str()] {
        let script = format!("cat \"$CCCI_APP_LOCK_PATH\"; : '{word}'");
        let out = guard(&sandbox).sh(&script).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        let text = out.text();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(text.len() < 4096, "{} bytes", text.len());
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(line["command"].as_str().unwrap().starts_with("/bin/sh -c cat"), "{line}");
    }
}

/// A disk that is full costs the hint, not the lock.
/// Seen failing with SIGXFSZ left at its default.
#[test]
fn a_line_that_can_t_be_written_is_no_reason_to_stop() {
    let sandbox = Sandbox::new();
    // The limit on the size of files stands in for the full disk: a write fails with EFBIG and SIGXFSZ.
    let line = guard(&sandbox).sh("exit 7").line();
    let mut shell = sandbox.shell(&format!("ulimit -f 0; {line} 2>&1"));
    assert_eq!(shell.code(), 7, "{}", shell.stdout());
    let mut file = fs::File::options().append(true).open(sandbox.lock_path(APP)).unwrap();
    file.write_all(b"still a file\n").unwrap();
}
