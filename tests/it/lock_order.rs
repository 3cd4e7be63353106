//! Several locks for one run: in one order, all or none, and free together.

use crate::lock_holder::Holder;
use crate::support::{Guard, Proc, SOON, Sandbox, held, lock_is_free, rounds, within};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const A: &str = "aaaa-ad3e33.ci.example.net";
const B: &str = "bbbb-0b52fe.ci.example.net";
const C: &str = "cccc-91b4de.ci.example.net";

fn guard<'a>(sandbox: &'a Sandbox, apps: &[&str]) -> Guard<'a> {
    let flags = apps.iter().flat_map(|app| ["--app", app]);
    sandbox.run().args(flags).args(["--teardown", "none"])
}

/// Seen failing with the locks taken in the order of the command line.
#[test]
fn a_b_and_b_a_don_t_deadlock() {
    let sandbox = Sandbox::new();
    let turns = rounds(200);
    let start = Instant::now();
    let lines = [[A, B, C], [C, B, A], [B, A, C], [C, A, B]].map(|apps| {
        let line = guard(&sandbox, &apps).harness(["true"]).line();
        sandbox.shell(&format!("i=0; while [ $i -lt {turns} ]; do i=$((i+1)); {line} || exit 9; done"))
    });
    for mut line in lines {
        line.expect_code(0);
    }
    within("all turns", start.elapsed(), ..SOON * 3);
    for app in [A, B, C] {
        assert!(lock_is_free(&sandbox.lock_path(app)));
    }
    sandbox.expect_nothing_left();
}

/// The order in the environment is the command line's for one run and sorted for none: a comma list too.
/// Seen failing with the list taken as one name.
#[test]
fn the_variable_is_a_list() {
    let sandbox = Sandbox::new();
    let run = sandbox.run().env("CCCI_APP_DOMAIN", format!("{B},{A}")).args(["--teardown", "none"]);
    let holder = run.sh("echo ready; sleep 60").spawn();
    holder.ready();
    for app in [A, B] {
        assert!(!lock_is_free(&sandbox.lock_path(app)), "{app}");
    }
}

/// Fails with the same name locked twice by two descriptions (a deadlock with oneself).
#[test]
fn one_name_twice_is_one_lock() {
    let sandbox = Sandbox::new();
    let out = guard(&sandbox, &[A, B, A]).args(["--lock-timeout", "5s"]).sh("echo $CCCI_APP_DOMAIN").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let seen = out.text();
    let mut apps: Vec<&str> = seen.trim().split(',').collect();
    apps.sort_unstable();
    assert_eq!(apps, [A, B]);
}

/// Only one of the two is held by another: who gives up, or is stopped, keeps none.
/// Fails with the first lock's description inherited by the thread's process and left open.
#[test]
fn who_gives_up_keeps_none() {
    let sandbox = Sandbox::new();
    let _held = Holder::take(&sandbox, &sandbox.lock_path(B));
    let out = guard(&sandbox, &[B, A]).args(["--lock-timeout", "300ms"]).harness(["touch", "started"]).output();
    assert_eq!(out.code(), 75, "{}", out.stderr);
    assert!(out.stderr.contains(B), "names the one that is missing: {}", out.stderr);
    assert!(lock_is_free(&sandbox.lock_path(A)));

    let mut waiter = guard(&sandbox, &[B, A]).harness(["touch", "started"]).spawn();
    waiter.expect_stderr(&format!("waiting for app lock {B}"));
    waiter.signal(Signal::SIGTERM);
    waiter.expect_code(143);
    assert!(lock_is_free(&sandbox.lock_path(A)));
    assert!(!sandbox.path("work/started").exists());
}

/// One limit for all of them together.
/// Seen failing with the limit started anew for each lock.
#[test]
fn the_limit_is_for_the_whole_wait() {
    let sandbox = Sandbox::new();
    let first = Holder::take(&sandbox, &sandbox.lock_path(A));
    let _second = Holder::take(&sandbox, &sandbox.lock_path(B));
    let mut waiter = guard(&sandbox, &[A, B]).args(["--lock-timeout", "2s"]).harness(["true"]).spawn();
    waiter.expect_stderr(&format!("waiting for app lock {A}"));
    while waiter.started().elapsed() < Duration::from_millis(1200) {
        std::thread::sleep(Duration::from_millis(10));
    }
    first.release();
    let exit = waiter.expect_code(75);
    within("one limit", exit.after, Duration::from_millis(1990)..Duration::from_millis(3100));
}

/// All are held to the end of the teardown, and then all are free.
/// Fails with only the first lock handed to the worker.
#[test]
fn all_are_held_to_the_end() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let run = sandbox.run().args(["--app", A, "--app", B]).teardown(teardown.command_with("--sleep 300"));
    let mut run: Proc = run.sh("echo ready; sleep 60").spawn();
    run.ready();
    run.signal(Signal::SIGTERM);
    teardown.expect_start(0);
    for app in [A, B] {
        assert!(held(&sandbox.lock_path(app)).is_err(), "{app} is free while a teardown runs");
    }
    run.expect_code(143);
    for app in [A, B] {
        assert!(lock_is_free(&sandbox.lock_path(app)), "{app}");
    }
    assert_eq!(teardown.count("end"), 2, "once for each app: {:?}", teardown.lines());
    assert_eq!(teardown.count("overlap"), 0, "never two at a time: {:?}", teardown.lines());
}
