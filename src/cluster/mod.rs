//! The cluster lock: a lease in etcd beside the local flock, for hosts that share the names of apps.
//!
//! What a guard process has of it is a [`Lease`]. The work with etcd is done by a process of its own, the *keeper*
//! ([`keeper`]), so that monitor and supervisor stay small and single-threaded; it renews the lease, and says when, in
//! memory that they share ([`state`]). Each guard process judges by itself, by the clock, whether the lease still stands:
//! a keeper that is stopped, cut off or dead loses it in time.
//!
//! It promises that no two runs hold an app at a time in which their hosts' clocks run at the same speed. It does not
//! promise that a holder whose whole host stood still was stopped in time: for that there is the fencing token
//! (`docs/design/cluster-lock.md`).

#![forbid(unsafe_code)]

mod etcd;
mod hold;
mod keeper;
mod process;
mod request;
mod state;
mod watch;

pub use keeper::{NAME, keep};
pub use process::{Asking, Taken, ask, failure};
pub use request::{Answer, Held, Question, Seen, Wanted};
pub use state::Loss;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use signal_hook::consts::SIGCONT;

use crate::app::AppName;
use crate::cluster::process::Ends;
use crate::cluster::request::{Keep, Work};
use crate::cluster::state::Status;
use crate::settings::EtcdSettings;
use crate::sys::process::Pid;
use crate::sys::time::{self, Alarm};
use crate::sys::{fd, process as system};

/// The end of a run waits so long, at most, for etcd to hear that the lease is over.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);
/// A keeper that dies is started again no sooner than this after its start.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A held lease, as the guard processes of one run share it.
///
/// All of them hold the writing end of the *life pipe*: when the last one is gone the keeper ends the lease.
#[derive(Debug)]
pub struct Lease {
    etcd: EtcdSettings,
    /// etcd's number of it.
    id: i64,
    held: Vec<Held>,
    ends: Ends,
    /// The keeper that this very process started.
    keeper: Cell<Option<Pid>>,
    started_at: Cell<Duration>,
}

impl Lease {
    /// One that a keeper seeks.
    fn sought(etcd: &EtcdSettings, ends: Ends, keeper: Pid) -> Self {
        let (keeper, started_at) = (Cell::new(Some(keeper)), Cell::new(time::now()));
        Lease { etcd: etcd.clone(), id: 0, held: Vec::new(), ends, keeper, started_at }
    }

    /// The same, now that it is ours.
    fn with(self, id: i64, held: Vec<Held>) -> Self {
        Lease { id, held, ..self }
    }

    /// The fencing token of an app: etcd's create revision of its key, which only ever grows.
    pub fn token(&self, app: &AppName) -> Option<i64> {
        self.held.iter().find(|held| held.app == app.as_str()).map(|held| held.token)
    }

    /// Is it lost? Told by what the keeper says, and by the clock: all processes of a run come to the same answer, and
    /// never take it back.
    pub fn loss(&self) -> Option<Loss> {
        self.ends.state.loss(time::now())
    }

    /// When it is lost unless it is renewed until then.
    pub fn lost_at(&self) -> Duration {
        self.ends.state.lost_at()
    }

    /// When the last process of the run must have been killed, once it is lost: before another can have the lease.
    pub fn kill_at(&self) -> Duration {
        self.ends.state.kill_at()
    }

    /// Becomes readable, for good, when the keeper has something to say: [`Lease::loss`] tells what.
    pub fn spoke(&self) -> BorrowedFd<'_> {
        self.ends.report.as_fd()
    }

    /// In a forked process: the keeper is its parent's child, not its own.
    pub fn is_of_parent(&self) {
        self.keeper.set(None);
    }

    /// The keeper that this process started.
    pub fn keeper(&self) -> Option<Pid> {
        self.keeper.get()
    }

    /// A keeper that was stopped renews nothing.
    pub fn continue_keeper(&self) {
        if let Some(keeper) = self.keeper.get().filter(|keeper| system::was_stopped(*keeper)) {
            let _ = system::kill(keeper, SIGCONT);
        }
    }

    /// Starts one more keeper, which stands by until the one at work is dead.
    ///
    /// # Errors
    /// No process, memory or descriptor for it.
    pub fn start_keeper(&self) -> io::Result<Pid> {
        self.keeper.set(None);
        self.started_at.set(time::now());
        let keep = Keep { lease: self.id, held: self.held.clone() };
        let pid = process::start(&self.etcd, Work::Keep(keep), Some(&self.ends), None)?;
        self.keeper.set(Some(pid));
        Ok(pid)
    }

    /// When a keeper that has ended is to be started again; `None`: the lease needs none any more.
    pub fn again_at(&self) -> Option<Duration> {
        self.keeper.set(None);
        (self.ends.state.status() == Status::Held).then(|| time::now().max(self.started_at.get() + AGAIN_AFTER))
    }

    /// Asked before each destructive step: is this app's key still the one that we made? `Err` says why not, as the end
    /// of a sentence. An etcd that can't be reached says nothing: then the lease's time decides.
    pub fn still_ours(&self, app: &AppName) -> Result<(), String> {
        if let Some(loss) = self.loss() {
            return Err(loss.to_string());
        }
        let Some(token) = self.token(app) else { return Err("it has no cluster lock".to_owned()) };
        let question = Question::IsOurs { app: app.to_string(), token };
        if let Ok(Answer::IsOurs(false)) = ask(&self.etcd, question) {
            self.ends.state.lose(Loss::Taken);
        }
        self.loss().map_or(Ok(()), |loss| Err(loss.to_string()))
    }

    /// Gives it back, so that the next one has it at once. Called before the flock is freed, by the last process of a run.
    pub fn release(&self) {
        if self.ends.state.status() == Status::Released || self.ends.tell_to_end().is_err() {
            return;
        }
        // Once for the whole run: the monitor comes here after the supervisor.
        let until = self.ends.state.ended_since(time::now()) + RELEASED_WITHIN;
        let Ok(mut alarm) = Alarm::new() else { return };
        alarm.set(Some(until));
        // A lease that was lost has made the pipe readable already: nobody waits for its end.
        while time::now() < until && !matches!(self.ends.state.status(), Status::Released | Status::Lost(_)) {
            fd::wait(&[self.ends.report.as_fd(), alarm.as_fd()]);
        }
        if let Some(keeper) = self.keeper.take() {
            system::reap(keeper);
        }
    }
}
