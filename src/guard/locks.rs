//! Opening the lock directory and taking a run's locks, with a line in each that says who we are.

#![forbid(unsafe_code)]

use nix::unistd::getpid;

use crate::guard::acquire::{self, Listener, Refused};
use crate::guard::run;
use crate::lock::AppLock;
use crate::lock::holder::HolderLine;
use crate::lock::path::LockDirectory;
use crate::run_state::RunState;
use crate::settings::RunSettings;

/// Takes the locks of all apps; without an app nothing is opened.
///
/// # Errors
/// See [`acquire::all`].
pub fn take(
    settings: &RunSettings,
    state: &RunState,
    listener: &Listener<'_>,
) -> Result<(Option<LockDirectory>, Vec<AppLock>), Refused> {
    if settings.apps.is_empty() {
        return Ok((None, Vec::new()));
    }
    let directory = LockDirectory::open_or_create(&settings.lock_dir)?;
    let line = HolderLine::new(getpid(), state.id().as_str(), &settings.command);
    let record = |lock: &AppLock, about_to_start: bool| {
        let deadline_at = if about_to_start { run::deadline_at(settings) } else { None };
        lock.record(&HolderLine { deadline_at, ..line.clone() });
    };
    let locks = acquire::all(settings, &directory, listener, record)?;
    Ok((Some(directory), locks))
}
