//! The app lock: a flock(2) on one file per app, which says that the app is somebody's.
//!
//! It promises mutual exclusion between processes of one host that follow the same rule (also the Python
//! harness's own lock, which is the same file). It does *not* promise that its holder is alive and well, and
//! nothing written in the file decides anything: only the flock does. `docs/design/lock.md` tells why each
//! step is there.
//!
//! A flock belongs to the open file description, which monitor, supervisor, worker and harness share: it is
//! held until the last of them has closed it. So a dropped [`AppLock`] closes and never unlocks;
//! [`AppLock::release`] is the one explicit end, called by the last guard process of a run.

#![forbid(unsafe_code)]

pub mod handoff;
pub mod holder;
pub mod path;
pub mod wait;

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::app::AppName;
use crate::error::Error;
use crate::lock::holder::HolderLine;
use crate::lock::path::LockDirectory;
use crate::settings;
use crate::sys::procfs::{self, FileId, LockTable};
use crate::sys::{fd, file_lock};

/// A held lock.
#[derive(Debug)]
pub struct AppLock {
    app: AppName,
    path: PathBuf,
    id: FileId,
    hold: Hold,
    /// The file was made by the attempt that took it.
    created: bool,
    /// The fencing token of the cluster lock that goes with it.
    token: Option<i64>,
}

#[derive(Debug)]
enum Hold {
    /// Taken by this run.
    Own(File),
    /// Held by a run above us, which handed us the description.
    Borrowed(File),
    /// Held by an ancestor, whose descriptor we don't have.
    Ancestor,
}

/// What an attempt to take a lock gave.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Acquired(AppLock),
    /// Somebody else holds it; the open file is what to wait on.
    Held(Candidate),
}

/// An opened lock file that isn't locked yet.
#[derive(Debug)]
pub struct Candidate {
    app: AppName,
    path: PathBuf,
    id: FileId,
    file: File,
    /// When its line was last written, at the time of opening.
    modified: Option<SystemTime>,
    created: bool,
}

/// Does the lock still protect the app?
#[derive(Debug, PartialEq, Eq)]
pub enum StillOurs {
    /// Nothing happened to it.
    Yes,
    /// It had been lost, nobody else had taken it, and it is ours again.
    Again(&'static str),
    /// It is another's now, or can't be told: keep off. The reason is the end of a sentence.
    No(&'static str),
}

/// Tries to take the lock once, without waiting.
///
/// # Errors
/// When the file can't be opened or isn't what a lock file must be.
pub fn try_acquire(directory: &LockDirectory, app: &AppName) -> Result<Attempt, Error> {
    loop {
        let Some(candidate) = directory.open(app, true)? else { continue };
        match file_lock::try_flock(&candidate.file) {
            Ok(()) => {
                if let Some(lock) = candidate.into_lock(directory) {
                    return Ok(Attempt::Acquired(lock));
                }
            }
            Err(TryLockError::WouldBlock) => return Ok(Attempt::Held(candidate)),
            Err(TryLockError::Error(error)) => return Err(cannot_lock(&candidate.path, &error)),
        }
    }
}

/// Tries to take the lock of an app that has a lock file, and makes none; `None`: it has none.
///
/// # Errors
/// See [`try_acquire`].
pub fn try_acquire_existing(directory: &LockDirectory, app: &AppName) -> Result<Option<Attempt>, Error> {
    loop {
        let Some(candidate) = directory.open(app, false)? else { return Ok(None) };
        match file_lock::try_flock(&candidate.file) {
            Ok(()) => {
                if let Some(lock) = candidate.into_lock(directory) {
                    return Ok(Some(Attempt::Acquired(lock)));
                }
            }
            Err(TryLockError::WouldBlock) => return Ok(Some(Attempt::Held(candidate))),
            Err(TryLockError::Error(error)) => return Err(cannot_lock(&candidate.path, &error)),
        }
    }
}

fn cannot_lock(path: &Path, error: &io::Error) -> Error {
    Error::LockFile { path: path.to_owned(), problem: format!("can't be locked: {error}") }
}

impl Candidate {
    /// After a grant: is this still the file that the name stands for?
    ///
    /// A janitor may have unlinked it while we waited, and a newcomer made a new one: without this check
    /// both would hold "the" lock. `None` means: start again.
    fn into_lock(self, directory: &LockDirectory) -> Option<AppLock> {
        let named = directory.identity_of(self.path.file_name().unwrap_or_default());
        if named != Some(self.id) && !settings::test_switch("CCCI_TEST_NO_INODE_CHECK") {
            return None;
        }
        let Candidate { app, path, id, file, created, .. } = self;
        Some(AppLock { app, path, id, hold: Hold::Own(file), created, token: None })
    }

    /// Who holds it, for people.
    pub fn holder(&self) -> holder::Holder {
        let modified = self.file.metadata().and_then(|metadata| metadata.modified()).ok();
        holder::look(&self.file, modified, procfs::flock_taker(self.id))
    }

    /// The same, for one of many: who took which lock was read before.
    pub fn holder_in(&self, table: &LockTable) -> holder::Holder {
        holder::look(&self.file, self.modified, table.taker(self.id))
    }

    /// The app it is the lock of.
    pub fn app(&self) -> &AppName {
        &self.app
    }
}

/// Does anybody hold the lock of this file? A look for those who don't want it, and must not be in anybody's way.
pub fn is_held(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|file| procfs::is_flocked(FileId { device: file.dev(), inode: file.ino() }))
}

impl AppLock {
    /// The app it protects.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the lock file, as a harness can check them.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Is it the lock of a run above this one?
    pub fn is_borrowed(&self) -> bool {
        !matches!(self.hold, Hold::Own(_))
    }

    /// Says which cluster lock goes with it.
    pub fn set_token(&mut self, token: Option<i64>) {
        self.token = token;
    }

    fn file(&self) -> Option<&File> {
        match &self.hold {
            Hold::Own(file) | Hold::Borrowed(file) => Some(file),
            Hold::Ancestor => None,
        }
    }

    /// Writes who we are into the file: a hint for people. A full disk costs the hint, not the lock.
    pub fn record(&self, line: &HolderLine) {
        if let Hold::Own(file) = &self.hold {
            // Cut to length after the write, not to nothing before it: ext4 writes a file that was emptied to disk
            // when it is closed (auto_da_alloc, ext4(5)), and would have every run wait for that.
            let line = line.to_json();
            let written = file.write_all_at(line.as_bytes(), 0).and_then(|()| file.set_len(line.len() as u64));
            if written.is_err() {
                self.mark_taken();
            }
        }
    }

    /// Says that the lock was taken now, where no line is written: how long a lock has been held is told from the
    /// file's modification time.
    pub fn mark_taken(&self) {
        if let Hold::Own(file) = &self.hold {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// A duplicate with a high number, close-on-exec until the child that hands it on says otherwise.
    ///
    /// # Errors
    /// EMFILE of fcntl(2).
    pub fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        self.file().map(|file| fd::duplicate_above(file, fd::HANDED_OVER)).transpose()
    }

    /// Did taking this lock make its file?
    pub fn made_its_file(&self) -> bool {
        self.created
    }

    /// Removes the lock file, under the lock: whoever waits on it finds, once it has it, that it is not the one
    /// that the name stands for. Never done by a run.
    pub fn unlink(&self, directory: &LockDirectory) {
        directory.unlink(&self.app, self.id);
    }

    /// Frees the lock, also where a forgotten process still has the description open.
    pub fn release(&self) {
        if let Hold::Own(file) = &self.hold {
            let _ = file.unlock();
        }
    }

    /// Looks whether the lock still protects the app, and takes it again where it was lost and is free.
    ///
    /// Anyone who shares the description can unlock it by mistake (LOCK_UN frees it for all), and anyone may
    /// rename or remove the file. Called before each destructive step.
    pub fn still_ours(&mut self, directory: &LockDirectory) -> StillOurs {
        let Some(file) = self.file() else { return StillOurs::Yes };
        let mut verdict = StillOurs::Yes;
        let shown = procfs::shows_flock("self", file.as_raw_fd());
        if shown != Some(true) {
            match file_lock::try_flock(file) {
                // Without /proc nobody can tell whether this took it or found it taken by us.
                Ok(()) if shown.is_none() => {}
                Ok(()) => verdict = StillOurs::Again("somebody had unlocked it"),
                Err(_) => return StillOurs::No("somebody unlocked it and another run has taken it"),
            }
        }
        // By its path, as newcomers find it: the directory may have been replaced, or another mounted over it.
        match self.path.symlink_metadata() {
            Ok(named) if (named.dev(), named.ino()) == (self.id.device, self.id.inode) => verdict,
            Ok(_) => StillOurs::No("its lock file was replaced by another"),
            Err(_) => match LockDirectory::open_or_create(directory.path()) {
                Ok(current) => self.take_name_again(&current),
                Err(_) => StillOurs::No("its lock directory can't be used any more"),
            },
        }
    }

    /// The file was removed under us: newcomers would make a new one and not see our lock. So take the name.
    fn take_name_again(&mut self, directory: &LockDirectory) -> StillOurs {
        match try_acquire(directory, &self.app) {
            Ok(Attempt::Acquired(again)) if !self.is_borrowed() => {
                // Both descriptions stay locked: some process may still wait on the old one.
                if let Hold::Own(old) = std::mem::replace(&mut self.hold, again.hold) {
                    std::mem::forget(old);
                }
                self.id = again.id;
                StillOurs::Again("its lock file had been removed")
            }
            Ok(Attempt::Acquired(_)) => StillOurs::No("its lock file was removed"),
            _ => StillOurs::No("its lock file was removed and another run has made a new one"),
        }
    }
}
