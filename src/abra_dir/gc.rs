//! What dead runs have left: found by its marks, removed when nobody holds those. Never by age.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::abra_dir::mark::{MadeBy, Mark, Marked, Use};
use crate::abra_dir::place::{NAME, RunDirectory};
use crate::app::RunId;
use crate::sys::directory::Directory;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// What was removed, or would have been: the run's id, and the directory.
    pub removed: Vec<(String, PathBuf)>,
    /// What could not be, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
    /// What was left alone though its run is dead, since somebody holds the lock of an app of it: a harness may outlive
    /// its whole guard.
    pub left: Vec<Left>,
    /// What we may not look at: another user's.
    pub unseen: Vec<PathBuf>,
}

/// What became of one.
enum Fate {
    Removed,
    Alone,
    AppLocked(PathBuf),
    Unseen,
}

/// One that was left alone.
#[derive(Debug)]
pub struct Left {
    run_id: String,
    path: PathBuf,
    lock: PathBuf,
}

impl Swept {
    /// Says what was left alone, and why.
    pub fn say_what_stays(&self) {
        for Left { run_id, path, lock } in &self.left {
            let (path, lock) = (path.display(), lock.display());
            tracing::info!(
                event = "abra-dir-left",
                "left the ABRA_DIR of run {run_id}, which is dead, alone: somebody holds the lock of its app, '{lock}' \
                 (see: ccci-guard locks): {path}"
            );
        }
        for path in &self.unseen {
            tracing::warn!(event = "abra-dir-unseen", "cannot look at '{}': another user's", path.display());
        }
    }
}

/// Removes the ABRA_DIRs of dead runs; of those that were kept on purpose only where `kept` says so.
///
/// # Errors
/// When the runs directory can't be read; none at all is fine.
pub fn sweep(runs_dir: &Path, kept: bool, dry_run: bool) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let runs = match Directory::open(runs_dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(swept),
        runs => runs?,
    };
    for id in runs.names()? {
        let Some(id) = id.to_str().filter(|id| RunId::parse(id).is_ok()) else { continue };
        // What is no directory, or gone by now, is none of ours.
        let Ok(run) = RunDirectory::open(runs_dir, id) else { continue };
        let mut names = run.unfinished().unwrap_or_default();
        names.push(NAME.into());
        for name in names {
            let path = run.path.join(&name);
            match sweep_one(&run, &name, kept, dry_run) {
                Ok(Fate::Removed) => swept.removed.push((id.to_owned(), path)),
                Ok(Fate::Alone) => {}
                Ok(Fate::AppLocked(lock)) => swept.left.push(Left { run_id: id.to_owned(), path, lock }),
                Ok(Fate::Unseen) => swept.unseen.push(path),
                Err(error) => swept.failed.push((path, error)),
            }
        }
    }
    Ok(swept)
}

fn sweep_one(run: &RunDirectory, name: &OsStr, kept: bool, dry_run: bool) -> io::Result<Fate> {
    let swept = if name == NAME { sweep_whole(run, kept, dry_run) } else { sweep_unfinished(run, name, dry_run) };
    match swept {
        // Somebody else, its own run maybe, was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Fate::Alone),
        other => other,
    }
}

fn sweep_whole(run: &RunDirectory, kept: bool, dry_run: bool) -> io::Result<Fate> {
    let name = OsStr::new(NAME);
    let found = match Marked::open(&run.directory, name) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Fate::Unseen),
        found => found?,
    };
    let Some(found) = found else { return Ok(Fate::Alone) };
    if found.mark.made_by == MadeBy::Create || (found.is_kept() && !kept) || found.is_live() {
        return Ok(Fate::Alone);
    }
    if let Some(lock) = found.locked_app() {
        return Ok(Fate::AppLocked(lock.to_owned()));
    }
    if !dry_run {
        if found.take(&run.directory, name)? != Use::Ours {
            return Ok(Fate::Alone);
        }
        remove(run, &found.mark)?;
    }
    Ok(Fate::Removed)
}

/// One that is being built or removed is locked by who does it; one that isn't is what a killed process left.
fn sweep_unfinished(run: &RunDirectory, name: &OsStr, dry_run: bool) -> io::Result<Fate> {
    let directory = match run.directory.child(name) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Fate::Unseen),
        directory => directory?,
    };
    if !directory.try_lock()? || !directory.is_child(&run.directory, name) {
        return Ok(Fate::Alone);
    }
    if directory.names()?.is_empty() {
        // Its maker has not locked it yet, and begins again: nothing to tell.
        return if dry_run { Ok(Fate::Alone) } else { run.directory.remove_empty(name).map(|()| Fate::Alone) };
    }
    let found = Marked::open(&run.directory, name)?;
    if found.as_ref().is_some_and(Marked::is_live) {
        return Ok(Fate::Alone);
    }
    if !dry_run {
        run.remove_unfinished(name)?;
        if found.is_some_and(|found| found.mark.made_run_dir) {
            run.remove_if_empty();
        }
    }
    Ok(Fate::Removed)
}

/// Removes a whole one whose mark the caller holds, and the run's directory where that was made for it.
///
/// # Errors
/// What could not be removed.
pub fn remove(run: &RunDirectory, mark: &Mark) -> io::Result<()> {
    run.take_away(OsStr::new(NAME))?;
    if mark.made_run_dir {
        run.remove_if_empty();
    }
    Ok(())
}
