//! The sentences of docs and contract ("What people see"), from real runs.

use super::{expect, session, settled};
use crate::support::*;
use nix::sys::signal::Signal;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

const NEXTCLOUD: &str = "nextcloud.ci.example.net";

/// A program `NAME` in the sandbox's `bin`.
fn in_bin(sandbox: &Sandbox, name: &str) -> PathBuf {
    std::fs::create_dir_all(sandbox.path("bin")).unwrap();
    sandbox.path("bin").join(name)
}

/// PATH with the sandbox's `bin` in front.
fn search_path(sandbox: &Sandbox) -> String {
    format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap_or_default())
}

/// Run 1187 of an app, which waits until it is asked to stop.
pub fn waiting_run<'a>(sandbox: &'a Sandbox, app: &str) -> Guard<'a> {
    // No process but its own: it waits for a FIFO that nobody opens.
    let body = "#!/bin/sh\nexec 2>/dev/null\ntrap 'exit 0' TERM\necho ready\nread line <\"$0.fifo\"\n";
    let harness = in_bin(sandbox, "harness");
    program(&harness, body);
    nix::unistd::mkfifo(&sandbox.path("bin/harness.fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let guard = sandbox.run().args(["--app", app, "--run-id", "1187", "--teardown", "none", "--deadline", "1h"]);
    guard.env("PATH", search_path(sandbox)).harness(["harness", "run", "nextcloud"])
}

/// A second run of the same app: it waits, or gives up in time.
///
/// Seen failing with a semicolon before the run's id.
#[test]
fn a_lock_that_somebody_holds() {
    let sandbox = Sandbox::new();
    let mut holder = waiting_run(&sandbox, NEXTCLOUD).spawn();
    holder.ready();
    let waiter = || sandbox.run().args(["--app", NEXTCLOUD, "--teardown", "none"]).sh("exit 7");
    let gives_up = waiter().args(["--lock-timeout", "1s"]).output();
    assert_eq!(gives_up.code(), 75);
    let no_wait = waiter().args(["--lock-timeout", "0s"]).output();
    assert_eq!(no_wait.code(), 75);
    let reap = sandbox.plain().args(["reap", NEXTCLOUD, "--run-app-re", "nextcloud.*", "--teardown", "true"]);
    let reap = reap.args(["--list-cmd", "true"]).output();
    assert_eq!(reap.code(), 75);
    let mut waits = waiter().spawn();
    waits.expect_stderr("waiting for app lock");
    holder.signal(Signal::SIGTERM);
    holder.expect_code(143);
    waits.expect_code(7);
    let all = [waits.stderr(), gives_up.stderr, no_wait.stderr, reap.stderr, holder.stderr()];
    let all = all.map(|text| settled(&sandbox, &text)).join("\n");
    expect("lock-held", &all);
}

/// Deadline with its warning, survivors, teardown, and the last line; the same as JSON.
///
/// Seen failing with `KILL after` reworded.
#[test]
fn a_run_that_is_too_slow() {
    let sandbox = Sandbox::new();
    let run = |format: &str| {
        let guard = sandbox.run().app().teardown("echo bye").args(["--deadline", "2s", "--warn-before", "1s"]);
        let guard = guard.args(["--run-id", "1190", "--log-format", format]);
        let mut guard = guard.fixture("print-signals TERM=0").spawn();
        guard.expect_code(142);
        settled(&sandbox, &guard.stderr())
    };
    expect("deadline", &run("text"));
    expect("deadline-json", &run("json"));
}

/// Two that outlive the harness, named.
///
/// Seen failing with `outlived the harness` reworded.
#[test]
fn a_run_that_leaves_processes() {
    let sandbox = Sandbox::new();
    let mut script = String::new();
    for name in ["ssh-agent", "git"] {
        symlink(FIXTURE, in_bin(&sandbox, name)).unwrap();
        script += &format!("{name} ignore-term >{name}.ready & while ! test -s {name}.ready; do sleep 0.01; done; ");
    }
    let mut guard = sandbox.run().env("PATH", search_path(&sandbox)).sh(&script).spawn();
    guard.expect_code(0);
    expect("survivors", &settled(&sandbox, &guard.stderr()));
}

/// Asked to stop: by whom, and what became of it; the supervisor killed; a teardown that fails.
///
/// Seen failing with the takeover's sentence reworded.
#[test]
fn a_run_that_is_stopped() {
    let sandbox = Sandbox::new();
    let mut all = String::new();
    for (title, teardown) in [("asked", "true"), ("asked, and the teardown fails", "echo no >&2; exit 3")] {
        let mut guard = sandbox.run().app().teardown(teardown).fixture("print-signals TERM=0").spawn();
        guard.ready();
        guard.signal(Signal::SIGTERM);
        guard.expect_code(143);
        all += &format!("{title}:\n{}\n", settled(&sandbox, &guard.stderr()));
    }
    let mut guard = sandbox.run().app().teardown("true").fixture("print-signals TERM=0").spawn();
    guard.ready();
    nix::sys::signal::kill(guard.supervisor(), Signal::SIGKILL).unwrap();
    guard.expect_code(137);
    all += &format!("the supervisor killed:\n{}", settled(&sandbox, &guard.stderr()));
    expect("stopped", &all);
}

/// A parent that is gone before the start.
///
/// Seen failing with `no lock was taken` left out.
#[test]
fn an_orphan_from_the_start() {
    let sandbox = Sandbox::new();
    let mut parent = Command::new("true").spawn().unwrap();
    let pid = parent.id().to_string();
    parent.wait().unwrap();
    let out = sandbox.run().app().teardown("true").args(["--parent-pid", &pid]).sh("exit 7").output();
    assert_eq!(out.code(), 125);
    expect("orphan", &settled(&sandbox, &out.stderr));
}

/// The harness waits for the lock of its own guard: the warning comes 10 s after the start.
///
/// Seen failing with a warning that does not name the page.
#[test]
fn a_harness_that_waits_for_its_own_guard() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock_path(APP);
    let guard = sandbox.run().app().args(["--teardown", "none", "--grace", "5s"]);
    let harness = [FIXTURE.as_ref(), "hold-lock".as_ref(), lock.as_os_str(), "wait".as_ref()];
    let mut guard = guard.harness(harness).spawn();
    guard.expect_stderr("docs/harness.md");
    let text = settled(&sandbox, &guard.stderr());
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    expect("self-deadlock", &text);
}

/// Commands that can't be run.
///
/// Seen failing without the hint to the line ends.
#[test]
fn a_command_that_is_no_command() {
    let sandbox = Sandbox::new();
    program(&sandbox.path("work/harness"), "#!/usr/bin/python3\r\nprint()\r\n");
    program(&sandbox.path("work/elsewhere"), "#!/opt/no/such/shell\n");
    std::fs::write(sandbox.path("work/data"), "data").unwrap();
    let commands = ["./harness", "./elsewhere", "./data", "/dev", "no-such-harness"];
    let all: String = commands.iter().map(|word| session(&sandbox, sandbox.run().harness([*word]))).collect();
    expect("no-command", &all);
}

/// What is said to a slip of the hand: for each the word that was wrong, where it came from, and what to do.
///
/// Seen failing with `did you mean` taken out.
#[test]
fn slips_of_the_hand() {
    let sandbox = Sandbox::new();
    let lines: [&[&str]; 34] = [
        &[],
        &["--"],
        &["jantor"],
        &["harness", "run", "nextcloud"],
        &["run", "--deadlin", "5m", "--", "true"],
        &["run", "--deadline", "120", "--", "true"],
        &["run", "--deadline", "1M", "--", "true"],
        &["run", "--app", "Nextcloud", "--teardown", "none", "--", "true"],
        &["run", "--app", APP, "--", "true"],
        &["run", "--app", NEXTCLOUD, "--zone", "ci.example.net", "--", "true"],
        &["run", "--warn-before", "5m", "--", "true"],
        &["run", "--session", "keep", "--stop-scope", "group", "--", "true"],
        &["run", "--abra-dir", "auto", "--canonical-abra-dir", "/dev/null/abra", "--", "true"],
        &["run", "--lock-dir", "/dev/null/locks", "--app", APP, "--teardown", "none", "--", "true"],
        &["run", "--report", "/dev/null/report", "--", "true"],
        &["exec", "--grace", "5s", "--", "true"],
        &["janitor"],
        &["janitor", "--zone", "UPPER"],
        &["janitor", "--zone", "ci.example.net", "--list-cmd", "exit 3", "--teardown", "true"],
        &["reap"],
        &["reap", NEXTCLOUD, "--zone", "ci.example.net"],
        &["abra-dir"],
        &["abra-dir", "create"],
        &["abra-dir", "create", "--run-id", "a", "--canonical-abra-dir", "/dev/null/abra"],
        &["abra-dir", "path", "a"],
        &["abra-dir", "path", "../a"],
        &["state", "show"],
        &["state", "show", "--run-id", "a"],
        &["state", "path", "deploy", "--run-id", "a", "--pid", "4194304"],
        &["locks", "Nextcloud"],
        &["doctor", "--deadline", "5"],
        &["completions", "pwsh"],
        &["completions"],
        &["help", "exit"],
    ];
    let all: String = lines.iter().map(|words| session(&sandbox, sandbox.plain().args(*words))).collect();
    let by_variable = sandbox.plain().env("CCCI_DEADLINE", "120").args(["run", "--", "true"]);
    let by_variable = session(&sandbox, by_variable).replace("$ ", "$ CCCI_DEADLINE=120 ");
    let empty = sandbox.plain().env("CCCI_APP_DOMAIN", "").args(["run", "--", "true"]);
    let empty = session(&sandbox, empty).replace("$ ", "$ CCCI_APP_DOMAIN= ");
    expect("slips", &[all, by_variable, empty].concat());
}
