//! `ccci-guard`: a process supervisor and exec wrapper for CI hosts.
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program.
pub fn run(_args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::from(125)
}
