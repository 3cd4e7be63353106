//! A run's own ABRA_DIR when guard processes are killed: whoever is left removes it, or keeps it where it is to be kept.
//! What nobody could remove is left as what it is: a dead run's, for gc.

use crate::dead_run::{cut_off, expect_gone, stop};
use crate::run_abra_dir::{abra_of, auto, end, run_ids, start};
use crate::run_abra_dir_ends::{Ground, NONE, expect_kept, with_recipe};
use crate::support::{Proc, Process, Random, SOON, eventually, fingerprint, rounds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

/// What a run stands at when one of its guards is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Running,
    Stopping,
    TearingDown,
}

/// Brings a run to that point; its harness ends by SIGTERM, late where it is to be caught while it stops.
/// The run in this phase, its monitor and its supervisor: looked for while there is time for it.
fn bring_to(ground: &Ground, phase: Phase) -> (Proc, Pid, Pid) {
    let late = "trap '' TERM; echo ready; sleep 60";
    let script = with_recipe(if phase == Phase::Stopping { late } else { "echo ready; exec sleep 60" });
    let teardown = ground.sandbox.teardown();
    let guard = ground.run().grace("1s").teardown(teardown.command_with("--sleep 1500"));
    let run = guard.sh(&script).spawn();
    run.ready();
    let (monitor, supervisor) = (run.monitor(), run.supervisor());
    if phase != Phase::Running {
        run.signal(Signal::SIGTERM);
    }
    match phase {
        Phase::Running => {}
        Phase::Stopping => run.expect_stderr("TERM"),
        Phase::TearingDown => {
            teardown.expect_start(0);
        }
    }
    (run, monitor, supervisor)
}

/// SIGKILL of one guard process, or of both while the worker runs: whoever is left removes it.
/// To see it fail: leave the removal to the supervisor, or to the monitor.
#[test]
fn whoever_is_left_removes_it() {
    use Phase::{Running, Stopping, TearingDown};
    let play = |phase: Phase, killed: &[&str]| {
        let ground = Ground::new();
        let (mut run, monitor, supervisor) = bring_to(&ground, phase);
        let worker = killed.contains(&"worker").then(|| run.worker());
        if killed.contains(&"supervisor") && killed.contains(&"monitor") {
            stop(monitor);
        }
        for name in killed {
            let pid = match *name {
                "monitor" => monitor,
                "supervisor" => supervisor,
                _ => worker.unwrap(),
            };
            kill(pid, Signal::SIGKILL).unwrap();
        }
        run.wait(SOON * 2);
        ground.expect_removed_soon(&format!("{phase:?}, killed: {killed:?}; {}", run.stderr()));
        ground.sandbox.expect_over(SOON);
    };
    std::thread::scope(|scope| {
        for phase in [Running, Stopping, TearingDown] {
            scope.spawn(move || play(phase, &["monitor"]));
            scope.spawn(move || play(phase, &["supervisor"]));
        }
        scope.spawn(|| play(TearingDown, &["worker"]));
        scope.spawn(|| play(TearingDown, &["supervisor", "monitor"]));
    });
}

/// A kept one is kept by whoever is left, too.
/// To see it fail: keep it by the supervisor's memory only.
#[test]
fn whoever_is_left_keeps_it() {
    for name in ["monitor", "supervisor"] {
        let ground = Ground::new();
        let guard = ground.run().arg("--keep-run-dir").teardown("true").sh(&with_recipe("echo ready; exec sleep 60"));
        let mut run = guard.spawn();
        run.ready();
        let pid = if name == "monitor" { run.monitor() } else { run.supervisor() };
        kill(pid, Signal::SIGKILL).unwrap();
        assert_eq!(run.wait(SOON * 2).code, 137);
        ground.sandbox.expect_over(SOON);
        expect_kept(&ground, &run.stderr(), name);
        assert_eq!(ground.gc(&[]), "", "{name}");
    }
    // With nobody left: it was to be kept all the same.
    let ground = Ground::new();
    let guard = ground.run().arg("--keep-run-dir").teardown("none").sh(&with_recipe("echo ready; exec sleep 60"));
    let run = guard.spawn();
    run.ready();
    cut_off(&run);
    assert_eq!(ground.gc(&[]), "", "all killed");
    assert!(abra_of(&ground.sandbox, "7").join("recipes/immich").is_dir());
}

/// Nobody is left: it stays, as a dead run's, and gc removes it; not what the harness has put beside it.
/// To see it fail: decide by the age, or remove the run's whole directory.
#[test]
fn what_nobody_could_remove_is_gc_s() {
    for results in [false, true] {
        let ground = Ground::new();
        let sandbox = &ground.sandbox;
        let result = sandbox.runs_dir().join("7/results.json");
        let write = if results { format!("echo 1 >'{}';", result.display()) } else { String::new() };
        let guard = ground.run().teardown("none").sh(&with_recipe(&format!("{write} echo ready; exec sleep 60")));
        let run = guard.spawn();
        run.ready();
        let abra = abra_of(sandbox, "7");
        // Beside it a live one: gc has to tell them apart.
        let (live, of_live) = start(auto(sandbox).args(["--run-id", "8"]));
        assert_eq!(ground.gc(&[]), "", "both live");
        cut_off(&run);
        assert!(abra.join("recipes/immich").is_dir());
        let line = format!("{}\n", abra.display());
        assert_eq!(ground.gc(&["--dry-run"]), line);
        assert!(abra.is_dir());
        assert_eq!(ground.gc(&[]), line);
        assert!(!abra.exists());
        assert!(of_live.join("recipes").is_dir() && of_live.join("servers/ci.example.net").is_dir());
        assert_eq!(result.exists(), results);
        assert_eq!(sandbox.runs_dir().join("7").exists(), results, "ours goes, the harness's stays");
        assert_eq!(ground.gc(&[]), "");
        end(live);
        assert_eq!(run_ids(sandbox), if results { vec!["7".to_owned()] } else { NONE });
        ground.before.expect_same(&fingerprint(ground.canonical.path()));
    }
}

/// A harness that outlives all of its guard, to tear down by itself, still has the app's lock, and its ABRA_DIR.
/// To see it fail: let gc ask the mark's lock alone.
#[test]
fn a_harness_that_outlives_its_guard_keeps_it() {
    let ground = Ground::new();
    let guard = ground.run().teardown("none").fixture("ignore-term");
    let run = guard.spawn();
    run.ready();
    let (monitor, supervisor, harness) = (run.monitor(), run.supervisor(), run.harness());
    stop(monitor);
    kill(supervisor, Signal::SIGKILL).unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    eventually(SOON, "the guards are dead", || {
        let tree: Vec<_> = run.tree().iter().map(|p| p.pid).collect();
        if tree == [harness] { Ok(()) } else { Err(format!("{tree:?}")) }
    });
    assert_eq!(ground.gc(&["--dry-run"]), "");
    assert_eq!(ground.gc(&[]), "");
    assert!(abra_of(&ground.sandbox, "7").join("recipes").is_dir());
    kill(harness, Signal::SIGKILL).unwrap();
    expect_gone(&run);
    assert_eq!(ground.gc(&[]), format!("{}\n", abra_of(&ground.sandbox, "7").display()));
    ground.expect_removed("after the harness");
}

/// With the state files beside it, as it is where nobody sets CCCI_STATE_DIR: both gc, in either order, leave nothing,
/// and not the run's directory.
/// To see it fail: remember in the mark alone that the directory is ours.
#[test]
fn both_gc_leave_nothing_of_a_dead_run() {
    for state_first in [true, false] {
        let ground = Ground::new();
        let guard = ground.run().env_remove("CCCI_STATE_DIR").teardown("none");
        let run = guard.sh(&with_recipe("echo ready; exec sleep 60")).spawn();
        run.ready();
        cut_off(&run);
        let state = || {
            let out = ground.sandbox.plain().args(["state", "gc"]).env_remove("CCCI_STATE_DIR").output();
            assert_eq!(out.code(), 0, "{}", out.stderr);
        };
        if state_first {
            state();
        }
        ground.gc(&[]);
        if !state_first {
            state();
        }
        ground.expect_removed(&format!("state first: {state_first}"));
    }
}

/// The same with the worker killed too, in the middle of the teardown: as long as it lives the run does. Without an
/// app, whose lock would tell, too.
/// To see it fail: let only monitor and supervisor hold the mark.
#[test]
fn a_lone_worker_keeps_the_run_alive() {
    let ground = Ground::new();
    let begun = ground.sandbox.path("begun");
    let guard = auto(&ground.sandbox).args(["--run-id", "7"]);
    let guard = guard.teardown(format!("echo $$ >'{}'; exec sleep 60", begun.display()));
    let run = guard.sh(&with_recipe("echo ready; exec sleep 60")).spawn();
    run.ready();
    run.signal(Signal::SIGTERM);
    eventually(SOON, "the teardown", || {
        fs::read_to_string(&begun)
            .map_err(|e| e.to_string())
            .and_then(|text| if text.ends_with('\n') { Ok(()) } else { Err(text) })
    });
    let (monitor, supervisor, worker) = (run.monitor(), run.supervisor(), run.worker());
    stop(monitor);
    kill(supervisor, Signal::SIGKILL).unwrap();
    kill(monitor, Signal::SIGKILL).unwrap();
    eventually(SOON, "both are dead", || {
        let guards: Vec<_> = run.tree().into_iter().filter(|p| p.is_guard() && p.pid != worker).collect();
        if guards.is_empty() { Ok(()) } else { Err(format!("{guards:?}")) }
    });
    assert_eq!(ground.gc(&[]), "", "the worker has it");
    assert!(abra_of(&ground.sandbox, "7").is_dir());
    stop(worker);
    kill(worker, Signal::SIGKILL).unwrap();
    for process in run.tree() {
        let _ = kill(process.pid, Signal::SIGKILL);
    }
    expect_gone(&run);
    assert_eq!(ground.gc(&[]), format!("{}\n", abra_of(&ground.sandbox, "7").display()));
    ground.expect_removed("after all three");
}

/// Any one guard process killed, or all of the run at once, at any moment from its start to its end: what is left is
/// never taken for a whole ABRA_DIR, the next run of the same id begins anew, gc leaves nothing, and the canonical one
/// is as it was.
/// To see it fail: build it in its place, or let gc look at whole ones only.
#[test]
fn killed_at_any_moment_nothing_is_left_for_long() {
    let mut random = Random::from_clock("a run killed");
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    for round in 0..rounds(150) {
        let run = || auto(sandbox).args(["--run-id", "7"]).sh(&with_recipe("exit 0"));
        let victim = run().spawn();
        std::thread::sleep(random.time_below(Duration::from_millis(60)));
        if random.below(2) == 0 {
            let guards: Vec<_> = victim.tree().into_iter().filter(Process::is_guard).collect();
            if let Some(one) = guards.get(random.below(guards.len() as u64) as usize) {
                let _ = kill(one.pid, Signal::SIGKILL);
            }
            eventually(SOON, "the end of the rest", || sandbox.nothing_left());
        }
        // On drop all of its processes are killed.
        drop(victim);
        if round % 2 == 0 {
            let out = run().output();
            assert_eq!(out.code(), 0, "round {round}: {}", out.stderr);
        }
        ground.gc(&[]);
        let left: Vec<_> = fingerprint(&sandbox.runs_dir()).paths().map(ToOwned::to_owned).collect();
        // One that was killed before it could write down that the directory is its own leaves that, empty.
        let most: [&[&str]; 2] = [&[""], &["", "7"]];
        let left: Vec<_> = left.iter().map(|path| path.to_str().unwrap()).collect();
        assert!(most.contains(&left.as_slice()), "round {round}: {left:?}");
        let _ = fs::remove_dir(sandbox.runs_dir().join("7"));
    }
    ground.before.expect_same(&fingerprint(ground.canonical.path()));
}

/// Collectors beside runs that begin and end: no run loses anything, at its start, while it works or at its end; no
/// collector takes one for dead, and none fails.
/// Seen failing with unfinished ones removed that had no mark yet: `cannot build the ABRA_DIR`.
#[test]
fn collecting_beside_runs_breaks_none() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    let go_on = sandbox.path("go-on");
    fs::write(&go_on, "").unwrap();
    let collector = format!(
        "while [ -e '{}' ]; do \"$G\" abra-dir gc >>collected || echo failed $?; echo round; done",
        go_on.display()
    );
    let mut collectors = [0, 1].map(|_| sandbox.shell(&collector));
    for collector in &collectors {
        collector.expect_line("round");
    }
    for round in 0..rounds(100) {
        let script = "[ -d \"$ABRA_DIR/servers/ci.example.net\" ] && mkdir \"$ABRA_DIR/recipes/x\" && \
                      [ \"$(ls -A \"$ABRA_DIR/recipes\")\" = x ] && [ -f \"$ABRA_DIR/.ccci-guard/mark\" ]";
        let mut runs = [
            auto(sandbox).args(["--run-id", "same"]).sh(script).spawn(),
            auto(sandbox).args(["--run-id", &format!("r{round}")]).sh(script).spawn(),
        ];
        for run in &mut runs {
            let code = run.code();
            assert_eq!((code, run.stderr().as_str()), (0, ""), "round {round}");
        }
    }
    fs::remove_file(&go_on).unwrap();
    for collector in &mut collectors {
        collector.expect_code(0);
        assert!(!collector.stdout().contains("failed"), "{}", collector.stderr());
        assert_eq!(collector.stderr(), "");
    }
    let collected = fs::read_to_string(sandbox.path("work/collected")).unwrap();
    assert_eq!(collected, "", "no run was dead");
    ground.expect_removed("after all");
}
