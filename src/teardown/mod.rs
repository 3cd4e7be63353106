//! Tearing apps down: which, how, and what it came to.
//!
//! The work is done by a process of its own, the worker ([`worker`]), which needs none of those that started
//! it. It is the same one whoever starts it; `docs/design/teardown.md` tells the rules.

#![forbid(unsafe_code)]

pub mod apps;
pub mod auto;
pub mod command;
pub mod inventory;
pub mod runner;
pub mod swarm;
pub mod worker;

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM};

use crate::sys::process::{Ended, Pid};

/// What a teardown came to, for one app or for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There was nothing of it.
    Gone,
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
    /// The same, without the apps and what is left of them.
    pub fn without_lists(self) -> Self {
        Outcome { apps: Vec::new(), residual: Vec::new(), ..self }
    }

    /// Of a teardown that was killed each time it was tried.
    pub fn failed() -> Self {
        Outcome { result: Verdict::Failed, status: None, elapsed_s: 0.0, apps: Vec::new(), residual: Vec::new() }
    }
}

/// What one app's teardown came to, in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppEnd {
    /// The verdict.
    pub result: Verdict,
    /// The exit status of a command as teardown.
    pub status: Option<i32>,
    /// One line for people.
    pub why: String,
    /// What is left.
    pub residual: Vec<String>,
    /// What was run.
    pub steps: Vec<StepReport>,
}

/// One command that a teardown ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its exit status (128+n for a signal); none where it had none.
    pub status: Option<i32>,
    /// Milliseconds.
    pub ms: u64,
}

impl AppEnd {
    /// Of a teardown by command, which is judged by its status.
    pub fn of_command(result: Verdict, status: Option<i32>) -> Self {
        let why = match (result, status) {
            (Verdict::Ok, _) => "torn down".to_owned(),
            (Verdict::Timeout, _) => "ran into its limit".to_owned(),
            (Verdict::Skipped, _) => "not ours any more".to_owned(),
            (_, Some(status)) => format!("the teardown failed with status {status}"),
            (_, None) => "the teardown could not be run".to_owned(),
        };
        AppEnd { result, status, why, residual: Vec::new(), steps: Vec::new() }
    }
}

/// One line of a worker's diary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Progress {
    /// A step is about to be let go.
    Step {
        /// The app; none, where a command runs once for a run without apps.
        app: Option<String>,
        /// Its process.
        pid: i32,
        /// No other step follows for this app.
        last: bool,
    },
    /// An app's teardown has come to its end.
    App {
        /// The app.
        app: Option<String>,
        /// What it came to.
        end: AppEnd,
    },
    /// All have.
    Done {
        /// Seconds.
        elapsed_s: f64,
    },
}

impl Progress {
    /// What the end of a step says of its app's whole teardown, if it says anything yet.
    ///
    /// A step that was ended by a signal from outside (or by a shell's word for one) says nothing: it is run
    /// once more.
    pub fn concluded(app: Option<String>, last: bool, how: Ended) -> Option<Progress> {
        match how {
            Ended::Code(0) if last => Some(Progress::App { app, end: AppEnd::of_command(Verdict::Ok, Some(0)) }),
            Ended::Code(0) => None,
            _ if killed_from_outside(how) => None,
            _ => {
                let status = how.as_shell_status();
                Some(Progress::App { app, end: AppEnd::of_command(Verdict::Failed, Some(status)) })
            }
        }
    }
}

/// Ended by a signal that asks or forces, or by a shell's word for one.
pub fn killed_from_outside(how: Ended) -> bool {
    let asks = |number| matches!(number, SIGTERM | SIGINT | SIGHUP | SIGKILL);
    match how {
        Ended::Signal(number) => asks(number),
        Ended::Code(code) => asks(code - 128),
    }
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
    pub fn put(&self, progress: &Progress) {
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

    /// What this app's teardown came to, as last noted.
    pub fn end_of(&self, name: &str) -> Option<AppEnd> {
        self.progress().into_iter().rev().find_map(|entry| match entry {
            Progress::App { app, end } if app.as_deref() == Some(name) => Some(end),
            _ => None,
        })
    }

    /// The step that was under way when a worker died, if it has left one: its process, app, and whether it was
    /// the last one for it.
    pub fn step_under_way(&self) -> Option<(Pid, Option<String>, bool)> {
        let progress = self.progress();
        match progress.last()? {
            Progress::Step { app, pid, last } => Some((Pid::from_raw(*pid), app.clone(), *last)),
            _ => None,
        }
    }

    /// The result, once a worker has come to its end.
    pub fn outcome(&self) -> Option<Outcome> {
        let progress = self.progress();
        let elapsed_s = progress.iter().find_map(|entry| match entry {
            Progress::Done { elapsed_s } => Some(*elapsed_s),
            Progress::Step { .. } | Progress::App { .. } => None,
        })?;
        let mut outcome = Outcome { result: Verdict::Skipped, elapsed_s, ..Outcome::failed() };
        for entry in progress {
            let Progress::App { app, end } = entry else { continue };
            outcome.result = outcome.result.max(end.result);
            outcome.status = match outcome.status {
                Some(0) | None => end.status.or(outcome.status),
                first => first,
            };
            outcome.residual.extend(end.residual.iter().cloned());
            outcome.apps.extend(app.map(|app| AppOutcome { app, result: end.result, residual: end.residual }));
        }
        Some(outcome)
    }
}
