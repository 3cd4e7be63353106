//! Losing the lease: the tree is dead before the app can be another's, 76, no teardown; or nothing happens at all, where
//! the renewal went on. Ten apps at a time, each with a harness that hears no request.

use crate::host::{Detector, Host, lives, ready};
use crate::server::{Cut, Etcd};
use crate::support::*;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Of the leases here.
const TTL: Duration = Duration::from_secs(5);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_millis(900);
/// So many apps at a time.
const APPS: usize = 10;

fn apps() -> Vec<String> {
    (0..APPS).map(|n| format!("a{n}-00000{n}.ci.example.net")).collect()
}

/// Runs on one host, one for each app, with their harnesses.
struct Runs<'a> {
    host: &'a Host,
    runs: Vec<(Proc, Pid)>,
}

impl<'a> Runs<'a> {
    fn start(host: &'a Host, detector: &Detector, then: &str) -> Self {
        Self::with_ttl("5s", host, detector, then)
    }

    fn with_ttl(ttl: &str, host: &'a Host, detector: &Detector, then: &str) -> Self {
        let start = |app: &String| {
            let teardown = format!("echo {app} >>'{}'", host.sandbox.path("torn-down").display());
            let guard = host.guard(ttl).args(["--app", app, "--teardown", &teardown]).stdin(Stdio::piped());
            guard.sh(&detector.harness(app, then)).spawn()
        };
        let runs: Vec<Proc> = apps().iter().map(start).collect();
        let runs = runs.into_iter().map(|run| {
            let (harness, _) = ready(&run);
            (run, harness)
        });
        Runs { host, runs: runs.collect() }
    }

    /// All harnesses are dead before this moment, all guards end with 76, and nothing was torn down.
    #[track_caller]
    fn expect_lost(mut self, dead_before: Instant) {
        for (_, harness) in &self.runs {
            while lives(*harness) {
                assert!(Instant::now() < dead_before, "harness {harness} lives on");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        for (run, _) in &mut self.runs {
            run.expect_code(76);
            let said = run.stderr();
            assert!(said.contains("lost the cluster lock: ") && said.contains("exit 76"), "{said}");
        }
        assert!(!self.host.sandbox.path("torn-down").exists(), "nothing may be torn down");
        assert_eq!(self.host.sandbox.nothing_left(), Ok(()));
    }

    /// They go on, and end when they are let.
    #[track_caller]
    fn expect_undisturbed(mut self) {
        for (run, harness) in &mut self.runs {
            assert!(lives(*harness), "{}", run.stderr());
            drop(run.stdin());
        }
        for (run, _) in &mut self.runs {
            run.expect_code(0);
            assert!(!run.stderr().contains("lost the cluster lock"), "{}", run.stderr());
        }
    }
}

/// A harness that hears no request, with a child that hears none either.
const DEAF: &str = "trap '' TERM; (trap '' TERM; setsid sleep 60) & while :; do sleep 60; done";
/// One that ends when its stdin does.
const PATIENT: &str = "read line; exit 0";

/// A round of ten apps, so often that there are fifty of each.
fn batches(mut round: impl FnMut(&Detector)) {
    for _ in 0..rounds(50).div_ceil(APPS) {
        let detector = Detector::new();
        round(&detector);
        detector.expect_no_fault();
    }
}

/// Somebody revokes the leases; a run on another host waits for each.
/// Fails with 90 % of the lease's time before SIGKILL, and with a next one that does not wait for the old one's death.
#[test]
fn a_lease_that_is_revoked_from_outside() {
    let Some(etcd) = Etcd::there() else { return };
    batches(|detector| {
        let (one, two) = (Host::on(&etcd), Host::on(&etcd));
        let runs = Runs::start(&one, detector, DEAF);
        let next: Vec<Proc> =
            apps().iter().map(|app| two.run(app, "5s").sh(&detector.harness(app, "true")).spawn()).collect();
        next.iter().for_each(|next| next.expect_stderr("waiting for the cluster's lock"));
        apps().iter().for_each(|app| etcd.revoke(app));
        runs.expect_lost(Instant::now() + SLACK);
        for mut next in next {
            next.expect_code(0);
        }
    });
}

/// Somebody removes the keys while the leases live.
/// Fails without watches.
#[test]
fn a_key_that_is_removed_from_outside() {
    let Some(etcd) = Etcd::there() else { return };
    batches(|detector| {
        let one = Host::on(&etcd);
        let runs = Runs::start(&one, detector, DEAF);
        apps().iter().for_each(|app| etcd.remove_key(app));
        runs.expect_lost(Instant::now() + SLACK);
    });
}

/// etcd stands still: the runs are dead before their leases would have run out, and etcd goes on with them afterwards.
/// Fails with the whole grace given.
#[test]
fn an_etcd_that_stands_still() {
    let Some(etcd) = Etcd::there() else { return };
    batches(|detector| {
        let one = Host::on(&etcd);
        let runs = Runs::start(&one, detector, DEAF);
        etcd.signal(0, Signal::SIGSTOP);
        runs.expect_lost(Instant::now() + TTL);
        etcd.signal(0, Signal::SIGCONT);
        etcd.wait_until_ready(0);
    });
}

/// etcd is dead, for good: the same.
/// Fails with nobody who looks at the lease.
#[test]
fn an_etcd_that_is_killed() {
    let Some(mut etcd) = Etcd::there() else { return };
    batches(|detector| {
        let one = Host::on(&etcd);
        let runs = Runs::start(&one, detector, DEAF);
        etcd.kill(0);
        runs.expect_lost(Instant::now() + TTL);
        etcd.start(0);
        etcd.wait_until_ready(0);
    });
}

/// etcd is restarted: leases live longer for it, and the runs don't notice.
#[test]
fn an_etcd_that_is_restarted() {
    let Some(mut etcd) = Etcd::there() else { return };
    batches(|detector| {
        let one = Host::on(&etcd);
        let runs = Runs::start(&one, detector, PATIENT);
        etcd.kill(0);
        etcd.start(0);
        etcd.wait_until_ready(0);
        std::thread::sleep(TTL);
        runs.expect_undisturbed();
    });
}

/// The leader of three is killed: the others go on, and the runs don't notice. An election takes up to two seconds, more
/// where votes are split: so a lease that has time for that.
/// Fails with the first endpoint alone asked.
#[test]
fn a_leader_of_three_that_is_killed() {
    let Some(mut etcd) = Etcd::cluster() else { return };
    batches(|detector| {
        let one = Host::on(&etcd);
        let runs = Runs::with_ttl("10s", &one, detector, PATIENT);
        let leader = etcd.leader();
        etcd.kill(leader);
        std::thread::sleep(TTL * 2 + TTL / 2);
        etcd.start(leader);
        etcd.wait_until_ready(leader);
        runs.expect_undisturbed();
    });
}

/// A firewall drops all that goes to etcd and comes from it: the runs are dead before their leases have run out. The
/// next run on a host that reaches it has the app then.
#[test]
fn a_connection_that_is_cut() {
    let Some(etcd) = Etcd::there().filter(|_| Cut::is_possible()) else { return };
    batches(|detector| {
        let one = Host::on(&etcd);
        let runs = Runs::start(&one, detector, DEAF);
        let cut = Cut::port(etcd.port());
        runs.expect_lost(Instant::now() + TTL);
        drop(cut);
        let two = Host::on(&etcd);
        let mut next = two.run(&apps()[0], "5s").sh(&detector.harness(&apps()[0], "true")).spawn();
        next.expect_code(0);
    });
}

/// A cut that is shorter than the lease changes nothing.
#[test]
fn a_connection_that_is_cut_for_a_moment() {
    let Some(etcd) = Etcd::there().filter(|_| Cut::is_possible()) else { return };
    batches(|detector| {
        let one = Host::on(&etcd);
        let runs = Runs::start(&one, detector, PATIENT);
        let cut = Cut::port(etcd.port());
        std::thread::sleep(TTL / 4);
        drop(cut);
        std::thread::sleep(TTL);
        runs.expect_undisturbed();
    });
}

/// In the middle of a teardown: what runs goes on, no other step is begun, and the first cause keeps the status.
/// Fails without the look in `is_still_ours`.
#[test]
fn a_lease_that_is_lost_in_the_middle_of_a_teardown() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let work = host.sandbox.path("work");
    let step = |name: &str, then: &str| {
        let path = host.sandbox.path(name);
        std::fs::write(&path, format!("#!/bin/sh\necho {name} >>'{}/steps'\n{then}\n", work.display())).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let first = step("first", &format!("while [ ! -e '{}/end' ]; do sleep 0.05; done", work.display()));
    let second = step("second", "");
    let guard = host.guard("5s").args(["--app", APP, "--zone", "ci.example.net", "--docker", &step("docker", "")]);
    let guard = guard.args(["--teardown-step", &first, "--teardown-step", &second]).deadline("1s").report();
    let mut run = guard.sh(&detector.harness(APP, "sleep 60")).spawn();
    ready(&run);
    let steps = || std::fs::read_to_string(work.join("steps")).unwrap_or_default();
    eventually(SOON, "the first step", || if steps().contains("first") { Ok(()) } else { Err(steps()) });
    etcd.revoke(APP);
    std::fs::write(work.join("end"), "").unwrap();
    run.expect_code(142);
    assert!(!steps().contains("second"), "{}", steps());
    let report = host.sandbox.report();
    assert_eq!((&report["cause"], &report["teardown"]["result"]), (&"deadline".into(), &"skipped".into()), "{report}");
    assert!(report["lease_lost"].as_str().is_some_and(|why| why.contains("etcd")), "{report}");
    host.sandbox.expect_nothing_left();
}

/// A stopped supervisor does not save the harness: the monitor takes over in time.
/// What the monitor decides then is in the table of `decide_tests.rs`.
#[test]
fn a_stopped_supervisor_is_no_way_out() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let mut run = host.run(APP, "5s").sh(&detector.harness(APP, DEAF)).spawn();
    let (harness, _) = ready(&run);
    let supervisor = run.supervisor();
    etcd.signal(0, Signal::SIGSTOP);
    let cut = Instant::now();
    // Again and again: the monitor continues it each time.
    while lives(harness) {
        let _ = nix::sys::signal::kill(supervisor, Signal::SIGSTOP);
        assert!(cut.elapsed() < TTL, "the harness lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    run.expect_code(76);
    etcd.signal(0, Signal::SIGCONT);
}

/// Fails with `lease_lost` left out of the report.
#[test]
fn the_report_says_what_happened() {
    let Some(etcd) = Etcd::there() else { return };
    let (host, detector) = (Host::on(&etcd), Detector::new());
    let mut run = host.run(APP, "5s").report().sh(&detector.harness(APP, "sleep 60")).spawn();
    ready(&run);
    etcd.remove_key(APP);
    run.expect_code(76);
    let report = host.sandbox.report();
    assert_eq!(report["cause"], "lease-lost");
    assert_eq!(report["exit_code"], 76);
    assert_eq!(report["teardown"]["ran"], false);
    assert_eq!(report["lease_lost"], "its key in etcd was removed");
    host.sandbox.expect_nothing_left();
}
