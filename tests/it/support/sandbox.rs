//! A place of its own for one test: directories, a hermetic environment, a mark, and a clean end.

use super::guard::{Form, Guard};
use super::processes::{MARK, Process, kill_marked, marked};
use super::{APP, FIXTURE, GUARD, Proc, SOON, Teardown, eventually, lock_is_free};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// Temporary directories and the mark; on drop everything that carries the mark is killed.
pub struct Sandbox {
    dir: TempDir,
    mark: String,
    next: AtomicU32,
}

impl Sandbox {
    /// Makes one with `locks/`, `runs/`, `state/`, `home/` and `work/` in it.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("ccci-it-").tempdir().expect("a temporary directory");
        for name in ["locks", "runs", "state", "home", "work"] {
            fs::create_dir(dir.path().join(name)).expect("a directory in the sandbox");
        }
        // Pids come again; the time keeps a crashed test run's leftovers out of this one's count.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let mark = format!("{}-{now}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { dir, mark, next: AtomicU32::new(0) }
    }

    /// The sandbox itself, or a path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `CCCI_APP_LOCK_DIR` of every guard started here.
    pub fn lock_dir(&self) -> PathBuf {
        self.path("locks")
    }

    /// `CCCI_RUNS_DIR`.
    pub fn runs_dir(&self) -> PathBuf {
        self.path("runs")
    }

    /// `CCCI_STATE_DIR`.
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The lock file of an app.
    pub fn lock_path(&self, app: &str) -> PathBuf {
        self.lock_dir().join(format!("cc-ci-app-{app}.lock"))
    }

    /// Could a stranger take the default app's lock now?
    pub fn lock_is_free(&self) -> bool {
        lock_is_free(&self.lock_path(APP))
    }

    /// `ccci-guard OPTIONS -- COMMAND`.
    pub fn bare(&self) -> Guard<'_> {
        Guard::new(self, Form::Bare)
    }

    /// `ccci-guard run OPTIONS -- COMMAND`.
    pub fn run(&self) -> Guard<'_> {
        Guard::new(self, Form::Run)
    }

    /// `ccci-guard exec OPTIONS -- COMMAND`.
    pub fn exec(&self) -> Guard<'_> {
        Guard::new(self, Form::Exec)
    }

    /// `ccci-guard ARGUMENTS`, just as given.
    pub fn plain(&self) -> Guard<'_> {
        Guard::new(self, Form::Plain)
    }

    /// A teardown that leaves a trace in `teardown.log`, and its checks.
    pub fn teardown(&self) -> Teardown {
        self.teardown_in("teardown.log")
    }

    /// The same with a file of its own, for a second guard or app.
    pub fn teardown_in(&self, log: &str) -> Teardown {
        Teardown::new(self.path(log), self.lock_path(APP))
    }

    /// Any program in the hermetic environment: nothing of the caller but PATH; `$G` is the guard, `$F` the fixture.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("LANG", "C.UTF-8").env("HOME", self.path("home")).env("USER", "tester");
        command.env("G", GUARD).env("F", FIXTURE);
        command.env("CCCI_APP_LOCK_DIR", self.lock_dir()).env("CCCI_RUNS_DIR", self.runs_dir());
        command.env("CCCI_STATE_DIR", self.state_dir());
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        command.env(MARK, format!("{}.{n}.", self.mark));
        command.current_dir(self.path("work"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts what `command` made; its whole tree ends with the returned value.
    #[track_caller]
    pub fn spawn(&self, command: Command) -> Proc {
        Proc::spawn(command)
    }

    /// `sh -c SCRIPT` in the hermetic environment.
    #[track_caller]
    pub fn shell(&self, script: &str) -> Proc {
        let mut command = self.command("/bin/sh");
        command.arg("-c").arg(script);
        self.spawn(command)
    }

    /// What `Guard::report` asked for; waits for it.
    #[track_caller]
    pub fn report(&self) -> serde_json::Value {
        let path = self.path("report.json");
        eventually(SOON, "the report", || {
            let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
            serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
        })
    }

    /// Every living process that this sandbox caused.
    pub fn left(&self) -> Vec<Process> {
        marked(&format!("{}.", self.mark))
    }

    /// For `eventually`: nothing is left, or who is.
    pub fn nothing_left(&self) -> Result<(), String> {
        let left = self.left();
        if left.is_empty() { Ok(()) } else { Err(names(&left)) }
    }

    /// The end of a run: once the guard has returned its lock is free and nothing of the run is left (the
    /// guard's own processes have a second for their last step).
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        assert!(self.lock_is_free(), "the guard has returned, its lock is held");
        let own: Vec<_> = self.left().into_iter().filter(|p| !p.is_guard()).collect();
        assert!(own.is_empty(), "left behind: {}", names(&own));
        eventually(Duration::from_secs(1), "end of the guard's own processes", || self.nothing_left());
    }

    /// Waits until one process alone is left.
    #[track_caller]
    pub fn expect_only_left(&self, pid: Pid) {
        eventually(SOON, &format!("only {pid} left"), || {
            let left = self.left();
            if left.iter().all(|p| p.pid == pid) { Ok(()) } else { Err(names(&left)) }
        });
    }

    /// The same where the guard is not ours to wait for: over, lock free and nothing left within `limit`.
    #[track_caller]
    pub fn expect_over(&self, limit: Duration) {
        eventually(limit, "end of the run", || {
            self.nothing_left()?;
            if self.lock_is_free() { Ok(()) } else { Err("the lock is held".to_owned()) }
        });
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        kill_marked(&format!("{}.", self.mark));
    }
}

fn names(processes: &[Process]) -> String {
    processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
