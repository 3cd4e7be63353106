//! A run that is brought to a phase, let go on from there, and looked at when it is over.

use super::fault::Fault;
use super::table::{Cell, Process, Torn};
use crate::support::*;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the run stands when it is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The monitor is about to claim its run id: nothing has been written yet.
    BeforeLock,
    /// Another run has the lock.
    Waiting,
    /// The supervisor has forked what is to be the harness, and told nobody.
    Starting,
    /// The harness is ready.
    Running,
    /// The harness was asked to stop and ignores it.
    Stopping,
    /// The teardown command runs.
    TearingDown,
    /// The supervisor is about to open the report.
    Reporting,
}

use Phase::*;

/// The run, and what holds it where it is.
pub struct Stage {
    sandbox: Sandbox,
    guard: Proc,
    pub teardown: Teardown,
    phase: Phase,
    pids: Vec<(Process, Pid)>,
    fifo: File,
    other: Option<FileLock>,
    /// The small disk, which only the run has mounted.
    disk: Option<(&'static str, File)>,
    asked: bool,
    harness_ran: bool,
}

/// What was seen when it was over.
#[derive(Debug)]
pub struct Seen {
    pub code: i32,
    pub cause: Option<String>,
    pub teardown: Vec<String>,
    pub one_teardown: Result<(), String>,
    pub teardown_result: Option<String>,
    pub stderr: String,
}

impl Stage {
    /// Starts a run and brings it there.
    #[track_caller]
    pub fn reach(cell: &Cell) -> Self {
        let (phase, fault) = (cell.phase, cell.fault);
        let sandbox = sandbox(fault);
        let teardown = sandbox.teardown();
        for dir in ["logs", "reports"] {
            fs::create_dir_all(sandbox.path(dir)).unwrap();
        }
        let fifo = sandbox.path("fifo");
        mkfifo(&fifo, Mode::from_bits_truncate(0o666)).unwrap();
        let as_nobody = fault == Fault::NoFork && geteuid().is_root();
        if as_nobody {
            give(&sandbox.path(""), NOBODY);
        }

        let token = if phase == TearingDown { format!("--token '{}'", fifo.display()) } else { String::new() };
        let fixture = if as_nobody { sandbox.path("bin/ccci-fixture") } else { PathBuf::from(FIXTURE) };
        let shown = fixture.display().to_string();
        let command = teardown.command_with(&token).replace(FIXTURE, &shown);
        let mut guard = sandbox.run().app().teardown(command).grace("600ms");
        guard = guard.arg("--report").arg(sandbox.path("reports/report.json"));
        guard = guard.arg("--log-file").arg(sandbox.path("logs/log"));
        // One that ignores what it is asked, where the grace is to be seen.
        let signals: &[&str] = if phase == Stopping { &[] } else { &["TERM=0"] };
        guard = guard.harness([shown.as_str(), "print-signals"].iter().chain(signals));
        if as_nobody {
            guard = guard.program(sandbox.path("bin/ccci-guard")).user(NOBODY, NOBODY);
        }
        if let Some(disk) = fault.disk() {
            let mount = format!(
                "mount -t tmpfs -o size=16k,nr_inodes=16 none '{}' && exec \"$@\"",
                sandbox.path(disk).display()
            );
            guard = guard.under(["unshare", "-m", "--propagation", "private", "sh", "-c", &mount, "sh"]);
        }
        // On a disk of its own nobody can take the lock before the run has mounted it.
        let held_before = phase == Waiting && fault.disk() == Some("locks");
        let moment = match phase {
            BeforeLock => Some("0:open=owner"),
            Waiting if held_before => Some("0:open=owner"),
            Starting => Some("1:fork"),
            Reporting => Some("1:open=report.json"),
            _ => None,
        };
        if let Some(moment) = moment {
            guard = guard.under([shown.as_ref(), "hold-at".as_ref(), moment.as_ref(), fifo.as_os_str()]);
        }
        // Both ends, so that nobody's open waits for the other.
        let fifo = File::options().read(true).write(true).open(fifo).unwrap();
        let other = (phase == Waiting && !held_before).then(|| FileLock::take(&sandbox.lock_path(APP)));
        if as_nobody {
            give(&sandbox.lock_dir(), NOBODY);
        }
        let guard = guard.spawn();
        let mut stage = Self {
            sandbox,
            guard,
            teardown,
            phase,
            pids: vec![],
            fifo,
            other,
            disk: None,
            asked: false,
            harness_ran: false,
        };
        stage.bring_on(fault);
        stage
    }

    #[track_caller]
    fn bring_on(&mut self, fault: Fault) {
        match self.phase {
            BeforeLock | Starting => drop(self.guard.expect_line("held")),
            Waiting if self.other.is_none() => {
                drop(self.guard.expect_line("held"));
                self.mount_seen(fault);
                let other = FileLock::take(&self.lock_path());
                self.release();
                self.other = Some(other);
                self.guard.expect_stderr("waiting for app lock");
            }
            Waiting => self.guard.expect_stderr("waiting for app lock"),
            Running | Stopping | TearingDown | Reporting => drop(self.guard.ready()),
        }
        let monitor = self.guard.monitor();
        self.pids.push((Process::Monitor, monitor));
        if !matches!(self.phase, BeforeLock | Waiting) {
            let supervisor = self.guard.supervisor();
            self.pids.push((Process::Supervisor, supervisor));
            self.pids.extend(children(supervisor).first().map(|harness| (Process::Harness, harness.pid)));
        }
        if matches!(self.phase, Stopping | TearingDown | Reporting) {
            self.request();
            self.harness_ran = true;
        }
        match self.phase {
            // CONT follows it, and its handler may come first: a SIGSTOP of ours must come after both.
            Stopping => {
                let mut lines = [self.guard.line(), self.guard.line()];
                lines.sort();
                assert_eq!(lines, ["CONT 1", "TERM 1"]);
            }
            TearingDown => {
                let step = self.teardown.expect_start(0);
                let worker = process(step).expect("the command waits for its token").parent;
                self.pids.extend([(Process::Worker, worker), (Process::Step, step)]);
            }
            Reporting => drop(self.guard.expect_line("held")),
            _ => {}
        }
        self.mount_seen(fault);
    }

    /// Opens the small disk: so it stays reachable, also when the last process that had it mounted is gone.
    fn mount_seen(&mut self, fault: Fault) {
        let monitor = self.guard.monitor();
        self.disk = fault.disk().map(|name| {
            let seen = format!("/proc/{monitor}/root{}", self.sandbox.path(name).display());
            (name, File::open(seen).unwrap())
        });
    }

    /// The process of that kind, as it was when the phase was reached.
    pub fn pid(&self, process: Process) -> Pid {
        let found = self.pids.iter().find(|(kind, _)| *kind == process);
        found.unwrap_or_else(|| panic!("no {process:?} in this phase: {:?}", self.pids)).1
    }

    /// Is it held by `hold-at`?
    pub fn holds(&self, process: Process) -> bool {
        match self.phase {
            BeforeLock => process == Process::Monitor,
            Starting => matches!(process, Process::Supervisor | Process::Harness),
            Reporting => process == Process::Supervisor,
            _ => false,
        }
    }

    /// The full disk, as the run sees it.
    pub fn disk(&self) -> PathBuf {
        self.on_disk("").expect("a cell with a disk of its own")
    }

    fn on_disk(&self, name: &str) -> Option<PathBuf> {
        self.disk
            .as_ref()
            .map(|(_, dir)| PathBuf::from(format!("/proc/{}/fd/{}/{name}", std::process::id(), dir.as_raw_fd())))
    }

    /// A file of the run, also where its directory is a disk of its own.
    fn file(&self, dir: &str, name: &str) -> PathBuf {
        let own = self.disk.as_ref().is_some_and(|(disk, _)| *disk == dir);
        own.then(|| self.on_disk(name)).flatten().unwrap_or_else(|| self.sandbox.path(dir).join(name))
    }

    fn lock_path(&self) -> PathBuf {
        self.file("locks", &format!("cc-ci-app-{APP}.lock"))
    }

    pub fn lock_is_free(&self) -> bool {
        lock_is_free(&self.lock_path())
    }

    /// Takes away what holds the run where it is.
    pub fn release(&mut self) {
        if self.other.take().is_none() {
            // More than one may wait: a command that is run once more does so again.
            self.fifo.write_all(&[0; 16]).unwrap();
        }
    }

    fn request(&mut self) {
        self.asked = true;
        let _ = kill(self.pid(Process::Monitor), Signal::SIGTERM);
    }

    /// SIGTERM to the monitor once the harness is ready, in a run that nobody has asked to stop yet.
    pub fn ask_to_stop(&mut self, cell: &Cell) {
        if self.phase == Running {
            self.harness_ran = true;
        } else {
            let limit = Instant::now() + SOON;
            while !self.asked && !self.harness_ran && self.guard.try_wait().is_none() && Instant::now() < limit {
                let line = self.guard.try_line(Duration::from_millis(20));
                self.harness_ran = line.is_some_and(|line| line.starts_with("ready"));
            }
        }
        if !self.asked && self.harness_ran && !cell.outcome.ends_by_itself() {
            self.request();
        }
    }

    /// Waits for the end of all, and gives what was to be seen.
    #[track_caller]
    pub fn see_the_end(mut self, cell: &Cell) -> Seen {
        let code = self.guard.wait(SOON).code;
        if cell.process == Process::Monitor && !matches!(code, 125 | 143) {
            // Nobody returns the status of a dead monitor's run: it is over when the others are.
            eventually(SOON, "the end of the run", || self.sandbox.nothing_left());
        }
        let strangers: Vec<_> = self.sandbox.left().into_iter().filter(|left| !left.is_guard()).collect();
        assert!(strangers.is_empty(), "left behind: {strangers:?}");
        assert!(self.lock_is_free(), "the lock is held when all is over");
        eventually(Duration::from_secs(1), "the end of the guard's own processes", || self.sandbox.nothing_left());
        let report = fs::read_to_string(self.file("reports", "report.json")).ok();
        let report: Option<serde_json::Value> = report.map(|text| serde_json::from_str(&text).expect("a whole report"));
        let word = |pointer: &str| report.as_ref()?.pointer(pointer)?.as_str().map(str::to_owned);
        Seen {
            code,
            cause: word("/cause"),
            teardown: self.teardown.lines(),
            one_teardown: self.teardown.check_one(),
            teardown_result: word("/teardown/result"),
            stderr: self.guard.stderr(),
        }
    }
}

/// One that a plain user may work in, where root would not be held by the fault.
fn sandbox(fault: Fault) -> Sandbox {
    if fault == Fault::NoFork && geteuid().is_root() { for_nobody().expect("root").0 } else { Sandbox::new() }
}

impl Seen {
    pub fn expect_teardowns(&self, torn: Torn) -> Result<(), String> {
        let starts = self.teardown.iter().filter(|line| line.starts_with("start ")).count();
        let told = self.teardown_result.as_deref();
        match torn {
            Torn::None if self.teardown.is_empty() && told.is_none() => Ok(()),
            Torn::One if starts == 1 => self.one_teardown.clone(),
            Torn::Twice if starts == 2 => self.one_teardown.clone(),
            // It had no chance to leave a trace of its end.
            Torn::Failed if told == Some("failed") && self.one_teardown.is_err() => Ok(()),
            _ => Err(format!("{starts} teardowns begun, expected {torn:?}; reported as {told:?}")),
        }
    }
}
