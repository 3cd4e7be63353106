//! What all processes of a run know of its lease: a few words of shared memory, which outlive each of them.
//!
//! The keeper writes when it was renewed; who finds it lost says so, once and for all. Times are those of
//! CLOCK_BOOTTIME, which goes on while the machine sleeps, as etcd's does.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::sys::memory::SharedWords;

/// The words.
const STATUS: usize = 0;
const RENEWED_AT: usize = 1;
const TTL: usize = 2;
const ENDED_AT: usize = 3;

/// The lease is given up after so many tenths of its time without a renewal; by the second number the run is dead.
const LOST_AFTER: u32 = 8;
const KILLED_AFTER: u32 = 9;

/// Where the lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not had yet.
    Sought,
    /// Ours.
    Held,
    /// Not ours any more.
    Lost(Loss),
    /// Given back.
    Released,
}

/// Why a lease was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It was not renewed in time: etcd, or the keeper, could not be reached.
    NotRenewed,
    /// etcd does not know it any more.
    Ended,
    /// A key of ours was removed.
    KeyRemoved,
    /// A key of ours is another's.
    Taken,
}

const LOSSES: [Loss; 4] = [Loss::NotRenewed, Loss::Ended, Loss::KeyRemoved, Loss::Taken];

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::NotRenewed => "its lease could not be renewed in time",
            Loss::Ended => "etcd has ended its lease",
            Loss::KeyRemoved => "its key in etcd was removed",
            Loss::Taken => "its key in etcd is another's",
        })
    }
}

impl Status {
    fn word(self) -> u64 {
        match self {
            Status::Sought => 0,
            Status::Held => 1,
            Status::Released => 2,
            Status::Lost(loss) => 3 + LOSSES.iter().position(|other| *other == loss).unwrap_or(0) as u64,
        }
    }

    fn of(word: u64) -> Self {
        match word {
            0 => Status::Sought,
            1 => Status::Held,
            2 => Status::Released,
            number => Status::Lost(LOSSES[(number as usize - 3).min(LOSSES.len() - 1)]),
        }
    }
}

/// The shared memory.
#[derive(Debug)]
pub struct LeaseState {
    words: SharedWords,
}

impl LeaseState {
    /// New, in the status `Sought`.
    ///
    /// # Errors
    /// No memory or descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(LeaseState { words: SharedWords::new(c"ccci-guard-lease")? })
    }

    /// In a keeper: the one that its starter shares with it.
    ///
    /// # Errors
    /// It is not what it should be.
    pub fn of(memory: OwnedFd) -> io::Result<Self> {
        Ok(LeaseState { words: SharedWords::open(memory.into())? })
    }

    /// The status, as it was last written.
    pub fn status(&self) -> Status {
        Status::of(self.words.get(STATUS))
    }

    /// etcd granted or renewed the lease for `ttl`; the request for it was sent at `sent`.
    pub fn renewed(&self, sent: Duration, ttl: Duration) {
        self.words.set(TTL, ttl.as_nanos() as u64);
        self.words.set(RENEWED_AT, sent.as_nanos() as u64);
    }

    /// All keys are ours.
    pub fn held(&self) {
        self.words.change(STATUS, Status::Sought.word(), Status::Held.word());
    }

    /// Says that it is lost, unless it was already, or is given back.
    pub fn lose(&self, loss: Loss) {
        for from in [Status::Sought, Status::Held] {
            self.words.change(STATUS, from.word(), Status::Lost(loss).word());
        }
    }

    /// Since when its end is waited for, by whichever process was the first to.
    pub fn ended_since(&self, now: Duration) -> Duration {
        self.words.change(ENDED_AT, 0, now.as_nanos() as u64);
        Duration::from_nanos(self.words.get(ENDED_AT))
    }

    /// It is given back; one that was lost stays lost.
    pub fn released(&self) {
        for from in [Status::Sought, Status::Held] {
            self.words.change(STATUS, from.word(), Status::Released.word());
        }
    }

    /// When it is given up, from the moment at which the last good renewal was *sent*: etcd counts from a later one.
    pub fn lost_at(&self) -> Duration {
        self.after(LOST_AFTER)
    }

    /// When the last process of the run must have been killed. A tenth of its time before etcd gives the lease up; at
    /// once, where it is over already: the app may be another's at this very moment.
    pub fn kill_at(&self) -> Duration {
        match self.status() {
            Status::Lost(Loss::Ended | Loss::KeyRemoved | Loss::Taken) => Duration::ZERO,
            _ => self.after(KILLED_AFTER),
        }
    }

    fn after(&self, tenths: u32) -> Duration {
        Duration::from_nanos(self.words.get(RENEWED_AT)) + Duration::from_nanos(self.words.get(TTL)) * tenths / 10
    }

    /// Is it lost at this moment? Whoever is first to see that the time has passed says so for all.
    pub fn loss(&self, now: Duration) -> Option<Loss> {
        if self.status() == Status::Held && now >= self.lost_at() {
            self.lose(Loss::NotRenewed);
        }
        match self.status() {
            Status::Lost(loss) => Some(loss),
            Status::Sought | Status::Held | Status::Released => None,
        }
    }
}

impl AsFd for LeaseState {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const SENT: Duration = Duration::from_secs(100);

    fn held() -> LeaseState {
        let state = LeaseState::new().expect("memory");
        state.renewed(SENT, TTL);
        state.held();
        state
    }

    #[test]
    fn time_alone_loses_a_lease() {
        let state = held();
        let second = Duration::from_secs;
        assert_eq!((state.lost_at(), state.kill_at()), (SENT + second(8), SENT + second(9)));
        assert_eq!(state.loss(SENT + second(7)), None);
        assert_eq!(state.loss(SENT + second(8)), Some(Loss::NotRenewed));
    }

    /// A renewal that comes late must not bring a run back that has begun to stop.
    #[test]
    fn what_is_lost_stays_lost() {
        let state = held();
        state.lose(Loss::KeyRemoved);
        state.renewed(SENT + TTL, TTL);
        state.held();
        state.lose(Loss::Ended);
        state.released();
        assert_eq!(state.loss(SENT + TTL), Some(Loss::KeyRemoved));
    }

    #[test]
    fn a_renewal_counts_from_its_request() {
        let state = held();
        state.renewed(SENT + Duration::from_secs(3), TTL);
        assert_eq!(state.loss(SENT + Duration::from_secs(10)), None);
        assert_eq!(state.loss(SENT + Duration::from_secs(11)), Some(Loss::NotRenewed));
    }

    #[test]
    fn a_lease_given_back_is_not_lost() {
        let state = held();
        state.released();
        assert_eq!(state.loss(SENT + TTL * 2), None);
        assert_eq!(state.status(), Status::Released);
    }
}
