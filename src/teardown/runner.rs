//! Runs one command to its end: in a session of its own, under a time limit, with its output read by us and
//! everything that it leaves behind ended before anything else is done.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::unistd::getpid;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM};

use crate::gate::Gate;
use crate::harness;
use crate::lock::AppLock;
use crate::lock::handoff::Handed;
use crate::log;
use crate::sys::fd;
use crate::sys::process::{self, Children, Ended, Pid};
use crate::sys::signal::{Delivery, Inherited};
use crate::sys::time::{self, Alarm};
use crate::tree::{self, Tree};

/// After its end, or at its limit, what a command left has this long to die of SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// Longest piece of a line that is passed on as one.
const LINE_MAX: usize = 8 * 1024;
/// So many reads of a page fetch what a pipe can hold (pipe(7)).
const AT_ONCE: usize = 16;
/// More than this is no list that anybody makes.
const CAPTURED_MAX: usize = 64 * 1024 * 1024;

/// A command: program (a path), arguments, environment.
#[derive(Clone, Debug)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Its environment; what tells of the lock that it inherits is added.
    pub environment: Vec<(OsString, OsString)>,
}

/// What becomes of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Each line of both streams to the log.
    Log,
    /// Kept, both streams apart.
    Capture,
}

/// How a command came to its end.
#[derive(Debug)]
pub enum End {
    /// By itself, or of a signal.
    Ended(Ended),
    /// At its limit.
    TimedOut,
    /// Somebody asked this process to stop, with this signal.
    Asked(i32),
    /// It could not be started.
    NotStarted(io::Error),
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its end.
    pub end: End,
    /// Its stdout, where captured.
    pub output: Vec<u8>,
    /// Its stderr, where captured.
    pub errors: Vec<u8>,
}

/// What runs commands, one at a time. Its process must be a subreaper, and single-threaded.
pub struct Runner<'a> {
    delivery: &'a Delivery,
    inherited: &'a Inherited,
    tree: Tree,
    alarm: Alarm,
    /// Requests to stop end a command, too; a worker hears none.
    hears_requests: bool,
    /// The kernel ends a command when this process dies.
    ends_with_us: bool,
}

impl<'a> Runner<'a> {
    /// A runner that leaves the children in `noted` alone.
    ///
    /// # Errors
    /// When the kernel has no timer for us.
    pub fn new(
        delivery: &'a Delivery,
        inherited: &'a Inherited,
        noted: HashSet<Pid>,
        hears_requests: bool,
    ) -> io::Result<Self> {
        Ok(Runner {
            delivery,
            inherited,
            tree: Tree::new(noted),
            alarm: Alarm::new()?,
            hears_requests,
            ends_with_us: false,
        })
    }

    /// A child that is not a command's: never ours to end with one.
    pub fn leave_alone(&mut self, pid: Pid) {
        self.tree.leave_alone(pid);
    }

    /// For commands whose work is of no use to anybody once this process is dead.
    pub fn ends_with_us(&mut self) {
        self.ends_with_us = true;
    }

    /// Runs a command until its end, or until `ends_at` ([`time::now`]). `before` gets its number before it does
    /// anything; `after` its end before it is reaped.
    pub fn run(
        &mut self,
        command: &Command,
        lock: Option<&AppLock>,
        output: Output,
        ends_at: Duration,
        before: impl FnOnce(Pid),
        mut after: impl FnMut(Ended),
    ) -> Ran {
        let (pid, gate, mut streams) = match self.start(command, lock, output) {
            Ok(started) => started,
            Err(error) => return Ran { end: End::NotStarted(error), output: Vec::new(), errors: Vec::new() },
        };
        before(pid);
        gate.open();
        self.alarm.set(Some(ends_at));
        let end = loop {
            if let Some(how) = self.reap(pid, &mut after) {
                break End::Ended(how);
            }
            if time::now() >= ends_at {
                break End::TimedOut;
            }
            if let Some(asked) = self.sleep(&mut streams) {
                break End::Asked(asked);
            }
        };
        self.end_tree(pid, &mut streams);
        for stream in &mut streams {
            stream.read();
            stream.flush();
        }
        let mut kept = streams.into_iter().map(|stream| stream.pending);
        Ran { end, output: kept.next().unwrap_or_default(), errors: kept.next().unwrap_or_default() }
    }

    fn start(&self, command: &Command, lock: Option<&AppLock>, output: Output) -> io::Result<(Pid, Gate, Vec<Stream>)> {
        let (out, out_end) = fd::pipe()?;
        let errors = if output == Output::Capture { Some(fd::pipe()?) } else { None };
        let error_end = errors.as_ref().map_or(out_end.as_fd(), |(_, end)| end.as_fd());
        let null = File::open("/dev/null")?;
        let handed = Handed::new(lock.into_iter())?;
        let argv: Vec<CString> = command.argv.iter().map(|word| c_string(word)).collect();
        let mut gate = Some(Gate::new()?);
        let pid = process::fork(|| {
            let _ = nix::unistd::setsid();
            if self.ends_with_us {
                // Before the gate: a parent that is dead by then never opens it.
                let _ = process::set_parent_death_signal(SIGKILL);
            }
            if !gate.take().is_some_and(Gate::wait) {
                // No status of ours may look like one of the command's.
                let _ = process::kill(getpid(), SIGKILL);
            }
            for (stream, number) in [(null.as_fd(), 0), (out_end.as_fd(), 1), (error_end, 2)] {
                if fd::become_standard_stream(&stream, number).is_err() {
                    return 126;
                }
            }
            handed.keep_over_exec();
            let environment = harness::environment(&command.environment, &handed.variables());
            self.inherited.restore();
            let program = argv.first().cloned().unwrap_or_default();
            process::exec(&program, &argv, &environment);
            127
        })?;
        let gate = gate.ok_or_else(|| io::Error::other("the gate is gone"))?;
        let mut streams = vec![Stream::new(out, output)?];
        if let Some((read, _)) = errors {
            streams.push(Stream::new(read, output)?);
        }
        Ok((pid, gate, streams))
    }

    /// Sleeps until something happens; output is read. Tells of a request to stop, where those are heard.
    fn sleep(&mut self, streams: &mut [Stream]) -> Option<i32> {
        let open: Vec<usize> = (0..streams.len()).filter(|&index| streams[index].pipe.is_some()).collect();
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![self.alarm.as_fd()];
        descriptors.extend(streams.iter().filter_map(|stream| stream.pipe.as_ref()).map(AsFd::as_fd));
        let ready = fd::wait(&descriptors);
        for (index, _) in open.into_iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            streams[index].read();
        }
        let received = self.delivery.take();
        let request = received.iter().map(|received| received.signal);
        let mut request = request.filter(|number| matches!(*number, SIGTERM | SIGINT | SIGHUP | SIGQUIT));
        if self.hears_requests { request.next() } else { None }
    }

    /// Sleeps for a while, for what must be asked again.
    pub fn pause(&mut self, delay: Duration) {
        let until = time::now() + delay;
        self.alarm.set(Some(until));
        while time::now() < until {
            self.sleep(&mut []);
        }
    }

    /// Reaps whatever has ended; the command's own end is taken by its number, never lost among adopted children.
    fn reap(&mut self, command: Pid, before: &mut impl FnMut(Ended)) -> Option<Ended> {
        let mut end = None;
        while let Children::Ended(pid, how) = process::peek_ended() {
            if pid == command {
                before(how);
                end = Some(how);
            }
            self.tree.reap(pid);
        }
        if end.is_none() && process::was_stopped(command) {
            let _ = process::kill(command, SIGCONT);
        }
        end
    }

    fn end_tree(&mut self, command: Pid, streams: &mut [Stream]) {
        let give_up = time::now() + KILLED_WITHIN;
        self.alarm.set(Some(give_up));
        loop {
            self.reap(command, &mut |_| ());
            if self.tree.is_empty(process::peek_ended()) {
                return;
            }
            if time::now() >= give_up {
                let left = self.tree.descendants();
                tracing::error!(event = "unkillable", "can't kill what a command left: {}", tree::names(&left));
                self.tree.note_all();
                return;
            }
            self.tree.kill_children();
            self.sleep(streams);
        }
    }
}

fn c_string(word: &OsStr) -> CString {
    CString::new(word.as_bytes()).unwrap_or_default()
}

/// One stream of a command's output.
struct Stream {
    pipe: Option<File>,
    output: Output,
    pending: Vec<u8>,
}

impl Stream {
    fn new(pipe: OwnedFd, output: Output) -> io::Result<Self> {
        fd::set_nonblocking(&pipe)?;
        Ok(Stream { pipe: Some(pipe.into()), output, pending: Vec::new() })
    }

    /// Reads what is there without waiting, and not for ever: a command that only writes has a limit, too.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE {
            let Some(pipe) = &mut self.pipe else { break };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) if self.pending.len() < CAPTURED_MAX => {
                    self.pending.extend_from_slice(&buffer[..length]);
                    self.pass_on();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => self.pipe = None,
            }
        }
    }

    fn pass_on(&mut self) {
        if self.output == Output::Capture {
            return;
        }
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            say(&line);
        }
        if self.pending.len() > LINE_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.output == Output::Log && !self.pending.is_empty() {
            say(&std::mem::take(&mut self.pending));
        }
    }
}

fn say(line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    tracing::info!(event = "teardown-output", "teardown: {}{}", log::of_app(), line.trim_end());
}
