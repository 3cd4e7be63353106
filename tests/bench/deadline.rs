//! How far from its moment a deadline is: from the harness's first instruction to the stop signal, by the harness's clock.
//!
//! The runs overlap, since each sleeps nearly all the time, and begin a little after each other, so that no two have
//! anything to do at the same moment.

use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use crate::contender::{Bench, Contender, Running};
use crate::options::Options;
use crate::table::Table;

const DEADLINE: &str = "2s";
const NANOSECONDS: i64 = 2_000_000_000;
/// Between two starts.
const APART: Duration = Duration::from_millis(50);
/// Milliseconds, for the median. None may be early.
const GOAL: f64 = 2.0;

pub fn measure(bench: &Bench, options: &Options) {
    let options_of_compiler = ["-static", "-nostartfiles", "-fno-stack-protector"];
    let clock = bench.compile("clock.c", &options_of_compiler);
    let contenders = [bench.run_for(DEADLINE), bench.timeout(DEADLINE)];
    let mut running: Vec<Vec<Running>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.deadlines {
        for (contender, running) in contenders.iter().zip(&mut running) {
            running.push(contender.start_piped(&[clock.to_str().unwrap()]));
            sleep(APART);
        }
    }
    let mut table = Table::new(
        format!("Deadline: error of {DEADLINE} over {} runs", options.deadlines),
        options.markdown,
        &["prefix", "median", "smallest", "largest"],
    );
    let mut notes = Vec::new();
    for (contender, running) in contenders.iter().zip(running) {
        let mut errors: Vec<f64> = running.into_iter().map(error).collect();
        errors.sort_by(f64::total_cmp);
        let (median, smallest, largest) = (errors[errors.len() / 2], errors[0], errors[errors.len() - 1]);
        let shown = [median, smallest, largest].map(|error| format!("{error:.2} ms"));
        table.row(std::iter::once(contender.name.to_owned()).chain(shown).collect());
        notes.extend(notes_of(contender, median, smallest));
    }
    table.print(&notes);
}

fn notes_of(contender: &Contender, median: f64, smallest: f64) -> Vec<String> {
    if contender.name != "ccci-guard run" {
        return Vec::new();
    }
    let early = if smallest >= 0.0 { "met" } else { "MISSED" };
    vec![
        crate::table::verdict("deadline error, median in ms", median, GOAL),
        format!("goal: none early: {smallest:.2} ms, {early}"),
    ]
}

/// In milliseconds.
fn error(mut running: Running) -> f64 {
    let mut told = String::new();
    running.child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let moments: Vec<i64> = told.lines().map(|line| line.parse().unwrap()).collect();
    let [began, asked] = moments[..] else { panic!("two moments, not {told:?}") };
    #[expect(clippy::cast_precision_loss, reason = "a few milliseconds")]
    let error = (asked - began - NANOSECONDS) as f64 / 1e6;
    error
}
