//! Runs whose harness deploys a stack, and that end as runs do on a CI host: cancelled, stopped, with dependencies.

use crate::stack::{SMALL, Stack, WHOLE};
use crate::support::*;
use crate::swarm::Swarm;
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};

/// A step's workspace, all of which goes when the build is cancelled: checkout, HOME and the script.
struct Workspace(PathBuf);

impl Workspace {
    fn new(swarm: &Swarm) -> Self {
        let dir = swarm.sandbox.path("drone-workspace");
        fs::create_dir_all(dir.join("home")).unwrap();
        fs::create_dir_all(dir.join("src")).unwrap();
        Self(dir)
    }

    /// `/bin/sh -e SCRIPT`, as the Drone exec runner starts a step.
    fn start(&self, swarm: &Swarm, options: &str, harness: &str) -> Proc {
        fs::write(self.0.join("src/harness"), harness).unwrap();
        let script = self.0.join("step");
        let guard = "\"$G\" --parent-pid $$ --deadline 50m --teardown auto";
        fs::write(&script, format!("{guard} --zone {} {options} -- sh ./harness\n", swarm.zone)).unwrap();
        let mut command = swarm.command("/bin/sh");
        command.arg("-e").arg(script).current_dir(self.0.join("src")).env("HOME", self.0.join("home"));
        command.env("DRONE_BUILD_NUMBER", "1190");
        swarm.sandbox.spawn(command)
    }

    /// SIGKILL to the shell alone, and at once everything is removed.
    fn cancel(self, step: &Proc) {
        step.signal(Signal::SIGKILL);
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A harness that deploys the stack, says so, and knows no teardown.
fn harness(stack: &Stack<'_>) -> String {
    format!("set -e\n{} >/dev/null\necho ready\nsleep 600\n", stack.deploy_command(SMALL))
}

/// The guard's last step: nothing of the run, lock free. A teardown on a busy machine takes longer than `SOON`.
#[track_caller]
fn expect_over(swarm: &Swarm, lock: &Path) {
    eventually(SOON * 3, "end of the run", || {
        swarm.sandbox.nothing_left()?;
        held(lock)
    });
}

/// The cancelled build on a host with Docker alone: the Swarm is empty of the app when its lock is free.
///
/// Fails when the worker needs the workspace, or the lock is let go before the containers are gone.
#[test]
fn a_cancelled_build_leaves_nothing_on_the_swarm() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = Stack::new(&swarm, &app.replace('.', "_"));
    let workspace = Workspace::new(&swarm);
    let step = workspace.start(&swarm, &format!("--app {app}"), &harness(&stack));
    step.ready();
    stack.expect_running();
    workspace.cancel(&step);
    // The lock is the handshake: from the moment that it is free nothing may be left.
    let lock = swarm.sandbox.lock_path(&app);
    eventually(SOON * 3, "the lock", || held(&lock));
    stack.expect_gone();
    expect_over(&swarm, &lock);
}

/// An `abra` that notes how it is called, removes the services as `docker stack rm` does, forgets the volume, and
/// removes the `.env` at the end.
fn recording_abra(swarm: &Swarm) -> PathBuf {
    let log = swarm.sandbox.path("abra.log");
    let script = format!(
        "#!/bin/sh\n\
         echo \"$* | in $PWD | ABRA_DIR $ABRA_DIR\" >>'{}'\n\
         for app; do :; done\n\
         case $* in\n\
         'app undeploy '*) docker stack rm \"$(echo \"$app\" | tr . _)\" ;;\n\
         'app remove '*) rm \"$ABRA_DIR/servers/default/$app.env\" ;;\n\
         esac\n",
        log.display()
    );
    swarm.program("abra", &script);
    log
}

/// The same on a host with abra: its four commands in order, each from `/` and with the canonical ABRA_DIR; the
/// sweep does what abra forgot.
///
/// Fails when a step is left out or out of order, when abra's word counts, or when it runs where the workspace was.
#[test]
fn a_cancelled_build_is_torn_down_by_abra_and_then_swept() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = Stack::new(&swarm, &app.replace('.', "_"));
    let log = recording_abra(&swarm);
    let canonical = swarm.sandbox.path("canonical");
    let env = canonical.join(format!("servers/default/{app}.env"));
    fs::create_dir_all(env.parent().unwrap()).unwrap();
    fs::write(&env, "TYPE=x\n").unwrap();
    let workspace = Workspace::new(&swarm);
    let options = format!("--app {app} --canonical-abra-dir {}", canonical.display());
    let step = workspace.start(&swarm, &options, &harness(&stack));
    step.ready();
    stack.expect_running();
    workspace.cancel(&step);
    let lock = swarm.sandbox.lock_path(&app);
    eventually(SOON * 3, "the lock", || held(&lock));
    stack.expect_gone();
    assert!(!env.exists());
    let steps = ["undeploy --no-input", "volume remove --no-input --force", "secret remove --no-input --all"];
    let steps = steps.into_iter().chain(["remove --no-input --force"]);
    let expected: Vec<String> =
        steps.map(|step| format!("app {step} {app} | in / | ABRA_DIR {}", canonical.display())).collect();
    let seen = fs::read_to_string(log).unwrap();
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
    expect_over(&swarm, &lock);
}

/// A run that is asked to stop: 143 comes after the ten seconds that the container takes, not before.
///
/// Fails when the teardown ends with `docker service rm`.
#[test]
fn a_stopped_run_waits_for_its_slow_container() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = Stack::new(&swarm, &app.replace('.', "_"));
    let outside = stack.external_network();
    swarm.docker(&["network", "create", "--driver", "overlay", &outside]);
    let script = format!("{} >/dev/null && echo ready && exec sleep 600", stack.deploy_command(WHOLE));
    let mut run = swarm.guard().args(["--app", &app]).report().sh(&script).spawn();
    run.ready();
    stack.expect_running();
    let asked = std::time::Instant::now();
    run.signal(Signal::SIGTERM);
    run.expect_code(143);
    let took = asked.elapsed();
    stack.expect_gone();
    swarm.docker(&["network", "rm", &outside]);
    within("the stop", took, std::time::Duration::from_secs(9)..SOON * 3);
    assert!(lock_is_free(&swarm.sandbox.lock_path(&app)));
    let report = swarm.sandbox.report();
    assert_eq!(report["teardown"]["result"], "ok", "{report:#}");
}

/// A harness that locks by itself notes its app and a dependency; the dependency is another run's by now. No `--app`.
///
/// Fails when the noted apps are not read, or are torn down without their lock.
#[test]
fn noted_apps_are_torn_down_each_under_its_lock() {
    let Some(swarm) = Swarm::there() else { return };
    let (app, dependency, foreign) = (swarm.app(1), swarm.app(2), swarm.app(3));
    let stacks = [&app, &dependency, &foreign].map(|app| Stack::new(&swarm, &app.replace('.', "_")));
    let mut script = format!("set -e\nprintf '%s\\n' {app} {dependency} {foreign} >>\"$CCCI_RUN_APPS_FILE\"\n");
    for stack in &stacks {
        script += &format!("{} >/dev/null\n", stack.deploy_command(SMALL));
    }
    let mut run = swarm.guard().sh(&format!("{script}echo ready\nexec sleep 600\n")).spawn();
    run.ready();
    let containers = stacks.each_ref().map(Stack::expect_running);
    let _other_run = FileLock::take(&swarm.sandbox.lock_path(&foreign));
    run.signal(Signal::SIGTERM);
    run.expect_code(143);
    stacks[0].expect_gone();
    stacks[1].expect_gone();
    assert_eq!(stacks[2].expect_running(), containers[2]);
    let said = run.stderr();
    assert!(said.lines().any(|line| line.contains(&foreign) && line.contains("another run's")), "{said}");
    assert!(lock_is_free(&swarm.sandbox.lock_path(&app)));
    assert!(lock_is_free(&swarm.sandbox.lock_path(&dependency)));
}

/// Mission case 7: a new run of an app that the janitor reaps just now gets the lock when all is gone.
///
/// Fails when the janitor's lock ends with the list of services.
#[test]
fn a_new_run_waits_until_a_slow_reap_is_done() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let slow = SMALL.replace("trap 'exit 0' TERM; sleep 600 & wait", "trap '' TERM; while :; do sleep 600; done");
    let slow = slow.replace("    volumes:", "    stop_grace_period: 10s\n    volumes:");
    let stack = swarm.deploy(&app, &slow);
    let mut janitor = swarm.janitor().spawn();
    let lock = swarm.sandbox.lock_path(&app);
    eventually(SOON, "the janitor's lock", || if held(&lock).is_err() { Ok(()) } else { Err("free") });
    let look = format!(
        "docker ps -aq --filter label=com.docker.stack.namespace={0}; \
         docker volume ls -q --filter label=com.docker.stack.namespace={0}; echo looked",
        stack.name
    );
    let mut run = swarm.guard().args(["--app", &app]).sh(&look).spawn();
    run.expect_stderr("waiting for app lock");
    stack.expect_counts(&[("volume", 1)]);
    run.expect_code(0);
    assert_eq!(run.stdout(), "looked\n", "the harness started while the old app was still there");
    janitor.expect_code(0);
    assert!(janitor.stdout().contains("\"verdict\":\"reaped\""), "{}", janitor.stdout());
}
