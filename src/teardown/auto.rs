//! Automatic teardown of one app: abra's own commands, then the Swarm sweep, then the proof.
//!
//! What abra says of itself settles nothing: it can fail with everything gone and succeed with a volume left.
//! The lists decide, after all is done.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::AppName;
use crate::error::Error;
use crate::harness;
use crate::settings::{AutoSettings, ProgramName, quoted};
use crate::stack;
use crate::sys::process::Ended;
use crate::sys::time;
use crate::teardown::runner::{Command, End, Output, Runner};
use crate::teardown::swarm::{self, Docker, Failure};
use crate::teardown::{AppEnd, StepReport, Verdict, inventory, killed_from_outside};

/// A list that takes longer than this is none.
const LIST_WITHIN: Duration = Duration::from_secs(60);
/// A Docker that does not answer within this when a run starts is not there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// One part in so many of the limit is the sweep's own.
const SWEEP_SHARE: u32 = 4;

/// abra's own sequence.
const ABRA_STEPS: [&str; 4] = [
    "abra app undeploy --no-input {app}",
    "abra app volume remove --no-input --force {app}",
    "abra app secret remove --no-input --all {app}",
    "abra app remove --no-input --force {app}",
];

/// Programs, steps and places of the automatic teardown, found before anything is forked.
#[derive(Clone, Debug)]
pub struct Auto {
    /// The steps before the sweep, as templates of argument vectors.
    steps: Vec<Vec<OsString>>,
    /// The docker program.
    docker: Option<PathBuf>,
    /// The host's own ABRA_DIR.
    canonical: Option<PathBuf>,
    /// Where lock files are: they know domains.
    lock_dir: PathBuf,
    /// The apps are listed by something else: without a docker command there is no sweep, and no proof by it.
    listed_elsewhere: bool,
}

impl Auto {
    /// Finds the programs. abra may be missing; that there is one of the two is for the caller to ask.
    ///
    /// # Errors
    /// When a program that was asked for by name isn't there, or abra is and its directory isn't.
    pub fn find(
        settings: &AutoSettings,
        search_path: Option<&OsStr>,
        canonical: Option<&Path>,
        lock_dir: &Path,
    ) -> Result<Self, Error> {
        let abra = find_program(settings.abra.as_ref(), "abra", search_path)?;
        let docker = find_program(settings.docker.as_ref(), "docker", search_path)?;
        if abra.is_some() && canonical.is_none() {
            return Err(Error::Usage(
                "abra is here, but no ABRA_DIR of this host was found (no .abra with servers in HOME, nor in the home that /etc/passwd names): set \
                 CCCI_CANONICAL_ABRA_DIR, or use --teardown CMD"
                    .to_owned(),
            ));
        }
        let steps = if settings.steps.is_empty() {
            let program = abra.map(PathBuf::into_os_string);
            program.map_or_else(Vec::new, |abra| ABRA_STEPS.iter().map(|step| words(step, Some(&abra))).collect())
        } else {
            let step = |step: &String| {
                with_path(words(step, None), search_path).ok_or_else(|| Error::Setting {
                    from: format!("--teardown-step {}:", quoted(OsStr::new(step))),
                    problem: "names no program that can be run".to_owned(),
                })
            };
            settings.steps.iter().map(step).collect::<Result<_, _>>()?
        };
        Ok(Auto {
            steps,
            docker,
            canonical: canonical.map(Path::to_owned),
            lock_dir: lock_dir.to_owned(),
            listed_elsewhere: false,
        })
    }

    /// For its lists alone: the apps are torn down by something else.
    ///
    /// # Errors
    /// When the docker program that was asked for isn't there.
    pub fn without_steps(
        docker: Option<&ProgramName>,
        search_path: Option<&OsStr>,
        canonical: Option<&Path>,
        lock_dir: &Path,
    ) -> Result<Self, Error> {
        let docker = find_program(docker, "docker", search_path)?;
        let canonical = canonical.map(Path::to_owned);
        Ok(Auto { steps: Vec::new(), docker, canonical, lock_dir: lock_dir.to_owned(), listed_elsewhere: false })
    }

    /// Says that the apps are listed by something else than abra and Docker.
    pub fn list_elsewhere(&mut self, elsewhere: bool) {
        self.listed_elsewhere = elsewhere;
    }

    fn sweeps(&self) -> bool {
        self.docker.is_some() || !self.listed_elsewhere
    }

    /// Is there anything that can tear down before the sweep?
    pub fn has_steps(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Does Docker answer?
    ///
    /// # Errors
    /// A request to stop, by its signal.
    pub fn docker_answers(&self, runner: &mut Runner<'_>, environment: &[(OsString, OsString)]) -> Result<bool, i32> {
        let Some(docker) = &self.docker else { return Ok(false) };
        let argv = [docker.as_os_str(), OsStr::new("service"), OsStr::new("ls"), OsStr::new("--quiet")];
        let command = Command { argv: argv.map(OsStr::to_owned).to_vec(), environment: environment.to_vec() };
        let limit = time::now() + ANSWERS_WITHIN;
        match runner.run(&command, None, Output::Capture, limit, |_| (), |_| ()).end {
            End::Ended(how) => Ok(how == Ended::Code(0)),
            End::Asked(signal) => Err(signal),
            End::TimedOut | End::NotStarted(_) => Ok(false),
        }
    }
}

/// The program of this name, or the one that was asked for in its place.
fn find_program(
    given: Option<&ProgramName>,
    name: &str,
    search_path: Option<&OsStr>,
) -> Result<Option<PathBuf>, Error> {
    match given {
        None => Ok(harness::look_up(OsStr::new(name), search_path)),
        Some(given) => harness::look_up(&given.name, search_path).map(Some).ok_or_else(|| Error::Setting {
            from: given.from.clone(),
            problem: "is no program that can be run".to_owned(),
        }),
    }
}

/// A step's words: split at white space, the first one replaced by the program that it stands for.
fn words(step: &str, program: Option<&OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = step.split_whitespace().map(OsString::from).collect();
    if let (Some(first), Some(program)) = (words.first_mut(), program) {
        first.clone_from(program);
    }
    words
}

/// The steps are run from `/`, so programs are looked up now.
fn with_path(mut step: Vec<OsString>, search_path: Option<&OsStr>) -> Option<Vec<OsString>> {
    let first = step.first_mut()?;
    *first = harness::look_up(first, search_path)?.into_os_string();
    Some(step)
}

/// What stands around one app's teardown, for each of its steps.
pub struct Session<'a, 'b> {
    /// What it works with.
    pub auto: &'a Auto,
    /// Runs the commands.
    pub runner: &'a mut Runner<'b>,
    /// Their environment.
    pub environment: &'a [(OsString, OsString)],
    /// When all must be over.
    pub ends_at: Duration,
    /// The lock that the commands inherit, and whether it still protects the app.
    pub lock: Option<&'a mut crate::lock::AppLock>,
    /// The cluster lock that goes with it.
    pub lease: Option<&'a crate::cluster::Lease>,
    /// The directory of the lock.
    pub directory: Option<&'a crate::lock::path::LockDirectory>,
    /// What was run so far.
    pub steps: Vec<StepReport>,
    /// What Docker said when it last refused to remove something.
    pub refusal: Option<String>,
}

/// Is anything of the app there?
///
/// # Errors
/// Why the lists could not be had.
pub fn is_there(
    auto: &Auto,
    runner: &mut Runner<'_>,
    environment: &[(OsString, OsString)],
    app: &AppName,
) -> Result<bool, String> {
    let mut session = Session::new(auto, runner, environment, Duration::MAX);
    match session.left(app, &stack::names(app)) {
        Ok(left) => Ok(!left.is_empty()),
        Err(Failure::NoList(why)) => Err(why),
        Err(Failure::NotOurs | Failure::TimedOut) => Err("docker gave no list in time".to_owned()),
    }
}

impl<'a, 'b> Session<'a, 'b> {
    /// One that holds no lock.
    pub fn new(
        auto: &'a Auto,
        runner: &'a mut Runner<'b>,
        environment: &'a [(OsString, OsString)],
        ends_at: Duration,
    ) -> Self {
        let (lock, lease, directory) = (None, None, None);
        Session { auto, runner, environment, ends_at, lock, lease, directory, steps: Vec::new(), refusal: None }
    }
}

impl Session<'_, '_> {
    /// Tears the app down. With `look_first` an app of which nothing is there is `gone`, and nothing is run.
    pub fn tear_down(&mut self, app: &AppName, look_first: bool) -> AppEnd {
        let known = inventory::known_domains(self.auto.canonical.as_deref(), &self.auto.lock_dir);
        if let Some(rival) = stack::rival(app, &known) {
            return self.end(
                Verdict::Skipped,
                format!("its stack's name may be cut, and then be {rival}'s, too"),
                Vec::new(),
            );
        }
        let stacks = stack::names(app);
        let mut known = None;
        if look_first {
            match self.left(app, &stacks) {
                Ok(left) if left.is_empty() => return self.end(Verdict::Gone, "nothing of it is there", Vec::new()),
                Ok(left) => known = Some(left.objects),
                Err(failure) => return self.failed(failure, &Left::default()),
            }
        }
        if self.auto.has_steps() {
            // They change what there is.
            known = None;
            if let Err(failure) = self.run_steps(app, &stacks[0]) {
                let left = self.left(app, &stacks).unwrap_or_default();
                return self.failed(failure, &left);
            }
        }
        let mut left = Left { env: self.env_left(app), ..Left::default() };
        for (index, stack) in stacks.iter().filter(|_| self.auto.sweeps()).enumerate() {
            // With two names it is not told which object is of which.
            let known = known.take().filter(|_| index == 0 && stacks.len() == 1);
            match swarm::sweep(self, stack, known) {
                Ok(objects) => left.objects.extend(objects),
                Err(failure) => {
                    let left = self.left(app, &stacks).unwrap_or(left);
                    return self.failed(failure, &left);
                }
            }
        }
        left.env = self.env_left(app);
        if left.is_empty() {
            self.end(Verdict::Ok, "torn down, nothing is left", Vec::new())
        } else if time::now() >= self.ends_at {
            self.failed(Failure::TimedOut, &left)
        } else {
            let said = self.refusal.take().map(|said| format!(" ({said})")).unwrap_or_default();
            self.end(Verdict::Partial, format!("left: {}{said}", left.names().join(", ")), left.names())
        }
    }

    fn end(&mut self, result: Verdict, why: impl Into<String>, residual: Vec<String>) -> AppEnd {
        AppEnd { result, status: None, why: why.into(), residual, steps: std::mem::take(&mut self.steps) }
    }

    fn failed(&mut self, failure: Failure, left: &Left) -> AppEnd {
        let said = self.refusal.take().map(|said| format!(" ({said})")).unwrap_or_default();
        let names = left.names();
        let named = if names.is_empty() { String::new() } else { format!("; left: {}{said}", names.join(", ")) };
        match failure {
            Failure::NoList(why) => self.end(Verdict::Failed, format!("{why}{named}"), names),
            Failure::NotOurs => self.end(Verdict::Skipped, "its lock is not ours any more", names),
            Failure::TimedOut => self.end(Verdict::Timeout, format!("ran into its limit{named}"), names),
        }
    }

    /// abra's steps, or those given in their place. A failure says nothing; a step killed from outside is run
    /// once more.
    fn run_steps(&mut self, app: &AppName, stack: &str) -> Result<(), Failure> {
        // A step that hangs may not take the sweep's time, too.
        let steps_end = self.ends_at.saturating_sub(self.ends_at.saturating_sub(time::now()) / SWEEP_SHARE);
        for template in self.auto.steps.clone() {
            self.may_go_on()?;
            let replaced = |word: &OsString| match word.to_str() {
                Some(text) => text.replace("{app}", app.as_str()).replace("{stack}", stack).into(),
                None => word.clone(),
            };
            let argv: Vec<OsString> = template.iter().map(replaced).collect();
            let mut end = self.run_logged(&argv, steps_end);
            if matches!(end, End::Ended(how) if killed_from_outside(how)) {
                tracing::warn!(
                    event = "teardown-again",
                    app = app.as_str(),
                    "a teardown step of {app} was killed from outside: running it once more"
                );
                self.may_go_on()?;
                end = self.run_logged(&argv, steps_end);
            }
            match end {
                End::TimedOut => {
                    let event = "step-timeout";
                    tracing::warn!(
                        event,
                        app = app.as_str(),
                        "a teardown step of {app} ran into its limit: going on with the sweep"
                    );
                    return Ok(());
                }
                End::Ended(how @ Ended::Code(126 | 127)) => {
                    let (event, status) = ("step-failed", how.as_shell_status());
                    tracing::warn!(
                        event,
                        app = app.as_str(),
                        "a teardown step of {app} could not be run (status {status})"
                    );
                }
                End::NotStarted(error) => {
                    tracing::warn!(
                        event = "step-failed",
                        app = app.as_str(),
                        "cannot start a teardown step of {app}: {error}"
                    );
                }
                End::Ended(_) | End::Asked(_) => {}
            }
        }
        Ok(())
    }

    fn run_logged(&mut self, argv: &[OsString], ends_at: Duration) -> End {
        let began = time::now();
        let command = Command { argv: argv.to_vec(), environment: self.environment.to_vec() };
        let ran = self.runner.run(&command, self.lock.as_deref(), Output::Log, ends_at, |_| (), |_| ());
        self.note(argv, &ran.end, began);
        ran.end
    }

    fn note(&mut self, argv: &[OsString], end: &End, began: Duration) {
        self.steps.push(StepReport {
            argv: argv.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            status: if let End::Ended(how) = end { Some(how.as_shell_status()) } else { None },
            ms: u64::try_from(time::now().saturating_sub(began).as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// Everything that there still is of the app: objects of its stacks, and its `.env` file.
    fn left(&mut self, app: &AppName, stacks: &[String]) -> Result<Left, Failure> {
        let mut left = Left { env: self.env_left(app), ..Left::default() };
        for stack in stacks.iter().filter(|_| self.auto.sweeps()) {
            left.objects.extend(swarm::all(self, stack)?);
        }
        Ok(left)
    }

    fn env_left(&self, app: &AppName) -> Vec<String> {
        let Some(canonical) = self.auto.canonical.as_ref().filter(|_| !self.auto.listed_elsewhere) else {
            return Vec::new();
        };
        match inventory::env_files(canonical) {
            Ok(files) => {
                let own = files.into_iter().filter(|(stem, _)| stem == app.as_str());
                own.map(|(_, path)| format!("env {}", path.display())).collect()
            }
            // A directory that isn't there is no proof of anything.
            Err(error) => vec![format!("env unknown: {} can't be read ({error})", canonical.display())],
        }
    }
}

/// What there is of an app.
#[derive(Debug, Default)]
struct Left {
    objects: Vec<swarm::Object>,
    env: Vec<String>,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.env.is_empty()
    }

    fn names(&self) -> Vec<String> {
        self.objects.iter().map(ToString::to_string).chain(self.env.iter().cloned()).collect()
    }
}

impl Docker for Session<'_, '_> {
    fn run(&mut self, args: &[&str]) -> Result<String, Failure> {
        let Some(docker) = &self.auto.docker else {
            return Err(Failure::NoList("there is no docker command".to_owned()));
        };
        let mut argv = vec![docker.clone().into_os_string()];
        argv.extend(args.iter().map(OsString::from));
        let began = time::now();
        let command = Command { argv: argv.clone(), environment: self.environment.to_vec() };
        // The proof comes after the limit, too.
        let limit = began + LIST_WITHIN;
        let ran = self.runner.run(&command, self.lock.as_deref(), Output::Capture, limit, |_| (), |_| ());
        if args.get(1) == Some(&"rm") {
            self.note(&argv, &ran.end, began);
        }
        let what = args.get(..2).unwrap_or(args).join(" ");
        match ran.end {
            End::Ended(Ended::Code(0)) => text(ran.output, &what),
            End::Ended(how) => {
                let said = String::from_utf8_lossy(&ran.errors);
                let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
                let status = how.as_shell_status();
                Err(Failure::NoList(format!("docker {what} failed with status {status}: {said}")))
            }
            End::TimedOut => Err(Failure::NoList(format!("docker {what} did not end within 60s"))),
            End::Asked(_) => Err(Failure::NoList(format!("docker {what} was given up"))),
            End::NotStarted(error) => Err(Failure::NoList(format!("docker can't be started: {error}"))),
        }
    }

    fn may_go_on(&mut self) -> Result<(), Failure> {
        if time::now() >= self.ends_at {
            return Err(Failure::TimedOut);
        }
        let ours = match (self.lock.as_deref_mut(), self.directory) {
            (Some(lock), Some(directory)) => super::worker::is_still_ours(lock, directory, self.lease),
            _ => true,
        };
        if ours { Ok(()) } else { Err(Failure::NotOurs) }
    }

    fn refused(&mut self, said: &str) {
        self.refusal = Some(said.to_owned());
    }

    fn pause(&mut self, delay: Duration) {
        self.runner.pause(delay);
    }
}

/// A list of names, one a line.
///
/// # Errors
/// See [`text`].
pub fn names(output: Vec<u8>, what: &str) -> Result<Vec<String>, Failure> {
    Ok(text(output, what)?.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// A list as text: what is no UTF-8, or has a NUL in it, is no list.
pub fn text(output: Vec<u8>, what: &str) -> Result<String, Failure> {
    match String::from_utf8(output) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Failure::NoList(format!("the output of '{what}' is not text"))),
    }
}
