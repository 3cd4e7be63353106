//! The mark that makes a directory ours: `.ccci-guard/mark` in it.
//!
//! What it says is written once; that its run is alive is what the kernel says: monitor, supervisor and worker hold a
//! shared lock on it, who removes the directory takes an exclusive one. Not of flock(2): `list` and `gc` look at the marks
//! of live runs, and of these locks one can ask without taking them.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::lock;
use crate::sys::directory::Directory;
use crate::sys::file_lock::{self, Kind};

/// The directory of the mark.
pub const MARKS: &str = ".ccci-guard";
/// The mark in it.
pub const MARK: &str = "mark";
/// A file beside it: neither the end of the run nor `gc` removes this ABRA_DIR.
const KEPT: &str = "kept";

/// Who made an ABRA_DIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MadeBy {
    /// A guarded run, which removes it.
    Run,
    /// `abra-dir create`: nobody but `abra-dir remove` removes it.
    Create,
}

/// What the mark says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// 1.
    pub schema: u32,
    /// Whose it is.
    pub run_id: String,
    /// Who made it.
    pub made_by: MadeBy,
    /// The ABRA_DIR that it was made from.
    pub canonical: PathBuf,
    /// `<run id>` was made for it, and goes with it when nothing else is in there.
    pub made_run_dir: bool,
    /// The lock files of the run's apps.
    pub locks: Vec<PathBuf>,
}

/// A marked directory.
#[derive(Debug)]
pub struct Marked {
    /// The directory.
    pub directory: Directory,
    /// That of the mark.
    pub marks: Directory,
    /// The mark's file: its lock.
    pub file: File,
    /// What it says.
    pub mark: Mark,
}

/// Who uses a marked directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nobody, and nobody can begin to before we let go.
    Ours,
    /// A live run, or somebody who fetches into it.
    Live,
    /// It is not under its name any more.
    Gone,
}

impl Marked {
    /// Opens `name`; `None` when there is something without a mark of ours.
    ///
    /// # Errors
    /// ENOENT when nothing is there.
    pub fn open(parent: &Directory, name: &OsStr) -> io::Result<Option<Self>> {
        parent.stat(name)?;
        let opened = parent.child(name).and_then(|directory| {
            let marks = directory.child(MARKS)?;
            let file = marks.file(MARK, OFlag::O_RDWR, 0)?;
            Ok((directory, marks, file))
        });
        let (directory, marks, file) = match opened {
            Ok(opened) => opened,
            // No mark, or a link or a file where there should be a directory.
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(read(&file)?.map(|mark| Marked { directory, marks, file, mark }))
    }

    /// Makes the mark of a new directory, which the caller has locked, and takes its lock.
    pub fn make(directory: Directory, mark: Mark) -> io::Result<Self> {
        directory.make(MARKS, 0o700)?;
        let marks = directory.child(MARKS)?;
        let mut file = marks.file(MARK, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, 0o600)?;
        file_lock::lock(&file, Kind::Shared)?;
        let text = serde_json::to_string(&mark).map_err(io::Error::other)?;
        file.write_all(text.as_bytes())?;
        Ok(Marked { directory, marks, file, mark })
    }

    /// Is this what `name` stands for now?
    pub fn is_named(&self, parent: &Directory, name: &OsStr) -> bool {
        let marks = parent.child(name).and_then(|directory| directory.child(MARKS));
        marks.is_ok_and(|marks| marks.is_named(&self.file, MARK))
    }

    /// Takes it for a removal, if nobody uses it.
    pub fn take(&self, parent: &Directory, name: &OsStr) -> io::Result<Use> {
        while !file_lock::try_lock(&self.file, Kind::Exclusive)? {
            match file_lock::held(&self.file)? {
                Some(Kind::Shared) => return Ok(Use::Live),
                // Whoever removes it holds the lock while it renames: a moment.
                Some(Kind::Exclusive) => file_lock::lock(&self.file, Kind::Exclusive)?,
                None => {}
            }
        }
        Ok(if self.is_named(parent, name) { Use::Ours } else { Use::Gone })
    }

    /// Holds it against a removal while something is done in it; false when it has just been removed.
    pub fn hold(&self, parent: &Directory, name: &OsStr) -> bool {
        file_lock::lock(&self.file, Kind::Shared).is_ok() && self.is_named(parent, name)
    }

    /// Is its run alive? A look, which nobody notices.
    pub fn is_live(&self) -> bool {
        file_lock::held(&self.file).is_ok_and(|held| held == Some(Kind::Shared))
    }

    /// The lock file of an app of its run that somebody holds. A harness may outlive its whole guard, and tear down.
    pub fn locked_app(&self) -> Option<&Path> {
        self.mark.locks.iter().find(|path| lock::is_held(path)).map(PathBuf::as_path)
    }

    /// Is it to be kept though its run is over?
    pub fn is_kept(&self) -> bool {
        self.marks.stat(KEPT).is_ok()
    }

    /// Keeps it from now on.
    ///
    /// # Errors
    /// A full disk.
    pub fn keep(&self) -> io::Result<()> {
        self.marks.file(KEPT, OFlag::O_WRONLY | OFlag::O_CREAT, 0o600).map(drop)
    }
}

/// Reads a mark; `None` for what we did not write.
fn read(mut file: &File) -> io::Result<Option<Mark>> {
    let metadata = file.metadata()?;
    let user = geteuid().as_raw();
    if !metadata.is_file() || (user != 0 && metadata.uid() != user && metadata.uid() != 0) {
        return Ok(None);
    }
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(None),
        read => read?,
    };
    if text.is_empty() {
        // Power was lost before it was on disk, or its writer was killed: it names nobody, and nobody holds it.
        return Ok(Some(Mark {
            schema: 1,
            run_id: String::new(),
            made_by: MadeBy::Run,
            canonical: PathBuf::new(),
            made_run_dir: false,
            locks: Vec::new(),
        }));
    }
    Ok(serde_json::from_str(&text).ok().filter(|mark: &Mark| mark.schema == 1))
}
