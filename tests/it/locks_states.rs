//! What `ccci-guard locks` says of a lock: free, held, leaked, replaced, or that it can't be seen from here; and that it
//! is quick about it.

use crate::dead_run::stop;
use crate::lock_holder::Holder;
use crate::locks_command::{Nobody, entry, locks, parsed, pids, unshared};
use crate::support::*;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const OTHER: &str = "keyc-0b52fe.ci.example.net";

/// `ccci-guard run --app … --run-id 1187`, without a teardown.
fn run(sandbox: &Sandbox) -> Guard<'_> {
    sandbox.run().app().args(["--teardown", "none", "--run-id", "1187"])
}

fn tree(guard: &Proc) -> BTreeSet<i32> {
    guard.tree().iter().map(|process| process.pid.as_raw()).collect()
}

/// Waits until the default app's lock is in this state.
#[track_caller]
fn expect_state(sandbox: &Sandbox, state: &str) -> Value {
    eventually(SOON, state, || {
        let entry = entry(sandbox, APP);
        if entry["state"] == state { Ok(entry) } else { Err(entry.to_string()) }
    })
}

/// Kills all of a guard: the monitor stands still while its supervisor dies, else it would finish the run alone.
#[track_caller]
fn kill_guard(guard: &Proc) {
    let (monitor, supervisor) = (guard.monitor(), guard.supervisor());
    stop(monitor);
    kill(supervisor, Signal::SIGKILL).unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
}

/// Everybody who shares it is named, who took it and for what, until when, since when, and who waits.
/// To see it fail: name the taker of `/proc/locks` alone.
#[test]
fn a_held_lock_names_everybody_in_it() {
    let sandbox = Sandbox::new();
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let guard = run(&sandbox).args(["--app", OTHER, "--deadline", "2h"]).sh("echo ready; exec sleep 60").spawn();
    guard.ready();
    let (monitor, supervisor, harness) = (guard.monitor(), guard.supervisor(), guard.harness());
    let waiters: Vec<_> = (0..2).map(|_| run(&sandbox).harness(["true"]).spawn()).collect();
    for waiter in &waiters {
        waiter.expect_stderr("waiting for app lock");
    }
    let waiting: BTreeSet<i32> = waiters.iter().map(|waiter| waiter.pid().as_raw()).collect();
    // What it says comes before the call that waits, in a thread of its own.
    eventually(SOON, "both in the kernel's queue", || {
        let seen = pids(&entry(&sandbox, APP)["waiters"]);
        if seen == waiting { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    for app in [APP, OTHER] {
        let seen = entry(&sandbox, app);
        assert_eq!(seen["state"], "held", "{seen}");
        let named = BTreeSet::from([monitor, supervisor, harness].map(Pid::as_raw));
        assert_eq!((&pids(&seen["holders"]), &named), (&tree(&guard), &tree(&guard)), "{seen}");
        for holder in seen["holders"].as_array().unwrap() {
            let is_harness = holder["pid"] == harness.as_raw();
            assert_eq!(holder["comm"], if is_harness { "sleep" } else { "ccci-guard" }, "{seen}");
        }
        let recorded = &seen["recorded"];
        assert_eq!((&recorded["pid"], &recorded["run_id"]), (&monitor.as_raw().into(), &"1187".into()));
        assert_eq!(recorded["command"], "/bin/sh -c echo ready; exec sleep 60");
        let deadline = recorded["deadline_at"].as_u64().unwrap();
        let started = before.as_secs() + 7200;
        assert!((started..=started + guard.started().elapsed().as_secs() + 2).contains(&deadline), "{deadline}");
        let held = Duration::from_secs_f64(seen["held_s"].as_f64().unwrap());
        within("since", held, ..=guard.started().elapsed());
        assert_eq!(pids(&seen["waiters"]), if app == APP { waiting.clone() } else { BTreeSet::new() });
    }
    drop(waiters);
    guard.signal(Signal::SIGTERM);
    let over = expect_state(&sandbox, "free");
    assert!(over["held_s"].is_null() && over["holders"] == Value::Array(vec![]), "{over}");
    // Its line tells of the past; people are not shown it.
    assert_eq!(locks(&sandbox, &[APP]).output().text(), format!("{APP}\tfree\t-\t-\t-\t-\t-\t-\n"));
}

/// `exec` has no process beside its harness; a stranger, as a Python harness is, writes no line.
/// To see it fail: call a lock without a guard in it leaked.
#[test]
fn a_holder_that_is_no_guard_holds_it_too() {
    let sandbox = Sandbox::new();
    let exec = sandbox.exec().app().args(["--run-id", "1187"]).sh("echo ready; exec sleep 60").spawn();
    exec.ready();
    let seen = entry(&sandbox, APP);
    assert_eq!((&seen["state"], pids(&seen["holders"])), (&"held".into(), BTreeSet::from([exec.pid().as_raw()])));
    assert_eq!((&seen["recorded"]["pid"], &seen["recorded"]["run_id"]), (&exec.pid().as_raw().into(), &"1187".into()));
    drop(exec);
    expect_state(&sandbox, "free");

    let stranger = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let seen = entry(&sandbox, APP);
    assert_eq!((&seen["state"], pids(&seen["holders"])), (&"held".into(), BTreeSet::from([stranger.pid().as_raw()])));
    assert_eq!(seen["holders"][0]["comm"], "ccci-fixture");
    assert!(seen["recorded"].is_null(), "the line is the last run's, not this holder's: {seen}");
    assert!(seen["held_s"].is_f64(), "{seen}");
    stranger.release();
    expect_state(&sandbox, "free");
}

/// While a run is torn down it is held, also by the rest of a guard that lost its first process: that is no leak.
/// To see it fail: ask for the recorded process alone.
#[test]
fn a_teardown_is_held_also_after_a_takeover() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.run().app().teardown(teardown.command_with("--hang")).args(["--run-id", "1187"]);
    let guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    let (monitor, supervisor) = (guard.monitor(), guard.supervisor());
    guard.signal(Signal::SIGTERM);
    teardown.expect_start(0);
    let worker = guard.worker();
    let seen = entry(&sandbox, APP);
    assert_eq!((&seen["state"], &seen["recorded"]["pid"]), (&"held".into(), &monitor.as_raw().into()), "{seen}");
    for pid in [monitor, worker] {
        assert!(pids(&seen["holders"]).contains(&pid.as_raw()), "{pid}: {seen}");
    }
    kill(monitor, Signal::SIGKILL).unwrap();
    let left = eventually(SOON, "the holders without the monitor", || {
        let seen = entry(&sandbox, APP);
        if pids(&seen["holders"]).contains(&monitor.as_raw()) { Err(seen.to_string()) } else { Ok(seen) }
    });
    assert_eq!((&left["state"], &left["recorded"]["run_id"]), (&"held".into(), &"1187".into()), "{left}");
    assert!(pids(&left["holders"]).contains(&supervisor.as_raw()), "{left}");
}

/// The whole guard was killed, and what its harness left behind has inherited the lock: named, with the run's line.
/// To see it fail: take any holder for the run.
#[test]
fn a_dead_run_s_descendant_has_leaked_it() {
    let sandbox = Sandbox::new();
    let guard = run(&sandbox).fixture("fork-and-outlive setsid ignore stay").spawn();
    guard.ready();
    let monitor = guard.monitor();
    assert_eq!(entry(&sandbox, APP)["state"], "held");
    kill_guard(&guard);
    let seen = expect_state(&sandbox, "leaked");
    let (holders, left) = (pids(&seen["holders"]), tree(&guard));
    assert!(!holders.is_empty() && holders.is_superset(&left), "{seen}, alive: {left:?}");
    assert!(seen["holders"].as_array().unwrap().iter().all(|holder| holder["comm"] == "ccci-fixture"), "{seen}");
    assert_eq!((&seen["recorded"]["pid"], &seen["recorded"]["run_id"]), (&monitor.as_raw().into(), &"1187".into()));
    assert!(seen["held_s"].is_f64(), "{seen}");
    let text = locks(&sandbox, &[]).output().text();
    let columns: Vec<&str> = text.trim_end().split('\t').collect();
    assert_eq!((columns[0], columns[1], columns[4]), (APP, "leaked", "1187"), "{text:?}");
    assert!(columns[3].contains("(ccci-fixture)"), "what to kill: {text:?}");
    for process in guard.tree() {
        let _ = kill(process.pid, Signal::SIGKILL);
    }
    expect_state(&sandbox, "free");
}

/// Removed, or another file in its place: who has the old one is named, with the app named or not, and also where the
/// lock directory is reached by a link. To see it fail: compare the link's path with that of `/proc/PID/fd`.
#[test]
fn a_file_that_was_replaced_under_a_run_is_said() {
    let sandbox = Sandbox::new();
    let link = sandbox.path("link");
    symlink(sandbox.lock_dir(), &link).unwrap();
    let mut guard = run(&sandbox).sh("echo ready; read go; exit 0").stdin(std::process::Stdio::piped()).spawn();
    guard.ready();
    let expect_replaced = |why: &str| {
        for args in [&["--json"] as &[&str], &["--json", APP]] {
            for directory in [sandbox.lock_dir(), link.clone()] {
                let report = parsed(&locks(&sandbox, args).arg("--lock-dir").arg(&directory).output());
                assert_eq!(report["locks"].as_array().unwrap().len(), 1, "{why}: {report}");
                let seen = &report["locks"][0];
                assert_eq!((&seen["app"], &seen["state"]), (&APP.into(), &"replaced".into()), "{why}");
                assert!(pids(&seen["holders"]).is_superset(&tree(&guard)), "{why}: {seen}");
            }
        }
    };
    fs::remove_file(sandbox.lock_path(APP)).unwrap();
    expect_replaced("removed");
    fs::write(sandbox.lock_path(APP), "").unwrap();
    expect_replaced("another in its place");
    let other = Holder::take(&sandbox, &sandbox.lock_path(APP));
    expect_replaced("another in its place, held");
    drop(guard.stdin());
    guard.wait(SOON);
    let seen = entry(&sandbox, APP);
    assert_eq!((&seen["state"], pids(&seen["holders"])), (&"held".into(), BTreeSet::from([other.pid().as_raw()])));
    // A removed file that nobody has locked is nothing.
    let mut open = sandbox.shell(&format!("exec 9<'{0}'; echo ready; exec sleep 60", sandbox.lock_path(APP).display()));
    open.ready();
    other.release();
    fs::remove_file(sandbox.lock_path(APP)).unwrap();
    assert_eq!(entry(&sandbox, APP)["state"], "free");
    assert!(open.try_wait().is_none());
}

/// From a pid namespace of its own nothing outside shows: not "free" for what may be held there, and a warning.
/// What is held inside is held, and an app without a file is free anywhere.
/// To see it fail: believe `/proc/locks`, which lists only the namespace's own.
#[test]
fn another_pid_namespace_hides_holders() {
    let Some(unshare) = unshared("pf --mount-proc") else { return };
    let sandbox = Sandbox::new();
    let guard = run(&sandbox).sh("echo ready; exec sleep 60").spawn();
    guard.ready();
    let stranger = Holder::take(&sandbox, &sandbox.lock_path(OTHER));
    let inside = "inside.ci.example.net";
    let script = "mkfifo told && { \"$F\" hold-lock \"$1\" >told & read ready <told; shift; exec \"$@\"; }";
    let look = locks(&sandbox, &["--json", APP, OTHER, inside, "never-1.ci.example.net"]).under(unshare);
    let out = look.under(["sh", "-c", script, "sh"]).under([sandbox.lock_path(inside)]).output();
    let report = parsed(&out);
    let state = |app: &str| {
        let entry = report["locks"].as_array().unwrap().iter().find(|entry| entry["app"] == app);
        entry.unwrap_or_else(|| panic!("{app}: {report}"))["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(APP), "invisible", "a run's: {report}");
    assert_eq!(state(inside), "held", "{report}");
    assert_eq!(state("never-1.ci.example.net"), "free", "{report}");
    assert_eq!(state(OTHER), "free", "one that wrote no line can't be told, but by the warning: {report}");
    assert_eq!(out.stderr.matches("warning: ").count(), 1, "{}", out.stderr);
    assert!(out.stderr.contains("pid namespace"), "{}", out.stderr);
    drop((guard, stranger));
}

/// A plain user sees that a lock is held, and is told what it can't see; its own processes it sees.
/// To see it fail: show "held" without anybody, or say nothing on stderr.
#[test]
fn a_plain_user_is_told_what_it_can_t_see() {
    let sandbox = Sandbox::new();
    let Some(nobody) = Nobody::in_sandbox(&sandbox) else { return };
    let root_s = run(&sandbox).sh("echo ready; exec sleep 60").spawn();
    root_s.ready();
    fs::write(sandbox.lock_path(OTHER), "").unwrap();
    std::os::unix::fs::chown(sandbox.lock_path(OTHER), Some(NOBODY), Some(NOBODY)).unwrap();
    give(&sandbox.state_dir(), NOBODY);
    let own = sandbox.run().args(["--app", OTHER, "--teardown", "none", "--run-id", "1190"]);
    let own = nobody.runs(own.sh("echo ready; exec sleep 60")).spawn();
    own.ready();
    let out = nobody.runs(locks(&sandbox, &["--json"])).output();
    let report = parsed(&out);
    let (hidden, seen) = (&report["locks"][0], &report["locks"][1]);
    assert_eq!((&hidden["app"], &hidden["state"]), (&APP.into(), &"invisible".into()), "{report}");
    assert!(hidden["recorded"].is_null() && hidden["holders"] == Value::Array(vec![]), "{report}");
    assert!(hidden["held_s"].is_f64(), "the file's time is open to all: {report}");
    assert_eq!((&seen["app"], &seen["state"]), (&OTHER.into(), &"held".into()), "{report}");
    assert_eq!((pids(&seen["holders"]), &seen["recorded"]["run_id"]), (tree(&own), &"1190".into()), "{report}");
    let said: Vec<&str> = out.stderr.lines().collect();
    assert_eq!(said.len(), 2, "{}", out.stderr);
    assert!(said[0].contains("1 lock file can't be read") && said[0].contains("as root"), "{}", out.stderr);
    assert!(said[1].contains("can't be looked at") && said[1].contains("as root"), "{}", out.stderr);
    // Of its own lock too: anybody may share it, or have a removed file of that name.
    let out = nobody.runs(locks(&sandbox, &[OTHER])).output();
    assert_eq!((out.code(), out.stderr.lines().count()), (0, 1), "{}", out.stderr);
    assert!(out.stderr.contains("can't be looked at"), "{}", out.stderr);
}

/// What stands in a lock file is a hint: garbage, nothing, a line of somebody else, far too much.
/// To see it fail: require a whole line, or take the line's pid for the holder.
#[test]
fn whatever_the_line_says_the_kernel_decides() {
    let sandbox = Sandbox::new();
    let path = sandbox.lock_path(APP);
    let living = std::process::id();
    let lines: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\n".to_vec(),
        b"garbage".to_vec(),
        b"\xff\xfe\0\0".to_vec(),
        b"{\"pid\":\"x\",\"run_id\":7}\n".to_vec(),
        format!("{{\"pid\":{living},\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":null}}\n").into_bytes(),
        b"{\"pid\":4194303,\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":18446744073709551615}\n".to_vec(),
        b"{\"pid\":-1,\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":null}\n".to_vec(),
        vec![b'['; 1 << 20],
    ];
    for line in lines {
        let what = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        fs::write(&path, &line).unwrap();
        assert_eq!(entry(&sandbox, APP)["state"], "free", "{what:?}");
        let text = locks(&sandbox, &[]).output().text();
        assert_eq!(text, format!("{APP}\tfree\t-\t-\t-\t-\t-\t-\n"), "{what:?}");
        let held = Holder::take(&sandbox, &path);
        let seen = entry(&sandbox, APP);
        assert_eq!((&seen["state"], &seen["recorded"]), (&"held".into(), &Value::Null), "{what:?}");
        assert_eq!(pids(&seen["holders"]), BTreeSet::from([held.pid().as_raw()]), "{what:?}");
        let text = locks(&sandbox, &[]).output().text();
        assert_eq!((text.lines().count(), text.matches('\t').count()), (1, 7), "{what:?}: {text:?}");
        assert_eq!(fs::read(&path).unwrap(), line, "{what:?}: not ours to write");
        held.release();
    }
    // A holder's own line with a deadline beyond all calendars.
    let held = Holder::take(&sandbox, &path);
    let own = format!("{{\"pid\":{},\"run_id\":\"1\",\"command\":\"c\",\"deadline_at\":{}}}\n", held.pid(), u64::MAX);
    fs::write(&path, own).unwrap();
    assert_eq!(entry(&sandbox, APP)["recorded"]["deadline_at"], u64::MAX);
    let out = locks(&sandbox, &[]).output();
    assert_eq!((out.code(), out.text().lines().count()), (0, 1), "{}", out.stderr);
}

/// A host with many locks and many processes is looked at in under a second.
/// To see it fail: read `/proc/locks`, or all of /proc, once for each lock.
#[test]
fn many_locks_and_processes_take_no_second() {
    let sandbox = Sandbox::new();
    let (files, processes) = if full() { (1000, 5000) } else { (100, 500) };
    let mut crowd = sandbox.command(FIXTURE);
    crowd.arg("many-children").arg(processes.to_string());
    let crowd = sandbox.spawn(crowd);
    crowd.ready();
    let mut held = Vec::new();
    for n in 0..files {
        let file = File::create(sandbox.lock_path(&format!("a-{n}.ci.example.net"))).unwrap();
        if n % 10 == 0 {
            held.push(Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error).unwrap());
        }
    }
    // The best of three: other tests have the processors meanwhile.
    let looks: Vec<Output> = (0..3).map(|_| locks(&sandbox, &["--json"]).output()).collect();
    let took = looks.iter().map(|out| out.exit.after).min().unwrap();
    let report = parsed(&looks[0]);
    let states = report["locks"].as_array().unwrap().iter().map(|entry| entry["state"].as_str().unwrap());
    let (free, busy): (Vec<_>, Vec<_>) = states.partition(|state| *state == "free");
    assert_eq!((free.len(), busy.len()), (files - held.len(), held.len()));
    assert!(busy.iter().all(|state| *state == "held"), "{report}");
    println!("{files} locks, {processes} processes: {took:?}");
    within("the look", took, ..Duration::from_secs(1));
}
