//! `locks` on a busy host: a look at who has what open, against one pass over `/proc/*/fdinfo` in C.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::contender::{Bench, kill};
use crate::options::Options;
use crate::probing::{Holder, make_files, timed};
use crate::table::{Samples, Table, milliseconds, ratio, verdict};

const ROUNDS: usize = 21;
/// Held ones, all by one process.
const LOCKS: usize = 10;
const GOAL: f64 = 1.5;

pub fn measure(bench: &Bench, options: &Options) {
    let (brood, fdinfo, probe) =
        (bench.compile("brood.c", &[]), bench.compile("fdinfo.c", &[]), bench.compile("probe.c", &[]));
    let directory = bench.path("looked-at");
    std::fs::create_dir(&directory).unwrap();
    make_files(&directory, LOCKS);
    let holder = Holder::start(&probe, &directory);
    let mut crowd = Command::new(brood);
    crowd.args([&options.processes.to_string(), "plain"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut crowd = crowd.spawn().unwrap();
    let lines = BufReader::new(crowd.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pids: Vec<u32> = lines.take_while(|line| line != "ready").map(|line| line.parse().unwrap()).collect();

    let (mut passes, mut looks) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        passes.push(timed(&mut Command::new(&fdinfo)));
        looks.push(timed(Command::new(bench.guard()).arg("locks").arg("--lock-dir").arg(&directory)));
    }
    pids.iter().for_each(|&pid| kill(pid, nix::sys::signal::Signal::SIGKILL));
    let _ = crowd.kill();
    crowd.wait().unwrap();
    drop(holder);

    let (pass, look) = (Samples::new(passes), Samples::new(looks));
    let mut table = Table::new(
        format!(
            "`locks` with {} processes and {LOCKS} held locks, medians of {ROUNDS}, interleaved",
            options.processes
        ),
        options.markdown,
        &["", "median", "10 %", "90 %", "to C"],
    );
    for (name, samples) in [("one pass over /proc/*/fdinfo in C", &pass), ("ccci-guard locks", &look)] {
        let mut row = vec![name.to_owned()];
        row.extend([50, 10, 90].map(|percent| milliseconds(samples.at(percent))));
        row.push(ratio(samples.median(), pass.median()));
        table.row(row);
    }
    let figure = look.median().as_secs_f64() / pass.median().as_secs_f64();
    table.print(&[verdict("locks to C", figure, GOAL)]);
}
