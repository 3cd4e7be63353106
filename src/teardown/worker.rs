//! The worker: a process that runs teardowns to their end, whatever happens to the others.
//!
//! It leads a session of its own (nobody's ^C or group kill reaches it), is a subreaper (what its steps leave
//! comes to it), reads their output itself (a step whose output nobody reads would die of SIGPIPE), and hears
//! no request: nothing ends a teardown but its own limit.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

use crate::app::AppName;
use crate::cluster::Lease;
use crate::lock::path::LockDirectory;
use crate::lock::{AppLock, StillOurs};
use crate::log;
use crate::sys::process::{self, Ended, Pid};
use crate::sys::signal::{Delivery, Inherited};
use crate::sys::time;
use crate::teardown::auto::{Auto, Session};
use crate::teardown::runner::{Command, End, Output, Runner};
use crate::teardown::{AppEnd, Progress, ResultSlot, Verdict};

/// How an app is torn down.
pub enum Work<'a> {
    /// By this command.
    Command(Command),
    /// By abra, the sweep and the proof, in this environment.
    Auto(&'a Auto, Vec<(OsString, OsString)>),
}

/// An app, its lock and what to do. Without an app it is done once for the run.
pub struct Target<'a> {
    /// The app.
    pub app: Option<AppName>,
    /// Its lock, which the steps inherit.
    pub lock: Option<&'a mut AppLock>,
    /// The cluster lock that goes with it.
    pub lease: Option<&'a Lease>,
    /// What to do.
    pub work: Work<'a>,
    /// First see whether there is anything to tear down at all.
    pub look_first: bool,
}

/// Is an app listed, before or after its teardown? `None`: there is no list to ask but those of the teardown itself.
pub type Listed<'a> = dyn Fn(&AppName, &mut Runner<'_>, When) -> Result<Option<bool>, String> + 'a;

/// When a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Under the lock, before anything is done.
    Before,
    /// As the proof.
    After,
}

/// What a worker has to work with.
pub struct Worker<'a> {
    runner: Runner<'a>,
    directory: Option<&'a LockDirectory>,
    slot: &'a ResultSlot,
    ends_at: Duration,
}

impl<'a> Worker<'a> {
    /// In the process that is to be the worker: makes it one.
    ///
    /// # Errors
    /// When the kernel has no timer for us.
    pub fn become_worker(
        delivery: &'a Delivery,
        inherited: &'a Inherited,
        directory: Option<&'a LockDirectory>,
        limit: Duration,
        slot: &'a ResultSlot,
    ) -> io::Result<Self> {
        delivery.reset();
        // Neither can fail in a freshly forked process that leads nothing.
        let _ = nix::unistd::setsid();
        let _ = process::set_subreaper();
        let _ = std::env::set_current_dir("/");
        let runner = Runner::new(delivery, inherited, HashSet::new(), false)?;
        Ok(Worker { runner, directory, slot, ends_at: time::now() + limit })
    }

    /// A child that no step of ours started.
    pub fn leave_alone(&mut self, pid: Pid) {
        self.runner.leave_alone(pid);
    }

    /// Has a keeper of our own stand by: whoever started the one at work, and starts it again, may die before us.
    pub fn back_up(&mut self, lease: &Lease) {
        match lease.start_keeper() {
            Ok(keeper) => self.leave_alone(keeper),
            Err(error) => tracing::warn!(event = "keeper-failed", "no second keeper of the cluster lease: {error}"),
        }
    }

    /// Tears everything down, but for what an earlier worker has brought to its end, and keeps the diary of it.
    /// `not_ours`: apps that are left alone, and what that means for the result.
    pub fn run(&mut self, targets: Vec<Target<'_>>, not_ours: Vec<(String, Verdict)>) {
        let began = time::now();
        let done = self.slot.progress();
        let is_done =
            |name: &Option<String>| done.iter().any(|entry| matches!(entry, Progress::App { app, .. } if app == name));
        let several = targets.len() > 1;
        for target in targets {
            let app = target.app.as_ref().map(AppName::to_string);
            log::set_app(app.as_deref(), several);
            if !is_done(&app)
                && let Some(end) = self.tear_down(target)
            {
                if !matches!(end.result, Verdict::Ok | Verdict::Gone) {
                    let name = app.as_deref().unwrap_or("the run");
                    tracing::warn!(event = "teardown-end", app = name, "teardown of {name}: {}", end.why);
                }
                self.slot.put(&Progress::App { app, end });
            }
        }
        for (app, result) in not_ours {
            let app = Some(app);
            if !is_done(&app) {
                self.slot.put(&Progress::App { app, end: AppEnd::of_command(result, None) });
            }
        }
        self.slot.put(&Progress::Done { elapsed_s: time::now().saturating_sub(began).as_secs_f64() });
    }

    /// For the janitor: tears one app down where `listed` says that there is one, proves by it that it is gone,
    /// and then unlinks the lock file, under the lock.
    pub fn reap(&mut self, mut target: Target<'_>, listed: &Listed<'_>) {
        let began = time::now();
        let (Some(app), Some(directory)) = (target.app.clone(), self.directory) else { return };
        let Some(lock) = target.lock.take() else { return };
        log::set_app(Some(app.as_str()), true);
        let end = match listed(&app, &mut self.runner, When::Before) {
            Ok(Some(false)) => {
                AppEnd { why: "not listed any more".to_owned(), ..AppEnd::of_command(Verdict::Gone, None) }
            }
            Err(why) => AppEnd { why, ..AppEnd::of_command(Verdict::Failed, None) },
            Ok(known) => {
                // A list of the user's own says more than what we could look for.
                let whole = Target { lock: Some(&mut *lock), look_first: known.is_none(), ..target };
                let end = self.tear_down(whole).or_else(|| self.slot.end_of(app.as_str()));
                let end = end.unwrap_or_else(|| AppEnd::of_command(Verdict::Failed, None));
                match (end.result, listed(&app, &mut self.runner, When::After)) {
                    (Verdict::Ok, Ok(Some(true))) => {
                        let residual = vec!["still listed".to_owned()];
                        AppEnd { result: Verdict::Partial, why: "it is still listed".to_owned(), residual, ..end }
                    }
                    (Verdict::Ok, Err(why)) => AppEnd { result: Verdict::Failed, why, ..end },
                    _ => end,
                }
            }
        };
        if matches!(end.result, Verdict::Ok | Verdict::Gone) {
            lock.unlink(directory);
        }
        if let Some(lease) = target.lease {
            lease.release();
        }
        // The last one counts.
        self.slot.put(&Progress::App { app: Some(app.to_string()), end });
        self.slot.put(&Progress::Done { elapsed_s: time::now().saturating_sub(began).as_secs_f64() });
        lock.release();
    }

    /// Tears one app down. What the end of a command has settled is in the diary already; the rest is returned.
    fn tear_down(&mut self, target: Target<'_>) -> Option<AppEnd> {
        let Target { app, lock, lease, work, look_first } = target;
        match (work, app) {
            (Work::Command(command), app) => self.by_command(&command, app.as_ref(), lock, lease),
            (Work::Auto(auto, environment), Some(app)) => {
                let mut session = Session::new(auto, &mut self.runner, &environment, self.ends_at);
                (session.lock, session.lease, session.directory) = (lock, lease, self.directory);
                Some(session.tear_down(&app, look_first))
            }
            // No app is known: the harness must tear down itself.
            (Work::Auto(..), None) => None,
        }
    }

    /// Runs the command; one that a signal from outside ended, once more.
    fn by_command(
        &mut self,
        command: &Command,
        app: Option<&AppName>,
        mut lock: Option<&mut AppLock>,
        lease: Option<&Lease>,
    ) -> Option<AppEnd> {
        let name = app.map_or("the run", AppName::as_str);
        for last_try in [false, true] {
            if let (Some(lock), Some(directory)) = (lock.as_deref_mut(), self.directory)
                && !is_still_ours(lock, directory, lease)
            {
                return Some(AppEnd::of_command(Verdict::Skipped, None));
            }
            let mut settled = false;
            let name_of_app = app.map(AppName::to_string);
            let slot = self.slot;
            let ran = self.runner.run(
                command,
                lock.as_deref(),
                Output::Log,
                self.ends_at,
                // Before it does anything: whoever finds us dead must know whose end to look at.
                |pid| slot.put(&Progress::Step { app: name_of_app.clone(), pid: pid.as_raw(), last: true }),
                // Into the diary before it is reaped: then its end can't get lost with us.
                |how| {
                    let concluded = Progress::concluded(name_of_app.clone(), true, how);
                    settled = concluded.inspect(|end| slot.put(end)).is_some();
                },
            );
            match ran.end {
                _ if settled => return None,
                End::Ended(how) if last_try => {
                    return Some(AppEnd::of_command(Verdict::Failed, Some(how.as_shell_status())));
                }
                End::Ended(how) => say_again(name, how),
                End::TimedOut | End::Asked(_) => return Some(AppEnd::of_command(Verdict::Timeout, None)),
                End::NotStarted(error) => {
                    tracing::error!(
                        event = "teardown-failed",
                        app = name,
                        "cannot start the teardown of {name}: {error}"
                    );
                    return Some(AppEnd::of_command(Verdict::Failed, None));
                }
            }
        }
        None
    }
}

fn say_again(name: &str, how: Ended) {
    let status = how.as_shell_status();
    tracing::warn!(
        event = "teardown-again",
        app = name,
        "teardown of {name} was killed from outside (status {status}): running it once more"
    );
}

/// Asked before each destructive step: do the lock, and the cluster's, still protect the app?
pub fn is_still_ours(lock: &mut AppLock, directory: &LockDirectory, lease: Option<&Lease>) -> bool {
    let name = lock.app().to_string();
    if let Some(Err(why)) = lease.map(|lease| lease.still_ours(lock.app())) {
        tracing::warn!(event = "teardown-skipped", app = name.as_str(), "left {name} alone: {why}");
        return false;
    }
    match lock.still_ours(directory) {
        StillOurs::Yes => true,
        StillOurs::Again(why) => {
            tracing::warn!(event = "lock-taken-again", app = name.as_str(), "took the app lock of {name} again: {why}");
            true
        }
        StillOurs::No(why) => {
            tracing::warn!(event = "teardown-skipped", app = name.as_str(), "left {name} alone: {why}");
            false
        }
    }
}
