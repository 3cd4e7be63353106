//! The words of `abra-dir` and `state`.

#![forbid(unsafe_code)]

use std::ffi::OsString;

use clap::{Args, Subcommand};

use crate::cli::LogArgs;

/// `abra-dir`, as typed.
#[derive(Debug, Args)]
pub struct AbraDirArgs {
    /// What to do.
    #[command(subcommand)]
    pub form: AbraDirForm,
}

/// The forms of `abra-dir`.
#[derive(Debug, Subcommand)]
#[command(before_help = "Example: eval \"$(ccci-guard abra-dir create --run-id try-1 --recipe immich@main --export)\"")]
pub enum AbraDirForm {
    /// Build one, with recipes in it, and print its path
    Create(CreateArgs),
    /// Print the path of a run's ABRA_DIR, or of a recipe's tree in it
    Path(AbraDirPathArgs),
    /// Print it for a shell to eval
    #[command(before_help = "Example: eval \"$(ccci-guard abra-dir env try-1)\"")]
    Env(AbraDirIdArgs),
    /// Fetch a recipe from the host's own ABRA_DIR, and print the path of its tree
    Fetch(FetchArgs),
    /// Check links and copies; a line for each fault
    #[command(before_help = "Example: ccci-guard abra-dir verify try-1")]
    Verify(AbraDirIdArgs),
    /// List them: whose, alive or not, where, with which recipes
    List(AbraDirListArgs),
    /// Remove one that no live run uses
    #[command(before_help = "Example: ccci-guard abra-dir remove try-1")]
    Remove(AbraDirRemoveArgs),
    /// Remove those of dead runs
    Gc(AbraDirGcArgs),
}

/// Options of all forms of `abra-dir`.
#[derive(Debug, Args)]
pub struct AbraDirOptions {
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// The host's own ABRA_DIR [CCCI_CANONICAL_ABRA_DIR; ~/.abra]
    #[arg(long, value_name = "DIR")]
    pub canonical_abra_dir: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `abra-dir create`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard abra-dir create --run-id try-1 --recipe immich@main")]
pub struct CreateArgs {
    /// Name of the run [CCCI_RUN_ID; required]
    #[arg(long, value_name = "ID")]
    pub run_id: Option<OsString>,
    /// Fetch this recipe too; repeatable
    #[arg(long, value_name = "RECIPE[@REF]")]
    pub recipe: Vec<OsString>,
    /// Print JSON
    #[arg(long, conflicts_with = "export")]
    pub json: bool,
    /// Print it for a shell to eval
    #[arg(long)]
    pub export: bool,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `abra-dir path`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard abra-dir path try-1 immich")]
pub struct AbraDirPathArgs {
    /// The run
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// A recipe in it
    #[arg(value_name = "RECIPE")]
    pub recipe: Option<OsString>,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `abra-dir env`, `verify`
#[derive(Debug, Args)]
pub struct AbraDirIdArgs {
    /// The run
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `abra-dir remove`
#[derive(Debug, Args)]
pub struct AbraDirRemoveArgs {
    /// The run
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `abra-dir fetch`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard abra-dir fetch try-1 immich --ref 1.4.0+2.3.4")]
pub struct FetchArgs {
    /// The run
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// The recipe
    #[arg(value_name = "RECIPE")]
    pub recipe: OsString,
    /// Branch, tag or commit to check out [what is checked out in the host's own]
    #[arg(long = "ref", value_name = "REF", allow_hyphen_values = true)]
    pub git_ref: Option<OsString>,
    /// Take the working tree of the host's own as it is, changes and all
    #[arg(long, conflicts_with = "git_ref")]
    pub staged: bool,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `abra-dir list`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard abra-dir list")]
pub struct AbraDirListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `abra-dir gc`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard abra-dir gc --dry-run")]
pub struct AbraDirGcArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Also those that a run kept on purpose, or because its teardown left something
    #[arg(long)]
    pub kept: bool,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `state`, as typed.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// What to do.
    #[command(subcommand)]
    pub form: StateForm,
}

/// The forms of `state`.
#[derive(Debug, Subcommand)]
#[command(before_help = "Example, in a harness: ccci-guard state record-app keyc-0b52fe.ci.example.net")]
pub enum StateForm {
    /// Make the state files of a process that no guard has started, and print what `env` prints
    #[command(before_help = "Example: eval \"$(ccci-guard state init --run-id try-1 --pid $$)\"")]
    Init(StateOptions),
    /// Print the path of one file: deploys, opstate, deps, depskip or apps
    Path(StatePathArgs),
    /// Print the variables for a shell to eval
    #[command(before_help = "Example: eval \"$(ccci-guard state env)\"")]
    Env(StateOptions),
    /// Append one deploy
    RecordDeploy(RecordDeployArgs),
    /// Append an app that is about to be created
    RecordApp(RecordAppArgs),
    /// Print run, process, number of deploys and paths
    Show(StateShowArgs),
    /// Remove the files of dead runs, or those of --run-id and --pid
    Gc(StateGcArgs),
}

/// Options of all forms of `state`.
#[derive(Debug, Args)]
pub struct StateOptions {
    /// The run [CCCI_RUN_ID; that of the guard above]
    #[arg(long, value_name = "ID")]
    pub run_id: Option<OsString>,
    /// The harness's process [that of the guard's own run]
    #[arg(long, value_name = "PID")]
    pub pid: Option<OsString>,
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// Directory of the state files [CCCI_STATE_DIR; that of the run]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `state path`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard state path deploys")]
pub struct StatePathArgs {
    /// Which file
    #[arg(value_name = "KIND")]
    pub kind: OsString,
    /// Whose.
    #[command(flatten)]
    pub options: StateOptions,
}

/// `state record-deploy`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard state record-deploy immich")]
pub struct RecordDeployArgs {
    /// What was deployed, one line
    #[arg(value_name = "NAME")]
    pub name: OsString,
    /// Whose.
    #[command(flatten)]
    pub options: StateOptions,
}

/// `state record-app`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard state record-app keyc-0b52fe.ci.example.net")]
pub struct RecordAppArgs {
    /// Its domain
    #[arg(value_name = "DOMAIN")]
    pub domain: OsString,
    /// Whose.
    #[command(flatten)]
    pub options: StateOptions,
}

/// `state show`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard state show --json")]
pub struct StateShowArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Whose.
    #[command(flatten)]
    pub options: StateOptions,
}

/// `state gc`
#[derive(Debug, Args)]
#[command(before_help = "Example: ccci-guard state gc --dry-run")]
pub struct StateGcArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Whose.
    #[command(flatten)]
    pub options: StateOptions,
}
