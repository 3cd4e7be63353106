//! Who is measured: the guard in its forms, what it replaces, its peers. Each is a prefix before the harness's command.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::proc;

/// Every process of a contender carries this variable, so that what it leaves behind can be counted and killed.
const MARK: &str = "CCCI_BENCH_MARK";
const APP: &str = "benc-000000.ci.example.net";

pub struct Bench {
    guard: PathBuf,
    directory: TempDir,
    disk: TempDir,
}

/// A prefix, and the lock file that it takes, if it takes one.
pub struct Contender {
    pub name: &'static str,
    prefix: Vec<OsString>,
    pub lock: Option<PathBuf>,
    home: PathBuf,
}

/// A started contender; dropping it ends it and everything it left.
pub struct Running {
    pub child: Child,
    pub mark: String,
}

impl Bench {
    pub fn new(guard: PathBuf) -> Self {
        // Locks live on a tmpfs (`/run/lock`); so do here all files of all contenders. `disk` is for the difference.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let disk = tempfile::tempdir().unwrap();
        for name in ["home", "locks", "runs", "state"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { guard, directory, disk }
    }

    fn contender(&self, name: &'static str, program: impl AsRef<OsStr>, arguments: &[&dyn AsRef<OsStr>]) -> Contender {
        let mut prefix = vec![program.as_ref().to_owned()];
        prefix.extend(arguments.iter().map(|argument| (*argument).as_ref().to_owned()));
        Contender { name, prefix, lock: None, home: self.path("home") }
    }

    /// The program that is measured.
    pub fn guard(&self) -> &Path {
        &self.guard
    }

    /// A place on the tmpfs that goes away with this.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// No prefix: the command alone.
    pub fn bare(&self) -> Contender {
        Contender { name: "bare exec", prefix: Vec::new(), lock: None, home: self.path("home") }
    }

    fn guarded(&self, name: &'static str, form: &str, state: &Path, options: &[&str]) -> Contender {
        let (locks, runs) = (self.path("locks"), self.path("runs"));
        let mut contender = self.contender(
            name,
            &self.guard,
            &[&form, &"--lock-dir", &locks, &"--runs-dir", &runs, &"--state-dir", &state, &"--deadline", &"2h"],
        );
        contender.prefix.extend(options.iter().map(OsString::from));
        if options.contains(&"--app") {
            contender.lock = Some(locks.join(format!("cc-ci-app-{APP}.lock")));
        }
        contender.prefix.push("--".into());
        contender
    }

    /// The whole of it: lock, deadline, a teardown that is due after a stop.
    pub fn run(&self) -> Contender {
        self.guarded("ccci-guard run", "run", &self.path("state"), &["--app", APP, "--teardown", "true"])
    }

    /// The same with the run's own files on a disk.
    pub fn run_on_disk(&self) -> Contender {
        self.guarded("ccci-guard run, state on disk", "run", self.disk.path(), &["--app", APP, "--teardown", "true"])
    }

    /// Without `--app`: no lock, nothing to tear down.
    pub fn run_without_app(&self) -> Contender {
        self.guarded("ccci-guard run, no --app", "run", &self.path("state"), &[])
    }

    /// In place: the same checks, lock and deadline, no process that stays.
    pub fn exec(&self) -> Contender {
        self.guarded("ccci-guard exec", "exec", &self.path("state"), &["--app", APP])
    }

    /// What a shell line can do of the same.
    pub fn composition(&self) -> Contender {
        let lock = self.path("composition.lock");
        let rest: &[&dyn AsRef<OsStr>] =
            &[&lock, &"setsid", &"-w", &"setpriv", &"--pdeathsig", &"TERM", &"timeout", &"-k", &"30", &"2h"];
        let mut contender = self.contender("flock setsid setpriv timeout", "flock", rest);
        contender.lock = Some(lock);
        contender
    }

    /// What a Python program does of the same (peer.py).
    pub fn python(&self) -> Contender {
        let lock = self.path("python.lock");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/peer.py");
        let mut contender = self.contender("Python equivalent", python(), &[&script, &lock, &"7200"]);
        contender.lock = Some(lock);
        contender
    }

    pub fn tini(&self) -> Option<Contender> {
        installed("tini").then(|| self.contender("tini -s", "tini", &[&"-s", &"--"]))
    }

    pub fn dumb_init(&self) -> Option<Contender> {
        installed("dumb-init").then(|| self.contender("dumb-init", "dumb-init", &[]))
    }
}

impl Contender {
    /// The command line that runs `harness` under this contender, with a small environment that is the same for all.
    pub fn command(&self, harness: &[&str]) -> Command {
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain(harness.iter().map(OsStr::new));
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts it in a process group of its own and remembers a mark for it.
    pub fn start(&self, harness: &[&str]) -> Running {
        self.start_with(harness, Stdio::null())
    }

    /// The same, with the harness's stdout in a pipe.
    pub fn start_piped(&self, harness: &[&str]) -> Running {
        self.start_with(harness, Stdio::piped())
    }

    fn start_with(&self, harness: &[&str], stdout: Stdio) -> Running {
        let mark = format!("{}-{}", std::process::id(), self.name.replace(' ', "-"));
        let mut command = self.command(harness);
        command.env(MARK, &mark).stdout(stdout).stderr(Stdio::null()).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        Running { child, mark: format!("{MARK}={mark}") }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The harness, once it runs: the process below ours with this name.
    pub fn harness(&self, name: &str) -> u32 {
        proc::eventually("the harness runs", || proc::tree(self.pid()).into_iter().find(|&pid| proc::name(pid) == name))
    }

    /// The processes that stay beside the harness while it runs.
    pub fn resident(&self, harness: &str) -> Vec<u32> {
        self.harness(harness);
        let mut tree = proc::tree(self.pid());
        tree.retain(|&pid| proc::name(pid) != harness);
        tree
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Again until none is left: one may fork while the list is read.
        proc::eventually("everything of this contender is gone", || {
            let marked = proc::marked(&self.mark);
            for &pid in &marked {
                kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = self.child.try_wait();
            marked.is_empty().then_some(())
        });
        let _ = self.child.wait();
    }
}

/// Sends a signal; a process that is gone already is fine.
pub fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

fn installed(program: &str) -> bool {
    let found =
        ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|directory| Path::new(directory).join(program).exists());
    if !found {
        eprintln!("skip: {program} is not installed");
    }
    found
}

/// The interpreter itself, not a version manager's wrapper script, which would cost more than the interpreter.
fn python() -> PathBuf {
    let system = Path::new("/usr/bin/python3");
    if system.exists() {
        return system.to_owned();
    }
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
