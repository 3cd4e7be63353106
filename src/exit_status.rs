//! The exit statuses that are the guard's own. `docs/exit-status.md` has a row for each.

use std::process::ExitCode;

/// One exit status with a meaning of ours. A harness's own status passes through and is not listed here.
///
/// 78 is never among them: the Drone runner takes it for success-and-skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// All went well.
    Success = 0,
    /// Something failed, or something is left.
    Failed = 1,
    /// Usage error of the forms that run no command.
    Usage = 2,
    /// `--fail-on-findings`: there is something to look at.
    Findings = 3,
    /// Something that was named is not there.
    NoInput = 66,
    /// A list could not be had; nothing was touched.
    NoList = 69,
    /// The harness exited 0, but a teardown failed or survivors could not be killed; or a self-deadlock.
    Unclean = 70,
    /// It exists already; nothing was changed.
    CannotCreate = 73,
    /// The lock was not had in time.
    LockTimeout = 75,
    /// The cluster lease was lost: the harness was stopped and nothing torn down.
    LeaseLost = 76,
    /// The guard could not start the run: usage, settings, orphan, lock directory.
    CannotStart = 125,
    /// The command was found, but can't be executed.
    CannotExecute = 126,
    /// The command was not found.
    NotFound = 127,
    /// The guard was asked to stop by SIGHUP.
    Hangup = 129,
    /// The guard was asked to stop by SIGINT.
    Interrupt = 130,
    /// The guard was asked to stop by SIGQUIT.
    Quit = 131,
    /// The supervisor was killed; the monitor finished the run.
    SupervisorGone = 137,
    /// Nobody reads the output any more (`--stop-on-closed-output`).
    OutputClosed = 141,
    /// The deadline passed.
    Deadline = 142,
    /// The guard was asked to stop by SIGTERM, or its caller died.
    Terminated = 143,
}

/// A row of the table that `help exit-codes` and the man pages print.
pub struct Row {
    /// One number, or several.
    pub status: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The forms that give it.
    forms: Forms,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Forms {
    /// `run` and `exec`.
    Run,
    /// `janitor` and `reap`.
    Janitor,
    /// `abra-dir` and `state`.
    PerRun,
    /// All but `run` and `exec`.
    Others,
    /// `run`, `exec` and `reap`.
    Locking,
}

impl Row {
    /// Does this form (`run`, `abra-dir create`; empty: the whole program) give it?
    pub fn applies_to(&self, form: &str) -> bool {
        let is = |names: &[&str]| form.is_empty() || names.iter().any(|name| form.starts_with(name));
        match self.forms {
            Forms::Run => is(&["run", "exec"]),
            Forms::Janitor => is(&["janitor", "reap"]),
            Forms::PerRun => is(&["abra-dir", "state"]),
            Forms::Others => form.is_empty() || !is(&["run", "exec"]),
            Forms::Locking => is(&["run", "exec", "reap"]),
        }
    }
}

const fn row(status: &'static str, forms: Forms, meaning: &'static str) -> Row {
    Row { status, meaning, forms }
}

/// All statuses; `docs/exit-status.md` says more of each.
pub const TABLE: [Row; 21] = [
    row("the harness's own", Forms::Run, "passed through, whatever it is"),
    row("128+n", Forms::Run, "the harness died of signal n by itself"),
    row("142", Forms::Run, "deadline"),
    row(
        "143 130 129 131",
        Forms::Run,
        "asked to stop by SIGTERM, SIGINT, SIGHUP, SIGQUIT; 143 also when the caller died",
    ),
    row("137", Forms::Run, "the supervisor was killed; the monitor stopped the run and tore it down"),
    row("141", Forms::Run, "nobody reads the output any more (--stop-on-closed-output)"),
    row("70", Forms::Run, "it exited 0, but a teardown failed or a process could not be killed; or a self-deadlock"),
    row("75", Forms::Locking, "the app lock was not had in time; it says who holds it"),
    row("76", Forms::Run, "reserved: the lease of a cluster lock was lost"),
    row("78", Forms::Run, "never by the guard itself (Drone takes it for success)"),
    row(
        "125",
        Forms::Run,
        "the run could not be started: usage, settings, orphan, lock directory, no way to tear down",
    ),
    row("126", Forms::Run, "the command was found, but can't be executed"),
    row("127", Forms::Run, "the command, or its interpreter, was not found"),
    row("0", Forms::Others, "all went well"),
    row("1", Forms::Others, "something failed, or is wrong; janitor, reap: or something is left"),
    row("2", Forms::Others, "usage"),
    row("3", Forms::Janitor, "janitor --fail-on-findings: there is something to look at"),
    row("66", Forms::PerRun, "what was named is not there"),
    row("143 130 129 131", Forms::Others, "asked to stop by SIGTERM, SIGINT, SIGHUP, SIGQUIT"),
    row("69", Forms::Janitor, "a list could not be had; nothing was touched"),
    row("73", Forms::PerRun, "it exists already; nothing was changed"),
];

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}
