//! A stranger that holds a lock: a process of its own.
//!
//! The test's own process won't do as one. It is an ancestor of the guards that it starts, and a guard borrows
//! a lock that an ancestor holds instead of waiting for it (docs/design/lock.md).

#![allow(dead_code, reason = "a helper may be used by one suite only")]

use crate::support::{FIXTURE, Proc, Sandbox};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::path::Path;

/// Holds a lock until it is released or dropped.
pub struct Holder(Proc);

impl Holder {
    /// Takes it at once.
    #[track_caller]
    pub fn take(sandbox: &Sandbox, path: &Path) -> Self {
        let mut command = sandbox.command(FIXTURE);
        command.arg("hold-lock").arg(path);
        let holder = sandbox.spawn(command);
        holder.ready();
        Self(holder)
    }

    /// Who it is.
    pub fn pid(&self) -> Pid {
        self.0.pid()
    }

    /// Ends the holder now; the kernel frees the lock.
    pub fn kill(&self) {
        self.0.signal(Signal::SIGKILL);
    }

    /// Frees the lock, and waits until it is free.
    #[track_caller]
    pub fn release(mut self) {
        self.kill();
        assert_eq!(self.0.code(), 137);
    }
}
