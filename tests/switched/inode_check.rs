//! What the inode check is for: without it, two processes hold "the" lock of one name.

use crate::lock_holder::Holder;
use crate::support::{APP, FIXTURE, SOON, Sandbox, eventually, rounds};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The switch that takes the check away; the ordinary program does not know it.
const OFF: &str = "CCCI_TEST_NO_INODE_CHECK";

/// Two waiters, two newcomers, a janitor that unlinks: how often a holder met another one.
#[track_caller]
fn meetings(check: bool) -> u64 {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(FIXTURE);
    command.arg("lock-rounds").arg(sandbox.path("")).arg(rounds(10_000).to_string());
    if !check {
        command.env(OFF, "1");
    }
    let mut run = sandbox.spawn(command);
    let exit = run.wait(Duration::from_secs(120));
    assert_eq!(exit.code, 0, "{}", run.stderr());
    let line = run.stdout();
    println!("inode check {check}: {line}");
    let together = line.trim_end().rsplit_once("together=").expect("a count");
    together.1.parse().expect("a number")
}

/// The very test that `lock_unlinked` of tests/it relies on meets two holders.
/// Fails with the switch not looked at.
#[test]
fn without_the_check_two_holders_meet() {
    assert!(meetings(false) > 0, "no two holders met: the test would not see a missing check");
}

/// Fails with the comparison in `Candidate::into_lock` taken out.
#[test]
fn with_the_check_none_meet() {
    assert_eq!(meetings(true), 0);
}

/// The one case step by step, with whole guards: the waiter wins a file without a name and runs beside the
/// newcomer.
/// Fails with the switch not looked at.
#[test]
fn without_the_check_a_waiter_runs_with_a_dead_lock() {
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    let old = Holder::take(&sandbox, &path);
    let guard = sandbox.run().app().args(["--teardown", "none"]).env(OFF, "1");
    let waiter = guard.sh("echo ready; sleep 60").spawn();
    let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
    eventually(SOON, "a waiter", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let seen = locks.lines().any(|l| l.contains("-> FLOCK") && l.contains(&inode));
        if seen { Ok(()) } else { Err(locks) }
    });
    fs::remove_file(&path).unwrap();
    let _newcomer = Holder::take(&sandbox, &path);
    old.release();
    waiter.ready();
}
