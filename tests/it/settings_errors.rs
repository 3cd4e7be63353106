//! A bad setting ends the start: 125, a sentence that names where the value came from, and nothing was touched.

use crate::lock_holder::Holder;
use crate::support::{APP, Guard, Sandbox, within};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// One option that has a value: its names, a good value, bad values, and what it can't do without.
struct Row {
    flag: &'static str,
    variable: &'static str,
    good: &'static str,
    bad: &'static [&'static str],
    with: &'static [&'static str],
    /// `exec` refuses its flag and ignores its variable.
    resident_only: bool,
}

const DEADLINES: &[&str] = &[
    "18446744073709551615s 1000000000ns",
    "9999999999y",
    "99999999999999999999999999s",
    "18446744073709551616s",
    "0s",
    "120",
    "1M",
    "1h 1M",
    "500years",
    "1ns",
    "999ms",
    "7d 1s",
    "-5s",
    "5 s 5",
    "soon",
];
const DURATIONS: &[&str] = &["18446744073709551615s 1000000000ns", "120", "1M", "500years", "8d", "-5s", "soon"];
const NAMES: &[&str] = &[
    "UPPER.ci.example.net",
    "immi-ad3e33.ci.example.net.",
    ".ci.example.net",
    "a..example.net",
    "-rf",
    "-a.example.net",
    "a-.example.net",
    "a_b.example.net",
    "../x",
    "a/b",
    "a b",
    "a\nb",
    "ü.example.net",
    "*.example.net",
];

macro_rules! row {
    ($flag:literal, $variable:literal, $good:literal, $bad:expr) => {
        row!($flag, $variable, $good, $bad, &[], false)
    };
    ($flag:literal, $variable:literal, $good:literal, $bad:expr, $with:expr, $resident:literal) => {
        Row { flag: $flag, variable: $variable, good: $good, bad: $bad, with: $with, resident_only: $resident }
    };
}

const ROWS: &[Row] = &[
    row!("--app", "CCCI_APP_DOMAIN", "immi-ad3e33.ci.example.net", NAMES, &["--teardown", "none"], false),
    row!("--deadline", "CCCI_DEADLINE", "1h", DEADLINES),
    row!("--warn-before", "CCCI_WARN_BEFORE", "5m", DURATIONS, &["--deadline", "1h"], true),
    row!(
        "--warn-signal",
        "CCCI_WARN_SIGNAL",
        "USR1",
        &["NOPE", "99", "SIG"],
        &["--deadline", "1h", "--warn-before", "5m"],
        true
    ),
    row!("--grace", "CCCI_GRACE", "5s", DURATIONS, &[], true),
    row!("--stop-signal", "CCCI_STOP_SIGNAL", "INT", &["NOPE", "0", "99", "SIG", "-15"], &[], true),
    row!("--stop-scope", "CCCI_STOP_SCOPE", "group", &["all", "LEADER"], &[], true),
    row!("--survivors", "CCCI_SURVIVORS", "leave", &["maybe"], &[], true),
    row!("--teardown-on", "CCCI_TEARDOWN_ON", "always", &["never"], &["--teardown", "true"], true),
    row!("--teardown-timeout", "CCCI_TEARDOWN_TIMEOUT", "5m", DURATIONS, &["--teardown", "true"], true),
    row!("--zone", "CCCI_ZONE", "ci.example.net", &["UPPER.net", "a b", "../x"], &["--teardown", "true"], true),
    row!("--run-app-re", "CCCI_RUN_APP_RE", "a.*", &["(", ".*", "a|"], &["--teardown", "true"], true),
    row!("--lock-timeout", "CCCI_LOCK_TIMEOUT", "5m", DURATIONS),
    row!("--run-id", "CCCI_RUN_ID", "a.b_c-1", &[".", "..", "a/b", "a b", "ü", "a\nb"]),
    row!("--session", "CCCI_SESSION", "keep", &["other", "NEW"]),
    row!("--parent-pid", "CCCI_PARENT_PID", "", &["x", "-1", "99999999999999999999", "1 2"]),
    row!("--log-format", "CCCI_LOG_FORMAT", "json", &["xml"]),
];

/// Nothing was started, no lock file made, no state left.
#[track_caller]
fn untouched(sandbox: &Sandbox, what: &str) {
    for dir in ["locks", "runs", "state", "work"] {
        let found: Vec<_> = fs::read_dir(sandbox.path(dir)).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(found.is_empty(), "{what}: a refused start left {found:?}");
    }
    sandbox.expect_nothing_left();
}

/// Runs it with a harness that leaves a trace; it must refuse and say `words`.
#[track_caller]
fn refused(sandbox: &Sandbox, what: &str, guard: Guard<'_>, words: &[&str]) {
    let out = guard.harness(["touch", "started"]).output();
    assert_eq!(out.code(), 125, "{what}; {}", out.stderr);
    assert!(out.stderr.starts_with("ccci-guard: error: "), "{what}: {:?}", out.stderr);
    assert!(!out.stderr.contains("panicked"), "{what}: {:?}", out.stderr);
    assert_eq!(out.text(), "", "{what}: stdout is for data");
    for word in words {
        assert!(out.stderr.contains(word), "{what}: {word:?} not in {:?}", out.stderr);
    }
    untouched(sandbox, what);
}

/// How a value shows in a message: one line, whatever it holds.
fn shown(value: &str) -> String {
    value.replace('\n', "\\n")
}

/// Seen failing with the limit of 7 days taken out, and with the lower limits taken out, and with humantime called
/// bare.
#[test]
fn a_bad_flag_is_named() {
    let sandbox = Sandbox::new();
    for row in ROWS {
        for bad in row.bad {
            let what = format!("{}={bad:?}", row.flag);
            let guard = sandbox.run().arg(format!("{}={bad}", row.flag)).args(row.with);
            refused(&sandbox, &what, guard, &[row.flag, &shown(bad)]);
            if !row.resident_only {
                let guard = sandbox.exec().arg(format!("{}={bad}", row.flag));
                refused(&sandbox, &format!("exec {what}"), guard, &[row.flag]);
            }
        }
    }
}

/// Seen failing with the variable not named.
#[test]
fn a_bad_variable_is_named_with_its_value() {
    let sandbox = Sandbox::new();
    for row in ROWS {
        for bad in row.bad {
            let what = format!("{}={bad:?}", row.variable);
            let source = format!("{}='{}'", row.variable, shown(bad));
            let guard = sandbox.run().env(row.variable, bad).args(row.with);
            refused(&sandbox, &what, guard, &[&source]);
            let exec = sandbox.exec().env(row.variable, bad);
            if row.resident_only {
                // In a place of its own: `exec` leaves its state files behind.
                let other = Sandbox::new();
                let exec = other.exec().env(row.variable, bad);
                let out = exec.harness(["true"]).output();
                assert_eq!(out.code(), 0, "exec must ignore {what}; {}", out.stderr);
            } else {
                refused(&sandbox, &format!("exec {what}"), exec, &[&source]);
            }
            // Not text at all.
            let guard = sandbox.run().env(row.variable, OsStr::from_bytes(b"\xff")).args(row.with);
            refused(&sandbox, row.variable, guard, &[row.variable]);
        }
    }
}

/// Seen failing with the variable before the flag.
#[test]
fn a_good_flag_over_a_bad_variable_is_fine() {
    let sandbox = Sandbox::new();
    let parent = std::process::id().to_string();
    for row in ROWS {
        let good = if row.flag == "--parent-pid" { &parent } else { row.good };
        let guard = sandbox.run().arg(format!("{}={good}", row.flag)).env(row.variable, row.bad[0]).args(row.with);
        let out = guard.harness(["true"]).output();
        assert_eq!(out.code(), 0, "{}={good} over {}; {}", row.flag, row.variable, out.stderr);
        let guard = sandbox.run().env(row.variable, good).args(row.with);
        let out = guard.harness(["true"]).output();
        assert_eq!(out.code(), 0, "{}={good}; {}", row.variable, out.stderr);
    }
}

/// Seen failing with an empty variable taken as a value.
#[test]
fn an_empty_variable_is_an_unset_one() {
    let sandbox = Sandbox::new();
    let more =
        ["CCCI_TEARDOWN", "CCCI_PROTECT", "CCCI_ABRA", "CCCI_DOCKER", "CCCI_ABRA_DIR", "CCCI_CANONICAL_ABRA_DIR"];
    let switches = ["CCCI_ALLOW_ORPHAN", "CCCI_STOP_ON_CLOSED_OUTPUT", "CCCI_REPORT", "CCCI_LOG_FILE"];
    let directories = ["CCCI_RUNS_DIR"];
    let rows = ROWS.iter().map(|row| row.variable).filter(|name| *name != "CCCI_APP_DOMAIN");
    for form in [sandbox.run(), sandbox.exec()] {
        let mut guard = form;
        for name in rows.clone().chain(more).chain(switches).chain(directories) {
            guard = guard.env(name, "");
        }
        let out = guard.harness(["true"]).output();
        assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    }
}

/// It would run unprotected.
/// Seen failing with an empty `CCCI_APP_DOMAIN` taken for an unset one.
#[test]
fn an_empty_app_is_an_error() {
    let sandbox = Sandbox::new();
    let none = ["--teardown", "none"];
    refused(&sandbox, "flag", sandbox.run().args(["--app", ""]).args(none), &["--app"]);
    refused(&sandbox, "flag", sandbox.exec().args(["--app", ""]), &["--app"]);
    for value in ["", ",", "immi-ad3e33.ci.example.net,", ",immi-ad3e33.ci.example.net"] {
        refused(&sandbox, value, sandbox.run().env("CCCI_APP_DOMAIN", value).args(none), &["CCCI_APP_DOMAIN="]);
        refused(&sandbox, value, sandbox.exec().env("CCCI_APP_DOMAIN", value), &["CCCI_APP_DOMAIN="]);
    }
    // A flag is there, so nothing runs unprotected.
    let out = sandbox.run().app().args(none).env("CCCI_APP_DOMAIN", "").harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
}

/// The file name has to fit in 255 bytes, a DNS label in 63.
/// Seen failing with 241 bytes allowed.
#[test]
fn a_name_has_a_length() {
    let sandbox = Sandbox::new();
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(48));
    assert_eq!(longest.len(), 240);
    let none = ["--teardown", "none"];
    let out = sandbox.run().args(["--app", &longest]).args(none).harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    fs::remove_file(sandbox.lock_path(&longest)).unwrap();
    for bad in [format!("{longest}b"), format!("a{label}.net"), "a".repeat(300)] {
        refused(&sandbox, &bad, sandbox.run().args(["--app", &bad]).args(none), &["--app"]);
    }
    let bad = OsStr::from_bytes(b"\xff.example.net");
    refused(&sandbox, "bytes", sandbox.run().arg("--app").arg(bad).args(none), &["--app"]);
}

/// Each message says what to do, not only that it is wrong.
/// Seen failing with the limit of 7 days taken out.
#[test]
fn the_sentence_helps() {
    let sandbox = Sandbox::new();
    let unit = "CCCI_DEADLINE='120': needs a unit, for example 120s or 2h";
    refused(&sandbox, "unit", sandbox.run().env("CCCI_DEADLINE", "120"), &[unit]);
    let month = "M is months; minutes are m";
    refused(&sandbox, "month", sandbox.run().args(["--deadline", "1M"]), &[month]);
    refused(&sandbox, "month", sandbox.run().env("CCCI_DEADLINE", "1M"), &[month]);
    refused(&sandbox, "days", sandbox.run().args(["--deadline", "500years"]), &["7d"]);
}

/// Seen failing with the lower limits taken out, and with a warning as long as the deadline allowed.
#[test]
fn options_that_do_not_fit_together() {
    let sandbox = Sandbox::new();
    let cases: &[(&[&str], &[&str])] = &[
        // A warning needs something to warn of, and has to come before it.
        (&["--warn-before", "5m"], &["--warn-before", "--deadline"]),
        (&["--warn-before", "1h", "--deadline", "1h"], &["--warn-before"]),
        (&["--warn-before", "2h", "--deadline", "1h"], &["--warn-before"]),
        (&["--warn-before", "0s", "--deadline", "1h"], &["--warn-before"]),
        (&["--warn-signal", "USR1", "--deadline", "1h"], &["--warn-signal", "--warn-before"]),
        (&["--teardown-timeout", "0s", "--teardown", "true"], &["--teardown-timeout"]),
        // The group is the caller's.
        (&["--session", "keep", "--stop-scope", "group"], &["--stop-scope", "--session"]),
        // No way to tear down.
        (&["--app", APP], &["--teardown"]),
        (&["--app", APP, "--teardown", "auto"], &["--zone"]),
        (&["--app", "warm-x.ci.example.net", "--zone", "ci.example.net"], &["warm-x.ci.example.net"]),
        (&["--app", APP, "--zone", "ci.example.net", "--protect", "immi-*"], &[APP]),
        (&["--app", APP, "--run-app-re", "immi"], &[APP]),
        (&["--app", APP, "--zone", "i.example.net"], &[APP]),
    ];
    for (options, words) in cases {
        refused(&sandbox, &format!("{options:?}"), sandbox.run().args(*options), words);
    }
}

/// Two that stand in each other's way also when one comes from the environment.
/// Seen failing with a warning as long as the deadline allowed.
#[test]
fn combinations_count_wherever_they_come_from() {
    let sandbox = Sandbox::new();
    let guard = sandbox.run().env("CCCI_WARN_BEFORE", "1h").args(["--deadline", "30m"]);
    refused(&sandbox, "warning from the environment", guard, &["CCCI_WARN_BEFORE"]);
    let guard = sandbox.run().env("CCCI_WARN_BEFORE", "5m");
    refused(&sandbox, "no deadline", guard, &["CCCI_WARN_BEFORE"]);
    let guard = sandbox.run().env("CCCI_SESSION", "keep").env("CCCI_STOP_SCOPE", "group");
    refused(&sandbox, "both from the environment", guard, &["CCCI_STOP_SCOPE"]);
}

/// Seen failing with `on` left out.
#[test]
fn booleans_of_the_environment() {
    let sandbox = Sandbox::new();
    for name in ["CCCI_ALLOW_ORPHAN", "CCCI_STOP_ON_CLOSED_OUTPUT"] {
        for good in ["1", "0", "true", "false", "yes", "no", "on", "off"] {
            let out = sandbox.run().env(name, good).harness(["true"]).output();
            assert_eq!(out.code(), 0, "{name}={good}; {}", out.stderr);
        }
        for bad in ["maybe", "2", "-", "01"] {
            refused(&sandbox, bad, sandbox.run().env(name, bad), &[&format!("{name}='{bad}'")]);
        }
    }
    // What they mean: with a parent that isn't ours, only an allowed orphan starts.
    for (value, code) in [("1", 0), ("yes", 0), ("on", 0), ("true", 0), ("0", 125), ("off", 125), ("no", 125)] {
        let guard = sandbox.run().env("CCCI_ALLOW_ORPHAN", value).args(["--parent-pid", "1"]);
        let out = guard.harness(["true"]).output();
        assert_eq!(out.code(), code, "CCCI_ALLOW_ORPHAN={value}; {}", out.stderr);
    }
}

/// Files and directories that can't be had are found out before anything runs.
/// Seen failing with the report's directory not opened at the start.
#[test]
fn files_and_directories_are_opened_first() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("a-file");
    fs::write(&file, "").unwrap();
    let missing = sandbox.path("no/such/directory");
    let missing = missing.to_str().unwrap();
    let below_file = sandbox.path("a-file/below");
    let below_file = below_file.to_str().unwrap();
    for (flag, variable) in
        [("--report", "CCCI_REPORT"), ("--log-file", "CCCI_LOG_FILE"), ("--lock-dir", "CCCI_APP_LOCK_DIR")]
    {
        for value in [missing, below_file] {
            let app = || sandbox.run().app().args(["--teardown", "none"]);
            refused(&sandbox, flag, app().args([flag, value]), &[value.rsplit_once('/').unwrap().0]);
            refused(&sandbox, variable, app().env(variable, value), &[value.rsplit_once('/').unwrap().0]);
        }
    }
    // A state directory that was asked for is not quietly another.
    refused(&sandbox, "state", sandbox.run().args(["--state-dir", below_file]), &[below_file]);
    refused(&sandbox, "state", sandbox.run().env("CCCI_STATE_DIR", below_file), &[below_file]);
    refused(&sandbox, "lock dir", sandbox.exec().app().args(["--lock-dir", below_file]), &[below_file]);
}

/// Seen failing with mode 0770.
#[test]
fn a_missing_lock_directory_is_made_private() {
    let sandbox = Sandbox::new();
    let dir = sandbox.path("new-locks");
    let guard = sandbox.run().app().args(["--teardown", "none"]).arg("--lock-dir").arg(&dir);
    assert_eq!(guard.harness(["true"]).output().code(), 0);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
    let lock = dir.join(format!("cc-ci-app-{APP}.lock"));
    assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(!sandbox.lock_path(APP).exists(), "the flag beats CCCI_APP_LOCK_DIR");
}

/// Seen failing with the variable before the flag.
#[test]
fn a_flag_beats_its_variable() {
    let sandbox = Sandbox::new();
    let guard = sandbox.run().env("CCCI_RUN_ID", "from-variable").args(["--run-id", "from-flag"]);
    assert_eq!(guard.sh("echo $CCCI_RUN_ID").output().text(), "from-flag\n");
    let guard = sandbox.run().env("CCCI_APP_DOMAIN", "b.example.net").app().args(["--teardown", "none"]);
    assert_eq!(guard.sh("echo $CCCI_APP_DOMAIN").output().text(), format!("{APP}\n"));
    let out = sandbox.run().env("CCCI_DEADLINE", "7d").args(["--deadline", "1s"]).harness(["sleep", "30"]).output();
    assert_eq!(out.code(), 142, "{}", out.stderr);
    let teardown = sandbox.teardown();
    let guard = sandbox.run().app().env("CCCI_TEARDOWN", "exit 9").env("CCCI_TEARDOWN_ON", "stop");
    guard.teardown(teardown.command()).args(["--teardown-on", "always"]).harness(["true"]).output();
    teardown.expect_one();
}

/// Seen failing with `CCCI_LOCK_TIMEOUT` not read.
#[test]
fn the_variable_alone_counts() {
    let sandbox = Sandbox::new();
    let out = sandbox.run().env("CCCI_DEADLINE", "1s").harness(["sleep", "30"]).output();
    assert_eq!(out.code(), 142, "{}", out.stderr);
    within("the deadline", out.exit.after, Duration::from_millis(990)..);

    let _held = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let guard = sandbox.run().env("CCCI_APP_DOMAIN", APP).env("CCCI_TEARDOWN", "none").env("CCCI_LOCK_TIMEOUT", "0s");
    assert_eq!(guard.harness(["true"]).output().code(), 75);
}
