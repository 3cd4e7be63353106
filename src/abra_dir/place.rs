//! Where an ABRA_DIR is, and how one that is there is found: `<runs dir>/<run id>/abra`, held open step by step.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::unistd::getpid;

use crate::abra_dir::mark::{MARK, MARKS, Mark, Marked};
use crate::app::RunId;
use crate::error::Error;
use crate::sys::directory::{self, Directory, make_directory};

/// The ABRA_DIR's name in the run's directory.
pub const NAME: &str = "abra";
/// The name of one that is being built or removed; it is never taken for a whole one.
pub const UNFINISHED: &str = ".ccci-guard-abra-";

/// `<runs dir>/<run id>`: the harness's own, but for what bears our mark.
#[derive(Debug)]
pub struct RunDirectory {
    runs: Directory,
    name: OsString,
    /// The directory.
    pub directory: Directory,
    /// Its path: absolute, no trailing slash.
    pub path: PathBuf,
}

impl RunDirectory {
    /// Opens it. ENOENT where there is none, ENOTDIR or ELOOP where it is something else.
    pub fn open(runs_dir: &Path, id: &str) -> io::Result<Self> {
        let runs = Directory::open(runs_dir)?;
        Ok(RunDirectory { directory: runs.child(id)?, runs, name: id.into(), path: runs_dir.join(id) })
    }

    /// Opens it, making it (0755), and the last component of the runs directory, where they are missing. Tells whether
    /// it was made.
    ///
    /// # Errors
    /// With what could not be had.
    pub fn make(runs_dir: &Path, id: &RunId) -> Result<(Self, bool), Error> {
        make_runs_dir(runs_dir)?;
        let path = runs_dir.join(id.as_str());
        loop {
            let runs = Directory::open(runs_dir).map_err(|error| cannot_make(runs_dir, error))?;
            let made = match runs.make(id.as_str(), 0o755) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(cannot_make(&path, error)),
            };
            match RunDirectory::open(runs_dir, id.as_str()) {
                Ok(directory) => return Ok((directory, made)),
                // The run that it belonged to ended between our two steps, and took it away.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    if made {
                        let _ = runs.remove_empty(id.as_str());
                    }
                    return Err(cannot_make(&path, directory::explained(error)));
                }
            }
        }
    }

    /// Removes the directory itself, if nobody has anything in it. For one that was made by us.
    pub fn remove_if_empty(&self) {
        let _ = self.runs.remove_empty(&self.name);
    }

    /// A name for one that is being built or removed.
    pub fn unfinished_name(&self) -> OsString {
        let pid = getpid();
        let name = |n: u32| {
            OsString::from(if n == 0 { format!("{UNFINISHED}{pid}") } else { format!("{UNFINISHED}{pid}-{n}") })
        };
        // A process of the same number, dead or in another container, may have left some.
        (0..).map(name).find(|name| self.directory.stat(name).is_err()).unwrap_or_default()
    }

    /// The names of those that are being built or removed.
    pub fn unfinished(&self) -> io::Result<Vec<OsString>> {
        let mut names = self.directory.names()?;
        names.retain(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()));
        Ok(names)
    }

    /// Renames a marked directory out of the way and removes it. The caller holds its mark, so nobody else does this.
    ///
    /// # Errors
    /// What could not be removed: then the rest lies under an unfinished name, or, when it could not even be renamed,
    /// where it was.
    pub fn take_away(&self, name: &OsStr) -> io::Result<()> {
        // Before anything is touched: what is mounted there is not ours to empty.
        if let Some(mount) = self.directory.mount_below(name)? {
            return Err(io::Error::other(format!("a file system is mounted on '{}'; unmount it", mount.display())));
        }
        // Locked as one that is being built is: `gc` sees that somebody is at it.
        let directory = self.directory.child(name)?;
        let _ = directory.try_lock()?;
        let away = self.unfinished_name();
        self.directory.rename(name, &self.directory, &away)?;
        self.remove_unfinished(&away)
    }

    /// Removes one that bears the name of an unfinished one.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove_unfinished(&self, name: &OsStr) -> io::Result<()> {
        self.directory.remove_tree(name, &[MARKS, MARK])
    }
}

fn cannot_make(path: &Path, error: io::Error) -> Error {
    let what = "cannot make the run's directory (set CCCI_RUNS_DIR to one that works)";
    Error::File { what, path: path.to_owned(), error }
}

/// Makes the last component of the runs directory where it is missing.
///
/// # Errors
/// It can't be made.
pub fn make_runs_dir(runs_dir: &Path) -> Result<(), Error> {
    match make_directory(runs_dir, 0o755) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(cannot_make(runs_dir, error)),
        _ => Ok(()),
    }
}

/// An ABRA_DIR of ours that is there.
#[derive(Debug)]
pub struct Found {
    /// Where.
    pub run: RunDirectory,
    /// The directory with its mark.
    pub marked: Marked,
    /// Its path.
    pub path: PathBuf,
}

impl Found {
    /// Finds the one of this run.
    ///
    /// # Errors
    /// None is there, or one that isn't ours.
    pub fn open(runs_dir: &Path, id: &RunId) -> Result<Self, Error> {
        let path = runs_dir.join(id.as_str()).join(NAME);
        let missing = || {
            Error::Missing(format!("run {id} has no ABRA_DIR ('{}'); see: ccci-guard abra-dir list", path.display()))
        };
        let run = RunDirectory::open(runs_dir, id.as_str()).map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(),
            _ => Error::File {
                what: "cannot open the run's directory",
                path: runs_dir.join(id.as_str()),
                error: directory::explained(error),
            },
        })?;
        match Marked::open(&run.directory, OsStr::new(NAME)) {
            Ok(Some(marked)) => Ok(Found { run, marked, path }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(missing()),
            Err(error) => Err(Error::File { what: "cannot open the ABRA_DIR", path, error }),
            Ok(None) => {
                let what = if run.directory.has_directory(NAME) {
                    "has no mark of ccci-guard"
                } else {
                    "is a symbolic link or a file"
                };
                Err(Error::NotOurs(format!("'{}' {what}: it is not ours, and left alone", path.display())))
            }
        }
    }

    /// What its mark says.
    pub fn mark(&self) -> &Mark {
        &self.marked.mark
    }
}
