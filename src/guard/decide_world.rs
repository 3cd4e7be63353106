//! A small world for the properties of `decide`: monitor, supervisor, harness, workers and a lock, with nothing real.
//!
//! It carries actions out as `engine` does, in deeds: the supervisor can be killed between any two of them. What may
//! never be is asserted here, at the moment when it would be done.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::sys::process::Pid;
use crate::teardown::Verdict;

/// Something that comes from outside; where it can't be just now, nothing happens.
#[derive(Clone, Debug)]
pub enum Happening {
    Asked {
        signal: i32,
        origin: Origin,
        monitor: bool,
        supervisor: bool,
    },
    CallerDies {
        monitor: bool,
        supervisor: bool,
    },
    OutputClosed,
    SelfDeadlock,
    /// All must be dead so many milliseconds later.
    LeaseLost {
        after: u64,
        monitor: bool,
        supervisor: bool,
    },
    JobControl(Event),
    HarnessEnds(Ended),
    WorkerConcludes(Verdict),
    WorkerKilled,
    TreeEmpties,
    /// Time goes on to the next alarm of the monitor, or of the supervisor.
    Alarm {
        monitor: bool,
    },
    TimePasses(u64),
    /// After so many more deeds, or now, and then perhaps its worker too; the ends of its children may be seen before
    /// its own.
    SupervisorKilled {
        after: u8,
        seen_first: bool,
        with_worker: bool,
    },
    SupervisorHangs,
    MonitorKilled,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Monitor,
    Supervisor,
}

#[derive(Debug)]
struct Guard {
    state: State,
    timers: BTreeMap<Timer, Duration>,
}

impl Guard {
    fn new(state: State, timer: Timer) -> Self {
        Guard { state, timers: BTreeMap::from([(timer, Duration::from_secs(3600))]) }
    }
}

/// A process that waits at a gate, then lives, then has an end that is seen by whoever is in charge.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    None,
    AtGate,
    Alive,
    Ended(Ended),
    Seen,
}

#[derive(Debug)]
pub struct World {
    policy: Policy,
    exec_works: bool,
    now: Duration,
    monitor: Option<Guard>,
    supervisor: Option<Guard>,
    hangs: bool,
    dies_after: Option<(u8, bool)>,
    harness: Life,
    worker: Life,
    /// What the worker wrote down: all guard processes share it.
    diary: Option<Outcome>,
    words: VecDeque<Message>,
    given_up: bool,
    /// Of a lease that was lost.
    kill_at: Option<Duration>,
    /// The first cause that the supervisor told, and the first one that the monitor had of its own.
    told: Option<Cause>,
    monitors_own: Option<Cause>,
    concluded: u32,
    begun: u32,
    ended_with: Option<u8>,
}

impl World {
    /// A supervisor that is about to open the harness's gate; it may be killed at that already.
    pub fn new(policy: Policy, exec_works: bool, dies_after: Option<(u8, bool)>) -> Self {
        let mut world = World {
            policy,
            exec_works,
            now: Duration::from_secs(1000),
            monitor: Some(Guard::new(State::monitor(), Timer::Silence)),
            supervisor: Some(Guard::new(State::supervisor(), Timer::Deadline)),
            hangs: false,
            dies_after,
            harness: Life::AtGate,
            worker: Life::None,
            diary: None,
            words: VecDeque::new(),
            given_up: false,
            kill_at: None,
            told: None,
            monitors_own: None,
            concluded: 0,
            begun: 0,
            ended_with: None,
        };
        world.tell(Who::Supervisor, Message::HarnessIs { pid: 7 });
        world.tell(Who::Supervisor, Message::GateOpened);
        if world.supervisor.is_some() {
            world.harness = Life::Alive;
        }
        world
    }

    pub fn is_over(&self) -> bool {
        self.monitor.is_none() && self.supervisor.is_none()
    }

    pub fn has_cause(&self) -> bool {
        [&self.supervisor, &self.monitor].into_iter().flatten().any(|guard| guard.state.cause.is_some())
    }

    pub fn hangs(&self) -> bool {
        self.hangs
    }

    /// What the last one ended with.
    pub fn status(&self) -> Option<u8> {
        self.ended_with
    }

    pub fn concluded(&self) -> u32 {
        self.concluded
    }

    fn guard(&mut self, who: Who) -> Option<&mut Guard> {
        match who {
            Who::Monitor => self.monitor.as_mut(),
            Who::Supervisor => self.supervisor.as_mut(),
        }
    }

    fn in_charge(&self) -> Option<Who> {
        match (&self.supervisor, &self.monitor) {
            (Some(_), _) => (!self.hangs).then_some(Who::Supervisor),
            (None, Some(_)) => Some(Who::Monitor),
            (None, None) => None,
        }
    }

    pub fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Asked { signal, origin, monitor, supervisor } => {
                let event = Event::StopRequested { signal, origin };
                self.deliver_to(event, Cause::Signal(signal), monitor, supervisor);
            }
            Happening::CallerDies { monitor, supervisor } => {
                self.deliver_to(Event::CallerGone, Cause::ParentGone, monitor, supervisor)
            }
            Happening::OutputClosed => self.deliver(Who::Supervisor, Event::OutputClosed),
            Happening::SelfDeadlock => self.deliver(Who::Supervisor, Event::SelfDeadlock(Pid::from_raw(5))),
            Happening::LeaseLost { after, monitor, supervisor } => {
                // Both judge by the same words of memory.
                let kill_at = *self.kill_at.get_or_insert(self.now + Duration::from_millis(after));
                self.deliver_to(Event::LeaseLost { kill_at }, Cause::LeaseLost, monitor, supervisor);
            }
            Happening::JobControl(event) => self.deliver(Who::Monitor, event),
            Happening::HarnessEnds(how) if self.harness == Life::Alive => {
                self.harness = Life::Ended(if self.exec_works { how } else { Ended::Code(127) });
            }
            Happening::WorkerConcludes(result) if self.worker == Life::Alive => {
                self.concluded += 1;
                assert_eq!(self.concluded, 1, "a teardown that ran to its end was repeated: {self:#?}");
                self.diary = Some(Outcome { result, ..Outcome::failed() });
                self.worker = Life::Ended(Ended::Code(0));
            }
            Happening::WorkerKilled if self.worker == Life::Alive => self.worker = Life::Ended(Ended::Signal(9)),
            Happening::TreeEmpties => self.tree_empties(),
            Happening::Alarm { monitor } => self.alarm(if monitor { Who::Monitor } else { Who::Supervisor }),
            Happening::TimePasses(ms) => self.now += Duration::from_millis(ms),
            Happening::SupervisorKilled { after: 0, seen_first, with_worker } => {
                if with_worker && self.worker == Life::Alive && self.monitor.is_some() && self.supervisor.is_some() {
                    self.worker = Life::Ended(Ended::Signal(9));
                }
                self.supervisor_dies(seen_first);
            }
            Happening::SupervisorKilled { after, seen_first, .. } => self.dies_after = Some((after, seen_first)),
            // Two that are gone at once are the janitor's business, and a killed one is seen to be.
            Happening::SupervisorHangs if self.supervisor.is_some() && self.monitor.is_some() => self.hangs = true,
            Happening::MonitorKilled if self.supervisor.is_some() && !self.hangs && self.dies_after.is_none() => {
                self.monitor = None;
                self.deliver(Who::Supervisor, Event::PeerGone);
            }
            _ => {}
        }
        self.see_ends();
    }

    /// What no harness and no worker can put off: the next alarm of whoever is in charge, or of the monitor that waits
    /// for a supervisor which hangs; and the end of a worker, which has a limit of its own.
    pub fn goes_on(&mut self, obliging: bool) {
        if self.worker == Life::Alive {
            self.happen(Happening::WorkerConcludes(Verdict::Ok));
        } else if obliging && self.harness == Life::Alive {
            self.happen(Happening::HarnessEnds(Ended::Signal(9)));
        } else if obliging && self.in_charge().is_some() && self.harness == Life::Seen {
            self.happen(Happening::TreeEmpties);
        } else {
            self.happen(Happening::Alarm { monitor: self.in_charge() != Some(Who::Supervisor) });
        }
    }

    fn deliver_to(&mut self, event: Event, cause: Cause, monitor: bool, supervisor: bool) {
        if supervisor {
            self.deliver(Who::Supervisor, event.clone());
        }
        if monitor {
            if self.monitor.as_ref().is_some_and(|guard| guard.state.cause.is_none()) {
                self.monitors_own = self.monitors_own.or(Some(cause));
            }
            self.deliver(Who::Monitor, event);
        }
    }

    fn alarm(&mut self, who: Who) {
        if who == Who::Supervisor && self.hangs {
            return;
        }
        let Some(guard) = self.guard(who) else { return };
        let Some((timer, at)) = guard.timers.iter().map(|(timer, at)| (*timer, *at)).min_by_key(|(_, at)| *at) else {
            return;
        };
        guard.timers.remove(&timer);
        self.now = self.now.max(at);
        if matches!(timer, Timer::Silence | Timer::Answer | Timer::LeaseOver) {
            self.monitor_hears();
            if timer == Timer::Silence && self.monitor.as_ref().is_some_and(|guard| guard.state.cause.is_none()) {
                self.monitors_own = self.monitors_own.or(Some(Cause::Deadline));
            }
        }
        self.deliver(who, Event::TimeUp(timer));
    }

    fn tree_empties(&mut self) {
        let Some(who) = self.in_charge() else { return };
        let is_empty = !matches!(self.harness, Life::Alive | Life::Ended(_)) && self.worker != Life::Alive;
        let phase = self.guard(who).map(|guard| guard.state.phase);
        if is_empty && matches!(phase, Some(Phase::Surviving | Phase::Sweeping | Phase::SweepingWorker)) {
            self.deliver(who, Event::TreeEmpty);
        }
    }

    /// Ends that somebody can see by now.
    fn see_ends(&mut self) {
        let Some(who) = self.in_charge() else { return };
        if let Life::Ended(how) = self.harness {
            self.harness = Life::Seen;
            if !self.exec_works && who == Who::Supervisor {
                self.deliver(who, Event::ExecFailed { status: 127 });
            }
            // Killed between the two: the end is there to be seen by the other one.
            match self.in_charge() == Some(who) {
                true => self.deliver(who, Event::HarnessEnded(how)),
                false => self.deliver(Who::Monitor, Event::HarnessEnded(how)),
            }
        }
        self.see_worker_end();
    }

    fn see_worker_end(&mut self) {
        if let (Some(who), Life::Ended(_)) = (self.in_charge(), self.worker) {
            self.worker = Life::None;
            let end = self.diary.clone().map_or(WorkerEnd::Died, WorkerEnd::Finished);
            self.deliver(who, Event::WorkerEnded(end));
        }
    }

    fn supervisor_dies(&mut self, seen_first: bool) {
        if self.monitor.is_none() || self.supervisor.take().is_none() {
            return;
        }
        (self.hangs, self.dies_after) = (false, None);
        // End of file at the gates: nothing ran.
        for life in [&mut self.harness, &mut self.worker] {
            if *life == Life::AtGate {
                *life = Life::Ended(Ended::Code(crate::gate::CLOSED));
            }
        }
        self.monitor_hears();
        if seen_first {
            self.see_ends();
        }
        if let Some(monitor) = &self.monitor
            && monitor.state.finished.is_none()
            && let (Some(told), cause) = (self.told, monitor.state.cause)
        {
            assert_eq!(cause, Some(told), "the supervisor saw what came first: {self:#?}");
        }
        self.deliver(Who::Monitor, Event::PeerGone);
        let waits = |guard: &Guard| guard.state.worker_runs;
        if self.monitor.as_ref().is_some_and(waits) && matches!(self.worker, Life::None | Life::Seen) {
            let end = self.diary.clone().map_or(WorkerEnd::Died, WorkerEnd::Finished);
            self.deliver(Who::Monitor, Event::WorkerEnded(end));
        }
        self.see_ends();
    }

    fn monitor_hears(&mut self) {
        while let Some(message) = self.words.pop_front() {
            self.deliver(Who::Monitor, Event::Told(message));
        }
    }

    fn deliver(&mut self, who: Who, event: Event) {
        if who == Who::Supervisor && self.hangs {
            return;
        }
        let (policy, now) = (self.policy, self.now);
        let Some(guard) = self.guard(who) else { return };
        let before = guard.state.clone();
        let (state, actions) = decide(&policy, before.clone(), now, event);
        guard.state = state.clone();
        if before.phase != Phase::Watching && before.cause.is_some() {
            assert_eq!(state.cause, before.cause, "the first cause was replaced: {self:#?}");
        }
        for action in actions {
            // Killed in the middle: the rest is not done.
            if self.guard(who).is_none() {
                return;
            }
            self.act(who, action);
        }
    }

    fn act(&mut self, who: Who, action: Action) {
        match action {
            Action::Tell(message) => self.tell(who, message),
            Action::Arm(timer, delay) => {
                let at = self.now + delay;
                self.guard(who).and_then(|guard| guard.timers.insert(timer, at));
            }
            Action::Disarm(timer) => {
                self.guard(who).and_then(|guard| guard.timers.remove(&timer));
            }
            Action::GiveUpOnSurvivors => self.given_up = true,
            Action::StartWorker => self.start_worker(who),
            Action::KillPeer => self.supervisor_dies(false),
            Action::Finish => {
                let state = self.guard(who).map(|guard| guard.state.clone()).unwrap_or_else(State::monitor);
                self.may_release();
                assert_eq!(state.exit_status(), expected_status(&state), "{self:#?}");
                assert!(self.told.is_none() || state.cause == self.told, "what was told first: {self:#?}");
                if let (Who::Monitor, None, Some(own)) = (who, self.told, self.monitors_own) {
                    assert_eq!(state.cause, Some(own), "what the monitor saw first: {self:#?}");
                }
                self.ends(who, state.exit_status());
            }
            Action::Exit(status) => {
                self.may_release();
                self.ends(who, status);
            }
            _ => {}
        }
    }

    fn tell(&mut self, who: Who, message: Message) {
        if who == Who::Monitor {
            let request = match message {
                Message::Stop { signal, origin } => Event::StopRequested { signal, origin },
                Message::CallerGone => Event::CallerGone,
                Message::LeaseLost => Event::LeaseLost { kill_at: self.kill_at.unwrap_or(self.now) },
                Message::Forward { signal } => Event::Forward(signal),
                Message::Suspend => Event::Suspend,
                Message::Resume => Event::Resume,
                _ => return,
            };
            if self.supervisor.is_some() && !self.hangs {
                if request != Event::Suspend {
                    self.tell(Who::Supervisor, Message::Acknowledged);
                }
                self.deliver(Who::Supervisor, request);
                self.monitor_hears();
            }
            return;
        }
        if self.supervisor.is_none() {
            return;
        }
        if self.told.is_none() {
            self.told = match &message {
                Message::CauseIs(cause) => Some(*cause),
                Message::HarnessEnded { cause, .. } => *cause,
                _ => None,
            };
        }
        self.words.push_back(message);
        match self.dies_after.take() {
            Some((1, seen_first)) => self.supervisor_dies(seen_first),
            Some((deeds, seen_first)) => self.dies_after = Some((deeds - 1, seen_first)),
            None => {}
        }
    }

    fn start_worker(&mut self, who: Who) {
        assert!(
            self.harness == Life::Seen || self.given_up,
            "a teardown is about to start while the harness lives: {self:#?}"
        );
        assert!(self.worker != Life::Alive, "a second teardown is about to start: {self:#?}");
        let knows = self.guard(who).is_some_and(|guard| guard.state.kill_at.is_some());
        assert!(!knows, "a teardown is about to start though the app may be another's: {self:#?}");
        self.worker = Life::AtGate;
        self.tell(who, Message::WorkerIs { pid: 8 });
        if self.guard(who).is_some() {
            self.worker = Life::Alive;
            self.begun += 1;
            assert!(self.begun <= u32::from(WORKER_RUNS), "once more, not for ever: {self:#?}");
        }
    }

    /// The guard process ends, and with it its hold on the lock.
    fn may_release(&self) {
        assert!(self.worker != Life::Alive, "the lock is given up under a teardown: {self:#?}");
        let is_gone = matches!(self.harness, Life::Seen | Life::Ended(_) | Life::None);
        assert!(is_gone || self.given_up, "the lock is given up under the harness: {self:#?}");
    }

    fn ends(&mut self, who: Who, status: u8) {
        match who {
            Who::Supervisor => {
                self.words.push_back(Message::Finished { status });
                self.supervisor = None;
                self.monitor_hears();
                self.deliver(Who::Monitor, Event::PeerGone);
            }
            Who::Monitor => self.monitor = None,
        }
        if let Some(already) = self.ended_with.replace(status) {
            assert_eq!(status, already, "two statuses: {self:#?}");
        }
    }
}

/// docs/exit-status.md once more, by other words than `State::exit_status`.
fn expected_status(state: &State) -> u8 {
    let unclean = state.unkillable
        || state.teardown.as_ref().is_some_and(|outcome| !matches!(outcome.result, Verdict::Ok | Verdict::Skipped));
    match (state.cause, state.harness) {
        (Some(Cause::HarnessExit), Some(Ended::Code(0))) if unclean => 70,
        (Some(Cause::HarnessExit), Some(Ended::Code(code))) => code as u8,
        (Some(Cause::HarnessSignal), Some(Ended::Signal(number))) => 128 + number as u8,
        (Some(Cause::Deadline), _) => 142,
        (Some(Cause::Signal(number)), _) => 128 + number as u8,
        (Some(Cause::ParentGone), _) => 143,
        (Some(Cause::SupervisorGone), _) => 137,
        (Some(Cause::OutputClosed), _) => 141,
        (Some(Cause::SelfDeadlock), _) => 70,
        (Some(Cause::LeaseLost), _) => 76,
        (Some(Cause::GuardError(status)), _) => status,
        other => panic!("an end without a cause: {other:?}"),
    }
}
