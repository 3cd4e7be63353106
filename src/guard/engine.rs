//! The loop of a guard process: sleep, turn what happened into events, carry out what `decide` says.
//!
//! It runs in the supervisor, and in the monitor, which mostly watches and goes on from here when the
//! supervisor dies. It sleeps in one `ppoll(2)` and wakes for events only.

#![forbid(unsafe_code)]

mod act;
mod children;
mod lease;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::getppid;
use signal_hook::consts::SIGCHLD;

use crate::gate::Gate;
use crate::guard::acquire::Request;
use crate::guard::decide::{self, decide};
use crate::guard::event::{Event, Origin, Timer};
use crate::guard::finish::Facts;
use crate::guard::protocol::{Channel, Message};
use crate::guard::run::Run;
use crate::guard::self_deadlock::SelfDeadlock;
use crate::guard::state::{Phase, Policy, State};
use crate::settings::{Session, Teardown};
use crate::sys::process::{self, Pid};
use crate::sys::signal::Received;
use crate::sys::time::{self, Alarm};
use crate::sys::{fd, signal};
use crate::tree::Tree;

/// The other guard process.
pub enum Peer {
    /// For the supervisor: the monitor, its parent.
    Monitor {
        /// Readable when it has ended.
        pidfd: Option<OwnedFd>,
    },
    /// For the monitor: the supervisor, its child.
    Supervisor(Pid),
    /// It is gone.
    Gone,
}

/// The loop and what it looks after.
pub struct Engine {
    run: Run,
    policy: Policy,
    state: State,
    peer: Peer,
    channel: Channel,
    tree: Tree,
    alarm: Alarm,
    timers: BTreeMap<Timer, Duration>,
    queue: VecDeque<Event>,
    /// What happened to the run that no decision depends on.
    facts: Facts,
    worker: Option<Pid>,
    /// The step that a dead worker left, its app, and whether it was the last one for it.
    left_step: Option<(Pid, Option<String>, bool)>,
    /// Tells of an exec that failed; read when the harness has ended, since that is when it matters.
    exec_error: Option<File>,
    caller_watched: bool,
    outputs: Vec<BorrowedFd<'static>>,
    /// Until the keeper has spoken: what it has to say is for good.
    lease_watched: bool,
    self_deadlock: SelfDeadlock,
    /// A child may have ended, or be left to end.
    look_at_children: bool,
    /// It has slept, and given back what only the start needed.
    has_slept: bool,
    /// Survivors are to be asked to end, if there are any.
    terminate_survivors: bool,
    /// See [`Engine::hears_monitor_out`].
    heard_out: HeardOut,
    end: Option<u8>,
}

impl Engine {
    /// The monitor's, once it has forked `supervisor`.
    pub fn monitor(run: Run, channel: Channel, alarm: Alarm, supervisor: Pid) -> Self {
        let noted = run.noted.clone();
        let silent_at = run.settings.deadline.map(|deadline| time::now() + deadline + decide::ANSWER_WITHIN);
        let mut engine = Engine::new(run, State::monitor(), channel, alarm, Peer::Supervisor(supervisor), noted);
        engine.timers.extend(silent_at.map(|at| (Timer::Silence, at)));
        engine.watch_lease();
        engine
    }

    /// The supervisor's, with the harness behind its gate.
    pub fn supervisor(
        run: Run,
        channel: Channel,
        alarm: Alarm,
        monitor: Option<OwnedFd>,
        harness: Pid,
        exec_error: OwnedFd,
    ) -> Self {
        let peer = Peer::Monitor { pidfd: monitor };
        let mut engine = Engine::new(run, State::supervisor(), channel, alarm, peer, HashSet::new());
        engine.facts.harness = Some(harness);
        engine.exec_error = Some(exec_error.into());
        if engine.run.settings.stop_on_closed_output {
            engine.outputs = fd::watchable_outputs();
        }
        engine
    }

    fn new(run: Run, state: State, channel: Channel, alarm: Alarm, peer: Peer, noted: HashSet<Pid>) -> Self {
        let settings = &run.settings;
        let policy = Policy {
            grace: settings.grace,
            stop_signal: settings.stop_signal.map(|signal| signal as i32),
            survivors: settings.survivors,
            teardown: settings.teardown != Teardown::None,
            teardown_on: settings.teardown_on,
            session: settings.session,
        };
        Engine {
            policy,
            state,
            peer,
            channel,
            tree: Tree::new(noted),
            alarm,
            timers: BTreeMap::new(),
            queue: VecDeque::new(),
            facts: Facts::default(),
            worker: None,
            left_step: None,
            exec_error: None,
            caller_watched: true,
            outputs: Vec::new(),
            lease_watched: false,
            self_deadlock: SelfDeadlock::new(&run.locks),
            look_at_children: true,
            has_slept: false,
            terminate_survivors: false,
            heard_out: HeardOut::NotAsked,
            end: None,
            run,
        }
    }

    /// In the supervisor: lets the harness go, unless a request to stop has come meanwhile.
    pub fn open_gate(&mut self, gate: Gate) {
        self.hear_peer();
        fd::deliver_pending();
        let received = self.run.delivery.take();
        let asked = self.queue.iter().any(|event| matches!(event, Event::StopRequested { .. } | Event::CallerGone))
            || received.iter().any(|signal| Request::of(signal.signal) == Request::Stop);
        if asked {
            self.state.started = false;
            drop(gate);
        } else {
            self.channel.tell(&Message::GateOpened);
            gate.open();
            tracing::debug!(event = "started", pid = self.facts.harness.map(Pid::as_raw), "harness let go");
            let settings = &self.run.settings;
            let now = time::now() + EXEC_TAKES;
            self.timers.extend(settings.deadline.map(|deadline| (Timer::Deadline, now + deadline)));
            if let (Some(deadline), Some(warning)) = (settings.deadline, settings.warning) {
                self.timers.insert(Timer::Warning, now + (deadline - warning.before));
            }
            self.timers.extend(self.self_deadlock.first_look().map(|delay| (Timer::SelfDeadlock, now + delay)));
            self.watch_lease();
        }
        self.signals(received);
    }

    /// Runs to the end; returns the status to exit with.
    pub fn run(mut self) -> u8 {
        loop {
            self.handle_queue();
            if let Some(status) = self.end {
                // The process ends here: the kernel closes and frees all at once, faster than we would one by one.
                std::mem::forget(self);
                return status;
            }
            if std::mem::take(&mut self.look_at_children) {
                self.children();
            } else {
                self.sleep();
            }
        }
    }

    fn handle_queue(&mut self) {
        while let Some(event) = self.queue.pop_front() {
            self.handle(event);
        }
    }

    fn sleep(&mut self) {
        self.alarm.set(self.timers.values().min().copied());
        let mut descriptors: Vec<(Source, BorrowedFd<'_>)> = vec![(Source::Alarm, self.alarm.as_fd())];
        // The supervisor's words are for a takeover: the monitor reads them then, and wakes for an answer only.
        let listens = match self.peer {
            Peer::Monitor { .. } => true,
            Peer::Supervisor(_) => self.state.unanswered > 0 || self.policy.session == Session::Keep,
            Peer::Gone => false,
        };
        if listens {
            descriptors.push((Source::Peer, self.channel.as_fd()));
        }
        if let Peer::Monitor { pidfd: Some(pidfd) } = &self.peer {
            descriptors.push((Source::Monitor, pidfd.as_fd()));
        }
        if self.caller_watched
            && let Some(caller) = self.run.caller.ended()
        {
            descriptors.push((Source::Caller, caller));
        }
        if let Some(lease) = self.run.lease.as_ref().filter(|_| self.lease_watched) {
            descriptors.push((Source::Lease, lease.spoke()));
        }
        let polled: Vec<BorrowedFd<'_>> = descriptors.iter().map(|(_, descriptor)| *descriptor).collect();
        if !std::mem::replace(&mut self.has_slept, true) {
            // As late as can be: whatever runs between this and the sleep is mapped again. It costs a short run nothing,
            // since the harness is busy starting meanwhile, and pages that are not mapped need not be unmapped at the end.
            process::forget_start_up();
        }
        let (ready, output_closed) = fd::wait_also_for_closed(&polled, &self.outputs);
        let sources: Vec<Source> =
            descriptors.iter().zip(ready).filter(|(_, ready)| *ready).map(|((source, _), _)| *source).collect();
        if output_closed {
            self.outputs.clear();
            self.queue.push_back(Event::OutputClosed);
        }
        self.collect(&sources);
    }

    /// Turns what woke us into events. Requests come before ends: a signal to all processes at once must be
    /// seen as a request, also when the harness was faster to die of it.
    fn collect(&mut self, ready: &[Source]) {
        let received = self.run.delivery.take();
        self.signals(received);
        if ready.contains(&Source::Peer) {
            self.hear_peer();
        }
        if ready.contains(&Source::Monitor) {
            self.monitor_gone();
        }
        if ready.contains(&Source::Caller) {
            self.caller_watched = false;
            self.queue.push_back(Event::CallerGone);
        }
        if ready.contains(&Source::Lease) {
            self.lease_watched = false;
            self.judge_lease();
        }
        self.ring();
    }

    fn signals(&mut self, received: Vec<Received>) {
        for Received { signal: number, from_kernel } in received {
            match Request::of(number) {
                Request::Stop => {
                    let origin = if from_kernel { Origin::Terminal } else { Origin::Process };
                    self.queue.push_back(Event::StopRequested { signal: number, origin });
                }
                Request::Suspend => self.queue.push_back(Event::Suspend),
                Request::Other if number == signal::parent_death() => self.parent_may_be_gone(),
                Request::Other if number == SIGCHLD => self.look_at_children = true,
                Request::Other => self.queue.push_back(Event::Forward(number)),
            }
        }
    }

    /// The parent-death signal is a hint: it also comes when only the thread that forked us has ended, and
    /// before the parent's pidfd is readable. `getppid()` knows.
    fn parent_may_be_gone(&mut self) {
        match &self.peer {
            Peer::Monitor { .. } => self.monitor_gone(),
            _ if self.run.caller.is_gone() => self.queue.push_back(Event::CallerGone),
            _ => tracing::debug!(
                event = "parent-thread-ended",
                "the parent's thread ended, the parent lives on: ignored"
            ),
        }
    }

    fn monitor_gone(&mut self) {
        if matches!(self.peer, Peer::Monitor { .. }) && getppid() != self.run.monitor {
            self.peer = Peer::Gone;
            self.queue.push_back(Event::PeerGone);
            // The monitor looked after the keeper; one more stands by now.
            self.start_keeper();
        } else if let Peer::Monitor { pidfd } = &mut self.peer {
            // A thread of it ended; or the descriptor was faster than our adoption: then the signal follows.
            pidfd.take();
        }
    }

    fn hear_peer(&mut self) {
        while let Some(message) = self.channel.heard() {
            let message = match message {
                // Its lists are in the diary.
                Message::WorkerEnded(Some(short)) => {
                    Message::WorkerEnded(Some(self.run.result.outcome().unwrap_or(short)))
                }
                other => other,
            };
            self.remember(&message);
            if matches!(self.peer, Peer::Monitor { .. }) {
                let request = match message {
                    Message::Stop { signal, origin } => Event::StopRequested { signal, origin },
                    Message::CallerGone => Event::CallerGone,
                    Message::LeaseLost => {
                        self.channel.tell(&Message::Acknowledged);
                        self.judge_lease();
                        continue;
                    }
                    Message::Forward { signal } => Event::Forward(signal),
                    Message::Suspend => Event::Suspend,
                    Message::Resume => Event::Resume,
                    Message::NoMoreRequests => {
                        self.heard_out_now();
                        continue;
                    }
                    _ => continue,
                };
                if request != Event::Suspend {
                    self.channel.tell(&Message::Acknowledged);
                }
                self.queue.push_back(request);
            } else if message == Message::AnyRequest {
                fd::deliver_pending();
                let received = self.run.delivery.take();
                self.signals(received);
                self.handle_queue();
                self.channel.tell(&Message::NoMoreRequests);
            } else {
                self.queue.push_back(Event::Told(message));
            }
        }
    }

    /// In a session of the caller's, ^C reaches monitor and harness at the same moment, and a quick harness can be
    /// dead before the monitor has passed the request on. The kernel signals the whole group before any of it can
    /// be seen to be dead (kill_pgrp holds the lock that an exit needs), so the monitor knows: it is asked first.
    /// A stopped monitor doesn't answer, and is not waited for.
    fn hears_monitor_out(&mut self) -> bool {
        let has_monitor = matches!(self.peer, Peer::Monitor { .. });
        if self.policy.session != Session::Keep || !has_monitor || self.state.cause.is_some() {
            return true;
        }
        if self.heard_out == HeardOut::NotAsked {
            self.heard_out = HeardOut::Asked;
            self.channel.tell(&Message::AnyRequest);
            self.timers.insert(Timer::Requests, time::now() + ANSWERS_WITHIN);
        }
        self.heard_out == HeardOut::Yes
    }

    fn heard_out_now(&mut self) {
        self.heard_out = HeardOut::Yes;
        self.timers.remove(&Timer::Requests);
        self.look_at_children = true;
    }

    /// What only a takeover's actions and the report need.
    fn remember(&mut self, message: &Message) {
        match message {
            Message::HarnessIs { pid } => self.facts.harness = Some(Pid::from_raw(*pid)),
            Message::WorkerIs { pid } => self.worker = Some(Pid::from_raw(*pid)),
            Message::Swept { killed, unkillable } => {
                self.facts.survivors_killed += killed;
                self.facts.unkillable.clone_from(unkillable);
            }
            _ => {}
        }
    }

    fn read_exec_error(&mut self) {
        let Some(pipe) = &mut self.exec_error else { return };
        let mut number = [0; 4];
        match pipe.read(&mut number) {
            // Closed by the exec: it worked.
            Ok(0) => self.exec_error = None,
            Ok(4) => {
                self.exec_error = None;
                let error = self.run.program.explain(Errno::from_raw(i32::from_ne_bytes(number)));
                tracing::error!(event = "exec-failed", "{error}");
                self.queue.push_back(Event::ExecFailed { status: error.exit_status() as u8 });
            }
            _ => {}
        }
    }

    fn ring(&mut self) {
        let now = time::now();
        let due: Vec<Timer> = self.timers.iter().filter(|(_, at)| **at <= now).map(|(timer, _)| *timer).collect();
        for timer in due {
            self.timers.remove(&timer);
            match timer {
                Timer::SelfDeadlock => self.look_for_self_deadlock(now),
                Timer::Requests => self.heard_out_now(),
                Timer::Lease => self.judge_lease(),
                Timer::Keeper => self.start_keeper(),
                Timer::Silence | Timer::Answer | Timer::LeaseOver => {
                    // It may have spoken without waking us.
                    self.hear_peer();
                    self.queue.push_back(Event::TimeUp(timer));
                }
                _ => self.queue.push_back(Event::TimeUp(timer)),
            }
        }
    }

    fn look_for_self_deadlock(&mut self, now: Duration) {
        if self.state.phase != Phase::Running {
            return;
        }
        let (next, hopeless) = self.self_deadlock.look(&self.tree);
        self.timers.insert(Timer::SelfDeadlock, now + next);
        self.queue.extend(hopeless.map(Event::SelfDeadlock));
    }

    fn handle(&mut self, event: Event) {
        let before = self.state.phase;
        let (state, actions) = decide(&self.policy, self.state.clone(), time::now(), event);
        self.state = state;
        let was_ending = matches!(before, Phase::Surviving | Phase::Sweeping);
        if was_ending && !matches!(self.state.phase, Phase::Surviving | Phase::Sweeping) {
            self.survivors_done();
        }
        for action in actions {
            // Handed over: the rest is the monitor's.
            if self.end.is_none() {
                self.act(action);
            }
        }
        // Where there is nobody to be killed, no SIGCHLD will tell.
        self.look_at_children |= self.state.phase != before;
    }
}

/// Has the monitor said that it has no request that we don't know of?
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeardOut {
    NotAsked,
    Asked,
    Yes,
}

/// From the gate to the harness's first instruction: by its own clock no deadline is to come early.
const EXEC_TAKES: Duration = Duration::from_micros(500);

/// A monitor that lives and isn't stopped answers at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What woke us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Alarm,
    Peer,
    Monitor,
    Caller,
    Lease,
}
