//! From SIGTERM to the end: of the harness, of the lock, of the prefix itself.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::contender::{Bench, Contender, kill};
use crate::kernel::Pidfd;
use crate::options::Options;
use crate::proc;
use crate::table::{Samples, Table, milliseconds, ratio, verdict};

/// A harness that ends at once when it is asked to: what remains is the prefix.
const HARNESS: [&str; 2] = ["sleep", "86400"];
/// At most so many times the composition's time.
const GOAL: f64 = 1.2;
const LIMIT: Duration = Duration::from_secs(30);

struct Stop {
    harness_dead: Duration,
    lock_free: Duration,
    returned: Duration,
}

pub fn measure(bench: &Bench, options: &Options) {
    let contenders = [bench.composition(), bench.exec(), bench.run_without_teardown(), bench.run(), bench.python()];
    let mut stops: Vec<Vec<Stop>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..options.stops {
        for position in 0..contenders.len() {
            let index = (position + round) % contenders.len();
            stops[index].push(stop(&contenders[index]));
        }
    }

    let median = |stops: &[Stop], part: fn(&Stop) -> Duration| Samples::new(stops.iter().map(part).collect()).median();
    let dead_by_composition = median(&stops[0], |stop| stop.harness_dead);
    let free_by_composition = median(&stops[0], |stop| stop.lock_free);
    let mut table = Table::new(
        format!("Stop: from SIGTERM to the prefix, medians of {}, interleaved", options.stops),
        options.markdown,
        &["prefix", "harness dead", "to composition", "lock free", "to composition", "returned"],
    );
    let mut notes = Vec::new();
    for (contender, stops) in contenders.iter().zip(&stops) {
        let (dead, free) = (median(stops, |stop| stop.harness_dead), median(stops, |stop| stop.lock_free));
        table.row(vec![
            contender.name.to_owned(),
            milliseconds(dead),
            ratio(dead, dead_by_composition),
            milliseconds(free),
            ratio(free, free_by_composition),
            milliseconds(median(stops, |stop| stop.returned)),
        ]);
        if contender.name.starts_with("ccci-guard") {
            for (what, time, whole) in [("dead", dead, dead_by_composition), ("free", free, free_by_composition)] {
                let figure = time.as_secs_f64() / whole.as_secs_f64();
                notes.push(verdict(&format!("{}, {what} to composition", contender.name), figure, GOAL));
            }
        }
    }
    notes.push("`ccci-guard run` does its teardown (`true`) between the harness's end and the lock's.".to_owned());
    table.print(&notes);
}

fn stop(contender: &Contender) -> Stop {
    let mut running = contender.start(&HARNESS);
    let harness = running.harness("sleep");
    let pidfd = Pidfd::open(harness).unwrap();
    let lock = File::open(contender.lock.as_ref().unwrap()).unwrap();
    // A waiter in the kernel's queue learns the moment the lock comes free; a polling one would be late by half its interval.
    let waiter = thread::spawn(move || {
        lock.lock().unwrap();
        Instant::now()
    });
    proc::eventually("our waiter is queued for the lock", || proc::waits_for_a_lock().then_some(()));

    let pid = running.pid();
    let start = Instant::now();
    kill(pid, Signal::SIGTERM);
    pidfd.wait(LIMIT);
    let harness_dead = start.elapsed();
    running.child.wait().unwrap();
    let returned = start.elapsed();
    let lock_free = waiter.join().unwrap() - start;
    Stop { harness_dead, lock_free, returned }
}
