//! A Python harness that takes the lock over as docs/harness.md says, and what it may leave behind.

use crate::lock_holder::Holder;
use crate::support::stubs::ZONE;
use crate::support::{APP, Guard, SOON, Sandbox, alive, eventually, held, lock_is_free, python, within};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const HARNESS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/harness.py");
const OTHER: &str = "keyc-0b52fe.ci.example.net";
/// Each way in which a Python program leaves something behind without meaning to.
const WAYS: [&str; 6] = ["ssh-agent", "nohup", "os-system", "posix-spawn", "close-fds-false", "daemon"];

fn command<'a>(options: &[&'a str]) -> Vec<&'a str> {
    [&[python(), HARNESS], options].concat()
}

fn adapted<'a>(guard: Guard<'a>, options: &[&str]) -> Guard<'a> {
    guard.harness(command(options))
}

fn run(sandbox: &Sandbox) -> Guard<'_> {
    sandbox.run().app().args(["--teardown", "none"])
}

fn ssh_agent_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("ssh-agent").exists());
    crate::support::need("ssh-agent", found)
}

/// Seen failing with the device in hexadecimal, and with the descriptor left inheritable.
#[test]
fn it_takes_the_lock_over() {
    let sandbox = Sandbox::new();
    for guard in [run(&sandbox), sandbox.exec().app()] {
        let out = adapted(guard, &["--facts", "--exit", "3"]).output();
        assert_eq!(out.code(), 3, "{}", out.stderr);
        let facts: Value = serde_json::from_str(out.text().lines().next().unwrap()).unwrap();
        assert!(facts["locks"][APP][0].as_i64().unwrap() >= 100, "{facts}");
        assert_eq!(facts["locks"][APP][1], false, "not inheritable any more: {facts}");
    }
    // Without an app there is nothing to take over, and it says nothing.
    let out = adapted(sandbox.run(), &["--facts"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains("\"locks\": {}"), "{}", out.text());
}

/// Another file under that number, a path that leads elsewhere, a lock that another holds: it must not run.
/// Seen failing with dev:ino not compared, and with the lock not tried.
#[test]
fn it_refuses_what_is_not_its_lock() {
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    fs::write(&path, "").unwrap();
    let other = sandbox.path("other");
    fs::write(&other, "").unwrap();
    let id = |path: &std::path::Path| {
        let file = fs::metadata(path).unwrap();
        format!("{}:{}", file.dev(), file.ino())
    };
    let start = |opened: &std::path::Path, id: &str| {
        let mut shell = sandbox.command("bash");
        let script = format!("exec 100<>'{}'; exec \"$@\"", opened.display());
        shell.args(["-c", &script, "bash"]).args(command(&["--exit", "3"]));
        shell.env("CCCI_APP_DOMAIN", APP).env("CCCI_APP_LOCK_FD", "100").env("CCCI_APP_LOCK_ID", id);
        shell.env("CCCI_APP_LOCK_PATH", &path);
        sandbox.spawn(shell)
    };
    assert_eq!(start(&path, &id(&path)).code(), 3, "all is well");
    assert_eq!(start(&other, &id(&path)).code(), 1, "another file under the number");
    assert_eq!(start(&other, &id(&other)).code(), 1, "a path that leads elsewhere");
    let held = Holder::take(&sandbox, &path);
    let mut refused = start(&path, &id(&path));
    assert_eq!(refused.code(), 1, "somebody else holds it");
    assert!(refused.stderr().contains("BlockingIOError"), "{}", refused.stderr());
    held.release();
}

/// The lock is free at the moment the guard ends, whatever was left behind, and nothing of it is there.
/// Fails with the lock closed and not unlocked, together with `--keep-inheritable`.
#[test]
fn what_it_leaves_behind_does_not_keep_the_lock() {
    for way in WAYS {
        if way == "ssh-agent" && !ssh_agent_is_there() {
            continue;
        }
        for inheritable in [false, true] {
            let sandbox = Sandbox::new();
            let mut options = vec!["--leave", way];
            if inheritable {
                // Not adapted in this point: the daemon has the lock's descriptor.
                options.push("--keep-inheritable");
            }
            let out = adapted(run(&sandbox), &options).output();
            assert!(sandbox.lock_is_free(), "{way}, inheritable {inheritable}");
            assert_eq!(out.code(), 0, "{way}; {}", out.stderr);
            within(way, out.exit.after, ..Duration::from_secs(15));
            assert!(out.stderr.contains("outlived the harness"), "{way}: {}", out.stderr);
            sandbox.expect_nothing_left();
        }
    }
}

/// `--survivors leave`: they live on, without the lock.
/// Fails with the unlock left to the last close.
#[test]
fn a_daemon_that_may_stay_does_not_keep_the_lock() {
    for way in ["os-system", "close-fds-false", "daemon"] {
        for inheritable in [false, true] {
            let sandbox = Sandbox::new();
            let mut options = vec!["--leave", way];
            if inheritable {
                options.push("--keep-inheritable");
            }
            let guard = run(&sandbox).args(["--survivors", "leave"]);
            // Its output would keep our pipes open: not this test's matter.
            let guard = guard.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let mut guard = adapted(guard, &options).spawn();
            guard.expect_code(0);
            assert!(sandbox.lock_is_free(), "{way}, inheritable {inheritable}");
            assert!(!sandbox.left().is_empty(), "{way} was to stay");
        }
    }
}

/// Both guards are killed: the harness keeps the lock through its own descriptor, its daemons don't.
/// Seen failing with the descriptor left inheritable.
#[test]
fn the_lock_is_free_when_both_guards_and_the_harness_are_gone() {
    for way in ["close-fds-false", "daemon"] {
        let sandbox = Sandbox::new();
        let log = sandbox.path("finally.log");
        let options = ["--leave", way, "--wait", "--finally-takes", "0.4", "--finally-log", log.to_str().unwrap()];
        let guard = adapted(run(&sandbox), &options).spawn();
        guard.ready();
        let (supervisor, harness) = (guard.supervisor(), guard.harness());
        // Stopped first, so that neither sees the other's end.
        for pid in [guard.pid(), supervisor] {
            kill(pid, Signal::SIGSTOP).unwrap();
        }
        for pid in [guard.pid(), supervisor] {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        eventually(SOON, "the `finally:`", || if log.exists() { Ok(()) } else { Err("not begun") });
        assert!(!sandbox.lock_is_free(), "{way}: free while the harness tears down");
        eventually(SOON, "the harness's end", || if alive(harness) { Err("alive") } else { Ok(()) });
        let ended = Instant::now();
        eventually(SOON, "the lock is free", || held(&sandbox.lock_path(APP)));
        within("the lock", ended.elapsed(), ..Duration::from_secs(1));
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2, "the `finally:` ran to its end");
        assert!(!sandbox.left().is_empty(), "the daemon lives, without the lock");
    }
}

/// Of a run with no guard left, nobody tears down but the janitor: not before its harness has ended, and then at once.
///
/// Seen failing with a harness that unlocks the descriptor it was given (`--unlock`): reaped while it lived.
#[test]
fn a_run_without_guards_is_the_janitor_s_once_its_harness_has_ended() {
    let sandbox = Sandbox::new();
    let (teardown, token) = (sandbox.teardown(), sandbox.path("finally.log"));
    let options = ["--wait", "--finally-takes", "1", "--finally-log", token.to_str().unwrap()];
    let guard = adapted(run(&sandbox), &options).spawn();
    guard.ready();
    let (supervisor, harness) = (guard.supervisor(), guard.harness());
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in [guard.pid(), supervisor] {
            kill(pid, signal).unwrap();
        }
    }
    let round = || {
        let janitor = sandbox.plain().args(["janitor", "--zone", ZONE, "--list-cmd"]);
        // Listed as long as nobody has torn it down.
        let list = format!("grep -qs '^end ' '{}' || echo {APP}", teardown.log().display());
        let out = janitor.arg(list).teardown(teardown.command()).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        out.text()
    };
    eventually(SOON, "the `finally:`", || if token.exists() { Ok(()) } else { Err("not begun") });
    let report = round();
    assert!(report.starts_with(&format!("{APP}  live")), "the harness tears down: {report}");
    eventually(SOON, "the harness's end", || if alive(harness) { Err("alive") } else { Ok(()) });
    let report = round();
    assert!(report.starts_with(&format!("{APP}  reaped")), "{report}");
    teardown.expect_one();
    assert!(!sandbox.lock_path(APP).exists(), "its lock file goes with it");
}

/// In place: nobody is left to sweep, and still the daemon has no part of the lock.
/// Seen failing with the descriptor left inheritable.
#[test]
fn under_exec_the_lock_ends_with_the_harness() {
    for way in ["os-system", "posix-spawn", "close-fds-false", "daemon"] {
        let sandbox = Sandbox::new();
        let guard = sandbox.exec().app().stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut guard = adapted(guard, &["--leave", way]).spawn();
        guard.expect_code(0);
        eventually(Duration::from_secs(1), "the lock is free", || held(&sandbox.lock_path(APP)));
        assert!(!sandbox.left().is_empty(), "{way} was to stay");
    }
}

/// The stop signal becomes an exception, the `finally:` runs once, and a second signal does not break it off.
/// Fails with the signals not ignored in `stop_by_exception`.
#[test]
fn it_tears_down_in_a_finally() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("finally.log");
    let options = ["--wait", "--finally-takes", "0.5", "--finally-log", log.to_str().unwrap()];
    let mut guard = adapted(run(&sandbox), &options).spawn();
    guard.ready();
    let harness = guard.harness();
    guard.signal(Signal::SIGTERM);
    eventually(SOON, "the `finally:`", || if log.exists() { Ok(()) } else { Err("not begun") });
    kill(harness, Signal::SIGTERM).unwrap();
    guard.expect_code(143);
    let text = fs::read_to_string(&log).unwrap();
    let words: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["begin", "end"]);
    assert!(sandbox.lock_is_free());
    sandbox.expect_nothing_left();
}

/// What it noted before is torn down after a stop, with the app of `--app`.
/// Fails with the file's name missing in the environment.
#[test]
fn what_it_noted_is_torn_down_too() {
    let sandbox = Sandbox::new();
    let torn = sandbox.path("torn");
    let guard = sandbox.run().app().teardown(format!("echo $CCCI_TEARDOWN_APP >>'{}'", torn.display()));
    let mut guard = adapted(guard, &["--note", OTHER, "--wait"]).spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    assert_eq!(fs::read_to_string(&torn).unwrap(), format!("{APP}\n{OTHER}\n"));
}

/// The old harness locks the same file by its path: it and a guard exclude each other.
/// Fails with another name for the guard's lock file.
#[test]
fn a_harness_of_old_and_a_guard_exclude_each_other() {
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    let by_path = ["--lock-itself", path.to_str().unwrap(), "--wait"];
    // Step 1 of moving over: the prefix without --app, and the harness's own lock.
    let old = adapted(sandbox.run(), &by_path).spawn();
    old.ready();
    let out = run(&sandbox).args(["--lock-timeout", "200ms"]).harness(["true"]).output();
    assert_eq!(out.code(), 75, "{}", out.stderr);
    drop(old);
    eventually(SOON, "the lock is free", || held(&path));

    let new = run(&sandbox).fixture("ignore-term").spawn();
    new.ready();
    let mut old = adapted(sandbox.run(), &by_path).spawn();
    let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
    eventually(SOON, "the old one waits", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        if locks.lines().any(|l| l.contains("-> FLOCK") && l.contains(&inode)) { Ok(()) } else { Err(locks) }
    });
    drop(new);
    old.ready();
    old.signal(Signal::SIGTERM);
    old.expect_code(143);
    assert!(lock_is_free(&path));
}
