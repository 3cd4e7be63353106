//! One guarded run: `run`, and `exec` in place.
//!
//! The story: check that we are nobody's orphan, find the command, claim the run's id, take the locks, fork
//! the supervisor, watch. `docs/architecture.md` draws the processes; `decide` has the rules.

#![forbid(unsafe_code)]

mod acquire;
mod decide;
mod engine;
mod event;
mod finish;
mod in_place;
mod locks;
mod orphan;
mod protocol;
mod report;
mod run;
mod self_deadlock;
mod state;
mod supervisor;
mod teardown;

pub use orphan::Birth;

use std::collections::HashSet;

use nix::unistd::getpid;
use signal_hook::consts::{
    SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTOU, SIGUSR1, SIGUSR2, SIGWINCH, SIGXFSZ,
};

use crate::cli::RunArgs;
use crate::cluster::Lease;
use crate::error::Error;
use crate::exit_status::ExitStatus;
use crate::guard::acquire::{Listener, Refused};
use crate::guard::engine::Engine;
use crate::guard::event::Cause;
use crate::guard::locks::Taken;
use crate::guard::orphan::Caller;
use crate::guard::protocol::Channel;
use crate::guard::report::ReportFile;
use crate::guard::run::Run;
use crate::harness::Program;
use crate::lock::AppLock;
use crate::run_state::RunState;
use crate::settings::{self, Form, RunName, RunSettings, Teardown};
use crate::sys::process::{self, Pid};
use crate::sys::signal::{self, Delivery, Inherited};
use crate::sys::time::{self, Alarm};
use crate::teardown::ResultSlot;
use crate::teardown::auto::Auto;
use crate::teardown::runner::Runner;
use crate::{log, tree};

/// Runs a command under guard; returns the status to exit with.
pub fn start(birth: Birth, form: Form, args: &RunArgs) -> u8 {
    let settings =
        settings::resolve_log(&args.log).and_then(log::start).and_then(|()| settings::resolve_run(form, args));
    match settings {
        Err(error) => {
            log::say_error(&error.to_string());
            error.exit_status() as u8
        }
        Ok(settings) => match form {
            Form::Run => guarded(birth, settings),
            Form::Exec => refused(in_place::become_harness(birth, &settings)).1,
        },
    }
}

/// Says why a run was not started; returns the cause and the status.
fn refused(why: Refused) -> (Cause, u8) {
    match why {
        Refused::Asked(cause) => {
            let status = match cause {
                Cause::Signal(number) => 128 + u8::try_from(number).unwrap_or(0),
                _ => ExitStatus::Terminated as u8,
            };
            tracing::info!(
                event = "finished",
                "stopped before the harness was started ({}); exit {status}",
                cause.name()
            );
            (cause, status)
        }
        Refused::Failed(error) => {
            tracing::error!(event = "error", "{error}");
            let status = error.exit_status() as u8;
            let cause =
                if status == ExitStatus::LockTimeout as u8 { Cause::LockTimeout } else { Cause::GuardError(status) };
            (cause, status)
        }
    }
}

fn guarded(birth: Birth, settings: RunSettings) -> u8 {
    let began = time::now();
    let report = match settings.report.as_deref().map(ReportFile::open).transpose() {
        Ok(report) => report,
        Err(error) => return refused(error.into()).1,
    };
    let apps: Vec<String> = settings.apps.iter().map(ToString::to_string).collect();
    // Also of a run that never gets as far as its claim.
    let mut run_id = match &settings.run_name {
        RunName::Given(id) => id.to_string(),
        RunName::FirstFree(_) => String::new(),
    };
    match prepare(birth, settings, began, &mut run_id) {
        Ok(run) => watch(Run { report, ..run }),
        Err(why) => {
            let (cause, status) = refused(why);
            if let Some(file) = &report {
                file.write(&finish::report_refusal(&run_id, apps, cause, status, time::now().saturating_sub(began)));
            }
            status
        }
    }
}

/// Everything up to the first fork. The order closes windows; `docs/design/orphan-check.md` names them.
fn prepare(
    birth: Birth,
    mut settings: RunSettings,
    began: std::time::Duration,
    run_id: &mut String,
) -> Result<Run, Refused> {
    let delivery = prepare_signals(&birth.inherited)?;
    let caller = Caller::watch(&settings, &birth, signal::parent_death())?;
    let program = Program::find(&settings.command, settings.search_path.as_deref())?;
    process::set_subreaper().map_err(Error::system("cannot become a subreaper"))?;
    let mut noted = existing_children();
    let auto = find_auto(&settings, &birth.inherited, &delivery, noted.clone())?;
    let monitor = getpid();
    let state = RunState::claim(&settings, monitor)?;
    state.id().as_str().clone_into(run_id);
    log::set_run_id(state.id().as_str());
    let waits_from = time::now();
    let listener = Listener { delivery: &delivery, caller: &caller };
    // The last look before the forks: a request that came in the moment of the grant starts nothing.
    let taken = locks::take(&settings, &state, &listener).and_then(|taken| match listener.check() {
        Ok(()) => Ok(taken),
        Err(asked) => {
            taken.lease.iter().for_each(Lease::release);
            Err(asked)
        }
    });
    let Taken { directory: lock_directory, locks, lease } = taken.inspect_err(|_| state.remove(None))?;
    // Never ours to end with the harness's tree.
    noted.extend(lease.as_ref().and_then(Lease::keeper));
    if locks.iter().any(AppLock::is_borrowed) && !settings.teardown_by_flag {
        // The app is an outer run's, also where CCCI_GUARD_PID does not tell (another pid namespace, `env -i`).
        settings.teardown = Teardown::None;
    }
    let result =
        ResultSlot::new().map_err(Error::system("cannot make shared memory")).inspect_err(|_| state.remove(None))?;
    Ok(Run {
        deadline_at: run::deadline_at(&settings),
        lock_wait: time::now().saturating_sub(waits_from),
        settings,
        birth,
        delivery,
        caller,
        monitor,
        program,
        report: None,
        lock_directory,
        locks,
        lease,
        state,
        auto,
        result,
        noted,
        began,
    })
}

/// The programs of the automatic teardown. A run whose app nobody could tear down is not started.
fn find_auto(
    settings: &RunSettings,
    inherited: &Inherited,
    delivery: &Delivery,
    noted: HashSet<Pid>,
) -> Result<Option<Auto>, Refused> {
    let Teardown::Auto(asked) = &settings.teardown else { return Ok(None) };
    let canonical = settings.canonical_abra_dir.as_deref();
    let auto = Auto::find(asked, settings.search_path.as_deref(), canonical, &settings.lock_dir)?;
    if auto.has_steps() || settings.apps.is_empty() {
        return Ok(Some(auto));
    }
    let mut runner = Runner::new(delivery, inherited, noted, true).map_err(Error::system("cannot make a timer"))?;
    runner.ends_with_us();
    match auto.docker_answers(&mut runner, &settings::caller_environment()) {
        Ok(true) => Ok(Some(auto)),
        Ok(false) => Err(Refused::Failed(Error::Usage(
            "no way to tear the app down: there is no abra, and no Docker Swarm manager that answers; start Docker or \
             install abra, or give --teardown CMD, or --teardown none"
                .to_owned(),
        ))),
        Err(signal) => Err(Refused::Asked(Cause::Signal(signal))),
    }
}

/// Forks the supervisor and watches it, to the end of the run.
fn watch(run: Run) -> u8 {
    // Each process has a copy of the run; it is taken out of here by the one that goes on with it.
    let mut run = Some(run);
    match fork_supervisor(&mut run) {
        Ok(engine) => engine.run(),
        Err(error) => {
            let (cause, status) = refused(error.into());
            if let Some(run) = &run {
                run.state.remove(None);
                finish::write_refusal(run, cause, status);
            }
            status
        }
    }
}

fn fork_supervisor(run: &mut Option<Run>) -> Result<Engine, Error> {
    let made = Alarm::new().and_then(|alarm| Channel::pair().map(|channel| (alarm, channel)));
    let (alarm, (ours, theirs)) = made.map_err(Error::system("cannot make a timer and a socket"))?;
    let mut theirs = Some(theirs);
    let forked = process::fork(|| match (run.take(), theirs.take()) {
        (Some(run), Some(channel)) => supervisor::supervise(run, channel),
        _ => 0,
    });
    let supervisor = forked.map_err(Error::system("cannot start the supervisor"))?;
    let run = run.take().ok_or_else(|| Error::Usage("the run is gone".to_owned()))?;
    drop(theirs);
    let _ = std::env::set_current_dir("/");
    Ok(Engine::monitor(run, ours, alarm, supervisor))
}

/// The signals that guard processes handle. One that the caller ignores stays ignored, for guard and harness:
/// `nohup` means it. TERM is handled all the same, since a run that can't be ended is nobody's wish.
fn prepare_signals(inherited: &Inherited) -> Result<Delivery, Error> {
    let unless_ignored = [SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH];
    let mut handled = vec![SIGTERM, SIGCHLD, signal::parent_death()];
    handled.extend(unless_ignored.into_iter().filter(|&number| !inherited.ignores(number)));
    // A message to a terminal whose foreground we are not must not stop us.
    signal::ignore(SIGTTOU);
    // A limit on file sizes is one more full disk, not the end of the guard.
    signal::ignore(SIGXFSZ);
    Delivery::new(&handled).map_err(Error::system("cannot handle signals"))
}

/// Children that we inherited by being exec'd in a process that had some: never ours to kill.
fn existing_children() -> HashSet<Pid> {
    match process::peek_ended() {
        process::Children::None => HashSet::new(),
        _ => {
            let mut tree = tree::Tree::default();
            tree.note_all();
            tree.into_noted()
        }
    }
}
