//! The command line as typed: names and help texts. What it means is settled in `settings`.
//!
//! Values stay text here, so that a bad one can be reported in one way whether it came from a flag or from a
//! variable. clap's own `env` is not used: empty and foreign variables must behave as documented.

use std::ffi::OsString;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::settings;

/// The usage line of the forms that run a command.
pub const RUN_USAGE: &str = "ccci-guard [run] [OPTIONS] -- COMMAND [ARG…]";

/// Runs a CI harness so that nothing of it is left behind: no process, no lock, no app.
#[derive(Debug, Parser)]
#[command(
    name = "ccci-guard",
    version,
    args_conflicts_with_subcommands = true,
    override_usage = "ccci-guard [RUN OPTIONS] -- COMMAND [ARG…]\n       ccci-guard run|exec [OPTIONS] -- COMMAND [ARG…]",
    after_help = "Example: ccci-guard --app a1-0a1b2c.ci.example.net --teardown 'undeploy.sh' --deadline 50m -- harness run immich"
)]
pub struct Cli {
    /// A form by name; without one, the words are those of `run`.
    #[command(subcommand)]
    pub form: Option<Form>,
    /// The bare form.
    #[command(flatten)]
    pub run: RunArgs,
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
    #[command(override_usage = "ccci-guard run [OPTIONS] -- COMMAND [ARG…]")]
    Run(RunArgs),
    /// Become COMMAND: the same checks, session, lock and deadline, but no resident process and no teardown
    #[command(override_usage = "ccci-guard exec [OPTIONS] -- COMMAND [ARG…]")]
    Exec(RunArgs),
    /// One round over all run apps: reap what nobody could tear down, never a live run
    Janitor(JanitorArgs),
    /// Tear one app down, under its lock
    Reap(ReapArgs),
    /// An ABRA_DIR for one run: build, fill, check, remove
    AbraDir(AbraDirArgs),
    /// The state files of one run: name, read, append to
    State(StateArgs),
    /// Who holds what (not built yet)
    #[command(hide = true)]
    Locks(Later),
    /// Is this host ready? (not built yet)
    #[command(hide = true)]
    Doctor(Later),
    /// Shell completions (not built yet)
    #[command(hide = true)]
    Completions(Later),
    /// Man pages (not built yet)
    #[command(hide = true)]
    Man(Later),
}

/// The words of a form that isn't there yet.
#[derive(Debug, Args)]
pub struct Later {
    /// Whatever follows.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub words: Vec<OsString>,
}

/// Options of `run` and `exec`, as typed.
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// App to lock (and tear down): its domain; repeatable [CCCI_APP_DOMAIN, comma list]
    #[arg(long, value_name = "DOMAIN")]
    pub app: Vec<OsString>,
    /// Stop the run this long after the harness started: exit 142 [CCCI_DEADLINE; none]
    #[arg(long, value_name = "D")]
    pub deadline: Option<OsString>,
    /// Warn this long before the deadline [CCCI_WARN_BEFORE; none]
    #[arg(long, value_name = "D")]
    pub warn_before: Option<OsString>,
    /// Warn the harness with this signal too [CCCI_WARN_SIGNAL; none]
    #[arg(long, value_name = "SIGNAL")]
    pub warn_signal: Option<OsString>,
    /// Time between the stop signal and SIGKILL [CCCI_GRACE; 30s, or 10m with teardown none]
    #[arg(long, value_name = "D")]
    pub grace: Option<OsString>,
    /// Signal that asks the harness to stop [CCCI_STOP_SIGNAL; the one we were asked with, else TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<OsString>,
    /// Who gets the stop signal: leader or group [CCCI_STOP_SCOPE; leader]
    #[arg(long, value_name = "WHO")]
    pub stop_scope: Option<OsString>,
    /// Descendants that outlive the harness: kill or leave [CCCI_SURVIVORS; kill]
    #[arg(long, value_name = "WHAT")]
    pub survivors: Option<OsString>,
    /// auto, none, or a shell command run once for each app [CCCI_TEARDOWN; auto with an app, else none]
    #[arg(long, value_name = "HOW")]
    pub teardown: Option<OsString>,
    /// When to tear down: stop, failure or always [CCCI_TEARDOWN_ON; stop]
    #[arg(long, value_name = "WHEN")]
    pub teardown_on: Option<OsString>,
    /// Time limit of the teardown [CCCI_TEARDOWN_TIMEOUT; 10m]
    #[arg(long, value_name = "D")]
    pub teardown_timeout: Option<OsString>,
    /// One step of the automatic teardown, {app} and {stack} replaced; repeatable
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
    /// Wait this long for the lock, then exit 75; 0s: don't wait [CCCI_LOCK_TIMEOUT; wait]
    #[arg(long, value_name = "D")]
    pub lock_timeout: Option<OsString>,
    /// Name of the run [CCCI_RUN_ID; Drone's numbers, else manual-PID]
    #[arg(long, value_name = "ID")]
    pub run_id: Option<OsString>,
    /// inherit, auto or a path: the harness's ABRA_DIR [CCCI_ABRA_DIR; inherit]
    #[arg(long, value_name = "WHICH")]
    pub abra_dir: Option<OsString>,
    /// Keep the ABRA_DIR that was built for the run
    #[arg(long)]
    pub keep_run_dir: bool,
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// The host's own ABRA_DIR [CCCI_CANONICAL_ABRA_DIR; ~/.abra]
    #[arg(long, value_name = "DIR")]
    pub canonical_abra_dir: Option<OsString>,
    /// Directory of the state files [CCCI_STATE_DIR; the run's directory]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
    /// new, or keep: stay in the caller's session and terminal [CCCI_SESSION; new]
    #[arg(long, value_name = "WHICH")]
    pub session: Option<OsString>,
    /// Refuse to start unless this is our parent [CCCI_PARENT_PID]
    #[arg(long, value_name = "PID")]
    pub parent_pid: Option<OsString>,
    /// Start without a parent, and don't stop when the caller dies [CCCI_ALLOW_ORPHAN]
    #[arg(long)]
    pub allow_orphan: bool,
    /// Stop when nobody reads stdout or stderr any more: exit 141 [CCCI_STOP_ON_CLOSED_OUTPUT]
    #[arg(long)]
    pub stop_on_closed_output: bool,
    /// Write the outcome to this file as JSON [CCCI_REPORT; none]
    #[arg(long, value_name = "FILE")]
    pub report: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Options that say which names may be torn down automatically, as typed.
#[derive(Debug, Default, Args)]
pub struct AllowListArgs {
    /// Automatic teardown may touch run apps of this zone [CCCI_ZONE]
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<OsString>,
    /// Automatic teardown may touch names that this matches as a whole [CCCI_RUN_APP_RE]
    #[arg(long, value_name = "RE")]
    pub run_app_re: Option<OsString>,
    /// Never touch names that this matches; repeatable [CCCI_PROTECT, comma list]
    #[arg(long, value_name = "GLOB")]
    pub protect: Vec<OsString>,
}

/// Options of `janitor` and `reap`, as typed.
#[derive(Debug, Default, Args)]
pub struct JanitorArgs {
    /// Names that may be torn down.
    #[command(flatten)]
    pub allow_list: AllowListArgs,
    /// Directory of the app locks [CCCI_APP_LOCK_DIR; /run/lock]
    #[arg(long, value_name = "DIR")]
    pub lock_dir: Option<OsString>,
    /// The host's own ABRA_DIR [CCCI_CANONICAL_ABRA_DIR; ~/.abra]
    #[arg(long, value_name = "DIR")]
    pub canonical_abra_dir: Option<OsString>,
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// auto, or a shell command run for each app [auto]
    #[arg(long, value_name = "HOW")]
    pub teardown: Option<OsString>,
    /// Time limit of each app's teardown [CCCI_TEARDOWN_TIMEOUT; 10m]
    #[arg(long, value_name = "D")]
    pub teardown_timeout: Option<OsString>,
    /// One step of the automatic teardown, {app} and {stack} replaced; repeatable
    #[arg(long, value_name = "ARGV")]
    pub teardown_step: Vec<OsString>,
    /// The abra program [CCCI_ABRA; from PATH]
    #[arg(long, value_name = "P")]
    pub abra: Option<OsString>,
    /// The docker program [CCCI_DOCKER; from PATH]
    #[arg(long, value_name = "P")]
    pub docker: Option<OsString>,
    /// A lock held for longer is a possible leak [CCCI_LEAKED_AFTER; 120m, or twice the run's deadline]
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
    /// Write metrics for the node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<OsString>,
    /// Exit 3 when there are possible leaks, or locks that can't be probed
    #[arg(long)]
    pub fail_on_findings: bool,
    /// Only this host runs harnesses on a Swarm of several nodes [CCCI_SINGLE_RUNNER]
    #[arg(long)]
    pub single_runner: bool,
    /// A command that lists the apps, one domain a line, in place of abra and Docker
    #[arg(long, value_name = "CMD")]
    pub list_cmd: Option<OsString>,
    /// reap: wait this long for the lock, then exit 75 [0s]
    #[arg(long, value_name = "D")]
    pub lock_timeout: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of `reap`, as typed.
#[derive(Debug, Args)]
pub struct ReapArgs {
    /// The app: its domain
    #[arg(value_name = "APP")]
    pub app: OsString,
    /// All others.
    #[command(flatten)]
    pub janitor: JanitorArgs,
}

/// `abra-dir`, as typed.
#[derive(Debug, Args)]
pub struct AbraDirArgs {
    /// What to do.
    #[command(subcommand)]
    pub form: AbraDirForm,
}

/// The forms of `abra-dir`.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example: eval \"$(ccci-guard abra-dir create --run-id try-1 --recipe immich@main --export)\"")]
pub enum AbraDirForm {
    /// Build one, with recipes in it, and print its path
    Create(CreateArgs),
    /// Print the path of a run's ABRA_DIR, or of a recipe's tree in it
    Path(AbraDirPathArgs),
    /// Print it for a shell to eval
    Env(AbraDirIdArgs),
    /// Fetch a recipe from the host's own ABRA_DIR, and print the path of its tree
    Fetch(FetchArgs),
    /// Check links and copies; a line for each fault
    Verify(AbraDirIdArgs),
    /// List them: whose, alive or not, where, with which recipes
    List(AbraDirListArgs),
    /// Remove one that no live run uses
    Remove(AbraDirIdArgs),
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
pub struct CreateArgs {
    /// Name of the run [CCCI_RUN_ID]
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

/// `abra-dir env`, `verify`, `remove`
#[derive(Debug, Args)]
pub struct AbraDirIdArgs {
    /// The run
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// Where.
    #[command(flatten)]
    pub options: AbraDirOptions,
}

/// `abra-dir fetch`
#[derive(Debug, Args)]
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
#[command(after_help = "Example, in a harness: ccci-guard state record-app keyc-0b52fe.ci.example.net")]
pub enum StateForm {
    /// Make the state files of a process that no guard has started, and print what `env` prints
    Init(StateOptions),
    /// Print the path of one file: deploys, opstate, deps, depskip or apps
    Path(StatePathArgs),
    /// Print the variables for a shell to eval
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
    /// The run [CCCI_RUN_ID]
    #[arg(long, value_name = "ID")]
    pub run_id: Option<OsString>,
    /// The harness's process [that of the guard's own run]
    #[arg(long, value_name = "PID")]
    pub pid: Option<OsString>,
    /// Directory of the runs [CCCI_RUNS_DIR; /var/lib/cc-ci-runs]
    #[arg(long, value_name = "DIR")]
    pub runs_dir: Option<OsString>,
    /// Directory of the state files [CCCI_STATE_DIR; the run's directory]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<OsString>,
    /// What is logged, where and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `state path`
#[derive(Debug, Args)]
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
pub struct StateGcArgs {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Whose.
    #[command(flatten)]
    pub options: StateOptions,
}

/// Options of the log, as typed.
#[derive(Debug, Default, Args)]
pub struct LogArgs {
    /// Say more (twice: everything)
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say less: warnings and errors (twice: errors)
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

/// Names of the forms that run a command; their usage errors exit 125, those of all others 2.
const RUN_FORMS: [&str; 2] = ["run", "exec"];

/// Does this command line mean to run a command? Told from its words, also when clap can't make sense of them.
pub fn means_to_run(words: &[OsString]) -> bool {
    let form =
        words.iter().skip(1).take_while(|word| *word != "--").find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    form.and_then(|word| word.to_str()).is_none_or(|word| RUN_FORMS.contains(&word) || !is_form(word))
}

fn is_form(word: &str) -> bool {
    use clap::CommandFactory;
    word == "help" || Cli::command().find_subcommand(word).is_some()
}

/// The same, for a form that runs no command.
fn usage_error_of_form(error: &clap::Error, words: &[OsString]) -> String {
    use clap::CommandFactory;
    use clap::error::ErrorKind;
    let mut command = Cli::command();
    let mut form = String::new();
    for word in words.iter().skip(1).map_while(|word| word.to_str()) {
        let Some(inner) = command.find_subcommand(word).cloned() else { break };
        command = inner;
        form = format!("{form} {word}").trim_start().to_owned();
    }
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        let forms: Vec<&str> =
            command.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help").collect();
        return format!("{form} needs to know what to do: {}; see: ccci-guard {form} --help", forms.join(", "));
    }
    let rendered = error.render().to_string();
    let mut lines = rendered.lines();
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches(':').to_owned();
    let missing = if error.kind() == ErrorKind::MissingRequiredArgument {
        let named: Vec<&str> = lines.take_while(|line| line.starts_with(' ')).map(str::trim).collect();
        format!(": {}", named.join(" "))
    } else {
        String::new()
    };
    format!("{form}: {first}{missing}; see: ccci-guard {form} --help")
}

/// The form whose name is most like this word, if any is.
fn nearest_form(word: &str) -> Option<String> {
    use clap::CommandFactory;
    let likeness = |form: &str| strsim::jaro(form, word);
    let forms = Cli::command().get_subcommands().map(|form| form.get_name().to_owned()).collect::<Vec<_>>();
    forms.into_iter().filter(|form| likeness(form) > 0.7).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// One sentence for what clap could not make sense of.
pub fn usage_error(error: &clap::Error, words: &[OsString]) -> String {
    if !means_to_run(words) {
        return usage_error_of_form(error, words);
    }
    use clap::error::{ContextKind, ContextValue};
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let word = context(ContextKind::InvalidSubcommand).or_else(|| context(ContextKind::InvalidArg));
    if let Some(word) = word.filter(|word| !word.starts_with('-') && !word.is_empty()) {
        let hint = nearest_form(&word).map(|form| format!("did you mean '{form}'? ")).unwrap_or_default();
        return format!("unexpected '{word}': {hint}To run a command: ccci-guard -- {word}").replace(": To", ". To");
    }
    let rendered = error.render().to_string();
    let first = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hint = context(ContextKind::SuggestedArg).map(|arg| format!(" (did you mean '{arg}'?)")).unwrap_or_default();
    format!("{first}{hint}; usage: {RUN_USAGE}; see: ccci-guard --help")
}
