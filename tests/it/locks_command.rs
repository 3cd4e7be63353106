//! `ccci-guard locks` as a command: what it prints and where, what it leaves alone, and what it says when it can't look.
//!
//! Which state a lock is shown in is told in `locks_states.rs`.

mod elsewhere;

pub use elsewhere::{Nobody, unshared};

use crate::lock_holder::Holder;
use crate::support::*;
use nix::sys::stat::{Mode, stat};
use nix::unistd::mkfifo;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

/// `ccci-guard locks ARGS`.
pub fn locks<'a>(sandbox: &'a Sandbox, args: &[&str]) -> Guard<'a> {
    sandbox.plain().arg("locks").args(args)
}

/// Its JSON.
#[track_caller]
pub fn parsed(out: &Output) -> Value {
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = out.text();
    assert!(text.ends_with('\n') && text.lines().count() == 1, "one object, one line: {text:?}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["schema"], 1);
    report
}

/// What `locks --json APP` says of it.
#[track_caller]
pub fn entry(sandbox: &Sandbox, app: &str) -> Value {
    let report = parsed(&locks(sandbox, &["--json", app]).output());
    let entries = report["locks"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{report}");
    assert_eq!(entries[0]["app"], app);
    entries[0].clone()
}

/// The pids of `holders` or `waiters`.
pub fn pids(list: &Value) -> BTreeSet<i32> {
    list.as_array().unwrap().iter().map(|seen| seen["pid"].as_i64().unwrap() as i32).collect()
}

/// To a plain user `locks` says that it can't look at all processes; where that is not what a test is about.
fn sees_all() -> bool {
    need("root, to look at all processes", nix::unistd::geteuid().is_root())
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap_or_else(|| panic!("no object: {object}")).keys().map(String::as_str).collect()
}

/// Refused: the status, one sentence, and nothing on stdout.
#[track_caller]
pub fn refused(out: &Output, code: i32, words: &str) {
    assert_eq!(out.code(), code, "{}", out.stderr);
    assert_eq!(out.text(), "", "stdout carries data only");
    assert_eq!(out.stderr.lines().count(), 1, "one sentence: {:?}", out.stderr);
    assert!(out.stderr.starts_with("ccci-guard: error: "), "{:?}", out.stderr);
    assert!(out.stderr.contains(words), "{words:?} not in {:?}", out.stderr);
}

/// A run that holds the default app's lock: `sleep` is its harness.
fn held(sandbox: &Sandbox) -> Proc {
    let guard = sandbox.run().app().args(["--teardown", "none", "--run-id", "1187", "--deadline", "2h"]);
    let guard = guard.sh("echo ready; exec sleep 60").spawn();
    guard.ready();
    guard
}

/// The keys and their types are those of the contract, whether there is something to say or not.
/// To see it fail: leave out what is null, or write `held_s` as a text.
#[test]
fn json_has_all_keys_always() {
    let sandbox = Sandbox::new();
    let guard = held(&sandbox);
    let waiter = sandbox.run().app().args(["--teardown", "none"]).harness(["true"]).spawn();
    waiter.expect_stderr("waiting for app lock");
    let report = parsed(&locks(&sandbox, &["--json", APP, "never-1.ci.example.net"]).output());
    assert_eq!(keys(&report), ["locks", "schema"]);
    let (held, free) = (&report["locks"][0], &report["locks"][1]);
    for entry in [held, free] {
        assert_eq!(keys(entry), ["app", "held_s", "holders", "path", "recorded", "state", "waiters"]);
    }
    assert_eq!(held["path"], sandbox.lock_path(APP).to_str().unwrap());
    assert!(held["held_s"].is_f64(), "{held}");
    let recorded = &held["recorded"];
    assert_eq!(keys(recorded), ["command", "deadline_at", "pid", "run_id"]);
    assert_eq!(
        (&recorded["run_id"], &recorded["command"]),
        (&"1187".into(), &"/bin/sh -c echo ready; exec sleep 60".into())
    );
    assert!(recorded["deadline_at"].is_u64() && recorded["pid"].is_i64(), "{recorded}");
    for seen in held["holders"].as_array().unwrap().iter().chain(held["waiters"].as_array().unwrap()) {
        assert_eq!(keys(seen), ["comm", "pid"]);
        assert!(seen["pid"].is_i64() && seen["comm"].is_string(), "{seen}");
    }
    assert_eq!(pids(&held["waiters"]), BTreeSet::from([waiter.pid().as_raw()]));
    assert_eq!(free["state"], "free");
    assert!(free["held_s"].is_null() && free["recorded"].is_null(), "{free}");
    assert_eq!((&free["holders"], &free["waiters"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    drop(guard);
}

/// A path is bytes, JSON is text: what is no text in it is shown as such. Fails with an empty line.
#[test]
fn json_is_an_object_wherever_the_files_are() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path(OsStr::from_bytes(b"l\xff\"\n"));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(format!("cc-ci-app-{APP}.lock")), "").unwrap();
    let report = parsed(&locks(&sandbox, &["--json", "--lock-dir"]).arg(&directory).output());
    assert_eq!(report["locks"][0]["app"], APP);
    let path = report["locks"][0]["path"].as_str().unwrap();
    assert!(path.contains("/l\u{fffd}\"\n/cc-ci-app-"), "{path:?}");
}

/// In a pipe a line a lock, eight columns with tabs between, no head: for `cut` and `awk`.
/// To see it fail: print the table there too.
#[test]
fn a_pipe_gets_plain_columns() {
    if !sees_all() {
        return;
    }
    let sandbox = Sandbox::new();
    let guard = held(&sandbox);
    fs::write(sandbox.lock_path("a-1.ci.example.net"), "").unwrap();
    let out = locks(&sandbox, &[]).output();
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    let text = out.text();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0], ["a-1.ci.example.net", "free", "-", "-", "-", "-", "-", "-"], "by name");
    let [app, state, since, holders, run, deadline, waiting, command] = rows[1][..] else { panic!("{text:?}") };
    assert_eq!((app, state, run, waiting), (APP, "held", "1187", "-"));
    assert_eq!(command, "/bin/sh -c echo ready; exec sleep 60");
    assert!(since.ends_with('s') && since.starts_with(|c: char| c.is_ascii_digit()), "{since:?}");
    assert!(deadline.ends_with('Z') && deadline.starts_with("20"), "{deadline:?}");
    for process in guard.tree() {
        let named = format!("{} ({})", process.pid, process.name);
        assert!(holders.contains(&named), "{named} not in {holders:?}");
    }
    assert_eq!(rows.len(), 2, "{text:?}");
}

/// On a terminal a table with a head, its columns one below the other; without a lock a word.
/// To see it fail: pad to one width for all columns, or print nothing where there is no lock.
#[test]
fn a_terminal_gets_a_table() {
    if !sees_all() {
        return;
    }
    let sandbox = Sandbox::new();
    let terminal = Pty::new();
    let mut program = terminal.spawn(&sandbox, &[GUARD, "locks"]);
    let at = terminal.expect(0, "no app locks\r\n");
    assert_eq!(program.code(), 0);

    let guard = held(&sandbox);
    fs::write(sandbox.lock_path("a-1.ci.example.net"), "").unwrap();
    let mut program = terminal.spawn(&sandbox, &[GUARD, "locks"]);
    terminal.expect(at, "exec sleep 60\r\n");
    assert_eq!(program.code(), 0);
    let shown = terminal.shown();
    let lines: Vec<&str> = shown[at..].lines().collect();
    let head: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(head, ["APP", "STATE", "SINCE", "HELD BY", "RUN", "DEADLINE", "WAITING", "COMMAND"]);
    let column = |name: &str| lines[0].find(name).unwrap();
    assert!(lines[1].starts_with("a-1.ci.example.net ") && lines[1][column("STATE")..].starts_with("free "), "{shown}");
    assert!(lines[2].starts_with(APP) && lines[2][column("STATE")..].starts_with("held "), "{shown}");
    assert!(lines[2][column("HELD BY")..].starts_with(&format!("{} (ccci-guard)", guard.monitor())), "{shown}");
    assert!(lines[2][column("RUN")..].starts_with("1187 "), "{shown}");
    assert!(lines[2][column("COMMAND")..].starts_with("/bin/sh -c"), "{shown}");
    assert!(lines.iter().all(|line| line.trim_end() == *line), "no blanks at the end: {shown:?}");
}

/// Whatever somebody wrote into a lock file is one cell of one line, and moves no cursor.
/// To see it fail: print run id and command as they are.
#[test]
fn control_characters_are_escaped() {
    if !sees_all() {
        return;
    }
    let sandbox = Sandbox::new();
    let held = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let line = format!(
        "{{\"pid\":{},\"run_id\":\"a\\u001b[2Jb\\nc\",\"command\":\"\\u001b]0;x\\u0007\\tone\\r\\n\\u009btwo\",\"deadline_at\":null}}\n",
        held.pid()
    );
    fs::write(sandbox.lock_path(APP), line).unwrap();
    let text = locks(&sandbox, &[]).output().text();
    assert_eq!((text.matches('\n').count(), text.matches('\t').count()), (1, 7), "{text:?}");
    assert!(text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'), "{text:?}");
    assert!(text.contains("\\u{1b}[2Jb\\nc") && text.contains("two"), "still told: {text:?}");

    let terminal = Pty::new();
    let mut program = terminal.spawn(&sandbox, &[GUARD, "locks"]);
    terminal.expect(0, "two\r\n");
    assert_eq!(program.code(), 0);
    let shown = terminal.shown();
    assert_eq!(shown.lines().count(), 2, "{shown:?}");
    assert!(shown.chars().all(|c| !c.is_control() || c == '\r' || c == '\n'), "{shown:?}");
    // JSON has its own escapes, and the text is whole behind them.
    let recorded = &entry(&sandbox, APP)["recorded"];
    assert_eq!(
        (&recorded["run_id"], &recorded["command"]),
        (&"a\u{1b}[2Jb\nc".into(), &"\u{1b}]0;x\u{7}\tone\r\n\u{9b}two".into())
    );
}

/// A bad name is a usage error, with nothing printed for the good ones; one without a file is free, and gets none.
/// To see it fail: look into the directory only, or open with O_CREAT.
#[test]
fn named_apps_are_shown_with_or_without_a_file() {
    let sandbox = Sandbox::new();
    for bad in ["UPPER.example.net", "", "a..b", "a/b", "a.example.net."] {
        refused(&locks(&sandbox, &[APP, bad]).output(), 2, bad);
    }
    refused(&locks(&sandbox, &["--no-such-option"]).output(), 2, "--no-such-option");
    let out = locks(&sandbox, &[APP]).output();
    assert_eq!((out.code(), out.text()), (0, format!("{APP}\tfree\t-\t-\t-\t-\t-\t-\n")));
    assert_eq!(fs::read_dir(sandbox.lock_dir()).unwrap().count(), 0, "no file was made");
    // Named ones only, and each once however often it was named.
    fs::write(sandbox.lock_path("a-1.ci.example.net"), "").unwrap();
    let report = parsed(&locks(&sandbox, &["--json", APP, APP]).output());
    assert_eq!(report["locks"].as_array().unwrap().len(), 1, "{report}");
    // Names of files that are no app locks are none of ours.
    for other in ["cc-ci-app-.lock", "cc-ci-app-UPPER.lock", "cc-ci-app-x.lock.tmp", "other", ".cc-ci-app-x.y.lock"] {
        fs::write(sandbox.lock_dir().join(other), "").unwrap();
    }
    let report = parsed(&locks(&sandbox, &["--json"]).output());
    assert_eq!(report["locks"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["locks"][0]["app"], "a-1.ci.example.net");
}

/// Looking is not taking: a run that does not wait gets its lock, however often somebody looks meanwhile.
/// To see it fail: probe each file with a shared flock(2) that is let go at once.
#[test]
fn it_takes_no_lock() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.lock_path(APP), "").unwrap();
    let look = format!("while :; do {} >/dev/null || exit; done", locks(&sandbox, &[]).line());
    let lookers: Vec<_> = (0..2).map(|_| sandbox.shell(&look)).collect();
    let pids = lookers.iter().map(|looker| looker.pid());
    for looker in pids {
        eventually(SOON, "a look", || if children(looker).is_empty() { Err("none yet") } else { Ok(()) });
    }
    for round in 0..rounds(300) {
        let out = sandbox.run().app().args(["--teardown", "none", "--lock-timeout", "0s"]).harness(["true"]).output();
        assert_eq!(out.code(), 0, "round {round}: {}", out.stderr);
    }
    for mut looker in lookers {
        assert!(looker.try_wait().is_none(), "it looked to the end: {}", looker.stderr());
    }
}

/// Nothing in the lock directory changes, and where nothing can change it works as well.
/// To see it fail: open the files with O_CREAT, or for writing.
#[test]
fn it_creates_nothing_and_needs_no_write() {
    if !sees_all() {
        return;
    }
    let sandbox = Sandbox::new();
    let guard = held(&sandbox);
    fs::write(sandbox.lock_path("a-1.ci.example.net"), "rest of a line").unwrap();
    let shot = || {
        let mut files: Vec<_> = fs::read_dir(sandbox.lock_dir()).unwrap().flatten().map(|file| file.path()).collect();
        files.push(sandbox.lock_dir());
        files.sort();
        let shot = |path| stat(path).map(|file| (file.st_ino, file.st_size, file.st_mtime_nsec, file.st_ctime_nsec));
        files.iter().map(|path| (path.clone(), shot(path).unwrap())).collect::<Vec<_>>()
    };
    let before = shot();
    for args in [&[] as &[&str], &["--json"], &[APP], &["b-2.ci.example.net", "--json"]] {
        assert_eq!(locks(&sandbox, args).output().code(), 0, "{args:?}");
    }
    assert_eq!(shot(), before);

    let Some(unshare) = unshared("m") else { return };
    let script = format!(
        "mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}' && exec \"$@\"",
        sandbox.lock_dir().display()
    );
    let read_only = |argv: &Guard<'_>| {
        let mut command = sandbox.command(&unshare[0]);
        command.args(&unshare[1..]).args(["sh", "-c", &script, "sh"]).args(argv.argv());
        sandbox.spawn(command)
    };
    let mut touch = sandbox.command(&unshare[0]);
    touch.args(&unshare[1..]).args(["sh", "-c", &script, "sh", "touch"]).arg(sandbox.lock_path("c-3.ci.example.net"));
    if !need("a bind mount", sandbox.spawn(touch).code() == 1 && !sandbox.lock_path("c-3.ci.example.net").exists()) {
        return;
    }
    let mut look = read_only(&locks(&sandbox, &["--json"]));
    assert_eq!(look.code(), 0, "{}", look.stderr());
    let report: Value = serde_json::from_str(&look.stdout()).unwrap();
    assert_eq!(
        (&report["locks"][0]["state"], &report["locks"][1]["state"]),
        (&"free".into(), &"held".into()),
        "{report}"
    );
    drop(guard);
}

/// No lock directory, no locks. Fails with an error about it, or with the directory made.
#[test]
fn a_missing_lock_directory_holds_no_locks() {
    let sandbox = Sandbox::new();
    let missing = sandbox.path("missing/locks");
    let out = locks(&sandbox, &[]).env("CCCI_APP_LOCK_DIR", &missing).output();
    assert_eq!((out.code(), out.text().as_str()), (0, ""), "{}", out.stderr);
    let out = locks(&sandbox, &["--lock-dir", missing.to_str().unwrap(), "--json", APP]).output();
    assert_eq!(parsed(&out)["locks"][0]["state"], "free");
    assert!(!sandbox.path("missing").exists());
}

/// A directory that can't be read tells nothing, and that is what is said: of all locks, and of one that is named.
/// To see it fail: take every error for "not there".
#[test]
fn an_unreadable_lock_directory_is_an_error() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "").unwrap();
    let file = sandbox.path("file");
    refused(&locks(&sandbox, &["--lock-dir", file.to_str().unwrap()]).output(), 1, file.to_str().unwrap());
    refused(&locks(&sandbox, &["--lock-dir", file.to_str().unwrap(), APP]).output(), 1, file.to_str().unwrap());

    let Some(nobody) = Nobody::in_sandbox(&sandbox) else { return };
    let held = Holder::take(&sandbox, &sandbox.lock_path(APP));
    fs::set_permissions(sandbox.lock_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    let directory = sandbox.lock_dir();
    for args in [&[] as &[&str], &["--json"], &[APP], &[APP, "--json"]] {
        let out = nobody.runs(locks(&sandbox, args)).output();
        refused(&out, 1, directory.to_str().unwrap());
    }
    held.release();
}

/// What stands where a lock file should be is not opened, not followed and not waited for.
/// To see it fail: open without O_NOFOLLOW and O_NONBLOCK (the FIFO hangs), or follow the link to its target's lock.
#[test]
fn what_is_no_file_is_passed_by() {
    let sandbox = Sandbox::new();
    let app = |n: u32| format!("a-{n}.ci.example.net");
    fs::create_dir(sandbox.lock_path(&app(1))).unwrap();
    mkfifo(&sandbox.lock_path(&app(2)), Mode::S_IRWXU).unwrap();
    symlink(sandbox.path("elsewhere"), sandbox.lock_path(&app(3))).unwrap();
    symlink("/dev/tty", sandbox.lock_path(&app(4))).unwrap();
    symlink(sandbox.lock_path(&app(5)), sandbox.lock_path(&app(5))).unwrap();
    let _held = Holder::take(&sandbox, &sandbox.path("elsewhere"));
    let out = locks(&sandbox, &["--json"]).output();
    within("a look", out.exit.after, ..Duration::from_secs(5));
    for entry in parsed(&out)["locks"].as_array().unwrap() {
        assert_ne!(entry["state"], "held", "{entry}");
        assert!(entry["recorded"].is_null() && entry["holders"] == Value::Array(vec![]), "{entry}");
    }
}

/// A reader that closes early is a quiet end; a disk that is full is a sentence and status 1.
/// To see it fail: `println!`, which panics; or forget what write(2) said.
#[test]
fn an_output_that_takes_nothing_is_no_panic() {
    if !sees_all() {
        return;
    }
    let sandbox = Sandbox::new();
    for n in 0..2000 {
        fs::write(sandbox.lock_path(&format!("a-{n}.ci.example.net")), "").unwrap();
    }
    for json in [&[] as &[&str], &["--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = locks(&sandbox, json).stdout(writer).output();
        assert_eq!((out.code(), out.stderr.as_str()), (0, ""), "closed before: {json:?}");
        // More than a pipe holds: the reader goes while it writes.
        let line = locks(&sandbox, json).line();
        let mut shell = sandbox.shell(&format!("{{ {line}; echo \"status $?\" >&2; }} | head -c1 >/dev/null"));
        assert_eq!((shell.code(), shell.stderr().as_str()), (0, "status 0\n"), "closed meanwhile: {json:?}");
        let mut shell = sandbox.shell(&format!("{line} >&-"));
        assert!(matches!(shell.code(), 0 | 1), "none at all: {json:?}: {}", shell.stderr());
        assert!(!shell.stderr().contains("panicked"), "{}", shell.stderr());

        let full = File::options().write(true).open("/dev/full").unwrap();
        let out = locks(&sandbox, json).stdout(full).output();
        refused(&out, 1, "No space left on device");
    }
}

/// Without /proc nothing can be told, and that is what is said.
/// To see it fail: take a table that can't be read for an empty one.
#[test]
fn a_missing_proc_is_said() {
    let Some(unshare) = unshared("m") else { return };
    let sandbox = Sandbox::new();
    let guard = held(&sandbox);
    for args in [&[] as &[&str], &[APP], &["--json"]] {
        let without = locks(&sandbox, args).under(&unshare);
        let out = without.under(["sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"]).output();
        refused(&out, 1, "/proc");
    }
    drop(guard);
}
