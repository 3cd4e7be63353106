//! `ccci-guard doctor`: is this host ready? A line for each thing that a run or the janitor needs, with the next step
//! where something is missing. It changes nothing.

#![forbid(unsafe_code)]

mod host;
mod tools;

use std::io::IsTerminal;

use serde::Serialize;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::cli::DoctorArgs;
use crate::error::Error;
use crate::exit_status::ExitStatus;
use crate::log;
use crate::settings::{self, DoctorSettings};
use crate::sys::process;
use crate::sys::signal::{Delivery, Inherited};

/// How it is with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something does not work, or can't be told; runs do.
    Warning,
    /// Runs, or the janitor, won't work so.
    Error,
}

/// One line. Its keys are a contract.
#[derive(Debug, Serialize)]
pub struct Check {
    name: &'static str,
    status: Status,
    detail: String,
    next: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Check { name, status: Status::Ok, detail: detail.into(), next: None }
    }

    fn warning(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Check { name, status: Status::Warning, detail: detail.into(), next: Some(next.into()) }
    }

    fn error(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Check { name, status: Status::Error, detail: detail.into(), next: Some(next.into()) }
    }
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    checks: Vec<Check>,
}

/// Prints all checks; returns the status to exit with.
pub fn run(inherited: Inherited, args: &DoctorArgs) -> u8 {
    look(&inherited, args).unwrap_or_else(|error| {
        log::say_error(&error.to_string());
        error.command_status() as u8
    })
}

fn look(inherited: &Inherited, args: &DoctorArgs) -> Result<u8, Error> {
    let log = settings::resolve_log(&args.log)?;
    let color = log.wants_color(std::io::stdout().is_terminal());
    log::start(log)?;
    let settings = settings::resolve_doctor(args)?;
    let checks = match checks(&settings, inherited)? {
        Ok(checks) => checks,
        Err(signal) => return Ok(128 + u8::try_from(signal).unwrap_or(0)),
    };
    let failed = checks.iter().any(|check| check.status == Status::Error);
    let report = Report { schema: 1, checks };
    log::stdout(&if args.json { log::json_line(&report) } else { report.as_text(color) });
    Ok(if failed { ExitStatus::Failed } else { ExitStatus::Success } as u8)
}

/// All checks; or the signal by which somebody asked us to stop.
fn checks(settings: &DoctorSettings, inherited: &Inherited) -> Result<Result<Vec<Check>, i32>, Error> {
    // Programs are called; what they leave is ours to end.
    let subreaper = process::set_subreaper();
    let delivery =
        Delivery::new(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCHLD]).map_err(Error::system("cannot handle signals"))?;
    let mut tools = tools::Tools::new(settings, &delivery, inherited)?;
    let mut checks = vec![
        host::lock_directory(settings),
        host::lock_conflict(settings),
        host::kernel(subreaper),
        host::signals(inherited),
        host::runs_directory(settings),
        host::canonical_abra_dir(settings),
        host::deadline(settings),
    ];
    checks.extend(tools.etcd());
    checks.extend([
        tools.git(),
        tools.abra(),
        tools.docker(),
        tools.swarm(),
        tools.way_to_tear_down(),
        tools.janitor_timer(),
    ]);
    Ok(tools.asked.map_or(Ok(checks), Err))
}

impl Report {
    fn as_text(&self, color: bool) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let line = |check: &Check| {
            let (word, code) = match check.status {
                Status::Ok => ("ok", "32"),
                Status::Warning => ("warning", "33"),
                Status::Error => ("error", "1;31"),
            };
            let word = format!("{word:7}");
            let word = if color { format!("\x1b[{code}m{word}\x1b[0m") } else { word };
            let next = check
                .next
                .as_ref()
                .map(|next| format!("\n{:width$}  next: {next}", "", width = width + 9))
                .unwrap_or_default();
            // What a program answered is one line of text, whatever it printed.
            let detail = log::visible(check.detail.lines().next().unwrap_or_default());
            format!("{word}  {:width$}  {detail}{next}\n", check.name)
        };
        self.checks.iter().map(line).collect()
    }
}
