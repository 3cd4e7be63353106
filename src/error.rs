//! What can go wrong before or instead of a run, as one sentence each, with the exit status it gives.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::app::AppName;
use crate::exit_status::ExitStatus;

/// An error that ends the program. Its text fits after `ccci-guard: error: `.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The words of the command line don't fit together.
    #[error("{0}")]
    Usage(String),
    /// A value that can't be used, with the flag or variable it came from.
    #[error("{from} {problem}")]
    Setting {
        /// `--deadline '120':`, or `CCCI_DEADLINE='120':`.
        from: String,
        /// The rest of the sentence.
        problem: String,
    },
    /// The parent is gone, or was never ours.
    #[error("{0}: refusing to start an orphan run; nothing was started, no lock was taken")]
    Orphan(String),
    /// The directory of the lock files can't be used.
    #[error("lock directory '{}' {problem}; set CCCI_APP_LOCK_DIR (or --lock-dir) to a directory that you can write to", path.display())]
    LockDirectory {
        /// The directory.
        path: PathBuf,
        /// The rest of the sentence.
        problem: String,
    },
    /// A lock file that is not what a lock file must be; it was not changed.
    #[error("lock file '{}' {problem}", path.display())]
    LockFile {
        /// The file.
        path: PathBuf,
        /// The rest of the sentence.
        problem: String,
    },
    /// Somebody else held the lock for too long.
    #[error("app lock {app} still held{holder} after {waited}; see: ccci-guard locks {app}")]
    LockTimeout {
        /// The app.
        app: AppName,
        /// ` by pid 4242 (run 1187)`, or nothing.
        holder: String,
        /// How long was waited.
        waited: String,
    },
    /// Another host held the cluster's lock for too long.
    #[error(
        "the cluster's lock of {app} is still {holder}, after {waited}; see: ccci-guard locks {app} --lock-backend etcd"
    )]
    HeldElsewhere {
        /// The app.
        app: String,
        /// `held by pid 4242 on ci-2, run 1187, …`
        holder: String,
        /// How long was waited.
        waited: String,
    },
    /// etcd can't be reached, or refused us.
    #[error("{0}")]
    Cluster(String),
    /// The command can't be run: not found.
    #[error("cannot run {command}: {problem}")]
    NotFound {
        /// The command as given, quoted.
        command: String,
        /// The rest of the sentence.
        problem: String,
    },
    /// The command can't be run: found, but not executable.
    #[error("cannot run {command}: {problem}")]
    CannotExecute {
        /// The command as given, quoted.
        command: String,
        /// The rest of the sentence.
        problem: String,
    },
    /// A file or directory of the run can't be had.
    #[error("{what} '{}': {error}", path.display())]
    File {
        /// What we wanted, as in "cannot open the report's directory".
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Something that was named is not there.
    #[error("{0}")]
    Missing(String),
    /// Something is there, but was not made by us.
    #[error("{0}")]
    NotOurs(String),
    /// Something is there already, and may not be replaced.
    #[error("{0}")]
    Exists(String),
    /// A program that does a part of the work failed, or the work is not to be done now.
    #[error("{0}")]
    Tool(String),
    /// The kernel refused something that a run can't do without.
    #[error("{what}: {error}")]
    System {
        /// What was refused.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

impl Error {
    /// The exit status of a run that ends with this error.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Error::Usage(_)
            | Error::Setting { .. }
            | Error::Orphan(_)
            | Error::LockDirectory { .. }
            | Error::LockFile { .. }
            | Error::File { .. }
            | Error::Missing(_)
            | Error::NotOurs(_)
            | Error::Exists(_)
            | Error::Tool(_)
            | Error::System { .. } => ExitStatus::CannotStart,
            Error::LockTimeout { .. } | Error::HeldElsewhere { .. } | Error::Cluster(_) => ExitStatus::LockTimeout,
            Error::CannotExecute { .. } => ExitStatus::CannotExecute,
            Error::NotFound { .. } => ExitStatus::NotFound,
        }
    }

    /// The exit status of a form that runs no command, `abra-dir` or `state`.
    pub fn command_status(&self) -> ExitStatus {
        match self {
            Error::Usage(_) | Error::Setting { .. } => ExitStatus::Usage,
            Error::Missing(_) | Error::NotOurs(_) => ExitStatus::NoInput,
            Error::Exists(_) => ExitStatus::CannotCreate,
            Error::Orphan(_)
            | Error::LockDirectory { .. }
            | Error::LockFile { .. }
            | Error::LockTimeout { .. }
            | Error::HeldElsewhere { .. }
            | Error::Cluster(_)
            | Error::NotFound { .. }
            | Error::CannotExecute { .. }
            | Error::File { .. }
            | Error::Tool(_)
            | Error::System { .. } => ExitStatus::Failed,
        }
    }

    /// For `map_err` on system calls.
    pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::System { what, error }
    }
}
