//! What is done to a process, or to a disk that it writes to.

use super::stage::Stage;
use crate::support::limit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    StopThenContinue,
    Terminate,
    /// Not one more descriptor, and poll(2) takes none: RLIMIT_NOFILE 0.
    NoDescriptors,
    /// RLIMIT_NPROC 0, which root would not be held by: as a plain user.
    NoFork,
    /// Not one more page: RLIMIT_AS 0.
    NoMemory,
    /// The disk with the lock files has no room and no inode left.
    FullLockFile,
    FullLog,
    FullReport,
    FullState,
}

use Fault::*;

impl Fault {
    /// The directory that is a small disk of its own in this cell.
    pub fn disk(self) -> Option<&'static str> {
        match self {
            FullLockFile => Some("locks"),
            FullLog => Some("logs"),
            FullReport => Some("reports"),
            FullState => Some("state"),
            _ => None,
        }
    }

    pub fn strike(self, victim: Pid, stage: &Stage) {
        match self {
            Kill => kill(victim, Signal::SIGKILL).unwrap(),
            StopThenContinue => kill(victim, Signal::SIGSTOP).unwrap(),
            Terminate => kill(victim, Signal::SIGTERM).unwrap(),
            NoDescriptors => limit(victim, "--nofile=0:0"),
            NoFork => limit(victim, "--nproc=0:0"),
            NoMemory => limit(victim, "--as=0:0"),
            FullLockFile | FullLog | FullReport | FullState => fill(stage),
        }
    }
}

/// For `eventually`: SIGTERM was delivered to this guard process, and it sleeps again (or is gone). From the delivery, which
/// wakes it, until it has done what it had to, it is runnable.
pub fn has_taken_note(pid: Pid) -> Result<(), String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
    let pending = u64::from_str_radix(field("ShdPnd:"), 16).unwrap_or(0);
    let is_pending = pending & 1 << (Signal::SIGTERM as u32 - 1) != 0;
    if !is_pending && !field("State:").starts_with('R') { Ok(()) } else { Err(status) }
}

/// Until there is neither room for a byte nor for a name.
fn fill(stage: &Stage) {
    let disk = stage.disk();
    let mut bytes = fs::File::create(disk.join("filler")).unwrap();
    while bytes.write_all(&[0; 512]).is_ok() {}
    while bytes.write_all(&[0]).is_ok() {}
    let mut n = 0;
    while fs::File::create(disk.join(format!("filler{n}"))).is_ok() {
        n += 1;
    }
}
