//! One run of the guard, who is who in it, the watcher beside it, and the verdict.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::blow::{Blow, Victim};
use crate::support::{APP, Proc, Process, SOON, Sandbox, alive, children, eventually, stopped, within};

/// A run, whatever is done to it, is over by then: deadline 2 s, grace, survivors 2 s, two teardowns, one takeover.
const OVER: Duration = Duration::from_secs(30);
/// What the guard promises within a second, with a margin for a machine that stands still for one now and then.
pub const AT_ONCE: Duration = Duration::from_secs(3);
/// How long a teardown takes.
pub const TEARDOWN: Duration = Duration::from_millis(150);
/// Between two looks for a process that is about to be born.
const GLANCE: Duration = Duration::from_micros(200);

/// What the watcher found when it got the lock.
pub struct Freed {
    pub at: Instant,
    pub ends: usize,
    pub left: Vec<Process>,
}

/// One run of the guard with everything that looks at it.
pub struct Round {
    pub sandbox: Arc<Sandbox>,
    pub guard: Proc,
    over: Arc<AtomicBool>,
    watcher: Receiver<Result<Freed, String>>,
    /// Chooses among several grandchildren.
    pick: usize,
    /// When, by the clock that the teardown's lines show.
    struck: Option<f64>,
}

impl Round {
    pub fn start(options: &[&str], harness: &[&str], teardown: Duration) -> Self {
        let sandbox = Arc::new(Sandbox::new());
        let teardown = sandbox.teardown().command_with(&format!("--sleep {}", teardown.as_millis()));
        let over = Arc::new(AtomicBool::new(false));
        let watcher = watch(Arc::clone(&sandbox), Arc::clone(&over));
        let guard = sandbox.run().app().teardown(teardown).args(options).harness(harness).spawn();
        Self { sandbox, guard, over, watcher, pick: 0, struck: None }
    }

    /// A harness with a child in its session and one outside of it; it says that it runs by making the file `started`.
    pub fn chaos(blow: &Blow, options: &[&str]) -> Self {
        let nap = blow.life.map_or("300".to_owned(), |life| format!("{:.3}", life.as_secs_f64()));
        let code = blow.code;
        let script = format!(
            ": >../started; sleep 300 >/dev/null & setsid sh -c 'sleep 300 & wait' >/dev/null & sleep {nap}; exit {code}"
        );
        let pick = usize::try_from(blow.moment.as_micros()).unwrap();
        Self { pick, ..Self::start(options, &["/bin/sh", "-c", &script], TEARDOWN) }
    }

    pub fn started(&self) -> bool {
        self.sandbox.path("started").exists()
    }

    /// The process of that kind, if it lives now.
    pub fn find(&self, victim: Victim) -> Option<Pid> {
        let monitor = self.guard.pid();
        let guard_below = |parent| children(parent).into_iter().find(Process::is_guard).map(|process| process.pid);
        let other_below = |parent| children(parent).into_iter().find(|process| !process.is_guard());
        match victim {
            Victim::Monitor => alive(monitor).then_some(monitor),
            Victim::Supervisor => guard_below(monitor),
            // From here on the supervisor lives: nobody has been hit yet.
            Victim::Harness if self.started() => Some(other_below(guard_below(monitor)?)?.pid),
            // Before its exec the harness still is the guard's program.
            Victim::Harness => Some(children(guard_below(monitor)?).first()?.pid),
            Victim::Grandchild => {
                let grandchildren = children(other_below(guard_below(monitor)?)?.pid);
                let pick = self.pick % grandchildren.len().max(1);
                Some(grandchildren.get(pick)?.pid)
            }
            Victim::Worker => self.started().then(|| guard_below(guard_below(monitor)?))?,
            Victim::Command => Some(other_below(self.find(Victim::Worker)?)?.pid),
        }
    }

    /// Strikes; false when there was nobody left to strike.
    pub fn strike(&mut self, blow: &Blow) -> bool {
        let mut since = self.guard.started();
        if matches!(blow.victim, Victim::Worker | Victim::Command) {
            // Born now: its moment counts from here.
            while self.find(blow.victim).is_none() && self.guard.try_wait().is_none() {
                std::thread::sleep(GLANCE);
            }
            since = Instant::now();
        }
        std::thread::sleep((since + blow.moment).saturating_duration_since(Instant::now()));
        // One that is not there yet is hit as soon as it is.
        while self.guard.try_wait().is_none() {
            if let Some(pid) = self.find(blow.victim) {
                let hit = kill(pid, blow.signal).is_ok();
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
                self.struck = Some(Duration::from(now).as_secs_f64());
                if blow.victim == Victim::Monitor && blow.signal == Signal::SIGSTOP {
                    self.continue_if_alone();
                }
                return hit;
            }
            std::thread::sleep(GLANCE);
        }
        false
    }

    /// A monitor that was stopped before it forked the supervisor has nobody to continue it, and nothing runs yet: the
    /// one who stopped it has to.
    fn continue_if_alone(&self) {
        let monitor = self.guard.pid();
        eventually(SOON, "the monitor stands still", || {
            if stopped(monitor) || !alive(monitor) { Ok(()) } else { Err("it runs") }
        });
        if children(monitor).is_empty() && stopped(monitor) {
            let _ = kill(monitor, Signal::SIGCONT);
        }
    }

    /// Waits for the lock's release and gives what was found then.
    #[track_caller]
    pub fn freed(&mut self) -> Freed {
        match self.watcher.recv_timeout(OVER) {
            Ok(Ok(freed)) => freed,
            Ok(Err(fault)) => panic!("{fault}; {}", self.seen()),
            Err(_) => panic!("the lock did not come free within {OVER:?}; {}", self.seen()),
        }
    }

    /// After `strike`: everything that the promise says of a run with one blow.
    pub fn judge(&mut self, blow: &Blow, hit: bool) {
        let monitor_killed = hit && blow.victim == Victim::Monitor && blow.signal == Signal::SIGKILL;
        let exit = self.guard.wait(OVER);
        let returned = Instant::now();
        if !monitor_killed {
            let left = strangers(self.sandbox.left());
            assert!(left.is_empty(), "left when the guard had returned: {left:?}; {}", self.seen());
            // Its last words have been read then.
            self.guard.expect_eof(AT_ONCE);
            if self.started() {
                let truth = blow.truthful(hit, self.guard.stderr().contains("deadline 2s reached"));
                assert!(truth.contains(&exit.code), "status {}, true is {truth:?}; {}", exit.code, self.seen());
            }
            self.over.store(true, Ordering::Release);
        }
        if !self.started() {
            // Then nobody but us knows when the run is over.
            eventually(OVER, "the end of a run that came to nothing", || self.sandbox.nothing_left());
            self.over.store(true, Ordering::Release);
        }
        let freed = self.freed();
        if monitor_killed {
            let left = strangers(freed.left);
            assert!(left.is_empty(), "left when the lock came free: {left:?}; {}", self.seen());
        } else {
            let late = freed.at.saturating_duration_since(returned);
            within("the lock comes free, after the guard's return", late, ..AT_ONCE);
        }
        eventually(AT_ONCE, "the end of the guard's own processes", || self.sandbox.nothing_left());
        if self.started() {
            self.check_teardown(blow);
            assert!(freed.ends > 0, "the lock came free before the teardown's end; {}", self.seen());
        } else if !self.sandbox.teardown().lines().is_empty() {
            // Struck between its exec and its first act: to the guard it had started.
            self.check_teardown(blow);
        }
    }

    fn check_teardown(&self, blow: &Blow) {
        let teardown = self.sandbox.teardown();
        if teardown.count("end") == 2 && self.struck_at_the_very_end(blow) {
            // Its last line was written, and the signal came before its exit: to be run once more.
            assert_eq!((teardown.count("start"), teardown.count("overlap")), (2, 0), "{}", self.seen());
        } else {
            teardown.check_one().unwrap_or_else(|fault| panic!("{fault}; {}", self.seen()));
        }
    }

    /// Did the signal meet the teardown command between its last line and its exit, as far as one can tell?
    fn struck_at_the_very_end(&self, blow: &Blow) -> bool {
        let line: f64 = self.sandbox.teardown().value("end", 0, "t").parse().unwrap();
        let killed = matches!(blow.victim, Victim::Worker | Victim::Command) && blow.signal == Signal::SIGKILL;
        killed && self.struck.is_some_and(|struck| (struck - line).abs() < 0.02)
    }

    pub fn seen(&self) -> String {
        let tree: Vec<_> = self.sandbox.left().iter().map(ToString::to_string).collect();
        let started = self.started();
        format!(
            "alive: {tree:?}; harness started: {started}; teardown: {:#?}; stderr:\n{}",
            self.sandbox.teardown().lines(),
            self.guard.stderr()
        )
    }
}

/// Without the guard's own processes, which may take a second to end. One in the middle of its end has no program any more.
fn strangers(mut processes: Vec<Process>) -> Vec<Process> {
    processes.retain(|process| !process.is_guard() && process.name != "ccci-guard");
    processes
}

/// Takes the lock as soon as anybody can, again and again, until that means something.
fn watch(sandbox: Arc<Sandbox>, over: Arc<AtomicBool>) -> Receiver<Result<Freed, String>> {
    let (tell, told) = channel();
    let lock: PathBuf = sandbox.lock_path(APP);
    std::thread::spawn(move || {
        let mut was_over = false;
        loop {
            let file = OpenOptions::new().read(true).open(&lock).and_then(|file| File::lock(&file).map(|()| file));
            let at = Instant::now();
            let ends = sandbox.teardown().count("end");
            if ends > 0 || was_over {
                let _ = tell.send(Ok(Freed { at, ends, left: sandbox.left() }));
                return;
            }
            if file.is_ok() && sandbox.path("started").exists() {
                let _ = tell.send(Err("the lock was free while a teardown was due".to_owned()));
                return;
            }
            // Not yet taken by the guard, or the run came to nothing: one more look after it is over.
            drop(file);
            was_over = over.load(Ordering::Acquire);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    told
}
