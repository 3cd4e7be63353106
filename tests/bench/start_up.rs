//! What a prefix costs before and after a command that does nothing: from spawn to wait.

use std::time::{Duration, Instant};

use crate::contender::{Bench, Contender};
use crate::options::Options;
use crate::table::{Samples, Table, milliseconds, ratio, verdict};

/// Rounds that are thrown away: page cache, CPU clock.
const WARM_UP: usize = 5;

pub fn measure(bench: &Bench, options: &Options) {
    let mut contenders = vec![
        bench.bare(),
        bench.run(),
        bench.run_without_app(),
        bench.run_on_disk(),
        bench.exec(),
        bench.composition(),
    ];
    contenders.extend(bench.tini());
    contenders.extend(bench.dumb_init());
    contenders.push(bench.python());

    let mut samples = vec![Vec::with_capacity(options.runs); contenders.len()];
    for round in 0..WARM_UP + options.runs {
        for position in 0..contenders.len() {
            // Another one begins in each round: nobody always runs after the same neighbour.
            let index = (position + round) % contenders.len();
            let elapsed = spawn_to_wait(&contenders[index]);
            if round >= WARM_UP {
                samples[index].push(elapsed);
            }
        }
    }

    let samples: Vec<Samples> = samples.into_iter().map(Samples::new).collect();
    let median = |name: &str| {
        let index = contenders.iter().position(|contender| contender.name == name).unwrap();
        samples[index].median()
    };
    let (bare, composition, python) =
        (median("bare exec"), median("flock setsid setpriv timeout"), median("Python equivalent"));
    let mut table = Table::new(
        format!("Start-up: `PREFIX true`, spawn to wait, {} runs each, interleaved", options.runs),
        options.markdown,
        &["prefix", "median", "10 %", "90 %", "to bare", "to composition", "to Python"],
    );
    for (contender, samples) in contenders.iter().zip(&samples) {
        table.row(vec![
            contender.name.to_owned(),
            milliseconds(samples.median()),
            milliseconds(samples.at(10)),
            milliseconds(samples.at(90)),
            ratio(samples.median(), bare),
            ratio(samples.median(), composition),
            ratio(samples.median(), python),
        ]);
    }
    let run = median("ccci-guard run");
    table.print(&[
        verdict("run to composition", run.as_secs_f64() / composition.as_secs_f64(), 0.6),
        verdict("run to Python", run.as_secs_f64() / python.as_secs_f64(), 0.12),
    ]);
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
