//! What the options of `abra-dir` and `state` mean: places, runs, and words that name something in them.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::app::RunId;
use crate::cli::{AbraDirOptions, StateOptions};
use crate::error::Error;
use crate::settings::janitor::canonical_at_home;
use crate::settings::lookup::{Lookup, Value};
use crate::settings::run::{parse_pid, runtime_dir};
use crate::settings::{Form, quoted, variable};
use crate::sys::process::Pid;

/// One kind of state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateKind {
    /// The end of its name.
    pub name: &'static str,
    /// The variable by which a harness is told of it.
    pub variable: &'static str,
    /// It is made (empty) before the harness starts; else it is only named.
    pub made: bool,
}

/// The kinds of state files.
pub const STATE_KINDS: [StateKind; 5] = [
    StateKind { name: "deploys", variable: "CCCI_DEPLOY_COUNT_FILE", made: true },
    StateKind { name: "opstate", variable: "CCCI_OP_STATE_FILE", made: false },
    StateKind { name: "deps", variable: "CCCI_DEPS_FILE", made: false },
    StateKind { name: "depskip", variable: "CCCI_DEPS_SKIP_FILE", made: false },
    StateKind { name: "apps", variable: "CCCI_RUN_APPS_FILE", made: true },
];

/// What `abra-dir` works with.
#[derive(Clone, Debug)]
pub struct AbraDirSettings {
    /// The directory of the runs: absolute, no trailing slash.
    pub runs_dir: PathBuf,
    /// That of the run that we are part of, and its id, as `ABRA_DIR` tells: a guard's flags don't reach what it started.
    own: Option<(PathBuf, OsString)>,
    /// The host's own ABRA_DIR, where it was named.
    pub given_canonical: Option<PathBuf>,
    /// `PATH`, for finding git.
    pub search_path: Option<OsString>,
}

/// `<runs dir>` and `<run id>` of an `ABRA_DIR` that is `<runs dir>/<run id>/abra`.
fn own_run() -> Option<(PathBuf, OsString)> {
    let abra_dir = PathBuf::from(variable("ABRA_DIR")?);
    let run = abra_dir.parent().filter(|_| abra_dir.is_absolute() && abra_dir.ends_with("abra"))?;
    Some((run.parent()?.to_owned(), run.file_name()?.to_owned()))
}

impl AbraDirSettings {
    /// The directory of the runs in which this one is.
    pub fn runs_dir_of(&self, id: &RunId) -> &Path {
        let own = self.own.as_ref().filter(|(_, own)| own == id.as_str());
        own.map_or(&self.runs_dir, |(runs_dir, _)| runs_dir)
    }

    /// The host's own ABRA_DIR: the one that was named, else the one in the home.
    ///
    /// # Errors
    /// There is none.
    pub fn canonical(&self) -> Result<PathBuf, Error> {
        self.given_canonical.clone().or_else(canonical_at_home).ok_or_else(no_canonical)
    }
}

/// The error for a host without an ABRA_DIR.
pub(super) fn no_canonical() -> Error {
    Error::Missing(
        "no ABRA_DIR of this host was found (no .abra with servers in HOME, nor in the home that /etc/passwd names); set \
         CCCI_CANONICAL_ABRA_DIR (or --canonical-abra-dir)"
            .to_owned(),
    )
}

/// Settles the options that all forms of `abra-dir` share.
///
/// # Errors
/// The first thing that is wrong, as one sentence.
pub fn resolve_abra_dir_options(options: &AbraDirOptions) -> Result<AbraDirSettings, Error> {
    let lookup = Lookup { nested: false, form: Form::Run };
    Ok(AbraDirSettings {
        runs_dir: lookup.runs_dir(options.runs_dir.as_ref())?,
        own: if options.runs_dir.is_none() { own_run() } else { None },
        given_canonical: lookup.directory(options.canonical_abra_dir.as_ref(), "canonical-abra-dir")?,
        search_path: variable("PATH"),
    })
}

/// Whose state files are meant.
#[derive(Clone, Debug)]
pub enum Whose {
    /// Those of the run below whose guard we are, from its variables: its id, and a path for each of [`STATE_KINDS`].
    Own(Option<String>, Vec<PathBuf>),
    /// Those of this process of this run.
    Given(RunId, Pid),
    /// Nobody was named, and no guard is above us.
    Nobody,
}

/// What `state` works with.
#[derive(Clone, Debug)]
pub struct StateSettings {
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// The directory of the runs.
    pub runs_dir: PathBuf,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// Whose.
    pub whose: Whose,
}

/// Settles the options that all forms of `state` share.
///
/// # Errors
/// The first thing that is wrong, as one sentence.
pub fn resolve_state_options(options: &StateOptions) -> Result<StateSettings, Error> {
    let lookup = Lookup { nested: false, form: Form::Run };
    Ok(StateSettings {
        state_dir: lookup.directory(options.state_dir.as_ref(), "state-dir")?,
        runs_dir: lookup.runs_dir(options.runs_dir.as_ref())?,
        runtime_dir: runtime_dir(),
        whose: resolve_whose(options)?,
    })
}

fn resolve_whose(options: &StateOptions) -> Result<Whose, Error> {
    let pid = options.pid.as_deref().map(|pid| Value::flag("pid", pid).parse(parse_own_pid)).transpose()?;
    match (options.run_id.as_deref(), pid) {
        (run_id, Some(pid)) => Ok(Whose::Given(resolve_run_id(run_id)?, pid)),
        (Some(_), None) => Err(Error::Usage(
            "--run-id alone does not name state files: they are a process's; give --pid too".to_owned(),
        )),
        (None, None) => {
            let paths: Option<Vec<_>> =
                STATE_KINDS.iter().map(|kind| variable(kind.variable).map(PathBuf::from)).collect();
            let id = variable("CCCI_RUN_ID").map(|id| id.to_string_lossy().into_owned());
            Ok(paths.map_or(Whose::Nobody, |paths| Whose::Own(id, paths)))
        }
    }
}

fn parse_own_pid(text: &str) -> Result<Pid, String> {
    parse_pid(text).ok().filter(|pid| pid.as_raw() > 0).ok_or_else(|| "is no process number".to_owned())
}

/// The run of `--run-id` or `CCCI_RUN_ID`.
///
/// # Errors
/// None was named, or not well.
pub fn resolve_run_id(flag: Option<&OsStr>) -> Result<RunId, Error> {
    match flag {
        Some(text) => parse_run_id(text),
        None => variable("CCCI_RUN_ID")
            .map(|text| Value::variable("CCCI_RUN_ID", &text))
            .ok_or_else(|| Error::Usage("which run? Give --run-id (CCCI_RUN_ID)".to_owned()))?
            .parse(RunId::parse),
    }
}

/// A run named as an argument; a slash at its end, as a shell completes directories, is not meant.
///
/// # Errors
/// It can't be a run's.
pub fn parse_run_id(text: &OsStr) -> Result<RunId, Error> {
    let bytes = text.as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    Value { text: OsStr::from_bytes(&bytes[..end]).to_owned(), from: format!("run {}:", quoted(text)) }
        .parse(RunId::parse)
}

/// The directory of the app locks.
///
/// # Errors
/// A bad value.
pub fn resolve_lock_dir(flag: Option<&OsStr>) -> Result<PathBuf, Error> {
    let lookup = Lookup { nested: false, form: Form::Run };
    let given = lookup.directory(flag.map(OsStr::to_owned).as_ref(), "lock-dir")?;
    Ok(given.unwrap_or_else(|| "/run/lock".into()))
}

/// A word of the command line, `name` for complaints.
///
/// # Errors
/// What `parse` says.
pub fn parse_word<T>(name: &str, text: &OsStr, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Error> {
    Value { text: text.to_owned(), from: format!("{name} {}:", quoted(text)) }.parse(parse)
}

/// A word that a shell reads back as it is.
pub fn shell_quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"))
}
