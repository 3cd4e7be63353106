//! Children that ended or stopped: whose end it was, and what has to be told before it is reaped.

#![forbid(unsafe_code)]

use signal_hook::consts::SIGKILL;

use super::{Engine, Peer};
use crate::cluster::Lease;
use crate::gate;
use crate::guard::decide;
use crate::guard::event::{Cause, Event, WorkerEnd};
use crate::guard::state::Phase;
use crate::sys::process::{self, Children, Ended, Pid};
use crate::sys::signal;
use crate::teardown::{Outcome, Progress};

impl Engine {
    /// Children that ended or stopped. Each end is told, and decided about, before the child is reaped.
    pub(super) fn children(&mut self) {
        let mut seen;
        loop {
            if self.has_only_survivors() {
                seen = process::reap_any();
                let Children::Ended(pid, _) = seen else { break };
                self.tree.was_reaped(pid);
                continue;
            }
            seen = process::peek_ended();
            let Children::Ended(pid, how) = seen else { break };
            let is_harness = self.facts.harness == Some(pid) && self.state.harness.is_none();
            if is_harness && !self.hears_monitor_out() {
                // Left a zombie, and looked at again when the answer is there.
                break;
            }
            self.child_ended(pid, how);
        }
        match self.peer {
            Peer::Supervisor(supervisor) if process::was_stopped(supervisor) => self.handle(Event::PeerStopped),
            _ => {}
        }
        if let Some(worker) = self.worker
            && process::was_stopped(worker)
        {
            self.handle(Event::WorkerStopped);
        }
        if let Some(lease) = &self.run.lease {
            lease.continue_keeper();
        }
        self.sweep_round(seen);
    }

    /// Is there no child whose end means anything, so that it would have to be told before it is reaped?
    fn has_only_survivors(&self) -> bool {
        let harness_is_reaped = self.facts.harness.is_some() && self.state.harness.is_some();
        let has_keeper = self.run.lease.as_ref().is_some_and(|lease| lease.keeper().is_some());
        let has_supervisor = matches!(self.peer, Peer::Supervisor(_));
        harness_is_reaped && self.worker.is_none() && self.left_step.is_none() && !has_supervisor && !has_keeper
    }

    fn child_ended(&mut self, pid: Pid, how: Ended) {
        if self.run.lease.as_ref().and_then(Lease::keeper) == Some(pid) {
            self.tree.reap(pid);
            self.keeper_ended();
            return;
        }
        if matches!(self.peer, Peer::Supervisor(supervisor) if supervisor == pid) {
            self.supervisor_ended(pid, how);
            return;
        }
        if matches!(self.peer, Peer::Supervisor(_)) {
            // Its children are ours already, so it is dead, though its own end can't be seen yet (a debugger
            // keeps it). What it said tells who this was.
            self.hear_peer();
            self.handle_queue();
        }
        if self.facts.harness == Some(pid) && self.state.harness.is_none() {
            // Written before the harness ended, so it is there now.
            self.read_exec_error();
            self.handle_queue();
            self.handle(Event::HarnessEnded(how));
            if let (Some(Cause::HarnessSignal), Ended::Signal(number)) = (self.state.cause, how) {
                let guess = if number == SIGKILL { " (out of memory?)" } else { "" };
                let name = signal::name(number);
                tracing::info!(event = "harness-died", pid = pid.as_raw(), "the harness died of {name}{guess}");
            }
        } else if self.worker == Some(pid) {
            self.worker_ended(how);
        } else if let Some((_, app, last)) = self.left_step.take_if(|(step, ..)| *step == pid) {
            // It may have come to its end before we could end it: then it is not to be run again. A failure says
            // nothing: with its worker dead nobody reads its output, and a write that finds that out is one.
            if how == Ended::Code(0) {
                Progress::concluded(app, last, how).inspect(|end| self.run.result.put(end));
            }
        }
        self.tree.reap(pid);
    }

    /// Only now, with the supervisor reaped and its last words heard, is its word complete.
    fn supervisor_ended(&mut self, pid: Pid, how: Ended) {
        self.tree.reap(pid);
        self.hear_peer();
        self.handle_queue();
        self.peer = Peer::Gone;
        tracing::debug!(event = "supervisor-ended", pid = pid.as_raw(), "supervisor ended: {how:?}");
        self.handle(Event::PeerGone);
        // Its children are ours now, and some may have ended before they were.
        if self.state.worker_runs && self.worker.is_none_or(|worker| process::peek_child(worker) == Children::None) {
            self.worker_ended(Ended::Signal(SIGKILL));
        }
    }

    fn worker_ended(&mut self, how: Ended) {
        self.worker = None;
        self.left_step = self.run.result.step_under_way();
        let end = match self.run.result.outcome() {
            // Also of one that was killed after its last deed.
            Some(outcome) => WorkerEnd::Finished(outcome),
            // It could not begin: no descriptor, no memory.
            None if how == Ended::Code(0) => WorkerEnd::Finished(Outcome::failed()),
            None => WorkerEnd::Died,
        };
        if end == WorkerEnd::Died && how != Ended::Code(gate::CLOSED) {
            let next = if self.state.workers < decide::WORKER_RUNS { "running it once more" } else { "giving it up" };
            tracing::warn!(event = "worker-killed", "the teardown was killed from outside: {next}");
        }
        self.handle(Event::WorkerEnded(end));
    }

    /// While the tree is being ended: one more round, and the good news when there is nobody left.
    fn sweep_round(&mut self, mut seen: Children) {
        loop {
            let sweeping = matches!(self.state.phase, Phase::Sweeping | Phase::SweepingWorker);
            if !sweeping && self.state.phase != Phase::Surviving {
                return;
            }
            if self.tree.is_empty(seen) {
                self.handle(Event::TreeEmpty);
                seen = process::peek_ended();
                continue;
            }
            if std::mem::take(&mut self.terminate_survivors) {
                self.tree.terminate();
            }
            if sweeping {
                self.tree.kill_children();
            }
            return;
        }
    }
}
