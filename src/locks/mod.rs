//! `ccci-guard locks`: who holds which app lock. A look: it takes no lock and makes no file.
//!
//! `/proc/locks` says that a file is locked, by whom it was taken, who waits; `/proc/PID/fdinfo` who shares the lock's
//! description now, which is what keeps it. What can't be seen (other users' processes, other pid namespaces) is said.

#![forbid(unsafe_code)]

mod look;
mod output;

use std::ffi::OsString;

use crate::app::AppName;
use crate::cli::LocksArgs;
use crate::cluster::{self, Answer, Question};
use crate::error::Error;
use crate::exit_status::ExitStatus;
use crate::locks::look::{Look, State};
use crate::log;
use crate::settings;

/// Prints the locks; returns the status to exit with.
pub fn run(args: &LocksArgs) -> u8 {
    let status = show(args).unwrap_or_else(|error| {
        log::say_error(&error.to_string());
        error.command_status()
    });
    status as u8
}

fn show(args: &LocksArgs) -> Result<ExitStatus, Error> {
    settings::resolve_log(&args.log).and_then(log::start)?;
    let directory = settings::resolve_lock_dir(args.lock_dir.as_deref())?;
    let parse = |app: &OsString| settings::parse_word("app", app, AppName::parse);
    let apps: Vec<AppName> = args.app.iter().map(parse).collect::<Result<_, _>>()?;
    let etcd = settings::resolve_cluster(&args.cluster)?;
    let mut look = Look::at(&directory, &apps)?;
    if let Some(etcd) = &etcd {
        let names = apps.iter().map(ToString::to_string).collect();
        match cluster::ask(etcd, Question::WhoHolds(names))? {
            Answer::Holders(seen) => look.add_cluster(&directory, seen),
            other => return Err(cluster::failure(other)),
        }
    }
    look.say_what_is_unseen();
    for lock in look.locks.iter().filter(|lock| !lock.has_file && lock.state == State::Free) {
        let path = lock.path.display();
        tracing::info!(
            event = "no-lock-file",
            app = lock.app.as_str(),
            "no lock file '{path}': nobody has locked this app"
        );
    }
    log::stdout(&if args.json { output::as_json(&look) } else { output::as_text(&look) });
    Ok(ExitStatus::Success)
}
