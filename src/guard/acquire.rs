//! Taking the run's locks: all or none, answering signals and the time limit while waiting.

#![forbid(unsafe_code)]

use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};

use crate::app::AppName;
use crate::duration;
use crate::error::Error;
use crate::guard::event::Cause;
use crate::guard::orphan::Caller;
use crate::lock::path::LockDirectory;
use crate::lock::wait::Waiting;
use crate::lock::{self, AppLock, Attempt, Candidate, handoff};
use crate::settings::RunSettings;
use crate::sys::signal::Delivery;
use crate::sys::time::{self, Alarm};
use crate::sys::{fd, signal};

/// People are told again for whom we wait.
pub const REMIND_EVERY: Duration = Duration::from_secs(30);

/// Why a run ends before its harness was started.
pub enum Refused {
    /// Somebody asked us to stop, or the caller died.
    Asked(Cause),
    /// Something went wrong, or took too long.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Failed(error)
    }
}

/// What a wait listens to.
pub struct Listener<'a> {
    /// Signals.
    pub delivery: &'a Delivery,
    /// The caller's death.
    pub caller: &'a Caller,
}

impl Listener<'_> {
    /// Has anybody asked us to stop?
    ///
    /// # Errors
    /// The request.
    pub fn check(&self) -> Result<(), Refused> {
        fd::deliver_pending();
        self.heard()
    }

    /// The same, of what was delivered already.
    ///
    /// # Errors
    /// The request.
    pub fn heard(&self) -> Result<(), Refused> {
        for received in self.delivery.take() {
            match Request::of(received.signal) {
                Request::Stop => return Err(Refused::Asked(Cause::Signal(received.signal))),
                Request::Suspend => signal::stop_by_terminal(),
                Request::Other => {}
            }
        }
        if self.caller.is_gone() { Err(Refused::Asked(Cause::ParentGone)) } else { Ok(()) }
    }
}

/// What a signal means to a guard process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stop the run.
    Stop,
    /// ^Z.
    Suspend,
    /// Something else.
    Other,
}

impl Request {
    /// The meaning of a signal.
    pub fn of(number: i32) -> Self {
        match number {
            SIGTERM | SIGINT | SIGHUP | SIGQUIT => Request::Stop,
            SIGTSTP => Request::Suspend,
            _ => Request::Other,
        }
    }
}

/// Takes every lock of the run. In the order of their names, so that two runs can't wait for each other.
///
/// # Errors
/// A request to stop, the time limit, or a lock file that can't be used. Locks already taken are let go.
pub fn all(
    settings: &RunSettings,
    directory: &LockDirectory,
    listener: &Listener<'_>,
    give_up: Option<Duration>,
    record: impl Fn(&AppLock, bool),
) -> Result<Vec<AppLock>, Refused> {
    let mut sorted: Vec<&AppName> = settings.apps.iter().collect();
    sorted.sort();
    let mut locks: Vec<AppLock> = Vec::new();
    for app in &sorted {
        let lock = match handoff::handed_down(directory, app, &settings.handed_locks) {
            Some(borrowed) => borrowed,
            None => one(directory, app, listener, give_up, settings.lock_timeout)?,
        };
        // More to wait for: others shall see meanwhile who holds this one.
        if locks.len() + 1 < sorted.len() {
            record(&lock, false);
        }
        locks.push(lock);
    }
    for lock in &locks {
        record(lock, true);
    }
    // Handed over in the order in which they were asked for.
    locks.sort_by_key(|lock| settings.apps.iter().position(|app| app == lock.app()));
    Ok(locks)
}

fn one(
    directory: &LockDirectory,
    app: &AppName,
    listener: &Listener<'_>,
    give_up: Option<Duration>,
    limit: Option<Duration>,
) -> Result<AppLock, Refused> {
    loop {
        let candidate = match lock::try_acquire(directory, app)? {
            Attempt::Acquired(lock) => return Ok(lock),
            Attempt::Held(candidate) => candidate,
        };
        if let Some(lock) = handoff::held_by_ancestor(&candidate) {
            return Ok(lock);
        }
        if give_up.is_some_and(|moment| moment <= time::now()) {
            return Err(timed_out(&candidate, limit.unwrap_or_default()).into());
        }
        let waiting = Waiting::start(candidate).map_err(Error::system("cannot wait for the app lock"))?;
        wait(&waiting, listener, give_up, limit)?;
        if let Some(lock) = waiting.finish(directory)? {
            return Ok(lock);
        }
        // The file had been unlinked by a janitor while we waited: the name stands for another one now.
    }
}

/// Sleeps until the lock is granted. On an error the caller must end the process.
fn wait(
    waiting: &Waiting,
    listener: &Listener<'_>,
    give_up: Option<Duration>,
    limit: Option<Duration>,
) -> Result<(), Refused> {
    let mut alarm = Alarm::new().map_err(Error::system("cannot make a timer"))?;
    let mut remind = time::now();
    loop {
        let now = time::now();
        if now >= remind {
            remind = now + REMIND_EVERY;
            let app = waiting.candidate().app();
            tracing::info!(
                event = "lock-wait",
                app = app.as_str(),
                "waiting for app lock {app} ({})",
                waiting.candidate().holder()
            );
        }
        if give_up.is_some_and(|moment| now >= moment) {
            return Err(timed_out(waiting.candidate(), limit.unwrap_or_default()).into());
        }
        alarm.set(Some(give_up.map_or(remind, |moment| moment.min(remind))));
        let mut descriptors = vec![waiting.granted()];
        {
            use std::os::fd::AsFd;
            descriptors.push(alarm.as_fd());
            descriptors.extend(listener.caller.ended());
        }
        let ready = fd::wait(&descriptors);
        listener.heard()?;
        if ready.get(2) == Some(&true) {
            return Err(Refused::Asked(Cause::ParentGone));
        }
        if ready[0] {
            return Ok(());
        }
    }
}

fn timed_out(candidate: &Candidate, limit: Duration) -> Error {
    Error::LockTimeout {
        app: candidate.app().clone(),
        holder: candidate.holder().in_short(),
        waited: duration::show(limit),
    }
}
