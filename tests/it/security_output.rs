//! Words that others choose: names of processes, lines of a teardown. On a terminal and in a log they stay words.

use crate::support::{FIXTURE, Output, Sandbox, copy_program, expect_visible};
use std::fs;

/// Escape, CSI as one character (C1), a mark that turns the line round, a line end of Unicode's, DEL.
const EVIL: &str = "a\u{1b}\u{9b}K\u{202e}b\u{2028}\u{7f}";
/// The same as it is shown: the name of a process is cut to 15 bytes.
const SHOWN: &str = "a\\u{1b}\\u{9b}K\\u{202e}b\\u{2028}\\u{7f}";

/// A run with a survivor of that name, and a teardown that prints it.
fn run(sandbox: &Sandbox, format: &str) -> Output {
    let program = sandbox.path("work").join(EVIL);
    copy_program(FIXTURE, &program);
    let guard = sandbox.run().app().teardown("printf '%s\\n' \"$EVIL\"").args(["--teardown-on", "always"]);
    let script = "\"./$EVIL\" ignore-term >ignoring & while ! test -s ignoring; do sleep 0.01; done";
    let guard = guard.args(["--log-format", format, "--log-file"]).arg(sandbox.path("log")).report();
    let out = guard.env("EVIL", EVIL).sh(script).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    out
}

/// Fails with names and lines as they are; seen failing with control characters alone escaped (U+202E turns a line
/// round, U+2028 ends it).
#[test]
fn names_of_processes_are_words_in_text() {
    let sandbox = Sandbox::new();
    let out = run(&sandbox, "text");
    let log = fs::read_to_string(sandbox.path("log")).unwrap();
    for (what, text) in [("stderr", &out.stderr), ("log file", &log)] {
        expect_visible(what, text);
        assert!(text.contains(&format!("({SHOWN})")), "{what}: {text}");
        assert!(text.contains(&format!("teardown: {SHOWN}")), "{what}: {text}");
    }
}

/// JSON must escape what is below U+0020 only: a terminal obeys others too. What was meant is still there to be read.
/// Seen failing with the line as serde_json writes it.
#[test]
fn names_of_processes_are_words_in_json() {
    let sandbox = Sandbox::new();
    let out = run(&sandbox, "json");
    let log = fs::read_to_string(sandbox.path("log")).unwrap();
    for (what, text) in [("stderr", &out.stderr), ("log file", &log)] {
        expect_visible(what, text);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let message = |event: &str| {
            let line = lines.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("{what}: {event}"));
            line["message"].as_str().unwrap().to_owned()
        };
        assert!(message("survivors-killed").contains("(a\\u{1b}"), "{what}: {text}");
        assert!(lines.iter().any(|line| line["message"].as_str().unwrap().ends_with(EVIL)), "{what}: {text}");
    }
    expect_visible("report", &fs::read_to_string(sandbox.path("report.json")).unwrap());
}
