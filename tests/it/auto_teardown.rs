//! `--teardown auto`: abra's own sequence, the sweep of the Swarm, and the proof, in that order.

use crate::lock_holder::Holder;
use crate::support::stubs::{Stubs, ZONE};
use crate::support::{APP, Guard, Proc, SOON, Sandbox, alive, eventually, full, held, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::time::Duration;

const STACK: &str = "immi-ad3e33_ci_example_net";
const ABRA_STEPS: [&str; 4] = [
    "app undeploy --no-input immi-ad3e33.ci.example.net",
    "app volume remove --no-input --force immi-ad3e33.ci.example.net",
    "app secret remove --no-input --all immi-ad3e33.ci.example.net",
    "app remove --no-input --force immi-ad3e33.ci.example.net",
];

/// Runs it until its harness is up, asks it to stop, and waits for its end.
#[track_caller]
fn stopped(guard: Guard<'_>) -> Proc {
    let mut guard = guard.report().fixture("print-signals TERM=0").spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    guard.expect_eof(SOON);
    guard
}

#[track_caller]
fn expect_result(sandbox: &Sandbox, result: &str) -> Value {
    let report = sandbox.report();
    assert_eq!(report["teardown"]["result"], result, "{report}");
    assert!(sandbox.lock_is_free(), "the lock");
    sandbox.expect_nothing_left();
    report
}

/// Fails with two steps of the sequence exchanged, and with the sweep before it.
#[test]
fn abra_first_then_the_sweep_then_the_proof() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stopped(stubs.run());
    expect_result(&sandbox, "ok");
    assert_eq!(stubs.left(APP), Vec::<String>::new());
    assert_eq!(stubs.argvs("abra"), ABRA_STEPS);
    let calls = stubs.calls();
    let last_of_abra = calls.iter().rposition(|call| call.program() == "abra").unwrap();
    let docker: Vec<_> = calls.iter().enumerate().filter(|(_, call)| call.program() == "docker").collect();
    let first_removal = docker.iter().find(|(_, call)| call.argv().contains(" rm")).expect("a sweep");
    let last_removal = docker.iter().rfind(|(_, call)| call.argv().contains(" rm")).expect("a sweep");
    assert!(first_removal.0 > last_of_abra, "{calls:#?}");
    // After the last removal each kind is listed once more, by the label.
    for kind in ["service ls", "container ls --all", "network ls", "secret ls", "config ls", "volume ls"] {
        let with_label = format!("{kind} --filter label=com.docker.stack.namespace={STACK} ");
        let proof = calls[last_removal.0..].iter().any(|call| call.argv().starts_with(&with_label));
        assert!(proof, "{with_label:?} not after the last removal: {calls:#?}");
    }
    assert!(!calls.iter().any(|call| call.argv().contains("prune")), "{calls:#?}");
}

/// Fails with the caller's ABRA_DIR handed on, and with a step started without the lock.
#[test]
fn what_a_step_sees() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stopped(stubs.run().env("ABRA_DIR", sandbox.path("work")));
    expect_result(&sandbox, "ok");
    let lock = sandbox.lock_path(APP).display().to_string();
    let calls = stubs.calls();
    assert!(calls.len() > 10);
    for call in calls {
        assert_eq!(call.value("cwd"), "/");
        assert_eq!(call.value("stdin"), "/dev/null");
        assert_eq!(call.value("home"), sandbox.path("home").display().to_string());
        assert_eq!(call.value("abra_dir"), stubs.abra_dir().display().to_string(), "{}", call.argv());
        assert_eq!(call.value("app"), APP);
        assert_eq!(call.value("cause"), "signal");
        assert_eq!((call.value("lock"), call.value("fd")), ("held", lock.as_str()), "{}", call.argv());
    }
}

/// `--canonical-abra-dir` and its variable come before HOME; the proof looks there, too.
/// Fails with the variable not read.
#[test]
fn the_canonical_directory_is_the_one_that_was_named() {
    for by_flag in [true, false] {
        let sandbox = Sandbox::new();
        let stubs = Stubs::new(&sandbox);
        let other = sandbox.path("other");
        fs::create_dir_all(other.join("servers/host")).unwrap();
        fs::write(other.join(format!("servers/host/{APP}.env")), "").unwrap();
        let run = stubs.run();
        let run = if by_flag {
            run.arg("--canonical-abra-dir").arg(&other)
        } else {
            run.env("CCCI_CANONICAL_ABRA_DIR", &other)
        };
        stopped(run);
        expect_result(&sandbox, "ok");
        let calls = stubs.calls();
        assert!(calls.iter().all(|call| call.value("abra_dir") == other.display().to_string()), "{calls:#?}");
    }
}

/// What abra says settles nothing: the lists do.
/// Fails with a failed step taken for a failed teardown, and with the sequence given up at the first failure.
#[test]
fn an_abra_that_fails_is_followed_by_the_sweep() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    for step in ["app-undeploy", "app-volume", "app-secret"] {
        stubs.says(step, "echo no such app >&2; exit 5\n");
    }
    let guard = stopped(stubs.run());
    expect_result(&sandbox, "ok");
    assert_eq!(stubs.argvs("abra"), ABRA_STEPS);
    assert_eq!(stubs.left(APP), Vec::<String>::new());
    assert!(guard.stderr().contains("ccci-guard: teardown: no such app"), "{}", guard.stderr());
}

/// abra says that all is well, and does nothing.
/// Fails with abra's 0 taken for the proof.
#[test]
fn an_abra_that_lies_is_followed_by_the_sweep() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    for step in ["app-undeploy", "app-volume", "app-secret"] {
        stubs.says(step, "exit 0\n");
    }
    stopped(stubs.run());
    expect_result(&sandbox, "ok");
    assert_eq!(stubs.left(APP), Vec::<String>::new());
}

/// It is ended before the limit, with all it started; the sweep has the rest of the time; what is left is named.
/// Fails with `--teardown-timeout` not looked at while a step runs, and with a hanging step given all of it.
#[test]
fn an_abra_that_hangs_does_not_keep_the_sweep_away() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.says("app-undeploy", "setsid sleep 100 &\nsleep 100\n");
    let run = stubs.run().args(["--teardown-timeout", "8s"]);
    let mut guard = run.report().fixture("print-signals TERM=0").spawn();
    guard.ready();
    let asked = guard.started().elapsed();
    guard.signal(Signal::SIGTERM);
    let exit = guard.expect_code(143);
    within("the teardown", exit.after - asked, Duration::from_millis(5500)..SOON);
    let report = expect_result(&sandbox, "partial");
    assert!(report["teardown"]["residual"][0].as_str().unwrap().contains(".env"), "{report}");
    assert_eq!(stubs.argvs("abra"), ABRA_STEPS[..1]);
    assert_eq!(stubs.left(APP), ["env"]);
}

/// A step that a signal from outside ended runs once more, and only that one.
/// Fails with the second try taken out.
#[test]
fn a_step_that_was_killed_runs_once_more() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let once = sandbox.path("killed-once");
    let once = once.display();
    stubs.says("app-volume", &format!("[ -e '{once}' ] || {{ : >'{once}'; kill -KILL $$; }}\n"));
    stopped(stubs.run());
    expect_result(&sandbox, "ok");
    let expected = [ABRA_STEPS[0], ABRA_STEPS[1], ABRA_STEPS[1], ABRA_STEPS[2], ABRA_STEPS[3]];
    assert_eq!(stubs.argvs("abra"), expected);
}

/// The worker itself is killed in a step: the step is ended, then all of it runs once more.
/// Fails with the takeover by a second worker taken out.
#[test]
fn a_worker_that_was_killed_is_followed_by_another() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let once = sandbox.path("slow-once");
    let shown = once.display();
    stubs.says("app-volume", &format!("[ -e '{shown}' ] || {{ echo $$ >'{shown}'; sleep 100; }}\n"));
    let mut guard = stubs.run().report().fixture("print-signals TERM=0").spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    let step = eventually(SOON, "the slow step", || {
        let text = fs::read_to_string(&once).map_err(|error| error.to_string())?;
        text.trim().parse().map(Pid::from_raw).map_err(|error| error.to_string())
    });
    kill(guard.worker(), Signal::SIGKILL).unwrap();
    guard.expect_code(143);
    assert!(!alive(step), "the step of the killed worker lives on");
    expect_result(&sandbox, "ok");
    assert_eq!(stubs.left(APP), Vec::<String>::new());
}

/// Steps of one's own replace all four; they are split at white space and nothing else is special.
/// Fails with the steps run besides abra's, and with `{stack}` left as it is.
#[test]
fn steps_of_ones_own_replace_the_sequence() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let tool = sandbox.path("bin/tool");
    stubs.program(&tool, "");
    let steps =
        ["tool down {app}  --stack={stack}\t'quoted $HOME'", "tool env {app} {app}.{stack}", "abra app remove x"];
    let steps = steps.iter().flat_map(|step| ["--teardown-step", *step]);
    stopped(stubs.run().args(steps));
    // The .env file is still there: nobody removed it.
    let report = expect_result(&sandbox, "partial");
    let residual = report["teardown"]["residual"][0].as_str().unwrap();
    assert!(residual.contains(&format!("{APP}.env")), "{report}");
    let tool = [format!("down {APP} --stack={STACK} 'quoted $HOME'"), format!("env {APP} {APP}.{STACK}")];
    assert_eq!(stubs.argvs("tool"), tool);
    assert_eq!(stubs.argvs("abra"), ["app remove x"]);
    assert_eq!(stubs.left(APP), ["env"]);
}

/// Fails with the programs of PATH used although others were named.
#[test]
fn the_programs_may_be_named() {
    for by_flag in [true, false] {
        let sandbox = Sandbox::new();
        let stubs = Stubs::new(&sandbox);
        stubs.deploy(APP);
        let (abra, docker) = (sandbox.path("my-abra"), sandbox.path("my-docker"));
        stubs.copy("abra", &abra);
        stubs.copy("docker", &docker);
        let run = stubs.run();
        let run = if by_flag {
            run.arg("--abra").arg(&abra).arg("--docker").arg(&docker)
        } else {
            run.env("CCCI_ABRA", &abra).env("CCCI_DOCKER", &docker)
        };
        stopped(run);
        expect_result(&sandbox, "ok");
        assert_eq!(stubs.argvs("my-abra"), ABRA_STEPS);
        assert!(!stubs.argvs("my-docker").is_empty());
        assert_eq!((stubs.argvs("abra").len(), stubs.argvs("docker").len()), (0, 0));
    }
}

/// Docker alone is enough: the sweep does it.
/// Fails with abra required.
#[test]
fn docker_alone_is_enough() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.without("abra");
    stubs.deploy(APP);
    fs::remove_file(stubs.env_file(APP)).unwrap();
    stopped(stubs.run().env("PATH", format!("{}:/usr/bin:/bin", sandbox.path("bin").display())));
    expect_result(&sandbox, "ok");
    assert_eq!(stubs.left(APP), Vec::<String>::new());
}

/// Without an allow-list `auto` touches nothing, also what the harness noted, or it does not start at all.
/// Fails with noted names let through where no list was given.
#[test]
fn without_an_allow_list_noted_apps_are_left_alone() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let warm = "warm-x.ci.example.net";
    for options in [&["--teardown", "auto"][..], &["--zone", ZONE], &["--zone", ZONE, "--teardown", "auto"]] {
        stubs.deploy(warm);
        stubs.deploy(APP);
        let note = format!("printf '{warm}\\n' >>\"$CCCI_RUN_APPS_FILE\"; kill -TERM $CCCI_GUARD_PID; sleep 100");
        let run = sandbox.run().args(options).env("PATH", stubs.path()).sh(&note).output();
        assert!(matches!(run.code(), 125 | 143), "{options:?}: {}: {}", run.code(), run.stderr);
        assert_eq!((stubs.left(warm).len(), stubs.left(APP).len()), (7, 7), "{options:?}: {}", run.stderr);
        assert_eq!(stubs.removals(), Vec::<String>::new(), "{options:?}");
        assert!(!sandbox.lock_path(warm).exists());
    }
}

/// Dependencies that the harness noted are torn down too, each under its lock; another run's is left alone.
/// Fails with the noted names not read, and with their locks not taken.
#[test]
fn noted_apps_are_torn_down_each_under_its_lock() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let (noted, others) = ("keyc-0b52fe.ci.example.net", "n8n-00ff00.ci.example.net");
    for app in [APP, noted, others] {
        stubs.deploy(app);
    }
    let _other_run = Holder::take(&sandbox, &sandbox.lock_path(others));
    let note =
        format!("printf '{noted}\\n{others}\\n' >>\"$CCCI_RUN_APPS_FILE\"; kill -TERM $CCCI_GUARD_PID; sleep 100");
    let run = stubs.run().report().sh(&note).output();
    assert_eq!(run.code(), 143, "{}", run.stderr);
    assert_eq!((stubs.left(APP).len(), stubs.left(noted).len(), stubs.left(others).len()), (0, 0, 7), "{}", run.stderr);
    assert!(run.stderr.contains(&format!("left {others} alone")), "{}", run.stderr);
    let calls = stubs.calls();
    let own: Vec<_> = calls.iter().filter(|call| call.argv().ends_with(noted)).collect();
    assert_eq!(own.len(), 4, "{calls:#?}");
    let lock = sandbox.lock_path(noted).display().to_string();
    for call in own {
        assert_eq!((call.value("app"), call.value("lock"), call.value("fd")), (noted, "held", lock.as_str()));
    }
}

/// Fails with the proof looking at the Swarm only.
#[test]
fn an_env_file_that_is_still_there_is_partial() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.says("app-remove", "exit 0\n");
    let guard = stubs.run().report().args(["--teardown-on", "always"]);
    let out = guard.harness(["true"]).output();
    assert_eq!(out.code(), 70, "0 would be a lie; {}", out.stderr);
    let report = expect_result(&sandbox, "partial");
    assert!(report["teardown"]["residual"][0].as_str().unwrap().contains(".env"), "{report}");
    assert!(out.stderr.contains(".env"), "what is left is named: {}", out.stderr);
}

/// A volume that can't be removed is named: at the limit the teardown has timed out, before it, when nothing
/// more goes, it is partial.
/// Fails with the removals' statuses taken for the proof.
#[test]
fn a_volume_that_stays_is_named() {
    // That nothing more goes is settled after 10 s: only with the full counts.
    let cases = [("3s", "timeout"), ("2m", "partial")];
    for (limit, result) in cases.into_iter().take(if full() { 2 } else { 1 }) {
        let sandbox = Sandbox::new();
        let stubs = Stubs::new(&sandbox);
        stubs.deploy(APP);
        stubs.says("app-volume", "exit 0\n");
        stubs.add(STACK, "volume", "kept", true);
        stopped(stubs.run().args(["--teardown-timeout", limit]));
        let report = expect_result(&sandbox, result);
        assert_eq!(report["teardown"]["residual"], serde_json::json!(["volume kept"]), "{report}");
        assert_eq!(report["teardown"]["apps"][0]["residual"], serde_json::json!(["volume kept"]), "{report}");
        assert_eq!(stubs.left(APP), ["volume"]);
    }
}

/// Docker is unreachable when the teardown is due: that is no proof.
/// Fails with a list that could not be had taken for an empty one.
#[test]
fn a_docker_that_fails_is_no_proof() {
    for says in ["echo Cannot connect >&2; exit 1\n", "printf 'rub\\000bish\\n'; exit 0\n", "echo rubbish; exit 0\n"] {
        let sandbox = Sandbox::new();
        let stubs = Stubs::new(&sandbox);
        stubs.deploy(APP);
        stubs.says("volume-ls", says);
        stopped(stubs.run());
        expect_result(&sandbox, "failed");
        assert_eq!(stubs.argvs("abra"), ABRA_STEPS);
    }
}

/// A harness that exits by itself has torn down itself.
/// Fails with the teardown run after each exit.
#[test]
fn nothing_is_called_where_none_is_due() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let out = stubs.run().sh("exit 7").output();
    assert_eq!((out.code(), out.stderr.as_str()), (7, ""));
    assert!(stubs.calls().is_empty(), "{:#?}", stubs.calls());
    eventually(SOON, "the lock", || held(&sandbox.lock_path(APP)));
}
