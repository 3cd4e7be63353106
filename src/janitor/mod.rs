//! The janitor: reaps what nobody could tear down, never a live run. Also `reap`, for one app.
//!
//! Nothing decides but the locks: no age, no pid, no registry. A held lock is a live run, whatever else
//! speaks against it; a free one is nobody's app. `docs/design/janitor.md` has the table.
//!
//! Invariants: nothing outside the allow-list is opened, probed or created; nothing is torn down or unlinked
//! but under its lock; when a list could not be had, nothing is touched.

#![forbid(unsafe_code)]

mod candidates;
mod classify;
mod crew;
mod leftovers;
mod output;
mod probe;
mod progress;

use std::collections::HashSet;
use std::ffi::OsStr;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};

use crate::app::AppName;
use crate::cli::JanitorArgs;
use crate::error::Error;
use crate::exit_status::ExitStatus;
use crate::janitor::candidates::{Candidate, Lister};
use crate::janitor::classify::{Found, Verdict};
use crate::janitor::crew::Crew;
use crate::janitor::output::{Entry, LockReport, Report};
use crate::janitor::probe::Probe;
use crate::lock::path::LockDirectory;
use crate::log;
use crate::settings::{self, JanitorSettings};
use crate::sys::process::{self, Pid};
use crate::sys::procfs::LockTable;
use crate::sys::signal::{self, Delivery, Inherited};
use crate::sys::time;
use crate::tree::Tree;

/// Why a round ended before it touched anything.
enum Refused {
    /// Usage.
    Usage(Error),
    /// Something is in the way.
    Failed(Error),
    /// A list could not be had.
    NoList(String),
    /// Somebody asked us to stop, by this signal.
    Asked(i32),
}

/// One round over all run apps; returns the status to exit with.
pub fn round(inherited: Inherited, args: &JanitorArgs) -> u8 {
    let began = time::now();
    let settings = match start_log(args).and_then(|()| settings::resolve_janitor(args)) {
        Ok(settings) => settings,
        Err(error) => return usage(&error),
    };
    let round = || {
        let delivery = prepare(&inherited)?;
        let lister = Lister::new(&settings, &delivery, &inherited)?;
        let candidates = lister.candidates()?;
        let directory = open_directory(&settings);
        Ok(work_off(&settings, &delivery, &inherited, &lister, directory.as_ref(), candidates))
    };
    let (status, report) = match round() {
        Ok((report, asked)) => {
            if asked.is_none() && !settings.dry_run {
                leftovers::sweep(&settings);
            }
            log::stdout(&if settings.json { report.as_json() } else { report.as_text() });
            (asked.map_or_else(|| report.exit_status(settings.fail_on_findings), asked_status), report)
        }
        Err(refused) => (say(refused), Report::default()),
    };
    if let Some(path) = &settings.metrics {
        output::write_metrics(path, &report, time::now().saturating_sub(began), status);
    }
    status
}

/// Tears one app down, under its lock; returns the status to exit with.
pub fn reap(inherited: Inherited, app: &OsStr, args: &JanitorArgs) -> u8 {
    let (app, settings) = match start_log(args).and_then(|()| settings::resolve_reap(app, args)) {
        Ok(resolved) => resolved,
        Err(error) => return usage(&error),
    };
    let one = || {
        let delivery = prepare(&inherited)?;
        let lister = Lister::new(&settings, &delivery, &inherited)?;
        lister.can_list(&app)?;
        // Nothing is made for a look.
        let directory = match settings.dry_run {
            true => LockDirectory::open_existing(&settings.lock_dir),
            false => LockDirectory::open_or_create(&settings.lock_dir).map(Some),
        };
        let Some(directory) = directory.map_err(Refused::Failed)? else {
            let entry = Entry::new(app.as_str(), Verdict::WouldReap, "nobody holds its lock");
            return Ok((entry, ExitStatus::Success as u8));
        };
        Ok(reap_one(&settings, &delivery, &inherited, &lister, &directory, &app))
    };
    match one() {
        Ok((entry, status)) => {
            let report = Report::of(vec![entry]);
            log::stdout(&if settings.json { report.as_json() } else { report.as_text() });
            status
        }
        Err(refused) => say(refused),
    }
}

fn start_log(args: &JanitorArgs) -> Result<(), Error> {
    settings::resolve_log(&args.log).and_then(log::start)
}

fn usage(error: &Error) -> u8 {
    log::say_error(&error.to_string());
    ExitStatus::Usage as u8
}

fn say(refused: Refused) -> u8 {
    match refused {
        Refused::Usage(error) => usage(&error),
        Refused::Failed(error) => {
            log::say_error(&error.to_string());
            ExitStatus::Failed as u8
        }
        Refused::NoList(why) => {
            tracing::error!(event = "no-list", "{why}; nothing was touched");
            ExitStatus::NoList as u8
        }
        Refused::Asked(signal) => asked_status(signal),
    }
}

fn asked_status(signal: i32) -> u8 {
    128 + u8::try_from(signal).unwrap_or(0)
}

fn prepare(inherited: &Inherited) -> Result<Delivery, Refused> {
    let refused = |what| move |error| Refused::Usage(Error::System { what, error });
    signal::ignore(SIGXFSZ);
    // Where the teardowns run: what is listed here must be listed there.
    let _ = std::env::set_current_dir("/");
    process::set_subreaper().map_err(refused("cannot become a subreaper"))?;
    let handled = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];
    let mut handled: Vec<i32> = handled.into_iter().filter(|&number| !inherited.ignores(number)).collect();
    handled.push(SIGCHLD);
    Delivery::new(&handled).map_err(refused("cannot handle signals"))
}

/// The lock directory, if it is there and can be used; else nothing can be probed, and that is said.
fn open_directory(settings: &JanitorSettings) -> Option<LockDirectory> {
    let directory = LockDirectory::open_existing(&settings.lock_dir).unwrap_or_else(|error| {
        tracing::warn!(event = "lock-directory", "{error}");
        None
    });
    if directory.is_none() {
        let path = settings.lock_dir.display();
        tracing::warn!(
            event = "lock-directory",
            "no usable lock directory '{path}': nothing can be probed, all is skipped"
        );
    }
    directory
}

/// Goes through the candidates; tells also whether somebody asked us to stop.
fn work_off<'a>(
    settings: &'a JanitorSettings,
    delivery: &'a Delivery,
    inherited: &'a Inherited,
    lister: &'a Lister<'a>,
    directory: Option<&'a LockDirectory>,
    candidates: Vec<Candidate>,
) -> (Report, Option<i32>) {
    let mut entries = Vec::new();
    let mut crew = Crew::new(settings, delivery, inherited, lister, directory);
    // Only for people: read once, since it lists all locks of the host.
    let takers = LockTable::read();
    for candidate in candidates {
        let (name, has_app) = match candidate.found {
            Found::Admitted { app, has_app } => (app, has_app),
            _ => {
                entries.extend(
                    classify::without_probe(&candidate).map(|(verdict, why)| Entry::new(&candidate.name, verdict, why)),
                );
                continue;
            }
        };
        let Some(directory) = directory else {
            entries.push(Entry::new(name.as_str(), Verdict::Skipped, "there is no lock directory"));
            continue;
        };
        // The lock is taken when there is a hand free, not held while others work.
        if has_app && !settings.dry_run {
            crew.wait_for_a_hand();
        }
        if crew.asked().is_some() {
            break;
        }
        let probe = probe::probe(directory, &name, has_app, settings, &takers);
        match probe {
            Probe::Ours(lock, lease) => crew.start(name, lock, lease),
            Probe::Settled(entry) => entries.push(*entry),
        }
    }
    crew.wait_for_all();
    let asked = crew.asked();
    entries.extend(crew.into_entries());
    entries.sort_by(|a, b| a.app.cmp(&b.app));
    (Report::of(entries), asked)
}

fn reap_one<'a>(
    settings: &'a JanitorSettings,
    delivery: &'a Delivery,
    inherited: &'a Inherited,
    lister: &'a Lister<'a>,
    directory: &'a LockDirectory,
    app: &AppName,
) -> (Entry, u8) {
    let (lock, lease) = match probe::acquire(directory, app, settings, delivery) {
        Ok(Probe::Ours(lock, lease)) => (lock, lease),
        Ok(Probe::Settled(entry)) => {
            let held = matches!(entry.verdict, Verdict::Live | Verdict::PossibleLeak | Verdict::HeldUnlinked);
            let status = match entry.verdict {
                _ if held => ExitStatus::LockTimeout,
                Verdict::WouldReap | Verdict::StaleLock | Verdict::Gone => ExitStatus::Success,
                _ => ExitStatus::Failed,
            };
            return (*entry, status as u8);
        }
        Err(signal) => {
            return (Entry::new(app.as_str(), Verdict::Skipped, "asked to stop"), asked_status(signal));
        }
    };
    let mut crew = Crew::new(settings, delivery, inherited, lister, Some(directory));
    crew.start(app.clone(), lock, lease);
    crew.wait_for_all();
    let entry = crew.into_entries().pop().unwrap_or_else(|| Entry::new(app.as_str(), Verdict::Failed, "no result"));
    let status = match entry.verdict {
        Verdict::Reaped | Verdict::Gone => ExitStatus::Success,
        _ => ExitStatus::Failed,
    };
    (entry, status as u8)
}

/// Children that this process had before it was a janitor, and what descends from them: never ours to end.
fn existing_children() -> HashSet<Pid> {
    if process::peek_ended() == process::Children::None {
        return HashSet::new();
    }
    let mut tree = Tree::default();
    tree.note_all();
    tree.into_noted()
}

impl LockReport {
    fn none() -> Self {
        LockReport { path: None, held_s: None, holder: None }
    }
}
