//! `--help` of every command: opens with an example, fits a screen, and names the variable and the default of each
//! option as the program reads them and docs/environment.md tells them.

use crate::support::stubs::Stubs;
use crate::support::{APP, Canonical, Guard, Sandbox};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Every command that has a help of its own; the first one is the program itself.
pub const COMMANDS: [&str; 26] = [
    "",
    "run",
    "exec",
    "janitor",
    "reap",
    "abra-dir",
    "abra-dir create",
    "abra-dir path",
    "abra-dir env",
    "abra-dir fetch",
    "abra-dir verify",
    "abra-dir list",
    "abra-dir remove",
    "abra-dir gc",
    "state",
    "state init",
    "state path",
    "state env",
    "state record-deploy",
    "state record-app",
    "state show",
    "state gc",
    "locks",
    "doctor",
    "completions",
    "man",
];

/// The help of a command.
#[track_caller]
pub fn help_of(sandbox: &Sandbox, command: &str) -> String {
    let out = sandbox.plain().args(command.split_whitespace()).arg("--help").output();
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""), "help of {command:?}");
    out.text()
}

/// The options of a help text: long name, and all that is said of it.
pub fn options(help: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in help.lines().skip_while(|line| *line != "Options:").skip(1).take_while(|line| !line.is_empty()) {
        if line.trim_start().starts_with('-') {
            let long = line.split("--").nth(1).unwrap_or_else(|| panic!("an option without a long name: {line:?}"));
            let name: String = long.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            last = Some(name.clone());
            found.insert(name, line.trim().to_owned());
        } else if let Some(text) = last.as_ref().and_then(|name| found.get_mut(name)) {
            text.push(' ');
            text.push_str(line.trim());
        }
    }
    found
}

/// What stands in the brackets at the end of an option's text.
fn brackets(text: &str) -> Option<&str> {
    text.strip_suffix(']')?.rsplit_once(" [").map(|(_, inner)| inner)
}

/// The variable in the brackets, and what follows it.
fn variable(text: &str) -> Option<(&str, &str)> {
    let inner = brackets(text)?;
    let end = inner.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(inner.len());
    inner.starts_with("CCCI_").then(|| (&inner[..end], inner[end..].trim_start_matches([';', ',', ' '])))
}

/// The settings of docs/environment.md: flag (without the dashes), variable, default.
fn documented() -> Vec<(String, String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/environment.md");
    let text = fs::read_to_string(page).unwrap();
    let row = |line: &str| -> Option<(String, String, String)> {
        let mut cells = line.strip_prefix("| `CCCI_")?.split(" | ");
        let variable = format!("CCCI_{}", cells.next()?.trim_end_matches('`'));
        let flag = cells.next()?.strip_prefix("`--")?.split('`').next()?.to_owned();
        Some((flag, variable, cells.next()?.to_owned()))
    };
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    assert!(rows.len() > 25, "the tables of docs/environment.md are not as they were: {rows:?}");
    rows
}

/// Seen failing with `completions` renamed in the program alone.
#[test]
fn every_command_is_looked_at() {
    let sandbox = Sandbox::new();
    let mut open = vec![String::new()];
    let mut found = BTreeSet::new();
    while let Some(command) = open.pop() {
        let help = help_of(&sandbox, &command);
        let forms = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // A line that goes on is indented deeper.
        let names = forms.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        open.extend(names.map(|name| format!("{command} {name}").trim_start().to_owned()));
        found.insert(command);
    }
    assert_eq!(found, COMMANDS.iter().map(|command| (*command).to_owned()).collect());
}

/// Its first line is an example of this very command; 50 lines of 100 columns at most, 40 for the program's own.
/// `-h` and `help COMMAND` say the same.
///
/// Seen failing with the example of `locks` taken away.
#[test]
fn each_help_opens_with_an_example_and_fits_a_screen() {
    let sandbox = Sandbox::new();
    for command in COMMANDS {
        let help = help_of(&sandbox, command);
        let first = help.lines().next().unwrap_or_default();
        assert!(first.starts_with("Example"), "{command:?} opens with {first:?}");
        let called = format!("ccci-guard {command}");
        assert!(first.contains(called.trim_end()), "{command:?} has an example of something else: {first:?}");
        let lines = help.lines().count();
        assert!(lines <= if command.is_empty() { 40 } else { 50 }, "{command:?}: {lines} lines");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{command:?}: too wide: {line:?}");
            assert_eq!(line.trim_end(), line, "{command:?}: blanks at its end");
        }
        let words = || command.split_whitespace();
        assert_eq!(sandbox.plain().args(words()).arg("-h").output().text(), help, "-h of {command:?}");
        assert_eq!(sandbox.plain().arg("help").args(words()).output().text(), help, "help {command}");
    }
}

/// Each option that has a variable names it and a default that shares a word with docs/environment.md's; one that has
/// none names none. (The janitor tears down by flag alone: its `--teardown` and `--lock-timeout` have no variable.)
///
/// Seen failing with a variable missing from `--lock-timeout`, and with `[CCCI_RUN_ID]` alone.
#[test]
fn each_option_names_its_variable_and_its_default() {
    let sandbox = Sandbox::new();
    let documented = documented();
    let mut named = BTreeSet::new();
    for command in COMMANDS {
        for (option, text) in options(&help_of(&sandbox, command)) {
            let by_flag_alone =
                ["janitor", "reap"].contains(&command) && ["teardown", "lock-timeout"].contains(&&*option);
            let setting = documented.iter().find(|(flag, ..)| *flag == option).filter(|_| !by_flag_alone);
            let what = format!("{command} --{option}: {text:?}");
            let Some((_, expected, default)) = setting else {
                assert!(!text.contains("CCCI_"), "{what} names a variable that docs/environment.md does not");
                continue;
            };
            let (variable, said) = variable(&text).unwrap_or_else(|| panic!("{what} does not name {expected}"));
            assert_eq!(variable, expected, "{what}");
            named.insert(expected.clone());
            assert!(!said.is_empty(), "{what} has no default");
            // That of a list is the empty one; a run id has to come from somewhere.
            if said != "comma list" && option != "run-id" {
                let words = |text: &str| -> BTreeSet<String> {
                    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 1);
                    words.map(str::to_owned).collect()
                };
                assert!(!words(said).is_disjoint(&words(default)), "{what}: the page says {default:?}");
            }
        }
    }
    let all: BTreeSet<String> = documented.into_iter().map(|(_, variable, _)| variable).collect();
    assert_eq!(named, all, "variables of flags that no help names");
}

/// A value that shows itself: wrong where the variable has a form, a place that can't be, or one that will be named.
fn telling(sandbox: &Sandbox, command: &str, variable: &str) -> String {
    let keeps_state = ["run", "exec"].contains(&command) || command.starts_with("state ");
    match variable {
        "CCCI_ZONE" | "CCCI_APP_DOMAIN" | "CCCI_RUN_ID" => "a b".to_owned(),
        "CCCI_PROTECT" => "a-*,,b-*".to_owned(),
        "CCCI_RUN_APP_RE" => "(".to_owned(),
        "CCCI_TEARDOWN" => "echo told by CCCI_TEARDOWN".to_owned(),
        // One that can't be used is no fault here: state then goes to a private directory.
        "CCCI_RUNS_DIR" | "CCCI_STATE_DIR" if keeps_state => {
            let directory = sandbox.path(format!("told/{command}/{variable}"));
            fs::create_dir_all(&directory).unwrap();
            directory.display().to_string()
        }
        "CCCI_REPORT" | "CCCI_LOG_FILE" | "CCCI_ABRA" | "CCCI_DOCKER" => format!("/dev/null/{variable}"),
        _ if variable.ends_with("_DIR") => format!("/dev/null/{variable}"),
        _ => "nonsense".to_owned(),
    }
}

/// They print nothing when all is well.
const SILENT: [&str; 3] = ["state record-deploy", "state record-app", "state gc"];
/// No process: pids end below it.
const PID: &str = "4194304";

/// The command, called so that it would use what this variable sets.
fn called<'a>(sandbox: &'a Sandbox, command: &str, variable: &str) -> Guard<'a> {
    let mut guard = sandbox.plain().args(command.split_whitespace());
    guard = guard.env("XDG_RUNTIME_DIR", sandbox.path("runtime"));
    if variable.starts_with("CCCI_ETCD_") || variable == "CCCI_LEASE_TTL" {
        guard = guard.env("CCCI_LOCK_BACKEND", "etcd").env("CCCI_ETCD_ENDPOINTS", "http://127.0.0.1:1");
    }
    if variable == "CCCI_RUNS_DIR" {
        // Else state goes there.
        guard = guard.env_remove("CCCI_STATE_DIR");
    }
    if command.starts_with("state ") {
        let what = match command {
            "state path" => &["deploys"][..],
            "state record-deploy" => &["immich"],
            "state record-app" => &[APP],
            _ => &[],
        };
        let whose = if variable == "CCCI_RUN_ID" { &[][..] } else { &["--run-id", "a"] };
        return guard.args(what).args(["--pid", PID]).args(whose);
    }
    match command {
        "run" | "exec" => {
            let given: &[&str] = match variable {
                "CCCI_APP_LOCK_DIR" => &["--app", APP],
                "CCCI_WARN_BEFORE" => &["--deadline", "1h"],
                "CCCI_WARN_SIGNAL" => &["--deadline", "1h", "--warn-before", "5m"],
                "CCCI_TEARDOWN" => &["--teardown-on", "always"],
                "CCCI_ABRA" | "CCCI_DOCKER" => &["--app", APP, "--zone", "ci.example.net"],
                "CCCI_CANONICAL_ABRA_DIR" => &["--abra-dir", "auto"],
                _ => &[],
            };
            let guard = if variable == "CCCI_APP_LOCK_DIR" { guard.env("CCCI_TEARDOWN", "none") } else { guard };
            guard.args(given).harness(["/bin/sh", "-c", "echo \"$ABRA_DIR $CCCI_DEPLOY_COUNT_FILE\""])
        }
        "janitor" | "reap" => {
            let guard = if command == "reap" { guard.arg(APP) } else { guard };
            let guard = if variable == "CCCI_ZONE" { guard } else { guard.args(["--zone", "ci.example.net"]) };
            match variable {
                "CCCI_ABRA" | "CCCI_DOCKER" | "CCCI_CANONICAL_ABRA_DIR" => {
                    guard.env("PATH", Stubs::new(sandbox).path())
                }
                _ => guard.args(["--list-cmd", "true", "--teardown", "true"]),
            }
        }
        "abra-dir create" if variable == "CCCI_RUN_ID" => guard,
        "abra-dir create" => guard.args(["--run-id", "b"]),
        "abra-dir fetch" => guard.args(["a", "immich"]),
        "abra-dir path" | "abra-dir env" | "abra-dir verify" | "abra-dir remove" => guard.arg("a"),
        _ => guard,
    }
}

/// Every command with every variable that its help names, set to something that shows: the message names the variable
/// and its value, or the path that was tried. So no help names a variable that the command does not read.
///
/// The forms of `abra-dir` take the canonical directory all alike; only `create` and `fetch` look into it.
///
/// Seen failing with `exec --help`, which named what only a resident guard can keep, and with `CCCI_GRACE` read by
/// another name.
#[test]
fn each_variable_that_a_help_names_is_read() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    canonical.add_recipe("immich");
    assert_eq!(sandbox.plain().args(["abra-dir", "create", "--run-id", "a"]).output().code(), 0);
    let mut unread = Vec::new();
    for command in COMMANDS {
        for (option, text) in options(&help_of(&sandbox, command)) {
            let Some((variable, _)) = variable(&text) else { continue };
            let looks_into_it = ["abra-dir create", "abra-dir fetch"].contains(&command);
            if command.starts_with("abra-dir ") && variable == "CCCI_CANONICAL_ABRA_DIR" && !looks_into_it {
                continue;
            }
            let value = telling(&sandbox, command, variable);
            let called = |command| called(&sandbox, command, variable).env(variable, &value).output();
            if command.starts_with("state ") && command != "state init" && variable.ends_with("_DIR") {
                let out = called("state init");
                assert_eq!(out.code(), 0, "{}", out.stderr);
            }
            let out = called(command);
            assert!(!out.stderr.contains("panicked"), "{command} with {variable}: {}", out.stderr);
            let mut said = format!("{}{}", out.text(), out.stderr);
            if SILENT.contains(&command) && out.code() == 0 {
                // They found files, and there are none but there.
                said.push_str(&value);
            }
            let is_trace = value.contains(variable);
            let named = format!("{variable}='{value}'");
            if !said.contains(if is_trace { value.trim_start_matches("echo ") } else { &named }) {
                unread.push(format!("{command} --{option} ({variable}={value:?}): {} {said:?}", out.code()));
            } else if !is_trace {
                let refused = if ["run", "exec"].contains(&command) { 125 } else { 2 };
                assert_eq!(out.code(), refused, "{command} with {variable}: {}", out.stderr);
            }
        }
    }
    assert!(unread.is_empty(), "named, but not read, or not told of:\n{}", unread.join("\n"));
}
