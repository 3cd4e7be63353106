//! Twenty guards in a loop against two janitors in a loop, over a few names.
//!
//! Who owns an app at a time is watched by the fixture's role `own-app`, which knows nothing of locks.

use super::stubs::ZONE;
use super::{APP, FIXTURE, Guard, Random, SOON, Sandbox};
use nix::sys::signal::Signal;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const GUARDS: u64 = 20;
const NAMES: u64 = 8;
/// A run takes milliseconds; one that waits for many others, and with a busy machine, much longer.
const RUN_ENDS_WITHIN: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Debug)]
pub struct Storm {
    /// What the owners saw, and runs and rounds that ended as they should not.
    pub faults: Vec<String>,
    /// Runs that came to their own end.
    pub ran: usize,
    /// Runs of which all processes were killed.
    pub killed: usize,
    /// Apps that were torn down: by a janitor, or by the guard of a run that was asked to stop.
    pub reaped: usize,
    /// Rounds of the janitors.
    pub rounds: usize,
    /// Apps, and lock files, that are left after one more round of the janitor.
    pub left: Vec<String>,
}

struct Stage<'a> {
    sandbox: &'a Sandbox,
    switch: Option<&'a str>,
    killed: AtomicUsize,
    rounds: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

/// Runs it for that time, or, with a switch (a variable that is set to 1), until the first fault.
///
/// Beside the janitors, which never wait for a lock, a process waits in the queue of one name and unlinks its file
/// in its turn: so that this happens often enough.
pub fn storm(time: Duration, switch: Option<&str>) -> Storm {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("apps")).expect("a directory in the sandbox");
    let stage = Stage { sandbox: &sandbox, switch, killed: 0.into(), rounds: 0.into(), faults: Mutex::new(Vec::new()) };
    let (ends, over) = (Instant::now() + time, AtomicBool::new(false));
    let goes_on = || Instant::now() < ends && (switch.is_none() || stage.seen().is_empty());
    let mut random = Random::from_clock("storm");
    let mut unlinker = sandbox.command(FIXTURE);
    unlinker.arg("lock-janitor").arg(sandbox.path(""));
    let unlinker = sandbox.spawn(unlinker);
    thread::scope(|scope| {
        let janitors: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        stage.round();
                    }
                })
            })
            .collect();
        let guards: Vec<_> = (0..GUARDS)
            .map(|_| {
                let mut random = Random::new(random.below(u64::MAX));
                let (stage, goes_on) = (&stage, &goes_on);
                scope.spawn(move || {
                    while goes_on() {
                        stage.run(&mut random);
                    }
                })
            })
            .collect();
        // Whatever a thread panics with: the others must hear of the end.
        let ended: Vec<_> = guards.into_iter().map(|guard| guard.join()).collect();
        over.store(true, Ordering::Relaxed);
        janitors.into_iter().for_each(|janitor| janitor.join().expect("a janitor's thread"));
        ended.into_iter().for_each(|guard| guard.expect("a guard's thread"));
    });
    drop(unlinker);
    stage.round();
    let done = fs::read_to_string(sandbox.path("done")).unwrap_or_default();
    let count = |word: &str| done.lines().filter(|line| line.starts_with(word)).count();
    let mut left = Vec::new();
    for dir in ["apps", "locks"] {
        let entries = fs::read_dir(sandbox.path(dir)).expect("a directory").flatten();
        left.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    Storm {
        faults: stage.seen(),
        ran: count("run "),
        killed: stage.killed.load(Ordering::Relaxed),
        reaped: count("reap "),
        rounds: stage.rounds.load(Ordering::Relaxed),
        left,
    }
}

impl<'a> Stage<'a> {
    fn seen(&self) -> Vec<String> {
        let seen = fs::read_to_string(self.sandbox.path("faults")).unwrap_or_default();
        let mut faults: Vec<String> = seen.lines().map(str::to_owned).collect();
        faults.extend(self.faults.lock().expect("no panic").iter().cloned());
        faults
    }

    fn fault(&self, fault: String) {
        self.faults.lock().expect("no panic").push(fault);
    }

    fn switched(&self, guard: Guard<'a>) -> Guard<'a> {
        if let Some(switch) = self.switch { guard.env(switch, "1") } else { guard }
    }

    fn reap_command(&self) -> String {
        format!("exec '{FIXTURE}' own-app reap '{}' \"$CCCI_TEARDOWN_APP\" 5", self.sandbox.path("").display())
    }

    /// One round of a janitor.
    fn round(&self) {
        let janitor = self.sandbox.plain().args(["janitor", "--zone", ZONE, "--list-cmd"]);
        let janitor = janitor.arg(format!("ls '{}'", self.sandbox.path("apps").display()));
        let mut janitor = self.switched(janitor.teardown(self.reap_command())).spawn();
        let exit = janitor.wait(RUN_ENDS_WITHIN);
        if exit.code != 0 {
            self.fault(format!("janitor: status {}: {}{}", exit.code, janitor.stdout(), janitor.stderr()));
        }
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// One run: lock, app, tests, and its own teardown; or it is asked to stop, or killed with all that is its.
    fn run(&self, random: &mut Random) {
        let app = match random.below(NAMES) {
            0 => APP.to_owned(),
            n => format!("a{n}-00000{n}.{ZONE}"),
        };
        let dir = self.sandbox.path("").display().to_string();
        let time = random.below(40).to_string();
        let run = self.sandbox.run().args(["--app", &app]).teardown(self.reap_command());
        let mut run = self.switched(run.harness([FIXTURE, "own-app", "run", &dir, &app, &time])).spawn();
        let moment = random.time_below(Duration::from_millis(80));
        match random.below(4) {
            0 => {
                thread::sleep(moment);
                self.killed.fetch_add(1, Ordering::Relaxed);
                // On drop all that is its own is killed.
                return;
            }
            1 => {
                thread::sleep(moment);
                run.signal(Signal::SIGTERM);
            }
            _ => {}
        }
        let exit = run.wait(RUN_ENDS_WITHIN);
        if !matches!(exit.code, 0 | 143) {
            self.fault(format!("run of {app}: status {}: {}", exit.code, run.stderr()));
        }
        run.expect_eof(SOON);
    }
}
