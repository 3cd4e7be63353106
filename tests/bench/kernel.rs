//! The system calls that neither std nor nix has: a descriptor that becomes readable when a process ends, and a place at the
//! head of the queue.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// Puts this process, but none that it starts, ahead of all others until it is dropped, so that what it waits for is seen at
/// once. Takes root; without, what is seen late makes a time too short.
pub struct Closely {
    policy: i32,
    parameter: libc::sched_param,
}

#[expect(unsafe_code, reason = "sched_setscheduler(2) has no safe wrapper at hand")]
impl Closely {
    pub fn watch() -> Self {
        // SAFETY: valid parameters that outlive the calls, for this process (0).
        unsafe {
            let mut before: libc::sched_param = std::mem::zeroed();
            libc::sched_getparam(0, &mut before);
            let closely = Self { policy: libc::sched_getscheduler(0), parameter: before };
            let mut ahead = before;
            ahead.sched_priority = 50;
            libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &ahead);
            closely
        }
    }
}

#[expect(unsafe_code, reason = "as above")]
impl Drop for Closely {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::sched_setscheduler(0, self.policy, &self.parameter) };
    }
}

/// A pidfd; polling it wakes this process the moment the other one ends, with no interval of a polling loop in the figure.
pub struct Pidfd(OwnedFd);

impl Pidfd {
    #[expect(unsafe_code, reason = "pidfd_open(2) has no safe wrapper at hand")]
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: a plain system call without pointers; a result that is not -1 is a new descriptor that nobody else owns.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, libc::pid_t::try_from(pid).unwrap(), 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())))
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// When it has not within `limit`.
    pub fn wait(&self, limit: Duration) {
        let timeout = PollTimeout::try_from(limit).unwrap();
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, timeout), Ok(1), "the process did not end within {limit:?}");
    }

    /// Waits until one of these processes has ended.
    ///
    /// # Panics
    /// When none has within `limit`.
    pub fn wait_for_any(pidfds: &[Self], limit: Duration) {
        let timeout = PollTimeout::try_from(limit).unwrap();
        let mut fds: Vec<_> = pidfds.iter().map(|pidfd| PollFd::new(pidfd.0.as_fd(), PollFlags::POLLIN)).collect();
        assert!(poll(&mut fds, timeout).is_ok_and(|ready| ready > 0), "no process ended within {limit:?}");
    }
}
