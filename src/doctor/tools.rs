//! The programs that runs and the janitor call: are they there, and do they answer?

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{self, Answer, Question};
use crate::doctor::Check;
use crate::error::Error;
use crate::harness;
use crate::settings::{self, DoctorSettings, ProgramName};
use crate::sys::process::Ended;
use crate::sys::signal::{Delivery, Inherited};
use crate::sys::time;
use crate::teardown::runner::{Command, End, Output, Runner};

/// A program that takes longer to answer hangs.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// The unit of docs/deploy.
const TIMER: &str = "ccci-guard-janitor.timer";

/// Calls the programs.
pub struct Tools<'a> {
    settings: &'a DoctorSettings,
    runner: Runner<'a>,
    abra: Option<PathBuf>,
    docker: Option<PathBuf>,
    docker_answers: bool,
    /// Somebody asked this process to stop, by this signal.
    pub asked: Option<i32>,
}

impl<'a> Tools<'a> {
    /// Finds them.
    ///
    /// # Errors
    /// The kernel has no timer for us.
    pub fn new(settings: &'a DoctorSettings, delivery: &'a Delivery, inherited: &'a Inherited) -> Result<Self, Error> {
        let mut runner =
            Runner::new(delivery, inherited, HashSet::new(), true).map_err(Error::system("cannot make a timer"))?;
        runner.ends_with_us();
        let find = |asked: &Option<ProgramName>, name: &str| {
            let name = asked.as_ref().map_or(OsStr::new(name), |asked| &asked.name);
            harness::look_up(name, settings.search_path.as_deref())
        };
        let (abra, docker) = (find(&settings.programs.abra, "abra"), find(&settings.programs.docker, "docker"));
        Ok(Tools { settings, runner, abra, docker, docker_answers: false, asked: None })
    }

    /// What a program prints; an error in words when it fails.
    fn ask(&mut self, program: &Path, words: &[&str]) -> Result<String, String> {
        if self.asked.is_some() {
            return Err("asked to stop".to_owned());
        }
        let mut argv = vec![program.as_os_str().to_owned()];
        argv.extend(words.iter().map(OsString::from));
        let command = Command { argv, environment: settings::caller_environment() };
        let ran = self.runner.run(&command, None, Output::Capture, time::now() + ANSWERS_WITHIN, |_| (), |_| ());
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().trim().to_owned();
        match ran.end {
            End::Ended(Ended::Code(0)) => Ok(String::from_utf8_lossy(&ran.output).trim().to_owned()),
            End::Ended(how) => Err(format!("status {}: {}", how.as_shell_status(), said(&ran.errors))),
            End::TimedOut => Err("no answer within 10s".to_owned()),
            End::Asked(signal) => {
                self.asked = Some(signal);
                Err("asked to stop".to_owned())
            }
            End::NotStarted(error) => Err(error.to_string()),
        }
    }

    /// `git`, for the recipes of per-run ABRA_DIRs.
    pub fn git(&mut self) -> Check {
        let (name, next) = ("git", "install git; without it `abra-dir fetch` does not work");
        let Some(git) = harness::look_up(OsStr::new("git"), self.settings.search_path.as_deref()) else {
            return Check::warning(name, "not in PATH", next);
        };
        match self.ask(&git, &["--version"]) {
            Ok(version) => Check::ok(name, version),
            Err(problem) => Check::warning(name, format!("'{}' does not work: {problem}", git.display()), next),
        }
    }

    /// `abra`, which tears down first.
    pub fn abra(&mut self) -> Check {
        let name = "abra";
        let Some(abra) = self.abra.clone() else {
            let asked = self.settings.programs.abra.as_ref();
            let detail = missing(asked);
            // One that was asked for by name is not done without.
            return match asked {
                Some(_) => Check::error(name, detail, "mend that; a run with --teardown auto is refused"),
                None => Check::warning(name, detail, "install it or set CCCI_ABRA; the Swarm sweep tears down alone"),
            };
        };
        match self.ask(&abra, &["--version"]) {
            Ok(version) => {
                Check::ok(name, format!("'{}' {}", abra.display(), version.lines().next().unwrap_or_default()))
            }
            Err(problem) => Check::warning(
                name,
                format!("'{}' does not answer `--version`: {problem}", abra.display()),
                "run it by hand as this user; the Swarm sweep follows it in any case",
            ),
        }
    }

    /// etcd, where it has the cluster's locks.
    pub fn etcd(&self) -> Option<Check> {
        let etcd = self.settings.etcd.as_ref()?;
        let name = "etcd";
        Some(match cluster::ask(etcd, Question::Ping) {
            Ok(Answer::Pong(version)) => Check::ok(name, format!("version {version}, {}", etcd.endpoints.join(" "))),
            Ok(_) => Check::error(name, "its answer makes no sense", "see --etcd-endpoints"),
            Err(error) => {
                Check::error(name, error.to_string(), "a run with --lock-backend etcd is refused until it answers")
            }
        })
    }

    /// `docker`, which sweeps and proves.
    pub fn docker(&mut self) -> Check {
        let name = "docker";
        let Some(docker) = self.docker.clone() else {
            let missing = missing(self.settings.programs.docker.as_ref());
            return Check::error(
                name,
                missing,
                "install it or set CCCI_DOCKER; without it nothing is swept, and nothing proved",
            );
        };
        match self.ask(&docker, &["version", "--format", "{{.Server.Version}}"]) {
            Ok(version) => {
                self.docker_answers = true;
                Check::ok(name, format!("'{}', server {version}", docker.display()))
            }
            Err(problem) => Check::error(
                name,
                format!("'{}' gets no answer: {problem}", docker.display()),
                "start Docker, or let this user reach its socket (DOCKER_HOST)",
            ),
        }
    }

    /// The Swarm: active, a manager, and of how many nodes?
    pub fn swarm(&mut self) -> Check {
        let name = "swarm";
        let Some(docker) = self.docker.clone().filter(|_| self.docker_answers) else {
            return Check::warning(name, "not asked: docker does not answer", "see docker");
        };
        match self.ask(&docker, &["node", "ls", "--quiet"]) {
            Ok(nodes) => match nodes.lines().count() {
                1 => Check::ok(name, "active, one node"),
                count if self.settings.etcd.is_some() => {
                    Check::ok(name, format!("active, {count} nodes, with the app locks in etcd"))
                }
                count => Check::warning(
                    name,
                    format!("active, {count} nodes, and the app locks are this host's alone"),
                    "give the janitor --single-runner where only this host runs harnesses; else use --lock-backend etcd",
                ),
            },
            Err(problem) => Check::error(
                name,
                format!("this host is no manager of a Swarm: {problem}"),
                "docker swarm init, or point DOCKER_HOST to a manager",
            ),
        }
    }

    /// Is there one at all?
    pub fn way_to_tear_down(&self) -> Check {
        let name = "teardown";
        if self.abra.is_some() && self.settings.canonical.is_none() {
            return Check::error(
                name,
                "abra is here, but no ABRA_DIR of this host: a run with --app and --teardown auto is refused",
                "set CCCI_CANONICAL_ABRA_DIR; or use --teardown CMD",
            );
        }
        match (&self.abra, self.docker_answers) {
            (None, false) => Check::error(
                name,
                "neither abra nor a Docker that answers: a run with --app and --teardown auto is refused",
                "see abra and docker; or use --teardown CMD",
            ),
            (Some(_), true) => Check::ok(name, "by abra, then the Swarm sweep"),
            (Some(_), false) => Check::warning(name, "by abra alone, without a proof", "see docker"),
            (None, true) => Check::ok(name, "by the Swarm sweep"),
        }
    }

    /// Does anybody reap what no run could tear down?
    pub fn janitor_timer(&mut self) -> Check {
        let name = "janitor-timer";
        let last =
            "it goes live last: every harness on this host must take the app lock by then, or its live runs are reaped";
        let Some(systemctl) = harness::look_up(OsStr::new("systemctl"), self.settings.search_path.as_deref()) else {
            return Check::warning(
                name,
                "can't be told: there is no systemctl",
                format!("run `ccci-guard janitor` from some timer; {last}"),
            );
        };
        match self.ask(&systemctl, &["is-active", TIMER]) {
            Ok(state) => Check::ok(name, format!("{TIMER} is {state}; {last}")),
            Err(_) => {
                Check::warning(name, format!("{TIMER} is not active"), format!("install it (docs/deploy); {last}"))
            }
        }
    }
}

/// A program that was asked for, or the one in PATH, is not there.
fn missing(asked: Option<&ProgramName>) -> String {
    let named =
        |asked: &ProgramName| format!("{} is not there, or can't be executed", asked.from.trim_end_matches(':'));
    asked.map_or_else(|| "not in PATH".to_owned(), named)
}
