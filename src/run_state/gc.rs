//! State files of dead runs: found by their names, removed when no owner file of their run is locked. Never by age.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::app::RunId;
use crate::error::Error;
use crate::run_state::place::{OWN, Place, Roots};
use crate::run_state::{OWNER, OWNER_OF_NEW_MODE};
use crate::settings::STATE_KINDS;
use crate::sys::directory::Directory;
use crate::sys::file_lock;
use crate::sys::process::Pid;

/// The end of the name of a file that says: `state init` made those of this process; only its user removes them.
pub const MANUAL: &str = "manual";

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Files that were removed, or would have been, with their run's id.
    pub removed: Vec<(String, PathBuf)>,
    /// Files that could not be, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
}

/// Removes what dead runs left, but what was made by hand.
///
/// # Errors
/// When a directory can't be read; one that is not there is fine.
pub fn sweep(roots: Roots<'_>, dry_run: bool) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    for shelf in shelves(roots)? {
        for (id, files) in &shelf.runs {
            if let Some(look) = shelf.look(id) {
                let dead = files.iter().filter(|file| !is_manual(files, file)).map(|file| file.whole.as_str());
                // Of the owner files only those that we have locked: one that was made meanwhile is a live run's.
                let owners = look.owners.iter().map(|(whole, _)| whole.as_str());
                shelf.remove(id, dead.chain(owners), look.made_run_directory, dry_run, &mut swept);
                if files.is_empty() {
                    // Of a run that was killed at its very start; or of one that has just made its owner file and not
                    // locked it yet, which makes another then: nothing to tell.
                    swept.removed.retain(|(removed, _)| removed != id);
                }
            }
        }
    }
    Ok(swept)
}

/// Removes the files of one process, also those made by hand.
///
/// # Errors
/// There are none, or a live run has them.
pub fn remove_one(roots: Roots<'_>, id: &RunId, pid: Pid, dry_run: bool) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    let process = pid.to_string();
    for shelf in shelves(roots)? {
        let Some(all) = shelf.runs.get(id.as_str()) else { continue };
        let files: Vec<&Name> = all.iter().filter(|file| file.process() == process).collect();
        let Some(first) = files.first() else { continue };
        let (_look, made_run_directory) = if is_manual(all, first) {
            let manual = files.iter().find(|file| file.kind() == MANUAL);
            (None, manual.is_some_and(|file| shelf.made_run_directory(&file.whole)))
        } else {
            let look = shelf.look(id.as_str());
            let look = look.ok_or_else(|| Error::Tool(format!("run {id} is alive; nothing was removed")))?;
            (Some(look), false)
        };
        let files = files.iter().map(|file| file.whole.as_str());
        shelf.remove(id.as_str(), files, made_run_directory, dry_run, &mut swept);
    }
    if swept.removed.is_empty() && swept.failed.is_empty() {
        return Err(Error::Missing(format!("run {id} has no state files of process {pid}")));
    }
    Ok(swept)
}

/// A state file.
#[derive(Debug)]
struct Name {
    /// Its name in its directory.
    whole: String,
    /// Without the run's id: `4242.deploys`.
    own: String,
}

impl Name {
    fn process(&self) -> &str {
        self.own.split('.').next().unwrap_or_default()
    }

    fn kind(&self) -> &str {
        self.own.split('.').nth(1).unwrap_or_default()
    }
}

/// Were the files of this one's process made by `state init`?
fn is_manual(files: &[Name], file: &Name) -> bool {
    files.iter().any(|other| other.kind() == MANUAL && other.process() == file.process())
}

/// A directory with state files.
struct Shelf {
    directory: Directory,
    path: PathBuf,
    /// Where all runs share it, the names begin with the run's id; else all are this run's.
    only: Option<String>,
    /// The directories that go with the run when they are empty, each with its name in the one above: first this one;
    /// in the runs directory then that of the run.
    above: Vec<(Directory, String)>,
    /// The runs that have a file here, and which ones beside owner files.
    runs: BTreeMap<String, Vec<Name>>,
}

/// Owner files that nobody had locked.
#[derive(Default)]
struct Look {
    /// Locked by us until all is removed, and shared, so that who claims the id can tell this from a live run.
    owners: Vec<(String, File)>,
    made_run_directory: bool,
}

impl Shelf {
    fn new(
        directory: Directory,
        path: PathBuf,
        only: Option<String>,
        above: Vec<(Directory, String)>,
    ) -> io::Result<Self> {
        let mut shelf = Shelf { directory, path, only, above, runs: BTreeMap::new() };
        for whole in shelf.directory.names()?.iter().filter_map(|name| name.to_str()) {
            let Some((id, own)) = shelf.split(whole) else { continue };
            let (id, own) = (id.to_owned(), own.to_owned());
            let files = shelf.runs.entry(id).or_default();
            if !own.starts_with(OWNER) {
                files.push(Name { whole: whole.to_owned(), own });
            }
        }
        Ok(shelf)
    }

    /// The run's id, and the name without it, of a file of ours.
    fn split<'a>(&'a self, whole: &'a str) -> Option<(&'a str, &'a str)> {
        match &self.only {
            None => split(whole),
            Some(id) => is_ours(whole).then_some((id, whole)),
        }
    }

    /// `None` when a run is alive that has files here.
    ///
    /// The owner files are listed now: a run makes its own before its other files, so that of a run which began during
    /// the first listing is in this one, if any file of it was in the first.
    fn look(&self, id: &str) -> Option<Look> {
        let mut look = Look::default();
        for whole in self.directory.names().ok()?.iter().filter_map(|name| name.to_str()) {
            if !self.split(whole).is_some_and(|(of, own)| of == id && own.starts_with(OWNER)) {
                continue;
            }
            let file = self.directory.file(whole, OFlag::O_RDONLY, 0).ok()?;
            // Locked, or another under this name by now: a run lives, or has just begun or ended.
            if file_lock::try_flock_shared(&file).is_err() || !self.directory.is_named(&file, whole) {
                return None;
            }
            look.made_run_directory |= self.made_run_directory(whole);
            look.owners.push((whole.to_owned(), file));
        }
        Some(look)
    }

    /// Does this file say that `<run id>` was made for its run?
    fn made_run_directory(&self, whole: &str) -> bool {
        self.directory.stat(whole).is_ok_and(|stat| stat.st_mode & 0o777 == OWNER_OF_NEW_MODE)
    }

    fn remove<'a>(
        &self,
        id: &str,
        names: impl Iterator<Item = &'a str>,
        made_run_directory: bool,
        dry_run: bool,
        swept: &mut Swept,
    ) {
        for whole in names {
            let removed = if dry_run { Ok(()) } else { self.directory.unlink(whole) };
            let path = self.path.join(whole);
            match removed {
                Ok(()) => swept.removed.push((id.to_owned(), path)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => swept.failed.push((path, error)),
            }
        }
        let directories = self.above.iter().take(if made_run_directory { 2 } else { 1 });
        // Fails, as it should, when somebody has something in there.
        let _ = directories.filter(|_| !dry_run).try_for_each(|(above, name)| above.remove_empty(name));
    }
}

/// Every directory in which a run may have left state.
fn shelves(roots: Roots<'_>) -> Result<Vec<Shelf>, Error> {
    let mut found = Vec::new();
    for place in roots.all() {
        let (Place::Given(path) | Place::Runs(path) | Place::Private(path)) = &place;
        let shelves = match Directory::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(directory) if matches!(place, Place::Private(_)) => {
                Shelf::new(directory, path.clone(), None, Vec::new()).map(|shelf| vec![shelf])
            }
            Ok(directory) => run_shelves(&directory, path, matches!(place, Place::Runs(_))),
        };
        found.extend(shelves.map_err(|error| Error::File {
            what: "cannot read the directory of runs",
            path: path.clone(),
            error,
        })?);
    }
    Ok(found)
}

/// One for each run: `<root>/<id>`, or `<root>/<id>/ccci-guard`.
fn run_shelves(root: &Directory, path: &Path, nested: bool) -> io::Result<Vec<Shelf>> {
    let mut found = Vec::new();
    for id in root.names()?.iter().filter_map(|name| name.to_str()).filter(|name| RunId::parse(name).is_ok()) {
        let shelf = || {
            let run = root.child(id)?;
            let above = (root.child(".")?, id.to_owned());
            if nested {
                let own = run.child(OWN)?;
                Shelf::new(own, path.join(id).join(OWN), Some(id.to_owned()), vec![(run, OWN.to_owned()), above])
            } else {
                Shelf::new(run, path.join(id), Some(id.to_owned()), vec![above])
            }
        };
        // What is no directory, or gone by now, is none of ours; nor is one with nothing of ours in it.
        found.extend(shelf().ok().filter(|shelf| !shelf.runs.is_empty()));
    }
    Ok(found)
}

/// Is this the name of a file of ours, without a run's id?
fn is_ours(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = name.strip_prefix(OWNER) {
        return rest.is_empty() || rest.strip_prefix('-').is_some_and(number);
    }
    let known = |kind: &str| kind == MANUAL || STATE_KINDS.iter().any(|known| known.name == kind);
    name.split_once('.').is_some_and(|(pid, kind)| number(pid) && known(kind))
}

/// A name in a directory that all runs share: the id, which may have dots in it, and the rest.
fn split(name: &str) -> Option<(&str, &str)> {
    let mut splits = name.match_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..]));
    splits.find(|(id, own)| is_ours(own) && RunId::parse(id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_s_id_may_have_dots_and_look_like_ours() {
        assert_eq!(split("1190.owner"), Some(("1190", "owner")));
        assert_eq!(split("a.b.4242.deploys"), Some(("a.b", "4242.deploys")));
        assert_eq!(split("a.owner-12"), Some(("a", "owner-12")));
        assert_eq!(split("7.7.apps"), Some(("7", "7.apps")));
        assert_eq!(split("1190.results"), None);
    }

    #[test]
    fn only_names_that_we_give_are_ours() {
        assert!(is_ours("owner") && is_ours("owner-7") && is_ours("7.manual") && is_ours("7.depskip"));
        assert!(!is_ours("owner-x") && !is_ours("x.deploys") && !is_ours("7.results") && !is_ours("7.deploys.bak"));
    }
}
