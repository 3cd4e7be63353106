//! A `/proc` that was mounted in another pid namespace, as `unshare -pf` without `--mount-proc` leaves it: its numbers are
//! not ours, and to signal one would hit a stranger. Here they are put into ours (`NSpid` of proc_pid_status(5)).
//!
//! It sees only what that `/proc` shows, which is more than ours would. It costs a look at all processes each time: a
//! `/proc` of our own is never read this way.

use std::collections::HashMap;
use std::fs;
use std::sync::OnceLock;

use super::process::Pid;
use super::procfs::{Process, parse_stat};

/// Is `/proc` that of another namespace? The same for all that we fork.
pub fn is_other() -> bool {
    static OTHER: OnceLock<bool> = OnceLock::new();
    *OTHER.get_or_init(|| own_number().is_some_and(|number| number != nix::unistd::getpid().as_raw()))
}

/// Our own number in that `/proc`.
fn own_number() -> Option<i32> {
    fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// A process by both numbers.
struct Seen {
    there: i32,
    parent_there: i32,
    /// In the namespaces from that of `/proc` inwards.
    numbers: Vec<i32>,
    process: Process,
}

fn look(there: i32) -> Option<Seen> {
    let process = parse_stat(&String::from_utf8_lossy(&fs::read(format!("/proc/{there}/stat")).ok()?))?;
    let status = fs::read_to_string(format!("/proc/{there}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    Some(Seen { there, parent_there: process.parent.as_raw(), numbers, process })
}

/// The processes of our namespace and of those inside it, with our numbers; and each one's number there.
fn ours() -> Vec<(i32, Process)> {
    let Some(own) = own_number().and_then(look) else { return Vec::new() };
    let depth = own.numbers.len();
    let namespace = |there: i32| fs::read_link(format!("/proc/{there}/ns/pid")).ok();
    let our_namespace = namespace(own.there);
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: HashMap<i32, Seen> = numbers.filter_map(|there| Some((there, look(there)?))).collect();
    // One that is deeper is in a namespace inside ours if an ancestor of it is in ours.
    let is_ours = |seen: &Seen| {
        let mut next = Some(seen);
        while let Some(seen) = next.filter(|seen| seen.numbers.len() >= depth) {
            if seen.numbers.len() == depth {
                return our_namespace.is_some() && namespace(seen.there) == our_namespace;
            }
            next = all.get(&seen.parent_there);
        }
        false
    };
    let number = |seen: &Seen| Pid::from_raw(seen.numbers[depth - 1]);
    let ours: HashMap<i32, Pid> =
        all.values().filter(|seen| is_ours(seen)).map(|seen| (seen.there, number(seen))).collect();
    let with_ours = |seen: &Seen| {
        let parent = ours.get(&seen.parent_there).copied().unwrap_or(Pid::from_raw(0));
        Some((seen.there, Process { pid: *ours.get(&seen.there)?, parent, ..seen.process.clone() }))
    };
    all.values().filter_map(with_ours).collect()
}

/// All processes that have a number in our namespace.
pub fn all() -> Vec<Process> {
    ours().into_iter().map(|(_, process)| process).collect()
}

/// One of them.
pub fn process(pid: Pid) -> Option<Process> {
    all().into_iter().find(|process| process.pid == pid)
}

/// The number that one of ours has there.
pub fn number_there(pid: Pid) -> Option<i32> {
    ours().into_iter().find(|(_, process)| process.pid == pid).map(|(there, _)| there)
}

/// Our number for one of there; 0, as for all that can't be seen, where it has none.
pub fn number_here(there: Pid) -> Pid {
    let found = ours().into_iter().find(|(number, _)| *number == there.as_raw());
    found.map_or(Pid::from_raw(0), |(_, process)| process.pid)
}
