//! What the command line and the environment mean together. The one place that reads the environment.
//!
//! Flag beats variable beats default; an empty variable is an unset one, except `CCCI_APP_DOMAIN` (a run
//! whose app got lost would be unprotected). Every complaint names the flag or variable that it is about.
//! [`lookup`] finds values, [`run`] and [`janitor`] say what those of each form mean.

#![forbid(unsafe_code)]

mod cluster;
mod doctor;
mod janitor;
mod lookup;
mod per_run;
mod run;

pub use cluster::{EtcdSettings, Secret, resolve_cluster};
pub use doctor::{DoctorSettings, resolve_doctor};
pub use janitor::{JanitorSettings, resolve_janitor, resolve_reap};
pub use per_run::{
    AbraDirSettings, STATE_KINDS, StateKind, StateSettings, Whose, parse_run_id, parse_word, resolve_abra_dir_options,
    resolve_lock_dir, resolve_run_id, resolve_state_options, shell_quoted,
};
pub use run::{
    AbraDirChoice, AutoSettings, Form, HandedLock, ProgramName, RunName, RunSettings, Session, StopScope, Survivors,
    Teardown, TeardownOn, Warning, lock_variable, resolve_run,
};

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::LogArgs;
use crate::duration;
use crate::error::Error;
use crate::log;
use crate::settings::lookup::{Counts, Lookup, Value, one_of};

/// The environment as the caller gave it.
pub fn caller_environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// A switch of the test build; always off in the program that people run.
pub fn test_switch(name: &str) -> bool {
    test_text(name).is_some()
}

/// A text of the test build.
pub fn test_text(name: &str) -> Option<String> {
    if cfg!(feature = "test-switches") { variable(name)?.into_string().ok() } else { None }
}

/// A duration of the test build in place of a fixed one.
pub fn test_duration(name: &str, fixed: Duration) -> Duration {
    test_text(name).and_then(|text| duration::parse(&text).ok()).unwrap_or(fixed)
}

/// A variable; an empty one is an unset one.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A value as it is shown in a message: quoted, control characters escaped.
pub fn quoted(text: &OsStr) -> String {
    format!("'{}'", log::visible(&text.to_string_lossy()))
}

/// Settles the options of the log.
///
/// # Errors
/// A bad value, naming its flag or variable.
pub fn resolve_log(args: &LogArgs) -> Result<log::Settings, Error> {
    let lookup = Lookup { nested: false, form: Form::Run };
    let format = one_of(&[("text", log::Format::Text), ("json", log::Format::Json)]);
    let color = one_of(&[("auto", log::Color::Auto), ("always", log::Color::Always), ("never", log::Color::Never)]);
    let count = |times: u8| i8::try_from(times).unwrap_or(i8::MAX);
    Ok(log::Settings {
        format: lookup.parsed(args.log_format.as_ref(), "log-format", Counts::Always, format)?.unwrap_or_default(),
        color: args.color.as_ref().map(|text| Value::flag("color", text).parse(color)).transpose()?.unwrap_or_default(),
        no_color: variable("NO_COLOR").is_some(),
        verbosity: count(args.verbose).saturating_sub(count(args.quiet)),
        file: lookup.path(args.log_file.as_ref(), "log-file", Counts::Always)?,
    })
}

/// The home of the effective user in `/etc/passwd`. Read as a file: a static program has no NSS.
pub fn home_in_passwd() -> Option<PathBuf> {
    let own = nix::unistd::geteuid().to_string();
    let passwd = std::fs::read("/etc/passwd").ok()?;
    let line = passwd
        .split(|&byte| byte == b'\n')
        .find(|line| line.split(|&byte| byte == b':').nth(2) == Some(own.as_bytes()))?;
    let home = line.split(|&byte| byte == b':').nth(5).filter(|home| !home.is_empty())?;
    Some(Path::new(OsStr::from_bytes(home)).to_owned())
}

/// A variable as it is, also when it is empty.
fn variable_as_set(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}
