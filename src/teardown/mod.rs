//! Tearing apps down: which, how, and what it came to.
//!
//! The work is done by a process of its own, the worker ([`worker`]), which needs none of those that started
//! it. It is the same one whoever starts it; `docs/design/teardown.md` tells the rules.

#![forbid(unsafe_code)]

pub mod apps;
pub mod command;
pub mod worker;

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// What a teardown came to, for one app or for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was due, but the app is not ours any more.
    Skipped,
    /// Nothing is left.
    Ok,
    /// Something is left.
    Partial,
    /// A step failed, or was killed twice.
    Failed,
    /// It ran into its limit.
    Timeout,
}

/// One app's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppOutcome {
    /// The app.
    pub app: String,
    /// What its teardown came to.
    pub result: Verdict,
    /// What is left of it.
    pub residual: Vec<String>,
}

/// A teardown's result, as a report shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The worst of all apps that are ours.
    pub result: Verdict,
    /// The command's exit status (128+n for a signal): the first that is not 0.
    pub status: Option<i32>,
    /// Seconds.
    pub elapsed_s: f64,
    /// Each app.
    pub apps: Vec<AppOutcome>,
    /// All that is left.
    pub residual: Vec<String>,
}

impl Outcome {
    /// Of a teardown that was killed each time it was tried.
    pub fn failed() -> Self {
        Outcome { result: Verdict::Failed, status: None, elapsed_s: 0.0, apps: Vec::new(), residual: Vec::new() }
    }
}

/// One thing that a worker has brought to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Progress {
    /// An app; none, where a command runs once for a run without apps.
    App {
        /// Its domain.
        app: Option<String>,
        /// What its teardown came to.
        result: Verdict,
        /// The exit status of what was run.
        status: Option<i32>,
    },
    /// All.
    Done {
        /// Seconds.
        elapsed_s: f64,
    },
}

/// Where a worker leaves what it has done: memory that it shares with every process that may come to reap it,
/// so that it outlives whichever of them dies. A second worker, after one that was killed, goes on from there.
#[derive(Debug)]
pub struct ResultSlot {
    memory: File,
}

impl ResultSlot {
    /// An empty slot.
    ///
    /// # Errors
    /// What memfd_create(2) gives.
    pub fn new() -> std::io::Result<Self> {
        Ok(ResultSlot { memory: crate::sys::fd::shared_memory(c"ccci-guard-result")? })
    }

    /// Adds a line; there is one writer at a time.
    fn put(&self, progress: &Progress) {
        let mut line = serde_json::to_vec(progress).unwrap_or_default();
        line.push(b'\n');
        let end = self.memory.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        let _ = self.memory.write_all_at(&line, end);
    }

    /// What was done so far.
    pub fn progress(&self) -> Vec<Progress> {
        let length = self.memory.metadata().ok().and_then(|metadata| usize::try_from(metadata.len()).ok());
        let mut text = vec![0; length.unwrap_or(0)];
        if self.memory.read_exact_at(&mut text, 0).is_err() {
            return Vec::new();
        }
        text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    /// The result, once a worker has come to its end.
    pub fn outcome(&self) -> Option<Outcome> {
        let progress = self.progress();
        let elapsed_s = progress.iter().find_map(|entry| match entry {
            Progress::Done { elapsed_s } => Some(*elapsed_s),
            Progress::App { .. } => None,
        })?;
        let mut outcome = Outcome { result: Verdict::Skipped, elapsed_s, ..Outcome::failed() };
        for entry in progress {
            let Progress::App { app, result, status } = entry else { continue };
            outcome.result = outcome.result.max(result);
            outcome.status = match outcome.status {
                Some(0) | None => status.or(outcome.status),
                first => first,
            };
            outcome.apps.extend(app.map(|app| AppOutcome { app, result, residual: Vec::new() }));
        }
        Some(outcome)
    }
}
