//! A teardown that leaves a trace of each start and end, and the rule that it must keep.

use super::{FIXTURE, SOON, eventually};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A teardown command that the fixture's role `teardown` carries out, and the file of its traces.
///
/// The role holds a flock of its own on `FILE.busy` while it runs: two at a time give an `overlap` line,
/// also when the first one was left behind by a kill. `start` and `end` lines say whether a stranger
/// could have taken the app's lock at that moment.
pub struct Teardown {
    log: PathBuf,
    lock: PathBuf,
}

impl Teardown {
    pub(super) fn new(log: PathBuf, lock: PathBuf) -> Self {
        Self { log, lock }
    }

    /// The command for `--teardown`: ends at once with 0.
    pub fn command(&self) -> String {
        self.command_with("")
    }

    /// The same with options of the role: `--sleep MS`, `--exit N`, `--hang`, `--children N`, `--ignore-term`.
    pub fn command_with(&self, options: &str) -> String {
        let (log, lock) = (self.log.display(), self.lock.display());
        format!("exec '{FIXTURE}' teardown '{log}' --lock '{lock}' {options}")
    }

    /// For a run without an app: looks at no lock.
    pub fn plain_command(&self) -> String {
        format!("exec '{FIXTURE}' teardown '{}'", self.log.display())
    }

    /// The same, but each teardown looks at the lock of the app that it is for.
    pub fn command_by_app(&self, options: &str) -> String {
        format!("exec '{FIXTURE}' teardown '{}' --lock-of-app {options}", self.log.display())
    }

    /// The file of traces.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What was traced: lines of words, the first being `start`, `end` or `overlap`.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The lines that start with `word`.
    pub fn count(&self, word: &str) -> usize {
        self.lines().iter().filter(|l| l.split(' ').next() == Some(word)).count()
    }

    /// The value of `key=` in line number `n` of those that start with `word`.
    #[track_caller]
    pub fn value(&self, word: &str, n: usize, key: &str) -> String {
        let lines = self.lines();
        let mut with_word = lines.iter().filter(|l| l.split(' ').next() == Some(word));
        let line = with_word.nth(n).unwrap_or_else(|| panic!("no {word} number {n} in {lines:?}"));
        let found = line.split(' ').find_map(|w| w.strip_prefix(&format!("{key}=")));
        found.unwrap_or_else(|| panic!("no {key} in {line:?}")).to_owned()
    }

    /// Waits for the start of the teardown number `n` (0 is the first); gives the pid of its command.
    #[track_caller]
    pub fn expect_start(&self, n: usize) -> Pid {
        eventually(SOON, &format!("start of teardown {n}"), || {
            if self.count("start") > n { Ok(()) } else { Err(format!("{:?}", self.lines())) }
        });
        Pid::from_raw(self.value("start", n, "pid").parse().expect("a pid"))
    }

    /// Waits for an end.
    #[track_caller]
    pub fn expect_end(&self, limit: Duration) {
        eventually(limit, "end of the teardown", || {
            if self.count("end") > 0 { Ok(()) } else { Err(format!("{:?}", self.lines())) }
        });
    }

    /// One ran to its end, it was the last, never two at a time, the lock was held all the while.
    pub fn check_one(&self) -> Result<(), String> {
        let lines = self.lines();
        let fault = |what: &str| Err(format!("{what}: {lines:#?}"));
        if self.count("overlap") > 0 {
            return fault("two teardowns at a time");
        }
        if self.count("end") != 1 {
            return fault("not exactly one complete teardown");
        }
        if !lines.last().is_some_and(|l| l.starts_with("end ")) {
            return fault("a teardown was started after the complete one");
        }
        if lines.iter().any(|l| l.contains("lock=free")) {
            return fault("a teardown ran while the lock was free");
        }
        Ok(())
    }

    /// Panics unless `check_one` is content.
    #[track_caller]
    pub fn expect_one(&self) {
        if let Err(fault) = self.check_one() {
            panic!("{fault}");
        }
    }

    /// None where the harness never started, else one.
    #[track_caller]
    pub fn expect_one_or_none(&self) {
        if !self.lines().is_empty() {
            self.expect_one();
        }
    }

    /// Panics when one was started. Call it once the guard has ended.
    #[track_caller]
    pub fn expect_none(&self) {
        assert!(self.lines().is_empty(), "a teardown that was not due: {:?}", self.lines());
    }
}
