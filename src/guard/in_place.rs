//! `ccci-guard exec`: the same checks, session, death signal, lock and deadline, then the command in our place.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, setsid};
use signal_hook::consts::SIGTERM;

use crate::error::Error;
use crate::guard::acquire::{Listener, Refused};
use crate::guard::orphan::{Birth, Caller};
use crate::guard::run::{self, Pids};
use crate::guard::{locks, prepare_signals};
use crate::harness::{self, Program};
use crate::lock::handoff::Handed;
use crate::run_state::RunState;
use crate::settings::{self, RunSettings, Session};
use crate::sys::process;

/// Becomes the harness; returns only why that could not be.
///
/// # Errors
/// A request to stop while waiting for the lock, or what went wrong.
pub fn become_harness(mut birth: Birth, settings: &RunSettings) -> Refused {
    match prepare(&mut birth, settings) {
        Ok((program, errno)) => Refused::Failed(program.explain(errno)),
        Err(refused) => refused,
    }
}

fn prepare(birth: &mut Birth, settings: &RunSettings) -> Result<(Program, Errno), Refused> {
    let delivery = prepare_signals(&birth.inherited)?;
    // It outlives the exec: the harness itself gets TERM when the caller dies.
    let caller = Caller::watch(settings, birth, SIGTERM)?;
    let program = Program::find(&settings.command, settings.search_path.as_deref())?;
    let harness = getpid();
    let state = RunState::claim(settings, harness)?;
    let result = enter(birth, settings, &state, &Listener { delivery: &delivery, caller: &caller }, &program);
    // Still here: the harness was not started.
    state.remove(Some(harness));
    result.map(|errno| (program, errno))
}

fn enter(
    birth: &mut Birth,
    settings: &RunSettings,
    state: &RunState,
    listener: &Listener<'_>,
    program: &Program,
) -> Result<Errno, Refused> {
    let harness = getpid();
    let locks = locks::take(settings, state, listener)?.locks;
    if settings.session == Session::New && setsid().is_err() {
        tracing::info!(event = "session-kept", "this process leads its group already: staying in the caller's session");
    }
    state.make_files(harness)?;
    let handed = Handed::new(locks.iter()).map_err(Error::system("cannot hand the app lock over"))?;
    let pids = Pids { harness, guard: harness };
    let changes = run::handed_over(settings, state, &handed, pids, run::deadline_at(settings));
    let environment = harness::environment(&settings::caller_environment(), &changes);
    listener.check()?;
    handed.keep_over_exec();
    let _owner = state.hand_over_owner().map_err(Error::system("cannot hand the owner file over"))?;
    if let Some(deadline) = settings.deadline {
        birth.inherited.force_default(Signal::SIGALRM);
        process::alarm(deadline).map_err(Error::system("cannot set the deadline"))?;
    }
    birth.inherited.restore();
    Ok(program.exec(&environment))
}
