//! Many runs on one host, one after the other and all at once: nothing of them stays but a lock file for each app, and a
//! guard that waits meanwhile does not grow.

use crate::support::{Proc, SOON, Sandbox, eventually, lock_is_free, process, rounds};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

fn app(number: usize) -> String {
    format!("soak-{number:06x}.ci.example.net")
}

/// Every file and directory.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.insert(path);
    }
    found
}

/// Descriptors of any process but `known` that lead into the sandbox, to files that were removed too: a file that is
/// held open keeps its inode.
fn descriptors(sandbox: &Sandbox, known: &[Pid]) -> Vec<String> {
    let inside = sandbox.path("").display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw) else {
            continue;
        };
        let links = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let leaked = targets.filter(|target| target.to_string_lossy().starts_with(&inside));
        if !known.contains(&pid) {
            found.extend(leaked.map(|target| format!("{pid}: {}", target.display())));
        }
    }
    found
}

/// What one process holds: KiB of its own memory, and descriptors.
#[track_caller]
fn holds(pid: Pid) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon (proc_pid_status(5))");
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

/// A guard that waits for its harness, and the two processes of it. Without an app: one with a lock looks at all
/// processes of the host after 10 s, once, and that takes the memory of a list of them.
fn idle(sandbox: &Sandbox) -> (Proc, [Pid; 2]) {
    let guard = sandbox.run().args(["--teardown", "none", "--deadline", "1h"]);
    let guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    let supervisor = guard.supervisor();
    let both = [guard.monitor(), supervisor];
    (guard, both)
}

/// One guard is left alone meanwhile, another has a signal to pass on in each round.
///
/// Seen failing with the run's owner file left at the end, and with 200 bytes kept of each request (360 KiB more after
/// 2000).
#[test]
fn two_thousand_runs_in_a_row() {
    let sandbox = Sandbox::new();
    let (alone, of_alone) = idle(&sandbox);
    let (poked, of_poked) = idle(&sandbox);
    let guards = [of_alone, of_poked].concat();
    let teardowns = sandbox.path("teardowns");
    let one = |number: usize| {
        let (app, code) = (app(number % 4), number % 7);
        let teardown = format!("setsid sleep 60 & echo >>'{}'", teardowns.display());
        let guard = sandbox.run().args(["--app", &app, "--teardown-on", "always", "--deadline", "1h"]).report();
        // A survivor each: half of them in a session of their own.
        let way = ["", "setsid"][number % 2];
        let argv = guard.teardown(teardown).sh(&format!("{way} sleep 60 & exit {code}")).argv();
        let out = sandbox.command(&argv[0]).args(&argv[1..]).output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code as i32), "run {number}: {stderr}");
        assert!(stderr.contains("torn down"), "run {number}: {stderr}");
    };
    let poke = || {
        poked.signal(Signal::SIGWINCH);
        assert!(poked.signal_line().starts_with("WINCH"), "passed on");
    };
    // What is made, or touched, once is so by the first.
    for number in 0..4 {
        one(number);
        poke();
    }
    let at_first: Vec<_> = guards.iter().map(|pid| holds(*pid)).collect();
    let (before, count) = (files(&sandbox.path("")), rounds(2000));
    for number in 0..count {
        one(number);
        poke();
    }
    assert_eq!(fs::read_to_string(&teardowns).unwrap().lines().count(), 4 + count, "one teardown each");
    assert_eq!(files(&sandbox.path("")), before, "files: those of the first four runs");
    let of_idle: Vec<Pid> = sandbox.left().iter().map(|process| process.pid).collect();
    assert_eq!(of_idle.len(), 6, "the two guards that wait, with a harness each: {:?}", sandbox.left());
    assert_eq!(descriptors(&sandbox, &of_idle), Vec::<String>::new());
    for (pid, (memory, open)) in guards.iter().zip(at_first) {
        let (memory_now, open_now) = holds(*pid);
        let name = process(*pid).map(|process| process.to_string()).unwrap_or_default();
        assert_eq!(open_now, open, "descriptors of {name}");
        assert!(memory_now <= memory + 64, "{name}: {memory} KiB at first, {memory_now} KiB after {count} runs");
    }
    for mut guard in [alone, poked] {
        guard.signal(Signal::SIGTERM);
        guard.expect_code(143);
    }
    eventually(SOON, "the end of all", || sandbox.nothing_left());
}

/// All run at the same moment; a third ends by itself, a third is asked to stop, of a third the caller is killed.
///
/// Seen failing with the run's owner file left at the end.
#[test]
fn two_hundred_at_a_time() {
    let sandbox = Sandbox::new();
    let before = files(&sandbox.path(""));
    let count = rounds(200);
    let teardowns = sandbox.path("teardowns");
    let start = |number: usize| {
        let teardown = format!("echo \"$CCCI_TEARDOWN_APP\" >>'{}'", teardowns.display());
        let guard = sandbox.run().args(["--app", &app(number), "--teardown-on", "always"]).teardown(teardown);
        let guard = guard.sh("echo ready; read line; exit 7").stdin(Stdio::piped());
        if number % 3 == 2 { guard.called_by_shell() } else { guard }.spawn()
    };
    let mut guards: Vec<Proc> = (0..count).map(start).collect();
    guards.iter().for_each(|guard| drop(guard.ready()));
    let running = sandbox.left().iter().filter(|process| process.is_guard()).count();
    assert_eq!(running, 2 * count, "all at once, two processes each");
    for (number, guard) in guards.iter_mut().enumerate() {
        match number % 3 {
            0 => drop(guard.stdin()),
            1 => guard.signal(Signal::SIGTERM),
            _ => guard.signal(Signal::SIGKILL),
        }
    }
    for (number, guard) in guards.iter_mut().enumerate() {
        guard.expect_code([7, 143, 137][number % 3]);
    }
    eventually(SOON * 3, "the end of all", || sandbox.nothing_left());
    let mut torn_down: Vec<String> = fs::read_to_string(&teardowns).unwrap().lines().map(str::to_owned).collect();
    torn_down.sort();
    assert_eq!(torn_down, (0..count).map(app).collect::<Vec<_>>(), "one teardown each");
    let locks: BTreeSet<PathBuf> = (0..count).map(|number| sandbox.lock_path(&app(number))).collect();
    assert!(locks.iter().all(|path| lock_is_free(path)));
    let expected: BTreeSet<PathBuf> = before.into_iter().chain(locks).chain([teardowns]).collect();
    assert_eq!(files(&sandbox.path("")), expected, "a lock file for each app, and nothing else");
    assert_eq!(descriptors(&sandbox, &[]), Vec::<String>::new());
}
