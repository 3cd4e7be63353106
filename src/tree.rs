//! Ending everything that descends from this process, which must be a subreaper.
//!
//! A kill of a process group misses all that called setsid(2). A subreaper that kills its own children, reaps
//! them, gets *their* children by adoption, and repeats until it has none misses nobody.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt::Write;

use signal_hook::consts::{SIGCONT, SIGKILL, SIGTERM};

use crate::sys::process::{self, Children, Pid};
use crate::sys::procfs::{self, Process};

/// So many are named in a message; the rest is a number.
const NAMED: usize = 10;

/// The descendants of this process, but for those that are not ours to end.
#[derive(Debug, Default)]
pub struct Tree {
    /// Never touched: they were there before the run.
    noted: HashSet<Pid>,
    /// Killed and not reaped yet.
    killed: HashSet<Pid>,
    /// Counted in `ended`.
    counted: HashSet<Pid>,
    ended: u32,
    names: Vec<String>,
}

impl Tree {
    /// The tree below this process, leaving `noted` and what descends from those alone.
    pub fn new(noted: HashSet<Pid>) -> Self {
        Tree { noted, ..Tree::default() }
    }

    /// Leaves all that is alive now alone.
    pub fn note_all(&mut self) {
        let own = nix::unistd::getpid();
        self.noted.extend(procfs::descendants(own, &self.noted).into_iter().map(|process| process.pid));
    }

    /// Leaves this process alone, and what descends from it.
    pub fn leave_alone(&mut self, pid: Pid) {
        self.noted.insert(pid);
    }

    /// It is as good as dead: not to be counted among those that had to be ended.
    pub fn was_killed(&mut self, pid: Pid) {
        self.killed.insert(pid);
    }

    /// Reaps a child that has ended.
    pub fn reap(&mut self, pid: Pid) {
        process::reap(pid);
        self.was_reaped(pid);
    }

    /// A child that was reaped already.
    pub fn was_reaped(&mut self, pid: Pid) {
        // The number can belong to a new process from here on.
        self.killed.remove(&pid);
        self.counted.remove(&pid);
        self.noted.remove(&pid);
    }

    /// Is no child left that is ours to end? Exact, where `seen` is what [`process::peek_ended`] has just said: the kernel
    /// goes through all children for that, so it is not asked twice.
    pub fn is_empty(&self, seen: Children) -> bool {
        match seen {
            Children::None => true,
            _ if self.noted.is_empty() => false,
            _ => procfs::own_children().iter().all(|pid| self.noted.contains(pid)),
        }
    }

    /// Everything below this process that is alive.
    pub fn descendants(&self) -> Vec<Process> {
        procfs::descendants(nix::unistd::getpid(), &self.noted)
    }

    /// Continues every descendant: a stopped process acts on no signal but SIGKILL.
    pub fn continue_all(&self) {
        for process in self.descendants() {
            let _ = process::kill(process.pid, SIGCONT);
        }
    }

    /// The processes that are left alone.
    pub fn into_noted(self) -> HashSet<Pid> {
        self.noted
    }

    /// Asks every descendant to end.
    pub fn terminate(&mut self) {
        for process in self.descendants() {
            self.count(process.pid, || process.name.clone());
            let _ = process::kill(process.pid, SIGTERM);
            let _ = process::kill(process.pid, SIGCONT);
        }
    }

    /// Kills every child that was not killed yet. Its children come to us when it is gone.
    pub fn kill_children(&mut self) {
        for pid in procfs::own_children() {
            if self.noted.contains(&pid) || !self.killed.insert(pid) {
                continue;
            }
            self.count(pid, || procfs::process(pid).map_or_else(String::new, |process| process.name));
            // EPERM (it became another user's) shows in what is left at the end.
            let _ = process::kill(pid, SIGKILL);
        }
    }

    fn count(&mut self, pid: Pid, name: impl FnOnce() -> String) {
        if self.counted.insert(pid) {
            self.ended += 1;
            if self.names.len() < NAMED {
                self.names.push(format!("{pid} ({})", name()));
            }
        }
    }

    /// How many had to be ended so far, by SIGTERM or SIGKILL.
    pub fn ended(&self) -> u32 {
        self.ended
    }

    /// Starts to count anew.
    pub fn forget_ended(&mut self) {
        self.ended = 0;
        self.names.clear();
    }

    /// `5190 (ssh-agent), 5222 (git)`
    pub fn ended_names(&self) -> String {
        list(&self.names, self.ended as usize)
    }
}

/// Processes as a message names them.
pub fn names(processes: &[Process]) -> String {
    let names: Vec<String> =
        processes.iter().take(NAMED).map(|process| format!("{} ({})", process.pid, process.name)).collect();
    list(&names, processes.len())
}

fn list(names: &[String], count: usize) -> String {
    let mut text = names.join(", ");
    if count > names.len() {
        let _ = write!(text, " and {} more", count - names.len());
    }
    text
}
