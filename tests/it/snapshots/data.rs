//! Tables and JSON, from real runs and locks; abra, docker and the other programs are stubs with fixed answers.

use super::messages::waiting_run;
use super::{expect, laid_out, narrow, session, settled};
use crate::support::stubs::Stubs;
use crate::support::*;
use regex_lite::Regex;
use std::fs;

const OTHER: &str = "keyc-0b52fe.ci.example.net";
const NEXTCLOUD: &str = "nextcloud.ci.example.net";

/// A command's JSON.
#[track_caller]
fn json(sandbox: &Sandbox, guard: Guard<'_>, code: i32) -> String {
    let out = guard.output();
    assert_eq!(out.code(), code, "{}", out.stderr);
    assert!(!out.stderr.contains("error: "), "{}", out.stderr);
    // Laid out first: what is put in for a number is no JSON.
    let text = laid_out(&out.text());
    settled(sandbox, &text)
}

/// The report of a run that went well, of one that was too slow, and of one that never started.
///
/// Seen failing with the key `survivors_unkillable` renamed.
#[test]
fn reports() {
    let sandbox = Sandbox::new();
    let report = |guard: Guard<'_>, code: i32| {
        let out = guard.args(["--run-id", "1190"]).report().output();
        assert_eq!(out.code(), code, "{}", out.stderr);
        settled(&sandbox, &laid_out(&fs::read_to_string(sandbox.path("report.json")).unwrap()))
    };
    expect("report-well", &report(sandbox.run().sh("exit 7"), 7));
    let slow = sandbox.run().app().teardown("true").deadline("1s").fixture("print-signals TERM=0");
    expect("report-deadline", &report(slow, 142));
    expect("report-not-started", &report(sandbox.run().harness(["no-such-harness"]), 127));
}

/// A round of the janitor: one reaped, one live, one protected; as text, and as JSON. Then the same as a dry run.
///
/// Seen failing with a verdict renamed.
#[test]
fn janitor() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let holder = waiting_run(&sandbox, OTHER).spawn();
    holder.ready();
    let deploy = || [APP, OTHER, "n8n-00ff00.ci.example.net"].iter().for_each(|app| stubs.deploy(app));
    let round = || stubs.janitor().args(["--protect", "n8n-*"]);
    deploy();
    let dry = session(&sandbox, round().arg("--dry-run"));
    let text = session(&sandbox, round());
    expect("janitor", &[dry, text].concat());
    deploy();
    expect("janitor-json", &json(&sandbox, round().arg("--json"), 0));
}

/// `locks`: one held by a run, with a waiter, and one free; columns for a pipe, a table for a terminal, JSON.
///
/// Seen failing with the waiters shown as holders.
#[test]
fn locks() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.lock_path(APP), "").unwrap();
    let holder = waiting_run(&sandbox, NEXTCLOUD).spawn();
    holder.ready();
    let waiter = sandbox.run().args(["--app", NEXTCLOUD, "--teardown", "none"]).sh("exit 7").spawn();
    waiter.expect_stderr("waiting for app lock");
    let look = || sandbox.plain().arg("locks");
    // Monitor and supervisor of the run, and the waiter. The kernel shows /proc/locks a page at a time, so that a line
    // may be missing while others lock and unlock.
    let has_all = |text: &str| text.matches("ccci-guard").count() == 3;
    let complete = |look: &dyn Fn() -> String| {
        eventually(SOON, "holders and waiter", || {
            let text = look();
            if has_all(&text) { Ok(text) } else { Err(text) }
        })
    };
    let since = |text: String| {
        let since = Regex::new("held(\t|  )[0-9ms ]+s(\t|  )").unwrap();
        since.replace(&text, "held${1}TIME$2").into_owned()
    };
    let piped = complete(&|| look().output().text());
    expect("locks-pipe", &since(settled(&sandbox, &piped)));
    let table = complete(&|| {
        let pty = Pty::new();
        let mut shown = pty.spawn(&sandbox, &["/bin/sh", "-c", "\"$G\" locks 2>/dev/null"]);
        assert_eq!(shown.code(), 0);
        let end = pty.expect(0, &format!("{NEXTCLOUD}  "));
        let end = pty.expect(end, "\r\n");
        pty.shown()[..end].replace("\r\n", "\n")
    });
    expect("locks-table", &since(narrow(&settled(&sandbox, &table))));
    expect("locks-json", &complete(&|| json(&sandbox, look().arg("--json"), 0)));
    expect("locks-one-json", &json(&sandbox, look().args([APP, "--json"]), 0));
}

/// A host that is ready, and one that has nothing: programs that answer, and an empty PATH.
///
/// Seen failing with one word less in a check.
#[test]
fn doctor() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    fs::create_dir_all(sandbox.path("bin")).unwrap();
    fs::create_dir_all(sandbox.path("empty")).unwrap();
    for (name, answer) in
        [("git", "git version 2.47.3"), ("abra", "abra version 0.10.1"), ("docker", "27.5.1"), ("systemctl", "active")]
    {
        program(&sandbox.path("bin").join(name), &format!("#!/bin/sh\necho '{answer}'\n"));
    }
    let ready = || {
        let doctor = sandbox.plain().default_signals().args(["doctor", "--deadline", "50m"]);
        doctor.env("PATH", sandbox.path("bin")).env("DRONE_BUILD_NUMBER", "1190")
    };
    let bare = || {
        let doctor = sandbox.plain().default_signals().args(["doctor", "--lock-dir", "/dev/null/locks"]);
        let doctor = doctor.args(["--canonical-abra-dir", "/dev/null/abra", "--runs-dir", "/dev/null/runs"]);
        doctor.env("PATH", sandbox.path("empty")).env("DRONE_BUILD_NUMBER", "1190")
    };
    let text = |guard: Guard<'_>| settled(&sandbox, &narrow(&guard.output().text()));
    expect("doctor-ready", &text(ready()));
    expect("doctor-bare", &text(bare()));
    expect("doctor-ready-json", &json(&sandbox, ready().arg("--json"), 0));
    expect("doctor-bare-json", &json(&sandbox, bare().arg("--json"), 1));
}

/// `abra-dir`: made, listed, and what `state` shows of a process.
///
/// Seen failing with the key `recipes` renamed.
#[test]
fn abra_dir_and_state() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox).add_recipe("immich");
    let abra_dir = |words: &[&str]| sandbox.plain().arg("abra-dir").args(words);
    let create = ["create", "--run-id", "try-1", "--recipe", "immich", "--json"];
    expect("abra-dir-create-json", &json(&sandbox, abra_dir(&create), 0));
    expect("abra-dir-list-json", &json(&sandbox, abra_dir(&["list", "--json"]), 0));
    let words = ["list", "path try-1", "path try-1 immich", "env try-1", "verify try-1", "remove try-1", "gc"];
    let words = words.iter().map(|words| words.split(' ').collect::<Vec<_>>());
    let all: String = words.map(|words| session(&sandbox, abra_dir(&words))).collect();
    expect("abra-dir", &all);

    let state = |words: &[&str]| {
        let words = sandbox.plain().arg("state").args(words);
        words.args(["--run-id", "try-1", "--pid", "4194304"])
    };
    let words: [&[&str]; 6] =
        [&["init"], &["env"], &["path", "apps"], &["record-deploy", "immich"], &["show"], &["record-app", "Immich"]];
    let all: String = words.iter().map(|words| session(&sandbox, state(words))).collect();
    expect("state", &all);
    let shown = json(&sandbox, state(&["show", "--json"]), 0);
    expect("state-show-json", &shown);
}
