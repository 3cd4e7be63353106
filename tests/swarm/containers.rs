//! The guard inside a container: as its first process, and below the init that `docker run --init` puts there.
//!
//! The image has only a static busybox, so the program that is tested brings the host's loader and libraries along, mounted
//! read-only; the one that is shipped needs none. The sandbox is mounted at its own path: a container shares the host's
//! lock directory, as it must.

use crate::support::*;
use crate::swarm::Swarm;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Who is the first process: the guard, or Docker's own init.
const INITS: [bool; 2] = [false, true];

struct Container<'a> {
    swarm: &'a Swarm,
    name: String,
    run: Proc,
}

impl<'a> Container<'a> {
    /// `docker run` in the foreground: its output and status are the guard's.
    fn start(swarm: &'a Swarm, init: bool, options: &[&str], harness: &str) -> Self {
        let name = format!("{}-{init}", swarm.zone);
        let mut command = swarm.command("docker");
        command.args(["run", "--rm", "--network", "none", "--name", &name]);
        if init {
            command.arg("--init");
        }
        let sandbox = swarm.sandbox.path("").display().to_string();
        let sandbox = sandbox.trim_end_matches('/');
        for (from, to) in [(sandbox, sandbox), (GUARD, "/bin/ccci-guard"), ("/lib", "/lib"), ("/lib64", "/lib64")] {
            if Path::new(from).exists() {
                command.arg("--volume").arg(format!("{from}:{to}{}", if from == sandbox { "" } else { ":ro" }));
            }
        }
        for name in ["CCCI_APP_LOCK_DIR", "CCCI_STATE_DIR", "CCCI_RUNS_DIR"] {
            command.args(["--env", name]);
        }
        command.args([&swarm.image, "ccci-guard", "--report"]).arg(swarm.sandbox.path("report.json"));
        let teardown = format!("echo \"$CCCI_TEARDOWN_APP $CCCI_TEARDOWN_CAUSE\" >>{sandbox}/torn-down");
        command.args(["--app", APP, "--teardown", &teardown]).args(options).args(["--", "sh", "-c", harness]);
        Self { swarm, run: swarm.sandbox.spawn(command), name }
    }

    /// A `docker` command for it.
    fn docker(&self, words: &[&str], more: &[&str]) -> String {
        self.swarm.docker(&[words, &[&self.name], more].concat())
    }

    #[track_caller]
    fn expect(&mut self, code: i32, torn_down_because: Option<&str>) {
        self.run.expect_code(code);
        let torn_down = std::fs::read_to_string(self.swarm.sandbox.path("torn-down")).unwrap_or_default();
        let expected = torn_down_because.map(|cause| format!("{APP} {cause}\n")).unwrap_or_default();
        assert_eq!(torn_down, expected, "{}", self.run.stderr());
        assert!(self.swarm.sandbox.lock_is_free(), "the lock");
        assert_eq!(self.swarm.sandbox.report()["exit_code"], code);
    }
}

fn each(test: impl Fn(&Swarm, bool)) {
    let there = |program| Command::new(program).arg("--version").output().is_ok();
    for init in INITS {
        let Some(swarm) = Swarm::there() else { return };
        if !init || need("docker-init", there("docker-init")) {
            test(&swarm, init);
        }
    }
}

/// Its status is the container's, and survivors are ended by it, not by the end of the container.
/// Fails when a parent with number 0, or a guard that is pid 1, is refused.
#[test]
fn the_harness_s_status_is_the_container_s() {
    each(|swarm, init| {
        let mut container = Container::start(swarm, init, &[], "sleep 600 & exit 7");
        container.expect(7, None);
        assert_eq!(swarm.sandbox.report()["survivors_killed"], 1, "{init}");
    });
}

/// `docker stop` is a SIGTERM to the first process, which ignores it where it has no handler (pid_namespaces(7)).
/// Fails with a monitor that has no handler for SIGTERM: Docker kills the container after its 60 s.
#[test]
fn docker_stop_is_a_request() {
    each(|swarm, init| {
        let trap = "trap 'echo got TERM; exit 0' TERM; echo ready; sleep 600 & wait";
        let mut container = Container::start(swarm, init, &[], trap);
        container.run.ready();
        container.docker(&["stop", "--time", "60"], &[]);
        container.expect(143, Some("signal"));
        assert!(container.run.stdout().contains("got TERM"), "{init}: {}", container.run.stdout());
    });
}

/// Fails with a deadline kept by nobody but the caller.
#[test]
fn a_deadline_ends_it() {
    each(|swarm, init| {
        let mut container = Container::start(swarm, init, &["--deadline", "1s", "--grace", "200ms"], "sleep 600");
        container.expect(142, Some("deadline"));
    });
}

/// As pid 1 the monitor adopts the tree by itself; below an init it must be a subreaper for that.
/// Fails with a monitor that ends with its supervisor.
#[test]
fn the_supervisor_is_killed() {
    each(|swarm, init| {
        let mut container = Container::start(swarm, init, &["--grace", "1s"], "echo ready $PPID; sleep 600");
        let supervisor = container.run.ready_pid().to_string();
        container.docker(&["exec"], &["busybox", "kill", "-9", &supervisor]);
        container.expect(137, Some("supervisor-gone"));
        assert_eq!(swarm.sandbox.report()["takeover"], true, "{init}");
    });
}

/// `docker kill` ends all of it at once, as a power cut does: nothing is torn down, and the lock is free. To the host's
/// janitor the run is live before, and nobody's after.
/// Fails with a lock in the container's own file system.
#[test]
fn docker_kill_leaves_it_to_the_janitor() {
    each(|swarm, init| {
        let apps = Apps::new(&swarm.sandbox);
        apps.add(APP);
        let mut container = Container::start(swarm, init, &[], "echo ready; sleep 600");
        container.run.ready();
        let out = apps.janitor().output();
        assert!(out.text().starts_with(&format!("{APP}  live  ")), "{init}: {} {}", out.text(), out.stderr);
        container.docker(&["kill"], &[]);
        assert_eq!(container.run.wait(SOON * 3).code, 128 + Signal::SIGKILL as i32);
        eventually(SOON, "the lock", || held(&swarm.sandbox.lock_path(APP)));
        assert!(!swarm.sandbox.path("torn-down").exists());
        let out = apps.janitor().output();
        assert!(out.text().starts_with(&format!("{APP}  reaped  ")), "{init}: {} {}", out.text(), out.stderr);
        within("the round", out.exit.after, ..Duration::from_secs(20));
    });
}
