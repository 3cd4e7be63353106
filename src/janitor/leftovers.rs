//! The end of a round: what dead runs left on disk, beside their apps.

#![forbid(unsafe_code)]

use crate::settings::JanitorSettings;
use crate::{abra_dir, run_state};

/// Does what `abra-dir gc` and `state gc` do. What goes wrong here is said, and changes nothing of the round's result.
pub fn sweep(settings: &JanitorSettings) {
    match abra_dir::sweep(&settings.runs_dir, false, false) {
        Ok(swept) => {
            for (id, path) in &swept.removed {
                let path = path.display();
                tracing::info!(event = "abra-dir-removed", "removed the ABRA_DIR of run {id}, which is dead: {path}");
            }
            swept.say_what_stays();
            for (path, error) in &swept.failed {
                tracing::warn!(event = "abra-dir-left", "cannot remove '{}' of a dead run: {error}", path.display());
            }
        }
        Err(error) => {
            let path = settings.runs_dir.display();
            tracing::warn!(event = "runs-dir", "cannot read the runs directory '{path}': {error}");
        }
    }
    match run_state::sweep(settings.into(), false) {
        Ok(swept) => {
            let runs: std::collections::BTreeSet<&String> = swept.removed.iter().map(|(id, _)| id).collect();
            for id in runs {
                tracing::info!(event = "state-removed", "removed the state files of run {id}, which is dead");
            }
            for (path, error) in &swept.failed {
                tracing::warn!(event = "state-left", "could not remove '{}' of a dead run: {error}", path.display());
            }
        }
        Err(error) => tracing::warn!(event = "state-left", "{error}"),
    }
}
