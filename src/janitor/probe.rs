//! Whose is an app? Its lock tells.

#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Duration;

use nix::unistd::getpid;
use signal_hook::consts::SIGCHLD;

use crate::app::AppName;
use crate::cluster::{self, Answer, Asking, Lease, Question, Seen, Taken, Wanted};
use crate::duration;
use crate::error::Error;
use crate::janitor::classify::{self, Held, Verdict};
use crate::janitor::output::{Entry, LockReport};
use crate::lock::holder::{self, Holder, HolderLine};
use crate::lock::path::LockDirectory;
use crate::lock::wait::Waiting;
use crate::lock::{self, AppLock, Attempt, Candidate};
use crate::settings::JanitorSettings;
use crate::sys::fd;
use crate::sys::procfs::{self, LockTable};
use crate::sys::signal::Delivery;
use crate::sys::time::{self, Alarm};

/// A waiter that won a removed file finds that out, and lets go, within this.
const LETS_GO_WITHIN: Duration = Duration::from_millis(200);

/// Said once a round.
static SAY_BLIND: Once = Once::new();

/// What a probe came to.
pub enum Probe {
    /// Nobody's app: its lock is ours now, and the cluster's where there is one.
    Ours(AppLock, Option<Box<Lease>>),
    /// Nothing more is to be done about it.
    Settled(Box<Entry>),
}

fn settled(app: &AppName, verdict: Verdict, why: impl Into<String>, lock: LockReport) -> Probe {
    Probe::Settled(Box::new(Entry { lock, ..Entry::new(app.as_str(), verdict, why) }))
}

/// Probes a lock without waiting. `has_app`: something of the app was listed.
pub fn probe(
    directory: &LockDirectory,
    app: &AppName,
    has_app: bool,
    settings: &JanitorSettings,
    takers: &LockTable,
) -> Probe {
    let free = LockReport { path: Some(directory.file(app)), held_s: None, holder: None };
    if settings.dry_run {
        return match lock::try_acquire_existing(directory, app) {
            Err(error) => settled(app, Verdict::Skipped, error.to_string(), free),
            Ok(Some(Attempt::Held(candidate))) => is_held(directory, app, &candidate, settings, takers),
            Ok(_) if !has_app => settled(app, Verdict::StaleLock, "no app; would be unlinked", free),
            Ok(_) => {
                match held_though_removed(directory, app, &free).or_else(|| seen_elsewhere(app, settings, &free)) {
                    Some(probe) => probe,
                    None => settled(app, Verdict::WouldReap, "nobody holds its lock", free),
                }
            }
        };
    }
    match lock::try_acquire(directory, app) {
        Err(error) => {
            tracing::warn!(event = "lock-skipped", app = app.as_str(), "skipped {app}: {error}");
            settled(app, Verdict::Skipped, error.to_string(), free)
        }
        Ok(Attempt::Held(candidate)) => is_held(directory, app, &candidate, settings, takers),
        Ok(Attempt::Acquired(lock)) if !has_app => {
            lock.unlink(directory);
            settled(app, Verdict::StaleLock, "no app; unlinked", free)
        }
        Ok(Attempt::Acquired(lock)) => ours_unless_removed(directory, app, lock, &free)
            .unwrap_or_else(|lock| ours_unless_elsewhere(directory, app, lock, free, settings)),
    }
}

/// For `reap`: takes the lock, waiting as long as asked for.
///
/// # Errors
/// A request to stop, by its signal.
pub fn acquire(
    directory: &LockDirectory,
    app: &AppName,
    settings: &JanitorSettings,
    delivery: &Delivery,
) -> Result<Probe, i32> {
    let takers = &LockTable::read();
    if settings.dry_run {
        return Ok(probe(directory, app, true, settings, takers));
    }
    let give_up = time::now() + settings.lock_timeout;
    let lock = loop {
        let candidate = match lock::try_acquire(directory, app) {
            Ok(Attempt::Held(candidate)) if time::now() < give_up => candidate,
            Ok(Attempt::Held(candidate)) => {
                return Ok(is_held(directory, app, &candidate, settings, &LockTable::read()));
            }
            Ok(Attempt::Acquired(lock)) => break lock,
            Err(error) => return Ok(settled(app, Verdict::Skipped, error.to_string(), LockReport::none())),
        };
        tracing::info!(event = "lock-wait", app = app.as_str(), "waiting for app lock {app} ({})", candidate.holder());
        let waiting = match Waiting::start(candidate) {
            Ok(waiting) => waiting,
            Err(error) => {
                let why = format!("can't wait for its lock: {error}");
                return Ok(settled(app, Verdict::Skipped, why, LockReport::none()));
            }
        };
        if !granted_before(&waiting, give_up, delivery)? {
            return Ok(is_held(directory, app, waiting.candidate(), settings, &LockTable::read()));
        }
        if let Ok(Some(lock)) = waiting.finish(directory) {
            break lock;
        }
    };
    let lock = match ours_unless_removed(directory, app, lock, &LockReport::none()) {
        Ok(settled) => return Ok(settled),
        Err(lock) => lock,
    };
    match &settings.etcd {
        Some(etcd) if time::now() < give_up => {
            let asking = match Asking::start(etcd, vec![wanted(app, &lock)], true) {
                Ok(asking) => asking,
                Err(error) => return Ok(settled(app, Verdict::Skipped, error.to_string(), LockReport::none())),
            };
            Ok(with_lease(directory, app, lock, LockReport::none(), asking.finish(give_up, Some(delivery))?))
        }
        _ => Ok(ours_unless_elsewhere(directory, app, lock, LockReport::none(), settings)),
    }
}

fn granted_before(waiting: &Waiting, give_up: Duration, delivery: &Delivery) -> Result<bool, i32> {
    let Ok(mut alarm) = Alarm::new() else { return Ok(false) };
    alarm.set(Some(give_up));
    while time::now() < give_up {
        let ready = fd::wait(&[waiting.granted(), alarm.as_fd()]);
        if let Some(request) = delivery.take().into_iter().find(|received| received.signal != SIGCHLD) {
            return Err(request.signal);
        }
        if ready[0] {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_held(
    directory: &LockDirectory,
    app: &AppName,
    candidate: &Candidate,
    settings: &JanitorSettings,
    takers: &LockTable,
) -> Probe {
    let Holder { pid, line, held_for } = candidate.holder_in(takers);
    let since_epoch = time::since_epoch();
    let deadline = line.as_ref().and_then(|line| {
        let taken_at = since_epoch.checked_sub(held_for?)?;
        Duration::from_secs(line.deadline_at?).checked_sub(taken_at)
    });
    let by_janitor = line.as_ref().is_some_and(|line| line.teardown);
    let verdict = classify::held(Held { held_for, deadline, by_janitor }, settings.leaked_after);
    let who = pid.map_or_else(|| "somebody".to_owned(), |pid| format!("pid {pid}"));
    let since = held_for.map(|held| format!(" since {}", duration::show(held))).unwrap_or_default();
    let why = match (&line, by_janitor) {
        (_, true) => format!("being torn down by {who}"),
        (Some(line), _) => format!("held by {who}, run {},{since}: {}", line.run_id, line.command),
        (None, _) => format!("held by {who}{since}"),
    };
    if verdict == Verdict::PossibleLeak {
        tracing::warn!(event = "possible-leak", app = app.as_str(), "possible leaked run: {app} {why}; not stolen");
    } else {
        tracing::info!(event = "live", app = app.as_str(), "live: {app} {why}");
    }
    let report = LockReport {
        path: Some(directory.file(app)),
        held_s: held_for.map(|held| held.as_secs_f64()),
        holder: Some(output_holder(pid, line)),
    };
    settled(app, verdict, why, report)
}

fn output_holder(pid: Option<i32>, line: Option<HolderLine>) -> crate::janitor::output::HolderReport {
    let (run_id, command) = line.map(|line| (line.run_id, line.command)).unzip();
    crate::janitor::output::HolderReport { pid, run_id, command }
}

/// `Err`: nobody holds the app by a lock file that was removed; our line is in the new one now.
fn ours_unless_removed(
    directory: &LockDirectory,
    app: &AppName,
    lock: AppLock,
    free: &LockReport,
) -> Result<Probe, AppLock> {
    if let Some(probe) = held_though_removed(directory, app, free) {
        if lock.made_its_file() {
            lock.unlink(directory);
        }
        return Ok(probe);
    }
    lock.record(&our_line());
    Err(lock)
}

fn our_line() -> HolderLine {
    let line = HolderLine::new(getpid(), &format!("janitor-{}", getpid()), &["teardown".into()]);
    HolderLine { teardown: true, ..line }
}

fn wanted(app: &AppName, lock: &AppLock) -> Wanted {
    Wanted { app: app.to_string(), line: our_line(), deadline: None, lock: lock.path().to_owned() }
}

/// The cluster lock too, where there is one; not waited for.
fn ours_unless_elsewhere(
    directory: &LockDirectory,
    app: &AppName,
    lock: AppLock,
    free: LockReport,
    settings: &JanitorSettings,
) -> Probe {
    let Some(etcd) = &settings.etcd else { return Probe::Ours(lock, None) };
    let taken = Asking::start(etcd, vec![wanted(app, &lock)], false).map(Asking::finish_now);
    with_lease(directory, app, lock, free, taken.unwrap_or_else(Err))
}

fn with_lease(
    directory: &LockDirectory,
    app: &AppName,
    mut lock: AppLock,
    free: LockReport,
    taken: Result<Taken, Error>,
) -> Probe {
    match taken {
        Ok((Some(lease), _)) if lease.token(app).is_some() => {
            lock.set_token(lease.token(app));
            Probe::Ours(lock, Some(Box::new(lease)))
        }
        Ok((lease, seen)) => {
            if let Some(lease) = lease {
                lease.release();
            }
            if lock.made_its_file() {
                lock.unlink(directory);
            }
            elsewhere(app, seen.first(), &free)
        }
        Err(error) => {
            tracing::warn!(event = "lock-skipped", app = app.as_str(), "skipped {app}: {error}");
            settled(app, Verdict::Skipped, error.to_string(), free)
        }
    }
}

/// For a look: does another host hold it?
fn seen_elsewhere(app: &AppName, settings: &JanitorSettings, free: &LockReport) -> Option<Probe> {
    let etcd = settings.etcd.as_ref()?;
    match cluster::ask(etcd, Question::WhoHolds(vec![app.to_string()])) {
        Ok(Answer::Holders(seen)) => seen.first().map(|seen| elsewhere(app, Some(seen), free)),
        Ok(_) => None,
        Err(error) => Some(settled(app, Verdict::Skipped, error.to_string(), free.clone())),
    }
}

fn elsewhere(app: &AppName, seen: Option<&Seen>, free: &LockReport) -> Probe {
    let line = seen.and_then(|seen| seen.line.clone());
    let why = match (&line, seen) {
        (Some(line), _) if line.teardown => {
            format!("being torn down by pid {} on {}", line.pid, line.host.as_deref().unwrap_or("another host"))
        }
        (_, seen) => seen.map_or_else(|| "held by another host".to_owned(), Seen::holder),
    };
    tracing::info!(event = "live", app = app.as_str(), "live: {app} {why}");
    let since = line.as_ref().and_then(|line| line.since).map(Duration::from_secs);
    let held_s = since.and_then(|since| time::since_epoch().checked_sub(since)).map(|held| held.as_secs_f64());
    let holder = Some(output_holder(line.as_ref().map(|line| line.pid), line));
    settled(app, Verdict::Live, why, LockReport { held_s, holder, ..free.clone() })
}

/// A live run whose lock file was removed, renamed or covered by a mount still holds the old one: newcomers, and we, get
/// a new file.
fn held_though_removed(directory: &LockDirectory, app: &AppName, free: &LockReport) -> Option<Probe> {
    let path = directory.real_file(app);
    let current = directory.identity(app);
    let (holders, saw_all) = procfs::holders_of_another(&path, current);
    if !saw_all {
        SAY_BLIND.call_once(|| {
            tracing::warn!(
                event = "blind",
                "can't see which files processes of other users hold: a lock file that was removed under a live run would \
                 go unnoticed; run as root, with CAP_SYS_PTRACE"
            );
        });
    }
    if holders.is_empty() {
        return None;
    }
    // A waiter that won the removed file is about to see that, and to let go.
    time::pause(LETS_GO_WITHIN);
    let (holders, _) = procfs::holders_of_another(&path, current);
    let (pid, number) = holders.first()?;
    let line = File::open(format!("/proc/{pid}/fd/{number}")).ok().and_then(|file| holder::read_line(&file));
    if line.is_some_and(|line| line.teardown) {
        return Some(settled(app, Verdict::Live, format!("being torn down by pid {pid}"), free.clone()));
    }
    let why = format!("its lock file was removed or renamed under pid {pid}, which still holds the lock");
    tracing::warn!(event = "held-unlinked", app = app.as_str(), "left {app} alone: {why}");
    Some(settled(app, Verdict::HeldUnlinked, why, free.clone()))
}
