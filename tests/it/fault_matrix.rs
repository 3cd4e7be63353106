//! Each process of a run × each fault × each phase: what comes of it, from one table.
//!
//! Whatever is done to one of them: the run ends, nothing of it is left, its lock is held until then and free after it, and
//! there is one teardown where one was due. The phases are reached by handshake: `hold-at` holds a process at an exact
//! moment, a lock of another's makes the run wait, a FIFO holds the teardown command.

mod fault;
mod stage;
mod table;

use crate::support::{SOON, eventually, in_parallel, need, stopped, words};
use fault::Fault;
use nix::sys::signal::{Signal, kill};
use nix::unistd::geteuid;
use stage::{Phase, Stage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use table::{Cell, OUTCOMES, Outcome, Process, cells};

/// Seen failing with poll(2) as the only way to wait (no descriptors: the monitor never ended), with a supervisor that
/// gives up where it can't fork a worker (no descriptors, no fork: nothing torn down), and with no report from a monitor
/// that can't fork a supervisor. Each cell's outcome is checked against all others.
#[test]
fn whatever_happens_to_one_process_the_run_ends_well() {
    let may_mount = need("root, for the cells with a full disk", geteuid().is_root());
    let mut cells: Vec<Cell> = cells().into_iter().filter(Cell::is_played).collect();
    cells.retain(|cell| may_mount || cell.fault.disk().is_none());
    in_parallel("whatever_happens_to_one_process_the_run_ends_well", cells.len(), |number, _| {
        let cell = &cells[number];
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(cell))) {
            panic!("{cell}: {}", words(&*panic));
        }
    });
}

fn play(cell: &Cell) {
    let stage = Stage::reach(cell);
    strike(&stage, cell);
    let seen = go_on(stage, cell);
    if let Err(fault) = cell.outcome.check(&seen) {
        panic!("{fault}; {seen:#?}");
    }
    // A check that is content with anything would be none.
    let as_good: Vec<_> = OUTCOMES.into_iter().filter(|outcome| outcome.check(&seen).is_ok()).collect();
    assert_eq!(as_good, [cell.outcome], "told apart from every other outcome");
}

fn strike(stage: &Stage, cell: &Cell) {
    let victim = stage.pid(cell.process);
    cell.fault.strike(victim, stage);
    if cell.fault == Fault::Terminate && cell.process == Process::Monitor && !stage.holds(cell.process) {
        // It must have passed it on before we let the supervisor go on.
        eventually(SOON, "the monitor sleeps again", || fault::has_taken_note(victim));
    }
    // The run can't end while we hold it there, whatever was done to one of its processes.
    if matches!(cell.phase, Phase::Starting | Phase::TearingDown | Phase::Reporting) {
        assert!(!stage.lock_is_free(), "the lock came free in the middle of it");
    }
}

/// Lets the run go on from where it is held, and asks it to stop where that has not been done yet.
fn go_on(mut stage: Stage, cell: &Cell) -> stage::Seen {
    let victim = stage.pid(cell.process);
    // A stopped supervisor is continued by the monitor, a worker and a step by those above them; these by nobody.
    let waits_for_us =
        cell.fault == Fault::StopThenContinue && matches!(cell.process, Process::Monitor | Process::Harness);
    if waits_for_us {
        if stage.holds(cell.process) {
            stage.release();
        }
        eventually(SOON, "it stands still", || if stopped(victim) { Ok(()) } else { Err("it runs") });
        kill(victim, Signal::SIGCONT).unwrap();
    }
    if cell.outcome == Outcome::Again {
        stage.teardown.expect_start(1);
    }
    stage.release();
    stage.ask_to_stop(cell);
    stage.see_the_end(cell)
}
