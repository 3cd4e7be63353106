//! The janitor at scale: a round over thousands of lock files, against a C loop that does nothing but
//! open, flock, fstat and close.
//!
//! `--list-cmd true` stands for abra and Docker, so that only locks are in the figures: every free lock file is then one
//! without an app. Whole programs are timed, from spawn to wait, with their start, the listing of the directory and, for
//! the janitor, a line of output for each file. The fastest round counts here, not the median: the C loop is over within
//! one time slice, the janitor is not, so on a busy machine the median says more of the neighbours than of the two.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::Bench;
use crate::options::Options;
use crate::table::{Samples, Table, milliseconds, ratio, verdict};

/// Of each pair of programs, one after the other.
const ROUNDS: usize = 9;

/// Fewer rounds where one takes long.
const ENOUGH: Duration = Duration::from_secs(20);

/// At most so many times the C loop's time a file.
const GOAL: f64 = 4.0;

pub fn measure(bench: &Bench, options: &Options) {
    let directory = bench.path("probed");
    std::fs::create_dir(&directory).unwrap();
    let probe = compile(bench);
    let mut table = Table::new(
        format!("Janitor: a round over {} lock files, fastest of up to {ROUNDS}, interleaved", options.locks),
        options.markdown,
        &["lock files", "C loop", "janitor", "C, a file", "janitor, a file", "to C"],
    );
    let mut notes = Vec::new();
    let mut pair = |name: &str, word: Option<&str>, arguments: &[&str], makes_files: bool| {
        let (mut loops, mut rounds) = (Vec::new(), Vec::new());
        let began = Instant::now();
        while rounds.is_empty() || (rounds.len() < ROUNDS && began.elapsed() < ENOUGH) {
            let prepare = || {
                if makes_files {
                    make_files(&directory, options.locks);
                }
            };
            prepare();
            loops.push(timed(Command::new(&probe).arg(&directory).args(word)));
            prepare();
            let janitor = ["janitor", "--zone", "ci.example.net", "--list-cmd", "true", "--lock-dir"];
            rounds.push(timed(Command::new(bench.guard()).args(janitor).arg(&directory).args(arguments)));
        }
        let (c, janitor) = (Samples::new(loops).at(0), Samples::new(rounds).at(0));
        table.row(vec![
            name.to_owned(),
            milliseconds(c),
            milliseconds(janitor),
            a_file(c, options.locks),
            a_file(janitor, options.locks),
            ratio(janitor, c),
        ]);
        notes.push(verdict(&format!("{name}: janitor to C"), janitor.as_secs_f64() / c.as_secs_f64(), GOAL));
    };

    pair("free, removed", Some("unlink"), &[], true);
    make_files(&directory, options.locks);
    pair("free, --dry-run", None, &["--dry-run"], false);
    let holder = Holder::start(&probe, &directory);
    pair("held by one process", None, &[], false);
    drop(holder);
    table.print(&notes);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn compile(bench: &Bench) -> PathBuf {
    let program = bench.path("probe");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/probe.c");
    let status = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).status();
    assert!(status.is_ok_and(|status| status.success()), "cc can't compile {source}");
    program
}

fn make_files(directory: &Path, count: usize) {
    for number in 0..count {
        let name = format!("cc-ci-app-pr-{number:06x}.ci.example.net.lock");
        File::create(directory.join(name)).unwrap();
    }
}

fn timed(command: &mut Command) -> Duration {
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status().unwrap();
    let elapsed = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    elapsed
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand files")]
fn a_file(time: Duration, files: usize) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6 / files as f64)
}

/// A process that holds every lock of a directory until it is dropped.
struct Holder(Child);

impl Holder {
    fn start(probe: &Path, directory: &Path) -> Self {
        let mut command = Command::new(probe);
        let child = command.arg(directory).arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut holder = Self(child);
        let mut lines = BufReader::new(holder.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "the holder holds");
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
