//! Are we somebody's? Refuses to start a run whose caller is gone already, and watches the caller from then on.
//!
//! `getppid() == 1` is the wrong question: under a subreaper an orphan's parent isn't 1, and in a container or
//! a unit a healthy process's is. `docs/design/orphan-check.md` has the cases.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{getpid, getppid, getsid};

use crate::error::Error;
use crate::settings::RunSettings;
use crate::sys::process::{self, Pid};
use crate::sys::procfs;
use crate::sys::signal::{self, Inherited};

/// What only the very first moment of the program can tell.
pub struct Birth {
    /// Our parent then: a later change means that it died.
    pub parent: Pid,
    /// The caller's signal mask and dispositions.
    pub inherited: Inherited,
}

impl Birth {
    /// Must be called first of all.
    pub fn now() -> Self {
        let parent = getppid();
        Birth { parent, inherited: signal::take_over() }
    }
}

/// The process that started us.
pub struct Caller {
    parent: Pid,
    pidfd: Option<OwnedFd>,
    watched: bool,
}

impl Caller {
    /// Checks that we are no orphan, asks for `death_signal` at the caller's death, and checks once more.
    ///
    /// # Errors
    /// When we are an orphan.
    pub fn watch(settings: &RunSettings, birth: &Birth, death_signal: i32) -> Result<Self, Error> {
        let parent = birth.parent;
        if settings.allow_orphan {
            tracing::info!(
                event = "orphan-allowed",
                "--allow-orphan: not watching the caller; its end does not stop this run"
            );
            return Ok(Caller { parent, pidfd: None, watched: false });
        }
        check(settings, parent)?;
        process::set_parent_death_signal(death_signal)
            .map_err(Error::system("cannot ask for the parent's death signal"))?;
        // Without one (seccomp, another pid namespace) the death signal and getppid() decide.
        let pidfd = process::pidfd(parent).ok();
        // The signal never comes for a parent that was dead already, and its number may be another's by now.
        if getppid() != parent {
            return Err(gone(parent));
        }
        Ok(Caller { parent, pidfd, watched: true })
    }

    /// Becomes readable when the caller has ended.
    pub fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Is the caller gone? For the process whose parent it is: exact, whoever adopted us.
    pub fn is_gone(&self) -> bool {
        self.watched && getppid() != self.parent
    }
}

fn gone(parent: Pid) -> Error {
    Error::Orphan(format!("parent {parent} is gone"))
}

fn check(settings: &RunSettings, parent: Pid) -> Result<(), Error> {
    // (a) Exact, where the caller says who it is.
    if let Some(expected) = settings.parent_pid
        && expected != parent
    {
        if expected == getpid() {
            return Err(Error::Orphan(format!(
                "--parent-pid {expected} is this process itself: it took its shell's place (exec, or the last command of \
                 bash -c)"
            )));
        }
        if expected.to_string() == format!("{parent}{parent}") {
            return Err(Error::Orphan(format!(
                "--parent-pid {expected} is no parent of ours (outside of .drone.yml: $$)"
            )));
        }
        // A subshell or a program between the shell and us is the usual reason when it lives.
        return Err(match (procfs::process(expected), procfs::process(parent)) {
            (Some(_), Some(actual)) => {
                Error::Orphan(format!("our parent is {parent} ({}), not {expected} as --parent-pid says", actual.name))
            }
            _ => gone(expected),
        });
    }
    // A parent in another pid namespace has no number and no session that we could see.
    if parent.as_raw() == 0 {
        return Ok(());
    }
    let own_session = getsid(None).unwrap_or(getpid());
    if own_session != getpid() {
        // (b) A child has its parent's session; who has another was adopted.
        return match getsid(Some(parent)) {
            Ok(session) if session != own_session => {
                Err(Error::Orphan(format!("our parent {parent} is of another session than we are, so ours is gone")))
            }
            Err(Errno::ESRCH) => Err(gone(parent)),
            _ => Ok(()),
        };
    }
    // (c) systemd starts its services as session leaders and tells which process it started.
    let systemd_started_another = settings.systemd_exec_pid.is_some_and(|pid| pid != getpid().as_raw());
    if parent.as_raw() == 1 && systemd_started_another && is_systemd(parent) {
        return Err(Error::Orphan("our parent is systemd, which did not start us, so ours is gone".to_owned()));
    }
    Ok(())
}

fn is_systemd(pid: Pid) -> bool {
    procfs::process(pid).is_some_and(|process| process.name == "systemd")
}
