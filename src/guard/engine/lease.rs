//! The cluster lease, as the loop of a guard process looks after it: is it still ours, and is there a keeper?

#![forbid(unsafe_code)]

use super::Engine;
use crate::cluster::Lease;
use crate::guard::event::{Event, Timer};

impl Engine {
    /// From now on.
    pub(super) fn watch_lease(&mut self) {
        if let Some(lease) = &self.run.lease {
            self.lease_watched = true;
            self.timers.insert(Timer::Lease, lease.lost_at());
        }
    }

    /// Is it lost? Else this is asked again when it would be, by what is known now.
    pub(super) fn judge_lease(&mut self) {
        let Some(lease) = &self.run.lease else { return };
        match lease.loss() {
            Some(loss) if self.state.kill_at.is_none() => {
                self.facts.lease_lost = Some(loss.to_string());
                self.timers.remove(&Timer::Lease);
                self.queue.push_back(Event::LeaseLost { kill_at: lease.kill_at() });
            }
            Some(_) => {}
            None => {
                self.timers.insert(Timer::Lease, lease.lost_at());
            }
        }
    }

    pub(super) fn keeper_ended(&mut self) {
        let again_at = self.run.lease.as_ref().and_then(Lease::again_at);
        if let Some(again_at) = again_at {
            tracing::warn!(event = "keeper-ended", "the keeper of the cluster lease ended: starting it again");
            self.timers.insert(Timer::Keeper, again_at);
        }
    }

    /// Starts one, beside which there may be another: it stands by until that is dead.
    pub(super) fn start_keeper(&mut self) {
        let Some(lease) = self.run.lease.as_ref().filter(|lease| lease.loss().is_none()) else { return };
        match lease.start_keeper() {
            // Never ours to end with the harness's tree.
            Ok(keeper) => self.tree.leave_alone(keeper),
            Err(error) => {
                tracing::error!(event = "keeper-failed", "cannot start the keeper of the cluster lease: {error}");
                self.timers.extend(lease.again_at().map(|again_at| (Timer::Keeper, again_at)));
            }
        }
    }
}
