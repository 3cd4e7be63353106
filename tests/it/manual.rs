//! What the program tells of itself beside `--help`: exit statuses, man pages, completions, its version; and that no
//! output of the program minds who reads it.

use crate::help::{COMMANDS, help_of, options};
use crate::support::{APP, GUARD, Guard, Pty, SOON, Sandbox, git, need, try_git};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Is this program in PATH?
fn there(program: &str) -> bool {
    Command::new("sh").args(["-c", "command -v \"$1\"", "sh", program]).output().unwrap().status.success()
}

/// Numbers with nothing but blanks and commas between.
fn numbers(text: &str) -> Vec<u8> {
    text.split([' ', ',']).filter_map(|word| word.parse().ok()).collect()
}

/// Every `Name = N` of `ExitStatus`.
fn statuses() -> BTreeSet<u8> {
    let text = fs::read_to_string(root().join("src/exit_status.rs")).unwrap();
    let body = text.split_once("pub enum ExitStatus {").unwrap().1.split_once("\n}").unwrap().0;
    let found: BTreeSet<u8> =
        body.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = ")?.1.parse().ok()).collect();
    assert!(found.len() >= 19, "{found:?}");
    found
}

/// `help exit-codes` has a row for each exit status of the program, docs/exit-status.md too, and no row is about a
/// status that is none.
///
/// Seen failing with the row of 76 taken out.
#[test]
fn exit_codes_has_a_row_for_every_status() {
    let sandbox = Sandbox::new();
    let out = sandbox.plain().args(["help", "exit-codes"]).output();
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    let text = out.text();
    let mut told = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.ends_with(':')) {
        assert!(line.chars().count() <= 100 + 10, "too wide: {line:?}");
        let (status, meaning) = line.trim_start().split_once("  ").unwrap_or_else(|| panic!("no columns: {line:?}"));
        assert!(meaning.trim().len() > 4, "no meaning: {line:?}");
        told.extend(numbers(status));
    }
    // Drone's own: not ours, but everybody has to know that.
    let mut expected = statuses();
    expected.insert(78);
    assert_eq!(told, expected, "{text}");
    let page = fs::read_to_string(root().join("docs/exit-status.md")).unwrap();
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let on_page: BTreeSet<u8> = first_cells.flat_map(numbers).collect();
    assert!(expected.is_subset(&on_page), "not in docs/exit-status.md: {:?}", expected.difference(&on_page));
    assert!(on_page.is_subset(&expected), "in docs/exit-status.md only: {:?}", on_page.difference(&expected));
}

/// Bash, as it is: the script is sourced, and asked as readline would.
#[track_caller]
fn completed(sandbox: &Sandbox, line: &[&str]) -> BTreeSet<String> {
    let script = "source <(\"$G\" completions bash) || exit 9\n\
        function=$(complete -p ccci-guard | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
        COMP_WORDS=(ccci-guard \"$@\") COMP_CWORD=$# COMPREPLY=()\n\
        \"$function\" ccci-guard \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = sandbox.command("bash");
    bash.args(["--norc", "-c", script, "bash"]).args(line);
    let mut bash = sandbox.spawn(bash);
    assert_eq!(bash.code(), 0, "{}", bash.stderr());
    assert_eq!(bash.stderr(), "", "{line:?}");
    bash.stdout().lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// In a real bash: forms by their beginning, forms of forms, and each option that the help of a command has.
///
/// Seen failing as the generator made it (clap-rs/clap#6421): behind a form there was nothing.
#[test]
fn bash_completes_forms_and_options() {
    let sandbox = Sandbox::new();
    let words = |words: &[&str]| -> BTreeSet<String> { words.iter().map(|word| (*word).to_owned()).collect() };
    assert_eq!(completed(&sandbox, &["ja"]), words(&["janitor"]));
    assert_eq!(completed(&sandbox, &["abra-dir", "cr"]), words(&["create"]));
    assert_eq!(completed(&sandbox, &["state", "record-"]), words(&["record-deploy", "record-app"]));
    assert_eq!(completed(&sandbox, &["run", "--dead"]), words(&["--deadline"]));
    assert_eq!(completed(&sandbox, &["--dead"]), words(&["--deadline"]), "the bare form");
    let forms: BTreeSet<String> =
        COMMANDS[1..].iter().filter(|form| !form.contains(' ')).map(|f| (*f).into()).collect();
    let offered = completed(&sandbox, &[""]);
    assert!(forms.is_subset(&offered), "{offered:?}");
    for command in &COMMANDS[1..] {
        let line: Vec<&str> = command.split_whitespace().chain(["--"]).collect();
        let offered = completed(&sandbox, &line);
        let wanted: BTreeSet<String> =
            options(&help_of(&sandbox, command)).into_keys().map(|name| format!("--{name}")).collect();
        // What a help hides (for `exec`, `janitor`, `reap`) is offered all the same.
        assert!(wanted.is_subset(&offered), "{command}: {:?}", wanted.difference(&offered));
        let no_more = ["exec", "janitor", "reap"].contains(command) || offered == wanted;
        assert!(no_more, "{command}: {:?}", offered.difference(&wanted));
    }
}

/// Each script names every form, and its shell can read it. Where there is no fish its script is only looked at: it is
/// not among what tests/run installs.
///
/// Seen failing with scripts cut at two thirds.
#[test]
fn zsh_and_fish_can_read_their_scripts() {
    let sandbox = Sandbox::new();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let out = sandbox.plain().args(["completions", shell]).output();
        assert_eq!((out.code(), out.stderr.as_str()), (0, ""), "{shell}");
        for command in &COMMANDS[1..] {
            let name = command.split_whitespace().last().unwrap();
            assert!(out.text().contains(name), "{shell}: nothing of {command}");
        }
        let script = sandbox.path(format!("script.{shell}"));
        fs::write(&script, &out.stdout).unwrap();
        if shell == "fish" && !there(shell) {
            println!("no fish here: its script was not read by it");
            continue;
        }
        if !need(shell, there(shell)) {
            continue;
        }
        let mut reader = sandbox.command(shell);
        reader.arg(check).arg(&script);
        let mut reader = sandbox.spawn(reader);
        assert_eq!((reader.code(), reader.stderr()), (0, String::new()), "{shell}");
    }
    let out = sandbox.plain().args(["completions", "pwsh"]).output();
    assert_eq!((out.code(), out.text().as_str()), (2, ""), "{}", out.stderr);
    assert!(out.stderr.contains("bash, zsh or fish"), "{}", out.stderr);
}

/// At the prompt of a real shell: typed words, tabs, and what the shell then calls.
///
/// Seen failing in bash as the generator made it, and in zsh with the command of the bare form left in the script.
#[test]
fn a_tab_completes_at_a_prompt() {
    for (shell, options, set_up) in [
        ("bash", &["--norc", "--noprofile", "-i"][..], "source ./script"),
        (
            "zsh",
            &["-f", "-i"],
            "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D\n\
            zle-line-init() { print -n 'prompt> ' }; zle -N zle-line-init; unset zle_bracketed_paste; PS1='%% '",
        ),
    ] {
        if !need(shell, there(shell)) {
            continue;
        }
        let sandbox = Sandbox::new();
        let script = sandbox.plain().args(["completions", shell]).output().stdout;
        for name in ["script", "_ccci-guard"] {
            fs::write(sandbox.path("work").join(name), &script).unwrap();
        }
        let call = "ccci-guard() { echo \"calls: $*;\"; }";
        fs::write(sandbox.path("work/setup"), format!("{set_up}\n{call}\n")).unwrap();
        let pty = Pty::new();
        let _shell = pty.spawn(&sandbox, &[&[shell], options].concat());
        pty.expect(0, "prompt> ");
        pty.write(". ./setup; echo \"set\" up\n");
        let mut at = pty.expect(0, "set up");
        for (typed, called) in [
            ("ja\t", "janitor"),
            ("ab\tcr\t", "abra-dir create"),
            ("state record-d\timmich", "state record-deploy immich"),
            ("run --dead\t50m", "run --deadline 50m"),
            ("locks --js\t", "locks --json"),
            ("--dead\t50m", "--deadline 50m"),
        ] {
            at = pty.expect(at, "prompt> ");
            pty.write(&format!("ccci-guard {typed}\n"));
            let from = pty.expect(at, "calls: ");
            at = pty.expect(from, ";");
            // zsh writes `--deadline=`.
            assert_eq!(
                pty.shown()[from..at - 1].trim_end().replace('=', " "),
                called,
                "{shell}: {typed:?}: {}",
                pty.shown()
            );
        }
    }
}

/// All pages by name.
fn pages(sandbox: &Sandbox) -> Vec<(&'static str, String, String)> {
    let directory = sandbox.path("pages/man1");
    let out = sandbox.plain().args(["man", "--dir"]).arg(&directory).output();
    assert_eq!((out.code(), out.text().as_str(), out.stderr.as_str()), (0, "", ""));
    let name = |command: &str| format!("ccci-guard {command}").trim_end().replace(' ', "-");
    let pages: Vec<_> = COMMANDS.iter().map(|&command| (command, name(command))).collect();
    let mut found: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected: Vec<String> = pages.iter().map(|(_, name)| format!("{name}.1")).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "one page for each command");
    let read = |name: &str| fs::read_to_string(directory.join(format!("{name}.1"))).unwrap();
    pages.into_iter().map(|(command, name)| (command, read(&name), name)).collect()
}

/// One page for each command; each has its sections in the order of man-pages(7), its options, and its example.
///
/// Seen failing with no SIGNALS for `janitor`, and with FILES under another title.
#[test]
fn each_command_has_a_page_with_all_sections() {
    let sandbox = Sandbox::new();
    for (command, page, name) in pages(&sandbox) {
        let sections = page.lines().filter_map(|line| line.strip_prefix(".SH ")).map(|title| title.trim_matches('"'));
        let sections: Vec<&str> = sections.collect();
        let mut from = 0;
        let help = help_of(&sandbox, command);
        let mut options = options(&help);
        if !command.is_empty() {
            options.remove("help");
        }
        let has_signals = ["", "run", "exec", "janitor", "reap"].contains(&command);
        let wanted = ["NAME", "SYNOPSIS", "DESCRIPTION"].into_iter().chain((!options.is_empty()).then_some("OPTIONS"));
        let wanted = wanted.chain(["EXIT STATUS", "ENVIRONMENT", "FILES"]).chain(has_signals.then_some("SIGNALS"));
        for section in wanted.chain(["EXAMPLES"]) {
            let at = sections[from..].iter().position(|found| *found == section);
            from += at.unwrap_or_else(|| panic!("{name}: no {section}, or not there: {sections:?}"));
        }
        let text = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\e", "\\");
        for option in options.keys() {
            assert!(text.contains(&format!("--{option}")), "{name} does not name --{option}");
        }
        let example = help.lines().next().unwrap().split_once(": ").unwrap().1;
        let examples = text.split_once("EXAMPLES").unwrap().1;
        assert!(examples.contains(example), "{name}: {example:?} not in {examples:?}");
    }
    // Without a directory: the program's own page.
    let page = sandbox.plain().args(["man"]).output();
    assert_eq!((page.code(), page.stderr.as_str()), (0, ""));
    assert!(page.text() == fs::read_to_string(sandbox.path("pages/man1/ccci-guard.1")).unwrap());
}

/// groff reads each page without a warning, and shows its words; where mandoc is installed, it has no warning either.
/// (tests/run installs groff; without mandoc this is all.)
///
/// Seen failing with no date at all in `.TH`, not even an empty one (mandoc), and with `…` left as it is (groff).
#[test]
fn the_pages_are_read_without_a_warning() {
    if !need("groff (Debian package groff-base)", there("groff")) {
        return;
    }
    let sandbox = Sandbox::new();
    let with_mandoc = there("mandoc");
    if !with_mandoc {
        println!("no mandoc here: its opinion is not asked");
    }
    for (command, _, name) in pages(&sandbox) {
        let path = sandbox.path("pages/man1").join(format!("{name}.1"));
        let mut groff = sandbox.command("groff");
        groff.args(["-man", "-ww", "-Tutf8"]).arg(&path);
        let mut groff = sandbox.spawn(groff);
        assert_eq!((groff.code(), groff.stderr()), (0, String::new()), "{name}");
        let shown = groff.stdout();
        let title = format!("ccci-guard {command}");
        assert!(shown.contains(title.trim_end()) || shown.contains(&name), "{name}: {shown}");
        assert!(!shown.contains("\\-") && !shown.contains("\\f"), "{name}: roff in the text: {shown}");
        if with_mandoc {
            let mut mandoc = sandbox.command("mandoc");
            mandoc.args(["-Tlint", "-Wwarning"]).arg(&path);
            let mut mandoc = sandbox.spawn(mandoc);
            mandoc.wait(SOON);
            // A page made by the program itself is of no day.
            let said: Vec<String> =
                mandoc.stdout().lines().filter(|line| !line.contains("missing date")).map(str::to_owned).collect();
            assert!(said.is_empty(), "{name}: {said:?}");
        }
    }
}

/// Where the pages can't be written: 1, and one sentence that names the place.
///
/// Seen failing with the error of a write dropped.
#[test]
fn pages_that_can_t_be_written_are_said() {
    let sandbox = Sandbox::new();
    let taken = sandbox.path("taken");
    fs::create_dir_all(taken.join("ccci-guard.1")).unwrap();
    for directory in [Path::new("/dev/null/man1"), Path::new("/proc/man1"), &taken] {
        let out = sandbox.plain().args(["man", "--dir"]).arg(directory).output();
        assert_eq!((out.code(), out.text().as_str()), (1, ""), "{}", out.stderr);
        assert!(out.stderr.starts_with("ccci-guard: error: ") && out.stderr.lines().count() == 1, "{}", out.stderr);
        assert!(out.stderr.contains(directory.to_str().unwrap()), "{}", out.stderr);
    }
}

/// In a checkout the version names the commit that is checked out.
///
/// Seen failing with the commit before it, and with a program from before the last commit.
#[test]
fn the_version_names_the_commit() {
    let sandbox = Sandbox::new();
    let out = sandbox.plain().arg("--version").output();
    let commit = try_git(root(), ["rev-parse", "--verify", "HEAD"]).status.success();
    let commit = commit.then(|| format!(" ({})", git(root(), ["rev-parse", "--short=12", "HEAD"])));
    let expected = format!("ccci-guard {}{}\n", env!("CARGO_PKG_VERSION"), commit.unwrap_or_default());
    assert_eq!((out.code(), out.text(), out.stderr.as_str()), (0, expected, ""));
    assert_eq!(sandbox.plain().arg("-V").output().text(), out.text());
}

/// Everything that prints data, each where it has something to print.
fn printing(sandbox: &Sandbox) -> Vec<Guard<'_>> {
    let janitor = ["janitor", "--zone", "ci.example.net", "--list-cmd", "true", "--teardown", "true"];
    let fixed: [&[&str]; 18] = [
        &["--help"],
        &["--version"],
        &["help"],
        &["help", "run"],
        &["help", "exit-codes"],
        &["run", "--help"],
        &["abra-dir", "create", "--help"],
        &["man"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
        &["locks"],
        &["locks", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["abra-dir", "list", "--json"],
        &["state", "show", "--run-id", "a", "--pid", "4242"],
        &["state", "show", "--json", "--run-id", "a", "--pid", "4242"],
    ];
    let guards = fixed.iter().map(|words| sandbox.plain().args(*words));
    guards.chain([sandbox.plain().args(janitor), sandbox.plain().args(janitor).arg("--json")]).collect()
}

fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.lock_path(APP), "").unwrap();
    let out = sandbox.plain().args(["state", "init", "--run-id", "a", "--pid", "4242"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    sandbox
}

/// A reader that has gone, and a stdout that is closed from the start: a quiet end with the status that the command
/// has anyway. Nothing is a panic (101, or 134 as this program is built).
///
/// Seen failing with a panic for a write that fails.
#[test]
fn nobody_has_to_read_us() {
    let sandbox = prepared();
    for (plain, gone) in printing(&sandbox).into_iter().zip(printing(&sandbox)) {
        let words = plain.line();
        let status = plain.output().code();
        assert!([0, 1].contains(&status), "{words}: {status}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = gone.stdout(writer).output();
        assert!([status, 141].contains(&out.code()), "{words} without a reader: {}: {}", out.code(), out.stderr);
        assert!(!out.stderr.contains("panicked") && !out.stderr.contains("Broken pipe"), "{words}: {}", out.stderr);
        let mut closed = sandbox.shell(&format!("exec {words} >&-"));
        assert_eq!(closed.code(), status, "{words} with a closed stdout: {}", closed.stderr());
        assert!(!closed.stderr().contains("panicked"), "{words}: {}", closed.stderr());
    }
}

/// A full disk: half a table or half a JSON is no success. One sentence, and a status that is not 0.
///
/// Seen failing with the write's error dropped: 0, and not a word.
#[test]
fn a_full_disk_is_said() {
    let sandbox = prepared();
    for guard in printing(&sandbox) {
        let words = guard.line().replace(GUARD, "ccci-guard");
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let out = guard.stdout(full).output();
        assert!((1..100).contains(&out.code()), "{words}: {}: {:?}", out.code(), out.stderr);
        let said = out.stderr.lines().filter(|line| line.contains("No space left on device")).count();
        assert_eq!(said, 1, "{words}: {:?}", out.stderr);
        assert!(out.stderr.starts_with("ccci-guard: "), "{words}: {:?}", out.stderr);
    }
}
