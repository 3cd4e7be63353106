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
    forms: &'static [Forms],
}

/// Forms that have their statuses in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forms {
    /// `run` and `exec`.
    Run,
    /// `janitor` and `reap`.
    Janitor,
    /// `abra-dir` and `state`.
    PerRun,
    /// All others.
    Others,
}

impl Forms {
    /// All, with what they are called.
    pub const ALL: [(Forms, &'static str); 4] = [
        (Forms::Run, "run, exec"),
        (Forms::Janitor, "janitor, reap"),
        (Forms::PerRun, "abra-dir, state"),
        (Forms::Others, "locks, doctor, completions, man, help"),
    ];

    /// Those of a form: `run`, `abra-dir create`.
    pub fn of(form: &str) -> Self {
        let is = |names: [&str; 2]| names.iter().any(|name| form.starts_with(name));
        if is(["run", "exec"]) {
            Forms::Run
        } else if is(["janitor", "reap"]) {
            Forms::Janitor
        } else if is(["abra-dir", "state"]) {
            Forms::PerRun
        } else {
            Forms::Others
        }
    }
}

/// The rows of these forms.
pub fn rows(forms: Forms) -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(move |row| row.forms.contains(&forms))
}

const RUN: &[Forms] = &[Forms::Run];
const JANITOR: &[Forms] = &[Forms::Janitor];
const PER_RUN: &[Forms] = &[Forms::PerRun];
const NOT_RUN: &[Forms] = &[Forms::Janitor, Forms::PerRun, Forms::Others];

const fn row(status: &'static str, forms: &'static [Forms], meaning: &'static str) -> Row {
    Row { status, meaning, forms }
}

/// All statuses; `docs/exit-status.md` says more of each.
const TABLE: [Row; 22] = [
    row("the harness's own", RUN, "passed through, whatever it is"),
    row("128+n", RUN, "the harness died of signal n by itself"),
    row("142", RUN, "deadline"),
    row("143 130 129 131", RUN, "asked to stop by SIGTERM, SIGINT, SIGHUP, SIGQUIT; 143 also when the caller died"),
    row("137", RUN, "the supervisor was killed; the monitor stopped the run and tore it down"),
    row("141", RUN, "nobody reads the output any more (--stop-on-closed-output)"),
    row("70", RUN, "it exited 0, but a teardown failed or a process could not be killed; or a self-deadlock"),
    row("75", RUN, "the app lock was not had in time (it says who holds it), or etcd can't be reached"),
    row("76", RUN, "the cluster lock was lost: the harness was killed, nothing torn down"),
    row("78", RUN, "never by the guard itself (Drone takes it for success)"),
    row("125", RUN, "could not be started: usage, setting, orphan, lock directory, no way to tear down"),
    row("126", RUN, "the command was found, but can't be executed"),
    row("127", RUN, "the command, or its interpreter, was not found"),
    row("0", NOT_RUN, "all went well"),
    row("1", NOT_RUN, "something failed, or is wrong, or is left"),
    row("2", NOT_RUN, "usage"),
    row("3", JANITOR, "janitor --fail-on-findings: there is something to look at"),
    row("66", PER_RUN, "what was named is not there"),
    row("69", JANITOR, "a list could not be had, or etcd not be reached; nothing was touched"),
    row("73", PER_RUN, "it exists already; nothing was changed"),
    row("75", JANITOR, "reap: somebody holds the app's lock"),
    row("143 130 129 131", NOT_RUN, "asked to stop by SIGTERM, SIGINT, SIGHUP, SIGQUIT"),
];

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}
