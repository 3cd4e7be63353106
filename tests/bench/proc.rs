//! What `/proc` tells: the machine, a process's children, its memory, its wakeups, who carries a mark.

use std::fs;
use std::time::{Duration, Instant};

/// One line about the machine that the figures were made on.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("unknown cpu", |(_, model)| model);
    let virtual_machine = if cpus.contains(" hypervisor") { ", virtual machine" } else { "" };
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    format!("Linux {}, {count} x {model}{virtual_machine}", read("/proc/sys/kernel/osrelease"))
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// State and parent of a process; `None` when it is gone.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold blanks and parentheses: the fields begin after the last one.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// A process and all that it started and that still hangs below it, parents first.
pub fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = pids().filter_map(|pid| Some((pid, stat(pid)?.1))).collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|&&(_, of)| of == parent).map(|&(pid, _)| pid));
        next += 1;
    }
    tree
}

pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Living processes (no zombies) whose environment holds `mark`.
pub fn marked(mark: &str) -> Vec<u32> {
    pids()
        .filter(|&pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
                && stat(pid).is_some_and(|(state, _)| state != 'Z')
        })
        .collect()
}

/// A process's memory, in KiB.
pub struct Memory {
    /// Shared pages are divided among those who share them.
    pub pss: u64,
    /// Pages that nobody else has.
    pub private: u64,
}

pub fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = number_after(&text, "Private_Clean:") + number_after(&text, "Private_Dirty:");
    Memory { pss: number_after(&text, "Pss:"), private }
}

/// How often the process gave the processor away to wait: each is one wakeup later.
pub fn voluntary_switches(pid: u32) -> u64 {
    number_after(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap(), "voluntary_ctxt_switches:")
}

fn number_after(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("no {key} in {text:?}"))
}

/// Whether a thread of this process is queued for a lock: `1: -> FLOCK  ADVISORY  WRITE 4242 00:19:77 0 EOF`.
pub fn waits_for_a_lock() -> bool {
    let me = std::process::id().to_string();
    fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .any(|line| line.contains("-> FLOCK") && line.split_whitespace().any(|field| field == me))
}

/// Polls until `condition` gives a value.
///
/// # Panics
/// When it has not within 30 s; names `what`.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
