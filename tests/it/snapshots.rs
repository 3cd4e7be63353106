//! What people and programs read, word by word: `snapshots/NAME.txt` against what the program says in a real run.
//!
//! After a change that is meant, renew them and read the difference before it is committed:
//!
//! ```sh
//! CCCI_IT_RENEW=1 cargo test --test it snapshots
//! git diff tests/it/snapshots
//! ```
//!
//! What differs from run to run is replaced before the comparison: the sandbox (`DIR`), pids (`PID`), times (`TIME`,
//! `MOMENT`), and the width of columns. JSON is laid out a line a value, keys in the order in which they came.

mod data;
mod messages;

use crate::help::{COMMANDS, help_of};
use crate::support::{FIXTURE, GUARD, Guard, Sandbox};
use regex_lite::Regex;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots")
}

fn is_renewal() -> bool {
    std::env::var("CCCI_IT_RENEW").is_ok_and(|renew| renew == "1")
}

/// Compares `text` to the snapshot, or makes it the snapshot where `CCCI_IT_RENEW=1` asks for that.
#[track_caller]
fn expect(name: &str, text: &str) {
    let path = directory().join(format!("{name}.txt"));
    if is_renewal() {
        assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "in CI nothing is renewed");
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if expected != text {
        let line = expected.lines().zip(text.lines()).take_while(|(old, new)| old == new).count();
        let at = |text: &str| text.lines().nth(line).map(str::to_owned);
        panic!(
            "{name}.txt, line {}:\n  expected {:?}\n  found    {:?}\nall of it:\n{text}\n(meant? see snapshots.rs)",
            line + 1,
            at(&expected),
            at(text)
        );
    }
}

/// Takes away what differs from run to run.
fn settled(sandbox: &Sandbox, text: &str) -> String {
    let mut text = text.replace(sandbox.path("").to_str().unwrap().trim_end_matches('/'), "DIR");
    text = text.replace(FIXTURE, "FIXTURE").replace(GUARD, "ccci-guard");
    for (pattern, by) in [
        // What a look as another user than root adds.
        ("(?m)^ccci-guard: warning: .*(run as root|run it as root).*\n", ""),
        (r"\b(pid|process|parent) [0-9]+", "$1 PID"),
        (r"\b[0-9]+ \(([a-z][a-z-]*)\)", "PID ($1)"),
        (r#""pid":[0-9]+"#, r#""pid":PID"#),
        (r#""(ms|[a-z_]+_s)":[0-9][0-9.]*"#, r#""$1":TIME"#),
        (r#""deadline_at":[0-9]+"#, r#""deadline_at":MOMENT"#),
        (r"\bsince [0-9]+[a-z]+( [0-9]+[a-z]+)*", "since TIME"),
        (r"\bin [0-9]+[a-z]+( [0-9]+[a-z]+)*", "in TIME"),
        (r"(status [0-9]+)\) after [0-9]+[a-z]+( [0-9]+[a-z]+)*", "$1) after TIME"),
        (r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z", "MOMENT"),
        (r"manual-[0-9]+", "manual-PID"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, by).into_owned();
    }
    text
}

/// JSON with a line for each value; nothing is reordered or rounded.
#[track_caller]
fn laid_out(json: &str) -> String {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(json);
    assert!(parsed.is_ok(), "no JSON: {json:?}");
    let (mut out, mut depth, mut in_text, mut escaped) = (String::new(), 0, false, false);
    let mut previous = ' ';
    for c in json.trim_end().chars() {
        if !in_text {
            let opens_or_goes_on = matches!(previous, '{' | '[' | ',') && !matches!(c, '}' | ']');
            let closes = matches!(c, '}' | ']') && !matches!(previous, '{' | '[');
            depth -= usize::from(matches!(c, '}' | ']'));
            if opens_or_goes_on || closes {
                out.push('\n');
                out.push_str(&"  ".repeat(depth));
            }
            depth += usize::from(matches!(c, '{' | '['));
        }
        out.push(c);
        in_text ^= c == '"' && !escaped;
        escaped = in_text && c == '\\' && !escaped;
        previous = if in_text || c == '"' { '"' } else { c };
    }
    out.push('\n');
    out
}

/// Columns with two blanks between.
fn narrow(table: &str) -> String {
    Regex::new("([^ \n])   *").unwrap().replace_all(table, "$1  ").into_owned()
}

/// A command, as typed, with all that it says and its status.
#[track_caller]
fn session(sandbox: &Sandbox, guard: Guard<'_>) -> String {
    let line = guard.line().replace(GUARD, "ccci-guard").replace('\'', "");
    let out = guard.output();
    let text = format!("$ {line}\n{}{}status {}\n\n", out.text(), out.stderr, out.code());
    settled(sandbox, &text)
}

/// The help of every command, and the exit statuses.
///
/// Seen failing with one word of an option's text changed.
#[test]
fn help_texts() {
    let sandbox = Sandbox::new();
    for command in COMMANDS {
        expect(format!("help {command}").trim_end().replace(' ', "-").as_str(), &help_of(&sandbox, command));
    }
    expect("help-exit-codes", &sandbox.plain().args(["help", "exit-codes"]).output().text());
}

/// A snapshot that no test compares would look like one that holds.
///
/// Seen failing with an empty `old.txt` beside the others.
#[test]
fn every_snapshot_is_compared() {
    if is_renewal() {
        return; // The others are writing them now.
    }
    let sources =
        [include_str!("snapshots.rs"), include_str!("snapshots/data.rs"), include_str!("snapshots/messages.rs")];
    let named = Regex::new("expect\\(\\s*\"([a-z0-9-]+)\"").unwrap();
    let mut used: BTreeSet<String> =
        sources.iter().flat_map(|source| named.captures_iter(source)).map(|found| found[1].to_owned()).collect();
    used.extend(COMMANDS.iter().map(|command| format!("help {command}").trim_end().replace(' ', "-")));
    let files = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> = files.filter_map(|name| name.strip_suffix(".txt").map(str::to_owned)).collect();
    assert_eq!(found, used);
}
