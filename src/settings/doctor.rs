//! What the options of `doctor` mean, and what the runner says of itself.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::DoctorArgs;
use crate::error::Error;
use crate::settings::janitor::canonical_at_home;
use crate::settings::lookup::{Counts, Lookup, at_least};
use crate::settings::{AutoSettings, EtcdSettings, Form, resolve_lock_dir, variable};

/// How long Drone lets a build run where its repository's settings don't say otherwise.
const DRONE_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Everything that the doctor looks at.
#[derive(Clone, Debug)]
pub struct DoctorSettings {
    /// The directory of the app locks.
    pub lock_dir: PathBuf,
    /// The directory of the runs.
    pub runs_dir: PathBuf,
    /// The host's own ABRA_DIR: the one that was named, else one in the home.
    pub canonical: Option<PathBuf>,
    /// It was named.
    pub canonical_given: bool,
    /// Programs.
    pub programs: AutoSettings,
    /// The cluster lock.
    pub etcd: Option<EtcdSettings>,
    /// The deadline that runs are given.
    pub deadline: Option<Duration>,
    /// The limit of the runner that we are below, and whether it told it.
    pub runner_limit: Option<(Duration, bool)>,
    /// `PATH`.
    pub search_path: Option<OsString>,
}

/// Settles the options of `doctor`.
///
/// # Errors
/// The first thing that is wrong, as one sentence.
pub fn resolve_doctor(args: &DoctorArgs) -> Result<DoctorSettings, Error> {
    let lookup = Lookup { nested: false, form: Form::Run };
    let given = lookup.directory(args.canonical_abra_dir.as_ref(), "canonical-abra-dir")?;
    let minimum = at_least(Duration::from_secs(1));
    Ok(DoctorSettings {
        lock_dir: resolve_lock_dir(args.lock_dir.as_deref())?,
        runs_dir: lookup.runs_dir(args.runs_dir.as_ref())?,
        canonical_given: given.is_some(),
        canonical: given.or_else(canonical_at_home),
        programs: lookup.auto(args.abra.as_ref(), args.docker.as_ref(), Vec::new()),
        etcd: lookup.cluster(&args.cluster)?,
        deadline: lookup.parsed(args.deadline.as_ref(), "deadline", Counts::Always, minimum)?,
        runner_limit: runner_limit(),
        search_path: variable("PATH"),
    })
}

/// Drone tells a step nothing of its limit; an admin may, in minutes as its settings have it.
fn runner_limit() -> Option<(Duration, bool)> {
    variable("DRONE_BUILD_NUMBER").or_else(|| variable("DRONE"))?;
    let minutes = variable("DRONE_REPO_TIMEOUT").and_then(|text| text.to_str()?.parse::<u32>().ok());
    let told = minutes.filter(|minutes| *minutes > 0).map(|minutes| Duration::from_secs(u64::from(minutes) * 60));
    Some((told.unwrap_or(DRONE_LIMIT), told.is_some()))
}
