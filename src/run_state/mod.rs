//! A run's own place on disk: its id, the proof that it is alive, the state files of its harness, its ABRA_DIR.
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

mod commands;
mod gc;
mod place;

pub use commands::run;
pub use gc::{Swept, sweep};
pub use place::Roots;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::abra_dir::{self, AbraDir, InTheWay, Plan};
use crate::app::RunId;
use crate::error::Error;
use crate::lock;
use crate::run_state::place::{Failure, Home, Place};
use crate::settings::{AbraDirChoice, RunName, RunSettings, STATE_KINDS, test_text};
use crate::sys::process::Pid;
use crate::sys::{fd, file_lock};

/// The owner file of the run that has the id; `owner-<pid>` is that of one that shares it.
const OWNER: &str = "owner";
/// Mode of an owner file, which is empty; and of one whose run made `<run id>`, so that `state gc` knows that this may
/// go, too.
const OWNER_MODE: u32 = 0o600;
const OWNER_OF_NEW_MODE: u32 = 0o700;

/// A claimed run id and its directory.
#[derive(Debug)]
pub struct RunState {
    id: RunId,
    home: Home,
    owner: File,
    owner_name: String,
    abra_dir: Option<AbraDir>,
}

impl RunState {
    /// Finds the run's id and claims it for as long as any guard process of this run lives; builds its ABRA_DIR where
    /// it is to have one.
    ///
    /// # Errors
    /// When no directory can be had for the run, or an id that was asked for can't be its alone.
    pub fn claim(settings: &RunSettings, monitor: Pid) -> Result<Self, Error> {
        let ids = Candidates { name: &settings.run_name, monitor };
        let AbraDirChoice::Auto(canonical) = &settings.abra_dir else {
            return claim_first(settings, &ids, 0, monitor).map(|(state, _)| state);
        };
        abra_dir::make_runs_dir(&settings.runs_dir)?;
        let mut first = 0;
        loop {
            let (mut state, next) = claim_first(settings, &ids, first, monitor)?;
            let locks = settings.apps.iter().map(|app| lock::path::of(&settings.lock_dir, app)).collect();
            let made_run_dir = state.home.made_run_directory();
            let plan = Plan { runs_dir: &settings.runs_dir, id: &state.id, canonical, locks, made_run_dir };
            match AbraDir::for_run(&plan) {
                Ok(abra_dir) => {
                    // Also where it was made for a run whose ABRA_DIR this one replaces.
                    if abra_dir.marked().mark.made_run_dir {
                        state.home.set_made_run_directory();
                    }
                    if settings.keep_run_dir {
                        keep(&abra_dir);
                    }
                    return Ok(RunState { abra_dir: Some(abra_dir), ..state });
                }
                Err(InTheWay::Taken(_)) if ids.nth(next)?.is_some() => {
                    state.remove(None);
                    first = next;
                }
                Err(why) => {
                    state.remove(None);
                    return Err(why.into());
                }
            }
        }
    }

    /// The run's id.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// The ABRA_DIR that was built for the run.
    pub fn abra_dir(&self) -> Option<&AbraDir> {
        self.abra_dir.as_ref()
    }

    fn file(&self, harness: Pid, name: &str) -> PathBuf {
        // Shows that the tests would find it: two runs of one domain in one file.
        if let Some(domain) = test_text("CCCI_TEST_STATE_BY_DOMAIN") {
            return self.home.directory.with_file_name(format!("{domain}.{name}"));
        }
        self.home.file(&file_name(harness, name))
    }

    /// The variables that tell a harness with this pid where its files are.
    pub fn variables(&self, harness: Pid) -> impl Iterator<Item = (&'static str, OsString)> {
        STATE_KINDS.iter().map(move |kind| (kind.variable, self.file(harness, kind.name).into_os_string()))
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
        make_files(
            |name| self.file(harness, name),
            |path| match new_file(path) {
                // A dead process of the same number may have left some: numbers come round again.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    fs::remove_file(path).and_then(|()| new_file(path))
                }
                made => made,
            },
        )
    }

    /// Removes what was made for this run, and nothing else. Called while the owner file is still locked.
    pub fn remove(&self, harness: Option<Pid>) {
        if let Some(abra_dir) = &self.abra_dir {
            abra_dir.remove();
        }
        self.remove_files(harness);
    }

    /// The same, but the ABRA_DIR stays for people to look at.
    pub fn remove_but_abra_dir(&self, harness: Option<Pid>) {
        if let Some(abra_dir) = &self.abra_dir {
            keep(abra_dir);
        }
        self.remove_files(harness);
    }

    fn remove_files(&self, harness: Option<Pid>) {
        for kind in STATE_KINDS {
            // Gone already, or replaced by something that isn't ours: both are the harness's business.
            let _ = harness.map(|harness| fs::remove_file(self.file(harness, kind.name)));
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

fn keep(abra_dir: &AbraDir) {
    if let Err(error) = abra_dir.keep() {
        tracing::warn!(event = "abra-dir-not-kept", "the next gc may remove this run's ABRA_DIR: {error}");
    }
}

/// The ids that the run may have, best first.
struct Candidates<'a> {
    name: &'a RunName,
    monitor: Pid,
}

/// A name that so many live runs have is nobody's.
const SAME_NAME_MAX: usize = 1000;

impl Candidates<'_> {
    /// Number `n` of them, if there are so many.
    fn nth(&self, n: usize) -> Result<Option<RunId>, Error> {
        let ids = match self.name {
            RunName::Given(id) => return Ok((n == 0).then(|| id.clone())),
            RunName::FirstFree(ids) => ids,
        };
        if let Some(id) = ids.get(n) {
            return Ok(Some(id.clone()));
        }
        let monitor = self.monitor;
        let own = ids.last().map_or_else(|| format!("manual-{monitor}"), |id| format!("{id}-{monitor}"));
        // Our own number is nobody else's, but in another pid namespace.
        let id = match n - ids.len() {
            0 => own,
            again if again < SAME_NAME_MAX => format!("{own}-{}", again + 1),
            _ => return Ok(None),
        };
        RunId::parse(&id).map(Some).map_err(|problem| Error::Usage(format!("run id '{id}' {problem}")))
    }
}

/// Claims the first free id from number `first` on, in the first place that works; also gives the number after it.
fn claim_first(
    settings: &RunSettings,
    ids: &Candidates<'_>,
    first: usize,
    monitor: Pid,
) -> Result<(RunState, usize), Error> {
    // An ABRA_DIR can't be shared, and so neither can its id.
    let shares = matches!(ids.name, RunName::Given(_)) && !matches!(settings.abra_dir, AbraDirChoice::Auto(_));
    let mut last_failure = (settings.runs_dir.clone(), ErrorKind::NotFound.into());
    for place in Roots::from(settings).for_new() {
        let mut n = first;
        let failure = loop {
            let Some(id) = ids.nth(n)? else {
                return Err(Error::Exists(match ids.name {
                    RunName::Given(id) => format!(
                        "run {id} is alive: an ABRA_DIR of its own needs a run id of its own; give another --run-id"
                    ),
                    RunName::FirstFree(_) => "all names of this run are those of live runs; give a --run-id".to_owned(),
                }));
            };
            n += 1;
            match claim_in(&place, &id, shares, monitor) {
                Ok(Some(state)) => return Ok((state, n)),
                Ok(None) => {}
                Err(failure) => break failure,
            }
        };
        last_failure = failure;
    }
    let (path, error) = last_failure;
    Err(Error::File {
        what: "cannot make a directory for the run's state (set CCCI_STATE_DIR to one that works)",
        path,
        error,
    })
}

/// Claims an id in this place, if no live run has it, or it may be shared.
fn claim_in(place: &Place, id: &RunId, shares: bool, monitor: Pid) -> Result<Option<RunState>, Failure> {
    let share = || claim_one(place, id, &format!("{OWNER}-{monitor}")).map(Claim::ours);
    match claim_one(place, id, OWNER)? {
        Claim::Ours(state) => Ok(Some(*state)),
        // With `gc` at the owner file: nobody else has it, and ours tells as well that we live.
        Claim::BeingRemoved => share(),
        Claim::Live if shares => share(),
        Claim::Live => Ok(None),
    }
}

/// What became of a claim.
enum Claim {
    Ours(Box<RunState>),
    /// A live run has it.
    Live,
    /// Nobody has it, but `gc` looks at what a dead run left.
    BeingRemoved,
}

impl Claim {
    fn ours(self) -> Option<RunState> {
        match self {
            Claim::Ours(state) => Some(*state),
            Claim::Live | Claim::BeingRemoved => None,
        }
    }
}

/// Claims one id by locking its owner file.
fn claim_one(place: &Place, id: &RunId, owner_name: &str) -> Result<Claim, Failure> {
    loop {
        let mut home = Home::make(place, id)?;
        let path = home.file(owner_name);
        let file = match OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode_of_first(&home))
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
        match file_lock::try_flock(&file) {
            Ok(()) => {}
            // Runs lock it exclusively; who only looks shares it.
            Err(TryLockError::WouldBlock) if file_lock::try_flock_shared(&file).is_ok() => {
                return Ok(Claim::BeingRemoved);
            }
            Err(TryLockError::WouldBlock) => return Ok(Claim::Live),
            Err(TryLockError::Error(error)) => return Err((path, error)),
        }
        // As with app locks: the one that ended may have unlinked it under its lock.
        if let Some(mode) = mode_if_same(&file, &path) {
            if mode & 0o777 == OWNER_OF_NEW_MODE {
                home.set_made_run_directory();
            }
            let (id, owner_name) = (id.clone(), owner_name.to_owned());
            return Ok(Claim::Ours(Box::new(RunState { id, home, owner: file, owner_name, abra_dir: None })));
        }
    }
}

/// The mode of an open file, if it still is the one of this path.
fn mode_if_same(file: &File, path: &Path) -> Option<u32> {
    let (open, named) = (file.metadata().ok()?, path.symlink_metadata().ok()?);
    ((open.dev(), open.ino()) == (named.dev(), named.ino())).then(|| open.mode())
}

fn file_name(harness: Pid, kind: &str) -> String {
    format!("{harness}.{kind}")
}

/// Makes those files that are not only named.
fn make_files(path_of: impl Fn(&str) -> PathBuf, make: impl Fn(&Path) -> io::Result<()>) -> Result<(), Error> {
    for kind in STATE_KINDS.iter().filter(|kind| kind.made) {
        let path = path_of(kind.name);
        make(&path).map_err(|error| Error::File { what: "cannot make the run's state file", path, error })?;
    }
    Ok(())
}

fn new_file(path: &Path) -> io::Result<()> {
    new_file_of_mode(path, OWNER_MODE)
}

fn new_file_of_mode(path: &Path, mode: u32) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map(drop)
}

/// The mode of a file that stands for a whole run.
fn mode_of_first(home: &Home) -> u32 {
    if home.made_run_directory() { OWNER_OF_NEW_MODE } else { OWNER_MODE }
}
