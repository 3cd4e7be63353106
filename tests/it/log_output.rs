//! What people and programs see: one line an event, never in the way of the run, and clean.

use crate::lock_holder::Holder;
use crate::support::{APP, FIXTURE, Guard, Output, Proc, Pty, SOON, Sandbox, copy_program, within};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A run with something to say: a deadline, a survivor, a teardown that prints.
fn eventful<'a>(sandbox: &'a Sandbox, teardown: &str) -> Guard<'a> {
    let guard = sandbox.run().app().deadline("1s").grace("5s").args(["--run-id", "1190"]);
    guard.teardown(teardown).sh("setsid sleep 300 & sleep 300")
}

fn json_lines(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    text.lines().map(parse).collect()
}

/// Fails with the messages' wording changed.
#[test]
fn the_sentences_of_a_run() {
    let sandbox = Sandbox::new();
    let guard = eventful(&sandbox, "echo bye; echo ouch >&2").spawn();
    let harness = guard.harness();
    let mut guard = guard;
    guard.expect_code(142);
    let text = guard.stderr();
    for words in [
        &format!("ccci-guard: deadline 1s reached: sent TERM to pid {harness}, KILL after 5s\n")[..],
        "ccci-guard: killed 2 processes that outlived the harness: ",
        " (sleep)",
        "ccci-guard: teardown: bye\n",
        "ccci-guard: teardown: ouch\n",
        &format!("ccci-guard: torn down {APP} in "),
        "; lock released; exit 142\n",
    ] {
        assert!(text.contains(words), "{words:?} not in:\n{text}");
    }
    assert!(text.lines().all(|line| line.starts_with("ccci-guard: ")), "{text}");
    assert!(!text.contains('\x1b'), "no colour where there is no terminal: {text:?}");
    assert_eq!(guard.stdout(), "", "the teardown's words are not on stdout");
}

/// Fails with `run_id` left out of the lines before the harness starts.
#[test]
fn json_has_the_same_keys_in_each_line() {
    let sandbox = Sandbox::new();
    let mut lines = Vec::new();
    let guard = eventful(&sandbox, "echo 'a \"quoted\" word'").args(["--log-format", "json"]);
    lines.extend(json_lines(&guard.output().stderr));
    let guard = eventful(&sandbox, "true").env("CCCI_LOG_FORMAT", "json");
    lines.extend(json_lines(&guard.output().stderr));
    let _held = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let guard = eventful(&sandbox, "true").args(["--log-format", "json", "--lock-timeout", "100ms"]);
    lines.extend(json_lines(&guard.output().stderr));
    assert!(lines.len() >= 8, "{lines:#?}");
    for line in &lines {
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["app", "event", "level", "message", "pid", "run_id", "ts"], "{line}");
        assert!(["error", "warning", "warn", "info"].contains(&line["level"].as_str().unwrap()), "{line}");
        assert!(!line["event"].as_str().unwrap().is_empty(), "{line}");
        assert!(!line["message"].as_str().unwrap().starts_with("ccci-guard"), "{line}");
        let time = line["ts"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{line}");
    }
    assert!(lines.iter().any(|line| line["app"] == APP), "some line names the app");
    assert!(lines.iter().any(|line| line["pid"].is_number()), "some line names a process");
    assert!(lines.iter().any(|line| line["run_id"] == "1190"), "{lines:#?}");
    assert!(lines.iter().any(|line| line["message"].as_str().unwrap().contains("a \"quoted\" word")), "{lines:#?}");
}

/// Usage errors and refusals too: a log shipper reads all there is.
/// Fails with clap's own words on stderr.
#[test]
fn errors_are_json_as_well() {
    let sandbox = Sandbox::new();
    for guard in [
        sandbox.run().harness(["no-such-command"]),
        sandbox.run().args(["--deadline", "120"]).harness(["true"]),
        sandbox.run().args(["--parent-pid", "1"]).harness(["true"]),
    ] {
        let out = guard.args(["--log-format", "json"]).output();
        assert!([125, 127].contains(&out.code()));
        let lines = json_lines(&out.stderr);
        assert_eq!(lines.last().unwrap()["level"], "error", "{lines:?}");
    }
}

/// The file gets every event, whatever stderr is set to show; it is appended to.
/// Fails with `-q` applied to both, and with the file truncated.
#[test]
fn the_log_file_has_it_all() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("guard.log");
    fs::write(&file, "before\n").unwrap();
    let loud = eventful(&sandbox, "echo bye").arg("--log-file").arg(&file).output();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("before\n"), "{text}");
    for line in loud.stderr.lines() {
        assert!(text.contains(line), "{line:?} is on stderr, but not in the file:\n{text}");
    }
    let before = text.lines().count();
    let quiet = eventful(&sandbox, "echo bye").args(["-q", "-q"]).env("CCCI_LOG_FILE", &file).output();
    assert_eq!((quiet.code(), quiet.stderr.as_str()), (142, ""));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.lines().count() >= before + 3, "{text}");
    assert!(text.matches("torn down").count() == 2, "{text}");
}

/// Fails with `-q` taken for `-qq`.
#[test]
fn quiet_leaves_warnings() {
    let sandbox = Sandbox::new();
    let out = eventful(&sandbox, "exit 3").args(["-q"]).output();
    assert!(out.stderr.contains("warning: ") || out.stderr.contains("error: "), "{:?}", out.stderr);
    assert!(!out.stderr.contains("deadline 1s reached"), "{}", out.stderr);
    let out = sandbox.run().args(["-q", "-q"]).harness(["no-such-command"]).output();
    assert!(out.stderr.contains("error: "), "errors are always said: {:?}", out.stderr);
}

/// However stderr is out of order, the run takes its course, and the log file has every word.
/// Seen failing with the log written by a write that panics.
#[test]
fn a_bad_stderr_changes_nothing() {
    let full_pipe = || {
        let (reader, writer) = std::io::pipe().unwrap();
        fill(&writer);
        (OwnedFd::from(writer), Some(OwnedFd::from(reader)))
    };
    let gone_pipe = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        (OwnedFd::from(writer), None)
    };
    let full_socket = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        fill(&theirs);
        (OwnedFd::from(theirs), Some(OwnedFd::from(ours)))
    };
    let gone_socket = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        (OwnedFd::from(theirs), None)
    };
    let device = |path: &str| {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        (OwnedFd::from(file), None::<OwnedFd>)
    };
    let read_only = || (OwnedFd::from(fs::File::open("/dev/null").unwrap()), None);
    let cases: Vec<(&str, (OwnedFd, Option<OwnedFd>))> = vec![
        ("a full pipe", full_pipe()),
        ("a pipe that nobody reads", gone_pipe()),
        ("a full socket", full_socket()),
        ("a socket that nobody reads", gone_socket()),
        ("a full disk", device("/dev/full")),
        ("a descriptor that can't be written to", read_only()),
    ];
    let runs: Vec<_> = cases
        .into_iter()
        .map(|(name, (stderr, other_end))| {
            let sandbox = Box::new(Sandbox::new());
            let teardown = sandbox.teardown();
            let command = format!("echo bye; {}", teardown.command());
            // Its own words may block in a full pipe: the harness here says nothing.
            let guard = eventful(&sandbox, &command).arg("--log-file").arg(sandbox.path("guard.log"));
            let guard = guard.stderr(stderr).spawn();
            (name, sandbox, teardown, guard, other_end)
        })
        .collect();
    for (name, sandbox, teardown, mut guard, other_end) in runs {
        let exit = guard.wait(SOON);
        assert_eq!(exit.code, 142, "{name}");
        teardown.expect_one();
        assert!(sandbox.lock_is_free(), "{name}");
        let text = fs::read_to_string(sandbox.path("guard.log")).unwrap();
        for words in ["deadline 1s reached", "teardown: bye", "torn down", "exit 142"] {
            assert!(text.contains(words), "{name}: {words:?} not in the log file:\n{text}");
        }
        sandbox.expect_nothing_left();
        drop((guard, other_end));
    }
}

/// Writes until it would block, and leaves the description blocking as it was.
fn fill(fd: impl AsFd) {
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
    while nix::unistd::write(&fd, &[b'x'; 4096]).is_ok() {}
    while nix::unistd::write(&fd, b"x").is_ok() {}
    fcntl(&fd, FcntlArg::F_SETFL(flags)).unwrap();
}

/// Closed from the start: as good as not there.
/// Fails with the log file opened as descriptor 2 and taken for stderr.
#[test]
fn a_closed_stderr_changes_nothing() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = eventful(&sandbox, &teardown.command()).arg("--log-file").arg(sandbox.path("guard.log"));
    let line = guard.line();
    let mut shell = sandbox.shell(&format!("exec {line} 2>&-"));
    assert_eq!(shell.code(), 142);
    teardown.expect_one();
    let text = fs::read_to_string(sandbox.path("guard.log")).unwrap();
    assert_eq!(text.matches("torn down").count(), 1, "each event once: {text}");
}

/// A log file that takes nothing is no reason to stop; one that can't be opened is, at the start.
/// Fails with the error of a write handed up, and with a FIFO opened blocking (it hangs).
#[test]
fn a_bad_log_file() {
    let sandbox = Sandbox::new();
    let out = eventful(&sandbox, "true").args(["--log-file", "/dev/full"]).output();
    assert_eq!(out.code(), 142, "{}", out.stderr);
    assert!(out.stderr.contains("torn down"), "{}", out.stderr);

    let fifo = sandbox.path("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let out = sandbox.run().arg("--log-file").arg(&fifo).harness(["true"]).output();
    assert!([0, 125].contains(&out.code()), "{}", out.stderr);
    within("a FIFO without a reader", out.exit.after, ..Duration::from_secs(10));
}

/// stderr as a socket that is read: the words arrive.
/// Fails with the socket reopened by its name in /proc.
#[test]
fn a_socket_is_as_good_as_a_pipe() {
    let sandbox = Sandbox::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let guard = sandbox.run().harness(["no-such-command"]).stderr(OwnedFd::from(theirs));
    let mut guard: Proc = guard.spawn();
    assert_eq!(guard.code(), 127);
    drop(guard);
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("ccci-guard: error: "), "{text:?}");
}

/// Colour on a terminal only, and not against the user's word.
/// Fails with `NO_COLOR` looked at only by name, not for being empty.
#[test]
fn colour_is_for_terminals() {
    let sandbox = Sandbox::new();
    let coloured = |options: &[&str], variables: &[&str]| {
        let pty = Pty::new();
        let line = sandbox.run().args(options).harness(["no-such-command"]).argv();
        let words: Vec<&str> = line.iter().map(|word| word.to_str().unwrap()).collect();
        let argv: Vec<&str> = [&["env"], variables, &words].concat();
        let mut guard = pty.spawn(&sandbox, &argv);
        assert_eq!(guard.code(), 127);
        pty.expect(0, "no-such-command");
        pty.shown().contains("\x1b[")
    };
    assert!(coloured(&[], &["TERM=xterm"]));
    assert!(!coloured(&[], &["TERM=xterm", "NO_COLOR=1"]));
    assert!(coloured(&[], &["TERM=xterm", "NO_COLOR="]), "empty is unset");
    assert!(!coloured(&["--color", "never"], &["TERM=xterm"]));
    assert!(coloured(&["--color", "always"], &["TERM=xterm", "NO_COLOR=1"]), "a flag beats its variable");
    let out: Output = sandbox.run().args(["--color", "always"]).harness(["no-such-command"]).output();
    assert!(out.stderr.contains("\x1b["), "{:?}", out.stderr);
    let out = sandbox.run().args(["--color", "always", "--log-format", "json"]).harness(["no-such-command"]).output();
    assert_eq!(json_lines(&out.stderr).len(), 1, "no colour in JSON");
}

/// A process may call itself anything; a teardown may print anything.
/// Fails with names and lines written as they are.
#[test]
fn foreign_words_are_escaped() {
    let sandbox = Sandbox::new();
    // The name of a process is its file's, cut to 15 bytes.
    let evil = sandbox.path("work/a\nb\x1b[2Jc");
    copy_program(FIXTURE, &evil);
    let teardown = "printf 'x\\033[2Jy\\rz\\377\\n\\000\\n'";
    let guard = sandbox.run().app().teardown(teardown).args(["--teardown-on", "always"]);
    let script = "\"$EVIL\" ignore-term >ignoring & while ! test -s ignoring; do sleep 0.01; done";
    let out = guard.env("EVIL", &evil).sh(script).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.stderr.contains("killed 1 process that outlived the harness"), "{}", out.stderr);
    for line in out.stderr.lines() {
        assert!(line.starts_with("ccci-guard: "), "{line:?}");
        assert!(line.chars().all(|c| !c.is_control() || c == '\t'), "{line:?}");
    }
    assert!(out.stderr.contains("teardown: x"), "{}", out.stderr);
}

/// A teardown that prints without end does not fill our memory, nor keep us from its end.
/// Fails with its output collected line by line without a limit.
#[test]
fn a_teardown_may_print_a_lot() {
    let sandbox = Sandbox::new();
    let teardown = "head -c 20000000 /dev/zero | tr '\\0' x; echo; yes | head -n 20000; echo last";
    let guard = sandbox.run().app().teardown(teardown).args(["--teardown-on", "always", "-q"]);
    let out = guard.arg("--log-file").arg(sandbox.path("guard.log")).harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = fs::read_to_string(sandbox.path("guard.log")).unwrap();
    assert!(text.contains("teardown: last\n"), "{} bytes of log", text.len());
}

/// What the harness says itself is never touched, cut or mixed into our lines.
/// Fails with the harness's stderr read through a pipe of ours.
#[test]
fn the_harness_s_words_are_its_own() {
    let sandbox = Sandbox::new();
    let out = sandbox.run().sh("printf 'no newline' >&2; printf '\\033[31m\\377' >&2").output();
    assert_eq!(out.stderr, String::from_utf8_lossy(b"no newline\x1b[31m\xff"));
    let mut stdin = sandbox.run().harness(["cat"]).stdin(std::process::Stdio::piped()).spawn();
    let mut pipe = stdin.stdin().unwrap();
    pipe.write_all(b"through\n").unwrap();
    assert_eq!(stdin.line(), "through");
    drop(pipe);
    stdin.signal(Signal::SIGCONT);
    stdin.expect_code(0);
}
