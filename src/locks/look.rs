//! Looking: lock files, `/proc/locks`, and who has what open. [`State`] is what follows from it.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use serde::Serialize;

use crate::app::AppName;
use crate::cluster;
use crate::error::Error;
use crate::lock::holder::{self, HolderLine};
use crate::lock::path;
use crate::sys::open_files::OpenFiles;
use crate::sys::process::Pid;
use crate::sys::procfs::{self, FileId, LockTable};

/// The name of the guard's processes.
const GUARD: &str = "ccci-guard";

/// What there is to say of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has it.
    Free,
    /// Somebody has it.
    Held,
    /// Its run is dead, something that the run started has it.
    Leaked,
    /// Somebody has it, or may have it, that can't be seen from here.
    Invisible,
    /// Its file was removed or replaced under a process that still has it.
    Replaced,
}

/// One lock.
#[derive(Debug)]
pub struct Lock {
    /// The app.
    pub app: AppName,
    /// Its lock file.
    pub path: PathBuf,
    /// It is there.
    pub has_file: bool,
    /// What there is to say of it.
    pub state: State,
    /// Since when it is held: the file's modification time.
    pub held_for: Option<Duration>,
    /// The line of who took it.
    pub recorded: Option<HolderLine>,
    /// Every process that shares the lock.
    pub holders: Vec<Seen>,
    /// Every process that waits for it.
    pub waiters: Vec<Seen>,
    /// Who holds it in the cluster, on whatever host.
    pub cluster: Option<cluster::Seen>,
}

impl Lock {
    /// One without a file.
    fn free(app: AppName, path: PathBuf) -> Self {
        Lock {
            app,
            path,
            has_file: false,
            state: State::Free,
            held_for: None,
            recorded: None,
            holders: Vec::new(),
            waiters: Vec::new(),
            cluster: None,
        }
    }
}

/// A process.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Look {
    /// The locks, by name.
    pub locks: Vec<Lock>,
    /// Lock files that we may not read.
    unreadable: usize,
    /// Processes that we may not look at: any of them may hold a lock, or a removed file of one.
    unseen: usize,
    /// We are in a pid namespace of our own: `/proc/locks` shows only its locks.
    own_pid_namespace: bool,
}

/// A lock file that is there.
struct LockFile {
    id: FileId,
    modified: Option<SystemTime>,
    line: Option<HolderLine>,
}

impl Look {
    /// Looks at all locks of a directory, or at those of these apps, whether they have a file or not.
    ///
    /// # Errors
    /// The directory or `/proc` can't be read.
    pub fn at(directory: &Path, apps: &[AppName]) -> Result<Self, Error> {
        let namespace = procfs::pid_namespace().filter(|namespace| *namespace != procfs::FIRST_PID_NAMESPACE);
        let mut look = Look { own_pid_namespace: namespace.is_some(), ..Look::default() };
        let mut files = HashMap::new();
        for app in look.names(directory, apps)? {
            let path = path::of(directory, &app);
            let file =
                look.read(&path).map_err(|error| Error::File { what: "cannot look at the lock file", path, error })?;
            files.insert(app, file);
        }
        let table = LockTable::try_read().map_err(no_proc)?;
        let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let device = real.metadata().map_or(0, |directory| directory.dev());
        let locked: HashSet<FileId> =
            files.values().flatten().map(|file| file.id).filter(|id| table.is_held(*id)).collect();
        // Without a lock in sight there is nobody to look for but holders of removed files.
        let open = OpenFiles::look(&locked, &real, device).map_err(no_proc)?;
        for (app, file) in files {
            let lock = judge(&table, &open, &real, path::of(directory, &app), app, file, namespace);
            look.locks.push(lock);
        }
        if apps.is_empty() {
            look.add_removed(directory, &real, &open);
        }
        look.locks.sort_by(|a, b| a.app.cmp(&b.app));
        look.unseen = open.unseen;
        Ok(look)
    }

    fn names(&self, directory: &Path, apps: &[AppName]) -> Result<Vec<AppName>, Error> {
        if !apps.is_empty() {
            return Ok(apps.to_vec());
        }
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(Error::File { what: "cannot read the lock directory", path: directory.to_owned(), error });
            }
        };
        let names = entries.flatten().filter_map(|entry| path::app_of(&entry.file_name()));
        Ok(names.filter_map(|name| AppName::parse(&name).ok()).collect())
    }

    fn read(&mut self, path: &Path) -> io::Result<Option<LockFile>> {
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        if !metadata.is_file() {
            let path = path.display();
            tracing::warn!(event = "no-lock-file", "'{path}' is no lock file: a run of this app is refused");
            return Ok(None);
        }
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened: io::Result<File> = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
        self.unreadable += usize::from(opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied));
        Ok(Some(LockFile {
            id: FileId { device: metadata.dev(), inode: metadata.ino() },
            modified: metadata.modified().ok(),
            line: opened.ok().and_then(|file| holder::read_line(&file)),
        }))
    }

    /// Locks whose file is gone altogether.
    fn add_removed(&mut self, directory: &Path, real: &Path, open: &OpenFiles) {
        for (removed, ..) in &open.removed {
            let name = removed.file_name().and_then(path::app_of);
            let app = name.and_then(|name| AppName::parse(&name).ok());
            let Some(app) = app.filter(|app| self.locks.iter().all(|lock| lock.app != *app)) else { continue };
            let holders = holders_of_removed(open, real, &app);
            if !holders.is_empty() {
                let path = path::of(directory, &app);
                self.locks.push(Lock { state: State::Replaced, holders, ..Lock::free(app, path) });
            }
        }
    }

    /// Adds what etcd knows: an app that is held on another host is held, whatever its lock file here says.
    pub fn add_cluster(&mut self, directory: &Path, seen: Vec<cluster::Seen>) {
        for seen in seen {
            let Ok(app) = AppName::parse(&seen.app) else { continue };
            let at = self.locks.iter().position(|lock| lock.app == app).unwrap_or_else(|| {
                let path = path::of(directory, &app);
                self.locks.push(Lock::free(app, path));
                self.locks.len() - 1
            });
            let lock = &mut self.locks[at];
            if lock.state == State::Free {
                lock.state = State::Held;
            }
            lock.cluster = Some(seen);
        }
        self.locks.sort_by(|a, b| a.app.cmp(&b.app));
    }

    /// Says on stderr what a reader of the list should know that is not in it.
    pub fn say_what_is_unseen(&self) {
        if self.own_pid_namespace {
            tracing::warn!(
                event = "locks-unseen",
                "this is not the host's pid namespace: locks of processes outside of it can't be seen from here"
            );
        }
        if self.unreadable > 0 {
            let (count, s) = (self.unreadable, if self.unreadable == 1 { "" } else { "s" });
            tracing::warn!(
                event = "locks-unseen",
                "{count} lock file{s} can't be read: run it as root to see who took them"
            );
        }
        if self.unseen > 0 {
            let (count, es) = (self.unseen, if self.unseen == 1 { "" } else { "es" });
            tracing::warn!(
                event = "locks-unseen",
                "{count} process{es} can't be looked at: run it as root to see who holds"
            );
        }
    }
}

fn no_proc(error: io::Error) -> Error {
    Error::System { what: "cannot tell who holds what without /proc", error }
}

fn judge(
    table: &LockTable,
    open: &OpenFiles,
    real: &Path,
    path: PathBuf,
    app: AppName,
    file: Option<LockFile>,
    namespace: Option<u64>,
) -> Lock {
    let removed = holders_of_removed(open, real, &app);
    let Some(file) = file else {
        let state = if removed.is_empty() { State::Free } else { State::Replaced };
        return Lock { state, holders: removed, ..Lock::free(app, path) };
    };
    let users = open.users.get(&file.id).map(Vec::as_slice).unwrap_or_default();
    let holders = seen(users.iter().filter(|(pid, fd)| shares(*pid, *fd)).map(|(pid, _)| *pid));
    // A holder that let go since the table was read is none, and not one that can't be seen.
    let locked = table.is_held(file.id) && (!holders.is_empty() || procfs::is_flocked(file.id));
    // The line of somebody else than who took the lock tells of the past: not every holder writes one.
    let taker = table.taker(file.id).map(Pid::as_raw);
    // Whoever took it last may have it where we can't see it.
    let taken_in = file.line.as_ref().and_then(|line| line.pid_ns);
    let may_be_elsewhere = namespace.is_some() && taken_in.is_some() && taken_in != namespace;
    let recorded = file.line.filter(|line| taker.is_none_or(|pid| pid == line.pid));
    // A guard that shares it is at work, whoever took it.
    let at_work = |line: &HolderLine| holders.iter().any(|seen| seen.pid == line.pid || seen.comm == GUARD);
    let recorded_lives = recorded.as_ref().is_none_or(at_work);
    let state = if !removed.is_empty() {
        State::Replaced
    } else {
        state_of(locked, !holders.is_empty(), recorded_lives, may_be_elsewhere)
    };
    let is_held = matches!(state, State::Held | State::Leaked | State::Invisible) && locked;
    Lock {
        app,
        path,
        has_file: true,
        state,
        held_for: file.modified.filter(|_| is_held).and_then(|since| SystemTime::now().duration_since(since).ok()),
        recorded,
        holders: if removed.is_empty() { holders } else { removed },
        waiters: seen(table.waiters(file.id).iter().copied()),
        cluster: None,
    }
}

/// `recorded_lives`: whoever the line names shares the lock, or nobody is named. `may_be_elsewhere`: it was taken in
/// another pid namespace, whose processes don't show in ours.
fn state_of(locked: bool, has_holders: bool, recorded_lives: bool, may_be_elsewhere: bool) -> State {
    match (locked, has_holders, recorded_lives) {
        (true, true, true) => State::Held,
        (true, true, false) => State::Leaked,
        (true, false, _) => State::Invisible,
        (false, ..) if may_be_elsewhere => State::Invisible,
        (false, ..) => State::Free,
    }
}

fn holders_of_removed(open: &OpenFiles, real: &Path, app: &AppName) -> Vec<Seen> {
    let path = path::of(real, app);
    let of_app = open.removed.iter().filter(|(removed, ..)| *removed == path);
    seen(of_app.filter(|(_, _, pid, fd)| shares(*pid, *fd)).map(|(_, _, pid, _)| *pid))
}

fn shares(pid: Pid, fd: i32) -> bool {
    procfs::shows_flock(&pid.to_string(), fd) == Some(true)
}

/// Each process once.
fn seen(pids: impl Iterator<Item = Pid>) -> Vec<Seen> {
    let mut found: Vec<Seen> = Vec::new();
    for pid in pids {
        if !found.iter().any(|seen| seen.pid == pid.as_raw()) {
            let comm = procfs::process(pid).map(|process| process.name).unwrap_or_default();
            found.push(Seen { pid: pid.as_raw(), comm });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_what_is_seen() {
        for ((held, has_holders, recorded_lives, may_be_elsewhere), state) in [
            ((false, false, true, false), State::Free),
            ((false, false, false, false), State::Free),
            ((false, false, false, true), State::Invisible),
            ((true, true, true, false), State::Held),
            ((true, true, true, true), State::Held),
            ((true, true, false, false), State::Leaked),
            ((true, false, false, false), State::Invisible),
        ] {
            assert_eq!(state_of(held, has_holders, recorded_lives, may_be_elsewhere), state, "{held} {has_holders}");
        }
    }
}
