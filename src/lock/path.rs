//! Where lock files are, and how one is opened without being fooled.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Uid, UnlinkatFlags, geteuid, unlinkat};

use crate::app::AppName;
use crate::error::Error;
use crate::lock::Candidate;
use crate::sys::directory::make_directory;
use crate::sys::fd;
use crate::sys::procfs::FileId;

/// File systems whose flock(2) is not, or not always, seen by the server's other clients (statfs(2)).
const NETWORK_FILE_SYSTEMS: [(FsType, &str); 8] = [
    (FsType(0x6969), "NFS"),
    (FsType(0x517b), "SMB"),
    (FsType(0xff53_4d42), "CIFS"),
    (FsType(0xfe53_4d42), "SMB2"),
    (FsType(0x0102_1997), "9P"),
    (FsType(0x00c3_6400), "Ceph"),
    (FsType(0x5346_414f), "AFS"),
    (FsType(0x7375_7245), "Coda"),
];

/// The lock file of an app in this directory.
pub fn of(directory: &Path, app: &AppName) -> PathBuf {
    directory.join(file_name(app))
}

/// The directory of the lock files, kept open: it stays the same one when its path changes.
#[derive(Debug)]
pub struct LockDirectory {
    fd: OwnedFd,
    user: Uid,
    path: PathBuf,
}

impl LockDirectory {
    /// Opens the directory, making its last component (0700) where that is missing.
    ///
    /// # Errors
    /// When it can't be opened, or is on a network file system, where the lock would exclude nobody elsewhere.
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        let problem = |problem: String| Error::LockDirectory { path: path.to_owned(), problem };
        let fd = match fd::directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match make_directory(path, 0o700) {
                    Ok(()) => fd::directory(path),
                    // Another guard may have been faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fd::directory(path),
                    Err(error) => return Err(problem(format!("can't be made: {}", describe(&error)))),
                }
            }
            other => other,
        }
        .map_err(|error| problem(format!("can't be opened: {}", describe(&error))))?;
        LockDirectory::checked(fd, path)
    }

    /// Opens the directory as it is; `None` where there is none.
    ///
    /// # Errors
    /// See [`Self::open_or_create`].
    pub fn open_existing(path: &Path) -> Result<Option<Self>, Error> {
        match fd::directory(path) {
            Ok(fd) => LockDirectory::checked(fd, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::LockDirectory {
                path: path.to_owned(),
                problem: format!("can't be opened: {}", describe(&error)),
            }),
        }
    }

    fn checked(fd: OwnedFd, path: &Path) -> Result<Self, Error> {
        let problem = |problem: String| Error::LockDirectory { path: path.to_owned(), problem };
        let kind = fstatfs(&fd).map(|stat| stat.filesystem_type());
        if let Some((_, name)) = NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| kind.as_ref() == Ok(known)) {
            return Err(problem(format!("is on {name}, where a lock may not exclude other hosts and may get lost")));
        }
        Ok(LockDirectory { fd, user: geteuid(), path: path.to_owned() })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock file of an app.
    pub fn file(&self, app: &AppName) -> PathBuf {
        of(&self.path, app)
    }

    /// Which file the app's name stands for now.
    pub fn identity(&self, app: &AppName) -> Option<FileId> {
        self.identity_of(OsStr::new(&file_name(app)))
    }

    /// Which file this name stands for now.
    pub(super) fn identity_of(&self, name: &OsStr) -> Option<FileId> {
        let stat = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some(FileId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Removes the app's lock file, if it still is this one. Only for who holds its lock.
    pub(super) fn unlink(&self, app: &AppName, id: FileId) {
        if self.identity(app) == Some(id) {
            let _ = unlinkat(&self.fd, file_name(app).as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }

    /// The path of an app's lock file as `/proc` shows it: without symbolic links on the way.
    pub fn real_file(&self, app: &AppName) -> PathBuf {
        self.path.canonicalize().unwrap_or_else(|_| self.path.clone()).join(file_name(app))
    }

    /// Opens the app's lock file, making it (0600) where it is missing and `create` says so; `None`: it is missing.
    /// Nothing is ever truncated.
    pub(super) fn open(&self, app: &AppName, create: bool) -> Result<Option<Candidate>, Error> {
        // Made once: a round of the janitor comes here thousands of times.
        let name = file_name(app);
        let path = self.path.join(&name);
        loop {
            let (file, created) = match self.open_once(&name, create) {
                Err(Errno::ENOENT) if !create => return Ok(None),
                opened => opened.map_err(|errno| self.open_error(&path, errno))?,
            };
            let metadata = file
                .metadata()
                .map_err(|error| Error::LockFile { path: path.clone(), problem: format!("can't be read: {error}") })?;
            if metadata.nlink() == 0 {
                // A janitor unlinked it after we had opened it.
                continue;
            }
            if let Some(problem) = unfit(&metadata, self.user) {
                return Err(Error::LockFile { path, problem });
            }
            let id = FileId { device: metadata.dev(), inode: metadata.ino() };
            let modified = metadata.modified().ok();
            return Ok(Some(Candidate { app: app.clone(), path, id, file, modified, created }));
        }
    }

    /// The file, and whether it was made.
    fn open_once(&self, name: &str, create: bool) -> Result<(File, bool), Errno> {
        // O_NONBLOCK: a FIFO or a device in its place must not hold us up.
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        loop {
            // Without O_CREAT first: fs.protected_regular denies O_CREAT on another user's file in a sticky
            // directory even to root (proc_sys_fs(5)).
            match openat(&self.fd, name, flags, Mode::empty()) {
                Err(Errno::ENOENT) if create => {}
                other => return other.map(|fd| (File::from(fd), false)),
            }
            let create = flags | OFlag::O_CREAT | OFlag::O_EXCL;
            match openat(&self.fd, name, create, Mode::S_IRUSR | Mode::S_IWUSR) {
                Err(Errno::EEXIST) => {}
                other => return other.map(|fd| (File::from(fd), true)),
            }
        }
    }

    fn open_error(&self, path: &Path, errno: Errno) -> Error {
        let file = |problem: &str| Error::LockFile { path: path.to_owned(), problem: problem.to_owned() };
        match errno {
            Errno::ELOOP => file("is a symbolic link, which a lock file may not be; remove it"),
            Errno::EISDIR => file("is a directory, which a lock file may not be; remove it"),
            Errno::ENXIO | Errno::EOPNOTSUPP => file("is a socket or device, which a lock file may not be; remove it"),
            Errno::EACCES if path.symlink_metadata().is_ok() => {
                file("belongs to somebody else and can't be opened; run as its owner, or set CCCI_APP_LOCK_DIR")
            }
            Errno::EACCES | Errno::EPERM | Errno::EROFS => Error::LockDirectory {
                path: self.path.clone(),
                problem: format!("can't be written to: {}", errno.desc()),
            },
            other => Error::LockDirectory {
                path: self.path.clone(),
                problem: format!("gave no lock file: {}", other.desc()),
            },
        }
    }
}

/// The name that a file in the lock directory stands for, if it is a lock file; it may be no domain.
pub fn app_of(file_name: &OsStr) -> Option<String> {
    let name = file_name.to_string_lossy();
    Some(name.strip_prefix("cc-ci-app-")?.strip_suffix(".lock")?.to_owned())
}

fn describe(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |raw| Errno::from_raw(raw).desc().to_owned())
}

/// `cc-ci-app-<domain>.lock`: the file that the Python harness locks too.
fn file_name(app: &AppName) -> String {
    format!("cc-ci-app-{app}.lock")
}

/// Why this can't serve as a lock file, if it can't.
fn unfit(metadata: &std::fs::Metadata, user: Uid) -> Option<String> {
    let kind = metadata.file_type();
    let what = if kind.is_fifo() {
        "is a FIFO, which a lock file may not be; remove it"
    } else if kind.is_dir() {
        "is a directory, which a lock file may not be; remove it"
    } else if !kind.is_file() {
        "is a device, which a lock file may not be; remove it"
    } else if metadata.nlink() > 1 {
        "has several hard links, so that another file would be changed with it; remove it"
    } else if !user.is_root() && metadata.uid() != 0 && metadata.uid() != user.as_raw() {
        "belongs to another user; run as its owner, or set CCCI_APP_LOCK_DIR"
    } else {
        return None;
    };
    Some(what.to_owned())
}
