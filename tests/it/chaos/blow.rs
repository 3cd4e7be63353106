//! One blow: who is killed or stopped, when, under what kind of harness, and which exit status is then the truth.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::round::TEARDOWN;
use crate::support::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Monitor,
    Supervisor,
    Harness,
    Grandchild,
    Worker,
    Command,
}

pub const VICTIMS: [Victim; 6] =
    [Victim::Monitor, Victim::Supervisor, Victim::Harness, Victim::Grandchild, Victim::Worker, Victim::Command];

/// What is done to whom, and when.
#[derive(Clone, Copy, Debug)]
pub struct Blow {
    pub victim: Victim,
    pub signal: Signal,
    /// After the start of the run; for the worker and its command: after their own.
    pub moment: Duration,
    /// The harness ends by itself after this, unless it waits for the deadline.
    pub life: Option<Duration>,
    pub code: i32,
}

impl Blow {
    pub fn random(random: &mut Random) -> Self {
        let victim = VICTIMS[random.below(6) as usize];
        let signal = if random.below(2) == 0 { Signal::SIGKILL } else { Signal::SIGSTOP };
        Self::to(victim, signal, random)
    }

    pub fn to(victim: Victim, signal: Signal, random: &mut Random) -> Self {
        let life = Duration::from_millis(20) + random.time_below(Duration::from_millis(400));
        let life = (random.below(4) > 0).then_some(life);
        let run = life.unwrap_or(Duration::from_secs(2));
        let (from, span) = match (victim, random.below(3)) {
            (Victim::Worker | Victim::Command, _) => (Duration::ZERO, TEARDOWN + Duration::from_millis(20)),
            // The start, with its many steps in few milliseconds, and the teardown get as many blows as all the rest.
            (_, 0) => (Duration::ZERO, Duration::from_millis(25)),
            (Victim::Monitor | Victim::Supervisor, 1) => (run, TEARDOWN),
            _ => (Duration::ZERO, run),
        };
        let moment = from + random.time_below(span);
        Self { victim, signal, moment, life, code: [0, 3][random.below(2) as usize] }
    }

    /// With a harness that does not end by itself.
    pub fn for_ever(self) -> Self {
        Self { life: None, ..self }
    }

    /// The statuses that tell the truth about the first cause, where the monitor lived to tell it.
    pub fn truthful(&self, hit: bool, deadline_passed: bool) -> Vec<i32> {
        // On a busy machine a short life, too, may last until the deadline.
        let natural = if deadline_passed { 142 } else { self.code };
        match (self.victim, self.signal) {
            _ if !hit => vec![natural],
            (Victim::Supervisor, Signal::SIGKILL) => vec![137, natural],
            (Victim::Harness, Signal::SIGKILL) => vec![137, natural],
            _ => vec![natural],
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { victim, signal, moment, life, code } = self;
        write!(f, "{signal} to the {victim:?} after {moment:?}, harness ends {life:?} with {code}")
    }
}
