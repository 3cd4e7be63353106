//! Building an ABRA_DIR and, when its run has ended, removing it.
//!
//! It is built under an unfinished name with its mark locked from the first moment, and renamed when it is whole: a
//! process that is killed at any point leaves something that can't be taken for an ABRA_DIR, and that `gc` may remove.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::abra_dir::git;
use crate::abra_dir::mark::{MadeBy, Mark, Marked, Use};
use crate::abra_dir::place::{NAME, RunDirectory};
use crate::app::RunId;
use crate::error::Error;
use crate::sys::directory::Directory;

/// An ABRA_DIR that this process, or the one it was forked from, has built. Its mark is locked while any of them lives.
#[derive(Debug)]
pub struct AbraDir {
    run: RunDirectory,
    marked: Marked,
    name: OsString,
}

/// Why none could be built.
#[derive(Debug)]
pub enum InTheWay {
    /// There is one already that may not be replaced: another id may be free.
    Taken(Error),
    /// There can't be one.
    Failed(Error),
}

impl From<InTheWay> for Error {
    fn from(why: InTheWay) -> Self {
        let (InTheWay::Taken(error) | InTheWay::Failed(error)) = why;
        error
    }
}

impl From<Error> for InTheWay {
    fn from(error: Error) -> Self {
        InTheWay::Failed(error)
    }
}

/// What an ABRA_DIR is built for, and from.
pub struct Plan<'a> {
    /// The directory of the runs.
    pub runs_dir: &'a Path,
    /// The run.
    pub id: &'a RunId,
    /// The host's own ABRA_DIR.
    pub canonical: &'a Path,
    /// The lock files of the run's apps.
    pub locks: Vec<PathBuf>,
    /// `<run id>` was made for this run already.
    pub made_run_dir: bool,
}

impl AbraDir {
    /// Builds the one of a run, in the place of a dead run's.
    ///
    /// # Errors
    /// A live run's, one of `abra-dir create` or one without our mark is in the way; no canonical directory; no room.
    pub fn for_run(plan: &Plan<'_>) -> Result<Self, InTheWay> {
        AbraDir::begin(plan, MadeBy::Run, |run| clear_the_way(run, plan.id)).and_then(AbraDir::finish)
    }

    /// Begins one of a user's own; [`Self::finish`] puts it in its place.
    ///
    /// # Errors
    /// There is one already, or no canonical directory, or no room.
    pub fn by_hand(plan: &Plan<'_>) -> Result<Self, InTheWay> {
        AbraDir::begin(plan, MadeBy::Create, |run| match run.directory.stat(NAME) {
            Ok(_) => Err(InTheWay::Taken(exists(run))),
            Err(_) => Ok(false),
        })
    }

    /// `prepare` makes room, and tells whether `<run id>` was made for what was there.
    fn begin(
        plan: &Plan<'_>,
        made_by: MadeBy,
        prepare: impl Fn(&RunDirectory) -> Result<bool, InTheWay>,
    ) -> Result<Self, InTheWay> {
        check_canonical(plan.canonical)?;
        let mut made_run_dir = plan.made_run_dir;
        loop {
            let (run, new) = RunDirectory::make(plan.runs_dir, plan.id)?;
            made_run_dir |= new;
            let failed = |error| Error::File { what: "cannot build the ABRA_DIR", path: run.path.join(NAME), error };
            let give_up = |error| {
                if made_run_dir {
                    run.remove_if_empty();
                }
                error
            };
            let made_before = prepare(&run).map_err(give_up)?;
            let name = run.unfinished_name();
            let directory = match claim(&run, &name) {
                // The run's directory has gone, with its last user; or ours was cleared away before it was locked; or
                // somebody took the name.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => continue,
                claimed => claimed.map_err(|error| give_up(InTheWay::Failed(failed(error))))?,
            };
            let mark = Mark {
                schema: 1,
                run_id: plan.id.to_string(),
                made_by,
                canonical: plan.canonical.to_owned(),
                made_run_dir: made_run_dir || made_before,
                locks: plan.locks.clone(),
            };
            return match fill(directory, mark) {
                Ok(marked) => Ok(AbraDir { run, marked, name }),
                Err(error) => {
                    let _ = run.remove_unfinished(&name);
                    Err(give_up(InTheWay::Failed(failed(error))))
                }
            };
        }
    }

    /// Puts it in its place, whole; where that can't be, it is gone.
    ///
    /// # Errors
    /// Somebody was faster.
    pub fn finish(mut self) -> Result<Self, InTheWay> {
        let _ = self.marked.directory.open_to_all();
        let error = match self.run.directory.rename(&self.name, &self.run.directory, NAME) {
            Ok(()) => {
                self.name = NAME.into();
                return Ok(self);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => InTheWay::Taken(exists(&self.run)),
            Err(error) => {
                let path = self.run.path.join(NAME);
                InTheWay::Failed(Error::File { what: "cannot put the ABRA_DIR in its place", path, error })
            }
        };
        self.remove();
        Err(error)
    }

    /// Its path: absolute, no trailing slash.
    pub fn path(&self) -> PathBuf {
        self.run.path.join(&self.name)
    }

    /// The directory and its mark.
    pub fn marked(&self) -> &Marked {
        &self.marked
    }

    /// Keeps it for people to look at: neither the end of the run nor `gc` removes it.
    pub fn keep(&self) -> io::Result<()> {
        self.marked.keep()
    }

    /// Removes it, and what another process of this run, killed over it, had left of it. What could not be removed is
    /// said; `gc` tries again.
    pub fn remove(&self) {
        let unfinished = self.run.unfinished().unwrap_or_default();
        // Told by the directory itself: the mark may be gone already.
        let ours = |name: &OsStr| self.marked.directory.is_child(&self.run.directory, name);
        let removed = if ours(OsStr::new(NAME)) { self.run.take_away(OsStr::new(NAME)) } else { Ok(()) };
        let removed = unfinished
            .iter()
            .filter(|name| ours(name))
            .fold(removed, |before, name| before.and(self.run.remove_unfinished(name)));
        // What is gone was cleared away by `gc`, which was as fast.
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            let path = self.run.path.display();
            tracing::warn!(
                event = "abra-dir-left",
                "could not remove the ABRA_DIR of this run in '{path}' (see: ccci-guard abra-dir gc): {error}"
            );
        }
        if self.marked.mark.made_run_dir {
            self.run.remove_if_empty();
        }
    }
}

fn exists(run: &RunDirectory) -> Error {
    let path = run.path.join(NAME);
    Error::Exists(format!("'{}' exists already; nothing was changed", path.display()))
}

/// An ABRA_DIR of the host is one that has `servers`.
fn check_canonical(canonical: &Path) -> Result<(), Error> {
    let path = canonical.display();
    let problem = match canonical.join("servers").metadata() {
        Ok(servers) if servers.is_dir() => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => format!("can't be looked into: {error}"),
        _ if canonical.is_dir() => "is no ABRA_DIR: it has no 'servers'".to_owned(),
        _ => "is not there".to_owned(),
    };
    Err(Error::Missing(format!(
        "the canonical ABRA_DIR '{path}' {problem}; set CCCI_CANONICAL_ABRA_DIR (or --canonical-abra-dir)"
    )))
}

/// Makes room for a new one: a dead run's goes, all else stays. Tells whether `<run id>` was made for the dead run.
fn clear_the_way(run: &RunDirectory, id: &RunId) -> Result<bool, InTheWay> {
    let mut made_run_dir = false;
    let path = run.path.join(NAME);
    let failed =
        |error| InTheWay::Failed(Error::File { what: "cannot replace the ABRA_DIR", path: path.clone(), error });
    let taken = |problem: String| InTheWay::Taken(Error::Exists(problem));
    loop {
        let found = match Marked::open(&run.directory, OsStr::new(NAME)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(made_run_dir),
            found => found.map_err(failed)?,
        };
        let Some(found) = found else {
            return Err(taken(format!("'{}' has no mark of ccci-guard: it is not ours to replace", path.display())));
        };
        if found.mark.made_by == MadeBy::Create {
            return Err(taken(format!(
                "'{}' was made by hand; use it with --abra-dir PATH, or: ccci-guard abra-dir remove {id}",
                path.display()
            )));
        }
        match found.take(&run.directory, OsStr::new(NAME)).map_err(failed)? {
            Use::Ours => {
                run.take_away(OsStr::new(NAME)).map_err(failed)?;
                made_run_dir |= found.mark.made_run_dir;
            }
            Use::Gone => {}
            Use::Live => {
                return Err(taken(format!("the ABRA_DIR of run {id} is in use by a live run; give another --run-id")));
            }
        }
    }
}

/// Makes the directory of an unfinished one. It is locked for as long as it is open here, and closed to other users,
/// so that nobody else can lock it: who clears unfinished ones away leaves locked ones alone.
///
/// # Errors
/// ENOENT: it was cleared away before the lock was had. EEXIST: it is another's.
fn claim(run: &RunDirectory, name: &OsStr) -> io::Result<Directory> {
    run.directory.make(name, 0o700)?;
    let opened = run.directory.child(name).and_then(|directory| directory.lock_shared().map(|()| directory));
    let directory = opened.inspect_err(|_| {
        let _ = run.directory.remove_empty(name);
    })?;
    if directory.is_child(&run.directory, name) { Ok(directory) } else { Err(ErrorKind::NotFound.into()) }
}

fn fill(directory: Directory, mark: Mark) -> io::Result<Marked> {
    let marked = Marked::make(directory, mark)?;
    for shared in ["servers", "catalogue"] {
        let target = marked.mark.canonical.join(shared);
        if target.is_dir() {
            marked.directory.link(shared, &target)?;
        }
    }
    marked.directory.make("recipes", 0o755)?;
    marked.marks.make("recipes", 0o700)?;
    git::make_home(&marked.marks)?;
    Ok(marked)
}
