//! What `gc` and the janitor take away, what they leave, and that they are in nobody's way.

use super::stage::{abra_dir, below, dead_run, expect, kept_run, live_run};
use super::{RECIPE, lines};
use crate::support::stubs::Stubs;
use crate::support::{Canonical, Sandbox, fingerprint, rounds};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Results, an `abra` without our mark and other people's directories: remove, gc and janitor leave them.
/// Seen failing with the mark not looked at.
#[test]
fn what_has_no_mark_survives_everything() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let runs = sandbox.runs_dir();
    fs::create_dir_all(runs.join("1187/abra/recipes/nextcloud")).unwrap();
    symlink(canonical.servers(), runs.join("1187/abra/servers")).unwrap();
    fs::write(runs.join("1187/results.json"), "{}").unwrap();
    fs::create_dir_all(runs.join("1188/abra/.ccci-guard")).unwrap();
    fs::create_dir_all(runs.join("1189/.ccci-guard-abra")).unwrap();
    fs::create_dir_all(runs.join("1189/ccci-guard-abra-1")).unwrap();
    fs::write(runs.join("1190"), "no directory").unwrap();
    fs::create_dir_all(runs.join("not an id/abra")).unwrap();
    let (before, kept) = (below(&runs), fingerprint(canonical.path()));
    for id in ["1187", "1188"] {
        expect(&sandbox, 66, &["path", id]);
        expect(&sandbox, 66, &["env", id]);
        expect(&sandbox, 73, &["create", "--run-id", id]);
        let out = expect(&sandbox, 1, &["remove", id]);
        assert_eq!(out.stderr.lines().count(), 1, "{}", out.stderr);
    }
    for options in [&["gc"][..], &["gc", "--kept"], &["gc", "--dry-run"], &["list"]] {
        assert_eq!(expect(&sandbox, 0, options).text(), "", "{options:?}");
    }
    kept.expect_same(&fingerprint(canonical.path()));
    // The app in there is an orphan, which the janitor does reap.
    let out = Stubs::new(&sandbox).janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert_eq!(below(&runs), before);
}

/// Only a run's death makes its ABRA_DIR rubbish, and at once: not the age of anything.
/// Seen failing with `create`'s, a kept one or a live run's taken for a dead run's, and with a dry run that removes.
#[test]
fn gc_asks_who_lives_and_never_how_old() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let runs = sandbox.runs_dir();
    let live = live_run(&sandbox, "live");
    let kept = kept_run(&sandbox, "kept");
    expect(&sandbox, 0, &["create", "--run-id", "manual"]);
    let old = sandbox.shell(&format!("find '{}' -exec touch -h -d '1 year ago' {{}} +", runs.display()));
    { old }.expect_code(0);
    let before = below(&runs);
    for options in [&["gc"][..], &["gc", "--dry-run"]] {
        let out = expect(&sandbox, 0, options);
        assert_eq!((out.text().as_str(), out.stderr.as_str()), ("", ""));
        assert_eq!(below(&runs), before);
    }
    let dead = dead_run(&sandbox, "dead");
    fs::write(runs.join("dead/results.json"), "{}").unwrap();
    assert_eq!(lines(&expect(&sandbox, 0, &["gc", "--dry-run"])), [dead.to_str().unwrap()]);
    assert!(dead.join("servers").is_symlink(), "a dry run removes nothing");
    assert_eq!(lines(&expect(&sandbox, 0, &["gc"])), [dead.to_str().unwrap()]);
    assert!(!dead.exists() && runs.join("dead/results.json").exists());
    assert_eq!(lines(&expect(&sandbox, 0, &["gc", "--kept", "--dry-run"])), [kept.to_str().unwrap()]);
    assert!(kept.exists());
    assert_eq!(lines(&expect(&sandbox, 0, &["gc", "--kept"])), [kept.to_str().unwrap()]);
    assert!(!runs.join("kept").exists(), "made by us, removed by us");
    for id in ["live", "manual"] {
        expect(&sandbox, 0, &["verify", id]);
    }
    drop(live);
}

/// The janitor's round ends with the same, and says so in a line for each; what it may not touch is as above.
/// Seen failing with `create`'s, kept ones and live ones taken too.
#[test]
fn the_janitor_removes_dead_ones_only() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let stubs = Stubs::new(&sandbox);
    let _live = live_run(&sandbox, "live");
    let kept = kept_run(&sandbox, "kept");
    expect(&sandbox, 0, &["create", "--run-id", "manual"]);
    let dead = dead_run(&sandbox, "dead");
    fs::write(sandbox.runs_dir().join("dead/results.json"), "{}").unwrap();
    let before = (below(&sandbox.runs_dir()), below(&sandbox.state_dir()));
    let out = stubs.janitor().arg("--dry-run").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert_eq!((below(&sandbox.runs_dir()), below(&sandbox.state_dir())), before);
    let out = stubs.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let line = format!("removed the ABRA_DIR of run dead, which is dead: {}", dead.display());
    assert_eq!(out.stderr.lines().filter(|l| l.contains("ABRA_DIR")).count(), 1, "{}", out.stderr);
    assert!(out.stderr.contains(&line), "{}", out.stderr);
    assert!(!dead.exists() && sandbox.runs_dir().join("dead/results.json").exists());
    assert!(kept.exists());
    for id in ["live", "manual"] {
        expect(&sandbox, 0, &["verify", id]);
    }
}

/// Two gc in a loop beside others' making and removing: nobody ever loses what is half-built to them.
/// Seen failing with a builder that doesn't lock its directory before it marks it, and with one that gives up when the
/// directory was cleared away before that.
#[test]
fn gc_takes_nothing_from_those_that_build() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    canonical.add_recipe(RECIPE);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let collectors = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut rounds = 0;
                while !over.load(Ordering::Relaxed) {
                    let out = abra_dir(&sandbox, ["gc"]);
                    // One that has its directory, and not yet its mark, begins again.
                    let whole = out.text().lines().any(|line| line.ends_with("/abra"));
                    if out.code() != 0 || whole {
                        return Err(format!("gc: {}: {}{}", out.code(), out.text(), out.stderr));
                    }
                    rounds += 1;
                }
                Ok(rounds)
            })
        });
        let makers = ["a", "b"].map(|id| {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..rounds(100) {
                    let recipe = ["--recipe", RECIPE];
                    let with = if round % 4 == 0 { &recipe[..] } else { &[] };
                    expect(sandbox, 0, &[&["create", "--run-id", id], with].concat());
                    expect(sandbox, 0, &["verify", id]);
                    expect(sandbox, 0, &["remove", id]);
                    let run = format!("{id}-run");
                    let run = sandbox.run().args(["--run-id", &run, "--abra-dir", "auto"]);
                    let out = run.sh("test -d \"$ABRA_DIR\"/recipes && test -d \"$ABRA_DIR\"/servers/").output();
                    assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
                }
            })
        });
        let made = makers.map(thread::ScopedJoinHandle::join);
        over.store(true, Ordering::Relaxed);
        for collector in collectors {
            assert!(collector.join().unwrap().unwrap() > 0);
        }
        assert!(made.iter().all(Result::is_ok), "see above");
    });
    assert_eq!(below(&sandbox.runs_dir()), [""; 0]);
}

/// Dead ones, many gc at once: each is removed and told by one of them, and none finds a fault.
/// Seen failing with a directory that is gone meanwhile taken for one that can't be removed.
#[test]
fn many_gc_at_once_share_the_work() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let mut dead: Vec<_> = (0..4).map(|n| dead_run(&sandbox, &format!("dead-{n}"))).collect();
    dead.sort();
    for path in &dead {
        for n in 0..50 {
            fs::create_dir_all(path.join(format!("recipes/r{n}/.git/objects"))).unwrap();
        }
    }
    let outs: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| abra_dir(&sandbox, ["gc"]))).collect();
        all.into_iter().map(|gc| gc.join().unwrap()).collect()
    });
    let mut told: Vec<_> = outs.iter().flat_map(lines).collect();
    told.sort();
    for out in &outs {
        assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    }
    assert_eq!(told, dead.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>());
    assert_eq!(below(&sandbox.runs_dir()), [""; 0]);
}

/// Of many that want one id one gets it, whole, and the others 73, with nothing left of their own.
/// Seen failing with a rename that may replace (`Directory not empty`, status 1).
#[test]
fn one_of_many_create_gets_the_id() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    for round in 0..rounds(50) {
        let mut codes: Vec<_> = thread::scope(|scope| {
            let all: Vec<_> =
                (0..4).map(|_| scope.spawn(|| abra_dir(&sandbox, ["create", "--run-id", "same"]).code())).collect();
            all.into_iter().map(|create| create.join().unwrap()).collect()
        });
        codes.sort_unstable();
        assert_eq!(codes, [0, 73, 73, 73], "round {round}");
        expect(&sandbox, 0, &["verify", "same"]);
        let others: Vec<_> = below(&sandbox.runs_dir()).into_iter().filter(|p| !p.starts_with("same/abra")).collect();
        assert_eq!(others, ["same"], "round {round}");
        expect(&sandbox, 0, &["remove", "same"]);
        // Empty, where it was made by one of the others: the winner's mark doesn't say that it is ours.
        let _ = fs::remove_dir(sandbox.runs_dir().join("same"));
        assert_eq!(below(&sandbox.runs_dir()), [""; 0], "round {round}");
    }
}

/// Many make and remove one id, so that `<run id>` comes and goes under each other's feet: every command comes to its
/// end, and its status is true at some moment (1: a `create` is just about to let go of it).
/// Seen failing with `<run id>` removed with all that is in it; fails with a build that goes on in a removed one.
#[test]
fn create_and_remove_of_one_id_by_many() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let made = AtomicUsize::new(0);
    let play = |args: &[&str], allowed: &[i32]| {
        let out = abra_dir(&sandbox, args);
        assert!(allowed.contains(&out.code()), "{args:?}: {}: {}", out.code(), out.stderr);
        out.code() == 0
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..rounds(100) {
                    let ours = play(&["create", "--run-id", "same"], &[0, 73]);
                    made.fetch_add(usize::from(ours), Ordering::Relaxed);
                    play(&["remove", "same"], &[0, 1, 66]);
                }
            });
        }
    });
    assert!(made.into_inner() > 0);
    let left = below(&sandbox.runs_dir());
    assert!(left.is_empty() || left == ["same"], "{left:?}");
}

/// Who only looks takes the mark's lock for a moment: another's look says the same as without, and a `remove` that
/// says 0 has removed.
/// Seen failing with looks that take the lock exclusively: a dead one was told as alive, and gc left it out.
#[test]
fn looks_disturb_nobody() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let _live = live_run(&sandbox, "live");
    let dead = dead_run(&sandbox, "dead");
    let dead = dead.to_str().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let lookers = [(); 3].map(|()| {
            scope.spawn(|| {
                let mut wrong = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let told = abra_dir(&sandbox, ["list"]).text();
                    if !told.contains("live  alive  ") || !told.contains("dead  dead  ") {
                        wrong.push(told);
                    }
                    let told = abra_dir(&sandbox, ["gc", "--dry-run"]).text();
                    if told.lines().filter(|line| line.ends_with("/abra")).collect::<Vec<_>>() != [dead] {
                        wrong.push(told);
                    }
                }
                wrong
            })
        });
        let removals: Vec<_> = (0..rounds(200))
            .filter(|_| {
                expect(&sandbox, 0, &["create", "--run-id", "manual"]);
                expect(&sandbox, 0, &["remove", "manual"]);
                sandbox.runs_dir().join("manual/abra").exists() && abra_dir(&sandbox, ["remove", "manual"]).code() == 0
            })
            .collect();
        over.store(true, Ordering::Relaxed);
        let wrong = lookers.map(|looker| looker.join().unwrap()).concat();
        assert!(removals.is_empty() && wrong.is_empty(), "not removed in rounds {removals:?}; told wrong: {wrong:?}");
    });
}
