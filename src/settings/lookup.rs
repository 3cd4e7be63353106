//! Looking values up, and reading them: flags first, then variables where they count.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::duration;
use crate::error::Error;
use crate::settings::{AutoSettings, Form, ProgramName, lock_variable, quoted, variable};
use crate::sys::signal;

/// One value and where it came from.
pub(super) struct Value {
    /// The value.
    pub(super) text: OsString,
    /// Where it came from, as the start of a complaint.
    pub(super) from: String,
}

impl Value {
    pub(super) fn flag(name: &str, text: &OsStr) -> Self {
        Value { from: format!("--{name} {}:", quoted(text)), text: text.to_owned() }
    }

    pub(super) fn variable(name: &str, text: &OsStr) -> Self {
        Value { from: format!("{name}={}:", quoted(text)), text: text.to_owned() }
    }

    pub(super) fn bad(&self, problem: impl Into<String>) -> Error {
        Error::Setting { from: self.from.clone(), problem: problem.into() }
    }

    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Error> {
        let text = self.text.to_str().ok_or_else(|| self.bad("is not UTF-8"))?;
        parse(text).map_err(|problem| self.bad(problem))
    }

    /// The entries of a comma list, without blanks around them, each a value of its own for complaints.
    pub(super) fn entries(&self) -> Vec<Value> {
        let list = self.text.as_bytes().split(|&byte| byte == b',');
        let entry =
            |entry: &[u8]| Value { text: OsStr::from_bytes(entry.trim_ascii()).to_owned(), from: self.from.clone() };
        list.map(entry).collect()
    }
}

/// Looks values up: flags first, then variables where they count.
pub(super) struct Lookup {
    /// A guard below another one takes some options from flags only, since its variables are the outer one's.
    pub(super) nested: bool,
    /// `exec` ignores the variables of options that only a resident guard can keep.
    pub(super) form: Form,
}

/// Where an option's variable counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    Always,
    /// Not below another guard.
    NotNested,
    /// Not with `exec`.
    Resident,
    /// Neither.
    ResidentNotNested,
}

impl Lookup {
    pub(super) fn variable(&self, name: &str, counts: Counts) -> Option<Value> {
        let outer = matches!(counts, Counts::NotNested | Counts::ResidentNotNested) && self.nested;
        let resident = matches!(counts, Counts::Resident | Counts::ResidentNotNested) && self.form == Form::Exec;
        if outer || resident { None } else { variable(name).map(|text| Value::variable(name, &text)) }
    }

    pub(super) fn value(&self, flag: Option<&OsString>, option: &str, counts: Counts) -> Option<Value> {
        match flag {
            Some(text) => Some(Value::flag(option, text)),
            None => self.variable(&variable_name(option), counts),
        }
    }

    pub(super) fn parsed<T>(
        &self,
        flag: Option<&OsString>,
        option: &str,
        counts: Counts,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        self.value(flag, option, counts).map(|value| value.parse(parse)).transpose()
    }

    pub(super) fn path(&self, flag: Option<&OsString>, option: &str, counts: Counts) -> Result<Option<PathBuf>, Error> {
        self.value(flag, option, counts).map(|value| absolute(&value)).transpose()
    }

    /// A directory; no trailing slash.
    pub(super) fn directory(&self, flag: Option<&OsString>, option: &str) -> Result<Option<PathBuf>, Error> {
        Ok(self.path(flag, option, Counts::Always)?.as_deref().map(without_trailing_slash))
    }

    pub(super) fn runs_dir(&self, flag: Option<&OsString>) -> Result<PathBuf, Error> {
        Ok(self.directory(flag, "runs-dir")?.unwrap_or_else(|| "/var/lib/cc-ci-runs".into()))
    }

    pub(super) fn auto(&self, abra: Option<&OsString>, docker: Option<&OsString>, steps: Vec<String>) -> AutoSettings {
        AutoSettings { abra: self.program(abra, "abra"), docker: self.program(docker, "docker"), steps }
    }

    pub(super) fn program(&self, flag: Option<&OsString>, option: &str) -> Option<ProgramName> {
        let value = self.value(flag, option, Counts::Resident)?;
        Some(ProgramName { name: value.text, from: value.from })
    }

    pub(super) fn switch(&self, flag: bool, option: &str, counts: Counts) -> Result<bool, Error> {
        if flag {
            return Ok(true);
        }
        self.variable(&variable_name(option), counts).map_or(Ok(false), |value| value.parse(parse_bool))
    }
}

/// `--lock-timeout` is also `CCCI_LOCK_TIMEOUT`; only the lock directory's is another, older name.
pub(super) fn variable_name(option: &str) -> String {
    match option {
        "lock-dir" => "CCCI_APP_LOCK_DIR".to_owned(),
        "app" => lock_variable::APPS.to_owned(),
        _ => format!("CCCI_{}", option.to_ascii_uppercase().replace('-', "_")),
    }
}

/// Takes slashes at the end away: `rm -rf run/servers/` follows what `rm -rf run/servers` removes.
fn without_trailing_slash(path: &Path) -> PathBuf {
    path.components().collect()
}

pub(super) fn absolute(value: &Value) -> Result<PathBuf, Error> {
    if value.text.is_empty() {
        return Err(value.bad("is empty; give a path"));
    }
    if value.text.as_bytes().contains(&0) {
        return Err(value.bad("is no path"));
    }
    // M and S move to `/` once the harness runs.
    std::path::absolute(&value.text).map_err(|error| value.bad(format!("can't be made absolute: {error}")))
}

pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("is neither true nor false; use 1 or 0".to_owned()),
    }
}

pub(super) fn parse_signal(text: &str) -> Result<Signal, String> {
    signal::parse(text).ok_or_else(|| "is no signal; use a name like TERM or USR1".to_owned())
}

/// A signal that can ask a process to end: not one that stops, continues, or means something else.
pub(super) fn parse_stop_signal(text: &str) -> Result<Signal, String> {
    use Signal::{SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
    match parse_signal(text)? {
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU | SIGCONT | SIGCHLD | SIGURG | SIGWINCH => {
            Err("does not end a process; use one like TERM, INT or QUIT".to_owned())
        }
        good => Ok(good),
    }
}

pub(super) fn at_least(minimum: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let given = duration::parse(text)?;
        if given < minimum { Err(format!("is too short: {} at least", duration::show(minimum))) } else { Ok(given) }
    }
}

pub(super) fn one_of<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        choices.iter().find(|(name, _)| *name == text).map(|&(_, value)| value).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            format!("is unknown; use {}", names.join(" or "))
        })
    }
}
