//! Every state times every event, against what must hold in all of them; and the paths by name.

use super::*;
use crate::guard::protocol::Message;
use crate::settings::TeardownOn;
use crate::sys::process::Pid;
use crate::teardown::Verdict;

pub const NOW: Duration = Duration::from_secs(1000);
const KILL: i32 = 9;

fn policy() -> Policy {
    Policy {
        grace: Duration::from_secs(30),
        stop_signal: None,
        survivors: Survivors::Kill,
        teardown: true,
        teardown_on: TeardownOn::Stop,
        session: Session::New,
    }
}

pub fn policies() -> Vec<Policy> {
    let mut all = Vec::new();
    for survivors in [Survivors::Kill, Survivors::Leave] {
        for teardown in [true, false] {
            for teardown_on in [TeardownOn::Stop, TeardownOn::Failure, TeardownOn::Always] {
                for session in [Session::New, Session::Keep] {
                    all.push(Policy { survivors, teardown, teardown_on, session, ..policy() });
                }
            }
        }
    }
    all
}

fn ok() -> Outcome {
    Outcome { result: Verdict::Ok, status: Some(0), ..Outcome::failed() }
}

/// States that a run passes through, each as it is when it has its phase.
fn states() -> Vec<State> {
    let running = State::supervisor();
    let stopping = State {
        phase: Phase::Stopping,
        cause: Some(Cause::Deadline),
        stop_began: Some(NOW - Duration::from_secs(5)),
        ..running.clone()
    };
    let killing = State { phase: Phase::Killing, ..stopping.clone() };
    let surviving = State { phase: Phase::Surviving, harness: Some(Ended::Signal(15)), ..stopping.clone() };
    let sweeping = State { phase: Phase::Sweeping, ..surviving.clone() };
    let tearing = State { phase: Phase::TearingDown, worker_runs: true, workers: 1, ..surviving.clone() };
    let worker_left =
        State { phase: Phase::SweepingWorker, worker_runs: false, teardown: Some(ok()), ..tearing.clone() };
    let worker_killed = State { teardown: None, ..worker_left.clone() };
    let finished = State { phase: Phase::Finished, ..worker_left.clone() };
    let watching = State::monitor();
    let told = |state: &State| State { phase: Phase::Watching, ..state.clone() };
    let mut all = vec![
        running.clone(),
        State { started: false, ..running.clone() },
        stopping.clone(),
        killing,
        surviving.clone(),
        sweeping,
        tearing.clone(),
        worker_left.clone(),
        worker_killed,
        finished,
        watching.clone(),
        State { cause: Some(Cause::Signal(15)), unanswered: 1, ..watching },
    ];
    all.extend([running, stopping, surviving, tearing, worker_left].iter().map(told));
    all.push(State { phase: Phase::Watching, finished: Some(142), ..State::monitor() });
    let lost = |state: &State| State { kill_at: Some(NOW + Duration::from_secs(1)), ..state.clone() };
    all.extend(all.iter().map(lost).collect::<Vec<_>>());
    all
}

pub fn events() -> Vec<Event> {
    let mut all = vec![
        Event::StopRequested { signal: 15, origin: Origin::Process },
        Event::StopRequested { signal: 2, origin: Origin::Terminal },
        Event::CallerGone,
        Event::PeerGone,
        Event::PeerStopped,
        Event::OutputClosed,
        Event::SelfDeadlock(Pid::from_raw(5)),
        Event::LeaseLost { kill_at: NOW + Duration::from_secs(1) },
        Event::ExecFailed { status: 127 },
        Event::HarnessEnded(Ended::Code(0)),
        Event::HarnessEnded(Ended::Code(7)),
        Event::HarnessEnded(Ended::Signal(11)),
        Event::WorkerEnded(WorkerEnd::Finished(ok())),
        Event::WorkerEnded(WorkerEnd::Died),
        Event::WorkerStopped,
        Event::TreeEmpty,
        Event::Forward(10),
        Event::Suspend,
        Event::Resume,
    ];
    for timer in [
        Timer::Deadline,
        Timer::Warning,
        Timer::Grace,
        Timer::Repeat,
        Timer::Kill,
        Timer::Survivors,
        Timer::Sweep,
        Timer::Answer,
        Timer::Silence,
        Timer::SelfDeadlock,
        Timer::Requests,
        Timer::Lease,
        Timer::LeaseOver,
        Timer::Keeper,
    ] {
        all.push(Event::TimeUp(timer));
    }
    for message in [
        Message::HarnessIs { pid: 7 },
        Message::GateOpened,
        Message::NeverStarted { status: 126 },
        Message::CauseIs(Cause::Deadline),
        Message::HarnessEnded { how: Ended::Code(0), cause: Some(Cause::HarnessExit) },
        Message::Swept { killed: 1, unkillable: vec!["5 (x)".to_owned()] },
        Message::WorkerIs { pid: 8 },
        Message::WorkerEnded(Some(ok())),
        Message::WorkerEnded(None),
        Message::Acknowledged,
        Message::Suspended,
        Message::Finished { status: 142 },
    ] {
        all.push(Event::Told(message));
    }
    all
}

/// The whole table: what must hold whatever happens wherever a run is.
///
/// Seen failing with the check of `cause.is_none()` taken out of `set_cause`, and with a worker started in
/// `after_worker` without a look at `teardown`.
#[test]
fn in_every_state_every_event_keeps_the_promises() {
    for policy in policies() {
        for state in states() {
            for event in events() {
                let (after, actions) = decide(&policy, state.clone(), NOW, event.clone());
                let context = || format!("{policy:?}\n{state:?}\n{event:?}\n→ {after:?}\n{actions:?}");
                if state.phase != Phase::Watching {
                    assert!(state.cause.is_none() || after.cause == state.cause, "the first cause wins: {}", context());
                }
                if state.phase == Phase::Finished {
                    assert!(actions.is_empty() && after == state, "after the end nothing happens: {}", context());
                }
                let starts = actions.iter().filter(|action| **action == Action::StartWorker).count();
                assert!(starts <= 1, "{}", context());
                if starts == 1 {
                    assert!(policy.teardown && after.started, "only after a start: {}", context());
                    assert!(state.teardown.is_none(), "one that ran to its end is not repeated: {}", context());
                    assert!(!state.worker_runs, "never two at a time: {}", context());
                    assert!(after.workers <= 2, "once more, not for ever: {}", context());
                    assert!(after.harness.is_some() || after.unkillable, "after the harness: {}", context());
                    assert!(after.kill_at.is_none(), "not once the app may be another's: {}", context());
                }
                let ends = |action: &Action| matches!(action, Action::Finish | Action::Exit(_));
                let end = actions.iter().position(ends);
                assert_eq!(
                    end.is_some(),
                    after.phase == Phase::Finished && state.phase != Phase::Finished,
                    "{}",
                    context()
                );
                assert!(end.is_none_or(|at| at == actions.len() - 1), "the end is the last action: {}", context());
                assert!(end.is_none() || !after.worker_runs, "not while a worker runs: {}", context());
                let is_dead = state.harness.is_some();
                assert!(
                    !is_dead || !actions.contains(&Action::KillHarness),
                    "a dead harness's number may be another's: {}",
                    context()
                );
            }
        }
    }
}

/// A cause that is about to be acted on was told before.
#[test]
fn what_is_done_was_said_before() {
    for policy in policies() {
        for event in events() {
            let (after, actions) = decide(&policy, State::supervisor(), NOW, event.clone());
            let told = actions
                .iter()
                .position(|action| matches!(action, Action::Tell(Message::CauseIs(_) | Message::HarnessEnded { .. })));
            let done = actions.iter().position(|action| {
                matches!(
                    action,
                    Action::SignalHarness(15 | 2) | Action::TerminateSurvivors | Action::StartWorker | Action::Finish
                )
            });
            if let (Some(_), Some(done)) = (after.cause, done) {
                assert!(told.is_some_and(|told| told < done), "{event:?}: {actions:?}");
            }
        }
    }
}

/// Feeds events one after the other; returns the state and all actions.
fn feed(policy: &Policy, mut state: State, events: &[(u64, Event)]) -> (State, Vec<Action>) {
    let mut all = Vec::new();
    for (at_ms, event) in events {
        let (after, actions) = decide(policy, state, NOW + Duration::from_millis(*at_ms), event.clone());
        state = after;
        all.extend(actions);
    }
    (state, all)
}

const TERM_REQUEST: Event = Event::StopRequested { signal: 15, origin: Origin::Process };

#[test]
fn a_deadline_stops_tears_down_and_gives_142() {
    let (state, actions) = feed(
        &policy(),
        State::supervisor(),
        &[
            (0, Event::TimeUp(Timer::Deadline)),
            (10, Event::HarnessEnded(Ended::Code(0))),
            (20, Event::TreeEmpty),
            (30, Event::WorkerEnded(WorkerEnd::Finished(ok()))),
            (40, Event::TreeEmpty),
        ],
    );
    assert_eq!((state.phase, state.exit_status()), (Phase::Finished, 142));
    assert!(actions.contains(&Action::SignalHarness(15)) && actions.contains(&Action::StartWorker));
}

#[test]
fn one_request_that_came_twice_within_a_second_keeps_the_grace() {
    let (state, actions) = feed(&policy(), State::supervisor(), &[(0, TERM_REQUEST), (900, TERM_REQUEST)]);
    assert_eq!(state.phase, Phase::Stopping);
    assert!(!actions.contains(&Action::KillHarness));
    let (state, actions) = feed(&policy(), state, &[(1100, TERM_REQUEST)]);
    assert_eq!(state.phase, Phase::Killing);
    assert!(actions.contains(&Action::KillHarness));
}

#[test]
fn a_death_signal_during_the_stop_is_no_second_request() {
    let events = [(0, TERM_REQUEST), (5000, Event::CallerGone), (6000, Event::PeerGone)];
    let (state, _) = feed(&policy(), State::supervisor(), &events);
    assert_eq!((state.phase, state.cause), (Phase::Stopping, Some(Cause::Signal(15))));
}

#[test]
fn an_own_exit_tears_nothing_down_and_a_foreign_signal_does() {
    let exit = [(0, Event::HarnessEnded(Ended::Code(7))), (1, Event::TreeEmpty)];
    let (state, actions) = feed(&policy(), State::supervisor(), &exit);
    assert_eq!((state.phase, state.exit_status()), (Phase::Finished, 7));
    assert!(!actions.contains(&Action::StartWorker));
    let death = [(0, Event::HarnessEnded(Ended::Signal(KILL))), (1, Event::TreeEmpty)];
    let (state, _) = feed(&policy(), State::supervisor(), &death);
    assert_eq!((state.phase, state.exit_status()), (Phase::TearingDown, 137));
}

#[test]
fn a_killed_teardown_runs_once_more_and_then_has_failed() {
    let tearing = State { phase: Phase::TearingDown, worker_runs: true, workers: 1, ..states()[4].clone() };
    let (state, actions) = feed(&policy(), tearing, &[(0, Event::WorkerEnded(WorkerEnd::Died))]);
    assert_eq!(state.phase, Phase::SweepingWorker, "what it left ends first");
    assert!(!actions.contains(&Action::StartWorker));
    let (state, actions) = feed(&policy(), state, &[(1, Event::TreeEmpty)]);
    assert_eq!((state.phase, state.workers), (Phase::TearingDown, 2));
    assert!(actions.contains(&Action::StartWorker));
    let (state, _) = feed(&policy(), state, &[(2, Event::WorkerEnded(WorkerEnd::Died)), (3, Event::TreeEmpty)]);
    assert_eq!(state.phase, Phase::Finished);
    assert_eq!(state.teardown.map(|outcome| outcome.result), Some(Verdict::Failed));
}

#[test]
fn a_failed_teardown_spoils_a_zero_and_nothing_else() {
    let failed = State { teardown: Some(Outcome::failed()), cause: Some(Cause::HarnessExit), ..State::supervisor() };
    assert_eq!(State { harness: Some(Ended::Code(0)), ..failed.clone() }.exit_status(), 70);
    assert_eq!(State { harness: Some(Ended::Code(3)), ..failed.clone() }.exit_status(), 3);
    assert_eq!(State { cause: Some(Cause::Deadline), ..failed }.exit_status(), 142);
}

/// Takeovers go on where the supervisor's words left off.
#[test]
fn a_takeover_goes_on_where_the_supervisor_was() {
    let gone = |state: State| decide(&policy(), State { phase: Phase::Watching, ..state }, NOW, Event::PeerGone);
    let (state, _) = gone(State::monitor());
    assert_eq!((state.phase, state.exit_status()), (Phase::SweepingWorker, 137), "never started");
    let (state, actions) = gone(State::supervisor());
    assert_eq!((state.phase, state.cause), (Phase::Stopping, Some(Cause::SupervisorGone)));
    assert!(!actions.iter().any(|action| matches!(action, Action::SignalHarness(_))), "the kernel has sent it");
    let (state, _) = gone(State { cause: Some(Cause::Signal(15)), ..State::supervisor() });
    assert_eq!(state.exit_status(), 143, "asked before the supervisor died");
    let (state, _) = gone(states()[4].clone());
    assert_eq!((state.phase, state.exit_status()), (Phase::Surviving, 142));
    let (state, actions) = gone(states()[6].clone());
    assert_eq!(state.phase, Phase::TearingDown, "an announced worker is waited for");
    assert!(!actions.contains(&Action::StartWorker) && !actions.contains(&Action::Sweep));
    let (state, actions) = gone(State { finished: Some(142), ..states()[7].clone() });
    assert_eq!(state.phase, Phase::Finished);
    assert_eq!(actions, [Action::Exit(142)]);
}

/// A traced supervisor is seen to be dead after its children are (ptrace(2)).
/// Seen failing with the death of the second worker forgotten there: a third one was started.
#[test]
fn a_second_death_that_a_watching_monitor_sees_is_the_last() {
    let told = State { phase: Phase::Watching, worker_runs: true, workers: 2, ..states()[4].clone() };
    let events = [(0, Event::WorkerEnded(WorkerEnd::Died)), (1, Event::PeerGone), (2, Event::TreeEmpty)];
    let (state, actions) = feed(&policy(), told, &events);
    assert_eq!(state.phase, Phase::Finished);
    assert!(!actions.contains(&Action::StartWorker), "{actions:?}");
}

#[test]
fn a_silent_supervisor_is_replaced() {
    let (state, actions) =
        feed(&policy(), State::monitor(), &[(0, Event::Told(Message::GateOpened)), (10, TERM_REQUEST)]);
    assert!(actions.contains(&Action::Arm(Timer::Answer, ANSWER_WITHIN)));
    let (state, actions) = feed(&policy(), state, &[(5010, Event::TimeUp(Timer::Answer))]);
    assert_eq!(actions, [Action::KillPeer]);
    assert_eq!(state.cause, Some(Cause::Signal(15)));
    let (_, actions) = feed(&policy(), State::monitor(), &[(0, TERM_REQUEST), (1, Event::Told(Message::Acknowledged))]);
    assert!(actions.contains(&Action::Disarm(Timer::Answer)));
    let (state, actions) = feed(&policy(), State::monitor(), &[(0, Event::TimeUp(Timer::Silence))]);
    assert_eq!((actions, state.cause), (vec![Action::KillPeer], Some(Cause::Deadline)));
    let told = Event::Told(Message::CauseIs(Cause::Deadline));
    let (_, actions) = feed(&policy(), State::monitor(), &[(0, told), (0, Event::TimeUp(Timer::Silence))]);
    assert_eq!(actions, []);
}

#[test]
fn a_terminal_signal_is_not_sent_twice_to_a_harness_in_the_terminals_group() {
    let keep = Policy { session: Session::Keep, ..policy() };
    let interrupt = Event::StopRequested { signal: 2, origin: Origin::Terminal };
    let (state, actions) = decide(&keep, State::supervisor(), NOW, interrupt.clone());
    assert_eq!(state.phase, Phase::Stopping);
    assert!(!actions.contains(&Action::SignalHarness(2)));
    let (_, actions) = decide(&policy(), State::supervisor(), NOW, interrupt);
    assert!(actions.contains(&Action::SignalHarness(2)));
}

const LOST: Event = Event::LeaseLost { kill_at: Duration::from_secs(1003) };

/// Seen failing with the grace armed alone, and without the look at `kill_at` in `teardown_is_due`.
#[test]
fn a_lost_lease_cuts_the_grace_short_and_tears_nothing_down() {
    let (state, actions) = feed(&policy(), State::supervisor(), &[(0, LOST)]);
    assert_eq!((state.phase, state.exit_status()), (Phase::Stopping, 76));
    let grace = Duration::from_secs(3);
    assert!(actions.contains(&Action::AnnounceStop { signal: 15, grace }), "{actions:?}");
    assert!(actions.contains(&Action::SignalHarness(15)) && actions.contains(&Action::Arm(Timer::LeaseOver, grace)));
    let (state, actions) = feed(&policy(), state, &[(3000, Event::TimeUp(Timer::LeaseOver))]);
    assert_eq!(state.phase, Phase::Sweeping);
    assert!(actions.contains(&Action::KillHarness) && actions.contains(&Action::Sweep), "all at once: {actions:?}");
    let ends = [(3001, Event::HarnessEnded(Ended::Signal(KILL))), (3002, Event::TreeEmpty)];
    let (state, actions) = feed(&policy(), state, &ends);
    assert_eq!((state.phase, state.exit_status(), state.teardown), (Phase::Finished, 76, None));
    assert!(!actions.contains(&Action::StartWorker));
    // One that ended in time leaves survivors, whose two seconds end with the lease too.
    let ended = [(0, LOST), (2500, Event::HarnessEnded(Ended::Code(0))), (3000, Event::TimeUp(Timer::LeaseOver))];
    assert_eq!(feed(&policy(), State::supervisor(), &ended).0.phase, Phase::Sweeping);
}

#[test]
fn a_lease_that_is_lost_later_does_not_change_the_cause() {
    let (state, actions) = feed(&policy(), State::supervisor(), &[(0, Event::TimeUp(Timer::Deadline)), (100, LOST)]);
    assert!(actions.contains(&Action::Arm(Timer::LeaseOver, Duration::from_millis(2900))), "{actions:?}");
    let ends = [(200, Event::HarnessEnded(Ended::Code(0))), (300, Event::TreeEmpty)];
    let (state, _) = feed(&policy(), state, &ends);
    assert_eq!((state.phase, state.exit_status(), state.workers), (Phase::Finished, 142, 0));
    // In the middle of a teardown: the worker finds out by itself.
    let tearing = State { cause: Some(Cause::Deadline), ..states()[6].clone() };
    let (state, actions) = feed(&policy(), tearing, &[(0, LOST)]);
    assert_eq!((state.phase, state.exit_status()), (Phase::TearingDown, 142));
    assert!(!actions.contains(&Action::Sweep) && !actions.contains(&Action::KillHarness));
    // One that is killed then is not run once more.
    let killed = [(1, Event::WorkerEnded(WorkerEnd::Died)), (2, Event::TreeEmpty)];
    assert_eq!(feed(&policy(), state, &killed).0.phase, Phase::Finished);
}

/// Seen failing with the usual 5 s for an answer, and without `LeaseOver` armed at the takeover.
#[test]
fn a_monitor_does_not_wait_long_for_a_silent_supervisor_then() {
    let (state, actions) = feed(&policy(), State::monitor(), &[(0, Event::Told(Message::GateOpened)), (0, LOST)]);
    assert!(actions.contains(&Action::Tell(Message::LeaseLost)));
    assert!(actions.contains(&Action::Arm(Timer::Answer, Duration::from_millis(1500))), "{actions:?}");
    let (state, actions) = feed(&policy(), state, &[(1500, Event::TimeUp(Timer::Answer)), (1501, Event::PeerGone)]);
    assert_eq!((state.phase, state.exit_status()), (Phase::Stopping, 76));
    assert_eq!(actions[0], Action::KillPeer);
    assert!(actions.contains(&Action::Arm(Timer::LeaseOver, Duration::from_millis(1499))), "{actions:?}");
}
