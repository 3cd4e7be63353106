//! Where a run is, and what was asked for: all that a decision depends on.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::exit_status::ExitStatus;
use crate::guard::event::{Action, Cause};
use crate::guard::protocol::Message;
use crate::settings::{Session, Survivors, TeardownOn};
use crate::sys::process::Ended;
use crate::teardown::{Outcome, Verdict};

/// What was asked for, as far as it decides anything.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// From the stop signal to SIGKILL.
    pub grace: Duration,
    /// The signal that asks the harness to stop, whatever we were asked with.
    pub stop_signal: Option<i32>,
    /// What becomes of survivors.
    pub survivors: Survivors,
    /// There is something to tear down with.
    pub teardown: bool,
    /// When.
    pub teardown_on: TeardownOn,
    /// The harness's session.
    pub session: Session,
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The monitor, while the supervisor lives.
    Watching,
    /// The harness runs.
    Running,
    /// It was asked to stop.
    Stopping,
    /// It was killed and has not ended yet.
    Killing,
    /// It has ended; its descendants were asked to end.
    Surviving,
    /// Its descendants are being killed.
    Sweeping,
    /// A worker tears down.
    TearingDown,
    /// What a worker left is being killed.
    SweepingWorker,
    /// Nothing more happens.
    Finished,
}

/// All that a decision depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Where the run is.
    pub phase: Phase,
    /// Why it ends.
    pub cause: Option<Cause>,
    /// The harness may have run.
    pub started: bool,
    /// How it ended.
    pub harness: Option<Ended>,
    /// When the stop began, for telling a second request from the first.
    pub stop_began: Option<Duration>,
    /// A worker was announced and has not ended.
    pub worker_runs: bool,
    /// So many workers have begun to tear down.
    pub workers: u8,
    /// What the teardown came to.
    pub teardown: Option<Outcome>,
    /// Some descendants could not be killed.
    pub unkillable: bool,
    /// The cluster lock is lost: all must be dead at this moment, and nothing is torn down any more.
    pub kill_at: Option<Duration>,
    /// Requests to the supervisor that it has not answered.
    pub unanswered: u32,
    /// The supervisor has done everything; the status to exit with.
    pub finished: Option<u8>,
}

impl State {
    /// The supervisor's, once the harness's gate is open.
    pub fn supervisor() -> Self {
        State { phase: Phase::Running, started: true, ..State::monitor() }
    }

    /// The monitor's.
    pub fn monitor() -> Self {
        State {
            phase: Phase::Watching,
            cause: None,
            started: false,
            harness: None,
            stop_began: None,
            worker_runs: false,
            workers: 0,
            teardown: None,
            unkillable: false,
            kill_at: None,
            unanswered: 0,
            finished: None,
        }
    }

    /// The exit status that tells the truth about the first cause.
    pub fn exit_status(&self) -> u8 {
        let status = match self.cause {
            Some(Cause::Deadline) => ExitStatus::Deadline,
            Some(Cause::Signal(signal)) => return 128 + u8::try_from(signal).unwrap_or(0),
            Some(Cause::ParentGone) => ExitStatus::Terminated,
            Some(Cause::SupervisorGone) | None => ExitStatus::SupervisorGone,
            Some(Cause::OutputClosed) => ExitStatus::OutputClosed,
            Some(Cause::SelfDeadlock) => ExitStatus::Unclean,
            Some(Cause::LeaseLost) => ExitStatus::LeaseLost,
            Some(Cause::LockTimeout) => ExitStatus::LockTimeout,
            Some(Cause::GuardError(status)) => return status,
            Some(Cause::HarnessExit | Cause::HarnessSignal) => {
                let status = self.harness.map_or(0, Ended::as_shell_status);
                return match status {
                    0 if self.is_unclean() => ExitStatus::Unclean as u8,
                    other => u8::try_from(other & 0xff).unwrap_or(u8::MAX),
                };
            }
        };
        status as u8
    }

    fn is_unclean(&self) -> bool {
        let bad = |outcome: &Outcome| matches!(outcome.result, Verdict::Partial | Verdict::Failed | Verdict::Timeout);
        self.unkillable || self.teardown.as_ref().is_some_and(bad)
    }

    /// Is there something to be torn down, that has not been?
    pub fn teardown_is_due(&self, policy: &Policy) -> bool {
        let wanted = match self.cause {
            Some(Cause::HarnessExit) => match policy.teardown_on {
                TeardownOn::Stop => false,
                TeardownOn::Failure => self.harness != Some(Ended::Code(0)),
                TeardownOn::Always => true,
            },
            Some(Cause::GuardError(_) | Cause::LockTimeout) => false,
            _ => true,
        };
        // A lost lease: the app may be another's by now, who tears down what it finds.
        wanted && policy.teardown && self.started && self.teardown.is_none() && self.kill_at.is_none()
    }

    /// The first cause wins, and the other guard process hears of it before anything is done about it.
    pub fn set_cause(&mut self, cause: Cause, actions: &mut Vec<Action>) {
        if self.cause.is_none() {
            self.cause = Some(cause);
            actions.push(Action::Tell(Message::CauseIs(cause)));
        }
    }
}
