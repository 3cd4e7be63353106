//! What the options of `run` and `exec` mean.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::allow_list::AllowList;
use crate::app::{AppName, RunId};
use crate::cli::{RUN_USAGE, RunArgs};
use crate::duration;
use crate::error::Error;
use crate::settings::janitor::{canonical_at_home, resolve_allow_list, teardown_steps};
use crate::settings::lookup::{
    Counts, Lookup, Value, absolute, at_least, one_of, parse_signal, parse_stop_signal, variable_name,
};
use crate::settings::per_run::no_canonical;
use crate::settings::{EtcdSettings, variable, variable_as_set};
use crate::sys::process::Pid;
use crate::sys::procfs;

/// `run` or `exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A monitor and a supervisor stay beside the harness.
    Run,
    /// We become the harness.
    Exec,
}

/// Who gets the stop signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopScope {
    /// The harness's first process.
    Leader,
    /// Its process group.
    Group,
}

/// What becomes of descendants that outlive the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// They are ended.
    Kill,
    /// They are left alone.
    Leave,
}

/// How an app is torn down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// The harness does it, or nobody.
    None,
    /// By this command, run by `/bin/sh -c`.
    Command(OsString),
    /// By abra, the Swarm sweep and the proof.
    Auto(AutoSettings),
}

/// A program that was asked for, and where, as the start of a complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramName {
    /// Its name or path.
    pub name: OsString,
    /// `--abra '/no/such':`, or `CCCI_ABRA='/no/such':`.
    pub from: String,
}

/// Programs and steps of the automatic teardown, as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoSettings {
    /// The abra program; from PATH.
    pub abra: Option<ProgramName>,
    /// The docker program; from PATH.
    pub docker: Option<ProgramName>,
    /// Steps in place of abra's own.
    pub steps: Vec<String>,
}

/// When a teardown is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeardownOn {
    /// After any end but the harness's own exit.
    Stop,
    /// Also when the harness exits with another status than 0.
    Failure,
    /// Always.
    Always,
}

/// The session of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// One of its own.
    New,
    /// The caller's, with its terminal.
    Keep,
}

/// The harness's ABRA_DIR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbraDirChoice {
    /// What the caller has.
    Inherit,
    /// This one.
    Given(PathBuf),
    /// One of the run's own, made from this canonical one.
    Auto(PathBuf),
}

/// A word ahead of the deadline.
#[derive(Clone, Copy, Debug)]
pub struct Warning {
    /// This long before it.
    pub before: Duration,
    /// The harness gets this signal too.
    pub signal: Option<Signal>,
}

/// How the run's id is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunName {
    /// Asked for by name; shared when another run has it.
    Given(RunId),
    /// The first of these that no live run owns, else the last with our pid.
    FirstFree(Vec<RunId>),
}

/// The variables by which a guard hands its locks over; lists in the same order, joined by commas.
pub mod lock_variable {
    /// The apps.
    pub const APPS: &str = "CCCI_APP_DOMAIN";
    /// The descriptors; an entry is empty where the lock is held by an ancestor that handed none over.
    pub const FDS: &str = "CCCI_APP_LOCK_FD";
    /// The lock files.
    pub const PATHS: &str = "CCCI_APP_LOCK_PATH";
    /// `dev:ino` of the lock files.
    pub const IDS: &str = "CCCI_APP_LOCK_ID";
    /// The fencing tokens of a cluster lock; an entry is empty where there is none.
    pub const TOKENS: &str = "CCCI_APP_LOCK_TOKEN";
}

/// One lock that the environment says we were handed.
#[derive(Clone, Debug)]
pub struct HandedLock {
    /// The app.
    pub app: String,
    /// The descriptor's number.
    pub fd: Option<i32>,
    /// `dev:ino`.
    pub id: String,
    /// The fencing token of the cluster lock.
    pub token: Option<i64>,
}

/// Everything that a run needs to know, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the options of `cli.rs`, which documents them")]
pub struct RunSettings {
    pub form: Form,
    pub command: Vec<OsString>,
    pub apps: Vec<AppName>,
    pub deadline: Option<Duration>,
    pub warning: Option<Warning>,
    pub grace: Duration,
    pub stop_signal: Option<Signal>,
    pub stop_scope: StopScope,
    pub survivors: Survivors,
    pub teardown: Teardown,
    /// It was asked for on the command line, and so by who started this guard.
    pub teardown_by_flag: bool,
    pub teardown_on: TeardownOn,
    pub teardown_timeout: Duration,
    pub allow_list: AllowList,
    pub lock_dir: PathBuf,
    pub lock_timeout: Option<Duration>,
    pub etcd: Option<EtcdSettings>,
    pub run_name: RunName,
    pub abra_dir: AbraDirChoice,
    pub keep_run_dir: bool,
    pub canonical_abra_dir: Option<PathBuf>,
    pub runs_dir: PathBuf,
    pub state_dir: Option<PathBuf>,
    /// Where state goes when neither of the two above can be used: `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    pub session: Session,
    pub parent_pid: Option<Pid>,
    pub allow_orphan: bool,
    pub stop_on_closed_output: bool,
    pub report: Option<PathBuf>,
    /// The monitor of the run that this one is part of.
    pub outer_guard: Option<Pid>,
    /// Locks that a run above us says it handed down.
    pub handed_locks: Vec<HandedLock>,
    /// `SYSTEMD_EXEC_PID`: the process that systemd started itself.
    pub systemd_exec_pid: Option<i32>,
    /// `PATH`, for finding the command.
    pub search_path: Option<OsString>,
}

/// Settles the options of `run` and `exec`.
///
/// # Errors
/// The first thing that is wrong, as one sentence.
pub fn resolve_run(form: Form, args: &RunArgs) -> Result<RunSettings, Error> {
    if args.command.is_empty() {
        return Err(Error::Usage(format!("no command to run; usage: {RUN_USAGE}; see: ccci-guard --help")));
    }
    if form == Form::Exec {
        refuse_resident_options(args)?;
    }
    let outer_guard = outer_guard();
    let lookup = Lookup { nested: outer_guard.is_some(), form };
    let apps = resolve_apps(&lookup, args)?;
    let (allow_list, allow_list_given) = resolve_allow_list(&lookup, &args.allow_list)?;
    let teardown = match form {
        Form::Run => resolve_teardown(&lookup, args, &apps, &allow_list, allow_list_given)?,
        Form::Exec => Teardown::None,
    };
    let deadline =
        lookup.parsed(args.deadline.as_ref(), "deadline", Counts::Always, at_least(Duration::from_secs(1)))?;
    let default_grace = match teardown {
        // Only the harness can tear down: it needs the time.
        Teardown::None => Duration::from_secs(600),
        Teardown::Command(_) | Teardown::Auto(_) => Duration::from_secs(30),
    };
    let scopes = one_of(&[("leader", StopScope::Leader), ("group", StopScope::Group)]);
    let scope_value = lookup.value(args.stop_scope.as_ref(), "stop-scope", Counts::Resident);
    let stop_scope = scope_value.as_ref().map(|value| value.parse(scopes)).transpose()?;
    let sessions = one_of(&[("new", Session::New), ("keep", Session::Keep)]);
    let session = lookup.parsed(args.session.as_ref(), "session", Counts::Always, sessions)?.unwrap_or(Session::New);
    if let (Session::Keep, Some(StopScope::Group), Some(value)) = (session, stop_scope, &scope_value) {
        return Err(
            value.bad("can't go with --session keep, where the group is the caller's own; leave one of them out")
        );
    }
    let survivors = one_of(&[("kill", Survivors::Kill), ("leave", Survivors::Leave)]);
    let teardown_on =
        one_of(&[("stop", TeardownOn::Stop), ("failure", TeardownOn::Failure), ("always", TeardownOn::Always)]);
    let canonical_abra_dir = resolve_canonical(&lookup, args, &teardown)?;
    let abra_dir = resolve_abra_dir(&lookup, args, canonical_abra_dir.as_deref())?;
    let settings = RunSettings {
        form,
        command: args.command.clone(),
        apps,
        deadline,
        warning: resolve_warning(&lookup, args, deadline)?,
        grace: lookup.parsed(args.grace.as_ref(), "grace", Counts::Resident, duration::parse)?.unwrap_or(default_grace),
        stop_signal: lookup.parsed(args.stop_signal.as_ref(), "stop-signal", Counts::Resident, parse_stop_signal)?,
        stop_scope: stop_scope.unwrap_or(StopScope::Leader),
        survivors: lookup
            .parsed(args.survivors.as_ref(), "survivors", Counts::Resident, survivors)?
            .unwrap_or(Survivors::Kill),
        teardown,
        teardown_by_flag: args.teardown.is_some(),
        teardown_on: lookup
            .parsed(args.teardown_on.as_ref(), "teardown-on", Counts::ResidentNotNested, teardown_on)?
            .unwrap_or(TeardownOn::Stop),
        teardown_timeout: lookup
            .parsed(
                args.teardown_timeout.as_ref(),
                "teardown-timeout",
                Counts::ResidentNotNested,
                at_least(Duration::from_millis(1)),
            )?
            .unwrap_or(Duration::from_secs(600)),
        allow_list,
        lock_dir: lookup
            .path(args.lock_dir.as_ref(), "lock-dir", Counts::Always)?
            .unwrap_or_else(|| "/run/lock".into()),
        lock_timeout: lookup.parsed(args.lock_timeout.as_ref(), "lock-timeout", Counts::Always, duration::parse)?,
        etcd: lookup.cluster(&args.cluster)?,
        run_name: match resolve_run_name(&lookup, args)? {
            // The outer run's id: it shares it, unless it is to have an ABRA_DIR of its own.
            RunName::Given(id)
                if lookup.nested && args.run_id.is_none() && matches!(abra_dir, AbraDirChoice::Auto(_)) =>
            {
                RunName::FirstFree(vec![id])
            }
            name => name,
        },
        abra_dir,
        keep_run_dir: args.keep_run_dir,
        canonical_abra_dir,
        runs_dir: lookup.runs_dir(args.runs_dir.as_ref())?,
        state_dir: lookup.path(args.state_dir.as_ref(), "state-dir", Counts::Always)?,
        runtime_dir: runtime_dir(),
        session,
        parent_pid: lookup.parsed(args.parent_pid.as_ref(), "parent-pid", Counts::NotNested, parse_pid)?,
        allow_orphan: lookup.switch(args.allow_orphan, "allow-orphan", Counts::NotNested)?,
        stop_on_closed_output: lookup.switch(
            args.stop_on_closed_output,
            "stop-on-closed-output",
            Counts::ResidentNotNested,
        )?,
        report: lookup.path(args.report.as_ref(), "report", Counts::ResidentNotNested)?,
        outer_guard,
        handed_locks: handed_locks(),
        systemd_exec_pid: variable("SYSTEMD_EXEC_PID").and_then(|pid| pid.to_str()?.parse().ok()),
        search_path: variable("PATH"),
    };
    Ok(settings)
}

/// The options that `exec` can't keep: nobody stays resident to do it.
fn refuse_resident_options(args: &RunArgs) -> Result<(), Error> {
    let given = [
        ("--teardown", args.teardown.is_some()),
        ("--teardown-on", args.teardown_on.is_some()),
        ("--teardown-timeout", args.teardown_timeout.is_some()),
        ("--teardown-step", !args.teardown_step.is_empty()),
        ("--grace", args.grace.is_some()),
        ("--survivors", args.survivors.is_some()),
        ("--stop-signal", args.stop_signal.is_some()),
        ("--stop-scope", args.stop_scope.is_some()),
        ("--stop-on-closed-output", args.stop_on_closed_output),
        ("--report", args.report.is_some()),
        ("--warn-before", args.warn_before.is_some()),
        ("--warn-signal", args.warn_signal.is_some()),
        ("--abra-dir auto", args.abra_dir.as_deref() == Some(OsStr::new("auto"))),
        ("--keep-run-dir", args.keep_run_dir),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Error::Usage(format!(
            "exec can't keep {option}: it leaves no process behind to do it; use: ccci-guard run"
        ))),
        None => Ok(()),
    }
}

/// The monitor of a run above us: `CCCI_GUARD_PID`, where it names a living ancestor.
fn outer_guard() -> Option<Pid> {
    let pid = Pid::from_raw(variable("CCCI_GUARD_PID")?.to_str()?.parse().ok()?);
    procfs::ancestors().contains(&pid).then_some(pid)
}

fn resolve_apps(lookup: &Lookup, args: &RunArgs) -> Result<Vec<AppName>, Error> {
    let values: Vec<Value> = if args.app.is_empty() {
        let name = variable_name("app");
        match variable_as_set(&name) {
            None => Vec::new(),
            // Unlike every other variable: set but empty is an error.
            Some(text) if text.is_empty() => {
                return Err(Value::variable(&name, &text)
                    .bad("is set but empty: the run would be unprotected; unset it, or name the app"));
            }
            Some(_) => lookup.variable(&name, Counts::Always).iter().flat_map(Value::entries).collect(),
        }
    } else {
        args.app.iter().map(|text| Value::flag("app", text)).collect()
    };
    let mut apps = Vec::new();
    for value in values {
        let app = value.parse(AppName::parse)?;
        if !apps.contains(&app) {
            apps.push(app);
        }
    }
    Ok(apps)
}

fn resolve_teardown(
    lookup: &Lookup,
    args: &RunArgs,
    apps: &[AppName],
    allow_list: &AllowList,
    allow_list_given: bool,
) -> Result<Teardown, Error> {
    let steps = teardown_steps(&args.teardown_step)?;
    match lookup.value(args.teardown.as_ref(), "teardown", Counts::NotNested) {
        Some(value) if value.text.is_empty() => return Err(value.bad("is empty; use auto, none, or a command")),
        Some(value) if value.text == "none" => return Ok(Teardown::None),
        Some(value) if value.text != "auto" => return Ok(Teardown::Command(value.text)),
        None if lookup.nested || (apps.is_empty() && !allow_list_given) => return Ok(Teardown::None),
        _ => {}
    }
    check_admitted(apps, allow_list, allow_list_given)?;
    Ok(Teardown::Auto(lookup.auto(args.abra.as_ref(), args.docker.as_ref(), steps)))
}

fn resolve_warning(lookup: &Lookup, args: &RunArgs, deadline: Option<Duration>) -> Result<Option<Warning>, Error> {
    let counts = Counts::ResidentNotNested;
    let before = lookup.value(args.warn_before.as_ref(), "warn-before", counts);
    let signal = lookup.value(args.warn_signal.as_ref(), "warn-signal", counts);
    let Some(before) = before else {
        return match signal {
            Some(value) => Err(value.bad("needs --warn-before, which says when")),
            None => Ok(None),
        };
    };
    let early = before.parse(at_least(Duration::from_millis(1)))?;
    match deadline {
        None => return Err(before.bad("needs a --deadline to warn of")),
        Some(deadline) if early >= deadline => return Err(before.bad("is not shorter than the deadline")),
        Some(_) => {}
    }
    Ok(Some(Warning { before: early, signal: signal.map(|value| value.parse(parse_signal)).transpose()? }))
}

fn resolve_abra_dir(lookup: &Lookup, args: &RunArgs, canonical: Option<&Path>) -> Result<AbraDirChoice, Error> {
    match lookup.value(args.abra_dir.as_ref(), "abra-dir", Counts::NotNested) {
        None => Ok(AbraDirChoice::Inherit),
        Some(value) if value.text == "inherit" => Ok(AbraDirChoice::Inherit),
        // From the environment `exec` ignores it: it has nobody who would remove the directory.
        Some(value) if value.text == "auto" && lookup.form == Form::Exec => Ok(AbraDirChoice::Inherit),
        Some(value) if value.text == "auto" => {
            let canonical = canonical.map(Path::to_owned).or_else(canonical_at_home).ok_or_else(no_canonical)?;
            Ok(AbraDirChoice::Auto(canonical))
        }
        Some(value) => absolute(&value).map(AbraDirChoice::Given),
    }
}

/// The host's own ABRA_DIR, where it is needed: teardown commands get it.
fn resolve_canonical(lookup: &Lookup, args: &RunArgs, teardown: &Teardown) -> Result<Option<PathBuf>, Error> {
    let given = lookup.directory(args.canonical_abra_dir.as_ref(), "canonical-abra-dir")?;
    if given.is_some() || *teardown == Teardown::None {
        return Ok(given);
    }
    Ok(canonical_at_home())
}

/// Where state goes when neither `--state-dir` nor the runs directory can be used.
pub(super) fn runtime_dir() -> Option<PathBuf> {
    variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())
}

pub(super) fn parse_pid(text: &str) -> Result<Pid, String> {
    // 0 is what a process of another pid namespace is to us.
    let number: Result<i32, _> = text.parse();
    number.ok().filter(|pid| *pid >= 0).map(Pid::from_raw).ok_or_else(|| "is no process number".to_owned())
}

fn resolve_run_name(lookup: &Lookup, args: &RunArgs) -> Result<RunName, Error> {
    if let Some(id) = lookup.parsed(args.run_id.as_ref(), "run-id", Counts::Always, RunId::parse)? {
        return Ok(RunName::Given(id));
    }
    let Some(build) = variable("DRONE_BUILD_NUMBER").map(|text| Value::variable("DRONE_BUILD_NUMBER", &text)) else {
        return Ok(RunName::FirstFree(Vec::new()));
    };
    let mut ids = vec![build.parse(RunId::parse)?];
    let part = |name| variable(name).and_then(|text| text.into_string().ok());
    if let (Some(stage), Some(step)) = (part("DRONE_STAGE_NUMBER"), part("DRONE_STEP_NUMBER")) {
        ids.push(build.parse(|build| RunId::parse(&format!("{build}-{stage}-{step}")))?);
    }
    Ok(RunName::FirstFree(ids))
}

/// The locks that the environment says we were handed, if its lists fit together.
fn handed_locks() -> Vec<HandedLock> {
    let list = |name: &str| -> Vec<String> {
        let text = variable(name).unwrap_or_default();
        String::from_utf8_lossy(&text.into_vec()).split(',').map(str::to_owned).collect()
    };
    let (apps, fds, ids) = (list(lock_variable::APPS), list(lock_variable::FDS), list(lock_variable::IDS));
    if apps.len() != fds.len() || apps.len() != ids.len() {
        return Vec::new();
    }
    let mut tokens = list(lock_variable::TOKENS);
    tokens.resize(apps.len(), String::new());
    let entries = apps.into_iter().zip(fds).zip(ids).zip(tokens);
    let lock = |(((app, fd), id), token): (((String, String), String), String)| HandedLock {
        app,
        fd: fd.parse().ok(),
        id,
        token: token.parse().ok(),
    };
    entries.map(lock).collect()
}

/// Automatic teardown only ever touches names that are admitted.
fn check_admitted(apps: &[AppName], allow_list: &AllowList, allow_list_given: bool) -> Result<(), Error> {
    const WAYS_OUT: &str = "give --teardown CMD, or --teardown none";
    let problem = if !allow_list_given && !apps.is_empty() {
        format!("no way to tear {} down: automatic teardown needs --zone or --run-app-re; or {WAYS_OUT}", apps[0])
    } else if let Some(app) = apps.iter().find(|app| allow_list.protects(app)) {
        format!("automatic teardown may not touch {app}: --protect names it; {WAYS_OUT}")
    } else if let Some(app) = apps.iter().find(|app| !allow_list.admits(app)) {
        format!("automatic teardown may not touch {app}: --zone and --run-app-re don't admit it; {WAYS_OUT}")
    } else {
        return Ok(());
    };
    Err(Error::Usage(problem))
}
