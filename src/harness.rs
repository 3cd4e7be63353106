//! The command that is guarded: found before anything is waited for, started with nothing of ours but what is
//! documented, and explained when it can't be run.

#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use crate::error::Error;
use crate::interpreter;
use crate::settings::quoted;
use crate::sys::process;

/// Where commands are looked for when `PATH` is not set, as execvp(3) does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A command that was found.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    argv: Vec<CString>,
    shown: String,
}

impl Program {
    /// Finds the command, so that a missing one costs no hours of waiting for a lock.
    ///
    /// # Errors
    /// Not found (127) or not executable (126), with what to look at.
    pub fn find(command: &[OsString], search_path: Option<&OsStr>) -> Result<Self, Error> {
        let name = command.first().map(OsString::as_os_str).unwrap_or_default();
        let shown = quoted(name);
        let path = if name.is_empty() {
            return Err(Error::NotFound { command: shown, problem: "the command's name is empty".to_owned() });
        } else if name.as_bytes().contains(&b'/') {
            PathBuf::from(name)
        } else {
            search(name, search_path, Elements::All).ok_or_else(|| Error::NotFound {
                command: shown.clone(),
                problem: "no such command in PATH".to_owned(),
            })?
        };
        check(&path).map_err(|errno| explain(&shown, &path, errno))?;
        if let Some(interpreter) = interpreter::missing(&path) {
            return Err(Error::NotFound { command: shown, problem: interpreter });
        }
        Ok(Program { path, argv: command.iter().map(|word| c_string(word)).collect(), shown })
    }

    /// Replaces this process by the command; returns only the error.
    pub fn exec(&self, environment: &[CString]) -> Errno {
        let path = c_string(self.path.as_os_str());
        let errno = process::exec(&path, &self.argv, environment);
        if errno != Errno::ENOEXEC {
            return errno;
        }
        // No `#!` line: a shell script, as execvp(3) takes it.
        let shell = c_string(OsStr::new("/bin/sh"));
        let mut argv = vec![shell.clone(), path];
        argv.extend(self.argv.iter().skip(1).cloned());
        process::exec(&shell, &argv, environment)
    }

    /// The error for a command that was found, but whose exec failed.
    pub fn explain(&self, errno: Errno) -> Error {
        explain(&self.shown, &self.path, errno)
    }
}

/// Finds a program of our own by its name or path; `None` when there is none that can be run. Where `PATH` leads to the
/// working directory it is not looked for: a checkout must not bring its own `git` or `docker`.
pub fn look_up(name: &OsStr, search_path: Option<&OsStr>) -> Option<PathBuf> {
    let path = if name.as_bytes().contains(&b'/') {
        std::path::absolute(name).ok()?
    } else {
        search(name, search_path, Elements::Absolute)?
    };
    check(&path).is_ok().then_some(path)
}

/// The elements of `PATH` that count.
#[derive(Clone, Copy, PartialEq)]
enum Elements {
    /// As for execvp(3): an empty one is the working directory.
    All,
    /// Those that lead to the same place from everywhere.
    Absolute,
}

fn search(name: &OsStr, path: Option<&OsStr>, elements: Elements) -> Option<PathBuf> {
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    let directories = path.as_bytes().split(|&byte| byte == b':').map(|directory| {
        let directory = if directory.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(directory) };
        Path::new(directory)
    });
    let directories = directories.filter(|directory| elements == Elements::All || directory.is_absolute());
    let candidates = directories.map(|directory| directory.join(name));
    let mut unusable = None;
    for candidate in candidates {
        match check(&candidate) {
            Ok(()) => return Some(candidate),
            // Goes on looking, and complains of this one when there is no better.
            Err(Errno::EACCES | Errno::EISDIR) if candidate.is_file() => unusable = unusable.or(Some(candidate)),
            Err(_) => {}
        }
    }
    unusable
}

fn check(path: &Path) -> Result<(), Errno> {
    let metadata =
        std::fs::metadata(path).map_err(|error| error.raw_os_error().map_or(Errno::ENOENT, Errno::from_raw))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

fn explain(shown: &str, path: &Path, errno: Errno) -> Error {
    let command = shown.to_owned();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            let problem = interpreter::missing(path).unwrap_or_else(|| "no such file".to_owned());
            Error::NotFound { command, problem }
        }
        Errno::EISDIR => Error::CannotExecute { command, problem: "it is a directory".to_owned() },
        Errno::EACCES => {
            Error::CannotExecute { command, problem: "it is not executable for us (chmod +x?)".to_owned() }
        }
        other => Error::CannotExecute { command, problem: other.desc().to_owned() },
    }
}

/// The caller's environment with `changes` made to it, as execve(2) takes it. Nothing is removed.
pub fn environment(caller: &[(OsString, OsString)], changes: &[(&str, OsString)]) -> Vec<CString> {
    let kept = caller.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| name == changed));
    let entry = |name: &OsStr, value: &OsStr| {
        let mut entry = name.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        c_string(&OsString::from_vec(entry))
    };
    let changed = changes.iter().map(|(name, value)| entry(OsStr::new(name), value));
    kept.map(|(name, value)| entry(name, value)).chain(changed).collect()
}

/// A C string of an argument or variable, which the kernel gave us without a NUL in it.
fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes().split(|&byte| byte == 0).next().unwrap_or_default()).unwrap_or_default()
}
