//! A "host": a sandbox with its own lock directory, and guards that use one etcd. And what tells, without any of our
//! locks, whether two harnesses of one app are alive at a time.

use crate::server::Etcd;
use crate::support::*;
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// One host.
pub struct Host {
    /// Directories, environment, processes.
    pub sandbox: Sandbox,
    endpoints: String,
}

impl Host {
    /// One whose guards use this etcd.
    pub fn on(etcd: &Etcd) -> Self {
        Host { sandbox: Sandbox::new(), endpoints: etcd.endpoints() }
    }

    /// Any command line of the guard.
    pub fn plain(&self) -> Guard<'_> {
        self.etcd(self.sandbox.plain())
    }

    /// A run of an app, without a teardown, whose lease lasts for `ttl`.
    pub fn run(&self, app: &str, ttl: &str) -> Guard<'_> {
        self.guard(ttl).args(["--app", app, "--teardown", "none"])
    }

    /// A run.
    pub fn guard(&self, ttl: &str) -> Guard<'_> {
        self.etcd(self.sandbox.run()).args(["--lease-ttl", ttl])
    }

    /// Any guard of this host, with etcd.
    pub fn etcd<'a>(&self, guard: Guard<'a>) -> Guard<'a> {
        guard.env("CCCI_LOCK_BACKEND", "etcd").env("CCCI_ETCD_ENDPOINTS", &self.endpoints)
    }
}

/// Finds two harnesses of one app that are alive at a time: each has a file locked for as long as it, or anything that
/// it started, lives. It knows nothing of the guard's locks.
pub struct Detector(TempDir);

impl Detector {
    /// A new one.
    pub fn new() -> Self {
        Detector(tempfile::tempdir().expect("a temporary directory"))
    }

    fn faults(&self) -> PathBuf {
        self.0.path().join("faults")
    }

    /// A shell script for a harness of this app: says `ready` once it is seen, then does `then`. A trap that it begins with
    /// is set before that word.
    pub fn harness(&self, app: &str, then: &str) -> String {
        let trap = then.split_once("; ").filter(|(first, _)| first.starts_with("trap "));
        let (trap, then) = trap.unwrap_or(("true", then));
        let (alive, faults) = (self.alive(app), self.faults());
        let (alive, faults) = (alive.display(), faults.display());
        format!(
            "{trap}; exec 9>'{alive}'; flock -n 9 || echo 'two harnesses of {app}' >>'{faults}'; \
             echo \"ready $$ ${{CCCI_APP_LOCK_TOKEN:-none}}\"; {then}"
        )
    }

    fn alive(&self, app: &str) -> PathBuf {
        self.0.path().join(app)
    }

    /// Nobody has ever met another.
    #[track_caller]
    pub fn expect_no_fault(&self) {
        assert_eq!(fs::read_to_string(self.faults()).unwrap_or_default(), "");
    }
}

/// Waits for the harness's word: its pid and token.
#[track_caller]
pub fn ready(run: &Proc) -> (Pid, i64) {
    let words = run.expect_line("ready");
    let mut words = words.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok()).expect("a pid");
    (Pid::from_raw(pid), words.next().and_then(|word| word.parse().ok()).unwrap_or(-1))
}

/// The keepers that are children of this process.
pub fn keepers(parent: Pid) -> Vec<Pid> {
    let name =
        |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ccci-keeper");
    children(parent).into_iter().map(|process| process.pid).filter(name).collect()
}

/// Does this process live?
pub fn lives(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && alive(pid)
}
