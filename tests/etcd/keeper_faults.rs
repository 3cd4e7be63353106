//! The fault matrix of the keeper: each fault in each phase of a run, longer than the lease lasts. A run is not disturbed by
//! it, nor is its lease, but where it has none yet.
//!
//! The other processes' matrix is `tests/it/fault_matrix`.

use crate::host::{Detector, Host, keepers, ready};
use crate::server::Etcd;
use crate::support::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// Longer than the lease of these runs without a renewal.
const LONG: Duration = Duration::from_secs(7);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill,
    StopAndContinue,
    Term,
    NoDescriptors,
    NoMemory,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// For a run on another host.
    Waiting,
    Running,
    Stopping,
    TearingDown,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// As without the fault; the lease is the same one all the time.
    Undisturbed,
    /// There was no lease yet, and nobody to go on with the wait: 75.
    Refused,
}

use Fault::*;
use Outcome::*;
use Phase::*;

const PHASES: [Phase; 4] = [Waiting, Running, Stopping, TearingDown];

#[rustfmt::skip]
const TABLE: [(Fault, [Outcome; PHASES.len()]); 5] = [
    //                 waiting      running      stopping     tearing down
    (Kill,            [Refused,     Undisturbed, Undisturbed, Undisturbed]),
    (StopAndContinue, [Undisturbed, Undisturbed, Undisturbed, Undisturbed]),
    (Term,            [Undisturbed, Undisturbed, Undisturbed, Undisturbed]),
    (NoDescriptors,   [Undisturbed, Undisturbed, Undisturbed, Undisturbed]),
    (NoMemory,        [Refused,     Undisturbed, Undisturbed, Undisturbed]),
];

/// Fails with `keeper_ended` doing nothing, and without `continue_keeper`.
#[test]
fn whatever_happens_to_the_keeper_the_run_goes_on() {
    let Some(etcd) = Etcd::there() else { return };
    let cells = TABLE.iter().flat_map(|(fault, row)| PHASES.iter().zip(row).map(|(phase, end)| (*fault, *phase, *end)));
    std::thread::scope(|scope| {
        for (number, cell) in cells.enumerate() {
            let etcd = &etcd;
            let play = move || play(etcd, &format!("a{number}-0000{number:02}.ci.example.net"), cell);
            std::thread::Builder::new().name(format!("{cell:?}")).spawn_scoped(scope, play).expect("a thread");
        }
    });
}

fn strike(keeper: Pid, fault: Fault) {
    match fault {
        Kill => kill(keeper, Signal::SIGKILL).unwrap(),
        StopAndContinue => kill(keeper, Signal::SIGSTOP).unwrap(),
        Term => kill(keeper, Signal::SIGTERM).unwrap(),
        NoDescriptors => limit(keeper, "--nofile=3:3"),
        // Nothing more, from now on.
        NoMemory => limit(keeper, "--as=1:1"),
    }
}

fn play(etcd: &Etcd, app: &str, (fault, phase, outcome): (Fault, Phase, Outcome)) {
    let (host, other, detector) = (Host::on(etcd), Host::on(etcd), Detector::new());
    let (go, done) = (host.sandbox.path("go"), host.sandbox.path("done"));
    let until_go = format!("while [ ! -e '{}' ]; do sleep 0.05; done", go.display());
    let teardown = match phase {
        TearingDown => format!("{until_go}; echo done >'{}'", done.display()),
        _ => format!("echo done >'{}'", done.display()),
    };
    let harness = match phase {
        Stopping => format!("trap 'echo asked' TERM; {until_go}"),
        TearingDown => "sleep 60".to_owned(),
        Waiting => "exit 0".to_owned(),
        Running => format!("{until_go}; exit 0"),
    };
    let mut holder = (phase == Waiting).then(|| {
        let run = other.run(app, "5s").stdin(Stdio::piped()).sh(&detector.harness(app, "read line; exit 0")).spawn();
        ready(&run);
        run
    });
    let guard = host.guard("5s").args(["--app", app, "--teardown", &teardown]).grace("1m");
    let mut run = guard.sh(&detector.harness(app, &harness)).spawn();
    match phase {
        Waiting => run.expect_stderr("waiting for the cluster's lock"),
        Running => drop(ready(&run)),
        Stopping | TearingDown => {
            ready(&run);
            run.signal(Signal::SIGTERM);
        }
    }
    match phase {
        Stopping => drop(run.expect_line("asked")),
        TearingDown => drop(run.worker()),
        Waiting | Running => {}
    }
    let monitor = if phase == Waiting { run.pid() } else { run.monitor() };
    let keeper = eventually(SOON, "the keeper", || keepers(monitor).first().copied().ok_or("none"));
    let lease = || etcd.key(app).map(|key| key.lease);
    let before = lease();
    strike(keeper, fault);
    if outcome == Refused {
        run.expect_code(75);
        assert!(!done.exists());
    } else {
        std::thread::sleep(LONG);
        assert_eq!(run.try_wait().map(|exit| exit.code), None, "it goes on; {}", run.stderr());
        assert_eq!(lease(), before, "the lease is the same");
        fs::write(&go, "").unwrap();
    }
    if let Some(holder) = &mut holder {
        drop(holder.stdin());
        holder.expect_code(0);
    }
    if outcome == Undisturbed {
        let stopped = matches!(phase, Stopping | TearingDown);
        run.expect_code(if stopped { 143 } else { 0 });
        assert_eq!(done.exists(), stopped, "torn down after a stop alone");
    }
    detector.expect_no_fault();
    eventually(SOON, "the key is given back", || lease().map_or(Ok(()), |lease| Err(format!("lease {lease}"))));
    eventually(Duration::from_secs(1), "the end of all", || host.sandbox.nothing_left());
}
