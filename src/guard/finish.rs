//! The end of a run, by whoever is in charge: clean up, report, say it, release the locks.

#![forbid(unsafe_code)]

use std::time::Duration;

use signal_hook::consts::SIGCONT;

use crate::abra_dir::AbraDir;
use crate::cluster::Lease;
use crate::duration;
use crate::guard::event::Cause;
use crate::guard::protocol::{Channel, Message};
use crate::guard::report::{HarnessReport, Report, TeardownReport};
use crate::guard::run::Run;
use crate::guard::state::State;
use crate::sys::process::{self, Pid};
use crate::sys::time;
use crate::teardown::{Outcome, Verdict};

/// What the report tells and no decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The harness.
    pub harness: Option<Pid>,
    /// How many had to be ended after it.
    pub survivors_killed: u32,
    /// Those that could not be.
    pub unkillable: Vec<String>,
    /// The monitor had to go on in the supervisor's place.
    pub takeover: bool,
    /// Why the cluster lease was lost, where it was.
    pub lease_lost: Option<String>,
}

/// Does all that is left to do; returns the exit status.
pub fn finish(run: &Run, state: &State, facts: &Facts, monitor: &Channel) -> u8 {
    let status = state.exit_status();
    if keeps_abra_dir(run, state) {
        run.state.remove_but_abra_dir(facts.harness);
    } else {
        run.state.remove(facts.harness);
    }
    if let Some(file) = &run.report {
        file.write(&report(run, state, facts, status));
    }
    say(run, state, status);
    // Before the release: a monitor that hears this has nothing left to do but that.
    monitor.tell(&Message::Finished { status });
    run.release_locks();
    // A stopped monitor would keep its descriptors, and the caller waiting.
    if nix::unistd::getpid() != run.monitor && nix::unistd::getppid() == run.monitor {
        let _ = process::kill(run.monitor, SIGCONT);
    }
    status
}

/// The report of a run whose harness was never started.
pub fn report_refusal(run_id: &str, apps: Vec<String>, cause: Cause, status: u8, lock_wait: Duration) -> Report {
    Report {
        schema: 1,
        run_id: run_id.to_owned(),
        apps,
        cause: cause.name(),
        signal: cause.signal_name(),
        exit_code: status,
        harness: HarnessReport::default(),
        lock_wait_s: lock_wait.as_secs_f64(),
        elapsed_s: lock_wait.as_secs_f64(),
        survivors_killed: 0,
        survivors_unkillable: Vec::new(),
        teardown: TeardownReport::from(None),
        takeover: false,
        lease_lost: None,
    }
}

/// Writes the report of a run that was ready to start, and was refused all the same.
pub fn write_refusal(run: &Run, cause: Cause, status: u8) {
    if let Some(file) = &run.report {
        let apps = run.settings.apps.iter().map(ToString::to_string).collect();
        let refusal = report_refusal(run.state.id().as_str(), apps, cause, status, run.lock_wait);
        file.write(&Report { elapsed_s: time::now().saturating_sub(run.began).as_secs_f64(), ..refusal });
    }
}

fn report(run: &Run, state: &State, facts: &Facts, status: u8) -> Report {
    let cause = state.cause.unwrap_or(Cause::SupervisorGone);
    let apps = run.settings.apps.iter().map(ToString::to_string).collect();
    let harness = HarnessReport {
        pid: facts.harness.map(Pid::as_raw).filter(|_| state.started),
        status: state.harness.filter(|_| state.started),
    };
    Report {
        harness,
        elapsed_s: time::now().saturating_sub(run.began).as_secs_f64(),
        survivors_killed: facts.survivors_killed,
        survivors_unkillable: facts.unkillable.clone(),
        teardown: TeardownReport::from(state.teardown.as_ref()),
        takeover: facts.takeover,
        // Also where the worker was the first to see it.
        lease_lost: run.lease.as_ref().and_then(Lease::loss).map(|loss| loss.to_string()),
        ..report_refusal(run.state.id().as_str(), apps, cause, status, run.lock_wait)
    }
}

/// Is there something to look at in the run's own ABRA_DIR: because that was asked for, or something is left of its apps?
fn keeps_abra_dir(run: &Run, state: &State) -> bool {
    let left = |outcome: &Outcome| matches!(outcome.result, Verdict::Partial | Verdict::Failed | Verdict::Timeout);
    run.state.abra_dir().is_some() && (run.settings.keep_run_dir || state.teardown.as_ref().is_some_and(left))
}

/// The last line. A harness that ended by itself with nothing to tear down needs none.
fn say(run: &Run, state: &State, status: u8) {
    let released = match run.locks.iter().filter(|lock| !lock.is_borrowed()).count() {
        0 => "",
        1 => "; lock released",
        _ => "; locks released",
    };
    let kept = run.state.abra_dir().filter(|_| keeps_abra_dir(run, state)).map(AbraDir::path);
    let kept = kept.map(|path| format!("; ABRA_DIR kept: {}", path.display())).unwrap_or_default();
    match (&state.teardown, state.cause) {
        (Some(outcome), _) => say_torn_down(outcome, released, status, &kept),
        (None, Some(Cause::HarnessExit | Cause::GuardError(_)) | None) if !kept.is_empty() => {
            tracing::info!(event = "finished", "finished{released}; exit {status}{kept}");
        }
        (None, Some(Cause::HarnessExit | Cause::GuardError(_)) | None) => {
            tracing::debug!(event = "finished", "finished{released}; exit {status}");
        }
        (None, Some(cause)) => {
            let left = match state.kill_at {
                Some(_) => "; nothing torn down: the app may be another's by now, who does that, or the janitor",
                None if run.settings.apps.is_empty() || !state.started => "",
                None => "; nothing torn down (teardown none)",
            };
            tracing::info!(event = "finished", "run ended ({}){left}{released}; exit {status}{kept}", cause.name());
        }
    }
}

fn say_torn_down(outcome: &Outcome, released: &str, status: u8, kept: &str) {
    // Of several apps, those that the verdict is about.
    let names: Vec<&str> =
        outcome.apps.iter().filter(|app| app.result == outcome.result).map(|app| app.app.as_str()).collect();
    let names = if names.is_empty() { "the run".to_owned() } else { listed(&names) };
    let time = duration::show(Duration::from_secs_f64(outcome.elapsed_s.max(0.0)));
    match outcome.result {
        Verdict::Ok => {
            tracing::info!(event = "torn-down", "torn down {names} in {time}{released}; exit {status}{kept}")
        }
        _ if outcome.apps.is_empty() && outcome.result == Verdict::Skipped => {
            tracing::warn!(
                event = "teardown-skipped",
                "nothing torn down: no app is known, the harness must do it itself{released}; exit {status}{kept}"
            );
        }
        Verdict::Gone | Verdict::Skipped => {
            tracing::warn!(event = "teardown-skipped", "nothing torn down{released}; exit {status}{kept}")
        }
        Verdict::Timeout => tracing::error!(
            event = "teardown-timeout",
            "teardown of {names} ran into its limit after {time}{released}; exit {status}{kept}"
        ),
        Verdict::Partial | Verdict::Failed => {
            // The status of another app's teardown says nothing of this one's.
            let number = outcome.status.filter(|number| *number != 0);
            let number = number.map(|number| format!(" (status {number})")).unwrap_or_default();
            let done: Vec<&str> =
                outcome.apps.iter().filter(|app| app.result == Verdict::Ok).map(|app| app.app.as_str()).collect();
            let done = if done.is_empty() { String::new() } else { format!("; torn down: {}", listed(&done)) };
            tracing::error!(
                event = "teardown-failed",
                "teardown of {names} failed{number} after {time}{done}{released}; exit {status}{kept}"
            );
        }
    }
}

/// Names, as far as a line takes them.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 20;
    let more = names.len().saturating_sub(MOST);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", names[..names.len().min(MOST)].join(", "))
}
