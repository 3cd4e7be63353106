//! A directory held open, and what is in it: the path to it may change, the directory stays the same.
//!
//! Nothing here follows a symbolic link in the last component, and nothing that is removed is reached by a path:
//! each step is taken from the directory above (openat(2), unlinkat(2)).

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat, umask};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::{file_lock, procfs};

/// A directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
}

const OPEN: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Directory {
    /// Opens the directory that this path leads to, links and all.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Directory { fd: openat(AT_FDCWD, path, OPEN, Mode::empty())? })
    }

    /// Opens a directory in this one; ENOTDIR or ELOOP for a symbolic link.
    pub fn child(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        Ok(Directory { fd: openat(&self.fd, name.as_ref(), OPEN | OFlag::O_NOFOLLOW, Mode::empty())? })
    }

    /// Makes a directory in this one.
    pub fn make(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
        Ok(with_our_bits(|| mkdirat(&self.fd, name.as_ref(), Mode::from_bits_truncate(mode)))?)
    }

    /// Makes a symbolic link in this directory.
    pub fn link(&self, name: impl AsRef<OsStr>, target: &Path) -> io::Result<()> {
        Ok(symlinkat(target, &self.fd, name.as_ref())?)
    }

    /// Opens a file in this directory. A FIFO or a device in its place does not hold us up.
    pub fn file(&self, name: impl AsRef<OsStr>, flags: OFlag, mode: u32) -> io::Result<File> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        Ok(openat(&self.fd, name.as_ref(), flags, Mode::from_bits_truncate(mode))?.into())
    }

    /// What `name` is, itself where it is a link.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> io::Result<FileStat> {
        Ok(fstatat(&self.fd, name.as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Is `name` a directory, and no link to one?
    pub fn has_directory(&self, name: impl AsRef<OsStr>) -> bool {
        self.stat(name).is_ok_and(|stat| is_directory(&stat))
    }

    /// Is this open file the one that `name` stands for now?
    pub fn is_named(&self, file: &File, name: impl AsRef<OsStr>) -> bool {
        match (fstat(file), self.stat(name)) {
            (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
            _ => false,
        }
    }

    /// All names in it but `.` and `..`, sorted.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        // A description of its own: the position in the listing belongs to the description.
        let mut list = Dir::from_fd(openat(&self.fd, ".", OPEN, Mode::empty())?)?;
        let mut names = Vec::new();
        for entry in list.iter() {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes what is no directory; a link, not what it leads to.
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name.as_ref(), UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes an empty directory.
    pub fn remove_empty(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name.as_ref(), UnlinkatFlags::RemoveDir)?)
    }

    /// Renames into a directory (this one or another), never over something that is there: EEXIST.
    pub fn rename(&self, from: impl AsRef<OsStr>, into: &Directory, to: impl AsRef<OsStr>) -> io::Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        match rename_to_free_name(&self.fd, from, &into.fd, to) {
            // A file system that can't promise it. What is there and not empty still stays (rename(2)).
            Err(Errno::EINVAL | Errno::ENOSYS) => match into.stat(to) {
                Ok(_) => Err(Errno::EEXIST.into()),
                Err(_) => Ok(renameat(&self.fd, from, &into.fd, to)?),
            },
            renamed => Ok(renamed?),
        }
    }

    /// Locks the directory itself (flock(2)), shared with others, for as long as it is open here.
    pub fn lock_shared(&self) -> io::Result<()> {
        let directory = File::from(self.fd.try_clone()?);
        file_lock::wait_for_flock(|| directory.lock_shared())
    }

    /// Locks the directory itself for us alone, if nobody has locked it.
    pub fn try_lock(&self) -> io::Result<bool> {
        match file_lock::try_flock(&File::from(self.fd.try_clone()?)) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Is this directory the one that `name` in `parent` stands for now?
    pub fn is_child(&self, parent: &Directory, name: impl AsRef<OsStr>) -> bool {
        match (fstat(&self.fd), parent.stat(name)) {
            (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
            _ => false,
        }
    }

    /// Lets others than its owner look into the directory.
    pub fn open_to_all(&self) -> io::Result<()> {
        Ok(fchmod(&self.fd, Mode::from_bits_truncate(0o755))?)
    }

    /// The first mount on a directory in this one, or below it.
    pub fn mount_below(&self, name: impl AsRef<OsStr>) -> io::Result<Option<PathBuf>> {
        let mounts = procfs::mount_points()?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.as_raw_fd()))?.join(name.as_ref());
        Ok(mounts.into_iter().find(|mount| mount.starts_with(&path)))
    }

    /// Removes a directory in this one with all that is in it.
    ///
    /// No link is followed and no mount crossed: where another file system, or a part of this one, is mounted below,
    /// what is there stays, and so do the directories above it. Bottom up, so what is left after a fault or a kill is
    /// a smaller tree of the same shape; names in `last` go when all beside them is gone, so that a mark outlives what it
    /// marks.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub fn remove_tree(&self, name: &OsStr, last: &[&str]) -> io::Result<()> {
        let tree = self.child(name)?;
        let mount = procfs::mount_of(tree.as_raw_fd())?;
        if mount != procfs::mount_of(self.as_raw_fd())? {
            return Err(io::Error::other("a file system is mounted on it"));
        }
        // What lay too deep comes up to the top, and is emptied in the next round.
        while !tree.empty(mount, last, &tree, 0)? {}
        self.remove_empty(name)
    }

    /// Empties this directory; false when something was moved to `top`, which is the root of the tree.
    fn empty(&self, mount: u64, last: &[&str], top: &Directory, depth: u32) -> io::Result<bool> {
        if procfs::mount_of(self.as_raw_fd())? != mount {
            return Err(self.at(OsStr::new(""), io::Error::other("a file system is mounted there")));
        }
        // A directory without write permission is one more file that its owner wants removed.
        if fstat(&self.fd).is_ok_and(|stat| stat.st_mode & 0o700 != 0o700) {
            let _ = fchmod(&self.fd, Mode::S_IRWXU);
        }
        let mut names = self.names()?;
        names.sort_by_key(|name| last.iter().any(|last| name == last));
        let mut all = true;
        for name in names {
            if !self.has_directory(&name) {
                gone_is_fine(self.unlink(&name)).map_err(|error| self.at(&name, error))?;
            } else if depth >= DEEPEST {
                top.take_in(self, &name)?;
                all = false;
            } else if let Some(child) =
                gone_is_fine(self.child_to_empty(&name)).map_err(|error| self.at(&name, error))?
            {
                all &= child.empty(mount, last, top, depth + 1)?;
                gone_is_fine(self.remove_empty(&name)).map_err(|error| self.at(&name, error))?;
            }
        }
        Ok(all)
    }

    /// An error, and where it was met.
    fn at(&self, name: &OsStr, error: io::Error) -> io::Error {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.as_raw_fd())).unwrap_or_default().join(name);
        io::Error::new(error.kind(), format!("'{}': {error}", path.display()))
    }

    /// Opens a directory that its owner has closed to himself, too.
    fn child_to_empty(&self, name: &OsStr) -> io::Result<Directory> {
        match self.child(name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let closed = openat(&self.fd, name, flags, Mode::empty())?;
                // fchmod(2) takes no O_PATH descriptor, and a name could be another's by now: its own entry in /proc is it.
                let entry = format!("/proc/self/fd/{}", closed.as_raw_fd());
                fchmodat(AT_FDCWD, entry.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
                self.child(name)
            }
            opened => opened,
        }
    }

    /// Moves a directory from `from` into this one, under a name that is free.
    fn take_in(&self, from: &Directory, name: &OsStr) -> io::Result<()> {
        let free = (0..).map(|n: u64| format!("deep-{n}")).find(|free| self.stat(free).is_err()).unwrap_or_default();
        from.rename(name, self, free)
    }
}

/// renameat2(2) with RENAME_NOREPLACE. As a bare system call, since nix has it with glibc alone.
fn rename_to_free_name(from: &OwnedFd, name: &OsStr, into: &OwnedFd, to: &OsStr) -> nix::Result<()> {
    let (from, into) = (from.as_raw_fd(), into.as_raw_fd());
    let renamed = name.with_nix_path(|name| {
        // SAFETY: both names are strings that end with a zero byte and outlive the call; descriptors are plain numbers.
        to.with_nix_path(|to| unsafe {
            libc::syscall(libc::SYS_renameat2, from, name.as_ptr(), into, to.as_ptr(), libc::RENAME_NOREPLACE)
        })
    })??;
    Errno::result(renamed).map(drop)
}

/// So many directories are open at a time, at most; a process may have some hundred more (RLIMIT_NOFILE).
const DEEPEST: u32 = 100;

fn gone_is_fine<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// An error of opening a last component without following it, in words.
pub fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => io::Error::other("it is a symbolic link, which is not followed"),
        Some(Errno::ENOTDIR) => io::Error::other("it is no directory; a symbolic link is not followed"),
        _ => error,
    }
}

fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Directory {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Makes a directory that we can use whatever the caller's umask is: one that takes the owner's own bits away is for the
/// harness's files. Precondition: this process has one thread, since the umask is the process's.
///
/// # Errors
/// Those of mkdir(2).
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    with_our_bits(|| DirBuilder::new().mode(mode).create(path))
}

fn with_our_bits<T>(make: impl FnOnce() -> T) -> T {
    let given = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    umask(given & !Mode::S_IRWXU);
    let made = make();
    umask(given);
    made
}
