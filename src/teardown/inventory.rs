//! What the host's files say of apps: abra's `.env` files, and lock files.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::app::AppName;
use crate::lock::path;

/// The `.env` files below `servers/*/`: each file's stem, which should be a domain, and its path.
///
/// # Errors
/// When a directory can't be read; a canonical directory without `servers` is one.
pub fn env_files(canonical: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for server in fs::read_dir(canonical.join("servers"))? {
        let server = server?.path();
        if !server.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&server)? {
            let entry = entry?;
            found.extend(app_of(&entry.file_name()).map(|stem| (stem, entry.path())));
        }
    }
    Ok(found)
}

/// What the name of an `.env` file says; it may be no domain.
pub fn app_of(file_name: &OsStr) -> Option<String> {
    let name = file_name.to_string_lossy();
    name.strip_suffix(".env").filter(|stem| !stem.is_empty()).map(str::to_owned)
}

/// The names that lock files stand for, whether they are domains or not.
///
/// # Errors
/// When the directory can't be read.
pub fn lock_files(directory: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?;
    let mut found = Vec::new();
    for entry in names {
        found.extend(path::app_of(&entry?.file_name()));
    }
    Ok(found)
}

/// Every domain that the host's files know.
pub fn known_domains(canonical: Option<&Path>, lock_dir: &Path) -> Vec<AppName> {
    let envs = canonical.and_then(|canonical| env_files(canonical).ok()).unwrap_or_default();
    let names = envs.into_iter().map(|(stem, _)| stem).chain(lock_files(lock_dir).unwrap_or_default());
    let mut known: Vec<AppName> = names.filter_map(|name| AppName::parse(&name).ok()).collect();
    known.sort();
    known.dedup();
    known
}
