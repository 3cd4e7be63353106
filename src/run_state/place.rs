//! Where the state of runs may lie, and the place of one run in it.
//!
//! In the runs directory and below `--state-dir` each run has a directory of its own; in a private one all runs share
//! it, and their names begin with the run's id.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::app::RunId;
use crate::settings::{JanitorSettings, RunSettings, StateSettings};
use crate::sys::directory::make_directory;

/// The name of the directory in that of a run, below the runs directory.
pub const OWN: &str = "ccci-guard";

/// Where state may lie, as asked for.
#[derive(Clone, Copy)]
pub struct Roots<'a> {
    state_dir: Option<&'a Path>,
    runs_dir: &'a Path,
    runtime_dir: Option<&'a Path>,
}

impl<'a> From<&'a RunSettings> for Roots<'a> {
    fn from(settings: &'a RunSettings) -> Self {
        let RunSettings { state_dir, runs_dir, runtime_dir, .. } = settings;
        Roots { state_dir: state_dir.as_deref(), runs_dir, runtime_dir: runtime_dir.as_deref() }
    }
}

impl<'a> From<&'a StateSettings> for Roots<'a> {
    fn from(settings: &'a StateSettings) -> Self {
        let StateSettings { state_dir, runs_dir, runtime_dir, .. } = settings;
        Roots { state_dir: state_dir.as_deref(), runs_dir, runtime_dir: runtime_dir.as_deref() }
    }
}

impl<'a> From<&'a JanitorSettings> for Roots<'a> {
    fn from(settings: &'a JanitorSettings) -> Self {
        let JanitorSettings { state_dir, runs_dir, runtime_dir, .. } = settings;
        Roots { state_dir: state_dir.as_deref(), runs_dir, runtime_dir: runtime_dir.as_deref() }
    }
}

impl Roots<'_> {
    /// The places for a new run's state, best first. An asked-for place has no substitute.
    pub fn for_new(self) -> Vec<Place> {
        if let Some(directory) = self.state_dir {
            return vec![Place::Given(directory.to_owned())];
        }
        let mut places = vec![Place::Runs(self.runs_dir.to_owned())];
        places.extend(self.private());
        places
    }

    /// All places where some run may have left state.
    pub fn all(self) -> Vec<Place> {
        let mut places: Vec<Place> =
            self.state_dir.iter().map(|directory| Place::Given((*directory).to_owned())).collect();
        places.push(Place::Runs(self.runs_dir.to_owned()));
        places.extend(self.private());
        places
    }

    fn private(self) -> impl Iterator<Item = Place> {
        // A stale XDG_RUNTIME_DIR is common (su, cron).
        let runtime = self.runtime_dir.map(|directory| directory.join(OWN));
        let directories = runtime.into_iter().chain([PathBuf::from(format!("/tmp/{OWN}-{}", geteuid()))]);
        directories.map(Place::Private)
    }
}

/// Where the state of runs is made.
#[derive(Clone, Debug)]
pub enum Place {
    /// `--state-dir`: `<dir>/<run id>`.
    Given(PathBuf),
    /// `<runs dir>/<run id>/ccci-guard`.
    Runs(PathBuf),
    /// A private directory of ours, common to all runs: `<dir>/<run id>.…`.
    Private(PathBuf),
}

/// Where the files of one run are, and what goes when it ends.
#[derive(Debug)]
pub struct Home {
    /// The directory.
    pub directory: PathBuf,
    /// What their names begin with.
    pub prefix: String,
    /// Directories of ours, innermost first.
    made: Vec<PathBuf>,
    /// `<run id>` in the runs directory, where that is around it, and whether it was made for this run.
    run_directory: Option<(PathBuf, bool)>,
}

/// What could not be had, and why.
pub type Failure = (PathBuf, io::Error);

impl Home {
    /// The one of a run, as it would be; nothing is made.
    pub fn of(place: &Place, id: &RunId) -> Self {
        let (directory, prefix, run_directory) = match place {
            Place::Given(directory) => (directory.join(id.as_str()), String::new(), None),
            Place::Runs(directory) => {
                let run_directory = directory.join(id.as_str());
                (run_directory.join(OWN), String::new(), Some((run_directory, false)))
            }
            Place::Private(directory) => (directory.clone(), format!("{id}."), None),
        };
        Home { directory, prefix, made: Vec::new(), run_directory }
    }

    /// Makes the place where the files of a run with this id go.
    ///
    /// # Errors
    /// The directory that could not be had.
    pub fn make(place: &Place, id: &RunId) -> Result<Self, Failure> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        let mut home = Home::of(place, id);
        match place {
            Place::Given(directory) => {
                ignore_existing(private_directory(directory)).map_err(failed(directory))?;
                ignore_existing(private_directory(&home.directory)).map_err(failed(&home.directory))?;
                home.made.push(home.directory.clone());
            }
            Place::Runs(_) => {
                if let Some((run_directory, new)) = &mut home.run_directory {
                    *new = match make_directory(run_directory, 0o755) {
                        Ok(()) => true,
                        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                            not_a_link(run_directory).map_err(|error| (run_directory.clone(), error))?;
                            false
                        }
                        Err(error) => return Err((run_directory.clone(), error)),
                    };
                }
                if let Err(error) = ignore_existing(private_directory(&home.directory)) {
                    home.remove();
                    return Err((home.directory, error));
                }
                home.made.push(home.directory.clone());
            }
            Place::Private(directory) => {
                ignore_existing(private_directory(directory)).map_err(failed(directory))?;
                // In /tmp anybody can have been there first.
                let metadata = directory.symlink_metadata().map_err(failed(directory))?;
                if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
                    return Err((
                        directory.clone(),
                        io::Error::other("is not a directory of our own, closed to others"),
                    ));
                }
            }
        }
        Ok(home)
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{}{name}", self.prefix))
    }

    /// Was `<run id>` made for this run?
    pub fn made_run_directory(&self) -> bool {
        self.run_directory.as_ref().is_some_and(|(_, made)| *made)
    }

    /// Says that `<run id>` was made for a run whose files these are.
    pub fn set_made_run_directory(&mut self) {
        if let Some((_, made)) = &mut self.run_directory {
            *made = true;
        }
    }

    /// Removes the directories of ours that are empty by now.
    pub fn remove(&self) {
        for directory in &self.made {
            // Fails, as it should, when somebody else has something in there.
            let _ = fs::remove_dir(directory);
        }
        if let Some((directory, true)) = &self.run_directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    make_directory(path, 0o700)
}

/// What lies behind a link is not this run's, and no `gc` looks for it there.
fn not_a_link(directory: &Path) -> io::Result<()> {
    if directory.symlink_metadata()?.is_dir() {
        Ok(())
    } else {
        Err(io::Error::other("it is no directory; a symbolic link is not followed"))
    }
}

fn ignore_existing(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
