//! The private Swarm as one test sees it: a sandbox, a zone that nobody else uses, and the `docker` command.

use crate::stack::Stack;
use crate::support::*;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Programs that must be found beside what a test puts into the sandbox's `bin`.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What a test of this suite stands on.
pub struct Swarm {
    /// Directories, environment, processes.
    pub sandbox: Sandbox,
    /// Run apps of this test are `XXXX-XXXXXX.ZONE`.
    pub zone: String,
    /// The image that the services run: busybox.
    pub image: String,
    docker_host: String,
}

impl Swarm {
    /// `None`, and said so, where `tests/swarm-up` has not started one: the host's own Docker is never touched.
    #[track_caller]
    pub fn there() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let found = variable("CCCI_SWARM_IMAGE").zip(variable("DOCKER_HOST"));
        if !need("a private Docker Swarm (tests/swarm-up COMMAND starts one)", found.is_some()) {
            return None;
        }
        let (image, docker_host) = found?;
        let zone = format!("z{:x}-{}.test", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let swarm = Self { sandbox: Sandbox::new(), zone, image, docker_host };
        let path = std::env::var_os("PATH")?;
        let docker = std::env::split_paths(&path).map(|dir| dir.join("docker")).find(|path| path.is_file());
        let docker = docker.expect("docker is in PATH");
        fs::create_dir(swarm.sandbox.path("bin")).unwrap();
        std::os::unix::fs::symlink(docker, swarm.sandbox.path("bin/docker")).unwrap();
        Some(swarm)
    }

    /// Name of a run app in this test's zone.
    pub fn app(&self, number: u32) -> String {
        format!("a{number}-{number:06x}.{}", self.zone)
    }

    /// A program that lies first in PATH of everything that this test starts.
    pub fn program(&self, name: &str, script: &str) {
        let path = self.sandbox.path("bin").join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The sandbox's `bin` and the system's directories: no abra but a test's own.
    pub fn search_path(&self) -> String {
        format!("{}:{SYSTEM_PATH}", self.sandbox.path("bin").display())
    }

    /// The same environment for a program that is no guard.
    pub fn command(&self, program: &str) -> std::process::Command {
        let mut command = self.sandbox.command(program);
        command.env("DOCKER_HOST", &self.docker_host).env("PATH", self.search_path());
        command
    }

    /// The guard, with this Swarm's Docker.
    pub fn on<'a>(&self, guard: Guard<'a>) -> Guard<'a> {
        guard.env("DOCKER_HOST", &self.docker_host).env("PATH", self.search_path())
    }

    /// A guarded run whose teardown is automatic, in this zone.
    pub fn guard(&self) -> Guard<'_> {
        self.on(self.sandbox.bare()).args(["--zone", &self.zone, "--teardown", "auto"])
    }

    /// `janitor --json` for this zone.
    pub fn janitor(&self) -> Guard<'_> {
        self.on(self.sandbox.plain()).args(["janitor", "--json", "--zone", &self.zone])
    }

    /// `reap APP --json` for this zone.
    pub fn reap(&self, app: &str) -> Guard<'_> {
        self.on(self.sandbox.plain()).args(["reap", app, "--json", "--zone", &self.zone])
    }

    /// `docker ARGS`: what it wrote, or what it said against it.
    pub fn try_docker(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command("docker").args(args).output().expect("docker can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// The same where it must succeed.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        self.try_docker(args).unwrap_or_else(|said| panic!("docker {args:?}: {said}"))
    }

    /// Deploys a stack of this app, and waits until its container runs.
    #[track_caller]
    pub fn deploy(&self, app: &str, file: &str) -> Stack<'_> {
        let stack = Stack::new(self, &app.replace('.', "_"));
        stack.deploy(file);
        stack.expect_running();
        stack
    }

    /// The names of lock files that are there.
    pub fn lock_files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.sandbox.lock_dir()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// A lock file that a run has left behind.
    pub fn leave_lock_file(&self, app: &str) {
        fs::write(self.sandbox.lock_path(app), "").unwrap();
    }
}

/// What `--json` printed.
#[track_caller]
pub fn report(output: &Output) -> Value {
    let text = output.text();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}; its stderr:\n{}", output.stderr))
}

/// `app verdict` of every app in a report, in order.
#[track_caller]
pub fn verdicts(output: &Output) -> Vec<(String, String)> {
    let word = |entry: &Value, key: &str| entry[key].as_str().expect("a string").to_owned();
    let apps = report(output)["apps"].as_array().expect("a list").clone();
    apps.iter().map(|entry| (word(entry, "app"), word(entry, "verdict"))).collect()
}

/// The only app of a report: its verdict and reason.
#[track_caller]
pub fn only(output: &Output) -> (String, String) {
    let report = report(output);
    let apps = report["apps"].as_array().expect("a list");
    assert_eq!(apps.len(), 1, "{report:#}");
    let word = |key: &str| apps[0][key].as_str().expect("a string").to_owned();
    (word("verdict"), word("why"))
}
