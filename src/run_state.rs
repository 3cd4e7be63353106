//! A run's own place on disk: its id, the proof that it is alive, the state files of its harness.
//!
//! The file `owner` is locked (flock) by every guard process of the run that has the id; a run that shares the
//! id, as a nested guard does, locks `owner-<monitor's pid>`. So the kernel answers whether any run of that id
//! is alive. The files `<harness pid>.deploys` and so on are keyed by run *and* process: keyed by domain, two
//! runs of one app had counted each other's deploys.
//!
//! They lie in `<runs dir>/<run id>/ccci-guard`. The runs directory is the harness's results store: nothing in
//! it is ever removed but what was made here. Where it can't be used they lie in one private directory, and
//! their names begin with the run's id; no directory is made for a run there, and nothing is written into the
//! owner file: to remove those would cost more than all the rest of an empty run.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::app::RunId;
use crate::error::Error;
use crate::settings::{RunName, RunSettings};
use crate::sys::fd;
use crate::sys::process::Pid;

/// The state files: name, variable, and whether it is made (empty) or only named.
const FILES: [(&str, &str, bool); 5] = [
    ("deploys", "CCCI_DEPLOY_COUNT_FILE", true),
    ("opstate", "CCCI_OP_STATE_FILE", false),
    ("deps", "CCCI_DEPS_FILE", false),
    ("depskip", "CCCI_DEPS_SKIP_FILE", false),
    ("apps", "CCCI_RUN_APPS_FILE", true),
];

/// A claimed run id and its directory.
#[derive(Debug)]
pub struct RunState {
    id: RunId,
    home: Home,
    owner: File,
    owner_name: String,
}

/// Where the files of one run are, and what goes when it ends.
#[derive(Debug)]
struct Home {
    directory: PathBuf,
    prefix: String,
    /// Directories of ours, innermost first.
    made: Vec<PathBuf>,
}

impl Home {
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}{name}", self.prefix))
    }

    fn remove(&self) {
        for directory in &self.made {
            // Fails, as it should, when somebody else has something in there.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Where the directories of runs are made.
enum Place<'a> {
    /// `--state-dir`: `<dir>/<run id>`.
    Given(&'a Path),
    /// `<runs dir>/<run id>/ccci-guard`.
    Runs(&'a Path),
    /// A private directory of ours, common to all runs: `<dir>/<run id>.…`.
    Private(PathBuf),
}

impl RunState {
    /// Finds the run's id and claims it for as long as any guard process of this run lives.
    ///
    /// # Errors
    /// When no directory can be had for the run.
    pub fn claim(settings: &RunSettings, monitor: Pid) -> Result<Self, Error> {
        let manual = || RunId::parse(&format!("manual-{monitor}"));
        let (ids, share) = match &settings.run_name {
            RunName::Given(id) => (vec![id.clone()], true),
            RunName::FirstFree(ids) => {
                let last = ids.last().map_or_else(manual, |id| RunId::parse(&format!("{id}-{monitor}")));
                (ids.iter().cloned().chain(last).collect(), false)
            }
        };
        let mut last_error = None;
        for place in places(settings) {
            match claim_first(&place, &ids, share, monitor) {
                Ok(state) => return Ok(state),
                Err((path, error)) => last_error = Some((path, error)),
            }
        }
        let (path, error) = last_error.unwrap_or_else(|| (settings.runs_dir.clone(), ErrorKind::NotFound.into()));
        Err(Error::File {
            what: "cannot make a directory for the run's state (set CCCI_STATE_DIR to one that works)",
            path,
            error,
        })
    }

    /// The run's id.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    fn file(&self, harness: Pid, name: &str) -> PathBuf {
        self.home.file(&format!("{harness}.{name}"))
    }

    /// The variables that tell a harness with this pid where its files are.
    pub fn variables(&self, harness: Pid) -> impl Iterator<Item = (&'static str, OsString)> {
        FILES.iter().map(move |(name, variable, _)| (*variable, self.file(harness, name).into_os_string()))
    }

    /// The file in which a harness with this pid notes the apps that it creates.
    pub fn noted_apps(&self, harness: Pid) -> PathBuf {
        self.file(harness, "apps")
    }

    /// Makes the files of a harness that is about to start.
    ///
    /// # Errors
    /// A full or read-only disk.
    pub fn make_files(&self, harness: Pid) -> Result<(), Error> {
        // A dead process of the same number may have left some: numbers come round again.
        let make = |path: &Path| match new_file(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(path).and_then(|()| new_file(path))
            }
            made => made,
        };
        for (name, _, made) in FILES {
            let path = self.file(harness, name);
            if made {
                make(&path).map_err(|error| Error::File { what: "cannot make the run's state file", path, error })?;
            }
        }
        Ok(())
    }

    /// Removes what was made for this run, and nothing else. Called while the owner file is still locked.
    pub fn remove(&self, harness: Option<Pid>) {
        for (name, ..) in FILES {
            // Gone already, or replaced by something that isn't ours: both are the harness's business.
            let _ = harness.map(|harness| fs::remove_file(self.file(harness, name)));
        }
        let _ = fs::remove_file(self.home.file(&self.owner_name));
        self.home.remove();
    }

    /// For `exec`: the harness itself keeps the run alive, through a descriptor that it doesn't know of; it is
    /// to be open when the exec comes.
    ///
    /// # Errors
    /// What fcntl(2) gives.
    pub fn hand_over_owner(&self) -> io::Result<OwnedFd> {
        let handed = fd::duplicate_above(&self.owner, fd::HANDED_OVER)?;
        fd::keep_over_exec(&handed)?;
        Ok(handed)
    }
}

/// The places to try, best first. An asked-for place has no substitute.
fn places(settings: &RunSettings) -> Vec<Place<'_>> {
    if let Some(directory) = &settings.state_dir {
        return vec![Place::Given(directory)];
    }
    // A stale XDG_RUNTIME_DIR is common (su, cron).
    let private = settings.runtime_dir.iter().map(|directory| directory.join("ccci-guard"));
    let private = private.chain([PathBuf::from(format!("/tmp/ccci-guard-{}", geteuid()))]);
    std::iter::once(Place::Runs(&settings.runs_dir)).chain(private.map(Place::Private)).collect()
}

type Failure = (PathBuf, io::Error);

fn claim_first(place: &Place<'_>, ids: &[RunId], share: bool, monitor: Pid) -> Result<RunState, Failure> {
    for id in ids {
        if let Some(state) = claim_one(place, id, "owner")? {
            return Ok(state);
        }
        if share && let Some(state) = claim_one(place, id, &format!("owner-{monitor}"))? {
            return Ok(state);
        }
    }
    // The last id has our own pid in it, which no other live run can have claimed.
    Err((PathBuf::from(ids.last().map(RunId::as_str).unwrap_or_default()), ErrorKind::WouldBlock.into()))
}

/// Claims one id by locking its owner file; `None` when a live run has it.
fn claim_one(place: &Place<'_>, id: &RunId, owner_name: &str) -> Result<Option<RunState>, Failure> {
    loop {
        let home = make_home(place, id)?;
        let path = home.file(owner_name);
        let file = match OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&path)
        {
            // A run of this id ended and took the directory away between our two steps.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other.map_err(|error| {
                home.remove();
                (path.clone(), error)
            })?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err((path, error)),
        }
        // As with app locks: the one that ended may have unlinked it under its lock.
        if same_file(&file, &path) {
            return Ok(Some(RunState { id: id.clone(), home, owner: file, owner_name: owner_name.to_owned() }));
        }
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Makes the place where the files of a run with this id go.
fn make_home(place: &Place<'_>, id: &RunId) -> Result<Home, Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    match place {
        Place::Given(directory) => {
            ignore_existing(private_directory(directory)).map_err(failed(directory))?;
            let own = directory.join(id.as_str());
            ignore_existing(private_directory(&own)).map_err(failed(&own))?;
            Ok(Home { directory: own.clone(), prefix: String::new(), made: vec![own] })
        }
        Place::Runs(directory) => {
            let run_dir = directory.join(id.as_str());
            let new = match DirBuilder::new().mode(0o755).create(&run_dir) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err((run_dir, error)),
            };
            let own = run_dir.join("ccci-guard");
            ignore_existing(private_directory(&own)).map_err(|error| {
                if new {
                    let _ = fs::remove_dir(&run_dir);
                }
                (own.clone(), error)
            })?;
            let made = if new { vec![own.clone(), run_dir] } else { vec![own.clone()] };
            Ok(Home { directory: own, prefix: String::new(), made })
        }
        Place::Private(directory) => {
            ignore_existing(private_directory(directory)).map_err(failed(directory))?;
            // In /tmp anybody can have been there first.
            let metadata = directory.symlink_metadata().map_err(failed(directory))?;
            if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
                return Err((directory.clone(), io::Error::other("is not a directory of our own, closed to others")));
            }
            Ok(Home { directory: directory.clone(), prefix: format!("{id}."), made: Vec::new() })
        }
    }
}

fn new_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn ignore_existing(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
