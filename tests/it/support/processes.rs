//! Processes as `/proc` shows them: who carries a mark, who is whose child, who is stopped.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The variable by which a test finds every process that it caused, wherever it was re-parented to.
pub const MARK: &str = "CCCI_IT_MARK";

/// One living process (zombies count as gone).
#[derive(Clone, Debug)]
pub struct Process {
    /// Its pid.
    pub pid: Pid,
    /// Its parent's pid.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// `R`, `S`, `D`, `T`, …; never `Z` or `X`.
    pub state: char,
    /// Its short name.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, parent, state, name, session, .. } = self;
        write!(f, "{pid} ({name}) {state} parent {parent} session {session}")
    }
}

impl Process {
    /// The program it runs, also where the file is deleted; empty while it can't be read.
    pub fn program(&self) -> PathBuf {
        let exe = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
        let text = exe.to_string_lossy();
        PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text))
    }

    /// Is it a monitor, supervisor or worker (also a forked one that has not yet exec'd)? A keeper of a cluster lease is
    /// none: the same program, started anew.
    pub fn is_guard(&self) -> bool {
        self.program().file_name().is_some_and(|n| n == "ccci-guard") && !["ccci-keeper", "exe"].contains(&&*self.name)
    }
}

/// Reads one process; `None` when it is gone or a zombie.
pub fn process(pid: Pid) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold blanks and parentheses: the last one closes it (proc_pid_stat(5)).
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || Some(Pid::from_raw(fields.next()?.parse().ok()?));
    let (parent, group, session) = (number()?, number()?, number()?);
    let living = !matches!(state, 'Z' | 'X');
    living.then(|| Process { pid, parent, group, session, state, name: name.to_owned() })
}

/// Is it there and no zombie?
pub fn alive(pid: Pid) -> bool {
    process(pid).is_some()
}

/// Is it stopped (by a signal, or by a tracer)?
pub fn stopped(pid: Pid) -> bool {
    process(pid).is_some_and(|p| matches!(p.state, 'T' | 't'))
}

fn all_pids() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let names = entries.flatten().map(|e| e.file_name());
    names.filter_map(|n| n.to_str()?.parse().ok().map(Pid::from_raw)).collect()
}

/// The living children of `parent`.
pub fn children(parent: Pid) -> Vec<Process> {
    all_pids().into_iter().filter_map(process).filter(|p| p.parent == parent).collect()
}

fn carries(pid: Pid, entry_start: &[u8]) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|b| *b == 0).any(|entry| entry.starts_with(entry_start))
}

/// The living processes whose mark starts with `mark`.
pub fn marked(mark: &str) -> Vec<Process> {
    let entry = format!("{MARK}={mark}").into_bytes();
    let look = || -> Vec<Process> {
        let pids = all_pids().into_iter().filter(|pid| carries(*pid, &entry));
        pids.filter_map(process).collect()
    };
    let found = look();
    if !found.is_empty() {
        return found;
    }
    // A process in the middle of execve(2) shows an empty environment for a moment, and one that
    // forks in front of our reading position is missed: nothing is "nothing" only twice.
    std::thread::sleep(Duration::from_millis(2));
    look()
}

/// Kills everything that carries the mark, until twice in a row nothing is left.
pub fn kill_marked(mark: &str) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let left = marked(mark);
        if left.is_empty() {
            return;
        }
        for process in left {
            let _ = kill(process.pid, Signal::SIGKILL);
        }
    }
    eprintln!("processes with mark {mark} could not be killed: {:?}", marked(mark));
}
