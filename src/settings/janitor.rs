//! What the options of `janitor` and `reap` mean, and those that a run shares with them: what may be torn down.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::allow_list::AllowList;
use crate::app::AppName;
use crate::cli::{AllowListArgs, JanitorArgs};
use crate::duration;
use crate::error::Error;
use crate::settings::lookup::{Counts, Lookup, Value, absolute, at_least};
use crate::settings::run::runtime_dir;
use crate::settings::{EtcdSettings, Form, ProgramName, Teardown, home_in_passwd, quoted, variable};

/// Everything that the janitor, or `reap`, needs to know, checked.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the options of `cli.rs`, which documents them")]
pub struct JanitorSettings {
    pub allow_list: AllowList,
    pub lock_dir: PathBuf,
    pub canonical_abra_dir: Option<PathBuf>,
    pub runs_dir: PathBuf,
    /// `CCCI_STATE_DIR`, where runs may have left state.
    pub state_dir: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, the same.
    pub runtime_dir: Option<PathBuf>,
    pub teardown: Teardown,
    pub teardown_timeout: Duration,
    pub leaked_after: Duration,
    pub jobs: usize,
    pub dry_run: bool,
    pub json: bool,
    pub metrics: Option<PathBuf>,
    pub fail_on_findings: bool,
    pub single_runner: bool,
    pub list_cmd: Option<OsString>,
    pub docker: Option<ProgramName>,
    pub lock_timeout: Duration,
    pub etcd: Option<EtcdSettings>,
    pub search_path: Option<OsString>,
}

/// Settles the options of the janitor and of `reap`.
///
/// # Errors
/// The first thing that is wrong, as one sentence.
pub fn resolve_janitor(args: &JanitorArgs) -> Result<JanitorSettings, Error> {
    let lookup = Lookup { nested: false, form: Form::Run };
    let (allow_list, given) = resolve_allow_list(&lookup, &args.allow_list)?;
    if !given {
        return Err(Error::Usage(
            "which apps may be torn down? There is no default: set --zone ZONE (CCCI_ZONE) or --run-app-re RE \
             (CCCI_RUN_APP_RE)"
                .to_owned(),
        ));
    }
    let steps = teardown_steps(&args.teardown_step)?;
    // Not from CCCI_TEARDOWN: that is what a run does, and this may be started by anyone's environment.
    let teardown = match args.teardown.as_ref().map(|text| Value::flag("teardown", text)) {
        Some(value) if value.text.is_empty() => return Err(value.bad("is empty; use auto, or a command")),
        Some(value) if value.text == "none" => {
            return Err(value.bad("would leave everything; use auto, a command, or --dry-run"));
        }
        Some(value) if value.text != "auto" => Teardown::Command(value.text),
        _ => Teardown::Auto(lookup.auto(args.abra.as_ref(), args.docker.as_ref(), steps)),
    };
    let always = Counts::Always;
    let positive = |text: &str| match text.parse() {
        Ok(count @ 1..=1000) => Ok(count),
        _ => Err("is no number from 1 to 1000".to_owned()),
    };
    let minimum = at_least(Duration::from_millis(1));
    let given_canonical = lookup.directory(args.canonical_abra_dir.as_ref(), "canonical-abra-dir")?;
    let jobs = args.jobs.as_ref().map(|text| Value::flag("jobs", text).parse(positive)).transpose()?;
    let metrics = args.metrics.as_ref().map(|text| absolute(&Value::flag("metrics", text))).transpose()?;
    let lock_timeout = args.lock_timeout.as_ref().map(|text| Value::flag("lock-timeout", text).parse(duration::parse));
    let list_cmd = args.list_cmd.as_ref().map(|text| Value::flag("list-cmd", text));
    if let Some(value) = list_cmd.as_ref().filter(|value| value.text.is_empty()) {
        return Err(value.bad("is empty; give a command that prints one domain a line"));
    }
    let teardown_timeout = args.teardown_timeout.as_ref();
    Ok(JanitorSettings {
        allow_list,
        lock_dir: lookup.path(args.lock_dir.as_ref(), "lock-dir", always)?.unwrap_or_else(|| "/run/lock".into()),
        canonical_abra_dir: given_canonical.or_else(canonical_at_home),
        runs_dir: lookup.runs_dir(args.runs_dir.as_ref())?,
        state_dir: lookup.directory(None, "state-dir")?,
        runtime_dir: runtime_dir(),
        teardown,
        teardown_timeout: lookup
            .parsed(teardown_timeout, "teardown-timeout", always, minimum)?
            .unwrap_or(Duration::from_secs(600)),
        leaked_after: lookup
            .parsed(args.leaked_after.as_ref(), "leaked-after", always, duration::parse)?
            .unwrap_or(Duration::from_secs(7200)),
        jobs: jobs.unwrap_or(4),
        dry_run: args.dry_run,
        json: args.json,
        metrics,
        fail_on_findings: args.fail_on_findings,
        single_runner: lookup.switch(args.single_runner, "single-runner", always)?,
        list_cmd: list_cmd.map(|value| value.text),
        docker: lookup.program(args.docker.as_ref(), "docker"),
        lock_timeout: lock_timeout.transpose()?.unwrap_or_default(),
        etcd: lookup.cluster(&args.cluster)?,
        search_path: variable("PATH"),
    })
}

/// Settles the options of `reap` and the app that it is about.
///
/// # Errors
/// Also when the app is no domain, or one that may not be torn down.
pub fn resolve_reap(app: &OsStr, args: &JanitorArgs) -> Result<(AppName, JanitorSettings), Error> {
    let app = Value { text: app.to_owned(), from: quoted(app) }.parse(AppName::parse)?;
    let settings = resolve_janitor(args)?;
    if !settings.allow_list.admits(&app) {
        let why = if settings.allow_list.protects(&app) {
            "--protect names it"
        } else {
            "--zone and --run-app-re don't admit it"
        };
        return Err(Error::Usage(format!("reap may not touch {app}: {why}")));
    }
    Ok((app, settings))
}

pub(super) fn resolve_allow_list(lookup: &Lookup, args: &AllowListArgs) -> Result<(AllowList, bool), Error> {
    let mut list = AllowList::default();
    lookup.parsed(args.zone.as_ref(), "zone", Counts::Resident, |zone| list.admit_zone(zone))?;
    lookup.parsed(args.run_app_re.as_ref(), "run-app-re", Counts::Resident, |expression| list.admit(expression))?;
    let globs: Vec<Value> = if args.protect.is_empty() {
        lookup.variable("CCCI_PROTECT", Counts::Resident).iter().flat_map(Value::entries).collect()
    } else {
        args.protect.iter().map(|text| Value::flag("protect", text)).collect()
    };
    for glob in globs {
        glob.parse(|text| list.protect(text))?;
    }
    let given = list.is_given();
    Ok((list, given))
}

pub(super) fn teardown_steps(steps: &[OsString]) -> Result<Vec<String>, Error> {
    let step = |step: &OsString| {
        Value::flag("teardown-step", step).parse(|text| match text.trim() {
            "" => Err("is empty; give a program and its arguments".to_owned()),
            _ => Ok(text.to_owned()),
        })
    };
    steps.iter().map(step).collect()
}

pub(super) fn canonical_at_home() -> Option<PathBuf> {
    let homes = variable("HOME").map(PathBuf::from).into_iter().chain(home_in_passwd());
    homes.map(|home| home.join(".abra")).find(|abra| abra.join("servers").is_dir())
}
