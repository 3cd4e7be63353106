//! What a guard process does about what happens: one pure function, in one table.
//!
//! Supervisor and monitor run the same function. The supervisor starts in [`Phase::Running`]. The monitor
//! starts in [`Phase::Watching`] and knows what it is told; when the supervisor is gone it goes on from the
//! phase that this knowledge means (`take_over`).
//!
//! Invariants: the first cause is never replaced by a later one; a worker is only started when none runs and
//! none has finished; `Finish` comes once, as the last action.

#![forbid(unsafe_code)]

use std::time::Duration;

use signal_hook::consts::SIGTERM;

use crate::guard::event::{Action, Cause, Event, Origin, Timer, WorkerEnd};
use crate::guard::protocol::Message;
use crate::guard::state::{Phase, Policy, State};
use crate::settings::{Session, Survivors};
use crate::sys::process::Ended;
use crate::teardown::Outcome;

/// A second request counts as one only after this long: `timeout` signals the process and its group, and
/// systemd signals every process of a unit.
const ONE_REQUEST: Duration = Duration::from_secs(1);
/// After its leader's end a tree has this long from SIGTERM to SIGKILL.
const SURVIVORS_GRACE: Duration = Duration::from_secs(2);
/// What is not dead this long after SIGKILL can't be killed.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(5);
/// A supervisor that doesn't answer a request for this long, or is silent for this long after the deadline, is
/// replaced.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// When the cluster lease is lost, it has this long at least: a tenth of the shortest lease's time.
const LEASE_ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// After a takeover the stop signal is repeated, since a set-uid exec clears the kernel's (prctl(2)).
const REPEAT_AFTER: Duration = Duration::from_secs(5);
/// A teardown that was killed from outside is run once more.
pub const WORKER_RUNS: u8 = 2;

/// Decides.
pub fn decide(policy: &Policy, mut state: State, now: Duration, event: Event) -> (State, Vec<Action>) {
    let mut actions = Vec::new();
    match state.phase {
        Phase::Watching => watching(policy, &mut state, now, event, &mut actions),
        Phase::Finished => {}
        _ => in_charge(policy, &mut state, now, event, &mut actions),
    }
    (state, actions)
}

/// The monitor while the supervisor lives: passes requests on, remembers what it is told.
fn watching(policy: &Policy, state: &mut State, now: Duration, event: Event, actions: &mut Vec<Action>) {
    let mut ask = |state: &mut State, message| {
        state.unanswered += 1;
        actions.extend([Action::Tell(message), Action::Arm(Timer::Answer, ANSWER_WITHIN)]);
    };
    match event {
        Event::StopRequested { signal, origin } => {
            state.cause = state.cause.or(Some(Cause::Signal(signal)));
            state.stop_began = state.stop_began.or(Some(now));
            ask(state, Message::Stop { signal, origin });
        }
        Event::CallerGone => {
            state.cause = state.cause.or(Some(Cause::ParentGone));
            state.stop_began = state.stop_began.or(Some(now));
            ask(state, Message::CallerGone);
        }
        Event::LeaseLost { kill_at } if state.kill_at.is_none() => {
            state.kill_at = Some(kill_at);
            state.cause = state.cause.or(Some(Cause::LeaseLost));
            state.stop_began = state.stop_began.or(Some(now));
            let left = kill_at.saturating_sub(now);
            state.unanswered += 1;
            // One that does not answer can't be waited for as long as usual; one that does has all its time, and some.
            actions.extend([
                Action::Tell(Message::LeaseLost),
                Action::Arm(Timer::Answer, (left / 2).clamp(LEASE_ANSWER_WITHIN, ANSWER_WITHIN)),
                Action::Arm(Timer::LeaseOver, (left + left / 2).max(LEASE_ANSWER_WITHIN)),
            ]);
        }
        Event::TimeUp(Timer::LeaseOver) if state.harness.is_none() => actions.push(Action::KillPeer),
        Event::Forward(signal) => ask(state, Message::Forward { signal }),
        Event::Suspend if policy.session == Session::Keep => actions.push(Action::StopSelf),
        Event::Suspend => ask(state, Message::Suspend),
        Event::Resume => ask(state, Message::Resume),
        Event::PeerStopped => actions.push(Action::ContinuePeer),
        Event::TimeUp(Timer::Answer) if state.unanswered > 0 => actions.push(Action::KillPeer),
        // A supervisor that is at it has told the cause.
        Event::TimeUp(Timer::Silence) if state.cause.is_none() => {
            state.cause = Some(Cause::Deadline);
            actions.push(Action::KillPeer);
        }
        Event::Told(message) => told(state, message, actions),
        // Adopted already: the supervisor is dead, and will be seen to be.
        Event::HarnessEnded(how) => state.harness = Some(how),
        Event::WorkerEnded(end) => note_worker_end(state, end),
        Event::PeerGone => take_over(policy, state, now, actions),
        _ => {}
    }
}

/// The supervisor's words, as knowledge for a takeover.
fn told(state: &mut State, message: Message, actions: &mut Vec<Action>) {
    match message {
        Message::GateOpened => state.started = true,
        Message::NeverStarted { .. } => state.started = false,
        Message::CauseIs(cause) => {
            // The supervisor saw what came first.
            state.cause = Some(cause);
        }
        Message::HarnessEnded { how, cause } => {
            state.harness = Some(how);
            state.cause = cause.or(state.cause);
        }
        Message::Swept { unkillable, .. } => state.unkillable |= !unkillable.is_empty(),
        Message::WorkerIs { .. } => {
            state.worker_runs = true;
            state.workers += 1;
        }
        Message::WorkerEnded(outcome) => {
            state.worker_runs = false;
            state.teardown = outcome;
        }
        Message::Finished { status } => state.finished = Some(status),
        Message::Acknowledged => answered(state, actions),
        Message::Suspended => {
            answered(state, actions);
            actions.push(Action::StopSelf);
        }
        Message::HarnessIs { .. }
        | Message::Stop { .. }
        | Message::CallerGone
        | Message::LeaseLost
        | Message::Forward { .. }
        | Message::Suspend
        | Message::Resume
        | Message::NoMoreRequests
        | Message::AnyRequest => {}
    }
}

fn answered(state: &mut State, actions: &mut Vec<Action>) {
    state.unanswered = state.unanswered.saturating_sub(1);
    if state.unanswered == 0 {
        actions.push(Action::Disarm(Timer::Answer));
    }
}

/// The supervisor is dead and its last word was heard: go on where it was.
fn take_over(policy: &Policy, state: &mut State, now: Duration, actions: &mut Vec<Action>) {
    if let Some(status) = state.finished {
        state.phase = Phase::Finished;
        actions.push(Action::Exit(status));
        return;
    }
    actions.extend([Action::Disarm(Timer::Answer), Action::Disarm(Timer::Silence)]);
    if let Some(kill_at) = state.kill_at {
        actions.push(Action::Arm(Timer::LeaseOver, kill_at.saturating_sub(now)));
    }
    // One that gave up has said why.
    if !matches!(state.cause, Some(Cause::GuardError(_))) {
        actions.push(Action::AnnounceTakeover);
    }
    state.cause = state.cause.or(Some(Cause::SupervisorGone));
    state.stop_began = state.stop_began.or(Some(now));
    if !state.started || state.teardown.is_some() {
        sweep(state, Phase::SweepingWorker, actions);
    } else if state.worker_runs {
        // Announced: it is waited for, never swept.
        state.phase = Phase::TearingDown;
        actions.push(Action::ContinueWorker);
    } else if state.harness.is_some() {
        survive(policy, state, actions);
    } else {
        // The harness has the stop signal from the kernel (PDEATHSIG); a second one at once could cut its
        // handler short.
        state.phase = Phase::Stopping;
        actions.extend([
            Action::ContinueTree,
            Action::Arm(Timer::Repeat, REPEAT_AFTER),
            Action::Arm(Timer::Grace, policy.grace),
        ]);
    }
}

/// Supervisor, or monitor after a takeover.
fn in_charge(policy: &Policy, state: &mut State, now: Duration, event: Event, actions: &mut Vec<Action>) {
    match event {
        Event::StopRequested { signal, origin } => stop_requested(policy, state, now, signal, origin, actions),
        Event::TimeUp(Timer::Deadline) => stop(policy, state, now, Cause::Deadline, actions),
        Event::CallerGone | Event::PeerGone => stop(policy, state, now, Cause::ParentGone, actions),
        Event::OutputClosed => stop(policy, state, now, Cause::OutputClosed, actions),
        Event::SelfDeadlock(_) => stop(policy, state, now, Cause::SelfDeadlock, actions),
        Event::LeaseLost { kill_at } => lease_lost(policy, state, now, kill_at, actions),
        Event::ExecFailed { status } => {
            state.started = false;
            actions.push(Action::Tell(Message::NeverStarted { status }));
            state.set_cause(Cause::GuardError(status), actions);
        }
        Event::HarnessEnded(how) => harness_ended(policy, state, how, actions),
        Event::TreeEmpty => tree_empty(policy, state, actions),
        Event::WorkerEnded(end) => worker_ended(state, end, actions),
        Event::WorkerStopped => actions.push(Action::ContinueWorker),
        Event::Forward(signal) if state.harness.is_none() => actions.push(Action::SignalHarness(signal)),
        Event::Suspend => {
            // Once a stop has begun there is no standing still; the monitor may stop all the same.
            if state.phase == Phase::Running {
                actions.push(Action::StopHarness);
            }
            actions.push(Action::Tell(Message::Suspended));
        }
        Event::Resume if state.harness.is_none() => actions.push(Action::ContinueHarness),
        Event::TimeUp(timer) => time_up(policy, state, timer, actions),
        Event::Forward(_) | Event::Resume | Event::PeerStopped | Event::Told(_) => {}
    }
}

fn stop_requested(
    policy: &Policy,
    state: &mut State,
    now: Duration,
    signal: i32,
    origin: Origin,
    actions: &mut Vec<Action>,
) {
    match state.phase {
        Phase::Running => {
            let known = origin == Origin::Terminal && policy.session == Session::Keep;
            begin_stop(policy, state, now, Cause::Signal(signal), (!known).then_some(signal), actions);
        }
        Phase::Stopping if state.stop_began.is_some_and(|began| now.saturating_sub(began) > ONE_REQUEST) => {
            kill(state, actions)
        }
        Phase::Surviving if state.stop_began.is_some_and(|began| now.saturating_sub(began) > ONE_REQUEST) => {
            actions.push(Action::Disarm(Timer::Survivors));
            sweep(state, Phase::Sweeping, actions);
        }
        Phase::TearingDown => actions.push(Action::AnnounceTeardownGoesOn),
        _ => {}
    }
}

fn stop(policy: &Policy, state: &mut State, now: Duration, cause: Cause, actions: &mut Vec<Action>) {
    if state.phase == Phase::Running {
        begin_stop(policy, state, now, cause, Some(SIGTERM), actions);
    }
}

/// The app may be another's before long: all that is ours must be dead by then, whatever the grace, and nothing is torn
/// down. In the middle of a teardown the worker finds out by itself, before its next step.
fn lease_lost(policy: &Policy, state: &mut State, now: Duration, kill_at: Duration, actions: &mut Vec<Action>) {
    if state.kill_at.is_some() {
        return;
    }
    state.kill_at = Some(kill_at);
    actions.push(Action::Arm(Timer::LeaseOver, kill_at.saturating_sub(now)));
    stop(policy, state, now, Cause::LeaseLost, actions);
}

/// `signal`: what the harness gets, unless another was asked for; `None` where it has it already.
fn begin_stop(
    policy: &Policy,
    state: &mut State,
    now: Duration,
    cause: Cause,
    signal: Option<i32>,
    actions: &mut Vec<Action>,
) {
    state.set_cause(cause, actions);
    state.phase = Phase::Stopping;
    state.stop_began = Some(now);
    if let Some(signal) = signal {
        let signal = policy.stop_signal.unwrap_or(signal);
        let grace = state.kill_at.map_or(policy.grace, |kill_at| policy.grace.min(kill_at.saturating_sub(now)));
        // First the deed: the line's way to stderr is longer than the signal's to the harness.
        actions.extend([Action::SignalHarness(signal), Action::AnnounceStop { signal, grace }]);
    }
    actions.extend([
        Action::ContinueTree,
        Action::Disarm(Timer::Deadline),
        Action::Disarm(Timer::Warning),
        Action::Arm(Timer::Grace, policy.grace),
    ]);
}

fn kill(state: &mut State, actions: &mut Vec<Action>) {
    state.phase = Phase::Killing;
    actions.extend([
        Action::Disarm(Timer::Grace),
        Action::Disarm(Timer::Repeat),
        Action::KillHarness,
        Action::Arm(Timer::Kill, UNKILLABLE_AFTER),
    ]);
}

fn own_end(how: Ended) -> Cause {
    match how {
        Ended::Code(_) => Cause::HarnessExit,
        Ended::Signal(_) => Cause::HarnessSignal,
    }
}

fn harness_ended(policy: &Policy, state: &mut State, how: Ended, actions: &mut Vec<Action>) {
    if state.harness.is_some() {
        return;
    }
    state.harness = Some(how);
    state.cause = state.cause.or(Some(own_end(how)));
    // Said before it is acted on, and before the harness is reaped.
    actions.push(Action::Tell(Message::HarnessEnded { how, cause: state.cause }));
    if matches!(state.phase, Phase::Running | Phase::Stopping | Phase::Killing) {
        for timer in [Timer::Deadline, Timer::Warning, Timer::Grace, Timer::Repeat, Timer::Kill] {
            actions.push(Action::Disarm(timer));
        }
        survive(policy, state, actions);
    }
}

/// The harness is gone; now its descendants.
fn survive(policy: &Policy, state: &mut State, actions: &mut Vec<Action>) {
    if !state.started {
        // It had not begun: what there is, is a child that found its gate closed.
        sweep(state, Phase::SweepingWorker, actions);
    } else if policy.survivors == Survivors::Leave {
        after_harness(policy, state, actions);
    } else {
        state.phase = Phase::Surviving;
        actions.extend([Action::Arm(Timer::Survivors, SURVIVORS_GRACE), Action::TerminateSurvivors]);
    }
}

fn sweep(state: &mut State, phase: Phase, actions: &mut Vec<Action>) {
    state.phase = phase;
    actions.extend([Action::Arm(Timer::Sweep, UNKILLABLE_AFTER), Action::Sweep]);
}

fn tree_empty(policy: &Policy, state: &mut State, actions: &mut Vec<Action>) {
    match state.phase {
        Phase::Surviving | Phase::Sweeping => {
            actions.extend([Action::Disarm(Timer::Survivors), Action::Disarm(Timer::Sweep)]);
            after_harness(policy, state, actions);
        }
        Phase::SweepingWorker => {
            actions.push(Action::Disarm(Timer::Sweep));
            after_worker(policy, state, actions);
        }
        _ => {}
    }
}

fn after_harness(policy: &Policy, state: &mut State, actions: &mut Vec<Action>) {
    if state.teardown_is_due(policy) {
        start_worker(state, actions);
    } else {
        finish(state, actions);
    }
}

fn start_worker(state: &mut State, actions: &mut Vec<Action>) {
    state.phase = Phase::TearingDown;
    state.worker_runs = true;
    state.workers += 1;
    actions.push(Action::StartWorker);
}

fn worker_ended(state: &mut State, end: WorkerEnd, actions: &mut Vec<Action>) {
    if !state.worker_runs {
        return;
    }
    note_worker_end(state, end);
    actions.push(Action::Tell(Message::WorkerEnded(state.teardown.clone())));
    sweep(state, Phase::SweepingWorker, actions);
}

fn note_worker_end(state: &mut State, end: WorkerEnd) {
    state.worker_runs = false;
    match end {
        WorkerEnd::Finished(outcome) => state.teardown = Some(outcome),
        // What it began is ended first; only then is it run once more.
        WorkerEnd::Died if state.workers < WORKER_RUNS => {}
        WorkerEnd::Died => state.teardown = Some(Outcome::failed()),
    }
}

fn after_worker(policy: &Policy, state: &mut State, actions: &mut Vec<Action>) {
    if state.teardown_is_due(policy) {
        start_worker(state, actions);
    } else {
        finish(state, actions);
    }
}

fn finish(state: &mut State, actions: &mut Vec<Action>) {
    state.phase = Phase::Finished;
    actions.push(Action::Finish);
}

fn time_up(policy: &Policy, state: &mut State, timer: Timer, actions: &mut Vec<Action>) {
    match (timer, state.phase) {
        (Timer::Warning, Phase::Running) => actions.push(Action::Warn),
        (Timer::Grace, Phase::Stopping) => kill(state, actions),
        (Timer::Repeat, Phase::Stopping) => {
            actions.extend([Action::SignalHarness(policy.stop_signal.unwrap_or(SIGTERM)), Action::ContinueTree]);
        }
        (Timer::Kill, Phase::Killing) => sweep(state, Phase::Sweeping, actions),
        (Timer::Survivors, Phase::Surviving) => sweep(state, Phase::Sweeping, actions),
        (Timer::LeaseOver, Phase::Stopping | Phase::Killing) if policy.survivors == Survivors::Leave => {
            kill(state, actions);
        }
        (Timer::LeaseOver, Phase::Stopping | Phase::Killing) => {
            kill(state, actions);
            sweep(state, Phase::Sweeping, actions);
        }
        (Timer::LeaseOver, Phase::Surviving) => {
            actions.push(Action::Disarm(Timer::Survivors));
            sweep(state, Phase::Sweeping, actions);
        }
        (Timer::Sweep, Phase::Sweeping) => {
            state.unkillable = true;
            actions.push(Action::GiveUpOnSurvivors);
            after_harness(policy, state, actions);
        }
        (Timer::Sweep, Phase::SweepingWorker) => {
            state.unkillable = true;
            actions.push(Action::GiveUpOnSurvivors);
            after_worker(policy, state, actions);
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "decide_world.rs"]
mod world;

#[cfg(test)]
#[path = "decide_properties.rs"]
mod properties;
