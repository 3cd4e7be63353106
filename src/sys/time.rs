//! Time that goes on while the machine sleeps: CLOCK_BOOTTIME, see clock_gettime(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Time since the machine was started.
pub fn now() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Seconds since 1970, and the part below.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Lets this much time pass; signals are delivered meanwhile.
pub fn pause(delay: Duration) {
    let until = now() + delay;
    let Ok(mut alarm) = Alarm::new() else { return };
    alarm.set(Some(until));
    while now() < until {
        super::fd::wait(&[alarm.as_fd()]);
    }
}

/// One alarm clock as a descriptor (timerfd_create(2)), set to a moment of [`now`].
pub struct Alarm {
    timer: TimerFd,
    set_to: Option<Duration>,
}

impl Alarm {
    /// A clock that isn't set.
    ///
    /// # Errors
    /// What timerfd_create(2) gives, and timerfd_settime(2): where that is filtered, a deadline would never come.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        timer.unset()?;
        Ok(Alarm { timer, set_to: None })
    }

    /// Sets it to this moment, or off. Costs nothing when it is set so already.
    pub fn set(&mut self, moment: Option<Duration>) {
        if moment == self.set_to {
            return;
        }
        self.set_to = moment;
        // It was unset once: an own, valid timer can be set.
        let _ = match moment {
            // A moment of zero would switch the timer off.
            Some(at) => self.timer.set(
                Expiration::OneShot(TimeSpec::from(at.max(Duration::from_nanos(1)))),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            ),
            None => self.timer.unset(),
        };
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
