//! Calling git so that nothing of the caller has a say in it: no `GIT_…` variable, no configuration of the user or the
//! host, no hook, no template, no prompt.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::abra_dir::mark::MARKS;
use crate::error::Error;
use crate::harness;
use crate::settings;
use crate::sys::directory::Directory;
use crate::sys::process::Ended;
use crate::sys::signal::{Delivery, Inherited};
use crate::sys::time;
use crate::teardown::runner::{Command, End, Output, Runner};

/// A copy within one host that takes longer hangs.
const WITHIN: Duration = Duration::from_secs(600);

/// git's home, beside the mark.
const HOME: &str = "home";

/// What git reads there, in place of the user's configuration.
///
/// A repository may be another user's: it is only read. A commit that no ref leads to may be asked for. The copy is for
/// one run: to look for deltas, to compress and to wait for the disk would cost more than all the rest.
const CONFIG: &str = "[safe]\n\tdirectory = *\n[uploadpack]\n\tallowAnySHA1InWant = true\n\
    [pack]\n\twindow = 0\n\tthreads = 1\n[core]\n\tcompression = 0\n\tfsync = none\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n\
    [advice]\n\tdetachedHead = false\n";

/// Makes the home of git in the directory of a mark.
///
/// # Errors
/// A full disk.
pub fn make_home(marks: &Directory) -> io::Result<()> {
    marks.make(HOME, 0o700)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    marks.child(HOME)?.file(".gitconfig", flags, 0o600)?.write_all(CONFIG.as_bytes())
}

/// Why something was not done.
#[derive(Debug)]
pub enum Stopped {
    /// Somebody asked this process to stop, by this signal.
    Asked(i32),
    /// It failed.
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Failed(error)
    }
}

/// What is checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A branch (`refs/heads/…`), at a commit.
    Branch(String, String),
    /// A commit alone.
    Detached(String),
    /// A branch without a commit.
    Unborn,
}

impl Head {
    /// The text of `.git/HEAD`, where it is known.
    pub fn as_file(&self) -> Option<String> {
        match self {
            Head::Branch(branch, _) => Some(format!("ref: {branch}\n")),
            Head::Detached(commit) => Some(format!("{commit}\n")),
            Head::Unborn => None,
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Head::Branch(branch, commit) => write!(f, "{commit} {branch}"),
            Head::Detached(commit) => f.write_str(commit),
            Head::Unborn => f.write_str("unborn"),
        }
    }
}

/// What calling programs needs of the process.
pub struct Tools<'a> {
    /// Signals.
    pub delivery: &'a Delivery,
    /// What a child gets back.
    pub inherited: &'a Inherited,
    /// `PATH`.
    pub search_path: Option<OsString>,
}

/// git, with a home of ours.
pub struct Git<'a> {
    runner: Runner<'a>,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl<'a> Git<'a> {
    /// Finds the program; `abra` is the ABRA_DIR that it works for.
    ///
    /// # Errors
    /// There is no git.
    pub fn new(tools: &Tools<'a>, abra: &Path) -> Result<Self, Error> {
        let home = abra.join(MARKS).join(HOME);
        let program = harness::look_up(OsStr::new("git"), tools.search_path.as_deref())
            .ok_or_else(|| Error::Tool("there is no 'git' in PATH; install git".to_owned()))?;
        let mut environment = settings::caller_environment();
        // GIT_DIR, GIT_INDEX_FILE and their like would turn each command to another repository.
        environment.retain(|(name, _)| {
            let name = name.as_encoded_bytes();
            !name.starts_with(b"GIT_") && name != b"HOME" && name != b"XDG_CONFIG_HOME" && name != b"LC_ALL"
        });
        let ours: [(&str, &OsStr); 5] = [
            ("HOME", home.as_os_str()),
            ("GIT_CONFIG_NOSYSTEM", OsStr::new("1")),
            ("GIT_TERMINAL_PROMPT", OsStr::new("0")),
            ("GIT_OPTIONAL_LOCKS", OsStr::new("0")),
            ("LC_ALL", OsStr::new("C")),
        ];
        environment.extend(ours.map(|(name, value)| (name.into(), value.to_owned())));
        let mut runner = Runner::new(tools.delivery, tools.inherited, Default::default(), true)
            .map_err(Error::system("cannot make a timer"))?;
        // Nobody would miss it: what it makes is for us alone.
        runner.ends_with_us();
        Ok(Git { runner, program, environment })
    }

    /// Runs git in `directory`; its output, or `None` when it exits with another status than 0.
    ///
    /// # Errors
    /// A request to stop; git could not be run, or did not end.
    pub fn ask(&mut self, directory: &Path, words: &[&OsStr]) -> Result<Option<Vec<u8>>, Stopped> {
        match self.call(directory, words)? {
            (Ended::Code(0), output, _) => Ok(Some(output)),
            _ => Ok(None),
        }
    }

    /// What is checked out in a repository; `None` for what is no repository.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub fn head(&mut self, repository: &Path) -> Result<Option<Head>, Stopped> {
        let words = ["rev-parse", "--git-dir", "HEAD", "--symbolic-full-name", "HEAD"].map(OsStr::new);
        let (_, output, _) = self.call(repository, &words)?;
        let output = String::from_utf8_lossy(&output);
        // The first line names the repository's directory. Of one without a commit there is nothing more to tell.
        let mut lines = output.lines();
        Ok(lines.next().map(|_| match (lines.next(), lines.next()) {
            (Some(commit), Some("HEAD")) => Head::Detached(commit.to_owned()),
            (Some(commit), Some(branch)) if commit != "HEAD" => Head::Branch(branch.to_owned(), commit.to_owned()),
            _ => Head::Unborn,
        }))
    }

    /// Runs git in `directory`, which must succeed.
    ///
    /// # Errors
    /// See [`Self::ask`]; and what git says of its failure.
    pub fn run(&mut self, directory: &Path, words: &[&OsStr]) -> Result<(), Stopped> {
        match self.call(directory, words)? {
            (Ended::Code(0), ..) => Ok(()),
            (how, _, errors) => Err(Stopped::Failed(failure(words, how, &errors))),
        }
    }

    fn call(&mut self, directory: &Path, words: &[&OsStr]) -> Result<(Ended, Vec<u8>, Vec<u8>), Stopped> {
        let mut argv = vec![self.program.clone().into_os_string(), "-C".into(), directory.as_os_str().to_owned()];
        argv.extend(words.iter().map(|word| (*word).to_owned()));
        let mut environment = self.environment.clone();
        // A directory that is no repository must not be taken for a part of one above it.
        let above = directory.parent().unwrap_or(directory);
        environment.push(("GIT_CEILING_DIRECTORIES".into(), above.as_os_str().to_owned()));
        let command = Command { argv, environment };
        let ran = self.runner.run(&command, None, Output::Capture, time::now() + WITHIN, |_| (), |_| ());
        match ran.end {
            End::Ended(how) => Ok((how, ran.output, ran.errors)),
            End::Asked(signal) => Err(Stopped::Asked(signal)),
            End::TimedOut => {
                Err(Stopped::Failed(Error::Tool(format!("{} did not end within 10 minutes", named(words)))))
            }
            End::NotStarted(error) => Err(Stopped::Failed(Error::Tool(format!("cannot run git: {error}")))),
        }
    }
}

fn named(words: &[&OsStr]) -> String {
    format!("git {}", words.first().map(|word| word.to_string_lossy()).unwrap_or_default())
}

fn failure(words: &[&OsStr], how: Ended, errors: &[u8]) -> Error {
    let errors = String::from_utf8_lossy(errors);
    let lines = || errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let told =
        lines().find(|line| line.starts_with("fatal:") || line.starts_with("error:")).or_else(|| lines().next_back());
    let told = told.map(|line| format!(": {line}")).unwrap_or_default();
    Error::Tool(format!("{} failed (status {}){told}", named(words), how.as_shell_status()))
}
