//! The command line as typed: forms, usage errors, help, and that nothing behind COMMAND is ours.

use crate::support::{FIXTURE, Output, Sandbox};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// The fixture's `report-env`: arguments, environment.
fn report(out: &Output) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let mut parts = out.stdout.split(|b| *b == 0).map(<[u8]>::to_vec);
    let count: usize = String::from_utf8(parts.next().unwrap()).unwrap().parse().unwrap();
    let argv = parts.by_ref().take(count).collect();
    (argv, parts.filter(|part| !part.is_empty()).collect())
}

/// 125, a sentence on stderr, nothing on stdout, nothing run.
#[track_caller]
fn refused(sandbox: &Sandbox, args: &[&str], words: &[&str]) {
    let out = sandbox.plain().args(args).output();
    assert_eq!(out.code(), 125, "{args:?}; {}", out.stderr);
    assert_eq!(out.text(), "", "{args:?}");
    assert!(out.stderr.starts_with("ccci-guard: error: "), "{args:?}: {:?}", out.stderr);
    for word in words {
        assert!(out.stderr.contains(word), "{args:?}: {word:?} not in {:?}", out.stderr);
    }
    for dir in ["work", "locks", "state", "runs"] {
        assert_eq!(fs::read_dir(sandbox.path(dir)).unwrap().count(), 0, "{args:?} left something in {dir}");
    }
    sandbox.expect_nothing_left();
}

/// Fails with clap's own exit (2), and with a bare call that printed the help and exited 0.
#[test]
fn a_run_form_without_a_command_is_a_usage_error() {
    let sandbox = Sandbox::new();
    for args in [
        &[][..],
        &["--"],
        &["run"],
        &["run", "--"],
        &["exec"],
        &["exec", "--"],
        &["--deadline", "5s"],
        &["--deadline", "5s", "--"],
        &["run", "--app", "a.example.net"],
    ] {
        refused(&sandbox, args, &["usage: ccci-guard", "-- COMMAND"]);
    }
}

/// The `--` is required: without it a typing error would be run as a command.
/// Seen failing with usage errors that exit 2, and with `trailing_var_arg`.
#[test]
fn the_separator_is_required() {
    let sandbox = Sandbox::new();
    for args in [
        &["run", "touch", "started"][..],
        &["exec", "touch", "started"],
        &["--deadline", "5s", "touch", "started"],
        &["run", "--deadline", "5s", "touch", "started"],
        &["touch", "started"],
        &["run", "touch", "--", "touch", "started"],
    ] {
        refused(&sandbox, args, &[]);
    }
}

/// Seen failing with usage errors that exit 2.
#[test]
fn a_mistyped_subcommand_runs_nothing() {
    let sandbox = Sandbox::new();
    let words = ["did you mean 'janitor'?", "To run a command: ccci-guard -- jantor"];
    refused(&sandbox, &["jantor"], &words);
    refused(&sandbox, &["jantor", "--dry-run"], &words);
    refused(&sandbox, &["jantor", "--", "touch", "started"], &words);
    // Behind the separator it is a command like any other.
    let out = sandbox.plain().args(["--", "jantor"]).output();
    assert_eq!(out.code(), 127, "{}", out.stderr);
    assert!(out.stderr.contains("jantor"), "{}", out.stderr);
}

/// Seen failing with usage errors that exit 2.
#[test]
fn an_unknown_option_is_named() {
    let sandbox = Sandbox::new();
    for form in [&[][..], &["run"], &["exec"]] {
        for (option, words) in [("--deadlin=5s", "--deadline"), ("--no-such-option", "--no-such-option"), ("-Z", "-Z")]
        {
            let args: Vec<&str> = form.iter().copied().chain([option, "--", "touch", "started"]).collect();
            refused(&sandbox, &args, &[words]);
        }
        // A flag that needs a value, and finds the separator.
        let args: Vec<&str> = form.iter().copied().chain(["--deadline", "--", "touch", "started"]).collect();
        refused(&sandbox, &args, &["--deadline"]);
        // The same one twice, with different meanings.
        let twice = ["--deadline", "5s", "--deadline", "6s", "--", "touch", "started"];
        let args: Vec<&str> = form.iter().copied().chain(twice).collect();
        refused(&sandbox, &args, &["--deadline"]);
    }
}

/// Seen failing with `--grace` taken out of the list.
#[test]
fn exec_refuses_what_only_a_resident_guard_can_keep() {
    let sandbox = Sandbox::new();
    let options: [&[&str]; 14] = [
        &["--teardown", "true"],
        &["--teardown", "none"],
        &["--teardown-on", "always"],
        &["--teardown-timeout", "5m"],
        &["--teardown-step", "abra app undeploy {app}"],
        &["--grace", "5s"],
        &["--survivors", "leave"],
        &["--stop-signal", "TERM"],
        &["--stop-scope", "group"],
        &["--stop-on-closed-output"],
        &["--report", "report.json"],
        &["--warn-before", "5m", "--deadline", "1h"],
        &["--warn-signal", "USR1"],
        &["--abra-dir", "auto"],
    ];
    for option in options {
        let args: Vec<&str> = [&["exec"], option, &["--", "touch", "started"]].concat();
        refused(&sandbox, &args, &[option[0], "exec"]);
    }
}

/// Their variables are for other forms of the same job.
/// Seen failing with the variables parsed as for `run`.
#[test]
fn exec_ignores_their_variables() {
    let sandbox = Sandbox::new();
    let report = sandbox.path("report.json");
    let mut guard = sandbox.exec().app();
    for (name, value) in [
        ("CCCI_TEARDOWN", "auto"),
        ("CCCI_TEARDOWN_ON", "nonsense"),
        ("CCCI_TEARDOWN_TIMEOUT", "nonsense"),
        ("CCCI_GRACE", "nonsense"),
        ("CCCI_SURVIVORS", "nonsense"),
        ("CCCI_STOP_SIGNAL", "nonsense"),
        ("CCCI_STOP_SCOPE", "nonsense"),
        ("CCCI_STOP_ON_CLOSED_OUTPUT", "nonsense"),
        ("CCCI_REPORT", report.to_str().unwrap()),
        ("CCCI_WARN_BEFORE", "nonsense"),
        ("CCCI_WARN_SIGNAL", "nonsense"),
        ("CCCI_ABRA_DIR", "auto"),
    ] {
        guard = guard.env(name, value);
    }
    let out = guard.harness(["true"]).output();
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    assert!(!report.exists());
}

/// Bytes, a second separator, options that look like ours: the harness gets each word as it was typed.
/// Seen failing with words handed on as text (lossy).
#[test]
fn the_harness_gets_its_words_byte_for_byte() {
    let sandbox = Sandbox::new();
    let words: Vec<OsString> = [
        &b"report-env"[..],
        b"\xff\xfe",
        b"",
        b"--",
        b"--deadline",
        b"1s",
        b"--app=other.example.net",
        b"-v",
        b"--help",
        b"a b\tc\nd",
        b"$HOME",
        b"*",
        b"run",
        b"\x01",
        b"--",
    ]
    .map(|word| OsStr::from_bytes(word).to_owned())
    .into();
    for guard in [sandbox.bare(), sandbox.run(), sandbox.exec()] {
        let harness: Vec<OsString> = std::iter::once(FIXTURE.into()).chain(words.iter().cloned()).collect();
        let (argv, environ) = report(&guard.env("FOREIGN", OsStr::from_bytes(b"\xff=\xfe")).harness(&harness).output());
        let expected: Vec<Vec<u8>> = harness.iter().map(|word| word.as_bytes().to_vec()).collect();
        assert_eq!(argv, expected);
        assert!(environ.contains(&b"FOREIGN=\xff=\xfe".to_vec()), "a variable that is not text");
    }
}

/// Seen failing with the program's resolved path as argv[0].
#[test]
fn the_harness_keeps_the_name_it_was_called_by() {
    let sandbox = Sandbox::new();
    let directory = std::path::Path::new(FIXTURE).parent().unwrap();
    for guard in [sandbox.run(), sandbox.exec()] {
        let path = format!("{}:/usr/bin:/bin", directory.display());
        let (argv, _) = report(&guard.env("PATH", path).harness(["ccci-fixture", "report-env"]).output());
        assert_eq!(argv[0], b"ccci-fixture");
    }
}

/// Seen failing with a start message on stdout.
#[test]
fn stdout_is_the_harness_s_alone() {
    let sandbox = Sandbox::new();
    for guard in [sandbox.run().args(["-v", "-v"]), sandbox.exec().args(["-v"]), sandbox.bare().args(["-q"])] {
        let out = guard.app_none().sh("printf 'a\\0b'").output();
        assert_eq!(out.stdout, b"a\0b");
        assert_eq!(out.code(), 0, "{}", out.stderr);
        for line in out.stderr.lines() {
            assert!(line.starts_with("ccci-guard: "), "{line:?}");
        }
    }
    let out = sandbox.run().args(["-v"]).harness(["true"]).output();
    assert_ne!(out.stderr, "", "-v says more");
}

/// Help is data: stdout, 0; and a reader that has enough is no failure.
/// Seen failing with a write to stdout that panics.
#[test]
fn help_and_version_are_data() {
    let sandbox = Sandbox::new();
    for args in [&["--help"][..], &["run", "--help"], &["exec", "--help"], &["--version"], &["help"]] {
        let out = sandbox.plain().args(args).output();
        assert_eq!(out.code(), 0, "{args:?}; {}", out.stderr);
        assert!(out.text().starts_with("ccci-guard") || out.text().contains("Usage:"), "{args:?}: {}", out.text());
        assert_eq!(out.stderr, "", "{args:?}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = sandbox.plain().args(args).stdout(writer).output();
        assert!([0, 141].contains(&out.code()), "{args:?} without a reader: {}", out.code());
        assert_eq!(out.stderr, "", "{args:?} without a reader");
    }
    let text = sandbox.plain().args(["run", "--help"]).output().text();
    for variable in ["CCCI_DEADLINE", "CCCI_APP_LOCK_DIR", "CCCI_LOCK_TIMEOUT", "CCCI_TEARDOWN", "CCCI_REPORT"] {
        assert!(text.contains(variable), "the help of run does not name {variable}");
    }
}

/// stdout and stderr closed from the start: descriptors 1 and 2 must not become a lock or a report.
/// Fails with the first file opened without a look at 0, 1 and 2.
#[test]
fn closed_standard_descriptors_are_no_trap() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    for redirect in ["<&- >&- 2>&-", "2>&-", ">&-", "<&-"] {
        let guard = sandbox.run().app().teardown(teardown.command()).report();
        let line = guard.sh("printf 's%s' aid; printf 's%s' aid >&2; exit 7").line();
        let mut shell = sandbox.shell(&format!("{line} {redirect}"));
        assert_eq!(shell.code(), 7, "{redirect}; {}", shell.stderr());
        let report: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(sandbox.path("report.json")).unwrap()).unwrap();
        assert_eq!(report["exit_code"], 7, "{redirect}");
        let lock = fs::read_to_string(sandbox.lock_path(crate::support::APP)).unwrap();
        assert!(!lock.contains("said"), "{redirect}: written into the lock file: {lock:?}");
        assert!(sandbox.lock_is_free());
    }
}

trait WithApp {
    /// `--app` with `--teardown none` where the form takes that.
    fn app_none(self) -> Self;
}

impl WithApp for crate::support::Guard<'_> {
    fn app_none(self) -> Self {
        self.app().env("CCCI_TEARDOWN", "none")
    }
}
