//! How long the end of a whole tree takes: processes that each left the harness's session, so that no group reaches them.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::contender::{Bench, Contender, Running, kill};
use crate::kernel::{Closely, Pidfd};
use crate::options::Options;
use crate::proc;
use crate::table::{Samples, Table, milliseconds, ratio, verdict};

/// At most so many times the time of a plain loop in C.
const GOAL: f64 = 1.5;
/// For the first death.
const LIMIT: Duration = Duration::from_secs(20);

pub fn measure(bench: &Bench, options: &Options) {
    let brood = bench.compile("brood.c", &[]);
    let brood = brood.to_str().unwrap();
    asked(bench, options, brood);
    killed(bench, options, brood);
}

/// Descendants that end when they are asked to, if they are asked.
fn asked(bench: &Bench, options: &Options, brood: &str) {
    let count = options.descendants;
    let mut table = Table::new(
        format!("Tree: {count} descendants that end on SIGTERM; SIGTERM to return, medians of {}", options.trees),
        options.markdown,
        &["prefix", "returned", "left behind"],
    );
    for contender in [bench.run(), bench.composition(), bench.python()] {
        let ends: Vec<_> = (0..options.trees)
            .map(|_| {
                let (mut running, _) = start(&contender, &[brood, &count.to_string(), "end"]);
                let began = Instant::now();
                kill(running.pid(), Signal::SIGTERM);
                running.child.wait().unwrap();
                (began.elapsed(), proc::marked(&running.mark).len())
            })
            .collect();
        table.row(vec![
            contender.name.to_owned(),
            milliseconds(Samples::new(ends.iter().map(|end| end.0).collect()).median()),
            ends.iter().map(|end| end.1).max().unwrap_or(0).to_string(),
        ]);
    }
    table.print(&[]);
}

/// Descendants that must be killed, and one more that forks on and on, so that no list of them is ever complete.
fn killed(bench: &Bench, options: &Options, brood: &str) {
    let _ahead = Closely::watch();
    let contenders = [bench.kill_and_reap(), bench.run_without_app()];
    let mut table = Table::new(
        format!("Kill: descendants that ignore SIGTERM, and one that forks on; medians of {}", options.trees),
        options.markdown,
        &["descendants", "C loop", "10 %", "90 %", "ccci-guard run", "10 %", "90 %", "to C", "left behind"],
    );
    let mut notes = Vec::new();
    for count in [options.descendants, 5 * options.descendants] {
        let (mut times, mut left) = ([Vec::new(), Vec::new()], 0);
        for _ in 0..options.trees {
            for (contender, times) in contenders.iter().zip(&mut times) {
                let (time, alive) = first_death_to_return(contender, &[brood, &count.to_string(), "ignore", "hop"]);
                times.push(time);
                left = left.max(alive);
            }
        }
        let [plain, guard] = times.map(Samples::new);
        let (plain_median, guard_median) = (plain.median(), guard.median());
        let mut row = vec![count.to_string()];
        row.extend([&plain, &guard].iter().flat_map(|samples| [50, 10, 90].map(|part| milliseconds(samples.at(part)))));
        row.extend([ratio(guard_median, plain_median), left.to_string()]);
        table.row(row);
        let figure = guard_median.as_secs_f64() / plain_median.as_secs_f64();
        notes.push(verdict(&format!("{count} descendants, run to C"), figure, GOAL));
    }
    table.print(&notes);
}

/// Starts it, and waits until all are there; gives the pids of those that don't fork on.
fn start(contender: &Contender, harness: &[&str]) -> (Running, Vec<u32>) {
    let mut running = contender.start_piped(harness);
    let lines = BufReader::new(running.child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pids = lines.take_while(|line| line != "ready").map(|line| line.parse().unwrap()).collect();
    (running, pids)
}

/// From the first death by SIGKILL, seen from outside, to the return of the prefix; and how many are alive then.
///
/// The first death stands for the first SIGKILL and the return for the last reap, since those two are hard to see from
/// outside without being in the way. What lies between them is the same for both contenders, but for what the guard does
/// after the last reap.
fn first_death_to_return(contender: &Contender, harness: &[&str]) -> (Duration, usize) {
    let (mut running, pids) = start(contender, harness);
    let pidfds: Vec<Pidfd> = pids.iter().map(|&pid| Pidfd::open(pid).unwrap()).collect();
    kill(running.pid(), Signal::SIGTERM);
    Pidfd::wait_for_any(&pidfds, LIMIT);
    let began = Instant::now();
    running.child.wait().unwrap();
    let elapsed = began.elapsed();
    (elapsed, proc::marked(&running.mark).len())
}
