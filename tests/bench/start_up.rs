//! What a prefix costs before and after a command that does nothing: from spawn to wait.

use std::time::{Duration, Instant};

use crate::contender::{Bench, Contender};
use crate::options::Options;
use crate::table::{Samples, Table, milliseconds, verdict};

/// Rounds that are thrown away: page cache, CPU clock.
const WARM_UP: usize = 5;

/// Names of [`crate::contender`] that others are compared with.
const BARE: &str = "bare exec";
const TINI: &str = "tini -s";
const COMPOSITION: &str = "flock setsid setpriv timeout";
const PYTHON: &str = "Python equivalent";

pub fn measure(bench: &Bench, options: &Options) {
    let mut contenders = vec![
        bench.bare(),
        bench.run(),
        bench.run_without_app(),
        bench.run_on_disk(),
        bench.exec(),
        bench.composition(),
    ];
    contenders.extend(bench.other_build().into_iter().flatten());
    contenders.extend(bench.small_tools());
    contenders.push(bench.python());

    let samples: Vec<Samples> = interleaved(&contenders, options.runs).into_iter().map(Samples::new).collect();
    let median = |name: &str| {
        let index = contenders.iter().position(|contender| contender.name == name);
        index.map(|index| samples[index].median())
    };
    let to = |time: Duration, name: &str| median(name).map(|whole| time.as_secs_f64() / whole.as_secs_f64());
    let mut table = Table::new(
        format!("Start-up: `PREFIX true`, spawn to wait, {} runs each, interleaved", options.runs),
        options.markdown,
        &["prefix", "median", "10 %", "90 %", "to bare", "to tini", "to composition", "to Python"],
    );
    for (contender, samples) in contenders.iter().zip(&samples) {
        let mut row = vec![contender.name.to_owned()];
        row.extend([50, 10, 90].map(|percent| milliseconds(samples.at(percent))));
        let peers = [BARE, TINI, COMPOSITION, PYTHON];
        row.extend(peers.map(|peer| to(samples.median(), peer).map_or("-".to_owned(), |to| format!("{to:.2}"))));
        table.row(row);
    }
    let builds = [("ccci-guard run", "ccci-guard exec"), ("other build, run", "other build, exec")];
    let mut notes = Vec::new();
    for (run, exec) in builds {
        let run_goals = [(BARE, 2.2), (TINI, 1.2), (COMPOSITION, 0.5), (PYTHON, 0.11)].map(|goal| (run, goal));
        let exec_goals = [(BARE, 1.9), ("setlock", 1.1)].map(|goal| (exec, goal));
        for (name, (peer, goal)) in run_goals.into_iter().chain(exec_goals) {
            let figure = median(name).and_then(|time| to(time, peer));
            notes.extend(figure.map(|figure| verdict(&format!("{name} to {peer}"), figure, goal)));
        }
    }
    table.print(&notes);
}

/// The times of each contender.
fn interleaved(contenders: &[Contender], runs: usize) -> Vec<Vec<Duration>> {
    let mut samples = vec![Vec::with_capacity(runs); contenders.len()];
    for round in 0..WARM_UP + runs {
        for position in 0..contenders.len() {
            // Another one begins in each round: nobody always runs after the same neighbour.
            let index = (position + round) % contenders.len();
            let elapsed = spawn_to_wait(&contenders[index]);
            if round >= WARM_UP {
                samples[index].push(elapsed);
            }
        }
    }
    samples
}

/// `Command` without a `pre_exec` goes through `posix_spawn`, which on Linux is a vfork: the size of this process, and
/// the copying of its page tables, is not in the figure.
fn spawn_to_wait(contender: &Contender) -> Duration {
    let mut command = contender.command(&["true"]);
    let start = Instant::now();
    let status = command.spawn().and_then(|mut child| child.wait());
    let elapsed = start.elapsed();
    let status = status.unwrap_or_else(|error| panic!("{}: {error}", contender.name));
    assert!(status.success(), "{} true: {status}", contender.name);
    elapsed
}
