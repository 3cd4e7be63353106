//! A shell command as teardown: its words and its environment.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::app::AppName;
use crate::settings;
use crate::teardown::runner::Command;

/// What a teardown command is told, beside what the harness was.
#[derive(Clone, Debug)]
pub struct Context {
    /// The environment that the harness had.
    pub environment: Vec<(OsString, OsString)>,
    /// Why the run ends.
    pub cause: &'static str,
    /// How the harness ended, as a shell shows it.
    pub harness_status: Option<i32>,
    /// The host's own ABRA_DIR, where there is one.
    pub canonical_abra_dir: Option<PathBuf>,
}

/// `/bin/sh -c COMMAND`
pub fn shell(command: &OsStr, environment: Vec<(OsString, OsString)>) -> Command {
    Command { argv: vec!["/bin/sh".into(), "-c".into(), command.to_owned()], environment }
}

/// The environment of a teardown command for this app.
pub fn environment(context: &Context, app: Option<&AppName>) -> Vec<(OsString, OsString)> {
    let mut changes: Vec<(&str, OsString)> = vec![
        ("CCCI_TEARDOWN_CAUSE", context.cause.into()),
        ("CCCI_HARNESS_STATUS", context.harness_status.map(|status| status.to_string()).unwrap_or_default().into()),
    ];
    if let Some(app) = app {
        changes.push(("CCCI_TEARDOWN_APP", app.as_str().into()));
        changes.push(("CCCI_TEARDOWN_STACK", app.stack().into()));
    }
    if let Some(directory) = &context.canonical_abra_dir {
        changes.push(("ABRA_DIR", directory.clone().into_os_string()));
    }
    let mut environment = with_home(&context.environment);
    // An outer run's, where this guard is part of its teardown: not ours to touch.
    environment.retain(|(name, _)| name != "CCCI_TEARDOWN_APP" && name != "CCCI_TEARDOWN_STACK");
    environment.retain(|(name, _)| !changes.iter().any(|(changed, _)| name == changed));
    environment.extend(changes.into_iter().map(|(name, value)| (name.into(), value)));
    environment
}

/// The caller's HOME where it still exists: a CI runner deletes its workspace, and HOME in it, at once. Else
/// the user's own, else none.
fn with_home(caller: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let mut environment = caller.to_vec();
    let given = environment.iter().find(|(name, _)| name == "HOME").map(|(_, home)| PathBuf::from(home));
    if !given.is_some_and(|home| home.is_dir()) {
        environment.retain(|(name, _)| name != "HOME");
        let home = settings::home_in_passwd().filter(|home| home.is_dir());
        environment.extend(home.map(|home| ("HOME".into(), home.into_os_string())));
    }
    environment
}
