//! What must stay true of the sources and pages themselves, read as text: names that may not come back,
//! code that has one place, imports that run one way, pages that keep up with the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names of the Python original's registry and age rules. Only flock says who is alive (docs/concurrency.md).
const DELETED: [&str; 8] = [
    "register_run_app",
    "unregister_run_app",
    "_run_owner_state",
    "ACTIVE_RUN_DIR",
    "CCCI_JANITOR_MAX_AGE",
    "acquire_recipe_lock",
    "RECIPE_LOCK_DIR",
    "_stack_age_seconds",
];

/// From the outside in: a module may use its own layer and those after it. A layer is a line of
/// docs/architecture.md.
const LAYERS: [&[&str]; 7] = [
    &["lib", "guard", "janitor", "locks", "doctor", "manual"],
    &["teardown", "harness", "abra_dir", "run_state", "tree", "gate", "interpreter"],
    &["cluster"],
    &["lock"],
    &["allow_list", "cli", "settings", "stack"],
    &["app", "duration", "error", "exit_status", "log", "build"],
    &["sys"],
];

/// Every status that `run` and `exec` give of their own accord.
const STATUSES: [u8; 14] = [70, 75, 76, 78, 125, 126, 127, 129, 130, 131, 137, 141, 142, 143];

/// Subcommands without a page: their own help says it all.
const WITHOUT_PAGE: [&str; 3] = ["completions", "man", "help"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `.rs` file below `directory`, by its path from the package's root, with its text.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root().join(directory)];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {directory}");
    found.sort();
    found
}

/// Lines that are code: a line that is only a comment may name anything.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Complains of every code line in `src`, outside `allowed`, that has one of `words`.
fn only_in(allowed: &[&str], words: &[&str]) {
    let mut found = Vec::new();
    for (name, text) in sources("src") {
        if allowed.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in code_lines(&text) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{words:?} belongs in {allowed:?} only:\n{}", found.join("\n"));
}

/// All words in `text` that start with `CCCI_` and go on in capitals.
fn variables(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("CCCI_") {
        let name: String =
            text[at..].chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_').collect();
        if !name.ends_with('_') {
            found.insert(name); // `CCCI_TEST_…` in prose is a kind, not a name.
        }
    }
    found
}

/// The module a file belongs to: `src/lock/wait.rs` is of `lock`, `src/app.rs` of `app`.
fn module(name: &str) -> &str {
    let inner = name.strip_prefix("src/").unwrap();
    inner.split('/').next().unwrap().trim_end_matches(".rs")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Fails with `let RECIPE_LOCK_DIR = 0;` in src/lib.rs.
#[test]
fn no_deleted_name_returns() {
    for (name, text) in sources("src") {
        for deleted in DELETED {
            assert!(!text.contains(deleted), "{name} names {deleted}, which must stay deleted");
        }
    }
}

/// Fails with the head of tests/fixture/main.rs removed.
#[test]
fn every_file_says_what_it_is() {
    for directory in ["src", "tests"] {
        for (name, text) in sources(directory) {
            assert!(text.starts_with("//! "), "{name} must open with `//!`: what it owns, what it promises");
        }
    }
}

/// Fails with `libc::getpid()` in an `unsafe` block of src/lib.rs.
#[test]
fn unsafe_and_libc_stay_behind_sys() {
    only_in(&["src/sys"], &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe(", "libc::", "use libc"]);
}

/// `vars_os` too: what the harness gets is a thing that settings.rs hands out.
/// Fails with `std::env::var("HOME")` in src/lib.rs.
#[test]
fn only_settings_reads_the_environment() {
    only_in(&["src/settings"], &["env::var"]);
}

/// An exit in the middle leaves a lock, a child or a report behind. `_exit` of a forked child is in sys.
/// Fails with `std::process::exit(1)` in src/lib.rs.
#[test]
fn only_main_ends_the_process() {
    only_in(&["src/main.rs", "src/sys"], &["process::exit", "_exit("]);
}

/// Fails with `use crate::guard` in src/lock/mod.rs.
#[test]
fn imports_run_one_way() {
    let mut wrong = Vec::new();
    for (name, text) in sources("src") {
        let from = module(&name);
        if from == "main" {
            continue;
        }
        let Some(own) = layer(from) else {
            wrong.push(format!("{name}: no layer of tests/it/tidy.rs and docs/architecture.md has the module {from}"));
            continue;
        };
        for (number, line) in code_lines(&text) {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let to: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let strangers = matches!((from, to.as_str()), ("guard", "janitor") | ("janitor", "guard"));
                // No layer: a macro or an item of lib.rs itself; only lib.rs is above all.
                if strangers || layer(&to).is_some_and(|other| other < own) {
                    wrong.push(format!("{name}:{number}: {from} may not use {to}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports run from the outside in:\n{}", wrong.join("\n"));
}

/// Fails with docs/commands/exec.md renamed.
#[test]
fn every_subcommand_has_its_page() {
    let out = Command::new(env!("CARGO_BIN_EXE_ccci-guard")).arg("--help").output().unwrap();
    let help = String::from_utf8(out.stdout).unwrap();
    let names: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        // A name stands two spaces in; the lines of a long description stand further in.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !WITHOUT_PAGE.contains(name))
        .collect();
    assert!(names.contains(&"run") && names.contains(&"exec"), "no commands in the help:\n{help}");
    for name in names {
        let path = format!("docs/commands/{name}.md");
        assert!(root().join(&path).is_file(), "the subcommand {name} has no {path}");
    }
}

/// Fails with the row of 142 deleted.
#[test]
fn every_exit_status_has_its_row() {
    let text = page("docs/exit-status.md");
    for status in STATUSES {
        let found = text.lines().filter(|line| line.starts_with('|')).any(|line| {
            line.split('|').nth(1).unwrap_or("").split(|c: char| !c.is_ascii_digit()).any(|n| n == status.to_string())
        });
        assert!(found, "docs/exit-status.md has no row whose first column names {status}");
    }
}

/// Fails with `CCCI_GRACE` deleted from the page, and with `CCCI_NEW` in src/settings.rs.
#[test]
fn every_variable_has_its_line() {
    let documented = variables(&page("docs/environment.md"));
    for (name, text) in sources("src") {
        for variable in variables(&text) {
            assert!(documented.contains(&variable), "docs/environment.md has no line for {variable} ({name})");
        }
    }
}

/// Fails with a line of `take_over_locks` changed in one of the two.
#[test]
fn the_page_shows_the_harness_that_is_tested() {
    let source = page("tests/fixture/harness.py");
    let code = source
        .split_once("# ---- docs/harness.md: begin ----\n")
        .and_then(|(_, rest)| rest.split_once("# ---- docs/harness.md: end ----"))
        .map(|(code, _)| code.trim_end())
        .expect("tests/fixture/harness.py marks what docs/harness.md prints");
    assert!(
        page("docs/harness.md").contains(code),
        "docs/harness.md does not show the lines of tests/fixture/harness.py"
    );
}

/// Fails with a test that the page names renamed, and with a new file that it does not name.
#[test]
fn the_page_of_the_tests_names_them_as_they_are() {
    let text = page("docs/testing.md");
    let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let mut named = 0;
    for (place, name) in quoted.iter().filter_map(|quoted| quoted.split_once("::")) {
        if place.starts_with(char::is_uppercase) {
            continue; // `Stage::pid` is a type's.
        }
        let suite = if place.starts_with("swarm/") || place.starts_with("switched/") { "tests" } else { "tests/it" };
        let source = page(&format!("{suite}/{place}.rs"));
        named += 1;
        let test = source.split("#[test]").skip(1).any(|rest| {
            let next = rest.lines().find(|line| line.trim_start().starts_with("fn "));
            next.is_some_and(|line| line.trim_start().starts_with(&format!("fn {name}(")))
        });
        assert!(test, "docs/testing.md names {place}::{name}, which is no test");
    }
    assert!(named > 100, "{named} tests are named");
    for entry in fs::read_dir(root().join("tests/it")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = file.strip_suffix(".rs").filter(|stem| *stem != "main") else { continue };
        assert!(quoted.contains(&stem), "docs/testing.md does not tell what {file} is about");
    }
}
