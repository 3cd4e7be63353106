//! `janitor` and `reap` with the cluster lock: another host's run is live, and who reaps holds a lease of its own.

use crate::host::{Detector, Host, keepers, ready};
use crate::server::Etcd;
use crate::support::stubs::{Stubs, ZONE};
use crate::support::*;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// A janitor's round over apps that are files of its sandbox.
fn round<'a>(host: &'a Host, apps: &Apps<'a>) -> Guard<'a> {
    host.etcd(apps.janitor()).args(["--lease-ttl", "5s", "--json"])
}

fn reap<'a>(host: &'a Host, apps: &Apps<'a>) -> Guard<'a> {
    let guard = host.plain().args(["reap", APP, "--zone", ZONE, "--lease-ttl", "5s", "--json"]);
    guard.arg("--list-cmd").arg(apps.list_cmd()).teardown(apps.teardown())
}

#[track_caller]
fn report(output: &Output) -> Value {
    serde_json::from_str(&output.text()).unwrap_or_else(|error| panic!("{error}: {}", output.stderr))
}

#[track_caller]
fn expect_verdict(output: &Output, verdict: &str, why: &str) {
    let report = report(output);
    assert_eq!(report["apps"][0]["verdict"], verdict, "{report:#}; {}", output.stderr);
    let said = report["apps"][0]["why"].as_str().unwrap_or_default();
    assert!(said.contains(why), "{why:?} not in {said:?}");
}

/// A file, and a script that waits until it is there.
fn until_go(host: &Host, then: &str) -> (PathBuf, String) {
    let go = host.sandbox.path("go");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.05; done; {then}", go.display());
    (go, script)
}

/// The lock file of this host is free, and yet the app is a run's, on another one: its value says whose.
/// Fails without the cluster's probe: the app is torn down under the run.
#[test]
fn a_run_on_another_host_is_live() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let run = one.run(APP, "5s").args(["--run-id", "1187"]).sh(&detector.harness(APP, "sleep 60")).spawn();
    ready(&run);
    let apps = Apps::new(&two.sandbox);
    apps.add(APP);
    let words = format!("held by pid {} on ", run.pid());
    for more in [&[][..], &["--dry-run"]] {
        let output = round(&two, &apps).args(more).output();
        assert_eq!(output.code(), 0, "{}", output.stderr);
        expect_verdict(&output, "live", &words);
        expect_verdict(&output, "live", "run 1187");
        assert_eq!(report(&output)["apps"][0]["lock"]["holder"]["run_id"], "1187");
        assert!(apps.has(APP));
        assert!(!two.sandbox.lock_path(APP).exists(), "a file that only the probe made is removed again");
    }
    let output = reap(&two, &apps).output();
    assert_eq!(output.code(), 75, "{}", output.stderr);
    expect_verdict(&output, "live", &words);
    assert!(apps.has(APP));
}

/// `reap --lock-timeout` waits for the cluster's lock too.
/// Fails with the cluster's lock only tried.
#[test]
fn reap_waits_for_the_cluster() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let mut run = one.run(APP, "5s").stdin(Stdio::piped()).sh(&detector.harness(APP, "read line; exit 0")).spawn();
    ready(&run);
    let apps = Apps::new(&two.sandbox);
    apps.add(APP);
    let output = reap(&two, &apps).args(["--lock-timeout", "1s"]).output();
    assert_eq!(output.code(), 75, "{}", output.stderr);
    let mut waiting = reap(&two, &apps).args(["--lock-timeout", "1m"]).spawn();
    eventually(SOON, "a lease of its own", || etcd.another_lease());
    drop(run.stdin());
    run.expect_code(0);
    waiting.expect_code(0);
    assert!(!apps.has(APP));
    let mut asked = reap(&two, &apps).args(["--lock-timeout", "1m"]);
    let holder = one.run(APP, "5s").sh(&detector.harness(APP, "sleep 60")).spawn();
    ready(&holder);
    asked = asked.default_signals();
    let mut asked = asked.spawn();
    eventually(SOON, "a lease of its own", || etcd.another_lease());
    asked.signal(Signal::SIGTERM);
    asked.expect_code(143);
}

/// Nobody's app is reaped under a lease of the janitor's own, which a run on another host waits for.
/// Fails with the janitor taking no lease of its own.
#[test]
fn an_orphan_is_reaped_under_a_lease() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let apps = Apps::new(&one.sandbox);
    apps.add(APP);
    let (go, slow) = until_go(&one, &apps.teardown());
    let janitor = one.etcd(apps.lister()).args(["--lease-ttl", "5s", "--json"]).teardown(slow);
    let mut janitor = janitor.spawn();
    let key = eventually(SOON, "the janitor's key", || etcd.key(APP).ok_or("none"));
    assert_eq!((&key.value["pid"], &key.value["teardown"]), (&janitor.pid().as_raw().into(), &true.into()));

    let other = Apps::new(&two.sandbox);
    other.add(APP);
    expect_verdict(&round(&two, &other).output(), "live", &format!("being torn down by pid {} on ", janitor.pid()));
    let run = two.run(APP, "5s").sh(&detector.harness(APP, "true")).spawn();
    run.expect_stderr("waiting for the cluster's lock");
    // Longer than the lease: somebody renews it.
    assert!(run.try_line(Duration::from_secs(7)).is_none(), "not before the reap is done");
    fs::write(&go, "").unwrap();
    janitor.expect_code(0);
    ready(&run);
    assert!(!apps.has(APP));
    eventually(SOON, "all leases are given back", || etcd.no_lease());
    assert!(!one.sandbox.lock_path(APP).exists());
}

/// The janitor and its keeper are killed in the middle: the worker goes on, under the lease, by a keeper of its own.
/// Fails without `back_up`.
#[test]
fn a_reap_outlives_its_janitor() {
    let Some(etcd) = Etcd::there() else { return };
    let host = Host::on(&etcd);
    let apps = Apps::new(&host.sandbox);
    apps.add(APP);
    let (go, slow) = until_go(&host, &apps.teardown());
    let janitor = host.etcd(apps.lister()).args(["--lease-ttl", "5s"]).teardown(slow).spawn();
    let lease = eventually(SOON, "the janitor's key", || etcd.key(APP).ok_or("none")).lease;
    let keeper = eventually(SOON, "its keeper", || keepers(janitor.pid()).first().copied().ok_or("none"));
    janitor.worker();
    for pid in [janitor.pid(), keeper] {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(etcd.key(APP).expect("the key: somebody renews the lease").lease, lease);
    fs::write(&go, "").unwrap();
    host.sandbox.expect_over(SOON);
    assert!(!apps.has(APP));
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}

/// A lease that is lost in the middle: no further step, `skipped`, and the lock file stays for the next round.
/// Fails without the look in `is_still_ours`.
#[test]
fn a_reap_that_loses_its_lease_stops() {
    let Some(etcd) = Etcd::there() else { return };
    let host = Host::on(&etcd);
    let stubs = Stubs::new(&host.sandbox);
    stubs.deploy(APP);
    let (go, slow) = until_go(&host, "true");
    stubs.says("app-undeploy", &slow);
    let mut janitor = host.etcd(stubs.janitor()).args(["--lease-ttl", "5s", "--json"]).spawn();
    eventually(SOON, "the first step", || if stubs.argvs("abra").is_empty() { Err("none") } else { Ok(()) });
    etcd.revoke(APP);
    fs::write(&go, "").unwrap();
    janitor.wait(SOON);
    assert_eq!(stubs.argvs("abra").len(), 1, "{:?}", stubs.argvs("abra"));
    let report: Value = serde_json::from_str(&janitor.stdout()).unwrap();
    assert_eq!(report["apps"][0]["verdict"], "skipped", "{report:#}; {}", janitor.stderr());
    assert!(host.sandbox.lock_path(APP).exists());
}

/// Without etcd nobody's app can be told from a run's on another host: 69, and nothing touched.
/// Fails without the question at the start of a round.
#[test]
fn without_etcd_nothing_is_touched() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let etcd = ["--lock-backend", "etcd", "--etcd-endpoints", "http://127.0.0.1:1"];
    let output = apps.janitor().args(etcd).output();
    assert_eq!(output.code(), 69, "{}", output.stderr);
    assert!(output.stderr.contains("etcd can't be reached: http://127.0.0.1:1: "), "{}", output.stderr);
    assert!(output.stderr.contains("nothing was touched"), "{}", output.stderr);
    let reap = sandbox.plain().args(["reap", APP, "--zone", ZONE]).arg("--list-cmd").arg(apps.list_cmd());
    let output = reap.teardown(apps.teardown()).args(etcd).output();
    assert_eq!(output.code(), 69, "{}", output.stderr);
    assert!(apps.has(APP) && !sandbox.lock_path(APP).exists());
}

/// Several nodes are no reason to refuse where the locks are the cluster's.
/// Fails with the nodes counted all the same.
#[test]
fn a_swarm_of_several_nodes_is_fine() {
    let Some(etcd) = Etcd::there() else { return };
    let host = Host::on(&etcd);
    let stubs = Stubs::new(&host.sandbox);
    stubs.deploy(APP);
    stubs.nodes(3);
    assert_eq!(stubs.janitor().output().code(), 69);
    let output = host.etcd(stubs.janitor()).args(["--lease-ttl", "5s"]).output();
    assert_eq!(output.code(), 0, "{}", output.stderr);
    assert_eq!(stubs.left(APP), Vec::<String>::new());
}

/// What the harness noted is torn down under the cluster's lock too; what a run on another host holds is left alone.
/// Fails without `noted_in_cluster`.
#[test]
fn noted_apps_are_locked_in_the_cluster_too() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let (theirs, ours) = ("aa-000001.ci.example.net", "bb-000002.ci.example.net");
    let held = two.run(theirs, "5s").sh(&detector.harness(theirs, "sleep 60")).spawn();
    ready(&held);
    let log = one.sandbox.path("torn-down");
    let teardown = format!("echo $CCCI_TEARDOWN_APP $CCCI_APP_LOCK_TOKEN >>'{}'", log.display());
    let guard = one.guard("5s").args(["--app", APP, "--teardown", &teardown]);
    let note = format!("printf '{theirs}\\n{ours}\\n' >>$CCCI_RUN_APPS_FILE; ");
    let mut run = guard.sh(&format!("{note}{}", detector.harness(APP, "sleep 60"))).spawn();
    ready(&run);
    run.signal(Signal::SIGTERM);
    run.expect_code(143);
    let log = fs::read_to_string(log).unwrap();
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.iter().map(|line| line[0]).collect::<Vec<_>>(), [APP, ours], "{log}");
    assert!(lines.iter().all(|line| line.len() == 2 && line[1].parse::<i64>().is_ok()), "each with its token: {log}");
    let words = format!("left {theirs} alone: it is another run's (held by pid {} on", held.pid());
    assert!(run.stderr().contains(&words), "{}", run.stderr());
    assert!(etcd.key(theirs).is_some() && etcd.key(ours).is_none());
}
