//! Handing a held lock down to a harness, and finding one that was handed down to us.
//!
//! A nested guard of the same app would wait for its own ancestor for ever. So it borrows: the descriptor
//! that the environment names, when that is the right file and we can lock it (a no-op that proves that we
//! share it); else, where an ancestor's `fdinfo` shows the lock, nothing but the knowledge that it is held.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::stat::fstat;

use crate::app::AppName;
use crate::lock::path::LockDirectory;
use crate::lock::{AppLock, Candidate, Hold};
use crate::settings::{HandedLock, lock_variable};
use crate::sys::procfs::{self, FileId};
use crate::sys::{fd, file_lock};

/// Locks as they are handed to a child: a duplicate of each description, and the variables that tell of it.
///
/// A duplicate, so that a harness that closes it, or makes it non-inheritable, changes nothing of ours.
#[derive(Debug)]
pub struct Handed {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    app: String,
    path: OsString,
    id: String,
    fd: Option<OwnedFd>,
    token: Option<i64>,
}

impl Handed {
    /// Duplicates the descriptors; they stay close-on-exec until [`Handed::keep_over_exec`].
    ///
    /// # Errors
    /// EMFILE of fcntl(2).
    pub fn new<'a>(locks: impl Iterator<Item = &'a AppLock>) -> io::Result<Self> {
        let entry = |lock: &AppLock| {
            Ok(Entry {
                app: lock.app().to_string(),
                path: lock.path().as_os_str().to_owned(),
                id: lock.id().to_string(),
                fd: lock.duplicate()?,
                token: lock.token,
            })
        };
        Ok(Handed { entries: locks.map(entry).collect::<io::Result<_>>()? })
    }

    /// In the child that is about to exec.
    pub fn keep_over_exec(&self) {
        for entry in &self.entries {
            if let Some(fd) = &entry.fd {
                // Can't fail for a descriptor that we own.
                let _ = fd::keep_over_exec(fd);
            }
        }
    }

    /// The variables; none where there is no lock.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let list = |text: fn(&Entry) -> OsString| {
            let mut joined = OsString::new();
            for (index, entry) in self.entries.iter().enumerate() {
                if index > 0 {
                    joined.push(",");
                }
                joined.push(text(entry));
            }
            joined
        };
        let number = |entry: &Entry| entry.fd.as_ref().map(|fd| fd.as_raw_fd().to_string()).unwrap_or_default().into();
        let token = |entry: &Entry| entry.token.map(|token| token.to_string()).unwrap_or_default().into();
        let mut variables = vec![
            (lock_variable::APPS, list(|entry| entry.app.clone().into())),
            (lock_variable::FDS, list(number)),
            (lock_variable::PATHS, list(|entry| entry.path.clone())),
            (lock_variable::IDS, list(|entry| entry.id.clone().into())),
        ];
        if self.entries.iter().any(|entry| entry.token.is_some()) {
            variables.push((lock_variable::TOKENS, list(token)));
        }
        variables
    }
}

/// The lock that a run above us handed down, if that is still the lock of this app.
pub fn handed_down(directory: &LockDirectory, app: &AppName, handed: &[HandedLock]) -> Option<AppLock> {
    let mut ours = handed.iter().filter(|handed| handed.app == app.as_str()).peekable();
    ours.peek()?;
    let id = directory.identity(app)?;
    let (file, token) = ours
        .filter(|handed| handed.id == id.to_string())
        .find_map(|handed| Some((shared_description(handed.fd?, id)?, handed.token)))?;
    Some(AppLock { app: app.clone(), path: directory.file(app), id, hold: Hold::Borrowed(file), created: false, token })
}

/// The lock that somebody holds, if that is an ancestor of ours. Looked for only then: it takes a while.
pub fn held_by_ancestor(candidate: &Candidate) -> Option<AppLock> {
    let Candidate { app, path, id, .. } = candidate;
    let held = procfs::ancestors().into_iter().any(|pid| procfs::holds_flock(pid, *id));
    let hold = Hold::Ancestor;
    held.then(|| AppLock { app: app.clone(), path: path.clone(), id: *id, hold, created: false, token: None })
}

fn shared_description(number: i32, id: FileId) -> Option<File> {
    let inherited = fd::inherited(number)?;
    let stat = fstat(inherited).ok()?;
    if (FileId { device: stat.st_dev, inode: stat.st_ino }) != id {
        return None;
    }
    let file = File::from(fd::duplicate_above(&inherited, fd::HANDED_OVER).ok()?);
    // The right file through another description is no proof: then this fails, since the real one is locked.
    // Without a holder it would take the lock; that is an abandoned run's, and ours is the one that lives.
    file_lock::try_flock(&file).ok().map(|()| file)
}
