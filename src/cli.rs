//! The command line as typed: names and help texts. What it means is settled in `settings`.
//!
//! Values stay text here, so that a bad one can be reported in one way whether it came from a flag or from a
//! variable. clap's own `env` is not used: empty and foreign variables must behave as documented.

mod per_run;
mod usage;

pub use per_run::{
    AbraDirArgs, AbraDirForm, AbraDirOptions, CreateArgs, FetchArgs, StateArgs, StateForm, StateOptions,
};
pub use usage::{means_to_run, usage_error};

use std::ffi::OsString;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::settings;

/// The usage line of the forms that run a command.
pub const RUN_USAGE: &str = "ccci-guard [run] [OPTIONS] -- COMMAND [ARG…]";

/// Runs a CI harness so that nothing of it is left behind: no process, no lock, no app.
#[derive(Debug, Parser)]
#[command(
    name = "ccci-guard",
    version = concat!(env!("CARGO_PKG_VERSION"), env!("GUARD_COMMIT")),
    args_conflicts_with_subcommands = true,
    override_usage = "ccci-guard [RUN OPTIONS] -- COMMAND [ARG…]\n       ccci-guard run|exec [OPTIONS] -- COMMAND [ARG…]",
    before_help = "Example: ccci-guard --zone ci.example.net --deadline 50m -- harness run immich"
)]
pub struct Cli {
    /// A form by name; without one, the words are those of `run`.
    #[command(subcommand)]
    pub form: Option<Form>,
    /// The bare form.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Options of `run` that `exec` refuses, or has no use for.
const RESIDENT: [&str; 25] = [
    "warn_before",
    "warn_signal",
    "grace",
    "stop_signal",
    "stop_scope",
    "survivors",
    "teardown",
    "teardown_on",
    "teardown_timeout",
    "teardown_step",
    "keep_run_dir",
    "report",
    "stop_on_closed_output",
    "zone",
    "run_app_re",
    "protect",
    "abra",
    "docker",
    "canonical_abra_dir",
    "lock_backend",
    "etcd_endpoints",
    "etcd_cacert",
    "etcd_cert",
    "etcd_key",
    "lease_ttl",
];

/// Options of `janitor` that mean nothing for one app.
const OF_A_ROUND: [&str; 4] = ["jobs", "metrics", "fail_on_findings", "runs_dir"];

/// The whole command line. What a form has no use for is not shown: at the top the options of `run`, at `exec` what it
/// can't keep.
pub fn command() -> clap::Command {
    let hide = |names: &'static [&'static str]| {
        move |arg: clap::Arg| if names.contains(&arg.get_id().as_str()) { arg.hide(true) } else { arg }
    };
    Cli::command()
        .mut_args(|arg| if arg.get_id() == "help" { arg } else { arg.hide(true) })
        .mut_subcommand("exec", |exec| {
            exec.mut_args(hide(&RESIDENT))
                .mut_arg("app", |arg| arg.help("App to lock; repeatable [CCCI_APP_DOMAIN, comma list; none]"))
                .mut_arg("deadline", |arg| arg.help("SIGALRM this long after its start [CCCI_DEADLINE; none]"))
                .mut_arg("abra_dir", |arg| arg.help("Its ABRA_DIR: inherit or a path [CCCI_ABRA_DIR; inherit]"))
        })
        .mut_subcommand("janitor", |janitor| janitor.mut_args(hide(&["lock_timeout"])))
        .mut_subcommand("reap", |reap| reap.mut_args(hide(&OF_A_ROUND)))
        .after_help("RUN OPTIONS: see ccci-guard run --help. What the exit statuses mean: ccci-guard help exit-codes")
}

/// Makes sense of all words.
///
/// # Errors
/// What is wrong with them; also help and version.
pub fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(words)?)
}

/// The options of one run form alone.
#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct RunOnly {
    #[command(flatten)]
    run: RunArgs,
}

/// The common case, `run` or `exec` without a fault, without building the options of all other forms: that takes
/// three times as long, at each start of each run. `None`: [`Cli`] has to say what these words are.
pub fn parse_run(words: &[OsString]) -> Option<(settings::Form, RunArgs)> {
    let (form, named) = match words.get(1)?.to_str()? {
        "run" => (settings::Form::Run, true),
        "exec" => (settings::Form::Exec, true),
        option if option.starts_with('-') => (settings::Form::Run, false),
        _ => return None,
    };
    let words = words.iter().take(1).chain(words.iter().skip(1 + usize::from(named)));
    RunOnly::try_parse_from(words).ok().map(|parsed| (form, parsed.run))
}

/// The forms.
#[derive(Debug, Subcommand)]
pub enum Form {
    /// Run COMMAND under guard: lock, deadline, teardown, nothing left
    #[command(
        before_help = "Example: ccci-guard run --zone ci.example.net --deadline 50m -- harness run immich",
        override_usage = "ccci-guard run [OPTIONS] -- COMMAND [ARG…]"
    )]
    Run(RunArgs),
    /// Become COMMAND: same checks, session, lock and deadline; no teardown
    #[command(
        before_help = "Example: ccci-guard exec --app a1-0a1b2c.ci.example.net --deadline 50m -- harness run immich",
        override_usage = "ccci-guard exec [OPTIONS] -- COMMAND [ARG…]"
    )]
    Exec(RunArgs),
    /// One round over all run apps: reap what nobody could tear down, never a live run
    Janitor(JanitorArgs),
    /// Tear one app down, under its lock
    Reap(ReapArgs),
    /// An ABRA_DIR for one run: build, fill, check, remove
    AbraDir(AbraDirArgs),
    /// The state files of one run: name, read, append to
    State(StateArgs),
    /// Who holds which app lock, and who waits
    Locks(LocksArgs),
    /// Is this host ready? A line for each thing that a run or the janitor needs
    Doctor(DoctorArgs),
    /// Print a completion script: bash, zsh or fish
    Completions(CompletionsArgs),
    /// Print the manual, or write all its pages to a directory
    Man(ManArgs),
}

/// `completions`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard completions bash >/usr/share/bash-completion/completions/ccci-guard")]
pub struct CompletionsArgs {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL")]
    pub shell: OsString,
}

/// `man`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard man | man -l -")]
pub struct ManArgs {
    /// Write a page for each command to this directory
    #[arg(long, value_name = "D")]
    pub dir: Option<OsString>,
}

/// Options of `run` and `exec`, as typed.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// App to lock and tear down; repeatable [CCCI_APP_DOMAIN; none]
    #[arg(long, value_name = "DOMAIN")]
    pub app: Vec<OsString>,
    /// Stop the run this long after its start: 142 [CCCI_DEADLINE; none]
    #[arg(long, value_name = "D")]
    pub deadline: Option<OsString>,
    /// Warn this long before the deadline [CCCI_WARN_BEFORE; none]
    #[arg(long, value_name = "D")]
    pub warn_before: Option<OsString>,
    /// Warn the harness with this signal too [CCCI_WARN_SIGNAL; none]
    #[arg(long, value_name = "SIGNAL")]
    pub warn_signal: Option<OsString>,
    /// Stop signal to SIGKILL [CCCI_GRACE; 30s, 10m with teardown none]
    #[arg(long, value_name = "D")]
    pub grace: Option<OsString>,
    /// Asks it to stop [CCCI_STOP_SIGNAL; as we were asked, else TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<OsString>,
    /// Who is asked to stop: leader or group [CCCI_STOP_SCOPE; leader]
    #[arg(long, value_name = "WHO")]
    pub stop_scope: Option<OsString>,
    /// Who outlives the harness: kill or leave [CCCI_SURVIVORS; kill]
    #[arg(long, value_name = "WHAT")]
    pub survivors: Option<OsString>,
    /// auto, none or a command [CCCI_TEARDOWN; auto with an app, or none]
    #[arg(long, value_name = "HOW")]
    pub teardown: Option<OsString>,
    /// After a stop, a failure or always [CCCI_TEARDOWN_ON; stop]
    #[arg(long, value_name = "WHEN")]
    pub teardown_on: Option<OsString>,
    /// Time limit of the teardown [CCCI_TEARDOWN_TIMEOUT; 10m]
    #[arg(long, value_name = "D")]
    pub teardown_timeout: Option<OsString>,
    /// A step of auto, {app} and {stack} replaced; repeatable [abra's]
    #[arg(long, value_name = "ARGV")]
    pub teardown_step: Vec<OsString>,
    /// Names that automatic teardown may touch.
    #[command(flatten)]
    pub allow_list: AllowListArgs,
    /// The abra program [CCCI_ABRA; from PATH]
    #[arg(long, value_name = "P")]
    pub abra: Option<OsString>,
    /// The docker program [CCCI_DOCKER; from PATH]
    #[arg(long, value_name = "P")]
    pub docker: Option<OsString>,
    /// Directory of the app locks [CCCI_APP_LOCK_DIR; /run/lock]
    #[arg(long, value_name = "DIR")]
    pub lock_dir: Option<OsString>,
    /// Wait this long for the lock, then 75 [CCCI_LOCK_TIMEOUT; wait]
    #[arg(long, value_name = "D")]
    pub lock_timeout: Option<OsString>,
    /// The lock of the whole cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Name of the run [CCCI_RUN_ID; Drone's numbers, else manual-PID]
    #[arg(long, value_name = "ID")]
    pub run_id: Option<OsString>,
    /// The harness's: inherit, auto or a path [CCCI_ABRA_DIR; inherit]
    #[arg(long, value_name = "WHICH")]
    pub abra_dir: Option<OsString>,
    /// Keep the ABRA_DIR that auto built
    #[arg(long)]
    pub keep_run_dir: bool,
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// The host's own ABRA_DIR [CCCI_CANONICAL_ABRA_DIR; ~/.abra]
    #[arg(long, value_name = "DIR")]
    pub canonical_abra_dir: Option<OsString>,
    /// Directory of the state files [CCCI_STATE_DIR; that of the run]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
    /// new, or keep the caller's and its terminal [CCCI_SESSION; new]
    #[arg(long, value_name = "WHICH")]
    pub session: Option<OsString>,
    /// Refuse to start unless this is our parent [CCCI_PARENT_PID; none]
    #[arg(long, value_name = "PID")]
    pub parent_pid: Option<OsString>,
    /// Don't watch the caller, nor miss it [CCCI_ALLOW_ORPHAN; no]
    #[arg(long)]
    pub allow_orphan: bool,
    /// Stop when nobody reads us: 141 [CCCI_STOP_ON_CLOSED_OUTPUT; no]
    #[arg(long)]
    pub stop_on_closed_output: bool,
    /// Write the outcome to this file as JSON [CCCI_REPORT; none]
    #[arg(long, value_name = "FILE")]
    pub report: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

/// Options that say which names may be torn down automatically, as typed.
#[derive(Debug, Default, Args)]
pub struct AllowListArgs {
    /// auto may touch run apps of this zone [CCCI_ZONE; none]
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<OsString>,
    /// auto may touch names that this matches [CCCI_RUN_APP_RE; none]
    #[arg(long, value_name = "RE")]
    pub run_app_re: Option<OsString>,
    /// auto never touches these; repeatable [CCCI_PROTECT; none]
    #[arg(long, value_name = "GLOB")]
    pub protect: Vec<OsString>,
}

/// Options of the cluster lock, as typed.
#[derive(Debug, Default, Args)]
pub struct ClusterArgs {
    /// flock, or etcd beside it [CCCI_LOCK_BACKEND; flock]
    #[arg(long, value_name = "WHICH")]
    pub lock_backend: Option<OsString>,
    /// URLs of etcd, comma list [CCCI_ETCD_ENDPOINTS; none]
    #[arg(long, value_name = "URLS")]
    pub etcd_endpoints: Option<OsString>,
    /// Authorities for its certificate, PEM [CCCI_ETCD_CACERT; public ones]
    #[arg(long, value_name = "FILE")]
    pub etcd_cacert: Option<OsString>,
    /// Our certificate, PEM [CCCI_ETCD_CERT; none]
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<OsString>,
    /// Its key, PEM [CCCI_ETCD_KEY; none]
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<OsString>,
    /// A lease lasts so long without renewal [CCCI_LEASE_TTL; 30s]
    #[arg(long, value_name = "D")]
    pub lease_ttl: Option<OsString>,
}

impl ClusterArgs {
    /// Those that mean something with etcd only, with what was given.
    pub fn of_etcd(&self) -> [(&'static str, Option<&OsString>); 5] {
        [
            ("etcd-endpoints", self.etcd_endpoints.as_ref()),
            ("etcd-cacert", self.etcd_cacert.as_ref()),
            ("etcd-cert", self.etcd_cert.as_ref()),
            ("etcd-key", self.etcd_key.as_ref()),
            ("lease-ttl", self.lease_ttl.as_ref()),
        ]
    }
}

/// Options of `janitor` and `reap`, as typed.
#[derive(Debug, Default, Args)]
#[command(
    before_help = "Example: ccci-guard janitor --zone ci.example.net",
    override_usage = "ccci-guard janitor --zone ZONE [OPTIONS]"
)]
pub struct JanitorArgs {
    /// Names that may be torn down.
    #[command(flatten)]
    pub allow_list: AllowListArgs,
    /// Directory of the app locks [CCCI_APP_LOCK_DIR; /run/lock]
    #[arg(long, value_name = "DIR")]
    pub lock_dir: Option<OsString>,
    /// The lock of the whole cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The host's own ABRA_DIR [CCCI_CANONICAL_ABRA_DIR; ~/.abra]
    #[arg(long, value_name = "DIR")]
    pub canonical_abra_dir: Option<OsString>,
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// auto, or a shell command for each app [auto]
    #[arg(long, value_name = "HOW")]
    pub teardown: Option<OsString>,
    /// Time limit of each app's teardown [CCCI_TEARDOWN_TIMEOUT; 10m]
    #[arg(long, value_name = "D")]
    pub teardown_timeout: Option<OsString>,
    /// A step of auto, {app} and {stack} replaced; repeatable [abra's]
    #[arg(long, value_name = "ARGV")]
    pub teardown_step: Vec<OsString>,
    /// The abra program [CCCI_ABRA; from PATH]
    #[arg(long, value_name = "P")]
    pub abra: Option<OsString>,
    /// The docker program [CCCI_DOCKER; from PATH]
    #[arg(long, value_name = "P")]
    pub docker: Option<OsString>,
    /// Held for longer is a possible leak [CCCI_LEAKED_AFTER; 120m]
    #[arg(long, value_name = "D")]
    pub leaked_after: Option<OsString>,
    /// So many teardowns at a time [4]
    #[arg(long, value_name = "N")]
    pub jobs: Option<OsString>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write metrics for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<OsString>,
    /// Exit 3 for possible leaks and locks that can't be probed
    #[arg(long)]
    pub fail_on_findings: bool,
    /// No other node of the Swarm runs harnesses [CCCI_SINGLE_RUNNER; no]
    #[arg(long)]
    pub single_runner: bool,
    /// Lists the apps, a domain a line, in place of abra and Docker
    #[arg(long, value_name = "CMD")]
    pub list_cmd: Option<OsString>,
    /// Wait this long for the lock, then exit 75 [0s]
    #[arg(long, value_name = "D")]
    pub lock_timeout: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of `reap`, as typed.
#[derive(Debug, Args)]
#[command(
    before_help = "Example: ccci-guard reap a1-0a1b2c.ci.example.net --zone ci.example.net",
    override_usage = "ccci-guard reap APP --zone ZONE [OPTIONS]"
)]
pub struct ReapArgs {
    /// The app: its domain
    #[arg(value_name = "APP")]
    pub app: OsString,
    /// All others.
    #[command(flatten)]
    pub janitor: JanitorArgs,
}

/// `locks`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard locks nextcloud.ci.example.net")]
pub struct LocksArgs {
    /// These apps only; default: all that have a lock file
    #[arg(value_name = "APP")]
    pub app: Vec<OsString>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Directory of the app locks [CCCI_APP_LOCK_DIR; /run/lock]
    #[arg(long, value_name = "DIR")]
    pub lock_dir: Option<OsString>,
    /// The lock of the whole cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `doctor`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard doctor --deadline 50m")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The deadline that runs are given [CCCI_DEADLINE; none]
    #[arg(long, value_name = "D")]
    pub deadline: Option<OsString>,
    /// Directory of the app locks [CCCI_APP_LOCK_DIR; /run/lock]
    #[arg(long, value_name = "DIR")]
    pub lock_dir: Option<OsString>,
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// The host's own ABRA_DIR [CCCI_CANONICAL_ABRA_DIR; ~/.abra]
    #[arg(long, value_name = "DIR")]
    pub canonical_abra_dir: Option<OsString>,
    /// The lock of the whole cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The abra program [CCCI_ABRA; from PATH]
    #[arg(long, value_name = "P")]
    pub abra: Option<OsString>,
    /// The docker program [CCCI_DOCKER; from PATH]
    #[arg(long, value_name = "P")]
    pub docker: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of the log, as typed.
#[derive(Debug, Default, Args)]
pub struct LogArgs {
    /// Say more (twice: everything)
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say less (twice: errors only)
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,
    /// text or json [CCCI_LOG_FORMAT; text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<OsString>,
    /// Every event goes to this file too [CCCI_LOG_FILE; none]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<OsString>,
    /// auto, always or never [auto; NO_COLOR]
    #[arg(long, value_name = "WHEN")]
    pub color: Option<OsString>,
}

/// The log's format, picked out of words that clap can't make sense of as a whole.
pub fn log_format(words: &[OsString]) -> LogArgs {
    let words: Vec<_> = words.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str()).collect();
    let joined = words.iter().find_map(|word| word.strip_prefix("--log-format="));
    let next = || words.iter().position(|word| *word == "--log-format").and_then(|at| words.get(at + 1)).copied();
    LogArgs { log_format: joined.or_else(next).map(OsString::from), ..LogArgs::default() }
}
