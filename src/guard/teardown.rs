//! A guarded run's teardown, in the worker process: gathers the apps, runs the worker, and ends the run itself
//! when nobody else is left to do it.

#![forbid(unsafe_code)]

use nix::unistd::{getpid, getppid};

use crate::app::AppName;
use crate::cluster::{Asking, Lease, Wanted};
use crate::guard::finish::{self, Facts};
use crate::guard::protocol::Channel;
use crate::guard::run::Run;
use crate::guard::state::State;
use crate::lock::AppLock;
use crate::lock::handoff::Handed;
use crate::lock::holder::HolderLine;
use crate::lock::path::LockDirectory;
use crate::settings::Teardown;
use crate::sys::process::{Ended, Pid};
use crate::teardown::apps::{self, Noted};
use crate::teardown::command::{self, Context};
use crate::teardown::worker::{Target, Work, Worker};
use crate::teardown::{Outcome, Verdict};

/// The whole life of a worker that `forker` started; returns its exit status.
pub fn work(run: &mut Run, state: &State, facts: &Facts, channel: &Channel, forker: Pid) -> i32 {
    tear_down(run, state, facts);
    // Monitor and supervisor are both dead: nobody will reap us, so the end of the run is ours too.
    let parent = getppid();
    if parent != forker && parent != run.monitor {
        let outcome = run.result.outcome().unwrap_or_else(Outcome::failed);
        let state = State { teardown: Some(outcome), ..state.clone() };
        finish::finish(run, &state, facts, channel);
    }
    0
}

/// Leaves the result in the run's slot; nothing there means that it failed.
fn tear_down(run: &mut Run, state: &State, facts: &Facts) {
    let harness = facts.harness.unwrap_or(run.monitor);
    let Ok(handed) = Handed::new(run.locks.iter()) else { return };
    let context = Context {
        environment: run.teardown_environment(&handed, harness),
        cause: state.cause.map_or("supervisor-gone", |cause| cause.name()),
        harness_status: state.harness.map(Ended::as_shell_status),
        canonical_abra_dir: run.settings.canonical_abra_dir.clone(),
    };
    let opened =
        if run.lock_directory.is_none() { LockDirectory::open_or_create(&run.settings.lock_dir).ok() } else { None };
    let directory = run.lock_directory.as_ref().or(opened.as_ref());
    let (noted, mut not_ours) = noted_apps(run, directory, harness);
    let (mut noted, noted_lease) = noted_in_cluster(run, noted, &mut not_ours);

    let (teardown, auto) = (&run.settings.teardown, run.auto.as_ref());
    let work = |app: Option<&AppName>| {
        let environment = command::environment(&context, app);
        match (teardown, auto) {
            (Teardown::Command(command), _) => Some(Work::Command(command::shell(command, environment))),
            (Teardown::Auto(_), Some(auto)) => Some(Work::Auto(auto, environment)),
            _ => None,
        }
    };
    let mut targets: Vec<Target<'_>> = Vec::new();
    let own = run.locks.iter_mut().map(|lock| (lock, run.lease.as_ref()));
    for (lock, lease) in own.chain(noted.iter_mut().map(|lock| (lock, noted_lease.as_ref()))) {
        let app = lock.app().clone();
        let Some(work) = work(Some(&app)) else { return };
        // A borrowed lock is an outer run's, and so is the cluster's.
        let lease = lease.filter(|_| !lock.is_borrowed());
        targets.push(Target { app: Some(app), lock: Some(lock), lease, work, look_first: false });
    }
    if targets.is_empty() && not_ours.is_empty() {
        let Some(work) = work(None) else { return };
        targets.push(Target { app: None, lock: None, lease: None, work, look_first: false });
    }
    let limit = run.settings.teardown_timeout;
    if let Ok(mut worker) = Worker::become_worker(&run.delivery, &run.birth.inherited, directory, limit, &run.result) {
        if let Some(lease) = &run.lease {
            worker.back_up(lease);
        }
        if let Some(keeper) = noted_lease.as_ref().and_then(Lease::keeper) {
            worker.leave_alone(keeper);
        }
        worker.run(targets, not_ours);
    }
    if let Some(lease) = &noted_lease {
        lease.release();
    }
    for lock in &noted {
        lock.release();
    }
}

/// Of noted apps whose locks we have: those that no other host holds, and the cluster lock of them all.
fn noted_in_cluster(
    run: &Run,
    noted: Vec<AppLock>,
    not_ours: &mut Vec<(String, Verdict)>,
) -> (Vec<AppLock>, Option<Lease>) {
    let Some(etcd) = run.settings.etcd.as_ref().filter(|_| !noted.is_empty()) else { return (noted, None) };
    let wanted = |lock: &AppLock| Wanted {
        app: lock.app().to_string(),
        line: holder_line(run),
        deadline: None,
        lock: lock.path().to_owned(),
    };
    let sought = Asking::start(etcd, noted.iter().map(wanted).collect(), false).and_then(Asking::finish_now);
    let (lease, elsewhere) = match sought {
        Ok(sought) => sought,
        Err(error) => {
            tracing::error!(event = "noted-apps-unlocked", "left the noted apps alone: {error}");
            (None, Vec::new())
        }
    };
    for seen in &elsewhere {
        let (app, holder) = (seen.app.as_str(), seen.holder());
        tracing::warn!(event = "noted-app-left", app, "left {app} alone: it is another run's ({holder})");
    }
    let mut ours = Vec::new();
    for mut lock in noted {
        match lease.as_ref().and_then(|lease| lease.token(lock.app())) {
            Some(token) => {
                lock.set_token(Some(token));
                ours.push(lock);
            }
            None => {
                let verdict = if lease.is_some() { Verdict::Skipped } else { Verdict::Failed };
                not_ours.push((lock.app().to_string(), verdict));
                lock.release();
            }
        }
    }
    (ours, lease)
}

/// Who we are, in the lock of a noted app.
fn holder_line(run: &Run) -> HolderLine {
    HolderLine { teardown: true, ..HolderLine::new(getpid(), run.state.id().as_str(), &run.settings.command) }
}

/// The apps that the harness noted, each with its lock; and those that can't be torn down: another's, which is
/// no fault, and names that are none.
fn noted_apps(run: &Run, directory: Option<&LockDirectory>, harness: Pid) -> (Vec<AppLock>, Vec<(String, Verdict)>) {
    let (mut ours, mut not_ours) = (Vec::new(), Vec::new());
    let file = run.state.noted_apps(harness);
    let noted = apps::read_noted(&file).unwrap_or_else(|error| {
        let shown = file.display();
        tracing::error!(event = "noted-apps-unreadable", "the noted apps can't be read from '{shown}': {error}");
        not_ours.push((shown.to_string(), Verdict::Failed));
        Vec::new()
    });
    for entry in noted {
        let app = match entry {
            Ok(app) if run.settings.apps.contains(&app) => continue,
            Ok(app) => app,
            Err((name, problem)) => {
                tracing::error!(event = "noted-app-invalid", "not torn down: the noted name {name:?} {problem}");
                not_ours.push((name, Verdict::Failed));
                continue;
            }
        };
        match apps::take(directory, &app, &run.settings.allow_list, run.auto.is_some()) {
            Noted::Ours(lock) => {
                lock.record(&holder_line(run));
                ours.push(lock);
            }
            Noted::LeftAlone(why) => {
                tracing::warn!(event = "noted-app-left", app = app.as_str(), "left {app} alone: it {why}");
                not_ours.push((app.to_string(), Verdict::Skipped));
            }
        }
    }
    (ours, not_ours)
}
