//! What no round touches: live runs, however old; names outside the allow-list; everything, without one.

use crate::stack::{SMALL, Stack};
use crate::support::*;
use crate::swarm::{Swarm, only, report, verdicts};
use nix::sys::signal::Signal;
use std::fs;

/// A guarded run whose harness waits; its app is deployed and `auto` is to tear it down.
fn live_run(swarm: &Swarm, app: &str) -> Proc {
    let run = swarm.guard().args(["--app", app, "--run-id", "1190"]).sh("echo ready; exec sleep 600").spawn();
    run.ready();
    run
}

/// Mission case 6: a live run is not reaped, and that is logged with who holds the lock; `reap` exits 75 and names
/// the holder. When the run is stopped, it is torn down, and the next round finds only its lock file.
///
/// Fails when the lock is taken without LOCK_NB, or not looked at.
#[test]
fn a_live_run_is_not_reaped() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let (container, objects) = (stack.expect_running(), stack.objects());
    let mut run = live_run(&swarm, &app);

    let round = swarm.janitor().output();
    assert_eq!(round.code(), 0, "{}", round.stderr);
    let (verdict, why) = only(&round);
    assert_eq!(verdict, "live", "{why}");
    assert!(why.contains("run 1190"), "{why}");
    assert!(round.stderr.contains(&app), "not logged: {}", round.stderr);
    let reap = swarm.reap(&app).output();
    assert_eq!(reap.code(), 75, "{}", reap.stderr);
    let holder = report(&reap)["apps"][0]["lock"]["holder"]["pid"].as_i64().unwrap();
    assert!(
        run.tree().iter().any(|process| i64::from(process.pid.as_raw()) == holder),
        "pid {holder} is not of the run"
    );
    assert_eq!((stack.expect_running(), stack.objects()), (container, objects));

    run.signal(Signal::SIGTERM);
    run.expect_code(143);
    stack.expect_gone();
    let after = swarm.janitor().output();
    assert_eq!((after.code(), only(&after).0.as_str()), (0, "stale_lock"), "{}", after.text());
    assert_eq!(swarm.lock_files(), [] as [std::path::PathBuf; 0]);
}

/// Its lock file is removed from outside: the run still holds the old one, and is left alone, by the janitor and by
/// `reap`; the new file that the probe made is removed again.
///
/// Fails when holders of removed files are not looked for.
#[test]
fn a_run_whose_lock_file_was_removed_is_held_unlinked() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let (container, objects) = (stack.expect_running(), stack.objects());
    let run = live_run(&swarm, &app);
    fs::remove_file(swarm.sandbox.lock_path(&app)).unwrap();

    let round = swarm.janitor().output();
    assert_eq!((round.code(), only(&round).0.as_str()), (0, "held_unlinked"), "{}", round.stderr);
    let strict = swarm.janitor().arg("--fail-on-findings").output();
    assert_eq!((strict.code(), only(&strict).0.as_str()), (3, "held_unlinked"), "{}", strict.stderr);
    let reap = swarm.reap(&app).output();
    assert_eq!((reap.code(), only(&reap).0.as_str()), (75, "held_unlinked"), "{}", reap.stderr);
    assert_eq!(swarm.lock_files(), [] as [std::path::PathBuf; 0], "the probe's file stayed");
    assert_eq!((stack.expect_running(), stack.objects()), (container, objects));
    assert!(alive(run.pid()));
}

/// Mission case 10: held for three hours by somebody who left no line: worth a look (3 where asked for), not stolen.
///
/// Fails when age decides.
#[test]
fn a_lock_that_is_held_for_hours_is_reported_and_not_stolen() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let (container, objects) = (stack.expect_running(), stack.objects());
    let path = swarm.sandbox.lock_path(&app);
    let _lock = FileLock::take(&path);
    let three_hours_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 3600);
    fs::File::open(&path).unwrap().set_modified(three_hours_ago).unwrap();

    let round = swarm.janitor().output();
    assert_eq!((round.code(), only(&round).0.as_str()), (0, "possible_leak"), "{}", round.stderr);
    assert!(round.stderr.contains("possible leaked run"), "{}", round.stderr);
    let strict = swarm.janitor().arg("--fail-on-findings").output();
    assert_eq!((strict.code(), only(&strict).0.as_str()), (3, "possible_leak"), "{}", strict.stderr);
    assert_eq!((stack.expect_running(), stack.objects()), (container, objects));
}

/// Mission case 11: a warm app, a stack that is no app's, and one that is protected: no verdict but `protected`, not
/// even a lock file, while an orphan beside them is reaped. `reap` and a guarded run refuse them.
///
/// Fails when the allow-list is asked after the probe.
#[test]
fn names_outside_the_allow_list_are_never_touched() {
    let Some(swarm) = Swarm::there() else { return };
    let (orphan, protected, warm) = (swarm.app(1), swarm.app(2), format!("warm-x.{}", swarm.zone));
    let reaped = swarm.deploy(&orphan, SMALL);
    let others: Vec<Stack<'_>> = [protected.clone(), warm.clone(), swarm.zone.replace('.', "-")]
        .iter()
        .map(|app| swarm.deploy(app, SMALL))
        .collect();
    let before: Vec<_> = others.iter().map(|stack| (stack.expect_running(), stack.objects())).collect();

    let round = swarm.janitor().args(["--protect", &protected]).output();
    assert_eq!(round.code(), 0, "{}", round.stderr);
    let expected = [(orphan, "reaped".to_owned()), (protected.clone(), "protected".to_owned())];
    assert_eq!(verdicts(&round), expected);
    reaped.expect_gone();
    assert_eq!(swarm.reap(&warm).output().code(), 2);
    assert_eq!(swarm.reap(&protected).args(["--protect", &protected]).output().code(), 2);
    let run = swarm.guard().args(["--app", &warm]).sh("echo started").output();
    assert_eq!((run.code(), run.text().as_str()), (125, ""), "{}", run.stderr);
    let after: Vec<_> = others.iter().map(|stack| (stack.expect_running(), stack.objects())).collect();
    assert_eq!(after, before);
    assert_eq!(swarm.lock_files(), [] as [std::path::PathBuf; 0]);
}

/// There is no default: without an allow-list 2, what to set is said, and nothing was looked at.
///
/// Fails when an empty allow-list admits anything.
#[test]
fn without_an_allow_list_nothing_is_done() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let before = (stack.expect_running(), stack.objects());
    for form in [&["janitor"][..], &["reap", &app]] {
        let output = swarm.on(swarm.sandbox.plain()).args(form).output();
        assert_eq!(output.code(), 2, "{form:?}: {}", output.stderr);
        assert!(output.stderr.contains("--zone") && output.stderr.contains("--run-app-re"), "{}", output.stderr);
    }
    assert_eq!((stack.expect_running(), stack.objects()), before);
    assert_eq!(swarm.lock_files(), [] as [std::path::PathBuf; 0]);
}
