//! `--teardown auto` at the start of a run: what it can't do without, or may not touch, is refused before
//! anything is made.

use crate::support::stubs::{Stubs, ZONE};
use crate::support::{APP, Guard, SOON, Sandbox, eventually, need, within};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

/// Nothing was started, no lock file made.
#[track_caller]
fn refused(sandbox: &Sandbox, guard: Guard<'_>, words: &[&str]) {
    let out = guard.harness(["/usr/bin/touch", "started"]).output();
    assert_eq!(out.code(), 125, "{}", out.stderr);
    for word in words {
        assert!(out.stderr.contains(word), "{word:?} not in {:?}", out.stderr);
    }
    for dir in ["locks", "runs", "state", "work"] {
        let found: Vec<_> = fs::read_dir(sandbox.path(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(found.is_empty(), "a refused start left {found:?}");
    }
    sandbox.expect_nothing_left();
}

/// Fails with the missing programs found out at the teardown only.
#[test]
fn a_program_that_was_named_and_is_missing_is_refused() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    for option in ["--abra", "--docker"] {
        for bad in ["/no/such/program", "/etc/passwd", "no-such-program"] {
            refused(&sandbox, stubs.run().args([option, bad]), &[option, bad]);
        }
    }
    assert!(stubs.calls().is_empty());
}

/// Neither abra nor Docker: nobody could tear the app down.
/// Fails with `auto` started all the same.
#[test]
fn a_run_that_nobody_could_tear_down_is_not_started() {
    let three_ways_out = ["start Docker or install abra", "--teardown CMD", "--teardown none"];
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.without("abra");
    let bin = sandbox.path("bin").display().to_string();
    let run = || stubs.run().env("PATH", format!("{bin}:/usr/bin:/bin")).arg("--docker").arg(format!("{bin}/docker"));
    // A docker that can't reach its daemon.
    stubs.says("service-ls", "echo Cannot connect to the Docker daemon >&2; exit 1\n");
    refused(&sandbox, run(), &three_ways_out);
    // One that hangs is not there after 10 s.
    stubs.says("service-ls", "sleep 100\n");
    let began = std::time::Instant::now();
    refused(&sandbox, run(), &three_ways_out);
    within("the look for Docker", began.elapsed(), Duration::from_millis(9900)..SOON);
    // No docker at all.
    stubs.without("docker");
    refused(&sandbox, stubs.run().env("PATH", &bin), &three_ways_out);
    // Without an app there is nothing to tear down yet; and the ways out are ways out.
    for options in [&["--teardown", "none"][..], &["--teardown", "true"]] {
        let out = stubs.run().env("PATH", &bin).args(options).harness(["/bin/sh", "-c", "exit 7"]).output();
        assert_eq!(out.code(), 7, "{}", out.stderr);
    }
}

/// TERM while it is still looking for Docker: 143, nothing started.
/// Fails with the request not heard in the look.
#[test]
fn the_look_for_docker_can_be_given_up() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.without("abra");
    let hung = sandbox.path("hung");
    stubs.says("service-ls", &format!(": >'{}'; sleep 100\n", hung.display()));
    let path = format!("{}:/usr/bin:/bin", sandbox.path("bin").display());
    let mut guard = stubs.run().env("PATH", path).harness(["touch", "started"]).spawn();
    eventually(SOON, "docker's call", || if hung.exists() { Ok(()) } else { Err("not yet") });
    guard.signal(Signal::SIGTERM);
    let exit = guard.expect_code(143);
    within("the end", exit.after, ..Duration::from_secs(9));
    assert!(!sandbox.path("work/started").exists());
    assert!(fs::read_dir(sandbox.lock_dir()).unwrap().next().is_none(), "a lock file");
    sandbox.expect_nothing_left();
}

/// SIGKILL of the monitor while it looks for Docker: there is nobody else yet, and the `docker` that it asked ends with it.
///
/// Seen failing with a `docker` that nothing ends: it was left behind.
#[test]
fn a_monitor_killed_while_it_looks_for_docker_leaves_nothing() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.without("abra");
    let hung = sandbox.path("hung");
    stubs.says("service-ls", &format!(": >'{}'; exec sleep 100\n", hung.display()));
    let path = format!("{}:/usr/bin:/bin", sandbox.path("bin").display());
    let mut guard = stubs.run().env("PATH", path).harness(["touch", "started"]).spawn();
    eventually(SOON, "docker's call", || if hung.exists() { Ok(()) } else { Err("not yet") });
    guard.signal(Signal::SIGKILL);
    guard.expect_code(137);
    sandbox.expect_over(Duration::from_secs(2));
    assert!(!sandbox.path("work/started").exists());
}

/// Fails with a missing directory taken for an empty one.
#[test]
fn abra_without_a_directory_of_the_host_is_refused() {
    if !need(
        "a home without .abra/servers",
        !ccci_guard::settings::home_in_passwd().is_some_and(|home| home.join(".abra/servers").exists()),
    ) {
        return;
    }
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    fs::remove_dir_all(stubs.abra_dir().join("servers")).unwrap();
    refused(&sandbox, stubs.run(), &["ABRA_DIR", "CCCI_CANONICAL_ABRA_DIR"]);
    assert!(stubs.calls().is_empty());
}

/// Mission 11 for a run: names outside the allow-list.
/// Fails with the allow-list looked at in the janitor only.
#[test]
fn a_name_outside_the_allow_list_is_refused() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    for name in
        ["warm-x.ci.example.net", "ci.example.net", "immi-ad3e33.ci.example.org", "toolong-ad3e33.ci.example.net"]
    {
        stubs.deploy(name);
        let guard = sandbox.run().args(["--app", name, "--zone", ZONE]).env("PATH", stubs.path());
        refused(&sandbox, guard, &[name]);
    }
    refused(&sandbox, stubs.run().args(["--protect", "immi-*"]), &[APP]);
    assert!(stubs.calls().is_empty(), "{:#?}", stubs.calls());
}
