//! Who is measured: the guard in its forms, what it replaces, its peers. Each is a prefix before the harness's command.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::proc;

/// Every process of a started contender carries this variable, with a value of its own, so that what it leaves behind can
/// be counted and killed.
const MARK: &str = "CCCI_BENCH_MARK";
const APP: &str = "benc-000000.ci.example.net";
const WHOLE: [&str; 7] = ["run", "--deadline", "2h", "--app", APP, "--teardown", "true"];
const IN_PLACE: [&str; 5] = ["exec", "--deadline", "2h", "--app", APP];

pub struct Bench {
    guard: PathBuf,
    /// Another build of it.
    other: Option<PathBuf>,
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
    pub fn new(guard: PathBuf, other: Option<PathBuf>) -> Self {
        // Locks live on a tmpfs (`/run/lock`); so do here all files of all contenders. `disk` is for the difference.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let disk = tempfile::tempdir().unwrap();
        for name in ["home", "locks", "runs", "state"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { guard, other, directory, disk }
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

    /// Compiles a program of this directory.
    ///
    /// # Panics
    /// When there is no C compiler, or it does not like it.
    pub fn compile(&self, source: &str, options: &[&str]) -> PathBuf {
        let program = self.path(source.trim_end_matches(".c"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench").join(source);
        let status = Command::new("cc").arg("-O2").args(options).arg("-o").arg(&program).arg(&source).status();
        assert!(status.is_ok_and(|status| status.success()), "cc can't compile {}", source.display());
        program
    }

    fn guarded(&self, build: &Path, name: &'static str, state: &Path, words: &[&str]) -> Contender {
        let (locks, runs) = (self.path("locks"), self.path("runs"));
        let mut contender = self.contender(
            name,
            build,
            &[&words[0], &"--lock-dir", &locks, &"--runs-dir", &runs, &"--state-dir", &state],
        );
        contender.prefix.extend(words[1..].iter().map(OsString::from));
        if words.contains(&"--app") {
            contender.lock = Some(locks.join(format!("cc-ci-app-{APP}.lock")));
        }
        contender.prefix.push("--".into());
        contender
    }

    /// The whole of it: lock, deadline, a teardown that is due after a stop.
    pub fn run(&self) -> Contender {
        self.guarded(&self.guard, "ccci-guard run", &self.path("state"), &WHOLE)
    }

    /// The same with the run's own files on a disk.
    pub fn run_on_disk(&self) -> Contender {
        self.guarded(&self.guard, "ccci-guard run, state on disk", self.disk.path(), &WHOLE)
    }

    /// With the lock, and nothing to do between the harness's end and the lock's.
    pub fn run_without_teardown(&self) -> Contender {
        let words = ["run", "--deadline", "2h", "--app", APP, "--teardown", "none"];
        self.guarded(&self.guard, "ccci-guard run, no teardown", &self.path("state"), &words)
    }

    /// Without `--app`: no lock, nothing to tear down.
    pub fn run_without_app(&self) -> Contender {
        self.guarded(&self.guard, "ccci-guard run, no --app", &self.path("state"), &["run", "--deadline", "2h"])
    }

    /// A deadline that is meant to pass.
    pub fn run_for(&self, deadline: &str) -> Contender {
        self.guarded(&self.guard, "ccci-guard run", &self.path("state"), &["run", "--deadline", deadline])
    }

    /// In place: the same checks, lock and deadline, no process that stays.
    pub fn exec(&self) -> Contender {
        self.guarded(&self.guard, "ccci-guard exec", &self.path("state"), &IN_PLACE)
    }

    /// The other build, if there is one: as [`Self::run`], and as [`Self::exec`].
    pub fn other_build(&self) -> Option<[Contender; 2]> {
        let (other, state) = (self.other.as_deref()?, self.path("state"));
        Some([
            self.guarded(other, "other build, run", &state, &WHOLE),
            self.guarded(other, "other build, exec", &state, &IN_PLACE),
        ])
    }

    /// The deadline alone, by timeout(1).
    pub fn timeout(&self, deadline: &str) -> Contender {
        self.contender("timeout", "timeout", &[&"-k", &"30", &deadline])
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

    /// The plain loop that a tree's end is measured against.
    pub fn kill_and_reap(&self) -> Contender {
        self.contender("C loop", self.compile("kill_and_reap.c", &[]), &[])
    }

    /// Init for containers.
    pub fn inits(&self) -> Vec<Contender> {
        let mut inits = Vec::new();
        inits.extend(installed("tini").then(|| self.contender("tini -s", "tini", &[&"-s", &"--"])));
        inits.extend(installed("dumb-init").then(|| self.contender("dumb-init", "dumb-init", &[])));
        inits
    }

    /// Those that do a part of it: init, a time limit, a lock that is taken before they become the command.
    pub fn small_tools(&self) -> Vec<Contender> {
        let (setlock, chpst) = (self.path("setlock.lock"), self.path("chpst.lock"));
        let mut tools = self.inits();
        tools.push(self.timeout("2h"));
        tools.extend(installed("setlock").then(|| self.contender("setlock", "setlock", &[&setlock])));
        tools.extend(installed("chpst").then(|| self.contender("chpst -l", "chpst", &[&"-l", &chpst])));
        tools
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
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
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
