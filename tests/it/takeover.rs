//! Any one process of the guard is killed or stopped, at each phase of a run: the others finish it.
//!
//! What is the same everywhere: left 0, one teardown, the lock free only after it, the first cause's code.
//! `chaos.rs` does the same at random moments.

use crate::support::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// Where a run stands when the blow comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The harness works.
    Running,
    /// The harness was asked to stop and takes its time.
    Stopping,
    /// The teardown command runs.
    TearingDown,
}

use Phase::*;
const PHASES: [Phase; 3] = [Running, Stopping, TearingDown];

/// Brings a run to `phase` and gives it with the pids of monitor, supervisor and (while it tears down) worker.
fn bring_to(sandbox: &Sandbox, teardown: &Teardown, phase: Phase) -> (Proc, Pid, Pid, Option<Pid>) {
    // Ignores what it is asked until the grace ends it, where that phase is wanted.
    let harness = if phase == Stopping { "print-signals" } else { "print-signals TERM=0" };
    let guard = sandbox.bare().app().teardown(teardown.command_with("--sleep 600")).grace("2s");
    let guard = guard.report().fixture(harness).spawn();
    guard.ready();
    let (monitor, supervisor) = (guard.monitor(), guard.supervisor());
    let mut worker = None;
    if phase != Running {
        guard.signal(Signal::SIGTERM);
        guard.expect_line("TERM 1");
    }
    if phase == TearingDown {
        teardown.expect_start(0);
        worker = Some(guard.worker());
    }
    (guard, monitor, supervisor, worker)
}

/// Plays a test for each phase, all at once: most of their time is a grace or a teardown.
fn in_each_phase(play: impl Fn(Phase) + Sync) {
    std::thread::scope(|scope| {
        let plays: Vec<_> = PHASES
            .map(|phase| {
                scope.spawn({
                    let play = &play;
                    move || play(phase)
                })
            })
            .into();
        for (phase, play) in PHASES.iter().zip(plays) {
            assert!(play.join().is_ok(), "failed in phase {phase:?}: see above");
        }
    });
}

/// SIGKILL of the supervisor in each phase. Before any request: 137, `supervisor-gone`; after one: its code.
///
/// Fails when the monitor does not adopt the tree, begins a second teardown beside the worker, or forgets the
/// cause that it had been told.
#[test]
fn the_monitor_finishes_when_the_supervisor_is_killed() {
    in_each_phase(|phase| {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let (mut guard, _, supervisor, _) = bring_to(&sandbox, &teardown, phase);
        kill(supervisor, Signal::SIGKILL).unwrap();
        let exit = guard.wait(SOON);
        let expected = if phase == Running { 137 } else { 143 };
        assert_eq!(exit.code, expected, "{phase:?}: {}", guard.stderr());
        teardown.expect_one();
        sandbox.expect_nothing_left();
        let report = sandbox.report();
        let cause = if phase == Running { "supervisor-gone" } else { "signal" };
        assert_eq!(report["cause"], cause, "{phase:?}");
        assert_eq!(report["takeover"], true, "{phase:?}: {report}");
        // One that was announced is waited for: not ended, not begun again.
        assert_eq!(teardown.count("start"), 1, "{phase:?}: {:?}", teardown.lines());
        assert_eq!(report["teardown"]["result"], "ok", "{phase:?}: {report}");
    });
}

/// SIGKILL of the monitor in each phase: the supervisor carries the stop out to its end.
///
/// Fails when the supervisor ends with its parent, or a stop under way starts again.
#[test]
fn the_supervisor_finishes_when_the_monitor_is_killed() {
    in_each_phase(|phase| {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let (mut guard, monitor, ..) = bring_to(&sandbox, &teardown, phase);
        kill(monitor, Signal::SIGKILL).unwrap();
        assert_eq!(guard.code(), 137);
        teardown.expect_end(SOON);
        sandbox.expect_over(SOON);
        teardown.expect_one();
        let report = sandbox.report();
        let cause = if phase == Running { "parent-gone" } else { "signal" };
        assert_eq!(report["cause"], cause, "{phase:?}: {report}");
        assert_eq!(teardown.count("start"), 1, "{phase:?}: {:?}", teardown.lines());
    });
}

/// SIGKILL of both while the worker runs: it needs neither, and finishes; the lock is its own until then.
///
/// Fails when the worker gets a death signal, or its lock is only the supervisor's.
#[test]
fn the_worker_finishes_when_both_guards_are_killed() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let (mut guard, monitor, supervisor, worker) = bring_to(&sandbox, &teardown, TearingDown);
    kill(supervisor, Signal::SIGKILL).unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    assert!(alive(worker.unwrap()));
    assert_eq!(guard.code(), 137);
    teardown.expect_end(SOON);
    sandbox.expect_over(SOON);
    assert_eq!(teardown.count("start"), 1, "{:?}", teardown.lines());
    teardown.expect_one();
}

/// With its worker dead nobody reads a teardown's output. A command that ends of that, before the supervisor can
/// end it, has not come to its own end: it is run once more, and its status means nothing.
///
/// Seen failing when the adopted command's status was taken whatever it was: `failed` with status 5, and no end.
#[test]
fn a_teardown_that_fails_for_want_of_its_worker_is_run_once_more() {
    let sandbox = Sandbox::new();
    let (log, again) = (sandbox.path("log"), sandbox.path("again"));
    let (log, again) = (log.display(), again.display());
    let teardown = format!(
        "trap '' PIPE; echo \"start $$\" >>{log}; if [ -e {again} ]; then echo end >>{log}; exit 0; fi; touch {again}; \
         while echo still here; do sleep 0.01; done; exit 5"
    );
    let mut guard =
        sandbox.run().app().args(["--teardown-on", "always"]).teardown(teardown).report().harness(["true"]).spawn();
    let read = || std::fs::read_to_string(sandbox.path("log")).unwrap_or_default();
    let step = eventually(SOON, "the teardown's start", || {
        let pid = read().lines().next().and_then(|line| line.strip_prefix("start ")?.parse().ok());
        pid.map(Pid::from_raw).ok_or_else(read)
    });
    let (monitor, supervisor, worker) = (guard.monitor(), guard.supervisor(), guard.worker());
    // From the top: each is continued by the one above it.
    for pid in [monitor, supervisor] {
        kill(pid, Signal::SIGSTOP).unwrap();
        eventually(SOON, "it stands still", || if stopped(pid) { Ok(()) } else { Err(pid) });
    }
    kill(worker, Signal::SIGKILL).unwrap();
    eventually(SOON, "the command's end", || if alive(step) { Err("alive") } else { Ok(()) });
    kill(supervisor, Signal::SIGCONT).unwrap();
    guard.expect_code(0);
    let lines = read();
    assert_eq!((lines.matches("start").count(), lines.matches("end").count()), (2, 1), "{lines}");
    assert_eq!(sandbox.report()["teardown"]["result"], "ok");
}

/// SIGKILL of the worker in the middle of a step: the step is ended, the teardown is run once more, one after
/// the other.
///
/// Fails when the orphaned step runs on beside its repetition (`overlap`), or there is none.
#[test]
fn a_teardown_whose_worker_was_killed_is_run_once_more() {
    for round in 0..rounds(30) {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let (mut guard, _, _, worker) = bring_to(&sandbox, &teardown, TearingDown);
        kill(worker.unwrap(), Signal::SIGKILL).unwrap();
        let exit = guard.wait(SOON);
        assert_eq!(exit.code, 143, "round {round}: {}", guard.stderr());
        assert_eq!(teardown.count("start"), 2, "{:?}", teardown.lines());
        teardown.expect_one();
        sandbox.expect_nothing_left();
        assert_eq!(sandbox.report()["teardown"]["result"], "ok");
    }
}

/// SIGSTOP of the supervisor in each phase: it is continued, or replaced; the run ends in time.
///
/// Fails when the monitor does not look at CLD_STOPPED, and waits for ever.
#[test]
fn a_stopped_supervisor_does_not_stop_the_end() {
    in_each_phase(|phase| {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let (mut guard, _, supervisor, _) = bring_to(&sandbox, &teardown, phase);
        kill(supervisor, Signal::SIGSTOP).unwrap();
        if phase == Running {
            guard.signal(Signal::SIGTERM);
        }
        let exit = guard.wait(SOON);
        assert_eq!(exit.code, 143, "{phase:?}: {}", guard.stderr());
        teardown.expect_one();
        sandbox.expect_nothing_left();
    });
}

/// A supervisor that is stopped again and again, faster than it is continued: the run still ends.
///
/// Fails when a stop is answered only once.
#[test]
fn a_supervisor_that_is_stopped_again_and_again_does_not_hold_the_run_up() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let (mut guard, _, supervisor, _) = bring_to(&sandbox, &teardown, Running);
    guard.signal(Signal::SIGTERM);
    let exit = loop {
        // Only as long as it is a living child of the monitor: pids come again.
        if process(supervisor).is_some_and(|p| p.parent == guard.pid()) {
            let _ = kill(supervisor, Signal::SIGSTOP);
        }
        if let Some(exit) = guard.try_wait() {
            break exit;
        }
        within("the end", guard.started().elapsed(), ..Duration::from_secs(40));
        std::thread::sleep(Duration::from_micros(200));
    };
    assert_eq!(exit.code, 143, "{}", guard.stderr());
    teardown.expect_one();
    sandbox.expect_nothing_left();
}

/// Stops a process so that no CONT wakes it, as a debugger would; it goes on when the returned one is dropped.
fn hold_still(sandbox: &Sandbox, pid: Pid) -> Proc {
    let mut command = sandbox.command(FIXTURE);
    command.arg("hold-still").arg(pid.to_string());
    let holder = sandbox.spawn(command);
    holder.ready();
    holder
}

/// A supervisor that does not come back is given up: a request that it has not acknowledged after 5 s, or 5 s of
/// silence after the deadline, and the monitor kills it and finishes in its place.
///
/// Fails when CONT is the only answer to silence, or when only requests are watched; or when the monitor, which
/// here sees the adopted harness end before the supervisor's own end, forgets that it has seen it.
#[test]
fn a_supervisor_that_does_not_answer_is_replaced() {
    let root = nix::unistd::geteuid().is_root();
    if !need("root, to hold a process still as a debugger does", root) {
        return;
    }
    let play = |deadline: &str, code: i32, cause: &str| {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let guard = sandbox.bare().app().teardown(teardown.command()).deadline(deadline).report();
        let mut guard = guard.fixture("print-signals TERM=0").spawn();
        guard.ready();
        let holder = hold_still(&sandbox, guard.supervisor());
        let began = std::time::Instant::now();
        if code == 143 {
            guard.signal(Signal::SIGTERM);
        }
        assert_eq!(guard.signal_line(), "TERM 1");
        within("the replacement", began.elapsed(), Duration::from_millis(4500)..Duration::from_secs(15));
        guard.expect_code(code);
        // Its grace is 30 s, and the harness did not need it.
        within("the end", began.elapsed(), ..Duration::from_secs(20));
        teardown.expect_one();
        drop(holder);
        sandbox.expect_nothing_left();
        let report = sandbox.report();
        assert_eq!((&report["cause"], &report["takeover"]), (&cause.into(), &true.into()), "{report}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| play("60s", 143, "signal"));
        scope.spawn(|| play("1s", 142, "deadline"));
    });
}

/// A monitor that can't even be continued: the supervisor finishes without it.
///
/// Fails when the end of the run waits for the monitor's word.
#[test]
fn a_monitor_that_does_not_answer_is_not_waited_for() {
    let root = nix::unistd::geteuid().is_root();
    if !need("root, to hold a process still as a debugger does", root) {
        return;
    }
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command());
    let caller = guard.fixture("print-signals TERM=0").called_by_shell().spawn();
    caller.ready();
    let holder = hold_still(&sandbox, caller.monitor());
    caller.signal(Signal::SIGKILL);
    assert_eq!(caller.signal_line(), "TERM 1");
    teardown.expect_end(SOON);
    eventually(SOON, "the lock", || held(&sandbox.lock_path(APP)));
    drop(holder);
    sandbox.expect_over(SOON);
    teardown.expect_one();
}

/// SIGSTOP of the monitor, then SIGKILL of the caller: the run still ends, torn down, lock free, and the
/// stopped monitor ends too.
///
/// Fails when only the monitor watches the caller, or nobody continues it at the end.
#[test]
fn a_stopped_monitor_does_not_hide_the_callers_end() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).grace("2s");
    let caller = guard.fixture("print-signals TERM=0").called_by_shell().spawn();
    caller.ready();
    let monitor = caller.monitor();
    kill(monitor, Signal::SIGSTOP).unwrap();
    eventually(SOON, "the stopped monitor", || if stopped(monitor) { Ok(()) } else { Err("runs") });
    caller.signal(Signal::SIGKILL);
    assert_eq!(caller.signal_line(), "TERM 1");
    teardown.expect_end(SOON);
    sandbox.expect_over(SOON);
    teardown.expect_one();
}

/// A stopped monitor, and a harness that just ends: the lock comes free, and the monitor gives the code.
///
/// Fails when the end needs the monitor's hand.
#[test]
fn a_stopped_monitor_does_not_keep_the_lock() {
    let sandbox = Sandbox::new();
    let mut guard = sandbox.bare().app().teardown("none").fixture("print-signals USR1=7").spawn();
    let harness = guard.ready_pid();
    guard.signal(Signal::SIGSTOP);
    let monitor = guard.pid();
    eventually(SOON, "the stopped monitor", || if stopped(monitor) { Ok(()) } else { Err("runs") });
    kill(harness, Signal::SIGUSR1).unwrap();
    eventually(SOON, "the lock", || held(&sandbox.lock_path(APP)));
    guard.expect_code(7);
    sandbox.expect_nothing_left();
}

/// A stopped worker, and a stopped step, are continued.
///
/// Fails when nobody looks at their stops: the teardown limit (10 minutes) would end them.
#[test]
fn a_stopped_worker_and_a_stopped_step_are_continued() {
    for which in ["worker", "step"] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let (mut guard, _, _, worker) = bring_to(&sandbox, &teardown, TearingDown);
        let step = Pid::from_raw(teardown.value("start", 0, "pid").parse().unwrap());
        let target = if which == "step" { step } else { worker.unwrap() };
        kill(target, Signal::SIGSTOP).unwrap();
        let exit = guard.wait(SOON);
        assert_eq!(exit.code, 143, "{which}: {}", guard.stderr());
        assert_eq!(teardown.count("start"), 1, "{which}: {:?}", teardown.lines());
        teardown.expect_one();
        sandbox.expect_nothing_left();
    }
}

/// SIGKILL of the harness from outside: 137 by its own signal, torn down.
///
/// Fails when a harness that somebody else killed counts as one that has torn down.
#[test]
fn a_harness_killed_from_outside_is_torn_down() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).report();
    let mut guard = guard.fixture("print-signals").spawn();
    let harness = guard.ready_pid();
    kill(harness, Signal::SIGKILL).unwrap();
    guard.expect_code(137);
    teardown.expect_one();
    sandbox.expect_nothing_left();
    let report = sandbox.report();
    assert_eq!((&report["cause"], &report["takeover"]), (&"harness-signal".into(), &false.into()));
}

/// SIGKILL of the monitor while it waits for the lock: there is nobody else yet, and nothing to tear down.
///
/// Fails when a helper of the wait stays behind with the lock's file open.
#[test]
fn a_monitor_killed_while_it_waits_leaves_nothing() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let lock = FileLock::take(&sandbox.lock_path(APP));
    let guard = sandbox.bare().app().teardown(teardown.command());
    let mut guard = guard.sh("echo harness").spawn();
    guard.expect_stderr("waiting");
    guard.signal(Signal::SIGKILL);
    assert_eq!(guard.code(), 137);
    guard.expect_eof(SOON);
    drop(lock);
    sandbox.expect_nothing_left();
    assert_eq!(guard.stdout(), "");
    teardown.expect_none();
}
