//! `ccci-guard doctor` asks git, abra, docker and systemctl: stand-ins that answer, fail, hang, or are not there.

use crate::doctor::Host;
use crate::support::*;
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

/// What is asked changes nothing, and each program is asked once for each thing.
/// To see it fail: ask for more, or start the same twice.
#[test]
fn only_questions_are_asked() {
    let host = Host::new();
    host.lines().expect_others_ok(&[]);
    let expected = [
        "git --version",
        "abra --version",
        "docker version --format {{.Server.Version}}",
        "docker node ls --quiet",
        "systemctl is-active ccci-guard-janitor.timer",
    ];
    assert_eq!(host.calls(), expected);
}

/// Fails when a git that does not work counts as one.
#[test]
fn git_answers_fails_or_is_missing() {
    let host = Host::new();
    host.lines().expect("git", "ok", "git version 2.99.1");
    host.answers("git", "echo 'git: broken library' >&2; exit 127");
    let lines = host.lines();
    lines.expect("git", "warning", "status 127: git: broken library");
    lines.expect("git", "warning", "install git");
    host.without("git");
    let lines = host.lines();
    lines.expect("git", "warning", "not in PATH");
    lines.expect_others_ok(&["git"]);
}

/// In PATH, by the variable, by the flag; failing; missing. Fails with the flag or the variable not looked at.
#[test]
fn abra_answers_fails_or_is_missing() {
    let host = Host::new();
    host.lines().expect("abra", "ok", "abra version 0.99.2");
    let elsewhere = host.0.path("work/other-abra");
    program(&elsewhere, "#!/bin/sh\necho abra version 1.0.0\necho more");
    let lines = host.look(host.doctor(&[]).env("CCCI_ABRA", &elsewhere));
    lines.expect("abra", "ok", &format!("'{}' abra version 1.0.0", elsewhere.display()));
    let lines = host.look(host.doctor(&["--abra", elsewhere.to_str().unwrap()]).env("CCCI_ABRA", "/no/such"));
    lines.expect("abra", "ok", "1.0.0");
    host.look(host.doctor(&["--abra", "/no/such"])).expect("abra", "error", "/no/such");

    host.answers("abra", "echo 'no config' >&2; kill -9 $$");
    let lines = host.lines();
    lines.expect("abra", "warning", "status 137: no config");
    lines.expect("abra", "warning", "by hand");
    host.without("abra");
    let lines = host.lines();
    lines.expect("abra", "warning", "not in PATH");
    lines.expect("abra", "warning", "CCCI_ABRA");
    lines.expect("teardown", "ok", "by the Swarm sweep");
    lines.expect_others_ok(&["abra"]);
}

/// Without an answer of Docker nothing is swept and nothing proved: an error. The Swarm is not asked then.
/// To see it fail: take a client's answer for the server's.
#[test]
fn docker_answers_fails_or_is_missing() {
    let host = Host::new();
    host.lines().expect("docker", "ok", "server 99.3.1");
    let elsewhere = host.0.path("work/other-docker");
    program(&elsewhere, "#!/bin/sh\necho 100.1");
    let lines = host.look(host.doctor(&["--docker", elsewhere.to_str().unwrap()]));
    lines.expect("docker", "ok", &format!("'{}', server 100.1", elsewhere.display()));

    fs::remove_file(host.0.path("calls")).unwrap();
    host.answers("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1");
    let lines = host.lines();
    lines.expect("docker", "error", "status 1: Cannot connect to the Docker daemon");
    lines.expect("docker", "error", "DOCKER_HOST");
    lines.expect("swarm", "warning", "not asked");
    lines.expect("teardown", "warning", "by abra alone");
    lines.expect_others_ok(&["docker", "swarm", "teardown"]);
    assert!(!host.calls().contains(&"docker node ls --quiet".to_owned()), "{:?}", host.calls());
    host.without("docker");
    let lines = host.lines();
    lines.expect("docker", "error", "not in PATH");
    lines.expect("docker", "error", "CCCI_DOCKER");
    lines.expect("swarm", "warning", "not asked");
    host.without("abra");
    let lines = host.lines();
    lines.expect("teardown", "error", "neither abra nor a Docker");
    lines.expect("teardown", "error", "--teardown CMD");
}

/// A manager of one node, of several, or none. Fails when the count is not looked at.
#[test]
fn the_swarm_is_counted() {
    let host = Host::new();
    let with = |nodes: &str| {
        host.answers("docker", &format!("case $1 in\nversion) echo 99.3.1 ;;\nnode) {nodes} ;;\nesac"));
        host.lines()
    };
    with("echo node1").expect("swarm", "ok", "one node");
    let lines = with("printf 'node1\\nnode2\\nnode3\\n'");
    lines.expect("swarm", "warning", "3 nodes");
    lines.expect("swarm", "warning", "--single-runner");
    lines.expect_others_ok(&["swarm"]);
    let lines = with("echo 'Error response from daemon: This node is not a swarm manager.' >&2; exit 1");
    lines.expect("swarm", "error", "This node is not a swarm manager");
    lines.expect("swarm", "error", "docker swarm init");
    lines.expect_others_ok(&["swarm"]);
}

/// Active, not active, not to be told. In any case: what must be done first. Fails with `is-enabled` asked instead.
#[test]
fn the_janitor_s_timer_is_asked_about() {
    let host = Host::new();
    host.lines().expect("janitor-timer", "ok", "ccci-guard-janitor.timer is active");
    host.answers("systemctl", "echo inactive; exit 3");
    let lines = host.lines();
    lines.expect("janitor-timer", "warning", "is not active");
    lines.expect("janitor-timer", "warning", "docs/deploy");
    lines.expect("janitor-timer", "warning", "every harness on this host must take the app lock");
    host.without("systemctl");
    let lines = host.lines();
    lines.expect("janitor-timer", "warning", "there is no systemctl");
    lines.expect("janitor-timer", "warning", "ccci-guard janitor");
    lines.expect_others_ok(&["janitor-timer"]);
}

/// A docker that hangs, and ignores what it is asked, is over after ten seconds, and so is what it started.
/// To see it fail: wait without a limit, or kill the leader alone.
#[test]
fn a_program_that_hangs_is_ended() {
    let host = Host::new();
    host.answers("docker", &format!("'{FIXTURE}' setsid-grandchild"));
    let out = host.doctor(&["--json"]).output();
    let lines = crate::doctor::Lines::of(&out);
    lines.expect("docker", "error", "no answer within 10s");
    lines.expect("swarm", "warning", "not asked");
    lines.expect("git", "ok", "git version");
    lines.expect("janitor-timer", "ok", "active");
    within("doctor", out.exit.after, Duration::from_millis(9900)..Duration::from_secs(20));
    assert_eq!(host.0.left().len(), 0, "{:?}", host.0.left());
}

/// Asked to stop while a program hangs: it ends soon, with that program and without a file of its own.
/// To see it fail: read signals between two programs only, or go on with the next program.
#[test]
fn a_stop_ends_it_and_what_it_asks() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let host = Host::new();
        let started = host.0.path("started");
        host.answers("docker", &format!(">'{}'; exec '{FIXTURE}' many-children 0", started.display()));
        let mut doctor = host.doctor(&[]).default_signals().spawn();
        eventually(SOON, "docker", || if started.exists() { Ok(()) } else { Err("not asked yet") });
        doctor.signal(signal);
        let exit = doctor.wait(SOON);
        assert_eq!(exit.code, 128 + signal as i32);
        within("the end", exit.after, ..Duration::from_secs(9));
        assert_eq!(doctor.stdout(), "", "half a look is none");
        assert!(!doctor.stderr().contains("panicked"), "{}", doctor.stderr());
        eventually(SOON, "the end of docker", || host.0.nothing_left());
        assert_eq!(fs::read_dir(host.0.lock_dir()).unwrap().count(), 0);
    }
}

/// Whatever a program prints is words in a line: no more lines, no control characters, no bytes that are no text.
/// To see it fail: print the answer as it came.
#[test]
fn answers_are_only_words() {
    let host = Host::new();
    host.answers("abra", "printf 'a\\033[2Jb\\nsecond\\n'");
    host.answers("git", "printf '\\377\\033]0;x\\007\\r\\nnext\\n' >&2; exit 1");
    host.answers("docker", "case $1 in\nversion) printf '99\\nmore\\033c\\n' ;;\nnode) echo one ;;\nesac");
    let out = host.doctor(&[]).output();
    let text = out.text();
    assert_eq!(text.lines().filter(|line| !line.starts_with(' ')).count(), 13, "{text:?}");
    assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "{text:?}");
}
