//! Taking the cluster lock: one host at a time, in turn, at once when it is given back, and never half.

use crate::host::{Detector, Host, lives, ready};
use crate::server::Etcd;
use crate::support::*;
use nix::sys::signal::{Signal, kill};
use std::time::Duration;

const HELD: &str = "trap 'exit 0' TERM; read line; exit 0";

/// Ends a harness that reads its stdin.
fn end(run: &mut Proc) {
    drop(run.stdin());
}

/// Two hosts: one waits, and has it in under a second after the other's end; the token grows.
/// Fails with the word that a key was given back unseen: the next one waits for one more lease's time.
#[test]
fn a_run_on_another_host_waits_its_turn() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let mut first = one.run(APP, "5s").stdin(std::process::Stdio::piped()).sh(&detector.harness(APP, HELD)).spawn();
    let (_, token) = ready(&first);
    let key = etcd.key(APP).expect("the key of the running app");
    assert_eq!(key.token, token, "the harness knows its fencing token");
    assert_eq!(key.value["pid"], first.pid().as_raw());
    assert!(key.value["host"].is_string() && key.value["run_id"].is_string(), "{:?}", key.value);

    let mut second = two.run(APP, "5s").sh(&detector.harness(APP, "date +%s.%N")).spawn();
    second.expect_stderr(&format!("waiting for the cluster's lock of {APP} (held by pid {}", first.pid()));
    assert!(second.try_line(Duration::from_millis(1500)).is_none(), "it may not start yet");
    end(&mut first);
    let freed = std::time::Instant::now();
    let (_, next) = ready(&second);
    within("from the end of one to the start of the next", freed.elapsed(), ..Duration::from_secs(1));
    assert!(next > token, "{next} after {token}");
    first.expect_code(0);
    second.expect_code(0);
    detector.expect_no_fault();
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}

/// Back to back on one host: nobody finds the lease of the run before.
/// Fails with the lease left to the keeper's own end.
#[test]
fn a_run_that_has_ended_has_given_its_lease_back() {
    let Some(etcd) = Etcd::there() else { return };
    let host = Host::on(&etcd);
    for round in 0..rounds(100) {
        let output = host.run(APP, "5s").args(["--lock-timeout", "0s"]).harness(["true"]).output();
        assert_eq!(output.code(), 0, "round {round}: {}", output.stderr);
        assert_eq!(output.stderr, "", "round {round}");
        assert!(etcd.key(APP).is_none(), "round {round}: given back before the run's end");
    }
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}

/// 75, with the holder's host, and nothing of ours left in etcd.
/// Fails without a look at `give_up`.
#[test]
fn a_wait_has_its_limit_and_names_the_holder() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let first = one.run(APP, "5s").stdin(std::process::Stdio::piped()).sh(&detector.harness(APP, HELD)).spawn();
    ready(&first);
    for limit in ["0s", "500ms"] {
        let output = two.run(APP, "5s").args(["--lock-timeout", limit]).report().harness(["true"]).output();
        assert_eq!(output.code(), 75, "{}", output.stderr);
        let said = format!("is still held by pid {} on ", first.pid());
        assert!(output.stderr.contains(&said), "{}", output.stderr);
        assert_eq!(two.sandbox.report()["cause"], "lock-timeout");
        two.sandbox.expect_nothing_left();
    }
    let held = etcd.key(APP).expect("still the first one's");
    assert_eq!(held.value["pid"], first.pid().as_raw());
}

/// 143 in under a second, the harness never started, and the next one has the app at once.
/// Fails with a wait that hears nothing.
#[test]
fn a_request_to_stop_ends_a_wait() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let mut first = one.run(APP, "5s").stdin(std::process::Stdio::piped()).sh(&detector.harness(APP, HELD)).spawn();
    ready(&first);
    let mut second = two.run(APP, "5s").sh("echo started").spawn();
    second.expect_stderr("waiting for the cluster's lock");
    second.signal(Signal::SIGTERM);
    within("the end of the wait", second.wait(SOON).after, ..Duration::from_secs(10));
    second.expect_code(143);
    assert_eq!(second.stdout(), "");
    end(&mut first);
    first.expect_code(0);
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}

/// Asked to stop at any moment of its start, a run has given back what it had when it ends.
/// Fails with the keeper only told to, and with the lease dropped where the request came in the moment of the grant.
#[test]
fn a_request_at_the_start_leaves_no_key() {
    let Some(etcd) = Etcd::there() else { return };
    let host = Host::on(&etcd);
    let mut random = Random::from_clock("a_request_at_the_start_leaves_no_key");
    for round in 0..rounds(200) {
        let mut run = host.run(APP, "5s").default_signals().harness(["sleep", "60"]).spawn();
        std::thread::sleep(random.time_below(Duration::from_millis(40)));
        run.signal(Signal::SIGTERM);
        let code = run.code();
        // Also where the signal was faster than the guard's exec.
        assert_eq!(code, 143, "round {round}: {}", run.stderr());
        assert!(etcd.key(APP).is_none(), "round {round}: the key is still there; {}", run.stderr());
    }
}

/// The holder and its keeper are killed, all its processes: the next one has the app when the lease runs out, and never
/// before the old harness is dead.
/// Fails with every key that was not given back taken for one that somebody else removed.
#[test]
fn a_holder_that_is_killed_loses_the_app_when_its_lease_runs_out() {
    let Some(etcd) = Etcd::there() else { return };
    for _ in 0..rounds(10) {
        let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
        let first = one.run(APP, "5s").sh(&detector.harness(APP, "sleep 60")).spawn();
        ready(&first);
        let second = two.run(APP, "5s").sh(&detector.harness(APP, "true")).spawn();
        second.expect_stderr("waiting for the cluster's lock");
        let keeper = crate::host::keepers(first.monitor());
        assert_eq!(keeper.len(), 1);
        // The keeper before the others, or it sees that they are dead and gives the lease back; and nobody may start another.
        for guard in [first.monitor(), first.supervisor()] {
            kill(guard, Signal::SIGSTOP).unwrap();
        }
        let killed = std::time::Instant::now();
        for pid in keeper.into_iter().chain(first.tree().into_iter().map(|process| process.pid)) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // From the last renewal, which may be a third of the time old. When it is over is etcd's business, which looks twice
        // a second, and later on a busy machine.
        let token = etcd.key(APP).map(|key| key.token);
        eventually(SOON, "the end of the lease", || {
            if etcd.key(APP).map(|key| key.token) == token { Err("the old key") } else { Ok(()) }
        });
        within("until the lease is over", killed.elapsed(), Duration::from_secs(2)..Duration::from_secs(9));
        let over = std::time::Instant::now();
        ready(&second);
        within("until the next one has it", over.elapsed(), ..Duration::from_secs(1));
        detector.expect_no_fault();
    }
}

/// Monitor and supervisor are killed, and the harness goes on: it has the flock, and keeps the lease by it.
/// Fails with a keeper that ends the lease as soon as the life pipe is closed.
#[test]
fn a_harness_that_outlives_its_guards_keeps_the_app() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let script = detector.harness(APP, "trap '' TERM; while [ ! -e end ]; do sleep 0.05; done");
    let first = one.run(APP, "5s").sh(&script).spawn();
    let (harness, _) = ready(&first);
    let (monitor, supervisor) = (first.monitor(), first.supervisor());
    let keeper = crate::host::keepers(monitor)[0];
    let second = two.run(APP, "5s").sh(&detector.harness(APP, "true")).spawn();
    second.expect_stderr("waiting for the cluster's lock");
    // The monitor first: a supervisor alone would stop the run.
    kill(supervisor, Signal::SIGSTOP).unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    kill(supervisor, Signal::SIGKILL).unwrap();
    assert!(second.try_line(Duration::from_secs(7)).is_none(), "longer than the lease: somebody renews it");
    assert!(lives(harness) && lives(keeper));
    std::fs::write(one.sandbox.path("work/end"), "").unwrap();
    ready(&second);
    detector.expect_no_fault();
    eventually(SOON, "the keeper's end", || if lives(keeper) { Err("it lives") } else { Ok(()) });
}

/// `a b` and `b a` on two hosts: no deadlock, all or none.
/// Fails with the apps taken in the order in which they were given.
#[test]
fn two_runs_with_the_same_apps_in_another_order_take_turns() {
    let Some(etcd) = Etcd::there() else { return };
    let hosts = [Host::on(&etcd), Host::on(&etcd)];
    let (a, b) = ("aa-000001.ci.example.net", "bb-000002.ci.example.net");
    for _ in 0..rounds(20) {
        let mut runs: Vec<Proc> = [(a, b), (b, a)]
            .into_iter()
            .zip(&hosts)
            .map(|((x, y), host)| host.run(x, "5s").args(["--app", y]).sh("echo $CCCI_APP_LOCK_TOKEN").spawn())
            .collect();
        for run in &mut runs {
            run.expect_code(0);
            let tokens: Vec<i64> = run.line().split(',').map(|token| token.parse().unwrap()).collect();
            assert_eq!(tokens.len(), 2, "in the order of the apps");
        }
    }
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}

/// A guard below a guard of the same app borrows both locks, and hands the token on.
#[test]
fn a_nested_guard_shares_the_lease() {
    let Some(etcd) = Etcd::there() else { return };
    let host = Host::on(&etcd);
    let inner = format!("\"$G\" --app {APP} --lease-ttl 5s -- sh -c 'echo inner $CCCI_APP_LOCK_TOKEN'");
    let output = host.run(APP, "5s").sh(&format!("echo outer $CCCI_APP_LOCK_TOKEN; {inner}; exit 4")).output();
    assert_eq!(output.code(), 4, "{}", output.stderr);
    let text = output.text();
    let mut lines = text.lines();
    let outer = lines.next().unwrap().strip_prefix("outer ").unwrap();
    assert!(outer.parse::<i64>().is_ok(), "{text}");
    assert_eq!(lines.next(), Some(&*format!("inner {outer}")));
}

/// Without the option nothing of this runs: no keeper, no token.
/// Fails with `CCCI_LOCK_BACKEND=etcd` set.
#[test]
fn a_plain_run_has_nothing_of_it() {
    let (host, detector) = (Sandbox::new(), Detector::new());
    let mut run = host.run().app().teardown("none").stdin(std::process::Stdio::piped());
    run = run.env("CCCI_ETCD_ENDPOINTS", "http://127.0.0.1:1");
    let mut run = run.sh(&detector.harness(APP, "read line")).spawn();
    let (_, token) = ready(&run);
    assert_eq!(token, -1);
    assert!(crate::host::keepers(run.monitor()).is_empty());
    drop(run.stdin());
    run.code();
}

/// No endpoint answers: 75 within seconds, the harness never started. Of several, the one that answers is used.
/// Fails without the question at the start of a run without an app.
#[test]
fn an_etcd_that_can_not_be_reached_is_said() {
    let host = Sandbox::new();
    let started = std::time::Instant::now();
    for apps in [&["--app", APP][..], &[]] {
        let guard = host.run().args(apps).args(["--teardown", "none", "--lock-backend", "etcd"]);
        let output =
            guard.args(["--etcd-endpoints", "http://127.0.0.1:1,http://127.0.0.1:2"]).sh("echo started").output();
        assert_eq!(output.code(), 75, "{}", output.stderr);
        assert!(output.stderr.contains("etcd can't be reached: http://127.0.0.1:1: "), "{}", output.stderr);
        assert!(output.stderr.contains("http://127.0.0.1:2: "), "{}", output.stderr);
        assert_eq!(output.text(), "");
        host.expect_nothing_left();
    }
    within("the refusal", started.elapsed(), ..Duration::from_secs(10));
    let Some(etcd) = Etcd::there() else { return };
    let guard = host.run().args(["--app", APP, "--teardown", "none", "--lock-backend", "etcd"]);
    let both = format!("http://127.0.0.1:1,{}", etcd.endpoints());
    assert_eq!(guard.args(["--etcd-endpoints", &both]).harness(["true"]).output().code(), 0);
}

/// What a run had of its apps when it was asked to stop waiting for the others is given back, not lost: who waits for it has
/// it at once.
/// Fails with the tokens of those that were had forgotten: one more lease's time.
#[test]
fn half_of_the_apps_is_given_back() {
    let Some(etcd) = Etcd::there() else { return };
    let (hosts, detector) = ([Host::on(&etcd), Host::on(&etcd), Host::on(&etcd)], Detector::new());
    let (a, b) = ("aa-000001.ci.example.net", "bb-000002.ci.example.net");
    let holder = hosts[0].run(b, "5s").sh(&detector.harness(b, "sleep 60")).spawn();
    ready(&holder);
    let mut both = hosts[1].run(a, "5s").args(["--app", b]).sh("echo started").spawn();
    both.expect_stderr(&format!("waiting for the cluster's lock of {b}"));
    let next = hosts[2].run(a, "5s").sh(&detector.harness(a, "true")).spawn();
    next.expect_stderr(&format!("waiting for the cluster's lock of {a}"));
    let asked = std::time::Instant::now();
    both.signal(Signal::SIGTERM);
    ready(&next);
    within("until the next one has it", asked.elapsed(), ..Duration::from_secs(2));
    both.expect_code(143);
    assert_eq!(both.stdout(), "");
}

/// Four hosts that want the same app again and again: each run has its turn, at once, and takes no word about another's key
/// for one about its own.
/// Fails with a watch that leaves nothing out asking for the key all the same: it finds it gone before it has heard that it
/// was given back, and waits one more lease's time; 0.58 s a run.
#[test]
fn back_to_back_runs_take_turns() {
    let Some(etcd) = Etcd::there() else { return };
    let detector = Detector::new();
    let (failed, began) = (std::sync::Mutex::new(Vec::new()), std::time::Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let host = Host::on(&etcd);
                for _ in 0..rounds(100) {
                    let output = host.run(APP, "5s").sh(&detector.harness(APP, "exit 0")).output();
                    if output.code() != 0 {
                        failed.lock().unwrap().push(format!("{}: {}", output.code(), output.stderr));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    let turns = 4 * u32::try_from(rounds(100)).unwrap();
    within("all turns", began.elapsed(), ..Duration::from_millis(300) * turns);
    detector.expect_no_fault();
    eventually(SOON, "all leases are given back", || etcd.no_lease());
}
