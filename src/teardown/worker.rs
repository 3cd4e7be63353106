//! The worker: a process that runs teardown steps to their end, whatever happens to the others.
//!
//! It leads a session of its own (nobody's ^C or group kill reaches it), is a subreaper (what its steps leave
//! comes to it), reads their output itself (a step whose output nobody reads would die of SIGPIPE), and hears
//! no request: nothing ends a teardown but its own limit.

#![forbid(unsafe_code)]

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::getpid;
use signal_hook::consts::{SIGCONT, SIGKILL};

use crate::app::AppName;
use crate::gate::Gate;
use crate::harness;
use crate::lock::handoff::Handed;
use crate::lock::path::LockDirectory;
use crate::lock::{AppLock, StillOurs};
use crate::sys::fd;
use crate::sys::process::{self, Children, Ended, Pid};
use crate::sys::signal::{Delivery, Inherited};
use crate::sys::time::{self, Alarm};
use crate::teardown::{Progress, ResultSlot, Verdict};
use crate::tree::{self, Tree};

/// After its end, or at its limit, what a step left has this long to die of SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// Longest piece of a line that is passed on as one.
const LINE_MAX: usize = 8 * 1024;
/// So many reads of a page fetch what a pipe can hold (pipe(7)).
const AT_ONCE: usize = 16;

/// One thing to do for an app.
pub struct Step {
    /// Program and arguments.
    pub argv: Vec<CString>,
    /// Its environment; what tells of the lock that it inherits is added.
    pub environment: Vec<(OsString, OsString)>,
}

/// An app, its lock and what to do. Without an app it is done once for the run.
pub struct Target<'a> {
    /// The app.
    pub app: Option<AppName>,
    /// Its lock, which the steps inherit.
    pub lock: Option<&'a mut AppLock>,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// What a worker has to work with.
pub struct Worker<'a> {
    delivery: &'a Delivery,
    inherited: &'a Inherited,
    directory: Option<&'a LockDirectory>,
    slot: &'a ResultSlot,
    tree: Tree,
    alarm: Alarm,
    ends_at: Duration,
}

/// How a step came to its end.
enum StepEnd {
    /// In a way that settles its app's verdict, which the diary has.
    Settled,
    Ended(Ended),
    TimedOut,
    NotStarted(io::Error),
}

impl<'a> Worker<'a> {
    /// In the process that is to be the worker: makes it one.
    ///
    /// # Errors
    /// When the kernel has no timer for us.
    pub fn become_worker(
        delivery: &'a Delivery,
        inherited: &'a Inherited,
        directory: Option<&'a LockDirectory>,
        limit: Duration,
        slot: &'a ResultSlot,
    ) -> io::Result<Self> {
        delivery.reset();
        // Neither can fail in a freshly forked process that leads nothing.
        let _ = nix::unistd::setsid();
        let _ = process::set_subreaper();
        let _ = std::env::set_current_dir("/");
        Ok(Worker {
            delivery,
            inherited,
            directory,
            slot,
            tree: Tree::default(),
            alarm: Alarm::new()?,
            ends_at: time::now() + limit,
        })
    }

    /// Tears everything down, but for what an earlier worker has brought to its end, and keeps the diary of it.
    /// `not_ours`: apps that are left alone, and what that means for the result.
    pub fn run(&mut self, targets: Vec<Target<'_>>, not_ours: Vec<(String, Verdict)>) {
        let began = time::now();
        let done = self.slot.progress();
        let is_done =
            |name: &Option<String>| done.iter().any(|entry| matches!(entry, Progress::App { app, .. } if app == name));
        for target in targets {
            let app = target.app.as_ref().map(AppName::to_string);
            if !is_done(&app)
                && let Some((result, status)) = self.tear_down(target)
            {
                self.slot.put(&Progress::App { app, result, status });
            }
        }
        for (app, result) in not_ours {
            let app = Some(app);
            if !is_done(&app) {
                self.slot.put(&Progress::App { app, result, status: None });
            }
        }
        self.slot.put(&Progress::Done { elapsed_s: time::now().saturating_sub(began).as_secs_f64() });
    }

    /// Runs an app's steps. What an end of a step has settled is in the diary already; the rest is returned.
    fn tear_down(&mut self, mut target: Target<'_>) -> Option<(Verdict, Option<i32>)> {
        let name = target.app.as_ref().map_or("the run", AppName::as_str).to_owned();
        let app = target.app.as_ref().map(AppName::to_string);
        for (index, step) in target.steps.iter().enumerate() {
            if let (Some(lock), Some(directory)) = (target.lock.as_deref_mut(), self.directory) {
                match lock.still_ours(directory) {
                    StillOurs::Yes => {}
                    StillOurs::Again(why) => {
                        let event = "lock-taken-again";
                        tracing::warn!(event, app = name.as_str(), "took the app lock of {name} again: {why}");
                    }
                    StillOurs::No(why) => {
                        tracing::warn!(event = "teardown-skipped", app = name.as_str(), "left {name} alone: {why}");
                        return Some((Verdict::Skipped, None));
                    }
                }
            }
            let last = index + 1 == target.steps.len();
            match self.run_step(&name, step, &app, last, target.lock.as_deref()) {
                StepEnd::Settled => return None,
                StepEnd::Ended(Ended::Code(0)) => {}
                StepEnd::Ended(how) => return Some((Verdict::Failed, Some(how.as_shell_status()))),
                StepEnd::TimedOut => return Some((Verdict::Timeout, None)),
                StepEnd::NotStarted(error) => {
                    let event = "teardown-failed";
                    tracing::error!(event, app = name.as_str(), "cannot start the teardown of {name}: {error}");
                    return Some((Verdict::Failed, None));
                }
            }
        }
        None
    }

    /// Runs a step; one that a signal from outside ended, once more.
    fn run_step(
        &mut self,
        name: &str,
        step: &Step,
        app: &Option<String>,
        last: bool,
        lock: Option<&AppLock>,
    ) -> StepEnd {
        let end = self.run_once(step, app, last, lock);
        let StepEnd::Ended(how) = end else { return end };
        if how == Ended::Code(0) {
            return end;
        }
        tracing::warn!(
            event = "teardown-again",
            app = name,
            "teardown of {name} was killed from outside (status {}): running it once more",
            how.as_shell_status()
        );
        self.run_once(step, app, last, lock)
    }

    fn run_once(&mut self, step: &Step, app: &Option<String>, last: bool, lock: Option<&AppLock>) -> StepEnd {
        let (pid, gate, output) = match self.start(step, lock) {
            Ok(started) => started,
            Err(error) => return StepEnd::NotStarted(error),
        };
        // Before it does anything: whoever finds us dead must know whose end to look at.
        self.slot.put(&Progress::Step { app: app.clone(), pid: pid.as_raw(), last });
        gate.open();
        let mut lines = Lines::new(output);
        let mut settled = false;
        self.alarm.set(Some(self.ends_at));
        let end = loop {
            // Into the diary before it is reaped: then its end can't get lost with us.
            let note = |slot: &ResultSlot, how| Progress::concluded(app.clone(), last, how).map(|end| slot.put(&end));
            let slot = self.slot;
            if let Some(how) = self.reap(pid, |how| settled = note(slot, how).is_some()) {
                break if settled { StepEnd::Settled } else { StepEnd::Ended(how) };
            }
            if time::now() >= self.ends_at {
                break StepEnd::TimedOut;
            }
            self.sleep(&mut lines);
        };
        // Whatever the step left is ended before anything else is done for this app, or for the next.
        self.end_tree(pid, &mut lines);
        lines.read();
        lines.flush();
        end
    }

    fn start(&self, step: &Step, lock: Option<&AppLock>) -> io::Result<(Pid, Gate, OwnedFd)> {
        let (read, write) = fd::pipe()?;
        fd::set_nonblocking(&read)?;
        let null = File::open("/dev/null")?;
        let handed = Handed::new(lock.into_iter())?;
        let mut gate = Some(Gate::new()?);
        let pid = process::fork(|| {
            let _ = nix::unistd::setsid();
            if !gate.take().is_some_and(Gate::wait) {
                // No status of ours may look like one of the command's.
                let _ = process::kill(getpid(), SIGKILL);
            }
            for (stream, number) in [(null.as_fd(), 0), (write.as_fd(), 1), (write.as_fd(), 2)] {
                if fd::become_standard_stream(&stream, number).is_err() {
                    return 126;
                }
            }
            handed.keep_over_exec();
            let environment = harness::environment(&step.environment, &handed.variables());
            self.inherited.restore();
            let program = step.argv.first().cloned().unwrap_or_default();
            process::exec(&program, &step.argv, &environment);
            127
        })?;
        let gate = gate.ok_or_else(|| io::Error::other("the gate is gone"))?;
        Ok((pid, gate, read))
    }

    /// Sleeps until something happens; output is passed on, a limit or a signal is for the caller to see.
    fn sleep(&mut self, lines: &mut Lines) {
        let output = lines.open().map(AsFd::as_fd);
        let mut descriptors = vec![self.alarm.as_fd()];
        descriptors.extend(output);
        let ready = fd::wait(&descriptors);
        if ready.get(1) == Some(&true) {
            lines.read();
        }
        // Requests are not for a worker; SIGCHLD is answered by looking.
        self.delivery.take();
    }

    /// Reaps whatever has ended; the step's own end is taken by its number, never lost among adopted children.
    fn reap(&mut self, step: Pid, mut before: impl FnMut(Ended)) -> Option<Ended> {
        let mut step_end = None;
        while let Children::Ended(pid, how) = process::peek_ended() {
            if pid == step {
                before(how);
                step_end = Some(how);
            }
            self.tree.reap(pid);
        }
        if step_end.is_none() && process::was_stopped(step) {
            let _ = process::kill(step, SIGCONT);
        }
        step_end
    }

    fn end_tree(&mut self, step: Pid, lines: &mut Lines) {
        let give_up = time::now() + KILLED_WITHIN;
        self.alarm.set(Some(give_up));
        loop {
            self.reap(step, |_| ());
            if self.tree.is_empty() {
                break;
            }
            if time::now() >= give_up {
                let left = self.tree.descendants();
                tracing::error!(event = "unkillable", "can't kill what a teardown step left: {}", tree::names(&left));
                self.tree.note_all();
                break;
            }
            self.tree.kill_children();
            self.sleep(lines);
        }
    }
}

/// A step's output, passed on line by line.
struct Lines {
    output: Option<File>,
    pending: Vec<u8>,
}

impl Lines {
    fn new(output: OwnedFd) -> Self {
        Lines { output: Some(output.into()), pending: Vec::new() }
    }

    /// The pipe, until its end.
    fn open(&self) -> Option<&File> {
        self.output.as_ref()
    }

    /// Reads what is there without waiting, and not for ever: a step that only writes has a time limit too.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE {
            let Some(output) = &mut self.output else { break };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(length) => {
                    self.pending.extend_from_slice(&buffer[..length]);
                    self.pass_on();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.output = None,
            }
        }
    }

    fn pass_on(&mut self) {
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            say(&line);
        }
        if self.pending.len() > LINE_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            say(&std::mem::take(&mut self.pending));
        }
    }
}

fn say(line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    tracing::info!(event = "teardown-output", "teardown: {}", line.trim_end());
}
