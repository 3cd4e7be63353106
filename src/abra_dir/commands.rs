//! The command line of `abra-dir`.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};

use crate::abra_dir::build::{AbraDir, Plan};
use crate::abra_dir::fetch::{self, Recipe, Version};
use crate::abra_dir::git::{Stopped, Tools};
use crate::abra_dir::mark::{MadeBy, Marked, Use};
use crate::abra_dir::place::{Found, NAME, RunDirectory};
use crate::abra_dir::{gc, verify};
use crate::app::RunId;
use crate::cli::{AbraDirArgs, AbraDirForm, AbraDirOptions, CreateArgs, FetchArgs};
use crate::error::Error;
use crate::exit_status::ExitStatus;
use crate::log;
use crate::settings::{self, AbraDirSettings, shell_quoted};
use crate::sys::directory::Directory;
use crate::sys::process;
use crate::sys::signal::{self, Delivery, Inherited};

/// One `abra-dir` command; returns the status to exit with.
pub fn run(inherited: Inherited, args: &AbraDirArgs) -> u8 {
    match dispatch(&inherited, &args.form) {
        Ok(status) => status as u8,
        Err(Stopped::Asked(signal)) => 128 + u8::try_from(signal).unwrap_or(0),
        Err(Stopped::Failed(error)) => {
            log::say_error(&error.to_string());
            error.command_status() as u8
        }
    }
}

fn dispatch(inherited: &Inherited, form: &AbraDirForm) -> Result<ExitStatus, Stopped> {
    let delivery = prepare(inherited)?;
    let begin = |options: &AbraDirOptions| {
        settings::resolve_log(&options.log).and_then(log::start)?;
        let settings = settings::resolve_abra_dir_options(options)?;
        // Paths are absolute by now; git would stumble over a directory that is gone.
        let _ = std::env::set_current_dir("/");
        Ok::<_, Error>(settings)
    };
    let tools = |settings: &AbraDirSettings| Tools {
        delivery: &delivery,
        inherited,
        search_path: settings.search_path.clone(),
    };
    match form {
        AbraDirForm::Create(args) => {
            let settings = begin(&args.options)?;
            create(&tools(&settings), &settings, args)
        }
        AbraDirForm::Path(args) => {
            let settings = begin(&args.options)?;
            path(&settings, &args.id, args.recipe.as_deref())
        }
        AbraDirForm::Env(args) => {
            let settings = begin(&args.options)?;
            Ok(print(&export(&find(&settings, &args.id)?.path)))
        }
        AbraDirForm::Fetch(args) => {
            let settings = begin(&args.options)?;
            fetch_one(&tools(&settings), &settings, args)
        }
        AbraDirForm::Verify(args) => {
            let settings = begin(&args.options)?;
            let found = find(&settings, &args.id)?;
            let faults = verify::faults(&tools(&settings), &found, &canonical_of(&settings, &found))?;
            faults.iter().for_each(|fault| log::say_error(fault));
            Ok(if faults.is_empty() { ExitStatus::Success } else { ExitStatus::Failed })
        }
        AbraDirForm::List(args) => {
            let settings = begin(&args.options)?;
            let list = List::of(&settings.runs_dir)?;
            Ok(print(&if args.json { log::json_line(&list) } else { list.as_text() }))
        }
        AbraDirForm::Remove(args) => {
            let settings = begin(&args.options)?;
            remove(&settings.runs_dir, &settings::parse_run_id(&args.id)?, args.dry_run)
        }
        AbraDirForm::Gc(args) => {
            let settings = begin(&args.options)?;
            sweep(&settings.runs_dir, args.kept, args.dry_run)
        }
    }
}

/// This process runs git: its children's ends, and what they leave, are ours to see.
fn prepare(inherited: &Inherited) -> Result<Delivery, Error> {
    signal::ignore(SIGXFSZ);
    process::set_subreaper().map_err(Error::system("cannot become a subreaper"))?;
    let requests = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];
    let mut handled: Vec<i32> = requests.into_iter().filter(|&number| !inherited.ignores(number)).collect();
    handled.push(SIGCHLD);
    Delivery::new(&handled).map_err(Error::system("cannot handle signals"))
}

fn find(settings: &AbraDirSettings, id: &OsStr) -> Result<Found, Error> {
    let id = settings::parse_run_id(id)?;
    Found::open(settings.runs_dir_of(&id), &id)
}

fn print(text: &str) -> ExitStatus {
    log::stdout(text);
    ExitStatus::Success
}

fn export(path: &Path) -> String {
    format!("export ABRA_DIR={}\n", shell_quoted(path.as_os_str()))
}

fn create(tools: &Tools<'_>, settings: &AbraDirSettings, args: &CreateArgs) -> Result<ExitStatus, Stopped> {
    let id = settings::resolve_run_id(args.run_id.as_deref())?;
    let wanted: Vec<(Recipe, Version)> =
        args.recipe.iter().map(|text| parse_recipe_and_ref(text)).collect::<Result<_, _>>()?;
    let canonical = &settings.canonical()?;
    for (at, (recipe, _)) in wanted.iter().enumerate() {
        if wanted[..at].iter().any(|(before, _)| before == recipe) {
            return Err(Error::Usage(format!("recipe {} is given twice", recipe.as_str())).into());
        }
    }
    let plan = Plan { runs_dir: &settings.runs_dir, id: &id, canonical, locks: Vec::new(), made_run_dir: false };
    let new = AbraDir::by_hand(&plan).map_err(Error::from)?;
    for (recipe, version) in &wanted {
        let fetched = fetch::fetch(tools, new.marked(), &new.path(), canonical, recipe, version);
        if let Err(stopped) = fetched {
            new.remove();
            return Err(stopped);
        }
    }
    let path = new.finish().map_err(Error::from)?.path();
    Ok(print(&if args.json {
        log::json_line(&Created { schema: 1, run_id: id.as_str(), abra_dir: &path })
    } else if args.export {
        export(&path)
    } else {
        format!("{}\n", path.display())
    }))
}

/// `R` or `R@REF`.
fn parse_recipe_and_ref(text: &OsStr) -> Result<(Recipe, Version), Error> {
    settings::parse_word("recipe", text, |text| match text.split_once('@') {
        None => Ok((Recipe::parse(text)?, Version::Head)),
        Some((recipe, name)) => Ok((Recipe::parse(recipe)?, Version::Ref(fetch::parse_ref(name)?))),
    })
}

fn path(settings: &AbraDirSettings, id: &OsStr, recipe: Option<&OsStr>) -> Result<ExitStatus, Stopped> {
    let found = find(settings, id)?;
    let path = match recipe {
        None => found.path,
        Some(recipe) => {
            let recipe = settings::parse_word("recipe", recipe, Recipe::parse)?;
            let there = found.marked.directory.child("recipes").is_ok_and(|all| all.has_directory(recipe.as_str()));
            let path = found.path.join("recipes").join(recipe.as_str());
            if !there {
                return Err(Error::Missing(format!(
                    "recipe {} has not been fetched: '{}' is not there",
                    recipe.as_str(),
                    path.display()
                ))
                .into());
            }
            path
        }
    };
    Ok(print(&format!("{}\n", path.display())))
}

/// The canonical directory that was asked for, else the one that it was made from.
fn canonical_of(settings: &AbraDirSettings, found: &Found) -> PathBuf {
    settings.given_canonical.clone().unwrap_or_else(|| found.mark().canonical.clone())
}

fn fetch_one(tools: &Tools<'_>, settings: &AbraDirSettings, args: &FetchArgs) -> Result<ExitStatus, Stopped> {
    let recipe = settings::parse_word("recipe", &args.recipe, Recipe::parse)?;
    let version = match &args.git_ref {
        Some(name) => Version::Ref(settings::parse_word("--ref", name, fetch::parse_ref)?),
        None if args.staged => Version::Staged,
        None => Version::Head,
    };
    let found = find(settings, &args.id)?;
    // Nobody may remove it under us.
    if !found.marked.hold(&found.run.directory, OsStr::new(NAME)) {
        return Err(Error::Missing(format!("'{}' is being removed", found.path.display())).into());
    }
    let canonical = canonical_of(settings, &found);
    let path = fetch::fetch(tools, &found.marked, &found.path, &canonical, &recipe, &version)?;
    Ok(print(&format!("{}\n", path.display())))
}

fn remove(runs_dir: &Path, id: &RunId, dry_run: bool) -> Result<ExitStatus, Stopped> {
    let found = Found::open(runs_dir, id).map_err(|error| match error {
        // To a removal it is no missing input, but a reason not to do it.
        Error::NotOurs(problem) => Error::Tool(problem),
        other => other,
    })?;
    let failed = |error| Error::File { what: "cannot remove the ABRA_DIR", path: found.path.clone(), error };
    match found.marked.take(&found.run.directory, OsStr::new(NAME)).map_err(failed)? {
        Use::Live => Err(Error::Tool(format!(
            "the ABRA_DIR of run {id} is in use by a live run or a fetch; nothing was removed"
        ))
        .into()),
        // Another was faster, which is what was asked for.
        Use::Gone => Ok(ExitStatus::Success),
        Use::Ours if dry_run => Ok(print(&format!("{}\n", found.path.display()))),
        Use::Ours => {
            gc::remove(&found.run, found.mark()).map_err(failed)?;
            Ok(ExitStatus::Success)
        }
    }
}

fn sweep(runs_dir: &Path, kept: bool, dry_run: bool) -> Result<ExitStatus, Stopped> {
    let swept = gc::sweep(runs_dir, kept, dry_run).map_err(|error| cannot_read(runs_dir, error))?;
    let mut text = String::new();
    for (_, path) in &swept.removed {
        let _ = writeln!(text, "{}", path.display());
    }
    log::stdout(&text);
    swept.say_what_stays();
    for (path, error) in &swept.failed {
        log::say_error(&format!("cannot remove '{}': {error}", path.display()));
    }
    Ok(if swept.failed.is_empty() { ExitStatus::Success } else { ExitStatus::Failed })
}

fn cannot_read(runs_dir: &Path, error: std::io::Error) -> Error {
    Error::File { what: "cannot read the runs directory", path: runs_dir.to_owned(), error }
}

/// What `create --json` prints. Its keys are a contract.
#[derive(Serialize)]
struct Created<'a> {
    schema: u32,
    run_id: &'a str,
    #[serde(serialize_with = "log::path_as_text")]
    abra_dir: &'a Path,
}

/// What `list --json` prints. Its keys are a contract.
#[derive(Serialize)]
struct List {
    schema: u32,
    runs: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    run_id: String,
    #[serde(serialize_with = "log::path_as_text")]
    abra_dir: PathBuf,
    alive: bool,
    recipes: Vec<String>,
    made_by: MadeBy,
    kept: bool,
}

impl List {
    fn of(runs_dir: &Path) -> Result<Self, Error> {
        let names = match Directory::open(runs_dir).and_then(|runs| runs.names()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|error| cannot_read(runs_dir, error))?,
        };
        let ids = names.iter().filter_map(|name| RunId::parse(name.to_str()?).ok());
        Ok(List { schema: 1, runs: ids.filter_map(|id| Listed::of(runs_dir, &id)).collect() })
    }

    fn as_text(&self) -> String {
        self.runs.iter().fold(String::new(), |mut text, run| {
            let state = match run.made_by {
                MadeBy::Create => "manual",
                MadeBy::Run if run.alive => "alive",
                MadeBy::Run if run.kept => "kept",
                MadeBy::Run => "dead",
            };
            let line = format!("{}  {state}  {}  {}", run.run_id, run.abra_dir.display(), run.recipes.join(","));
            let _ = writeln!(text, "{}", line.trim_end());
            text
        })
    }
}

impl Listed {
    /// `None` for a run without an ABRA_DIR of ours.
    fn of(runs_dir: &Path, id: &RunId) -> Option<Self> {
        let run = RunDirectory::open(runs_dir, id.as_str()).ok()?;
        let marked = Marked::open(&run.directory, OsStr::new(NAME))
            .inspect_err(|error| {
                if error.kind() == ErrorKind::PermissionDenied {
                    let path = run.path.join(NAME);
                    tracing::warn!(event = "abra-dir-unseen", "cannot look at '{}': another user's", path.display());
                }
            })
            .ok()??;
        let recipes = marked.directory.child("recipes").and_then(|recipes| recipes.names()).unwrap_or_default();
        Some(Listed {
            run_id: id.to_string(),
            abra_dir: run.path.join(NAME),
            alive: marked.mark.made_by == MadeBy::Run && marked.is_live(),
            recipes: recipes.iter().map(|name| name.to_string_lossy().into_owned()).collect(),
            made_by: marked.mark.made_by,
            kept: marked.is_kept(),
        })
    }
}
