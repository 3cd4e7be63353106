//! A copy of what the Drone exec runner does to a build that is cancelled: SIGKILL to the step's shell alone,
//! and at once its whole workspace is removed, the harness's program and HOME with it. No SIGTERM ever comes.

use crate::support::*;
use nix::sys::signal::Signal;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// A step's workspace: checkout, HOME and the script, all of which go in one `rm -rf`.
struct Workspace {
    dir: PathBuf,
}

impl Workspace {
    fn new(sandbox: &Sandbox) -> Self {
        let dir = sandbox.path("drone-workspace");
        fs::create_dir_all(dir.join("home")).unwrap();
        fs::create_dir_all(dir.join("src/tests")).unwrap();
        Self { dir }
    }

    fn src(&self) -> PathBuf {
        self.dir.join("src")
    }

    /// `/bin/sh -e SCRIPT` in the runner's (our) process group and session, with the step's environment.
    fn start(&self, sandbox: &Sandbox, step: &str) -> Proc {
        let script = self.dir.join("step");
        fs::write(&script, format!("set -e\n{step}\necho finished\n")).unwrap();
        let mut command = sandbox.command("/bin/sh");
        command.arg("-e").arg(script).current_dir(self.src()).env("HOME", self.dir.join("home"));
        command.env("DRONE_BUILD_NUMBER", "1190").env("CI_BUILD_NUMBER", "1190").stdin(Stdio::null());
        sandbox.spawn(command)
    }

    /// As the runner does it: kill the shell, do not wait, remove everything.
    fn cancel(&self, step: &Proc) {
        step.signal(Signal::SIGKILL);
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// The guard's line in the script: `$$` is the step's shell.
fn prefix(options: &str) -> String {
    format!("\"$G\" --app {APP} --parent-pid $$ --deadline 50m {options} --")
}

/// The cancelled build of a harness that has no teardown at all: the guard's runs, in a place that exists.
///
/// Fails when the guard keeps the workspace as its directory, hands a HOME on that is gone, or loads anything
/// from it after the start.
#[test]
fn a_cancelled_build_is_torn_down_though_its_workspace_is_gone() {
    for round in 0..rounds(30) {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let workspace = Workspace::new(&sandbox);
        // It ends when the workspace is gone: before that the teardown's HOME would be there.
        let harness = "#!/bin/sh\ntrap 'while [ -e \"$HOME\" ]; do sleep 0.01; done; exit 0' TERM\necho ready\n\
                       sleep 60 & wait\n";
        fs::write(workspace.src().join("harness"), harness).unwrap();
        make_executable(&workspace.src().join("harness"));
        let options = format!("--teardown \"{}\"", teardown.command_with("--sleep 100"));
        let mut step = workspace.start(&sandbox, &format!("{} ./harness", prefix(&options)));
        step.ready();
        workspace.cancel(&step);
        teardown.expect_end(SOON);
        sandbox.expect_over(SOON);
        teardown.expect_one();
        for key in ["cwd", "home"] {
            let place = teardown.value("start", 0, key);
            let fine = place == "unset" || PathBuf::from(&place).is_dir();
            assert!(fine, "round {round}: {key} of the teardown is {place}");
        }
        assert_eq!(teardown.value("start", 0, "cause"), "parent-gone");
        assert_eq!(step.code(), 137);
        assert!(!step.stdout().contains("finished"));
    }
}

/// The guard's own program lies in the workspace too (a checkout that carries it): gone with it.
///
/// Fails when the guard executes itself again for one of its processes.
#[test]
fn the_guards_own_program_may_be_gone() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let workspace = Workspace::new(&sandbox);
    let copy = workspace.src().join("ccci-guard");
    copy_program(GUARD, &copy);
    let options = format!("--teardown \"{}\"", teardown.command());
    let line = prefix(&options).replace("\"$G\"", "./ccci-guard");
    let step = workspace.start(&sandbox, &format!("{line} \"$F\" print-signals TERM=0"));
    step.ready();
    workspace.cancel(&step);
    assert_eq!(step.signal_line(), "TERM 1");
    teardown.expect_end(SOON);
    sandbox.expect_over(SOON);
    teardown.expect_one();
}

/// A Python harness that tears down in its `finally:`: SIGTERM becomes SystemExit there. It gets its ten
/// minutes (`--teardown none`), and the lock is held until it is done.
fn python_finally(teardown: &Teardown) -> String {
    let words = teardown.command_with("--sleep 600");
    format!(
        "import os, signal, subprocess, sys, time\n\
         signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n\
         try:\n    print('ready', flush=True)\n    time.sleep(60)\n\
         finally:\n    subprocess.run(['/bin/sh', '-c', \"\"\"{words}\"\"\"], cwd='/', check=True)\n"
    )
}

/// Fails when the harness is killed instead of asked, or the lock does not wait for it.
#[test]
fn a_python_harness_tears_down_in_its_finally_block() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let workspace = Workspace::new(&sandbox);
    fs::write(workspace.src().join("harness.py"), python_finally(&teardown)).unwrap();
    let step = format!("{} {} harness.py", prefix("--teardown none"), python());
    let step = workspace.start(&sandbox, &step);
    step.ready();
    workspace.cancel(&step);
    teardown.expect_end(SOON);
    sandbox.expect_over(SOON);
    teardown.expect_one();
}

/// Both tear down: first the harness in its `finally:`, then the guard; never both at a time, the lock held.
///
/// Fails when the guard's teardown starts before the harness has ended.
#[test]
fn the_guards_teardown_comes_after_the_harnesss_own() {
    let sandbox = Sandbox::new();
    let (own, guards) = (sandbox.teardown_in("own.log"), sandbox.teardown());
    let workspace = Workspace::new(&sandbox);
    fs::write(workspace.src().join("harness.py"), python_finally(&own)).unwrap();
    let options = format!("--teardown \"{}\"", guards.command());
    let step = format!("{} {} harness.py", prefix(&options), python());
    let step = workspace.start(&sandbox, &step);
    step.ready();
    workspace.cancel(&step);
    guards.expect_end(SOON);
    sandbox.expect_over(SOON);
    own.expect_one();
    guards.expect_one();
    let (first, then) = (own.value("end", 0, "t"), guards.value("start", 0, "t"));
    assert!(first.parse::<f64>().unwrap() <= then.parse::<f64>().unwrap(), "{first}, {then}");
}

/// A build that is not cancelled: its step goes on with the harness's own code.
///
/// Fails when a healthy step is disturbed, or a status is lost on the way through `sh -e`.
#[test]
fn a_build_that_is_not_cancelled_keeps_its_status() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let workspace = Workspace::new(&sandbox);
    let options = format!("--teardown \"{}\"", teardown.command());
    let mut green = workspace.start(&sandbox, &format!("{} sh -c 'exit 0'", prefix(&options)));
    green.expect_code(0);
    assert_eq!(green.stdout(), "finished\n");
    let mut red = workspace.start(&sandbox, &format!("{} sh -c 'exit 7'", prefix(&options)));
    red.expect_code(7);
    assert_eq!(red.stdout(), "");
    teardown.expect_none();
    sandbox.expect_nothing_left();
}

/// The cancel comes a random moment after the step began: also before the harness runs.
///
/// Fails when some window of the start survives its caller.
#[test]
fn a_build_cancelled_at_its_start_leaves_nothing() {
    let mut random = Random::from_clock("cancel at the start");
    for round in 0..rounds(100) {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let workspace = Workspace::new(&sandbox);
        let options = format!("--teardown \"{}\"", teardown.command());
        let step = workspace.start(&sandbox, &format!("{} \"$F\" print-signals TERM=0", prefix(&options)));
        std::thread::sleep(random.time_below(Duration::from_millis(25)));
        workspace.cancel(&step);
        eventually(SOON, &format!("round {round}: end of all"), || sandbox.nothing_left());
        assert!(sandbox.lock_is_free());
        teardown.expect_one_or_none();
    }
}

fn make_executable(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
