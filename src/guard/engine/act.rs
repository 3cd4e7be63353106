//! Carrying out what was decided.

#![forbid(unsafe_code)]

use std::time::Duration;

use nix::unistd::getpid;
use signal_hook::consts::{SIGCONT, SIGKILL, SIGSTOP};

use super::{Engine, Peer};
use crate::duration;
use crate::exit_status::ExitStatus;
use crate::gate::{self, Gate};
use crate::guard::event::{Action, Cause, Event, WorkerEnd};
use crate::guard::finish;
use crate::guard::protocol::Message;
use crate::guard::teardown;
use crate::settings::{Session, StopScope, Survivors};
use crate::sys::process::{self, Pid};
use crate::sys::{procfs, signal, time};
use crate::tree;

/// More processes that can't be killed are not named.
const NAMED_MAX: usize = 200;

impl Engine {
    pub(super) fn survivors_done(&mut self) {
        let killed = self.tree.ended();
        if killed > 0 {
            let processes = if killed == 1 { "process" } else { "processes" };
            let names = self.tree.ended_names();
            tracing::info!(
                event = "survivors-killed",
                "killed {killed} {processes} that outlived the harness: {names}"
            );
        }
        self.facts.survivors_killed += killed;
        self.tree.forget_ended();
        if killed > 0 {
            self.channel.tell(&Message::Swept { killed, unkillable: self.facts.unkillable.clone() });
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Tell(message) => {
                let message = match message {
                    Message::WorkerEnded(Some(outcome)) => Message::WorkerEnded(Some(outcome.without_lists())),
                    other => other,
                };
                if !matches!(self.peer, Peer::Gone) {
                    self.channel.tell(&message);
                }
            }
            Action::SignalHarness(number) => self.signal_harness(number),
            Action::AnnounceStop { signal, grace } => self.announce_stop(signal, grace),
            Action::ContinueTree => self.tree.continue_all(),
            Action::AnnounceTeardownGoesOn => {
                let limit = duration::exact(self.run.settings.teardown_timeout);
                tracing::info!(
                    event = "teardown-goes-on",
                    "asked to stop: the teardown goes on to its end, {limit} at most"
                );
            }
            Action::KillHarness => {
                let pid = self.facts.harness.map(Pid::as_raw);
                // Only a second request ends the grace before its time.
                let grace_is_over = |began| time::now() >= began + self.policy.grace;
                let why = if self.state.kill_at.is_some_and(|kill_at| time::now() >= kill_at) {
                    "the cluster lease is about to be another's"
                } else if self.state.stop_began.is_none_or(grace_is_over) {
                    "harness did not end in time"
                } else {
                    "asked once more"
                };
                tracing::warn!(event = "harness-killed", pid, "{why}: sent KILL to pid {}", pid.unwrap_or(0));
                self.to_harness(SIGKILL);
                // A sweep that begins before it is reaped does not count it as one that outlived the harness.
                self.tree.was_killed(Pid::from_raw(pid.unwrap_or(0)));
            }
            Action::StopHarness => self.to_harness_group(SIGSTOP),
            Action::ContinueHarness => self.to_harness_group(SIGCONT),
            Action::Warn => self.warn(),
            Action::Arm(timer, delay) => {
                self.timers.insert(timer, time::now() + delay);
            }
            Action::Disarm(timer) => {
                self.timers.remove(&timer);
            }
            // Once the harness is reaped wait(2) tells whether there is anybody, without a look at /proc.
            Action::TerminateSurvivors => self.terminate_survivors = true,
            Action::Sweep => self.tree.kill_children(),
            Action::GiveUpOnSurvivors => self.give_up_on_survivors(),
            Action::StartWorker => self.start_worker(),
            Action::ContinueWorker => {
                if let Some(worker) = self.worker {
                    let _ = process::kill(worker, SIGCONT);
                }
            }
            Action::StopSelf => {
                signal::stop_by_terminal();
                if self.policy.session == Session::New {
                    self.queue.push_back(Event::Resume);
                }
            }
            Action::ContinuePeer => self.to_supervisor(SIGCONT),
            Action::KillPeer => {
                tracing::warn!(
                    event = "supervisor-silent",
                    "the supervisor does not answer: killing it and going on in its place"
                );
                self.to_supervisor(SIGKILL);
            }
            Action::AnnounceTakeover => {
                self.facts.takeover = true;
                tracing::warn!(event = "takeover", "the supervisor is gone: the monitor finishes the run");
            }
            Action::Finish => self.end = Some(finish::finish(&self.run, &self.state, &self.facts, &self.channel)),
            Action::Exit(status) => {
                self.run.release_locks();
                self.end = Some(status);
            }
        }
    }

    /// A harness that was reaped has a number that may be another's.
    fn to_harness(&self, number: i32) {
        if let (Some(harness), None) = (self.facts.harness, self.state.harness) {
            let _ = process::kill(harness, number);
        }
    }

    /// The whole group; in the caller's session that would be the caller's own, so there the leader alone.
    fn to_harness_group(&self, number: i32) {
        match (self.facts.harness, self.state.harness, self.policy.session) {
            (Some(harness), None, Session::New) => {
                let _ = process::kill_group(harness, number);
            }
            _ => self.to_harness(number),
        }
    }

    fn signal_harness(&self, number: i32) {
        match self.run.settings.stop_scope {
            StopScope::Leader => self.to_harness(number),
            StopScope::Group => self.to_harness_group(number),
        }
    }

    fn to_supervisor(&self, number: i32) {
        if let Peer::Supervisor(supervisor) = self.peer {
            let _ = process::kill(supervisor, number);
        }
    }

    fn announce_stop(&self, number: i32, grace: Duration) {
        let Some(harness) = self.facts.harness else { return };
        let why = match self.state.cause {
            Some(Cause::Deadline) => {
                format!("deadline {} reached", duration::exact(self.run.settings.deadline.unwrap_or_default()))
            }
            Some(Cause::Signal(asked)) => format!("got {}", signal::name(asked)),
            Some(Cause::ParentGone) if matches!(self.peer, Peer::Gone) => "the monitor is gone".to_owned(),
            Some(Cause::ParentGone) => "the caller is gone".to_owned(),
            Some(Cause::OutputClosed) => "nobody reads the output any more".to_owned(),
            Some(Cause::SelfDeadlock) => "the harness waits for the lock of its own run".to_owned(),
            Some(Cause::LeaseLost) => {
                format!("lost the cluster lock: {}", self.facts.lease_lost.as_deref().unwrap_or("its lease is over"))
            }
            _ => "stopping".to_owned(),
        };
        tracing::info!(
            event = "stop",
            pid = harness.as_raw(),
            "{why}: sent {} to pid {harness}, KILL after {}",
            signal::name(number),
            duration::exact(grace)
        );
    }

    fn warn(&self) {
        let Some(warning) = self.run.settings.warning else { return };
        tracing::warn!(event = "deadline-near", "deadline in {}", duration::exact(warning.before));
        if let Some(number) = warning.signal {
            self.to_harness(number as i32);
        }
    }

    fn give_up_on_survivors(&mut self) {
        let left = self.tree.descendants();
        // Somebody is there (wait(2) says so), and /proc can't be read for want of a descriptor: the monitor may have one.
        if left.is_empty() && procfs::is_mounted() && self.hand_over() {
            return;
        }
        let names = if left.is_empty() { "children that /proc does not show".to_owned() } else { tree::names(&left) };
        tracing::error!(event = "unkillable", "could not kill: {names}");
        // The report and a message name so many, at most.
        let named = left.iter().take(NAMED_MAX);
        self.facts.unkillable = named.map(|process| format!("{} ({})", process.pid, process.name)).collect();
        // They are known now: nothing later waits for them once more.
        self.tree.note_all();
        self.channel.tell(&Message::Swept { killed: 0, unkillable: self.facts.unkillable.clone() });
    }

    fn start_worker(&mut self) {
        if self.policy.survivors == Survivors::Leave {
            // What the harness left stays; what the worker leaves will not.
            self.tree.note_all();
        }
        match self.fork_worker() {
            Ok((worker, gate)) => {
                self.worker = Some(worker);
                self.channel.tell(&Message::WorkerIs { pid: worker.as_raw() });
                gate.open();
            }
            Err(error) if self.hand_over() => {
                tracing::warn!(event = "hand-over", "cannot start the teardown: {error}; the monitor goes on");
            }
            Err(error) => {
                tracing::error!(event = "teardown-failed", "cannot start the teardown: {error}");
                self.queue.push_back(Event::WorkerEnded(WorkerEnd::Died));
            }
        }
    }

    /// A supervisor that lacks what it needs (a descriptor, a process) ends here: the monitor, which may have it, knows
    /// all that has happened and takes over. False where there is nobody to hand over to.
    fn hand_over(&mut self) -> bool {
        let Peer::Monitor { .. } = self.peer else { return false };
        // A stopped one would not see our end.
        let _ = process::kill(self.run.monitor, SIGCONT);
        self.end = Some(ExitStatus::SupervisorGone as u8);
        true
    }

    fn fork_worker(&mut self) -> std::io::Result<(Pid, Gate)> {
        let mut gate = Some(Gate::new()?);
        let forker = getpid();
        let worker = process::fork(|| {
            if !gate.take().is_some_and(Gate::wait) {
                return gate::CLOSED;
            }
            if let Some(lease) = &self.run.lease {
                lease.is_of_parent();
            }
            teardown::work(&mut self.run, &self.state, &self.facts, &self.channel, forker)
        })?;
        let gate = gate.ok_or_else(|| std::io::Error::other("the gate is gone"))?;
        Ok((worker, gate))
    }
}
