//! The supervisor's start: a session of its own, then the harness behind its gate.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use nix::unistd::{getpgid, getpid, getppid, setpgid, setsid};

use crate::error::Error;
use crate::exit_status::ExitStatus;
use crate::gate::{self, Gate};
use crate::guard::engine::Engine;
use crate::guard::event::Cause;
use crate::guard::protocol::{Channel, Message};
use crate::guard::run::Run;
use crate::harness;
use crate::lock::handoff::Handed;
use crate::settings::{self, Session};
use crate::sys::process::{self, Pid};
use crate::sys::time::Alarm;
use crate::sys::{fd, signal};

/// The whole life of a supervisor; returns its exit status, which nobody looks at: it is told before.
pub fn supervise(run: Run, channel: Channel) -> i32 {
    run.delivery.reset();
    if let Some(lease) = &run.lease {
        lease.is_of_parent();
    }
    // A dead monitor's death signal would never come, so ask only after having asked for it.
    let _ = process::set_parent_death_signal(signal::parent_death());
    if getppid() != run.monitor {
        run.state.remove(None);
        return 0;
    }
    let monitor = process::pidfd(run.monitor).ok();
    let _ = match run.settings.session {
        Session::New => setsid().map(|_| ()),
        Session::Keep => setpgid(Pid::from_raw(0), Pid::from_raw(0)),
    };
    match prepare(&run, &channel) {
        Ok(harness) => i32::from(look_after(run, channel, monitor, harness)),
        Err(error) => {
            tracing::error!(event = "error", "{error}");
            // The monitor does the rest; a harness whose gate stays closed ends by itself.
            channel.tell(&Message::CauseIs(Cause::GuardError(ExitStatus::CannotStart as u8)));
            i32::from(ExitStatus::CannotStart as u8)
        }
    }
}

/// A harness behind its gate.
struct Waiting {
    pid: Pid,
    gate: Gate,
    exec_error: OwnedFd,
    alarm: Alarm,
}

fn prepare(run: &Run, channel: &Channel) -> Result<Waiting, Error> {
    process::set_subreaper().map_err(Error::system("cannot become a subreaper"))?;
    let alarm = Alarm::new().map_err(Error::system("cannot make a timer"))?;
    let handed = Handed::new(run.locks.iter()).map_err(Error::system("cannot hand the app lock over"))?;
    let (exec_error, error_end) = fd::pipe().map_err(Error::system("cannot make a pipe"))?;
    fd::set_nonblocking(&exec_error).map_err(Error::system("cannot make a pipe"))?;
    let mut gate = Some(Gate::new().map_err(Error::system("cannot make a pipe"))?);
    let supervisor = getpid();
    let pid = process::fork(|| {
        let opens = || gate.take().is_some_and(Gate::wait);
        become_harness(run, &handed, supervisor, opens, &error_end)
    })
    .map_err(Error::system("cannot start the harness"))?;
    channel.tell(&Message::HarnessIs { pid: pid.as_raw() });
    // Keyed by the harness's number, which is known only now; its gate is still closed.
    run.state.make_files(pid)?;
    let gate = gate.ok_or_else(|| Error::Usage("the gate is gone".to_owned()))?;
    Ok(Waiting { pid, gate, exec_error, alarm })
}

fn look_after(run: Run, channel: Channel, monitor: Option<OwnedFd>, harness: Waiting) -> u8 {
    // Nothing of the caller's is kept busy: it may want to unmount or remove this directory.
    let _ = std::env::set_current_dir("/");
    let mut engine = Engine::supervisor(run, channel, harness.alarm, monitor, harness.pid, harness.exec_error);
    engine.open_gate(harness.gate);
    engine.run()
}

/// The child that is to be the harness. All signals are blocked until the caller's mask is back, so what is
/// sent to it meanwhile waits and meets the caller's dispositions.
fn become_harness(
    run: &Run,
    handed: &Handed,
    supervisor: Pid,
    gate_opens: impl FnOnce() -> bool,
    error_end: &OwnedFd,
) -> i32 {
    let _ = match run.settings.session {
        Session::New => setsid().map(|_| ()),
        Session::Keep => getpgid(Some(run.monitor)).and_then(|group| setpgid(Pid::from_raw(0), group)),
    };
    let stop = run.settings.stop_signal.unwrap_or(Signal::SIGTERM);
    let _ = process::set_parent_death_signal(stop as i32);
    if getppid() != supervisor {
        return gate::CLOSED;
    }
    let changes = run.harness_variables(handed, getpid());
    let environment = harness::environment(&settings::caller_environment(), &changes);
    if !gate_opens() {
        return gate::CLOSED;
    }
    handed.keep_over_exec();
    run.birth.inherited.restore();
    let errno = run.program.exec(&environment);
    if let Ok(mut pipe) = error_end.try_clone().map(File::from) {
        let _ = pipe.write_all(&(errno as i32).to_ne_bytes());
    }
    i32::from(ExitStatus::NotFound as u8)
}
