//! The janitor at scale: a round over thousands of lock files, against a C loop that does nothing but
//! open, flock, fstat and close.
//!
//! `--list-cmd true` stands for abra and Docker, so that only locks are in the figures: every free lock file is then one
//! without an app. Whole programs are timed, from spawn to wait, with their start, the listing of the directory and, for
//! the janitor, a line of output for each file. The fastest round counts here, not the median: the C loop is over within
//! one time slice, the janitor is not, so on a busy machine the median says more of the neighbours than of the two.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
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
const GOAL: f64 = 2.0;

/// At most so many times the time a file when there are ten times as many.
const FLAT: f64 = 1.15;

/// What both programs find, and what they do about it.
struct Case {
    name: &'static str,
    /// For the C loop.
    word: Option<&'static str>,
    /// For the janitor.
    arguments: &'static [&'static str],
    /// Each round takes its files away.
    consumes: bool,
}

const FREE: [Case; 2] = [
    Case { name: "free, removed", word: Some("unlink"), arguments: &[], consumes: true },
    Case { name: "free, --dry-run", word: None, arguments: &["--dry-run"], consumes: false },
];
const HELD: Case = Case { name: "held by one process", word: None, arguments: &[], consumes: false };

pub fn measure(bench: &Bench, options: &Options) {
    let directory = bench.path("probed");
    let probe = bench.compile("probe.c", &[]);
    let (few, many) = (options.locks, 10 * options.locks);
    let mut table = Table::new(
        format!("Janitor: a round over {few} and {many} lock files, fastest of up to {ROUNDS}, interleaved"),
        options.markdown,
        &["lock files", "C loop", "janitor", "C, a file", "janitor, a file", "to C"],
    );
    let mut notes = Vec::new();
    let mut flat = Vec::new();
    let mut row = |case: &Case, count: usize| {
        let (c, janitor) = pair(bench, &probe, &directory, case, count);
        let name = format!("{count} {}", case.name);
        let cells =
            [milliseconds(c), milliseconds(janitor), a_file(c, count), a_file(janitor, count), ratio(janitor, c)];
        table.row(std::iter::once(name.clone()).chain(cells).collect());
        notes.push(verdict(&format!("{name}: janitor to C"), janitor.as_secs_f64() / c.as_secs_f64(), GOAL));
        janitor.as_secs_f64() / count as f64
    };
    for case in &FREE {
        let a_file = [few, many].map(|count| {
            std::fs::create_dir(&directory).unwrap();
            make_files(&directory, count);
            let a_file = row(case, count);
            std::fs::remove_dir_all(&directory).unwrap();
            a_file
        });
        let name = format!("{}: janitor, a file, {many} to {few}", case.name);
        flat.push(verdict(&name, a_file[1] / a_file[0], FLAT));
    }
    std::fs::create_dir(&directory).unwrap();
    make_files(&directory, few);
    let holder = Holder::start(&probe, &directory);
    row(&HELD, few);
    drop(holder);
    notes.extend(flat);
    table.print(&notes);
}

/// The fastest time of each.
fn pair(bench: &Bench, probe: &Path, directory: &Path, case: &Case, count: usize) -> (Duration, Duration) {
    let (mut loops, mut rounds) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while rounds.is_empty() || (rounds.len() < ROUNDS && began.elapsed() < ENOUGH) {
        let prepare = || {
            if case.consumes {
                make_files(directory, count);
            }
        };
        prepare();
        loops.push(timed(Command::new(probe).arg(directory).args(case.word)));
        prepare();
        let janitor = ["janitor", "--zone", "ci.example.net", "--list-cmd", "true", "--lock-dir"];
        rounds.push(timed(Command::new(bench.guard()).args(janitor).arg(directory).args(case.arguments)));
    }
    (Samples::new(loops).at(0), Samples::new(rounds).at(0))
}

/// Lock files that nobody holds.
pub fn make_files(directory: &Path, count: usize) {
    for number in 0..count {
        let name = format!("cc-ci-app-pr-{number:06x}.ci.example.net.lock");
        File::create(directory.join(name)).unwrap();
    }
}

/// The time of a whole program, in a small environment that is the same for all.
pub fn timed(command: &mut Command) -> Duration {
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
pub struct Holder(Child);

impl Holder {
    pub fn start(probe: &Path, directory: &Path) -> Self {
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
