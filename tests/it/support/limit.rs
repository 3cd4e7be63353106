//! Resource limits of a living process, lowered under it.

use nix::unistd::{Pid, geteuid};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

/// Sets a limit as prlimit(1) spells it: `--nofile=0:0`.
#[track_caller]
pub fn limit(pid: Pid, what: &str) {
    let mut prlimit = Command::new("prlimit");
    if fs::metadata(format!("/proc/{pid}")).unwrap().uid() != geteuid().as_raw() {
        // Root in a container lacks CAP_SYS_RESOURCE; the owner needs none.
        prlimit = Command::new("setpriv");
        prlimit.args(["--reuid=65534", "--regid=65534", "--clear-groups", "prlimit"]);
    }
    let set = prlimit.arg(format!("--pid={pid}")).arg(what).status();
    assert!(set.is_ok_and(|status| status.success()), "prlimit {what} for {pid}");
}
