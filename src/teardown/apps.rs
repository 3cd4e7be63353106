//! Which apps a run's teardown is for: those it was given, then those that its harness noted.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use crate::allow_list::AllowList;
use crate::app::AppName;
use crate::lock::path::LockDirectory;
use crate::lock::{self, AppLock, Attempt};
use crate::sys::directory::explained;

/// So much of a line that is no domain is shown.
const SHOWN: usize = 200;
/// Longer notes are none that a harness makes: four thousand of the longest names.
const NOTES_MAX: u64 = 1024 * 1024;

/// An app that a harness noted, and whether it may be torn down.
#[derive(Debug)]
pub enum Noted {
    /// Ours to tear down: the lock was free, and is held now.
    Ours(AppLock),
    /// Left alone; why, as the end of a sentence.
    LeftAlone(String),
}

/// Reads the domains that a harness noted, each once, in order. A line that is no domain comes
/// with what is wrong with it.
///
/// # Errors
/// The harness put something else in the file's place, or it can't be read.
pub fn read_noted(file: &Path) -> io::Result<Vec<Result<AppName, (String, String)>>> {
    let text = match read(file) {
        // Removed by the harness: it takes its notes back.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let mut seen = HashSet::new();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && seen.insert(*line));
    let parse = |line: &str| AppName::parse(line).map_err(|problem| (line.chars().take(SHOWN).collect(), problem));
    Ok(lines.map(parse).collect())
}

/// Whatever the harness made of its file: a FIFO must not hold the teardown up, a link lead it elsewhere, or a
/// device fill the memory.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(explained)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    let mut text = Vec::new();
    file.take(NOTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Takes the lock of a noted app, which the dead harness may have held itself.
///
/// `auto`: what is torn down automatically needs an allow-list that admits it.
pub fn take(directory: Option<&LockDirectory>, app: &AppName, allowed: &AllowList, auto: bool) -> Noted {
    if allowed.protects(app) {
        return Noted::LeftAlone("is protected".to_owned());
    }
    if (allowed.is_given() || auto) && !allowed.admits(app) {
        return Noted::LeftAlone("is not admitted by --zone or --run-app-re".to_owned());
    }
    let Some(directory) = directory else {
        return Noted::LeftAlone("has no lock: the lock directory can't be opened".to_owned());
    };
    match lock::try_acquire(directory, app) {
        Ok(Attempt::Acquired(lock)) => {
            lock.mark_taken();
            Noted::Ours(lock)
        }
        Ok(Attempt::Held(candidate)) => Noted::LeftAlone(format!("is another run's ({})", candidate.holder())),
        Err(error) => Noted::LeftAlone(format!("has no usable lock: {error}")),
    }
}
