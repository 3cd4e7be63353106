//! What `/proc` tells: who descends from whom, which locks a process shows (proc(5)).
//!
//! Everything here is a look at a moving picture. Callers use it to name processes and to signal them early;
//! what must be exact (nobody is left) is proved by wait(2), never by this.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::other_proc;
use super::process::Pid;

/// One process, from `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// Its parent's number.
    pub parent: Pid,
    /// Its name (`comm`), control characters escaped: any process can choose its own.
    pub name: String,
    /// It has ended and waits to be reaped.
    pub zombie: bool,
    /// Clock ticks after boot; with the number it names one process for good.
    pub started: u64,
}

/// Reads one process; `None` when there is none.
pub fn process(pid: Pid) -> Option<Process> {
    if other_proc::is_other() {
        return other_proc::process(pid);
    }
    // Some fifty numbers and a short name: one read gets the whole line. `fs::read` takes six more system calls for it, of
    // each process on the host while a tree is being stopped.
    let mut line = [0; 2048];
    let length = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
    parse_stat(&String::from_utf8_lossy(&line[..length]))
}

pub(super) fn parse_stat(stat: &str) -> Option<Process> {
    // The name may hold spaces and parentheses: the last closing one ends it.
    let (head, tail) = stat.rsplit_once(')')?;
    let (pid, name) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Process {
        pid: Pid::from_raw(pid.trim().parse().ok()?),
        parent: Pid::from_raw(fields.get(1)?.parse().ok()?),
        name: name.chars().flat_map(|c| c.escape_debug_if_control()).collect(),
        zombie: matches!(*fields.first()?, "Z" | "X"),
        started: fields.get(19)?.parse().ok()?,
    })
}

trait EscapeControl {
    fn escape_debug_if_control(self) -> Box<dyn Iterator<Item = char>>;
}

impl EscapeControl for char {
    fn escape_debug_if_control(self) -> Box<dyn Iterator<Item = char>> {
        if self.is_control() { Box::new(self.escape_debug()) } else { Box::new(std::iter::once(self)) }
    }
}

fn all() -> Vec<Process> {
    if other_proc::is_other() {
        return other_proc::all();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|number| process(Pid::from_raw(number)))
        .collect()
}

/// Every descendant of `root` that is alive, but `except` and what descends from those.
pub fn descendants(root: Pid, except: &HashSet<Pid>) -> Vec<Process> {
    walk(root, except).unwrap_or_else(|| look_through_all(root, except))
}

/// A tree with more processes than this is found faster by a look at all that the host has.
const WALKED_MAX: usize = 64;

/// From parent to child: a stop need not look at everybody else's processes for it. With 145 on the host, and a harness that
/// ends at once, the lock came free after 0.31 ms instead of 0.94.
///
/// `None`: the tree is too large, the kernel keeps no such lists (CONFIG_PROC_CHILDREN), or it changed meanwhile: what a
/// dead process leaves comes to `root`, where the walk has been already.
fn walk(root: Pid, except: &HashSet<Pid>) -> Option<Vec<Process>> {
    let first = children(root)?;
    let mut found = Vec::new();
    let mut next = first.clone();
    while let Some(pid) = next.pop() {
        if except.contains(&pid) {
            continue;
        }
        let process = process(pid)?;
        if !process.zombie {
            next.extend(children(pid)?);
            found.push(process);
        }
        if found.len() + next.len() > WALKED_MAX {
            return None;
        }
    }
    // As a look at all has them: nearly always the order in which they were started.
    found.sort_by_key(|process| process.pid);
    (children(root)? == first).then_some(found)
}

/// The children of all threads of a process; `None` also where `/proc` has other numbers than we.
fn children(pid: Pid) -> Option<Vec<Pid>> {
    if other_proc::is_other() {
        return None;
    }
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let list = fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    Some(found)
}

fn look_through_all(root: Pid, except: &HashSet<Pid>) -> Vec<Process> {
    let mut by_parent: HashMap<Pid, Vec<Process>> = HashMap::new();
    for process in all() {
        by_parent.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in by_parent.remove(&parent).unwrap_or_default() {
            if !except.contains(&child.pid) {
                parents.push(child.pid);
                if !child.zombie {
                    found.push(child);
                }
            }
        }
    }
    found
}

/// Is there a `/proc` at all? Tells so without opening anything.
pub fn is_mounted() -> bool {
    fs::metadata("/proc/self").is_ok()
}

/// The children of this process, which must have one thread.
pub fn own_children() -> Vec<Pid> {
    let own = nix::unistd::getpid();
    // The kernel keeps this list exact for the children of one task.
    if let Some(children) = children(own) {
        return children;
    }
    all().into_iter().filter(|process| process.parent == own).map(|process| process.pid).collect()
}

/// The number by which `/proc` has this process.
fn number_in_proc(pid: Pid) -> Option<i32> {
    if other_proc::is_other() { other_proc::number_there(pid) } else { Some(pid.as_raw()) }
}

/// The ancestors of this process, nearest first, as far as this pid namespace shows them.
pub fn ancestors() -> Vec<Pid> {
    let mut chain = Vec::new();
    let mut next = nix::unistd::getppid();
    while next.as_raw() > 0 && !chain.contains(&next) {
        chain.push(next);
        let Some(process) = process(next) else { break };
        next = process.parent;
    }
    chain
}

/// The pid namespace of this process, by its inode (pid_namespaces(7)).
pub fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}

/// The name of this host (proc(5), `/proc/sys/kernel/hostname`).
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The pid namespace that the kernel began with (PROC_PID_INIT_INO of its proc_ns.h). From any other, processes outside of
/// it can't be seen.
pub const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A file as `/proc` names it in lock lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

impl FileId {
    /// How lock lines spell it: `major:minor:inode`, the first two in hexadecimal.
    fn in_lock_line(self) -> String {
        let (major, minor) = (nix::sys::stat::major(self.device), nix::sys::stat::minor(self.device));
        format!("{major:02x}:{minor:02x}:{}", self.inode)
    }
}

/// Does this descriptor's open file description hold a flock? `None` when `/proc` does not say.
pub fn shows_flock(pid: &str, fd: i32) -> Option<bool> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    Some(info.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK")))
}

/// Does any descriptor of this process share a description that holds a flock on `file`?
pub fn holds_flock(pid: Pid, file: FileId) -> bool {
    let wanted = file.in_lock_line();
    let Some(pid) = number_in_proc(pid) else { return false };
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|info| {
        info.lines()
            .filter(|line| line.starts_with("lock:") && line.contains("FLOCK"))
            .any(|line| line.split_whitespace().any(|field| field == wanted))
    })
}

/// Could any thread of this process be waiting for a file lock? A look that costs nothing, before one at
/// `/proc/locks`, which the kernel makes wait for all its processors (`percpu_down_write`).
pub fn may_wait_for_lock(pid: Pid) -> bool {
    let Some(pid) = number_in_proc(pid) else { return false };
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().any(|thread| match fs::read_to_string(thread.path().join("wchan")) {
        // The function that it sleeps in (proc(5)); 0 where it doesn't sleep, or the kernel won't say.
        Ok(function) => function == "0" || function.contains("lock"),
        Err(_) => true,
    })
}

/// Where something is mounted, as this process sees it (proc(5), mountinfo).
pub fn mount_points() -> std::io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo").map_err(no_mounts)?;
    let lines = table.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4)).map(unescaped).collect())
}

/// Not "not found": that would be said of what was looked at.
fn no_mounts(error: std::io::Error) -> std::io::Error {
    std::io::Error::other(format!("mounts can't be told without /proc ({error})"))
}

/// Blanks, line ends and backslashes are octal numbers there.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let number = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if byte == b'\\' => {
                path.push(escaped);
                rest = &after[3..];
            }
            _ => {
                path.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

/// The mount that an open file is on (`mnt_id` of proc(5), fdinfo). A bind mount has another than what it shows, though
/// the device is the same.
///
/// # Errors
/// When `/proc` does not say.
pub fn mount_of(fd: impl std::os::fd::AsRawFd) -> std::io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(no_mounts)?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| std::io::Error::other("/proc does not tell mounts"))
}

/// The processes that hold a flock on another file than `current` that is or was under this path, with the descriptor:
/// one that was removed, that was renamed to something with this beginning, or that something is mounted over. And whether
/// all processes let themselves be looked at (that takes CAP_SYS_PTRACE for those of other users).
pub fn holders_of_another(path: &Path, current: Option<FileId>) -> (Vec<(Pid, i32)>, bool) {
    let (mut found, mut saw_all) = (Vec::new(), true);
    let Ok(processes) = fs::read_dir("/proc") else { return (found, false) };
    let name = path.file_name().unwrap_or_default().as_bytes();
    // A removed one has ` (deleted)` behind its name.
    let is_named = |target: &Path| {
        target.parent() == path.parent() && target.file_name().is_some_and(|other| other.as_bytes().starts_with(name))
    };
    for pid in processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => descriptors,
            Err(error) => {
                saw_all &= error.kind() != std::io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        for descriptor in descriptors.flatten().filter(|open| fs::read_link(open.path()).is_ok_and(|to| is_named(&to)))
        {
            let number = descriptor.file_name().to_str().and_then(|number| number.parse().ok());
            let file = fs::metadata(descriptor.path()).map(|file| FileId { device: file.dev(), inode: file.ino() });
            if let (Some(number), Ok(file)) = (number, file)
                && current != Some(file)
                && shows_flock(&pid.to_string(), number) == Some(true)
            {
                found.push((Pid::from_raw(pid), number));
            }
        }
    }
    (found, saw_all)
}

/// The processes that wait for a flock on `file`, from `/proc/locks` (the lines with `->`).
pub fn flock_waiters(file: FileId) -> Vec<Pid> {
    lock_lines(file).into_iter().filter(|(waits, _)| *waits).map(|(_, pid)| pid).collect()
}

/// Has anybody a flock on `file`?
pub fn is_flocked(file: FileId) -> bool {
    lock_lines(file).iter().any(|(waits, _)| !waits)
}

/// The process that took the flock on `file`. It may have died since: others can share the description.
pub fn flock_taker(file: FileId) -> Option<Pid> {
    // A taker in a pid namespace that we can't see has no number here.
    lock_lines(file).into_iter().find(|(waits, pid)| !waits && pid.as_raw() > 0).map(|(_, pid)| pid)
}

/// Who took which flock and who waits for it, read once for many files: `/proc/locks` lists those of the whole host.
#[derive(Debug, Default)]
pub struct LockTable {
    files: HashMap<String, Locked>,
}

#[derive(Debug, Default)]
struct Locked {
    is_held: bool,
    taker: Option<Pid>,
    waiters: Vec<Pid>,
}

impl LockTable {
    /// Reads it; where that can't be had nothing is known.
    pub fn read() -> Self {
        LockTable::try_read().unwrap_or_default()
    }

    /// Reads it.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn try_read() -> std::io::Result<Self> {
        let mut table = LockTable::default();
        for line in read_lock_table()?.lines().filter_map(parse_lock_line) {
            let file = table.files.entry(line.file.to_owned()).or_default();
            // A process in a pid namespace that we can't see has no number here.
            let pid = Some(line.pid).filter(|pid| pid.as_raw() > 0);
            if line.waits {
                file.waiters.extend(pid);
            } else {
                file.is_held = true;
                file.taker = file.taker.or(pid);
            }
        }
        Ok(table)
    }

    /// Who took the flock on `file`.
    pub fn taker(&self, file: FileId) -> Option<Pid> {
        self.files.get(&file.in_lock_line())?.taker
    }

    /// Has anybody a flock on `file`?
    pub fn is_held(&self, file: FileId) -> bool {
        self.files.get(&file.in_lock_line()).is_some_and(|file| file.is_held)
    }

    /// Who waits for the flock on `file`.
    pub fn waiters(&self, file: FileId) -> &[Pid] {
        self.files.get(&file.in_lock_line()).map(|file| file.waiters.as_slice()).unwrap_or_default()
    }
}

/// `/proc/locks`. The kernel gives it a page at a time and goes on by count: where a lock before that place is freed
/// between two pages, one that is held all the while is passed over. So a longer table is read twice, and a line in
/// either counts (a lock that was freed in between may be in it, as in any look at a moving picture).
fn read_lock_table() -> std::io::Result<String> {
    const PAGE: usize = 4096;
    let mut table = fs::read_to_string("/proc/locks")?;
    if table.len() > PAGE / 2 {
        table.push_str(&fs::read_to_string("/proc/locks")?);
    }
    Ok(table)
}

/// The flock lines of `file` in `/proc/locks`: whether it waits, and who.
fn lock_lines(file: FileId) -> Vec<(bool, Pid)> {
    let wanted = file.in_lock_line();
    let locks = read_lock_table().unwrap_or_default();
    let lines = locks.lines().filter_map(parse_lock_line).filter(|line| line.file == wanted);
    let here = |pid| if other_proc::is_other() { other_proc::number_here(pid) } else { pid };
    lines.map(|line| (line.waits, here(line.pid))).collect()
}

/// A flock line of `/proc/locks`.
struct LockLine<'a> {
    waits: bool,
    pid: Pid,
    file: &'a str,
}

/// `1: FLOCK ADVISORY WRITE 4242 fe:00:1234 0 EOF`, with `->` before FLOCK for one that waits.
fn parse_lock_line(line: &str) -> Option<LockLine<'_>> {
    let mut fields: Vec<&str> = line.split_whitespace().skip(1).collect();
    let waits = fields.first() == Some(&"->");
    fields.retain(|field| *field != "->");
    if fields.first() != Some(&"FLOCK") {
        return None;
    }
    Some(LockLine { waits, pid: Pid::from_raw(fields.get(3)?.parse().ok()?), file: fields.get(4)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails without `next.extend` in `walk`: then the grandchild is missing.
    #[test]
    fn a_walk_finds_what_a_look_through_all_finds() {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "sh -c 'sleep 60 & echo ready; wait' & wait"]).stdout(std::process::Stdio::piped());
        let mut shell = std::os::unix::process::CommandExt::process_group(&mut shell, 0).spawn().expect("a shell");
        let mut ready = [0; 6];
        shell.stdout.take().expect("a pipe").read_exact(&mut ready).expect("a word");
        let root = Pid::from_raw(shell.id() as i32);
        let walked = walk(root, &HashSet::new()).expect("a small tree that stays as it is");
        let seen = look_through_all(root, &HashSet::new());
        let _ = super::super::process::kill_group(root, libc::SIGKILL);
        let _ = shell.wait();
        let pids = |processes: &[Process]| processes.iter().map(|process| process.pid).collect::<HashSet<_>>();
        assert_eq!(walked.len(), 2, "{walked:?}");
        assert_eq!(pids(&walked), pids(&seen));
    }

    #[test]
    fn a_mount_point_with_blanks_is_read_as_it_is() {
        assert_eq!(unescaped(b"/a\\040b\\134c/d"), PathBuf::from("/a b\\c/d"));
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_is_one_name() {
        let line = "42 (a) b\x1b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2";
        let process = parse_stat(line).expect("a whole line");
        assert_eq!((process.pid, process.parent), (Pid::from_raw(42), Pid::from_raw(7)));
        assert_eq!(process.name, "a) b\\u{1b} (c");
        assert_eq!(process.started, 9876);
        assert!(!process.zombie);
    }
}
