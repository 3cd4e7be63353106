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

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}
