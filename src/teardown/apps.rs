//! Which apps a run's teardown is for: those it was given, then those that its harness noted.

#![forbid(unsafe_code)]

use std::path::Path;

use crate::allow_list::AllowList;
use crate::app::AppName;
use crate::lock::path::LockDirectory;
use crate::lock::{self, AppLock, Attempt};

/// So much of a line that is no domain is shown.
const SHOWN: usize = 200;

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
pub fn read_noted(file: &Path) -> Vec<Result<AppName, (String, String)>> {
    let mut seen = Vec::new();
    let text = std::fs::read(file).unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines().map(str::trim).filter(|line| !line.is_empty()) {
        let entry = AppName::parse(line).map_err(|problem| (line.chars().take(SHOWN).collect(), problem));
        if !seen.contains(&entry) {
            seen.push(entry);
        }
    }
    seen
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
