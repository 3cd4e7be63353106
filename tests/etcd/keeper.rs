//! The process that renews: it is replaced when it dies, continued when it is stopped, and outlives a signal to all.

use crate::host::{Detector, Host, keepers, lives, ready};
use crate::server::Etcd;
use crate::support::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::Duration;

/// Longer than the lease of these tests without a renewal.
const LONG: Duration = Duration::from_secs(7);

fn keeper_of(parent: Pid, not: &[Pid]) -> Pid {
    eventually(SOON, "a keeper", || {
        keepers(parent).into_iter().find(|keeper| !not.contains(keeper)).ok_or(format!("none below {parent}"))
    })
}

/// Killed again and again: the lease is renewed all the same, and given back at the end.
/// Each is killed as soon as it is there, and one a second is started at most: the lease bears four seconds of that.
/// Fails with `keeper_ended` doing nothing.
#[test]
fn a_keeper_that_is_killed_is_started_again() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let mut run = host.run(APP, "10s").stdin(Stdio::piped()).sh(&detector.harness(APP, "read line; exit 3")).spawn();
    ready(&run);
    let lease = etcd.key(APP).expect("the key").lease;
    let mut killed = Vec::new();
    for _ in 0..4 {
        let keeper = keeper_of(run.monitor(), &killed);
        kill(keeper, Signal::SIGKILL).unwrap();
        killed.push(keeper);
    }
    keeper_of(run.monitor(), &killed);
    assert!(run.try_line(LONG * 2).is_none());
    assert_eq!(etcd.key(APP).expect("still the key").lease, lease);
    drop(run.stdin());
    run.expect_code(3);
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}

/// After the monitor's death the supervisor has one that stands by; the run is stopped by its grace, under the lease.
/// Fails with `monitor_gone` starting none.
#[test]
fn after_the_monitors_death_the_supervisor_looks_after_the_keeper() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let script = detector.harness(APP, "trap 'echo asked' TERM; while [ ! -e end ]; do sleep 0.05; done");
    let run = host.run(APP, "5s").grace("1m").sh(&script).spawn();
    ready(&run);
    let (monitor, supervisor) = (run.monitor(), run.supervisor());
    let first = keeper_of(monitor, &[]);
    kill(monitor, Signal::SIGKILL).unwrap();
    run.expect_line("asked");
    let second = keeper_of(supervisor, &[]);
    kill(first, Signal::SIGKILL).unwrap();
    let lease = etcd.key(APP).expect("the key").lease;
    assert!(run.try_line(LONG).is_none());
    assert_eq!(etcd.key(APP).expect("still the key").lease, lease);
    kill(second, Signal::SIGKILL).unwrap();
    let third = keeper_of(supervisor, &[second]);
    std::fs::write(host.sandbox.path("work/end"), "").unwrap();
    host.sandbox.expect_over(SOON);
    eventually(SOON, "all leases are given back", || etcd.no_lease());
    eventually(SOON, "the keeper's end", || if lives(third) { Err("it lives") } else { Ok(()) });
}

/// Monitor, supervisor and the first keeper are dead: the worker's own goes on, and the teardown comes to its end.
/// Fails without `back_up`.
#[test]
fn a_teardown_outlives_the_death_of_all_others() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let teardown = "echo begun >begun; while [ ! -e end ]; do sleep 0.05; done; echo done >done";
    let work = host.sandbox.path("work");
    let teardown = format!("cd '{}'; {teardown}", work.display());
    let guard = host.guard("5s").args(["--app", APP, "--teardown", &teardown]);
    let run = guard.sh(&detector.harness(APP, "sleep 60")).spawn();
    ready(&run);
    let (monitor, supervisor) = (run.monitor(), run.supervisor());
    let keeper = keeper_of(monitor, &[]);
    run.signal(Signal::SIGTERM);
    eventually(SOON, "the teardown", || std::fs::metadata(work.join("begun")).map(drop));
    for pid in [supervisor, monitor, keeper] {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    std::thread::sleep(LONG);
    let key = etcd.key(APP).expect("the key: the lease was renewed for longer than it lasts");
    assert!(key.lease != 0);
    std::fs::write(work.join("end"), "").unwrap();
    host.sandbox.expect_over(SOON);
    assert!(work.join("done").exists());
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}

/// A stopped one is continued; a SIGTERM to all processes of the run, as systemd sends it, does not end it.
/// Fails without `continue_keeper`, and with the keeper's signals unblocked.
#[test]
fn a_keeper_is_not_to_be_stopped_or_asked_to_end() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let mut run = host.run(APP, "5s").stdin(Stdio::piped()).sh(&detector.harness(APP, "read line; exit 0")).spawn();
    ready(&run);
    let keeper = keeper_of(run.monitor(), &[]);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGTSTP, Signal::SIGSTOP] {
        kill(keeper, signal).unwrap();
    }
    assert!(run.try_line(LONG).is_none());
    assert!(lives(keeper) && !stopped(keeper));
    assert!(etcd.key(APP).is_some());
    drop(run.stdin());
    run.expect_code(0);
}

/// It has nothing of ours but what it needs: no lock, no output of the caller's, none of its environment.
/// Fails without `close_from`, and with our environment handed on.
#[test]
fn a_keeper_has_nothing_that_is_not_its_own() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let secret = "CCCI_ETCD_PASSWORD";
    let mut run = host.run(APP, "5s").env("SOMETHING", secret).stdin(Stdio::piped());
    run = run.under(["/bin/sh", "-c", "exec 7>/dev/null; exec \"$@\"", "sh"]);
    let mut run = run.sh(&detector.harness(APP, "read line")).spawn();
    ready(&run);
    let keeper = keeper_of(run.monitor(), &[]);
    let open: Vec<String> = std::fs::read_dir(format!("/proc/{keeper}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect();
    assert!(!open.iter().any(|path| path.contains(".lock")), "{open:?}");
    assert_eq!(open.iter().filter(|path| *path == "/dev/null").count(), 0, "{open:?}");
    assert_eq!(std::fs::read(format!("/proc/{keeper}/environ")).unwrap(), b"");
    let line = std::fs::read_to_string(format!("/proc/{keeper}/cmdline")).unwrap();
    assert_eq!(line, "ccci-guard-keeper\0");
    drop(run.stdin());
    run.code();
}

/// An etcd that does not answer at the end of a run holds it up for two seconds, and its output no longer than that.
/// Fails with the keeper's stderr left open while it gives the lease back.
#[test]
fn the_output_of_a_run_ends_with_it() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let mut run = host.run(APP, "30s").stdin(Stdio::piped()).sh(&detector.harness(APP, "read line; exit 3")).spawn();
    ready(&run);
    etcd.signal(0, Signal::SIGSTOP);
    let asked = std::time::Instant::now();
    drop(run.stdin());
    run.expect_code(3);
    within("the end of the run", asked.elapsed(), ..Duration::from_secs(5));
    run.expect_eof(Duration::from_millis(500));
    etcd.signal(0, Signal::SIGCONT);
}
