//! What stays beside the harness for hours: memory, and how often it wakes up with nothing to do.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::contender::{Bench, Contender};
use crate::options::Options;
use crate::proc;
use crate::table::{Table, verdict};

const HARNESS: [&str; 2] = ["sleep", "86400"];

fn contenders(bench: &Bench) -> Vec<Contender> {
    let mut contenders = vec![bench.run(), bench.run_without_app(), bench.composition()];
    contenders.extend(bench.inits());
    contenders.push(bench.python());
    contenders
}

pub fn measure_memory(bench: &Bench, options: &Options) {
    let mut table = Table::new(
        "Resident beside the harness: proportional set size and private memory (smaps_rollup)".to_owned(),
        options.markdown,
        &["prefix", "processes", "PSS", "private"],
    );
    let mut notes = Vec::new();
    let others = bench.other_build().into_iter().flatten().take(1);
    for contender in contenders(bench).into_iter().chain(others) {
        let running = contender.start(&HARNESS);
        settle(&running.resident("sleep"));
        let resident = running.resident("sleep");
        let memory: Vec<proc::Memory> = resident.iter().map(|&pid| proc::memory(pid)).collect();
        let (pss, private): (u64, u64) = memory.iter().fold((0, 0), |sum, of| (sum.0 + of.pss, sum.1 + of.private));
        if ["ccci-guard run", "other build, run"].contains(&contender.name) {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand KiB")]
            let mebibytes = pss as f64 / 1024.0;
            notes.push(verdict(&format!("{}, monitor and supervisor, MiB", contender.name), mebibytes, 1.2));
        }
        let cells =
            [contender.name.to_owned(), resident.len().to_string(), format!("{pss} KiB"), format!("{private} KiB")];
        table.row(cells.into());
    }
    table.print(&notes);
}

/// All contenders are watched at the same time: they sleep.
pub fn measure_wakeups(bench: &Bench, options: &Options) {
    let watched: Vec<_> = contenders(bench)
        .into_iter()
        .map(|contender| {
            let running = contender.start(&HARNESS);
            let started = Instant::now();
            let resident = running.resident("sleep");
            settle(&resident);
            (contender, running, started, count(&resident), resident)
        })
        .collect();

    let mut table = Table::new(
        format!("Idle: wakeups in {} s (voluntary context switches of all resident processes)", options.idle),
        options.markdown,
        &["prefix", "processes", "wakeups"],
    );
    let mut notes = Vec::new();
    for (contender, running, started, before, resident) in &watched {
        // The look for a self-deadlock 60 s after the start falls into a watch of 60 s: it is meant to be counted.
        sleep((*started + Duration::from_millis(options.idle * 1000 + 500)).saturating_duration_since(Instant::now()));
        let wakeups = count(resident) - before;
        assert_eq!(running.resident("sleep"), *resident, "{}: other processes than before", contender.name);
        table.row(vec![contender.name.to_owned(), resident.len().to_string(), wakeups.to_string()]);
        let goal = match contender.name {
            "ccci-guard run" => 2.0,
            "ccci-guard run, no --app" => 0.0,
            _ => continue,
        };
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        notes.push(verdict(&format!("{}, wakeups", contender.name), wakeups as f64, goal));
    }
    table.print(&notes);
}

fn count(pids: &[u32]) -> u64 {
    pids.iter().map(|&pid| proc::voluntary_switches(pid)).sum()
}

/// Waits until the start's own work is over: no switch for 300 ms.
fn settle(pids: &[u32]) {
    proc::eventually("the resident processes come to rest", || {
        let before = count(pids);
        sleep(Duration::from_millis(300));
        (count(pids) == before).then_some(())
    });
}
