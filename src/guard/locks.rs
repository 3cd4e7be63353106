//! Opening the lock directory and taking a run's locks, with a line in each that says who we are; then, where that is
//! asked for, those of the whole cluster.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::Duration;

use nix::unistd::getpid;

use crate::cluster::{self, Answer, Asking, Held, Lease, Question, Seen, Wanted};
use crate::duration;
use crate::error::Error;
use crate::guard::acquire::{self, Listener, REMIND_EVERY, Refused};
use crate::guard::event::Cause;
use crate::guard::run;
use crate::lock::AppLock;
use crate::lock::holder::HolderLine;
use crate::lock::path::LockDirectory;
use crate::run_state::RunState;
use crate::settings::{EtcdSettings, RunSettings};
use crate::sys::fd;
use crate::sys::time::{self, Alarm};

/// What a run has taken.
#[derive(Default)]
pub struct Taken {
    /// Of the lock files, where there is an app.
    pub directory: Option<LockDirectory>,
    /// In the order of the apps.
    pub locks: Vec<AppLock>,
    /// The cluster's.
    pub lease: Option<Lease>,
}

/// Takes the locks of all apps; without an app nothing is opened.
///
/// # Errors
/// See [`acquire::all`].
pub fn take(settings: &RunSettings, state: &RunState, listener: &Listener<'_>) -> Result<Taken, Refused> {
    if settings.apps.is_empty() {
        if let Some(etcd) = &settings.etcd {
            // The teardown may need it for noted apps: better to know now.
            cluster::ask(etcd, Question::Ping)?;
        }
        return Ok(Taken::default());
    }
    let give_up = settings.lock_timeout.map(|limit| time::now() + limit);
    let directory = LockDirectory::open_or_create(&settings.lock_dir)?;
    let line = HolderLine::new(getpid(), state.id().as_str(), &settings.command);
    let record = |lock: &AppLock, about_to_start: bool| {
        let deadline_at = if about_to_start { run::deadline_at(settings) } else { None };
        lock.record(&HolderLine { deadline_at, ..line.clone() });
    };
    let mut locks = acquire::all(settings, &directory, listener, give_up, record)?;
    let mut lease = None;
    if let Some(etcd) = &settings.etcd {
        lease = take_cluster(etcd, settings, &line, &mut locks, listener, give_up)?;
        // It may have been waited for: the deadline counts from now.
        locks.iter().for_each(|lock| record(lock, true));
    }
    Ok(Taken { directory: Some(directory), locks, lease })
}

/// Takes the cluster's locks of the apps whose locks are our own; an outer run has those of borrowed ones.
fn take_cluster(
    etcd: &EtcdSettings,
    settings: &RunSettings,
    line: &HolderLine,
    locks: &mut [AppLock],
    listener: &Listener<'_>,
    give_up: Option<Duration>,
) -> Result<Option<Lease>, Refused> {
    let mut own: Vec<&mut AppLock> = locks.iter_mut().filter(|lock| !lock.is_borrowed()).collect();
    if own.is_empty() {
        return Ok(None);
    }
    own.sort_by(|a, b| a.app().cmp(b.app()));
    let deadline = settings.deadline.map(|deadline| deadline.as_secs());
    let wanted = |lock: &&mut AppLock| Wanted {
        app: lock.app().to_string(),
        line: line.clone(),
        deadline,
        lock: lock.path().to_owned(),
    };
    let mut asking = Asking::start(etcd, own.iter().map(wanted).collect(), true)?;
    let (id, held) = wait(&mut asking, listener, give_up, settings.lock_timeout).inspect_err(|_| asking.call_off())?;
    let lease = asking.into_lease(id, held);
    for lock in own {
        lock.set_token(lease.token(lock.app()));
    }
    Ok(Some(lease))
}

/// Sleeps until all are ours: the lease, and the keys that go with it.
fn wait(
    asking: &mut Asking,
    listener: &Listener<'_>,
    give_up: Option<Duration>,
    limit: Option<Duration>,
) -> Result<(i64, Vec<Held>), Refused> {
    let mut alarm = Alarm::new().map_err(Error::system("cannot make a timer"))?;
    let mut elsewhere: Option<Seen> = None;
    let mut remind = time::now();
    loop {
        while let Some(answer) = asking.heard() {
            match answer {
                Answer::Ours { lease, held } => return Ok((lease, held)),
                Answer::Elsewhere(seen) => {
                    remind = time::now();
                    elsewhere = Some(seen);
                }
                other => return Err(cluster::failure(other).into()),
            }
        }
        let now = time::now();
        if let Some(seen) = elsewhere.as_ref().filter(|_| now >= remind) {
            remind = now + REMIND_EVERY;
            tracing::info!(
                event = "lock-wait",
                app = seen.app.as_str(),
                "waiting for the cluster's lock of {} ({})",
                seen.app,
                seen.holder()
            );
        }
        if let Some(seen) = elsewhere.as_ref().filter(|_| give_up.is_some_and(|moment| now >= moment)) {
            return Err(timed_out(seen, limit.unwrap_or_default()).into());
        }
        // Until etcd has answered there is nobody to be named, and its answer has a limit of its own.
        let waits_until = elsewhere.is_some().then(|| give_up.map_or(remind, |moment| moment.min(remind)));
        alarm.set(waits_until);
        let mut descriptors = vec![asking.answers(), alarm.as_fd()];
        descriptors.extend(listener.caller.ended());
        let caller_ended = fd::wait(&descriptors).get(2) == Some(&true);
        listener.heard()?;
        asking.continue_keeper();
        if caller_ended {
            return Err(Refused::Asked(Cause::ParentGone));
        }
    }
}

fn timed_out(seen: &Seen, limit: Duration) -> Error {
    Error::HeldElsewhere { app: seen.app.clone(), holder: seen.holder(), waited: duration::show(limit) }
}
