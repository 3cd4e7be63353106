//! Happenings, and what is done about them: the vocabulary of `decide`.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guard::protocol::Message;
use crate::sys::process::{Ended, Pid};
use crate::sys::signal;
use crate::teardown::Outcome;

/// Why a run ends. The first one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The harness exited.
    HarnessExit,
    /// The harness died of a signal that it did not get from us.
    HarnessSignal,
    /// The deadline passed.
    Deadline,
    /// Somebody asked the guard to stop with this signal.
    Signal(i32),
    /// The caller or the monitor died.
    ParentGone,
    /// The supervisor died.
    SupervisorGone,
    /// Nobody reads the output any more.
    OutputClosed,
    /// The harness waits for the lock that its own guard holds.
    SelfDeadlock,
    /// The cluster lock is not ours any more.
    LeaseLost,
    /// The lock was not had in time.
    LockTimeout,
    /// The guard could not start the harness; the status to exit with.
    GuardError(u8),
}

impl Cause {
    /// Its name in reports and in `CCCI_TEARDOWN_CAUSE`.
    pub fn name(self) -> &'static str {
        match self {
            Cause::HarnessExit => "harness-exit",
            Cause::HarnessSignal => "harness-signal",
            Cause::Deadline => "deadline",
            Cause::Signal(_) => "signal",
            Cause::ParentGone => "parent-gone",
            Cause::SupervisorGone => "supervisor-gone",
            Cause::OutputClosed => "output-closed",
            Cause::SelfDeadlock => "self-deadlock",
            Cause::LeaseLost => "lease-lost",
            Cause::LockTimeout => "lock-timeout",
            Cause::GuardError(_) => "guard-error",
        }
    }

    /// The signal's name, where the cause is one.
    pub fn signal_name(self) -> Option<String> {
        match self {
            Cause::Signal(number) => Some(signal::name(number)),
            _ => None,
        }
    }
}

/// Where a request to stop came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Another process.
    Process,
    /// The terminal: its foreground group has the signal already.
    Terminal,
}

/// The clocks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The deadline itself.
    Deadline,
    /// Ahead of the deadline.
    Warning,
    /// Between the stop signal and SIGKILL.
    Grace,
    /// After a takeover: the harness has its signal from the kernel; ours is a repetition.
    Repeat,
    /// A killed harness that doesn't end.
    Kill,
    /// Between the survivors' SIGTERM and SIGKILL.
    Survivors,
    /// A tree that can't be killed.
    Sweep,
    /// The supervisor's answer to a request.
    Answer,
    /// The supervisor's word after the deadline.
    Silence,
    /// A look whether the harness waits for its own guard.
    SelfDeadlock,
    /// The monitor's answer to whether it has a request.
    Requests,
    /// The cluster lease, unless it is renewed until then.
    Lease,
    /// Between the loss of the lease and SIGKILL to all.
    LeaseOver,
    /// The next start of a keeper that died.
    Keeper,
}

/// How a worker came to its end.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEnd {
    /// With a result.
    Finished(Outcome),
    /// Killed from outside, or before its gate was opened.
    Died,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody asks us to stop.
    StopRequested { signal: i32, origin: Origin },
    /// The caller died.
    CallerGone,
    /// The other guard process died (and, for the monitor, was reaped and its last words heard).
    PeerGone,
    /// The supervisor was stopped.
    PeerStopped,
    /// Nobody reads our output any more.
    OutputClosed,
    /// This descendant waits for the lock that we hold, and has for too long.
    SelfDeadlock(Pid),
    /// The cluster lock is not ours any more: all must be dead at `kill_at`.
    LeaseLost { kill_at: Duration },
    /// The command could not be executed.
    ExecFailed { status: u8 },
    /// The harness ended; it is not reaped yet.
    HarnessEnded(Ended),
    /// The worker ended; it is not reaped yet.
    WorkerEnded(WorkerEnd),
    /// The worker was stopped.
    WorkerStopped,
    /// No descendant is left.
    TreeEmpty,
    /// A signal to pass on.
    Forward(i32),
    /// ^Z.
    Suspend,
    /// Continued after ^Z.
    Resume,
    /// A clock rang.
    TimeUp(Timer),
    /// The other guard process said something.
    Told(Message),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Say this to the other guard process, if there is one.
    Tell(Message),
    /// Send the harness a signal, to its leader or group as asked for.
    SignalHarness(i32),
    /// Say that the run is being stopped, by this signal, and how long it has.
    AnnounceStop { signal: i32, grace: Duration },
    /// SIGCONT to every descendant.
    ContinueTree,
    /// Say that a request changes nothing: a teardown goes on to its end.
    AnnounceTeardownGoesOn,
    /// SIGKILL to the harness.
    KillHarness,
    /// SIGSTOP to the harness's group.
    StopHarness,
    /// SIGCONT to the harness's group.
    ContinueHarness,
    /// Say that the deadline is near; signal the harness if asked for.
    Warn,
    /// Ring after this long.
    Arm(Timer, Duration),
    /// Don't ring.
    Disarm(Timer),
    /// SIGTERM and SIGCONT to every descendant.
    TerminateSurvivors,
    /// SIGKILL to every descendant until none is left.
    Sweep,
    /// Name those that can't be killed.
    GiveUpOnSurvivors,
    /// Start a worker.
    StartWorker,
    /// SIGCONT to the worker.
    ContinueWorker,
    /// Stop ourselves as the terminal asked.
    StopSelf,
    /// SIGCONT to the supervisor.
    ContinuePeer,
    /// SIGKILL to the supervisor, which doesn't answer.
    KillPeer,
    /// Say that the supervisor is gone and we go on in its place.
    AnnounceTakeover,
    /// Clean up, report, release, end.
    Finish,
    /// End at once with this status: the supervisor has done all.
    Exit(u8),
}
