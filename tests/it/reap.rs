//! `ccci-guard reap APP`: one app, under its lock: 0 gone, 1 not, 2 usage, 69 no lists, 75 held.

use crate::lock_holder::Holder;
use crate::support::stubs::Stubs;
use crate::support::{APP, Apps, SOON, Sandbox, eventually, within};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Duration;

const OTHER: &str = "keyc-0b52fe.ci.example.net";

/// Fails with the lock file left, and with all apps reaped.
#[test]
fn one_app_is_reaped_and_no_other() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.deploy(OTHER);
    let out = stubs.reap(APP).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().starts_with(&format!("{APP}  reaped  ")), "{}", out.text());
    assert_eq!((stubs.left(APP).len(), stubs.left(OTHER).len()), (0, 7));
    assert!(!sandbox.lock_path(APP).exists() && !sandbox.lock_path(OTHER).exists());
    assert!(stubs.calls().iter().all(|call| call.value("lock") != "free"));
    // Again: it is gone, which is what was asked for.
    let out = stubs.reap(APP).arg("--json").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let report: Value = serde_json::from_str(&out.text()).unwrap();
    assert_eq!(report["apps"][0]["verdict"], "gone");
    assert!(!sandbox.lock_path(APP).exists(), "the lock file of the look");
    sandbox.expect_nothing_left();
}

/// Fails with the proof left out.
#[test]
fn what_stays_is_1() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.says("app-remove", "exit 0\n");
    let out = stubs.reap(APP).output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    assert!(out.text().starts_with(&format!("{APP}  partial  ")), "{}", out.text());
    assert!(out.text().contains(".env") && out.stderr.contains(".env"), "{}", out.stderr);
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let out = stubs.reap(APP).arg("--list-cmd").arg(apps.list_cmd()).teardown("exit 9").output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    assert!(out.text().starts_with(&format!("{APP}  failed  ")), "{}", out.text());
    // No lock to hold: that is no success.
    fs::remove_file(sandbox.lock_path(APP)).unwrap();
    fs::create_dir(sandbox.lock_path(APP)).unwrap();
    let out = stubs.reap(APP).output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    assert!(out.text().starts_with(&format!("{APP}  skipped  ")), "{}", out.text());
}

/// Fails with a name outside the allow-list, or a protected one, reaped because it was named.
#[test]
fn usage_is_2() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let warm = "warm-x.ci.example.net";
    stubs.deploy(APP);
    stubs.deploy(warm);
    assert_eq!(stubs.reap(warm).output().code(), 2);
    let protected = stubs.reap(APP).args(["--protect", "immi-*"]).output();
    assert_eq!(protected.code(), 2);
    assert!(protected.stderr.contains(APP), "{:?}", protected.stderr);
    assert_eq!(stubs.reap(APP).arg(OTHER).output().code(), 2);
    assert!(stubs.calls().is_empty());
    assert!(fs::read_dir(sandbox.lock_dir()).unwrap().next().is_none());
}

/// Fails with the app torn down before the lists were had.
#[test]
fn no_lists_is_69() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    for key in ["node-ls", "service-ls", "volume-ls"] {
        stubs.says(key, "echo Cannot connect >&2; exit 1\n");
        let out = stubs.reap(APP).output();
        assert_eq!(out.code(), 69, "{key}: {}", out.stderr);
        assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0), "{key}");
        stubs.says(key, "");
    }
    let out = stubs.reap(APP).args(["--list-cmd", "false"]).output();
    assert_eq!(out.code(), 69, "{}", out.stderr);
    assert_eq!(stubs.left(APP).len(), 7);
}

/// Held: 75 at once, and its holder is named.
/// Fails with the default of `run`, which waits.
#[test]
fn held_is_75_at_once() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let run = stubs.run().args(["--run-id", "1187"]).fixture("print-signals TERM=0").spawn();
    run.ready();
    let out = stubs.reap(APP).env("CCCI_LOCK_TIMEOUT", "5m").output();
    assert_eq!(out.code(), 75, "{}", out.stderr);
    let who = format!("pid {}", run.pid());
    assert!(out.stderr.contains(&who) && out.stderr.contains("1187"), "{who} not in {:?}", out.stderr);
    assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
    // One whose file was removed is held all the same.
    fs::remove_file(sandbox.lock_path(APP)).unwrap();
    let out = stubs.reap(APP).output();
    assert_eq!(out.code(), 75, "{}", out.stderr);
    assert!(!sandbox.lock_path(APP).exists());
}

/// Fails with the time limit not looked at, and with the lock given up too early.
#[test]
fn it_waits_as_long_as_asked_for() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let holder = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let out = stubs.reap(APP).args(["--lock-timeout", "1s"]).output();
    assert_eq!(out.code(), 75, "{}", out.stderr);
    within("the wait", out.exit.after, Duration::from_millis(990)..SOON);
    let mut reap = stubs.reap(APP).args(["--lock-timeout", "5m"]).spawn();
    reap.expect_stderr(&format!("waiting for app lock {APP}"));
    holder.release();
    reap.expect_code(0);
    assert_eq!(stubs.left(APP), Vec::<String>::new());
    assert!(!sandbox.lock_path(APP).exists());
}

/// TERM while it waits: 143, nothing touched.
/// Fails with the request heard only after the wait.
#[test]
fn the_wait_can_be_given_up() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let _holder = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let mut reap = stubs.reap(APP).args(["--lock-timeout", "5m"]).spawn();
    reap.expect_stderr("waiting for app lock");
    reap.signal(Signal::SIGTERM);
    let exit = reap.expect_code(143);
    within("the end", exit.after, ..SOON);
    assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
}

/// Fails with the lock file made by a dry run.
#[test]
fn a_dry_run_touches_nothing() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let out = stubs.reap(APP).arg("--dry-run").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().starts_with(&format!("{APP}  would_reap  ")), "{}", out.text());
    assert!(!sandbox.lock_path(APP).exists());
    let _holder = Holder::take(&sandbox, &sandbox.lock_path(APP));
    assert_eq!(stubs.reap(APP).arg("--dry-run").output().code(), 75);
    assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
}

/// Two at once: one reaps, the other hears who does.
/// Fails with no lock.
#[test]
fn of_two_at_once_one_reaps() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let (begun, go) = (sandbox.path("begun"), sandbox.path("go"));
    let slow = format!("echo x >>'{}'; until [ -e '{}' ]; do sleep 0.02; done; ", begun.display(), go.display());
    let slow = slow + &apps.teardown();
    let reap = || {
        let reap = sandbox.plain().args(["reap", APP, "--zone", "ci.example.net", "--list-cmd", &apps.list_cmd()]);
        reap.teardown(&slow)
    };
    let mut first = reap().spawn();
    eventually(SOON, "the first one", || if begun.exists() { Ok(()) } else { Err(first.stderr()) });
    let second = reap().output();
    assert_eq!(second.code(), 75, "{}", second.stderr);
    assert!(second.stderr.contains("being torn down by pid"), "{:?}", second.stderr);
    fs::write(&go, "").unwrap();
    first.expect_code(0);
    assert_eq!(fs::read_to_string(&begun).unwrap(), "x\n");
}
