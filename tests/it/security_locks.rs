//! A lock directory in which others may write, as /run/lock is on many hosts: their lines are words, their locks are
//! respected, and neither ends a round or a run.

use crate::lock_as_nobody::{give, mode};
use crate::support::{APP, Apps, FileLock, GUARD, NOBODY, SOON, Sandbox, expect_visible, for_nobody};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::process::CommandExt;
use std::time::{Duration, SystemTime};

/// Lines that a holder may write. `PID` is its own: the line of another pid says nothing of it.
fn lines() -> Vec<Vec<u8>> {
    let json = |run_id: &str, command: &str, deadline: &str| {
        format!("{{\"pid\":PID,\"run_id\":{run_id},\"command\":{command},\"deadline_at\":{deadline}}}\n").into_bytes()
    };
    let evil = "\"\\u001b[2J\\n\\u009b\\u202e\\u0000ccci-guard: torn down\"";
    vec![
        json("\"1\"", "\"x\"", "18446744073709551615"),
        json("\"1\"", "\"x\"", "0"),
        json(evil, evil, "null"),
        json("\"1\"", &format!("\"{}\"", "y".repeat(3500)), "null"),
        json("\"1\"", &format!("\"{}\"", "y".repeat(1 << 20)), "null"),
        json("[[]]", "{}", "-1"),
        b"{\"pid\":-1,\"run_id\":\"1\",\"command\":\"x\",\"deadline_at\":null,\"teardown\":true}\n".to_vec(),
        b"{\"pid\":99999999999999999999}\n".to_vec(),
        "[".repeat(1 << 16).into_bytes(),
        b"\xff\xfe\x00\x00\n".to_vec(),
        vec![0; 4096],
    ]
}

/// Found a janitor that panicked: twice a deadline of the year 584942417355 is no duration.
/// Seen failing with that multiplication as it was, and with the table's cells as they are.
#[test]
fn whatever_a_holder_writes_is_only_a_word() {
    for line in lines() {
        let sandbox = Sandbox::new();
        let apps = Apps::new(&sandbox);
        apps.add(APP);
        let holder = FileLock::take(&sandbox.lock_path(APP));
        let text = line.split(|byte| *byte == b'P').collect::<Vec<_>>();
        let line = match text.as_slice() {
            [before, after] => [before, holder.pid().to_string().as_bytes(), &after[2..]].concat(),
            _ => line,
        };
        let shown = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
        fs::write(sandbox.lock_path(APP), &line).unwrap();
        let file = fs::File::options().write(true).open(sandbox.lock_path(APP)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(9 * 3600)).unwrap();
        let run =
            sandbox.run().app().args(["--teardown", "none", "--lock-timeout", "0s"]).harness(["touch", "started"]);
        for (guard, code) in [
            (apps.janitor(), 0),
            (apps.janitor().arg("--json"), 0),
            (sandbox.plain().arg("locks"), 0),
            (sandbox.plain().args(["locks", "--json"]), 0),
            (sandbox.plain().args(["reap", APP, "--zone", "ci.example.net", "--list-cmd", "true"]), 75),
            (run, 75),
        ] {
            let words = guard.line();
            let out = guard.output();
            assert_eq!(out.code(), code, "{words} with {shown:?}: {}", out.stderr);
            expect_visible(&words, &out.text());
            expect_visible(&words, &out.stderr);
            assert!(out.text().len() + out.stderr.len() < 20_000, "{words} with {shown:?}");
        }
        assert!(apps.has(APP) && !sandbox.path("work/started").exists(), "{shown:?}");
        assert_eq!(fs::read(sandbox.lock_path(APP)).unwrap(), line, "nobody but the holder writes the line");
    }
}

/// In a directory that everybody may write to, everybody may keep a run waiting; root's too. It says by whom, steals
/// nothing, and goes on when that one is gone.
/// Fails with a foreign holder taken for none.
#[test]
fn a_file_that_another_user_keeps_locked() {
    let Some((sandbox, fixture)) = for_nobody() else {
        return;
    };
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    give(&sandbox.lock_dir(), 0);
    mode(&sandbox.lock_dir(), 0o1777);
    let mut command = sandbox.command(&fixture);
    command.arg("hold-lock").arg(sandbox.lock_path(APP)).uid(NOBODY).gid(NOBODY);
    let stranger = sandbox.spawn(command);
    let pid = stranger.ready_pid();
    let mut root = sandbox.run().app().args(["--teardown", "none"]).harness(["touch", "started"]).spawn();
    root.expect_stderr(&format!("held by pid {pid}"));
    root.expect_stderr("ccci-fixture");
    let out = apps.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().starts_with(&format!("{APP}  live  ")), "{}", out.text());
    assert!(apps.has(APP) && !sandbox.path("work/started").exists());
    stranger.signal(Signal::SIGKILL);
    assert_eq!(root.wait(SOON).code, 0, "{}", root.stderr());
    assert!(sandbox.path("work/started").exists());
}

/// The line that a run writes into somebody else's file is for its owner to read, and nothing else of the run is there.
/// Fails with the environment, or anything but the few keys, in the line.
#[test]
fn what_a_run_writes_into_a_lock_file_is_little() {
    let sandbox = Sandbox::new();
    let script = format!("cat '{}'", sandbox.lock_path(APP).display());
    let out = sandbox.run().app().args(["--teardown", "none", "--deadline", "1h"]).sh(&script).output();
    assert_eq!(out.code(), 0, "{} {GUARD}", out.stderr);
    let line: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["command", "deadline_at", "pid", "pid_ns", "run_id"]);
}
