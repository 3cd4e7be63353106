//! Locks of open file descriptions: flock(2), and those that can be asked for without being taken (fcntl(2), F_OFD_SETLK
//! and F_OFD_GETLK).
//!
//! Forked processes share both, and the last close frees them. With the second kind a look leaves nothing behind that
//! somebody else could take for a lock. A call that was interrupted (EINTR) is made again: std's own are not.

use std::fs::{File, TryLockError};
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Takes the flock(2) of a file, alone, if that needs no waiting.
///
/// # Errors
/// Somebody has it; or ENOLCK.
pub fn try_flock(file: &File) -> Result<(), TryLockError> {
    loop {
        match file.try_lock() {
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The same, shared with others that share it.
///
/// # Errors
/// See [`try_flock`].
pub fn try_flock_shared(file: &File) -> Result<(), TryLockError> {
    loop {
        match file.try_lock_shared() {
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Waits in the kernel's queue until `lock`, of std's, has the flock(2).
///
/// # Errors
/// ENOLCK.
pub fn wait_for_flock(lock: impl Fn() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// What kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Many may have it.
    Shared,
    /// One alone may have it; takes a file that is open for writing.
    Exclusive,
}

fn request(kind: Kind) -> libc::flock {
    let kind = match kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
    };
    // The whole file, however long it gets.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes a lock if that needs no waiting; tells whether it did.
pub fn try_lock(file: &File, kind: Kind) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&request(kind))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes a lock, waiting for it.
pub fn lock(file: &File, kind: Kind) -> io::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&request(kind))) {
            Err(Errno::EINTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}

/// What kind of lock somebody else has, if any has one.
pub fn held(file: &File) -> io::Result<Option<Kind>> {
    let mut answer = request(Kind::Exclusive);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut answer))?;
    Ok(match i32::from(answer.l_type) {
        libc::F_RDLCK => Some(Kind::Shared),
        libc::F_WRLCK => Some(Kind::Exclusive),
        _ => None,
    })
}
