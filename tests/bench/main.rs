//! The benchmark: what a guarded run costs, against a bare exec, the tools it replaces, and its peers.
//!
//! Start it with `tests/bench/run`, which builds the static release and hands over its path. Everything is measured in one
//! sitting, the contenders interleaved, so that a slow minute of the machine hits all of them; medians, not means, because
//! a shared machine has a long tail. docs/performance.md holds the figures and says what limits each.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    missing_docs,
    reason = "a program of its own, for people at a terminal: it prints, and a failed measurement may panic"
)]

mod abra_dir;
mod cluster;
mod contender;
mod deadline;
mod kernel;
mod looking;
mod options;
mod orphans;
mod probing;
mod proc;
mod resident;
mod start_up;
mod stopping;
mod table;
mod whole_tree;

use std::path::PathBuf;

use contender::Bench;
use options::Options;

fn main() {
    // `cargo test --all-targets` runs this program too; there it has nothing to say.
    let Some(guard) = std::env::var_os("CCCI_BENCH_GUARD").map(PathBuf::from) else {
        eprintln!("bench: no CCCI_BENCH_GUARD: start the benchmark with tests/bench/run");
        return;
    };
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(words) => {
            eprintln!("bench: {words}\n{}", options::USAGE);
            std::process::exit(2);
        }
    };
    let bench = Bench::new(guard, options.beside.clone());
    println!("{}\n", proc::machine());
    if options.wants("start") {
        start_up::measure(&bench, &options);
    }
    if options.wants("resident") {
        resident::measure_memory(&bench, &options);
    }
    if options.wants("stop") {
        stopping::measure(&bench, &options);
    }
    if options.wants("tree") {
        whole_tree::measure(&bench, &options);
    }
    if options.wants("deadline") {
        deadline::measure(&bench, &options);
    }
    if options.wants("janitor") {
        probing::measure(&bench, &options);
    }
    if options.wants("locks") {
        looking::measure(&bench, &options);
    }
    if options.wants("stacks") {
        orphans::measure(&bench, &options);
    }
    if options.wants("abra-dir") {
        abra_dir::measure(&bench, &options);
    }
    if options.wants("cluster") {
        cluster::measure(&bench, &options);
    }
    if options.wants("idle") {
        resident::measure_wakeups(&bench, &options);
    }
}
