//! The outcome as JSON (`--report`).

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, getpid, unlinkat};
use serde::Serialize;

use crate::error::Error;
use crate::sys::fd;
use crate::sys::process::Ended;
use crate::teardown::{AppOutcome, Outcome, Verdict};

/// The whole report. Its keys are a contract.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the keys are documented in docs/commands/run.md")]
pub struct Report {
    pub schema: u32,
    pub run_id: String,
    pub apps: Vec<String>,
    pub cause: &'static str,
    pub signal: Option<String>,
    pub exit_code: u8,
    pub harness: HarnessReport,
    pub lock_wait_s: f64,
    pub elapsed_s: f64,
    pub survivors_killed: u32,
    pub survivors_unkillable: Vec<String>,
    pub teardown: TeardownReport,
    pub takeover: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_lost: Option<String>,
}

/// The harness's part.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the keys are documented in docs/commands/run.md")]
pub struct HarnessReport {
    pub pid: Option<i32>,
    pub status: Option<Ended>,
}

/// The teardown's part.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the keys are documented in docs/commands/run.md")]
pub struct TeardownReport {
    pub ran: bool,
    pub result: Option<Verdict>,
    pub status: Option<i32>,
    pub elapsed_s: f64,
    pub apps: Vec<AppOutcome>,
    pub residual: Vec<String>,
}

impl From<Option<&Outcome>> for TeardownReport {
    fn from(outcome: Option<&Outcome>) -> Self {
        let empty = TeardownReport {
            ran: false,
            result: None,
            status: None,
            elapsed_s: 0.0,
            apps: Vec::new(),
            residual: Vec::new(),
        };
        // Nothing was known to be torn down: then nothing was due.
        let due = outcome.filter(|outcome| outcome.result != Verdict::Skipped || !outcome.apps.is_empty());
        due.map_or(empty, |outcome| TeardownReport {
            ran: outcome.result != Verdict::Skipped,
            result: Some(outcome.result),
            status: outcome.status,
            elapsed_s: outcome.elapsed_s,
            apps: outcome.apps.clone(),
            residual: outcome.residual.clone(),
        })
    }
}

/// Where the report goes: a name in a directory that was opened at the start, since a CI runner may take the
/// path to it away.
#[derive(Debug)]
pub struct ReportFile {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl ReportFile {
    /// Opens the directory.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed =
            |error| Error::File { what: "cannot open the directory of the report", path: path.to_owned(), error };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        };
        let directory = fd::directory(parent).map_err(failed)?;
        Ok(ReportFile { directory, name: name.to_owned(), path: path.to_owned() })
    }

    /// Writes it whole, or says why not. The run's status does not depend on it.
    pub fn write(&self, report: &Report) {
        let mut text = serde_json::to_vec(report).unwrap_or_default();
        text.push(b'\n');
        if let Err(error) = self.put(&text) {
            tracing::error!(event = "report-failed", "cannot write the report '{}': {error}", self.path.display());
        }
    }

    fn put(&self, text: &[u8]) -> io::Result<()> {
        let target = fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if target.is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits()) {
            // A device, a FIFO, /dev/stdout: a rename would put a file in its place. What /dev/stdout leads to may be a
            // file with somebody's log in it: added to, never written over.
            return OpenOptions::new()
                .append(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&self.path)?
                .write_all(text);
        }
        let mut temporary = OsString::from(".");
        temporary.push(&self.name);
        temporary.push(format!(".{}", getpid()));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let mut file =
            File::from(openat(&self.directory, temporary.as_os_str(), flags, Mode::from_bits_truncate(0o644))?);
        let put = file.write_all(text).and_then(|()| {
            renameat(&self.directory, temporary.as_os_str(), &self.directory, self.name.as_os_str())
                .map_err(io::Error::from)
        });
        if put.is_err() {
            let _ = unlinkat(&self.directory, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        put
    }
}
