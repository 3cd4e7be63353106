//! Two janitors at once on ten orphans: each is reaped exactly once, also when one janitor is killed in the middle.

use crate::stack::{SMALL, Stack};
use crate::support::*;
use crate::swarm::{Swarm, verdicts};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const ORPHANS: u32 = 10;

/// A step that notes its start and end, and sees with means of its own (`mkdir`, flock(1) on a description of its
/// own) whether another teardown of the app runs, and whether the app's lock could be had.
fn recorder(swarm: &Swarm) -> PathBuf {
    let log = swarm.sandbox.path("steps.log");
    let script = format!(
        "#!/bin/sh\n\
         log='{log}' app=$2 lock='{locks}'/cc-ci-app-$2.lock\n\
         mkdir \"$log.$app\" || echo \"overlap $*\" >>\"$log\"\n\
         flock -n \"$lock\" true && echo \"free $*\" >>\"$log\"\n\
         echo \"start $*\" >>\"$log\"\n\
         [ -z \"$3\" ] || while [ ! -e \"$3\" ]; do sleep 0.02; done\n\
         rmdir \"$log.$app\"\n\
         echo \"end $*\" >>\"$log\"\n",
        log = log.display(),
        locks = swarm.sandbox.lock_dir().display()
    );
    swarm.program("recorder", &script);
    log
}

fn step(swarm: &Swarm, words: &str) -> [String; 2] {
    let recorder = swarm.sandbox.path("bin/recorder");
    ["--teardown-step".to_owned(), format!("{} {words}", recorder.display())]
}

fn lines(log: &PathBuf, start: &str) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

/// How often each app was torn down, by the steps' own notes; with each under its lock, and never two at a time.
#[track_caller]
fn expect_one_teardown_each(swarm: &Swarm, log: &PathBuf) {
    for fault in ["overlap", "free"] {
        assert_eq!(lines(log, fault), [] as [String; 0]);
    }
    for word in ["start ", "end "] {
        let mut apps: Vec<_> =
            lines(log, word).iter().filter_map(|line| Some(line.split(' ').nth(2)?.to_owned())).collect();
        apps.sort();
        let mut expected: Vec<_> = (0..ORPHANS).map(|n| swarm.app(n)).collect();
        expected.sort();
        assert_eq!(apps, expected, "{word}: {:?}", fs::read_to_string(log));
    }
}

fn orphans(swarm: &Swarm) -> Vec<Stack<'_>> {
    let stacks: Vec<_> = (0..ORPHANS).map(|n| Stack::new(swarm, &swarm.app(n).replace('.', "_"))).collect();
    stacks.iter().for_each(|stack| stack.deploy(SMALL));
    for stack in &stacks {
        stack.expect_running();
    }
    stacks
}

/// Mission case 8, ten times over: of both janitors' `reaped` verdicts there is one for each app.
///
/// Fails when the lock is not asked (a held one taken for free).
#[test]
fn each_of_ten_orphans_is_reaped_once() {
    let Some(swarm) = Swarm::there() else { return };
    let stacks = orphans(&swarm);
    let log = recorder(&swarm);
    let start = |tag: &str| swarm.janitor().args(step(&swarm, &format!("{tag} {{app}}"))).spawn();
    let janitors = [start("first"), start("second")];
    let mut reaped: BTreeMap<String, u32> = BTreeMap::new();
    for janitor in janitors {
        let output = finished(janitor);
        assert_eq!(output.code(), 0, "{}", output.stderr);
        for (app, verdict) in verdicts(&output) {
            assert!(["reaped", "live", "gone", "stale_lock"].contains(&verdict.as_str()), "{app}: {verdict}");
            *reaped.entry(app).or_default() += u32::from(verdict == "reaped");
        }
    }
    let expected: BTreeMap<_, _> = (0..ORPHANS).map(|n| (swarm.app(n), 1)).collect();
    assert_eq!(reaped, expected);
    expect_one_teardown_each(&swarm, &log);
    stacks.iter().for_each(Stack::expect_gone);
    assert_eq!(swarm.lock_files(), [] as [PathBuf; 0]);
}

/// A janitor that was slow: between its list and its probe another one has reaped the app. Nothing is run again, and
/// its verdict is `gone`.
///
/// Fails when the app is not looked for again under the lock.
#[test]
fn an_app_that_went_after_it_was_listed_is_not_reaped_again() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let log = recorder(&swarm);
    let (listed, go) = (swarm.sandbox.path("listed"), swarm.sandbox.path("go"));
    let slow = format!(
        "#!/bin/sh\n\
         [ \"$1 $2\" = 'stack ls' ] || exec docker \"$@\"\n\
         found=$(docker \"$@\") || exit\n\
         : >'{}'\n\
         while [ ! -e '{}' ]; do sleep 0.02; done\n\
         printf '%s\\n' \"$found\"\n",
        listed.display(),
        go.display()
    );
    swarm.program("slow-docker", &slow);
    let slow = swarm.janitor().args(["--docker", "slow-docker"]).args(step(&swarm, "slow {app}")).spawn();
    eventually(SOON * 3, "the slow one's list", || if listed.exists() { Ok(()) } else { Err("none yet") });
    let quick = swarm.janitor().args(step(&swarm, "quick {app}")).output();
    assert_eq!(verdicts(&quick), [(app.clone(), "reaped".to_owned())], "{}", quick.stderr);
    stack.expect_gone();
    fs::write(&go, "").unwrap();
    let slow = finished(slow);
    assert_eq!((slow.code(), verdicts(&slow)), (0, vec![(app.clone(), "gone".to_owned())]), "{}", slow.stderr);
    assert_eq!(lines(&log, "start "), [format!("start quick {app}")]);
    assert_eq!(swarm.lock_files(), [] as [PathBuf; 0]);
}

/// The end of a janitor and all that it printed.
#[track_caller]
fn finished(mut janitor: Proc) -> Output {
    let exit = janitor.wait(SOON * 6);
    janitor.expect_eof(SOON);
    Output { exit, stdout: janitor.stdout_bytes(), stderr: janitor.stderr() }
}

/// One janitor is killed while four of its teardowns run: these go on to their end, under their locks, and the other
/// janitor reaps the rest in the meantime. A third round finds nothing.
///
/// Fails when the workers end with their janitor, or when it alone holds the locks.
#[test]
fn a_killed_janitors_teardowns_are_finished_and_not_repeated() {
    let Some(swarm) = Swarm::there() else { return };
    let stacks = orphans(&swarm);
    let log = recorder(&swarm);
    let go = swarm.sandbox.path("go");
    let victims = step(&swarm, &format!("victim {{app}} {}", go.display()));
    let victim = swarm.janitor().args(["--jobs", "4"]).args(victims).spawn();
    let started = |tag: &str, n: usize| {
        eventually(SOON * 3, &format!("{n} steps of {tag}"), || {
            let found = lines(&log, &format!("start {tag} "));
            if found.len() >= n { Ok(found) } else { Err(format!("{found:?}")) }
        })
    };
    let begun = started("victim", 4);
    let other = swarm.janitor().args(step(&swarm, "other {app}")).spawn();
    started("other", 1);
    victim.signal(Signal::SIGKILL);
    let output = finished(other);
    assert_eq!(output.code(), 0, "{}", output.stderr);

    // The killed one's four are still in the middle of their teardown, and locked.
    let being: Vec<_> = begun.iter().filter_map(|line| Some(line.split(' ').nth(2)?.to_owned())).collect();
    for (app, verdict) in verdicts(&output) {
        let expected = if being.contains(&app) { "live" } else { "reaped" };
        assert_eq!(verdict, expected, "{app}");
        assert_eq!(lock_is_free(&swarm.sandbox.lock_path(&app)), expected == "reaped", "{app}");
    }
    fs::write(&go, "").unwrap();
    eventually(SOON * 6, "end of the workers", || {
        let left = swarm.lock_files();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    stacks.iter().for_each(Stack::expect_gone);
    expect_one_teardown_each(&swarm, &log);
    let last = swarm.janitor().output();
    assert_eq!((last.code(), verdicts(&last).len()), (0, 0), "{}", last.text());
}
