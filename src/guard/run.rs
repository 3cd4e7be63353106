//! Everything that a run knows before its first fork. Monitor, supervisor and worker each have a copy.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Duration;

use nix::unistd::getpid;

use crate::abra_dir::AbraDir;
use crate::cluster::Lease;
use crate::guard::orphan::{Birth, Caller};
use crate::guard::report::ReportFile;
use crate::harness::Program;
use crate::lock::AppLock;
use crate::lock::handoff::Handed;
use crate::lock::path::LockDirectory;
use crate::run_state::RunState;
use crate::settings::{self, AbraDirChoice, RunSettings};
use crate::sys::process::Pid;
use crate::sys::procfs;
use crate::sys::signal::Delivery;
use crate::sys::time;
use crate::teardown::ResultSlot;
use crate::teardown::auto::Auto;

/// A run that is about to start, or goes on.
pub struct Run {
    /// What was asked for.
    pub settings: RunSettings,
    /// What the caller handed us.
    pub birth: Birth,
    /// Signals, as they reach the process that asks.
    pub delivery: Delivery,
    /// The process that started us.
    pub caller: Caller,
    /// The process that the caller started.
    pub monitor: Pid,
    /// The command.
    pub program: Program,
    /// Where the report goes.
    pub report: Option<ReportFile>,
    /// The lock files' directory, where there is an app.
    pub lock_directory: Option<LockDirectory>,
    /// The locks, in the order of `settings.apps`.
    pub locks: Vec<AppLock>,
    /// The cluster lock, where there is one.
    pub lease: Option<Lease>,
    /// The run's id and files.
    pub state: RunState,
    /// What automatic teardown works with, where that was asked for.
    pub auto: Option<Auto>,
    /// Where a worker leaves its result.
    pub result: ResultSlot,
    /// Children that the monitor had before it was one, and what descends from them: not ours to kill.
    pub noted: HashSet<Pid>,
    /// When the program started.
    pub began: Duration,
    /// How long the locks were waited for.
    pub lock_wait: Duration,
    /// When the deadline passes, in seconds since 1970: fixed once, so that harness and teardown are told the same.
    pub deadline_at: Option<u64>,
}

impl Run {
    /// Frees the locks, also where something that was forgotten still has them open. The cluster's first: who has the
    /// host's next would find it held.
    pub fn release_locks(&self) {
        if let Some(lease) = &self.lease {
            lease.release();
        }
        for lock in &self.locks {
            lock.release();
        }
    }

    /// The environment of a harness with this pid, as changes to the caller's.
    pub fn harness_variables(&self, handed: &Handed, harness: Pid) -> Vec<(&'static str, OsString)> {
        handed_over(&self.settings, &self.state, handed, Pids { harness, guard: self.monitor }, self.deadline_at)
    }

    /// The environment of a teardown command: the harness's. A guard in it must find a living ancestor in
    /// `CCCI_GUARD_PID` to know that it is nested: the worker, where the monitor is dead.
    pub fn teardown_environment(&self, handed: &Handed, harness: Pid) -> Vec<(OsString, OsString)> {
        let guard = if procfs::ancestors().contains(&self.monitor) { self.monitor } else { getpid() };
        let changes = handed_over(&self.settings, &self.state, handed, Pids { harness, guard }, self.deadline_at);
        let mut environment = settings::caller_environment();
        environment.retain(|(name, _)| !changes.iter().any(|(changed, _)| name == changed));
        environment.extend(changes.into_iter().map(|(name, value)| (name.into(), value)));
        environment
    }
}

/// The processes that a harness is told of.
#[derive(Clone, Copy)]
pub struct Pids {
    /// Itself.
    pub harness: Pid,
    /// The monitor; with `exec`, which leaves none, the harness.
    pub guard: Pid,
}

/// What every harness gets, whether a guard stays beside it or not.
pub fn handed_over(
    settings: &RunSettings,
    state: &RunState,
    handed: &Handed,
    pids: Pids,
    deadline_at: Option<u64>,
) -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<(&'static str, OsString)> =
        vec![("CCCI_RUN_ID", state.id().as_str().into()), ("CCCI_GUARD_PID", pids.guard.to_string().into())];
    variables.extend(deadline_at.map(|at| ("CCCI_DEADLINE_AT", at.to_string().into())));
    variables.extend(handed.variables());
    let abra_dir = match &settings.abra_dir {
        AbraDirChoice::Inherit => None,
        AbraDirChoice::Given(directory) => Some(directory.clone()),
        AbraDirChoice::Auto(_) => state.abra_dir().map(AbraDir::path),
    };
    variables.extend(abra_dir.map(|directory| ("ABRA_DIR", directory.into_os_string())));
    variables.extend(state.variables(pids.harness));
    variables
}

/// When a deadline that starts now passes, in seconds since 1970.
pub fn deadline_at(settings: &RunSettings) -> Option<u64> {
    settings.deadline.map(|deadline| (time::since_epoch() + deadline).as_secs())
}
