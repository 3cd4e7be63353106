//! A lock file that is unlinked while others wait for it: never two holders of one name.

use crate::lock_holder::Holder;
use crate::support::{APP, FIXTURE, Guard, SOON, Sandbox, eventually, lock_is_free, rounds, stopped};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

fn guard(sandbox: &Sandbox) -> Guard<'_> {
    sandbox.run().app().args(["--teardown", "none"])
}

/// Two waiters, two newcomers and a janitor that unlinks the file each time it has the lock, in processes of
/// their own. The same with the inode check off is in tests/switched, where it meets two holders.
/// Seen failing with the comparison in `Candidate::into_lock` taken out.
#[test]
fn ten_thousand_unlinks_and_never_two_holders() {
    let sandbox = Sandbox::new();
    let count = rounds(10_000);
    let mut command = sandbox.command(FIXTURE);
    command.arg("lock-rounds").arg(sandbox.path("")).arg(count.to_string());
    let mut run = sandbox.spawn(command);
    let exit = run.wait(Duration::from_secs(120));
    assert_eq!(exit.code, 0, "{}", run.stderr());
    let line = run.stdout();
    assert!(line.contains(&format!("rounds={count} ")), "{line:?}");
    assert!(line.trim_end().ends_with(" together=0"), "two holders at a time: {line:?}");
    // They were there, and were granted files that had just lost their name.
    let dead: usize = line.split("dead=").nth(1).and_then(|s| s.split(' ').next()).unwrap().parse().unwrap();
    assert!(dead > count / 50, "hardly ever a dead file: {line:?}");
}

/// The same with whole guards, also in the `exec` form: what a user starts.
/// Seen failing with the comparison in `Candidate::into_lock` taken out.
#[test]
fn guards_among_unlinks_are_never_two() {
    let sandbox = Sandbox::new();
    let marker = sandbox.path("holder");
    let marker = marker.display();
    // mkdir is atomic: it fails when somebody else is in here.
    let script = format!("mkdir '{marker}' || exit 99; rmdir '{marker}'");
    let turns = rounds(300);
    let lines = [guard(&sandbox), guard(&sandbox), sandbox.exec().app(), sandbox.exec().app()].map(|guard| {
        let line = guard.sh(&script).line();
        sandbox.shell(&format!("i=0; while [ $i -lt {turns} ]; do i=$((i+1)); {line} || exit $?; done"))
    });
    let mut command = sandbox.command(FIXTURE);
    command.arg("lock-janitor").arg(sandbox.path(""));
    let janitor = sandbox.spawn(command);
    for mut line in lines {
        line.expect_code(0);
    }
    let unlinked = janitor.stdout().lines().count();
    assert!(unlinked > turns, "the janitor had {unlinked} turns");
}

/// The one case step by step: a waiter is granted a file that has no name any more, and starts again.
/// Seen failing with the comparison in `Candidate::into_lock` taken out.
#[test]
fn a_waiter_that_wins_a_dead_file_starts_again() {
    for form in ["run", "exec"] {
        let sandbox = Sandbox::new();
        let path = sandbox.lock_path(APP);
        let old = Holder::take(&sandbox, &path);
        let waiter = if form == "exec" { sandbox.exec().app() } else { guard(&sandbox) };
        let mut waiter = waiter.harness(["touch", "started"]).spawn();
        expect_waiter(fs::metadata(&path).unwrap().ino());
        fs::remove_file(&path).unwrap();
        let newcomer = Holder::take(&sandbox, &path);
        old.release();
        // Now it waits for the newcomer, and says so.
        expect_waiter(fs::metadata(&path).unwrap().ino());
        assert!(!sandbox.path("work/started").exists(), "{form}: it ran with a dead lock");
        newcomer.release();
        waiter.expect_code(0);
        assert!(sandbox.path("work/started").exists());
    }
}

/// The switch of the test build is nothing to the program that people run.
/// Seen failing with the comparison in `Candidate::into_lock` taken out.
#[test]
fn the_check_can_t_be_switched_off() {
    if cfg!(feature = "test-switches") {
        return; // Here it can: tests/switched shows what happens then.
    }
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    let old = Holder::take(&sandbox, &path);
    let waiter = guard(&sandbox).env("CCCI_TEST_NO_INODE_CHECK", "1");
    let mut waiter = waiter.harness(["touch", "started"]).spawn();
    expect_waiter(fs::metadata(&path).unwrap().ino());
    fs::remove_file(&path).unwrap();
    let newcomer = Holder::take(&sandbox, &path);
    old.release();
    expect_waiter(fs::metadata(&path).unwrap().ino());
    assert!(!sandbox.path("work/started").exists());
    newcomer.release();
    waiter.expect_code(0);
}

/// And where no newcomer is there, it makes the file anew.
/// Seen failing with the comparison in `Candidate::into_lock` taken out.
#[test]
fn a_waiter_makes_the_file_anew() {
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    let old = Holder::take(&sandbox, &path);
    let waiter = guard(&sandbox).sh("echo ready; sleep 60").spawn();
    expect_waiter(fs::metadata(&path).unwrap().ino());
    fs::remove_file(&path).unwrap();
    old.release();
    waiter.ready();
    assert!(!lock_is_free(&path), "the name that others use is locked");
}

/// Waits until somebody waits for the file with this inode.
#[track_caller]
fn expect_waiter(inode: u64) {
    let inode = format!(":{inode} ");
    eventually(SOON, "a waiter", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let seen = locks.lines().any(|l| l.contains("-> FLOCK") && l.contains(&inode));
        if seen { Ok(()) } else { Err(locks) }
    });
}

/// A stopped holder holds: nobody takes a lock away from one that is only slow.
/// Fails with the holder's answer asked for.
#[test]
fn a_stopped_holder_keeps_it() {
    let sandbox = Sandbox::new();
    let holder = guard(&sandbox).sh("echo ready; sleep 60").spawn();
    holder.ready();
    let harness = holder.harness();
    nix::sys::signal::kill(harness, Signal::SIGSTOP).unwrap();
    eventually(SOON, "stopped", || if stopped(harness) { Ok(()) } else { Err("running") });
    let out = guard(&sandbox).args(["--lock-timeout", "300ms"]).harness(["true"]).output();
    assert_eq!(out.code(), 75, "{}", out.stderr);
}
