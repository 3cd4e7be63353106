//! `ccci-guard`: a process supervisor and exec wrapper for CI hosts.
//!
//! It runs a test harness so that nothing of it is left behind, whatever ends it: no process, no lock, no
//! deployed app. `docs/architecture.md` tells how the parts fit together.
//!
//! Invariant: `unsafe` and raw system calls are in [`sys`] alone.

pub mod abra_dir;
pub mod allow_list;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod doctor;
pub mod duration;
pub mod error;
pub mod exit_status;
pub mod gate;
pub mod guard;
pub mod harness;
pub mod interpreter;
pub mod janitor;
pub mod lock;
pub mod locks;
pub mod log;
pub mod manual;
pub mod run_state;
pub mod settings;
pub mod stack;
#[expect(unsafe_code, reason = "the wall around the kernel: system calls that neither std nor nix make safe")]
pub mod sys;
pub mod teardown;
pub mod tree;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::{Cli, Form};
use crate::exit_status::ExitStatus;

/// Runs the program: parse, then dispatch.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    // First of all: who our parent is, and what it handed us, can't be told later.
    let birth = guard::Birth::now();
    let words: Vec<OsString> = args.collect();
    if words.first().is_some_and(|name| name == cluster::NAME) {
        return ExitCode::from(cluster::keep());
    }
    if let Some((form, args)) = cli::parse_run(&words) {
        return ExitCode::from(guard::start(birth, form, &args));
    }
    let status = dispatch(birth, &words);
    let lost = status == ExitStatus::Success as u8 && log::stdout_failed();
    ExitCode::from(if lost { ExitStatus::Failed as u8 } else { status })
}

fn dispatch(birth: guard::Birth, words: &[OsString]) -> u8 {
    if words.iter().skip(1).eq(["help", "exit-codes"]) {
        return manual::exit_codes();
    }
    match cli::parse(words) {
        Err(error) => not_understood(&error, words),
        Ok(Cli { form: None, run }) => guard::start(birth, settings::Form::Run, &run),
        Ok(Cli { form: Some(form), .. }) => match form {
            Form::Run(args) => guard::start(birth, settings::Form::Run, &args),
            Form::Exec(args) => guard::start(birth, settings::Form::Exec, &args),
            Form::Janitor(args) => janitor::round(birth.inherited, &args),
            Form::Reap(args) => janitor::reap(birth.inherited, &args.app, &args.janitor),
            Form::AbraDir(args) => abra_dir::run(birth.inherited, &args),
            Form::State(args) => run_state::run(&args),
            Form::Locks(args) => locks::run(&args),
            Form::Doctor(args) => doctor::run(birth.inherited, &args),
            Form::Completions(args) => manual::completions(&args),
            Form::Man(args) => manual::man(&args),
        },
    }
}

/// Help and version, or one sentence about what is wrong.
fn not_understood(error: &clap::Error, words: &[OsString]) -> u8 {
    if !error.use_stderr() {
        log::stdout(&error.render().to_string());
        return ExitStatus::Success as u8;
    }
    // Whoever reads JSON reads this too. A bad format is the smaller fault of the two.
    let format = settings::resolve_log(&cli::log_format(words)).unwrap_or_default();
    let _ = log::start(format);
    log::say_error(&cli::usage_error(error, words));
    if cli::means_to_run(words) { ExitStatus::CannotStart as u8 } else { ExitStatus::Usage as u8 }
}
