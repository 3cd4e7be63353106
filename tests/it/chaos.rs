//! Any one process of a run is killed or stopped, at any moment: the teardown runs once, and only then is the lock free.
//!
//! A watcher of our own stands in the kernel's queue for the lock all the while, so that it gets the lock in the very
//! moment that it comes free, however short that moment is. What it finds then decides: was the teardown complete, was
//! anything of the run still alive? Rounds run a few at a time; each has its seed (`CCCI_IT_SEED` plays them all again).

mod blow;
mod round;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{APP, Random, SOON, Sandbox, alive, eventually, in_parallel, rounds, stopped, words};
use blow::{Blow, Victim};
use round::{AT_ONCE, Round, TEARDOWN};

/// Strikes and judges `count` runs; each failure says what was done.
#[track_caller]
fn blows(test: &str, count: usize, options: &[&str], blow: impl Fn(&mut Random) -> Blow + Sync) {
    let missed = AtomicUsize::new(0);
    in_parallel(test, count, |_, random| {
        let blow = blow(random);
        let mut round = Round::chaos(&blow, options);
        let hit = round.strike(&blow);
        missed.fetch_add(usize::from(!hit), Ordering::Relaxed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round.judge(&blow, hit))) {
            panic!("{blow}, hit: {hit}: {}", words(&*panic));
        }
    });
    let missed = missed.into_inner();
    println!("{test}: {count} blows, {missed} of them too late");
    assert!(missed * 2 <= count, "{missed} of {count} blows found nobody: this shows nothing");
}

/// A quick deadline, because a stopped harness ends by nothing else.
const CHAOS: [&str; 6] = ["--teardown-on", "always", "--deadline", "2s", "--grace", "300ms"];

/// Seen failing with a worker that nobody continues (a SIGSTOP to it: never over), and with a takeover that repeats a
/// teardown.
#[test]
fn one_process_is_killed_or_stopped_anywhere() {
    blows("one_process_is_killed_or_stopped_anywhere", rounds(300), &CHAOS, Blow::random);
}

/// A harness that runs for ever: the death of the monitor is what ends the run.
///
/// Seen failing with a supervisor that does not ask whether the monitor is gone: the lock never came free.
#[test]
fn the_monitor_is_killed_at_any_moment() {
    let blow = |random: &mut Random| Blow::to(Victim::Monitor, Signal::SIGKILL, random).for_ever();
    blows("the_monitor_is_killed_at_any_moment", rounds(100), &[], blow);
}

/// Seen failing with a takeover that took for the cause what the supervisor had said for the case of its own failure:
/// status 125, no teardown.
#[test]
fn the_supervisor_is_killed_at_any_moment() {
    let blow = |random: &mut Random| Blow::to(Victim::Supervisor, Signal::SIGKILL, random).for_ever();
    blows("the_supervisor_is_killed_at_any_moment", rounds(100), &[], blow);
}

/// One of the guards or both: the worker needs neither, is left alone, and is not started again.
///
/// Seen failing with a takeover that did not know of the announced worker: killed, and the teardown begun anew.
#[test]
fn guards_are_killed_under_a_worker() {
    in_parallel("guards_are_killed_under_a_worker", rounds(100), |_, random| {
        let mut round = Round::start(&["--teardown-on", "always"], &["/bin/sh", "-c", ": >../started"], TEARDOWN);
        let teardown = round.sandbox.teardown();
        teardown.expect_start(0);
        std::thread::sleep(random.time_below(TEARDOWN / 2));
        let (monitor, supervisor) = (Some(round.guard.pid()), round.find(Victim::Supervisor));
        let killed = [[monitor, supervisor], [monitor, None], [None, supervisor]][random.below(3) as usize];
        kill_all(killed, random);
        assert_eq!(round.freed().ends, 1, "{killed:?}: the lock came free before the teardown's end; {}", round.seen());
        eventually(AT_ONCE, "the end of all", || round.sandbox.nothing_left());
        teardown.expect_one();
        assert_eq!(teardown.count("start"), 1, "{killed:?}: {}", round.seen());
    });
}

/// What the killed worker left is ended, then the teardown is run once more, and the harness's own status stays.
///
/// Seen failing with one worker at most (`WORKER_RUNS`): the lock came free with the teardown half done.
#[test]
fn the_worker_is_killed_in_mid_step() {
    let hits = AtomicUsize::new(0);
    let count = rounds(30);
    in_parallel("the_worker_is_killed_in_mid_step", count, |_, random| {
        let mut round =
            Round::start(&["--teardown-on", "always"], &["/bin/sh", "-c", ": >../started; exit 3"], TEARDOWN);
        let teardown = round.sandbox.teardown();
        teardown.expect_start(0);
        std::thread::sleep(random.time_below(TEARDOWN / 2));
        let worker = round.find(Victim::Worker);
        let killed = worker.is_some_and(|worker| kill(worker, Signal::SIGKILL).is_ok());
        round.guard.expect_code(3);
        assert_eq!(round.freed().ends, 1, "the lock came free before the teardown's end; {}", round.seen());
        teardown.expect_one();
        // A command that comes to its end before anybody can end it is not run again.
        let starts = teardown.count("start");
        assert!(starts == 1 || (killed && starts == 2), "{starts} starts; {}", round.seen());
        hits.fetch_add(starts - 1, Ordering::Relaxed);
    });
    let hits = hits.into_inner();
    assert!(hits * 2 >= count, "{hits} of {count} workers died in the middle of a step: this shows nothing");
}

/// The command ends with 0 while everybody who could learn of it stands still; then the worker dies. Whoever gets the
/// dead command for a child has its status, and knows that the teardown is done.
///
/// Seen failing when nobody asked for the adopted command's status: it was run again.
#[test]
fn a_finished_command_of_a_killed_worker_is_not_repeated() {
    let harness = ["/bin/sh", "-c", ": >../started; exit 3"];
    let mut round = Round::start(&["--teardown-on", "always"], &harness, Duration::from_secs(1));
    let command = round.sandbox.teardown().expect_start(0);
    let [supervisor, worker] = [Victim::Supervisor, Victim::Worker].map(|victim| round.find(victim).unwrap());
    // From the top: each is continued by the one above it.
    for pid in [round.guard.pid(), supervisor, worker] {
        kill(pid, Signal::SIGSTOP).unwrap();
        eventually(SOON, "it stands still", || if stopped(pid) { Ok(()) } else { Err(pid) });
    }
    eventually(SOON, "the command's end", || if alive(command) { Err("alive") } else { Ok(()) });
    kill(worker, Signal::SIGKILL).unwrap();
    eventually(SOON, "the worker's end", || if alive(worker) { Err("alive") } else { Ok(()) });
    kill(supervisor, Signal::SIGCONT).unwrap();
    round.guard.expect_code(3);
    assert_eq!(round.freed().ends, 1, "{}", round.seen());
    let teardown = round.sandbox.teardown();
    teardown.expect_one();
    assert_eq!(teardown.count("start"), 1, "{}", round.seen());
    eventually(AT_ONCE, "the end of all", || round.sandbox.nothing_left());
}

/// The worker is killed over the second app: the first one's teardown, which ran to its end, is not repeated.
///
/// Seen failing with a second worker that asks nobody what is done: both apps were torn down twice.
#[test]
fn a_killed_worker_does_not_repeat_the_apps_that_are_done() {
    const SECOND: &str = "zulu-000001.ci.example.net";
    let options = ["--teardown-on", "always", "--app", SECOND];
    let mut round = Round::start(&options, &["/bin/sh", "-c", ": >../started"], TEARDOWN);
    let teardown = round.sandbox.teardown();
    teardown.expect_start(1);
    let worker = round.find(Victim::Worker).unwrap();
    kill(worker, Signal::SIGKILL).unwrap();
    round.guard.expect_code(0);
    let lines = teardown.lines();
    let of = |word: &str, app: &str| {
        lines.iter().filter(|line| line.starts_with(word) && line.contains(&format!("app={app} "))).count()
    };
    assert_eq!((of("start", APP), of("end", APP)), (1, 1), "{lines:#?}");
    assert_eq!((of("start", SECOND), of("end", SECOND), of("overlap", SECOND)), (2, 1, 0), "{lines:#?}");
    eventually(AT_ONCE, "the end of all", || round.sandbox.nothing_left());
}

/// Nobody of the guard is left, and no teardown comes: the lock is as free as the harness lets it be, and no earlier.
///
/// Seen failing with a harness that unlocks the descriptor it was given (`--unlock`).
#[test]
fn both_guards_are_killed_over_an_adapted_harness() {
    let harness = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/harness.py");
    in_parallel("both_guards_are_killed_over_an_adapted_harness", rounds(20), |_, random| {
        let sandbox = Sandbox::new();
        let argv = ["python3", harness, "--wait", "--finally-log", "../finally.log", "--finally-takes", "0.3"];
        let guard = sandbox.run().app().teardown(sandbox.teardown().command()).harness(argv).spawn();
        guard.ready();
        let (supervisor, harness) = (guard.supervisor(), guard.harness());
        let log = sandbox.path("finally.log");
        let finally = move || std::fs::read_to_string(&log).unwrap_or_default();

        let (tell, told) = channel();
        let lock = File::open(sandbox.lock_path(APP)).unwrap();
        let seen_by_waiter = finally.clone();
        std::thread::spawn(move || {
            lock.lock().unwrap();
            let _ = tell.send(seen_by_waiter());
        });
        std::thread::sleep(random.time_below(Duration::from_millis(100)));
        kill_all([Some(guard.pid()), Some(supervisor)], random);

        eventually(SOON, "the harness's end", || if alive(harness) { Err(finally()) } else { Ok(()) });
        let when_free = told
            .recv_timeout(AT_ONCE)
            .unwrap_or_else(|_| panic!("the harness has ended, and the lock is not free; left: {:?}", sandbox.left()));
        assert!(when_free.contains("end "), "the lock was free while the harness cleaned up: {when_free:?}");
        eventually(AT_ONCE, "the end of all", || sandbox.nothing_left());
        sandbox.teardown().expect_none();
    });
}

/// One right after the other, in either order.
fn kill_all(mut pids: [Option<Pid>; 2], random: &mut Random) {
    pids.rotate_left(random.below(2) as usize);
    for pid in pids.into_iter().flatten() {
        // One that is gone already is as good as killed.
        let _ = kill(pid, Signal::SIGKILL);
    }
}
