//! Builds one command line of the guard, hermetic unless a test says otherwise.

use super::{APP, Exit, FIXTURE, GUARD, Proc, Sandbox};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How the guard is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `ccci-guard OPTIONS -- COMMAND`
    Bare,
    /// `ccci-guard run OPTIONS -- COMMAND`
    Run,
    /// `ccci-guard exec OPTIONS -- COMMAND`
    Exec,
    /// `ccci-guard ARGUMENTS`
    Plain,
}

/// What a finished guard left: its exit, and all it wrote.
#[derive(Debug)]
pub struct Output {
    /// The status as a shell shows it, and the time it took.
    pub exit: Exit,
    /// Everything on stdout.
    pub stdout: Vec<u8>,
    /// Everything on stderr.
    pub stderr: String,
}

impl Output {
    /// The status as a shell shows it.
    pub fn code(&self) -> i32 {
        self.exit.code
    }

    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A guard that has not been started yet.
pub struct Guard<'a> {
    sandbox: &'a Sandbox,
    form: Form,
    program: PathBuf,
    under: Vec<OsString>,
    options: Vec<OsString>,
    harness: Option<Vec<OsString>>,
    tweaks: Vec<Tweak>,
}

type Tweak = Box<dyn FnOnce(&mut Command)>;

impl<'a> Guard<'a> {
    /// See `Sandbox::run` and its kin.
    pub fn new(sandbox: &'a Sandbox, form: Form) -> Self {
        let program = PathBuf::from(GUARD);
        let (under, options, tweaks) = (Vec::new(), Vec::new(), Vec::new());
        Self { sandbox, form, program, under, options, harness: None, tweaks }
    }

    /// One more argument before the `--`.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.options.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments before the `--`.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// `--app` with the default app. It needs `--teardown` too.
    pub fn app(self) -> Self {
        self.args(["--app", APP])
    }

    /// `--teardown COMMAND`.
    pub fn teardown(self, command: impl AsRef<OsStr>) -> Self {
        self.arg("--teardown").arg(command)
    }

    /// `--deadline D`.
    pub fn deadline(self, duration: &str) -> Self {
        self.args(["--deadline", duration])
    }

    /// `--grace D`.
    pub fn grace(self, duration: &str) -> Self {
        self.args(["--grace", duration])
    }

    /// `--report` into the sandbox's `report.json`.
    pub fn report(self) -> Self {
        let path = self.sandbox.path("report.json");
        self.arg("--report").arg(path)
    }

    /// The harness: what stands behind the `--`.
    pub fn harness<S: AsRef<OsStr>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
        self.harness = Some(argv.into_iter().map(|a| a.as_ref().to_owned()).collect());
        self
    }

    /// A shell script as harness.
    pub fn sh(self, script: &str) -> Self {
        self.harness(["/bin/sh", "-c", script])
    }

    /// A role of the fixture as harness, its words split at blanks.
    pub fn fixture(self, role: &str) -> Self {
        self.harness(std::iter::once(FIXTURE).chain(role.split_whitespace()))
    }

    /// Starts the guard through other programs: `.under(["timeout", "-s", "TERM", "1"])`.
    pub fn under<S: AsRef<OsStr>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
        self.under.extend(argv.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Called by a shell that waits for it and then says `status N`: a caller that can be killed alone.
    pub fn called_by_shell(self) -> Self {
        self.under(["/bin/sh", "-c", "\"$@\"; echo \"status $?\"", "sh"])
    }

    /// All dispositions default and nothing blocked, whatever the tests themselves were started with
    /// (`nohup`, or a script's `&`, which ignores INT and QUIT).
    pub fn default_signals(self) -> Self {
        self.under([FIXTURE, "exec-with", "--default-all", "--"])
    }

    /// Another copy of the guard's program (its name must stay `ccci-guard`).
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// A variable in the guard's environment.
    pub fn env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.tweak(|c| c.env(name, value))
    }

    /// Takes one of the hermetic variables away.
    pub fn env_remove(self, name: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref().to_owned();
        self.tweak(|c| c.env_remove(name))
    }

    /// Another working directory than the sandbox's `work`.
    pub fn cwd(self, dir: impl AsRef<std::path::Path>) -> Self {
        let dir = dir.as_ref().to_owned();
        self.tweak(|c| c.current_dir(dir))
    }

    /// Stdin, else `/dev/null`.
    pub fn stdin(self, stdin: impl Into<Stdio>) -> Self {
        let stdin = stdin.into();
        self.tweak(|c| c.stdin(stdin))
    }

    /// Stdout, else a pipe that is read.
    pub fn stdout(self, stdout: impl Into<Stdio>) -> Self {
        let stdout = stdout.into();
        self.tweak(|c| c.stdout(stdout))
    }

    /// Stderr, else a pipe that is read.
    pub fn stderr(self, stderr: impl Into<Stdio>) -> Self {
        let stderr = stderr.into();
        self.tweak(|c| c.stderr(stderr))
    }

    /// In a process group of its own, so that a test may signal all of it.
    pub fn own_group(self) -> Self {
        self.tweak(|c| c.process_group(0))
    }

    /// Credentials for a guard that is not root.
    pub fn user(self, uid: u32, gid: u32) -> Self {
        self.tweak(move |c| c.uid(uid).gid(gid))
    }

    /// The whole command line, as `exec` would get it.
    pub fn argv(&self) -> Vec<OsString> {
        let mut argv = self.under.clone();
        argv.push(self.program.clone().into());
        match self.form {
            Form::Run => argv.push("run".into()),
            Form::Exec => argv.push("exec".into()),
            Form::Bare | Form::Plain => {}
        }
        argv.extend(self.options.iter().cloned());
        if let Some(harness) = &self.harness {
            argv.push("--".into());
            argv.extend(harness.iter().cloned());
        }
        argv
    }

    /// The command line quoted for a shell, for a test whose caller is a script.
    pub fn line(&self) -> String {
        let quote = |word: &OsString| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
        self.argv().iter().map(quote).collect::<Vec<_>>().join(" ")
    }

    /// Any other change to the command that is started.
    pub fn tweak(mut self, tweak: impl FnOnce(&mut Command) -> &mut Command + 'static) -> Self {
        self.tweaks.push(Box::new(|command| {
            tweak(command);
        }));
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(self) -> Proc {
        let argv = self.argv();
        let mut command = self.sandbox.command(&argv[0]);
        command.args(&argv[1..]);
        for tweak in self.tweaks {
            tweak(&mut command);
        }
        self.sandbox.spawn(command)
    }

    /// Starts it and waits for its end, and for the end of its output.
    #[track_caller]
    pub fn output(self) -> Output {
        let mut guard = self.spawn();
        let exit = guard.wait(Duration::from_secs(60));
        guard.expect_eof(Duration::from_secs(5));
        Output { exit, stdout: guard.stdout_bytes(), stderr: guard.stderr() }
    }
}
