//! Locks as a stranger sees them: own flock(2) calls on an own open file description.

use super::FIXTURE;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Could somebody take this lock now? A file that is missing is held by nobody.
///
/// The look takes the lock for a moment, shared, so that two looks never see each other.
#[track_caller]
pub fn lock_is_free(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) else {
        assert!(!path.exists(), "cannot open {}", path.display());
        return true;
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => true,
        Err((_, Errno::EWOULDBLOCK)) => false,
        Err((_, error)) => panic!("flock {}: {error}", path.display()),
    }
}

/// For `eventually`: the lock is free, or the words that say it is not.
pub fn held(path: &Path) -> Result<(), String> {
    if lock_is_free(path) { Ok(()) } else { Err(format!("{} is held", path.display())) }
}

/// An exclusive lock in the hands of a process of its own, as another run would hold it; freed on drop.
///
/// Not in ours: we are an ancestor of every guard here, and a guard borrows its ancestor's lock.
#[derive(Debug)]
pub struct FileLock(Child);

impl FileLock {
    /// Takes it at once, or panics; makes the file where it is missing.
    #[track_caller]
    pub fn take(path: &Path) -> Self {
        Self::try_take(path).unwrap_or_else(|| panic!("{} is held", path.display()))
    }

    /// Takes it, or `None` when somebody has it.
    pub fn try_take(path: &Path) -> Option<Self> {
        let mut command = Command::new(FIXTURE);
        command.arg("hold-lock").arg(path).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut lock = Self(command.spawn().expect("the fixture starts"));
        let said = BufReader::new(lock.0.stdout.take().expect("a pipe")).lines().next();
        // Without a word it has ended: held by somebody else.
        said.is_some_and(|line| line.is_ok()).then_some(lock)
    }

    /// Who has it.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
