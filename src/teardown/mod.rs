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

/// Where a worker leaves its result: memory that it shares with every process that may come to reap it, so
/// that the result outlives whichever of them dies.
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

    /// Empties it, before a worker starts.
    pub fn clear(&self) {
        let _ = self.memory.set_len(0);
    }

    fn put(&self, outcome: &Outcome) {
        let text = serde_json::to_vec(outcome).unwrap_or_default();
        let _ = self.memory.write_all_at(&text, 0);
    }

    /// The result, if a whole one was left.
    pub fn get(&self) -> Option<Outcome> {
        let length = usize::try_from(self.memory.metadata().ok()?.len()).ok()?;
        let mut text = vec![0; length];
        self.memory.read_exact_at(&mut text, 0).ok()?;
        serde_json::from_slice(&text).ok()
    }
}
