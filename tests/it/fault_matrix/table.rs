//! The table: a line for each process and fault, a column for each phase, and what each outcome means.
//!
//! A new process gets its lines here, its pid in `Stage::pid`, and the phases in which it lives in the columns.

use super::fault::Fault::{self, *};
use super::stage::Phase::{self, *};
use super::stage::Seen;
use std::fmt;

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Monitor,
    Supervisor,
    Harness,
    /// What runs the teardown.
    Worker,
    /// The teardown command.
    Step,
}

use Process::*;

/// What comes of it. The status is the one that the caller sees; the cause stands in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no such process in that phase.
    Absent,
    /// It is there, but another process writes that file, or it was written before.
    NotItsFile,

    /// As without the fault: asked to stop, torn down. 143, `signal`.
    Asked,
    /// The same; the teardown command was killed, and run once more.
    Again,
    /// The same, but the report could not be written: a word on stderr, no report.
    Unreported,
    /// The same, but the teardown could not be done, which is reported: the janitor's then.
    Failed,
    /// Asked to stop before the harness was let go: 143, `signal`, nothing torn down.
    NotStarted,
    /// The guard could not start the run, and says why: 125, `guard-error`, nothing torn down.
    Refused,
    /// The same, and no report.
    RefusedUnreported,
    /// Killed when there was nobody else yet: 137, no report, nothing torn down.
    Ended,
    /// The monitor was killed; the supervisor ends the run and tears down: 137 to the caller, `parent-gone`.
    Orphaned,
    /// The same, but it had been asked to stop before: `signal`.
    OrphanedAsked,
    /// The supervisor was killed: the monitor ends the run and tears down. 137, `supervisor-gone`.
    TakenOver,
    /// The same before the harness was let go: nothing torn down.
    TakenOverEarly,
    /// The harness died of a signal that was not ours, with this status: torn down, `harness-signal`.
    Died(i32),
    /// The harness ends by itself, and has torn down itself: its own status, `harness-exit`.
    OwnEnd(i32),
    /// Ended by its want of memory when there was nobody else yet: 134 (SIGABRT), no report, nothing torn down.
    Aborted,
    /// Its children have its limit: the harness dies at once of SIGSEGV (139), and so does the teardown command, which is
    /// reported.
    Starved,
}

use Outcome::*;

/// One cell.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub process: Process,
    pub fault: Fault,
    pub phase: Phase,
    pub outcome: Outcome,
}

impl Cell {
    pub fn is_played(&self) -> bool {
        !matches!(self.outcome, Absent | NotItsFile)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} × {:?} × {:?}: {:?}", self.process, self.fault, self.phase, self.outcome)
    }
}

/// Every outcome that is ever expected.
pub const OUTCOMES: [Outcome; 19] = [
    Asked,
    Again,
    Unreported,
    Failed,
    NotStarted,
    Refused,
    RefusedUnreported,
    Ended,
    Orphaned,
    OrphanedAsked,
    TakenOver,
    TakenOverEarly,
    Died(137),
    Died(143),
    Died(139),
    OwnEnd(0),
    OwnEnd(127),
    Aborted,
    Starved,
];

const PHASES: [Phase; 7] = [BeforeLock, Waiting, Starting, Running, Stopping, TearingDown, Reporting];

type Line = (Process, Fault, [Outcome; PHASES.len()]);

#[rustfmt::skip]
const TABLE: [Line; 50] = [
    //                               before lock        waiting      starting           running        stopping       tearing down   reporting
    (Monitor,    Kill,             [Ended,             Ended,       Orphaned,          Orphaned,      OrphanedAsked, OrphanedAsked, OrphanedAsked]),
    (Monitor,    StopThenContinue, [Asked,             Asked,       Asked,             Asked,         Asked,         Asked,         Asked]),
    (Monitor,    Terminate,        [NotStarted,        NotStarted,  NotStarted,        Asked,         Asked,         Asked,         Asked]),
    (Monitor,    NoDescriptors,    [RefusedUnreported, RefusedUnreported, Asked,       Asked,         Asked,         Asked,         Asked]),
    (Monitor,    NoFork,           [Refused,           Refused,     Asked,             Asked,         Asked,         Asked,         Asked]),
    (Monitor,    NoMemory,         [Aborted,           Starved,     Asked,             Asked,         Asked,         Asked,         Asked]),
    (Monitor,    FullLockFile,     [Refused,           Asked,       NotItsFile,        NotItsFile,    NotItsFile,    NotItsFile,    NotItsFile]),
    (Monitor,    FullLog,          [Asked,             Asked,       Asked,             Asked,         Asked,         Asked,         Asked]),
    (Monitor,    FullReport,       [Unreported,        Unreported,  NotItsFile,        NotItsFile,    NotItsFile,    NotItsFile,    NotItsFile]),
    (Monitor,    FullState,        [Refused,           Refused,     NotItsFile,        NotItsFile,    NotItsFile,    NotItsFile,    NotItsFile]),

    (Supervisor, Kill,             [Absent,            Absent,      TakenOverEarly,    TakenOver,     Asked,         Asked,         Asked]),
    (Supervisor, StopThenContinue, [Absent,            Absent,      Asked,             Asked,         Asked,         Asked,         Asked]),
    (Supervisor, Terminate,        [Absent,            Absent,      NotStarted,        Asked,         Asked,         Asked,         Asked]),
    (Supervisor, NoDescriptors,    [Absent,            Absent,      Refused,           Asked,         Asked,         Unreported,    Unreported]),
    (Supervisor, NoFork,           [Absent,            Absent,      Asked,             Asked,         Asked,         Asked,         Asked]),
    // What it starts has its limit.
    (Supervisor, NoMemory,         [Absent,            Absent,      Failed,            Failed,        Failed,        Asked,         Asked]),
    (Supervisor, FullLockFile,     [Absent,            Absent,      NotItsFile,        NotItsFile,    NotItsFile,    NotItsFile,    NotItsFile]),
    (Supervisor, FullLog,          [Absent,            Absent,      Asked,             Asked,         Asked,         Asked,         Asked]),
    (Supervisor, FullReport,       [Absent,            Absent,      Unreported,        Unreported,    Unreported,    Unreported,    Unreported]),
    (Supervisor, FullState,        [Absent,            Absent,      Refused,           NotItsFile,    NotItsFile,    NotItsFile,    NotItsFile]),

    (Harness,    Kill,             [Absent,            Absent,      Died(137),         Died(137),     Asked,         Absent,        Absent]),
    (Harness,    StopThenContinue, [Absent,            Absent,      Asked,             Asked,         Asked,         Absent,        Absent]),
    (Harness,    Terminate,        [Absent,            Absent,      Died(143),         OwnEnd(0),     Asked,         Absent,        Absent]),
    // Its program's libraries can't be opened: 127 is the status of the loader.
    (Harness,    NoDescriptors,    [Absent,            Absent,      OwnEnd(127),       Asked,         Asked,         Absent,        Absent]),
    (Harness,    NoFork,           [Absent,            Absent,      Asked,             Asked,         Asked,         Absent,        Absent]),
    // The kernel has no room for its stack.
    (Harness,    NoMemory,         [Absent,            Absent,      Died(139),         Asked,         Asked,         Absent,        Absent]),
    (Harness,    FullLockFile,     [Absent,            Absent,      NotItsFile,        NotItsFile,    NotItsFile,    Absent,        Absent]),
    (Harness,    FullLog,          [Absent,            Absent,      NotItsFile,        NotItsFile,    NotItsFile,    Absent,        Absent]),
    (Harness,    FullReport,       [Absent,            Absent,      NotItsFile,        NotItsFile,    NotItsFile,    Absent,        Absent]),
    (Harness,    FullState,        [Absent,            Absent,      NotItsFile,        NotItsFile,    NotItsFile,    Absent,        Absent]),

    (Worker,     Kill,             [Absent,            Absent,      Absent,            Absent,        Absent,        Again,         Absent]),
    (Worker,     StopThenContinue, [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Worker,     Terminate,        [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Worker,     NoDescriptors,    [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Worker,     NoFork,           [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Worker,     NoMemory,         [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Worker,     FullLockFile,     [Absent,            Absent,      Absent,            Absent,        Absent,        NotItsFile,    Absent]),
    (Worker,     FullLog,          [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Worker,     FullReport,       [Absent,            Absent,      Absent,            Absent,        Absent,        NotItsFile,    Absent]),
    (Worker,     FullState,        [Absent,            Absent,      Absent,            Absent,        Absent,        NotItsFile,    Absent]),

    (Step,       Kill,             [Absent,            Absent,      Absent,            Absent,        Absent,        Again,         Absent]),
    (Step,       StopThenContinue, [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Step,       Terminate,        [Absent,            Absent,      Absent,            Absent,        Absent,        Again,         Absent]),
    // It is a program of somebody else's: it can't write its trace, and fails.
    (Step,       NoDescriptors,    [Absent,            Absent,      Absent,            Absent,        Absent,        Failed,        Absent]),
    (Step,       NoFork,           [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Step,       NoMemory,         [Absent,            Absent,      Absent,            Absent,        Absent,        Asked,         Absent]),
    (Step,       FullLockFile,     [Absent,            Absent,      Absent,            Absent,        Absent,        NotItsFile,    Absent]),
    (Step,       FullLog,          [Absent,            Absent,      Absent,            Absent,        Absent,        NotItsFile,    Absent]),
    (Step,       FullReport,       [Absent,            Absent,      Absent,            Absent,        Absent,        NotItsFile,    Absent]),
    (Step,       FullState,        [Absent,            Absent,      Absent,            Absent,        Absent,        NotItsFile,    Absent]),
];

/// All cells, line by line.
pub fn cells() -> Vec<Cell> {
    let line = |(process, fault, outcomes): &Line| {
        let (process, fault) = (*process, *fault);
        let cell = move |(phase, outcome)| Cell { process, fault, phase, outcome };
        PHASES.into_iter().zip(*outcomes).map(cell).collect::<Vec<_>>()
    };
    TABLE.iter().flat_map(line).collect()
}

/// How many teardowns there must have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    None,
    One,
    /// One that was killed, and one to its end.
    Twice,
    /// One that failed.
    Failed,
}

impl Outcome {
    /// Is the run asked to stop by us after the fault, or over by itself?
    pub fn ends_by_itself(self) -> bool {
        !matches!(self, Asked | Again | Unreported | Failed)
    }

    /// Compares what was seen with what this outcome means.
    pub fn check(self, seen: &Seen) -> Result<(), String> {
        let (code, cause, torn) = match self {
            Absent | NotItsFile => return Err("this cell is not played".to_owned()),
            Asked => (143, Some("signal"), Torn::One),
            Again => (143, Some("signal"), Torn::Twice),
            Unreported => (143, None, Torn::One),
            Failed => (143, Some("signal"), Torn::Failed),
            NotStarted => (143, Some("signal"), Torn::None),
            Refused => (125, Some("guard-error"), Torn::None),
            RefusedUnreported => (125, None, Torn::None),
            Ended => (137, None, Torn::None),
            Orphaned => (137, Some("parent-gone"), Torn::One),
            OrphanedAsked => (137, Some("signal"), Torn::One),
            TakenOver => (137, Some("supervisor-gone"), Torn::One),
            TakenOverEarly => (137, Some("supervisor-gone"), Torn::None),
            Died(code) => (code, Some("harness-signal"), Torn::One),
            OwnEnd(code) => (code, Some("harness-exit"), Torn::None),
            Aborted => (134, None, Torn::None),
            Starved => (139, Some("harness-signal"), Torn::Failed),
        };
        expect("status", seen.code, code)?;
        expect("cause", seen.cause.as_deref(), cause)?;
        if matches!(self, Refused | RefusedUnreported) && !seen.stderr.contains("ccci-guard: error: ") {
            return Err("not a word why".to_owned());
        }
        if self == Unreported && !seen.stderr.contains("cannot write the report") {
            return Err("not a word of the report".to_owned());
        }
        seen.expect_teardowns(torn)
    }
}

fn expect<T: PartialEq + fmt::Debug>(what: &str, seen: T, expected: T) -> Result<(), String> {
    if seen == expected { Ok(()) } else { Err(format!("{what} {seen:?}, expected {expected:?}")) }
}
