//! A run that is cut off: all its guard processes are killed at once, so that none can finish for another.

#![allow(dead_code, reason = "a helper may be used by one suite only")]

use crate::support::{Proc, SOON, eventually, stopped};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Waits until `pid` stands still.
#[track_caller]
pub fn stop(pid: Pid) {
    kill(pid, Signal::SIGSTOP).unwrap();
    eventually(SOON, "it stands still", || if stopped(pid) { Ok(()) } else { Err(pid) });
}

/// Kills monitor and supervisor, and waits until nothing of the run is left: its harness must end by SIGTERM.
#[track_caller]
pub fn cut_off(run: &Proc) {
    let (monitor, supervisor) = (run.monitor(), run.supervisor());
    stop(monitor);
    kill(supervisor, Signal::SIGKILL).unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    expect_gone(run);
}

/// Waits until no process of the run is left.
#[track_caller]
pub fn expect_gone(run: &Proc) {
    eventually(SOON, "the end of the run's tree", || {
        let tree: Vec<_> = run.tree().iter().map(ToString::to_string).collect();
        if tree.is_empty() { Ok(()) } else { Err(tree.join(", ")) }
    });
}
