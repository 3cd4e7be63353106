//! Mission 20: two runs of one domain, one blocked at its lock. Each counts by itself, and the end of one is not
//! the other's.
//!
//! The harnesses lock by themselves, as those do that are not yet adapted: both have their files all the while.
//! `tests/switched` plays the same with the files keyed by domain, where it must fail.

use crate::support::{APP, Proc, SOON, Sandbox, eventually};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{ChildStdin, Stdio};

/// What a harness does to record a deploy and to count them: `recorded STATUS`, `count NUMBER`.
#[derive(Clone, Copy, Debug)]
pub enum Ways {
    /// By the files, as the Python harness does.
    Files,
    /// By the commands of the guard.
    Commands,
}

impl Ways {
    fn record(self) -> &'static str {
        match self {
            Ways::Files => {
                "[ -f \"$CCCI_DEPLOY_COUNT_FILE\" ] && echo d >>\"$CCCI_DEPLOY_COUNT_FILE\"; echo recorded $?"
            }
            Ways::Commands => "\"$G\" state record-deploy d; echo recorded $?",
        }
    }

    fn count(self) -> &'static str {
        match self {
            Ways::Files => "echo count $(cat \"$CCCI_DEPLOY_COUNT_FILE\" | wc -l)",
            Ways::Commands => {
                "echo count $(\"$G\" state show --json | tr -d ' ' | tr ',{}' '\\n\\n\\n' | sed -n 's/^\"deploys\":\\([0-9][0-9]*\\)$/\\1/p')"
            }
        }
    }
}

/// A run whose harness takes the domain's lock and then does what it is told, a line at a time.
struct Run {
    guard: Proc,
    orders: ChildStdin,
    ways: Ways,
}

impl Run {
    fn start(sandbox: &Sandbox, id: &str, ways: Ways, switch: Option<&str>) -> Self {
        let lock = sandbox.lock_path(APP);
        let script = format!("echo begun; exec flock '{}' sh -c \"$ORDERS\"", lock.display());
        let mut guard = sandbox.run().args(["--run-id", id]).sh(&script).stdin(Stdio::piped());
        guard = guard.env("ORDERS", "echo ready; while read -r order; do eval \"$order\"; done; exit 0");
        if let Some(name) = switch {
            guard = guard.env(name, APP);
        }
        let mut guard = guard.spawn();
        guard.expect_line("begun");
        let orders = guard.stdin().unwrap();
        Self { guard, orders, ways }
    }

    fn record(&mut self) -> String {
        writeln!(self.orders, "{}", self.ways.record()).unwrap();
        self.guard.expect_line("recorded")
    }

    fn count(&mut self) -> String {
        writeln!(self.orders, "{}", self.ways.count()).unwrap();
        self.guard.expect_line("count")
    }

    fn end(mut self) {
        drop(self.orders);
        self.guard.expect_code(0);
    }
}

fn expect_waiter(lock: &Path) {
    let inode = format!(":{} ", fs::metadata(lock).unwrap().ino());
    eventually(SOON, "a waiter", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        if locks.lines().any(|l| l.contains("-> FLOCK") && l.contains(&inode)) { Ok(()) } else { Err(locks) }
    });
}

/// Plays it once and tells what went wrong. `switch` is a variable that takes a safety away.
#[track_caller]
pub fn play(ids: [&str; 2], ways: Ways, switch: Option<&str>) -> Vec<String> {
    let sandbox = Sandbox::new();
    let mut faults = Vec::new();
    let mut expect = |what: &str, seen: String, expected: &str| {
        if seen != expected {
            faults.push(format!("{what}: {seen:?} instead of {expected:?}"));
        }
    };
    let mut first = Run::start(&sandbox, ids[0], ways, switch);
    first.guard.ready();
    expect("the first one's deploy", first.record(), "0");
    expect("the first one's count", first.count(), "1");
    let mut second = Run::start(&sandbox, ids[1], ways, switch);
    expect_waiter(&sandbox.lock_path(APP));
    expect("the first one's count after the second one's start", first.count(), "1");
    first.end();
    second.guard.ready();
    expect("the second one's deploy after the first one's end", second.record(), "0");
    expect("the second one's count", second.count(), "1");
    second.end();
    faults
}

/// Runs of one build, which share an id, and of two, by the files and by the commands.
/// Seen failing with the files keyed by domain: tests/switched/state_by_domain.rs.
#[test]
fn case_20_two_runs_of_one_domain_count_by_themselves() {
    for ids in [["same", "same"], ["1187", "1190"]] {
        for ways in [Ways::Files, Ways::Commands] {
            assert_eq!(play(ids, ways, None), Vec::<String>::new(), "{ids:?}, {ways:?}");
        }
    }
}

/// The same with the guards' own lock: the second one waits before its harness is there.
/// To see it fail: leave the files at the end, and key them by the run's id alone.
#[test]
fn case_20_at_the_guard_s_own_lock_too() {
    let sandbox = Sandbox::new();
    let script = format!("echo ready; read x; {}; {}", Ways::Commands.record(), Ways::Commands.count());
    let guard = || {
        let guard = sandbox.run().app().args(["--teardown", "none", "--run-id", "same"]);
        guard.sh(&script).stdin(Stdio::piped()).spawn()
    };
    let mut first = guard();
    first.ready();
    let mut second = guard();
    second.expect_stderr("waiting for app lock");
    for run in [&mut first, &mut second] {
        drop(run.stdin());
        assert_eq!(run.expect_line("recorded"), "0", "{}", run.stderr());
        assert_eq!(run.expect_line("count"), "1", "{}", run.stderr());
        run.expect_code(0);
    }
    assert_eq!(fs::read_dir(sandbox.state_dir()).unwrap().count(), 0, "nothing is left");
}
