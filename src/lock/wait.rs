//! Waiting for a lock without polling it, and without becoming deaf.
//!
//! A try-lock in a loop starves behind waiters that block (0 of 120 acquisitions), since the kernel serves
//! those in order. A blocking flock(2) in the main thread can't answer a signal or a time limit. So a thread
//! blocks, and the main thread sleeps in `ppoll(2)` with the pipe that the thread's end closes.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use crate::error::Error;
use crate::lock::path::LockDirectory;
use crate::lock::{AppLock, Candidate, cannot_lock};
use crate::sys::{fd, file_lock};

/// Enough for one system call.
const STACK: usize = 64 * 1024;

/// A thread that waits for the lock.
///
/// It can't be called off: a caller that gives up must end the process (the kernel then drops the wait, or
/// the lock that was granted in that very moment). One that forks must [`Waiting::finish`] first.
pub struct Waiting {
    candidate: Candidate,
    thread: JoinHandle<io::Result<()>>,
    granted: OwnedFd,
}

impl Waiting {
    /// Starts to wait.
    ///
    /// # Errors
    /// When there is no memory or descriptor for a thread and its pipe.
    pub fn start(candidate: Candidate) -> io::Result<Self> {
        let (granted, thread_end) = fd::pipe()?;
        let file = candidate.file.try_clone()?;
        let thread = std::thread::Builder::new().name("lock-wait".to_owned()).stack_size(STACK).spawn(move || {
            let result = file_lock::wait_for_flock(|| file.lock());
            drop(thread_end);
            result
        })?;
        Ok(Waiting { candidate, thread, granted })
    }

    /// Becomes readable (end of file) when the wait is over.
    pub fn granted(&self) -> BorrowedFd<'_> {
        self.granted.as_fd()
    }

    /// What is waited for.
    pub fn candidate(&self) -> &Candidate {
        &self.candidate
    }

    /// Joins the thread, once [`Self::granted`] is readable. `None`: the file had been unlinked, start again.
    ///
    /// # Errors
    /// When flock(2) failed (ENOLCK).
    pub fn finish(self, directory: &LockDirectory) -> Result<Option<AppLock>, Error> {
        match self.thread.join() {
            Ok(Ok(())) => Ok(self.candidate.into_lock(directory)),
            Ok(Err(error)) => Err(cannot_lock(&self.candidate.path, &error)),
            Err(_) => Err(cannot_lock(&self.candidate.path, &io::Error::other("the waiting thread ended"))),
        }
    }
}
