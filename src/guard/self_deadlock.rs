//! A harness that was not adapted locks the app's file itself, and waits for its own guard for ever.
//!
//! `/proc/locks` shows who waits. When one of them descends from us, that is said, and the run is stopped when
//! it still waits a good while later.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::lock::AppLock;
use crate::settings;
use crate::sys::process::Pid;
use crate::sys::procfs::{self, FileId};
use crate::tree::Tree;

/// The first look after the harness's start.
const FIRST: Duration = Duration::from_secs(10);
/// From a warning to the end of patience; the second look is then 60 s after the start.
const PATIENCE: Duration = Duration::from_secs(50);
/// All later looks.
const LATER: Duration = Duration::from_secs(600);

/// What was seen so far.
pub struct SelfDeadlock {
    locks: Vec<FileId>,
    seen: Option<Pid>,
    looks: u32,
}

impl SelfDeadlock {
    /// For these locks.
    pub fn new(locks: &[AppLock]) -> Self {
        SelfDeadlock { locks: locks.iter().map(AppLock::id).collect(), seen: None, looks: 0 }
    }

    /// When to look first; never without a lock.
    pub fn first_look(&self) -> Option<Duration> {
        let delay = || settings::test_duration("CCCI_TEST_SELF_DEADLOCK_FIRST", FIRST);
        (!self.locks.is_empty()).then(delay)
    }

    /// Looks. Tells when to look next, and who has been waiting without hope since the last look.
    pub fn look(&mut self, tree: &Tree) -> (Duration, Option<Pid>) {
        self.looks += 1;
        let mut ours = tree.descendants();
        ours.retain(|process| procfs::may_wait_for_lock(process.pid));
        let look = |lock: &FileId| procfs::flock_waiters(*lock);
        let waiters: Vec<Pid> = if ours.is_empty() { Vec::new() } else { self.locks.iter().flat_map(look).collect() };
        let stuck = ours.iter().find(|process| waiters.contains(&process.pid));
        let patience = settings::test_duration("CCCI_TEST_SELF_DEADLOCK_STOP", PATIENCE);
        let Some(stuck) = stuck else {
            self.seen = None;
            return (if self.looks == 1 { patience } else { LATER }, None);
        };
        if self.seen == Some(stuck.pid) {
            return (LATER, Some(stuck.pid));
        }
        self.seen = Some(stuck.pid);
        tracing::warn!(
            event = "self-deadlock",
            pid = stuck.pid.as_raw(),
            "pid {} ({}), started by this run, waits for the lock that this run holds: it will wait for ever; see docs/harness.md",
            stuck.pid,
            stuck.name
        );
        (patience, None)
    }
}
