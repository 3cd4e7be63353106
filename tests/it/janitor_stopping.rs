//! A janitor, or a worker of it, is asked to stop, killed or stopped; and how many work at a time.

use crate::support::stubs::Stubs;
use crate::support::{APP, Apps, GUARD, Proc, Pty, SOON, Sandbox, alive, eventually, held, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const OTHER: &str = "keyc-0b52fe.ci.example.net";
const THIRD: &str = "n8n-00ff00.ci.example.net";

/// A teardown that says that it has begun, and goes on when it may.
struct Held<'a> {
    sandbox: &'a Sandbox,
}

impl Held<'_> {
    fn begun(&self) -> PathBuf {
        self.sandbox.path("begun")
    }

    /// Shell words: a line with its pid into `begun`, then a wait for `go`.
    fn words(&self) -> String {
        let go = self.sandbox.path("go");
        format!("echo $$ >>'{}'; until [ -e '{}' ]; do sleep 0.02; done", self.begun().display(), go.display())
    }

    /// The pids of those that have begun, once there are as many as this.
    #[track_caller]
    fn expect(&self, count: usize, janitor: &Proc) -> Vec<Pid> {
        eventually(SOON, "the teardown", || {
            let text = fs::read_to_string(self.begun()).unwrap_or_default();
            let pids: Vec<Pid> = text.lines().filter_map(|line| line.parse().ok().map(Pid::from_raw)).collect();
            if pids.len() >= count && text.ends_with('\n') { Ok(pids) } else { Err(text + &janitor.stderr()) }
        })
    }

    fn go(&self) {
        fs::write(self.sandbox.path("go"), "").unwrap();
    }
}

/// All of its stdout: its end may be seen before the last of it was read.
#[track_caller]
fn whole(janitor: &Proc) -> String {
    janitor.expect_eof(SOON);
    janitor.stdout()
}

/// What has begun is brought to its end, nothing new is begun: 143.
/// Fails with the workers ended, and with the request heard at the end of the round only.
#[test]
fn asked_to_stop_it_ends_what_has_begun() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let sandbox = Sandbox::new();
        let (apps, slow) = (Apps::new(&sandbox), Held { sandbox: &sandbox });
        for app in [APP, OTHER, THIRD] {
            apps.add(app);
        }
        let teardown = format!("{}; {}", slow.words(), apps.teardown());
        let janitor = apps.lister().teardown(teardown).args(["--jobs", "1"]).default_signals();
        let mut janitor = janitor.spawn();
        slow.expect(1, &janitor);
        kill(janitor.monitor(), signal).unwrap();
        // Held until its end, although the janitor was asked to stop.
        assert!(!sandbox.lock_is_free());
        slow.go();
        janitor.expect_code(code);
        assert_eq!((apps.has(APP), apps.has(OTHER), apps.has(THIRD)), (false, true, true), "{}", janitor.stderr());
        assert!(whole(&janitor).contains(&format!("{APP}  reaped  ")), "{}", whole(&janitor));
        assert!(fs::read_dir(sandbox.lock_dir()).unwrap().next().is_none(), "a lock file");
        sandbox.expect_nothing_left();
    }
}

/// Asked in the middle of its lists: nothing is touched.
/// Fails with the list waited for.
#[test]
fn asked_to_stop_while_it_lists() {
    let sandbox = Sandbox::new();
    let slow = Held { sandbox: &sandbox };
    let list = format!("echo {APP}; {}", slow.words());
    let janitor = sandbox.plain().args(["janitor", "--zone", "ci.example.net", "--list-cmd", &list]);
    let mut janitor = janitor.teardown("touch ran").spawn();
    slow.expect(1, &janitor);
    janitor.signal(Signal::SIGTERM);
    within("the end", janitor.expect_code(143).after, ..SOON);
    assert!(fs::read_dir(sandbox.lock_dir()).unwrap().next().is_none(), "a lock file");
    sandbox.expect_nothing_left();
}

/// The janitor is killed in the middle of a slow `abra undeploy`: the name stays locked until that command ends;
/// the worker needs no janitor to finish.
/// Fails with the lock held by the janitor alone, and with workers that die with it.
#[test]
fn a_killed_janitor_leaves_the_name_locked_until_the_undeploy_ends() {
    let sandbox = Sandbox::new();
    let (stubs, slow) = (Stubs::new(&sandbox), Held { sandbox: &sandbox });
    stubs.deploy(APP);
    stubs.says("app-undeploy", &slow.words());
    let mut janitor = stubs.janitor().spawn();
    let step = slow.expect(1, &janitor)[0];
    janitor.signal(Signal::SIGKILL);
    janitor.expect_code(137);
    // A new run waits.
    let run = stubs.run().teardown("none").sh("echo ready");
    let mut run = run.spawn();
    run.expect_stderr(&format!("waiting for app lock {APP}"));
    let second = stubs.janitor().output();
    assert!(second.text().contains(&format!("{APP}  live  being torn down by pid")), "{}", second.text());
    assert!(alive(step) && !sandbox.lock_is_free());
    assert_eq!(stubs.left(APP).len(), 7);
    slow.go();
    run.ready();
    assert!(!alive(step), "the run got the lock while the command was under way");
    assert_eq!(stubs.left(APP), Vec::<String>::new());
    run.expect_code(0);
    assert_eq!(stubs.argvs("abra").len(), 4);
    sandbox.expect_nothing_left();
}

/// The worker is killed, too: the lock is held by the command that is under way, and by nothing else.
/// Fails with the lock's descriptor not handed to the steps.
#[test]
fn with_janitor_and_worker_killed_the_command_holds_the_lock() {
    let sandbox = Sandbox::new();
    let (stubs, slow) = (Stubs::new(&sandbox), Held { sandbox: &sandbox });
    stubs.deploy(APP);
    stubs.says("app-undeploy", &slow.words());
    let mut janitor = stubs.janitor().spawn();
    let step = slow.expect(1, &janitor)[0];
    let worker = janitor.worker();
    janitor.signal(Signal::SIGKILL);
    kill(worker, Signal::SIGKILL).unwrap();
    janitor.expect_code(137);
    eventually(SOON, "the worker's end", || if alive(worker) { Err("alive") } else { Ok(()) });
    assert!(alive(step) && !sandbox.lock_is_free(), "the name came free under a command that works on it");
    slow.go();
    eventually(SOON, "the lock", || held(&sandbox.lock_path(APP)));
    stubs.says("app-undeploy", "");
    let out = stubs.janitor().output();
    assert!(out.text().contains(&format!("{APP}  reaped  ")), "{}", out.text());
    assert_eq!(stubs.left(APP), Vec::<String>::new());
}

/// A worker that was killed: its step is ended, and all of it runs once more; a second time it is failed.
/// Fails with the second try taken out, and with more than two.
#[test]
fn a_killed_worker_is_followed_by_one_more() {
    for kills in [1, 2] {
        let sandbox = Sandbox::new();
        let (apps, slow) = (Apps::new(&sandbox), Held { sandbox: &sandbox });
        apps.add(APP);
        let teardown = format!("{}; {}", slow.words(), apps.teardown());
        let mut janitor = apps.lister().teardown(teardown).spawn();
        for n in 1..=kills {
            let step = *slow.expect(n, &janitor).last().unwrap();
            kill(janitor.worker(), Signal::SIGKILL).unwrap();
            eventually(SOON, "the step's end", || if alive(step) { Err("alive") } else { Ok(()) });
        }
        janitor.expect_stderr("running it once more");
        if kills == 1 {
            slow.expect(2, &janitor);
            slow.go();
        }
        janitor.expect_code(if kills == 1 { 0 } else { 1 });
        let verdict = if kills == 1 { "reaped" } else { "failed" };
        assert!(whole(&janitor).contains(&format!("{APP}  {verdict}  ")), "{}", whole(&janitor));
        assert_eq!(fs::read_to_string(slow.begun()).unwrap().lines().count(), 2);
        assert_eq!((apps.has(APP), sandbox.lock_path(APP).exists()), (kills == 2, kills == 2));
        assert!(sandbox.lock_is_free());
        sandbox.expect_nothing_left();
    }
}

/// One killed worker is no matter of the others.
/// Fails with everything below the janitor ended.
#[test]
fn the_other_workers_go_on() {
    let sandbox = Sandbox::new();
    let (apps, slow) = (Apps::new(&sandbox), Held { sandbox: &sandbox });
    apps.add(APP);
    apps.add(OTHER);
    let teardown = format!("{}; {}", slow.words(), apps.teardown());
    let mut janitor = apps.lister().teardown(teardown).spawn();
    let steps = slow.expect(2, &janitor);
    let killed = janitor.worker();
    kill(killed, Signal::SIGKILL).unwrap();
    slow.expect(3, &janitor);
    assert_eq!(steps.iter().filter(|step| alive(**step)).count(), 1, "one of the two goes on");
    slow.go();
    janitor.expect_code(0);
    assert_eq!((apps.has(APP), apps.has(OTHER)), (false, false));
    assert_eq!(fs::read_to_string(slow.begun()).unwrap().lines().count(), 3);
}

/// Fails with the look for stopped workers taken out.
#[test]
fn a_stopped_worker_goes_on() {
    let sandbox = Sandbox::new();
    let (apps, slow) = (Apps::new(&sandbox), Held { sandbox: &sandbox });
    apps.add(APP);
    let mut janitor = apps.lister().teardown(format!("{}; {}", slow.words(), apps.teardown())).spawn();
    slow.expect(1, &janitor);
    kill(janitor.worker(), Signal::SIGSTOP).unwrap();
    slow.go();
    janitor.expect_code(0);
    assert!(whole(&janitor).contains(&format!("{APP}  reaped  ")), "{}", whole(&janitor));
}

/// As many as asked for work at a time, and no more; the lock of an app is taken when its turn comes.
/// Fails with all started at once, and with one after the other.
#[test]
fn so_many_at_a_time() {
    let sandbox = Sandbox::new();
    let (apps, slow) = (Apps::new(&sandbox), Held { sandbox: &sandbox });
    let names: Vec<String> = (0..5).map(|n| format!("a{n}-00000{n}.ci.example.net")).collect();
    names.iter().for_each(|name| apps.add(name));
    let log = sandbox.path("log");
    let (log, shown) = (log.clone(), log.display().to_string());
    // Two hang until they may go on; the others follow one by one in their places.
    let teardown = format!("echo + >>'{shown}'; {}; sleep 0.1; {}; echo - >>'{shown}'", slow.words(), apps.teardown());
    let mut janitor = apps.lister().teardown(teardown).args(["--jobs", "2"]).spawn();
    slow.expect(2, &janitor);
    let locked = names.iter().filter(|name| sandbox.lock_path(name).exists()).count();
    assert_eq!(locked, 2, "locks are taken before their turn");
    slow.go();
    janitor.expect_code(0);
    let mut most = 0;
    fs::read_to_string(&log).unwrap().lines().fold(0, |working, line| {
        let working = if line == "+" { working + 1 } else { working - 1 };
        most = most.max(working);
        working
    });
    assert_eq!(most, 2);
    assert!(names.iter().all(|name| !apps.has(name)));
    assert!(whole(&janitor).contains("5 apps: 5 reaped"), "{}", whole(&janitor));
}

/// At its limit a command is ended with all it started, TERM ignored or not.
/// Fails with only the command itself ended.
#[test]
fn a_command_that_hangs_ends_at_the_limit() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    apps.add(OTHER);
    let hang = "trap '' TERM; setsid sleep 100 & sleep 100";
    let teardown = format!("case $CCCI_TEARDOWN_APP in immi*) {hang};; esac; {}", apps.teardown());
    let janitor = apps.lister().teardown(teardown).args(["--teardown-timeout", "1s"]).spawn();
    let mut janitor = janitor;
    let exit = janitor.expect_code(1);
    within("the round", exit.after, Duration::from_millis(990)..SOON);
    assert!(whole(&janitor).contains(&format!("{APP}  failed  ")), "{}", whole(&janitor));
    assert!(whole(&janitor).contains(&format!("{OTHER}  reaped  ")), "{}", whole(&janitor));
    assert!(sandbox.lock_is_free());
    sandbox.expect_nothing_left();
}

/// What a teardown command leaves in the background is ended, and keeps neither lock nor output.
/// Fails with the sweep after a step left out.
#[test]
fn what_a_command_leaves_is_ended() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let out = apps.lister().teardown(format!("setsid sleep 100 & {}", apps.teardown())).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    within("the round", out.exit.after, ..SOON);
    sandbox.expect_nothing_left();
}

/// Who holds it is another janitor's worker: live, and said so, however long it takes.
/// Fails with the line of a janitor not told from a run's.
#[test]
fn another_janitor_at_work_is_named() {
    let sandbox = Sandbox::new();
    let (apps, slow) = (Apps::new(&sandbox), Held { sandbox: &sandbox });
    apps.add(APP);
    let teardown = format!("{}; {}", slow.words(), apps.teardown());
    let mut first = apps.lister().teardown(&teardown).spawn();
    slow.expect(1, &first);
    let second = apps.lister().teardown(&teardown).args(["--leaked-after", "1ms", "--fail-on-findings"]).output();
    assert_eq!(second.code(), 0, "{}", second.stderr);
    let text = second.text();
    let (_, pid) = text.split_once(&format!("{APP}  live  being torn down by pid ")).expect(&text);
    let pid = Pid::from_raw(pid.lines().next().unwrap().parse().expect("a pid alone"));
    assert!(first.tree().iter().any(|process| process.pid == pid && process.is_guard()), "{pid}: {:?}", first.tree());
    slow.go();
    first.expect_code(0);
}

/// On a terminal a long teardown is shown: the app, how long, and its limit. In a pipe nothing of it is.
/// Fails with the lines written whatever stderr is.
#[test]
fn progress_on_a_terminal_only() {
    let sandbox = Sandbox::new();
    let (apps, slow) = (Apps::new(&sandbox), Held { sandbox: &sandbox });
    apps.add(APP);
    let teardown = format!("{}; {}", slow.words(), apps.teardown());
    let list = apps.list_cmd();
    let argv = ["janitor", "--zone", "ci.example.net", "--list-cmd", &list, "--teardown", &teardown];
    let argv = [&[GUARD], &argv[..], &["--teardown-timeout", "5m"]].concat();
    let terminal = Pty::new();
    let mut janitor = terminal.spawn(&sandbox, &argv);
    let at = terminal.expect(0, &format!("tearing down {APP}: "));
    terminal.expect(at, "of 5m");
    // Drawn anew.
    terminal.expect(at, &format!("tearing down {APP}: "));
    slow.go();
    janitor.expect_code(0);
    terminal.expect(at, &format!("{APP}  reaped  "));

    fs::remove_file(sandbox.path("go")).unwrap();
    fs::remove_file(slow.begun()).unwrap();
    apps.add(APP);
    let mut janitor = apps.lister().teardown(&teardown).spawn();
    slow.expect(1, &janitor);
    // Longer than it takes on a terminal until the first lines are drawn.
    eventually(
        SOON,
        "time",
        || if janitor.started().elapsed() > Duration::from_millis(2500) { Ok(()) } else { Err("") },
    );
    slow.go();
    janitor.expect_code(0);
    assert_eq!(whole(&janitor).lines().count(), 2);
    assert!(!janitor.stderr().contains("tearing down"), "{:?}", janitor.stderr());
    assert!(!janitor.stderr().contains('\u{1b}'), "{:?}", janitor.stderr());
}
