//! The command line of `state`.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;

use crate::app::AppName;
use crate::cli::{StateArgs, StateForm, StateOptions};
use crate::error::Error;
use crate::exit_status::ExitStatus;
use crate::log;
use crate::run_state::gc::{self, MANUAL, Swept};
use crate::run_state::place::{Home, Roots};
use crate::run_state::{file_name, make_files, mode_of_first, new_file, new_file_of_mode};
use crate::settings::{self, STATE_KINDS, StateKind, StateSettings, Whose, shell_quoted};
use crate::sys::directory::explained;
use crate::sys::process::Pid;

/// Longest name of a deploy, in bytes: with its line end one write that no other can come between (write(2)).
const NAME_MAX: usize = 255;

/// One `state` command; returns the status to exit with.
pub fn run(args: &StateArgs) -> u8 {
    let status = dispatch(&args.form).unwrap_or_else(|error| {
        log::say_error(&error.to_string());
        error.command_status()
    });
    status as u8
}

fn dispatch(form: &StateForm) -> Result<ExitStatus, Error> {
    let begin = |options: &StateOptions| {
        settings::resolve_log(&options.log).and_then(log::start)?;
        settings::resolve_state_options(options)
    };
    match form {
        StateForm::Init(options) => Ok(print(&init(&begin(options)?)?.as_exports())),
        StateForm::Env(options) => Ok(print(&Files::find(&begin(options)?)?.as_exports())),
        StateForm::Path(args) => {
            let settings = begin(&args.options)?;
            let kind = settings::parse_word("state file", &args.kind, parse_kind)?;
            Ok(print(&format!("{}\n", Files::find(&settings)?.path(kind.name).display())))
        }
        StateForm::RecordDeploy(args) => {
            let settings = begin(&args.options)?;
            let name = settings::parse_word("deploy", &args.name, parse_name)?;
            append(Files::find(&settings)?.path("deploys"), &name)
        }
        StateForm::RecordApp(args) => {
            let settings = begin(&args.options)?;
            let app = settings::parse_word("app", &args.domain, AppName::parse)?;
            append(Files::find(&settings)?.path("apps"), app.as_str())
        }
        StateForm::Show(args) => {
            let files = Files::find(&begin(&args.options)?)?;
            Ok(print(&if args.json { files.as_json()? } else { files.as_text()? }))
        }
        StateForm::Gc(args) => {
            let settings = begin(&args.options)?;
            let roots = Roots::from(&settings);
            Ok(say(&match &settings.whose {
                Whose::Given(id, pid) => gc::remove_one(roots, id, *pid, args.dry_run)?,
                Whose::Own(..) | Whose::Nobody => gc::sweep(roots, args.dry_run)?,
            }))
        }
    }
}

fn print(text: &str) -> ExitStatus {
    log::stdout(text);
    ExitStatus::Success
}

fn say(swept: &Swept) -> ExitStatus {
    let lines = swept.removed.iter().map(|(_, path)| format!("{}\n", path.display()));
    log::stdout(&lines.collect::<String>());
    for (path, error) in &swept.failed {
        log::say_error(&format!("cannot remove '{}': {error}", path.display()));
    }
    if swept.failed.is_empty() { ExitStatus::Success } else { ExitStatus::Failed }
}

fn parse_kind(text: &str) -> Result<StateKind, String> {
    STATE_KINDS.into_iter().find(|kind| kind.name == text).ok_or_else(|| {
        let names: Vec<&str> = STATE_KINDS.iter().map(|kind| kind.name).collect();
        format!("is unknown; use {}", names.join(", "))
    })
}

/// One line of a file that counts lines.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("is empty; give it a name".to_owned())
    } else if text.len() > NAME_MAX {
        Err(format!("is {} bytes long; {NAME_MAX} at most", text.len()))
    } else if text.contains(char::is_control) {
        Err("has a line end or another control character in it".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// The state files of one process.
struct Files {
    run_id: Option<String>,
    pid: Option<i32>,
    /// In the order of [`STATE_KINDS`].
    paths: Vec<PathBuf>,
}

impl Files {
    fn find(settings: &StateSettings) -> Result<Self, Error> {
        let files = match &settings.whose {
            Whose::Own(run_id, paths) => {
                Files { run_id: run_id.clone(), pid: process_of(&paths[0]), paths: paths.clone() }
            }
            Whose::Given(id, pid) => {
                let homes = Roots::from(settings).all().into_iter().map(|place| Home::of(&place, id));
                let all = homes.map(|home| Files::in_home(&home, id.as_str(), *pid));
                let found = all.into_iter().find(|files| files.path("deploys").symlink_metadata().is_ok());
                found.ok_or_else(|| {
                    Error::Missing(format!(
                        "run {id} has no state files of process {pid}; make some: ccci-guard state init"
                    ))
                })?
            }
            Whose::Nobody => {
                return Err(Error::Usage(
                    "whose state? There is no guard above this process; give --run-id and --pid".to_owned(),
                ));
            }
        };
        Ok(files)
    }

    fn in_home(home: &Home, id: &str, pid: Pid) -> Self {
        let paths = STATE_KINDS.iter().map(|kind| home.file(&file_name(pid, kind.name))).collect();
        Files { run_id: Some(id.to_owned()), pid: Some(pid.as_raw()), paths }
    }

    fn path(&self, kind: &str) -> &Path {
        let at = STATE_KINDS.iter().position(|known| known.name == kind).unwrap_or_default();
        &self.paths[at]
    }

    fn deploys(&self) -> Result<usize, Error> {
        self.lines("deploys")
    }

    fn lines(&self, kind: &str) -> Result<usize, Error> {
        let path = self.path(kind);
        let read = |path: &Path| -> io::Result<Vec<u8>> {
            let mut text = Vec::new();
            existing(path, OpenOptions::new().read(true))?.read_to_end(&mut text)?;
            Ok(text)
        };
        let text = read(path).map_err(|error| unusable(path, error))?;
        Ok(text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count())
    }

    fn as_exports(&self) -> String {
        let mut text = String::new();
        if let Some(id) = &self.run_id {
            let _ = writeln!(text, "export CCCI_RUN_ID={}", shell_quoted(id.as_ref()));
        }
        for (kind, path) in STATE_KINDS.iter().zip(&self.paths) {
            let _ = writeln!(text, "export {}={}", kind.variable, shell_quoted(path.as_os_str()));
        }
        text
    }

    fn as_json(&self) -> Result<String, Error> {
        let [deploys, opstate, deps, depskip, apps] = STATE_KINDS.map(|kind| self.path(kind.name));
        let paths = Paths { deploys, opstate, deps, depskip, apps };
        let shown = Shown { run_id: self.run_id.as_deref(), pid: self.pid, deploys: self.deploys()?, paths };
        Ok(log::json_line(&shown))
    }

    fn as_text(&self) -> Result<String, Error> {
        let pid = self.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let mut text = format!("run_id  {}\npid  {pid}\n", self.run_id.as_deref().unwrap_or_default());
        for (kind, path) in STATE_KINDS.iter().zip(&self.paths) {
            let count = if kind.made { format!("{}  ", self.lines(kind.name)?) } else { String::new() };
            let _ = writeln!(text, "{}  {count}{}", kind.name, path.display());
        }
        Ok(text)
    }
}

/// What `show --json` prints. Its keys are a contract.
#[derive(Serialize)]
struct Shown<'a> {
    run_id: Option<&'a str>,
    pid: Option<i32>,
    deploys: usize,
    paths: Paths<'a>,
}

#[derive(Serialize)]
struct Paths<'a> {
    #[serde(serialize_with = "log::path_as_text")]
    deploys: &'a Path,
    #[serde(serialize_with = "log::path_as_text")]
    opstate: &'a Path,
    #[serde(serialize_with = "log::path_as_text")]
    deps: &'a Path,
    #[serde(serialize_with = "log::path_as_text")]
    depskip: &'a Path,
    #[serde(serialize_with = "log::path_as_text")]
    apps: &'a Path,
}

/// `…/4242.deploys`, or `…/1190.4242.deploys`.
fn process_of(path: &Path) -> Option<i32> {
    path.file_stem()?.to_str()?.rsplit('.').next()?.parse().ok()
}

/// Opens a file that must be there, and be one.
fn existing(path: &Path, options: &mut OpenOptions) -> io::Result<fs::File> {
    let file = options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is no file"));
    }
    Ok(file)
}

fn unusable(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::Missing(format!("'{}' is not there any more: its run is over", path.display())),
        _ => Error::File { what: "cannot use the state file", path: path.to_owned(), error: explained(error) },
    }
}

fn append(path: &Path, line: &str) -> Result<ExitStatus, Error> {
    let mut file = existing(path, OpenOptions::new().append(true)).map_err(|error| unusable(path, error))?;
    let line = format!("{line}\n");
    // One write at the file's end, whoever else appends (open(2), O_APPEND).
    match file.write(line.as_bytes()) {
        Ok(length) if length == line.len() => Ok(ExitStatus::Success),
        Ok(_) => Err(unusable(path, io::Error::other("no room: only a part of the line was written"))),
        Err(error) => Err(unusable(path, error)),
    }
}

fn init(settings: &StateSettings) -> Result<Files, Error> {
    let Whose::Given(id, pid) = &settings.whose else {
        return Err(Error::Usage("whose state? Give --run-id and --pid".to_owned()));
    };
    if let Ok(there) = Files::find(settings) {
        return Err(Error::Exists(format!(
            "'{}' exists already; nothing was changed",
            there.path("deploys").display()
        )));
    }
    let mut failure = None;
    for place in Roots::from(settings).for_new() {
        match Home::make(&place, id) {
            Ok(home) => return init_in(&home, id.as_str(), *pid),
            Err(failed) => failure = Some(failed),
        }
    }
    let (path, error) = failure.unwrap_or_else(|| (settings.runs_dir.clone(), ErrorKind::NotFound.into()));
    Err(Error::File {
        what: "cannot make a directory for the state (set CCCI_STATE_DIR to one that works)",
        path,
        error,
    })
}

fn init_in(home: &Home, id: &str, pid: Pid) -> Result<Files, Error> {
    // First: a sweep that comes between would take the others for a dead run's.
    let manual = home.file(&file_name(pid, MANUAL));
    let made = new_file_of_mode(&manual, mode_of_first(home))
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Error::Exists(format!("'{}' exists already; nothing was changed", manual.display()))
            }
            _ => Error::File { what: "cannot make the state file", path: manual.clone(), error },
        })
        .and_then(|()| {
            make_files(|name| home.file(&file_name(pid, name)), new_file).inspect_err(|_| {
                for kind in STATE_KINDS {
                    let _ = fs::remove_file(home.file(&file_name(pid, kind.name)));
                }
                let _ = fs::remove_file(&manual);
            })
        });
    if made.is_err() {
        home.remove();
    }
    made.map(|()| Files::in_home(home, id, pid))
}
