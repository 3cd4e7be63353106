//! The lists: which apps there are. When one can't be had, or isn't in the expected form, nothing is touched.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use crate::app::AppName;
use crate::cluster::{self, Question};
use crate::error::Error;
use crate::janitor::classify::{self, Found};
use crate::janitor::{Refused, existing_children};
use crate::settings::{self, JanitorSettings, Teardown};
use crate::stack::{self, Owner};
use crate::sys::process::{Ended, Pid};
use crate::sys::signal::{Delivery, Inherited};
use crate::sys::time;
use crate::teardown::auto::{self, Auto, Session};
use crate::teardown::command;
use crate::teardown::inventory;
use crate::teardown::runner::{Command, End, Output, Runner};
use crate::teardown::swarm::{self, Failure};

/// A list that takes longer than this is none.
const LIST_WITHIN: Duration = Duration::from_secs(60);

/// A name that something is known of.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As listed.
    pub name: String,
    /// What the allow-list says of it.
    pub found: Found,
}

/// What lists apps.
pub struct Lister<'a> {
    settings: &'a JanitorSettings,
    runner: RefCell<Runner<'a>>,
    /// What automatic teardown works with; also names the docker program.
    pub auto: Auto,
    environment: Vec<(OsString, OsString)>,
    /// Children that are not ours to end.
    pub noted: HashSet<Pid>,
}

impl<'a> Lister<'a> {
    /// Finds the programs and checks that the Swarm is one whose apps our locks protect.
    pub fn new(
        settings: &'a JanitorSettings,
        delivery: &'a Delivery,
        inherited: &'a Inherited,
    ) -> Result<Self, Refused> {
        let canonical = settings.canonical_abra_dir.as_deref();
        let search_path = settings.search_path.as_deref();
        let found = match &settings.teardown {
            Teardown::Auto(asked) => Auto::find(asked, search_path, canonical, &settings.lock_dir),
            // Only for its lists.
            _ => Auto::without_steps(settings.docker.as_ref(), search_path, canonical, &settings.lock_dir),
        };
        let mut auto = found.map_err(Refused::Usage)?;
        auto.list_elsewhere(settings.list_cmd.is_some());
        if let Some(etcd) = &settings.etcd {
            // Before anything is touched: without it nobody's app can be told from a run's on another host.
            cluster::ask(etcd, Question::Ping).map_err(|error| Refused::NoList(error.to_string()))?;
        }
        let noted = existing_children();
        let runner = Runner::new(delivery, inherited, noted.clone(), true);
        let runner = runner.map_err(|error| Refused::Usage(Error::System { what: "cannot make a timer", error }))?;
        let environment = settings::caller_environment();
        let lister = Lister { settings, runner: RefCell::new(runner), auto, environment, noted };
        if settings.list_cmd.is_none() {
            let nodes = lister.docker(|session| swarm::nodes(session))?;
            // A cluster lock speaks for all of them.
            if nodes > 1 && !settings.single_runner && settings.etcd.is_none() {
                return Err(Refused::NoList(format!(
                    "the Swarm has {nodes} nodes, and a lock of this host says nothing of runs on others; if only \
                     this host runs harnesses, say --single-runner; else use --lock-backend etcd everywhere"
                )));
            }
        }
        Ok(lister)
    }

    /// Every name that something is known of, each once, in order.
    pub fn candidates(&self) -> Result<Vec<Candidate>, Refused> {
        let mut has_app: BTreeMap<String, bool> = BTreeMap::new();
        let mut ambiguous: BTreeMap<String, String> = BTreeMap::new();
        let canonical = self.settings.canonical_abra_dir.as_deref();
        if let Some(list_cmd) = &self.settings.list_cmd {
            let mut runner = self.runner.borrow_mut();
            for name in listed(list_cmd, &mut runner, &self.environment)? {
                has_app.insert(name, true);
            }
        } else {
            if let Some(canonical) = canonical {
                let files = inventory::env_files(canonical);
                let files = files.map_err(|error| no_list(&canonical.join("servers").display().to_string(), &error))?;
                has_app.extend(files.into_iter().map(|(stem, _)| (stem, true)));
            }
            let known = inventory::known_domains(canonical, &self.settings.lock_dir);
            for name in self.docker(|session| swarm::stacks(session))? {
                match stack::owner(&name, &known) {
                    Owner::App(app) => {
                        has_app.insert(app.to_string(), true);
                    }
                    Owner::Several(apps) => {
                        let why = format!("its stack's name '{name}' is cut, and could be that of {} apps", apps.len());
                        ambiguous.extend(apps.into_iter().map(|app| (app.to_string(), why.clone())));
                    }
                    Owner::Nobody => {}
                }
            }
        }
        match inventory::lock_files(&self.settings.lock_dir) {
            Ok(names) => names.into_iter().for_each(|name| {
                has_app.entry(name).or_insert(false);
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(no_list(&self.settings.lock_dir.display().to_string(), &error)),
        }
        let candidate = |(name, has_app): (String, bool)| {
            let found = match classify::admit(&name, has_app, &self.settings.allow_list) {
                Found::Admitted { app, has_app } => match ambiguous.get(&name) {
                    Some(why) => Found::Ambiguous(why.clone()),
                    None => Found::Admitted { app, has_app },
                },
                other => other,
            };
            Candidate { name, found }
        };
        Ok(has_app.into_iter().map(candidate).collect())
    }

    /// For `reap`: can the lists be had that tell whether anything of this app is there?
    pub fn can_list(&self, app: &AppName) -> Result<(), Refused> {
        match &self.settings.list_cmd {
            Some(list_cmd) => listed(list_cmd, &mut self.runner.borrow_mut(), &self.environment).map(|_| ()),
            None => self.docker(|session| swarm::all(session, &app.stack())).map(|_| ()),
        }
    }

    fn docker<T>(&self, ask: impl FnOnce(&mut Session<'_, '_>) -> Result<T, Failure>) -> Result<T, Refused> {
        let mut runner = self.runner.borrow_mut();
        let mut session = Session::new(&self.auto, &mut runner, &self.environment, Duration::MAX);
        ask(&mut session).map_err(|failure| match failure {
            Failure::NoList(why) => Refused::NoList(why),
            Failure::NotOurs | Failure::TimedOut => Refused::NoList("docker gave no list in time".to_owned()),
        })
    }
}

fn no_list(path: &str, error: &std::io::Error) -> Refused {
    Refused::NoList(format!("'{path}' can't be listed: {error}"))
}

/// The domains that the user's own command lists.
fn listed(
    list_cmd: &OsStr,
    runner: &mut Runner<'_>,
    environment: &[(OsString, OsString)],
) -> Result<Vec<String>, Refused> {
    let command = command::shell(list_cmd, environment.to_vec());
    names(runner, &command).map_err(|end| match end {
        ListEnd::Asked(signal) => Refused::Asked(signal),
        ListEnd::Failed(why) => Refused::NoList(why),
    })
}

/// Is this app still listed by the user's own command?
///
/// # Errors
/// What is wrong with the list.
pub fn is_listed(app: &AppName, runner: &mut Runner<'_>, command: &Command) -> Result<bool, String> {
    match names(runner, command) {
        Ok(names) => Ok(names.iter().any(|name| name == app.as_str())),
        Err(ListEnd::Failed(why)) => Err(why),
        Err(ListEnd::Asked(_)) => Err("the list was given up".to_owned()),
    }
}

enum ListEnd {
    Asked(i32),
    Failed(String),
}

fn names(runner: &mut Runner<'_>, command: &Command) -> Result<Vec<String>, ListEnd> {
    let ran = runner.run(command, None, Output::Capture, time::now() + LIST_WITHIN, |_| (), |_| ());
    let failed = |why: String| Err(ListEnd::Failed(why));
    match ran.end {
        End::Ended(Ended::Code(0)) => match auto::names(ran.output, "--list-cmd") {
            Ok(names) => Ok(names),
            Err(_) => failed("the output of --list-cmd is not text".to_owned()),
        },
        End::Ended(how) => {
            let said = String::from_utf8_lossy(&ran.errors);
            let said = said.lines().map(str::trim).find(|line| !line.is_empty());
            let said = said.map(|line| format!(": {line}")).unwrap_or_default();
            failed(format!("--list-cmd failed with status {}{said}", how.as_shell_status()))
        }
        End::TimedOut => failed("--list-cmd did not end within 60s".to_owned()),
        End::NotStarted(error) => failed(format!("--list-cmd could not be started: {error}")),
        End::Asked(signal) => Err(ListEnd::Asked(signal)),
    }
}
