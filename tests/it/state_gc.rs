//! `ccci-guard state gc`: the files of runs that are dead go, whatever the age; those of live ones never.

use crate::dead_run::cut_off;
use crate::support::{Guard, Output, Proc, SOON, Sandbox, eventually, rounds};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where the files of a run can be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// `CCCI_STATE_DIR`.
    Given,
    /// The run's directory.
    Runs,
    /// A private directory below `XDG_RUNTIME_DIR`.
    Private,
}

const PLACES: [Place; 3] = [Place::Given, Place::Runs, Place::Private];

impl Place {
    fn of<'a>(self, sandbox: &Sandbox, guard: Guard<'a>) -> Guard<'a> {
        let runtime = sandbox.path("runtime");
        fs::create_dir_all(&runtime).unwrap();
        let guard = guard.env("XDG_RUNTIME_DIR", runtime);
        match self {
            Place::Given => guard,
            Place::Runs => guard.env_remove("CCCI_STATE_DIR"),
            Place::Private => guard.env_remove("CCCI_STATE_DIR").env("CCCI_RUNS_DIR", "/proc/no-such-place"),
        }
    }

    fn directory(self, sandbox: &Sandbox) -> PathBuf {
        match self {
            Place::Given => sandbox.state_dir(),
            Place::Runs => sandbox.runs_dir(),
            Place::Private => sandbox.path("runtime"),
        }
    }
}

/// A harness that has its files, one of its own making among them.
const HARNESS: &str = "echo file $CCCI_DEPLOY_COUNT_FILE; : >$CCCI_OP_STATE_FILE; echo ready; exec sleep 60";

/// Starts it; gives the files that are there.
#[track_caller]
fn start(guard: Guard<'_>, id: &str) -> (Proc, Vec<PathBuf>) {
    let run = guard.args(["--run-id", id]).sh(HARNESS).spawn();
    let deploys = run.expect_line("file ");
    run.ready();
    let files =
        ["deploys", "apps", "opstate"].map(|kind| PathBuf::from(deploys.replace(".deploys", &format!(".{kind}"))));
    expect_there(&files);
    (run, files.to_vec())
}

#[track_caller]
fn dead(guard: Guard<'_>, id: &str) -> Vec<PathBuf> {
    let (run, files) = start(guard, id);
    cut_off(&run);
    expect_there(&files);
    files
}

fn by_hand(guard: Guard<'_>, id: &str) -> Vec<PathBuf> {
    let out = guard.args(["state", "init", "--run-id", id, "--pid", "4242"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = out.text();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        PathBuf::from(line.split('\'').nth(1).unwrap())
    };
    let files = vec![of("CCCI_DEPLOY_COUNT_FILE"), of("CCCI_RUN_APPS_FILE")];
    expect_there(&files);
    files
}

#[track_caller]
fn expect_there(files: &[PathBuf]) {
    for file in files {
        assert!(file.is_file(), "{} is gone", file.display());
    }
}

#[track_caller]
fn expect_gone(files: &[PathBuf]) {
    for file in files {
        assert!(file.symlink_metadata().is_err(), "{} is there", file.display());
    }
}

/// `state gc`, seeing all three places.
#[track_caller]
fn gc(sandbox: &Sandbox, args: &[&str]) -> Output {
    let guard = sandbox.plain().args(["state", "gc"]).args(args).env("XDG_RUNTIME_DIR", sandbox.path("runtime"));
    let out = guard.output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    out
}

fn lines(out: &Output) -> Vec<PathBuf> {
    out.text().lines().map(PathBuf::from).collect()
}

/// In each of the three places a dead run, a live one and one made by hand: the dead one's files go.
/// To see it fail: look into one place only, decide by age or by the pid, or leave out what the harness made.
#[test]
fn a_dead_run_s_files_go_and_no_others() {
    let sandbox = Sandbox::new();
    let (mut gone, mut stay, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for place in PLACES {
        let of = |guard| place.of(&sandbox, guard);
        let of_dead = dead(of(sandbox.run()), &format!("dead-{place:?}"));
        let (run, of_live) = start(of(sandbox.run()), &format!("live-{place:?}"));
        let made = by_hand(of(sandbox.plain()), &format!("hand-{place:?}"));
        for file in [&of_dead, &of_live, &made].into_iter().flatten() {
            assert!(file.starts_with(place.directory(&sandbox)), "{place:?}: {file:?}");
        }
        runs.push(run);
        gone.extend(of_dead);
        stay.extend(of_live.into_iter().chain(made));
    }
    let would = lines(&gc(&sandbox, &["--dry-run"]));
    expect_there(&gone);
    let did = lines(&gc(&sandbox, &[]));
    for said in [&would, &did] {
        assert!(gone.iter().all(|file| said.contains(file)), "{said:#?} does not have all of {gone:#?}");
        assert!(stay.iter().all(|file| !said.contains(file)), "{said:#?} has some of {stay:#?}");
        assert!(said.iter().all(|file| !file.to_string_lossy().contains("live-")), "{said:#?}");
    }
    expect_gone(&gone);
    expect_there(&stay);
    assert!(!sandbox.state_dir().join("dead-Given").exists(), "the run's own directory");
    assert!(!sandbox.runs_dir().join("dead-Runs/ccci-guard").exists(), "our directory in the run's");
    // Once more: there is nothing to do, and the live ones end as they should.
    let again = lines(&gc(&sandbox, &[]));
    assert!(again.iter().all(|file| !file.starts_with(sandbox.path(""))), "{again:?}");
    for mut run in runs {
        run.signal(Signal::SIGTERM);
        run.expect_code(143);
    }
}

/// Two guards may share an id; as long as one of them lives, all files of that id are a live run's.
/// To see it fail: ask the file `owner` alone.
#[test]
fn of_two_that_share_an_id_one_is_enough() {
    for place in PLACES {
        let sandbox = Sandbox::new();
        let (first, of_first) = start(place.of(&sandbox, sandbox.run()), "same");
        let (mut second, of_second) = start(place.of(&sandbox, sandbox.run()), "same");
        cut_off(&first);
        gc(&sandbox, &[]);
        expect_there(&of_second);
        second.signal(Signal::SIGTERM);
        second.expect_code(143);
        expect_gone(&of_second);
        gc(&sandbox, &[]);
        expect_gone(&of_first);
    }
}

/// A nested guard's, while outer and inner live.
/// To see it fail: ask the file `owner` alone after the outer guard's claim has another place.
#[test]
fn a_nested_guard_s_files_stay() {
    for place in PLACES {
        let sandbox = Sandbox::new();
        let inner = sandbox.run().sh(HARNESS).line();
        let outer = place.of(&sandbox, sandbox.run()).args(["--run-id", "r1"]);
        let outer = outer.sh(&format!("echo outer $CCCI_DEPLOY_COUNT_FILE; {inner}")).spawn();
        let of_outer = PathBuf::from(outer.expect_line("outer "));
        let of_inner = PathBuf::from(outer.expect_line("file "));
        outer.ready();
        assert_ne!(of_outer, of_inner);
        gc(&sandbox, &[]);
        expect_there(&[of_outer, of_inner]);
    }
}

/// With `exec` there is no guard to clean up: the harness itself keeps its files alive, and gc takes them after.
/// To see it fail: close the owner file at the exec, or leave it out of what gc looks at.
#[test]
fn an_exec_harness_s_files_stay_until_it_ends() {
    for place in PLACES {
        let sandbox = Sandbox::new();
        let (mut run, files) = start(place.of(&sandbox, sandbox.exec()), "r1");
        gc(&sandbox, &[]);
        expect_there(&files);
        run.signal(Signal::SIGKILL);
        run.expect_code(137);
        expect_there(&files);
        let said = lines(&gc(&sandbox, &[]));
        expect_gone(&files);
        assert!(files.iter().all(|file| said.contains(file)), "{said:?}");
    }
}

/// What was made by hand is its maker's to remove, one process's at a time; a live run's is nobody's.
/// To see it fail: take `--run-id` for the whole run, or don't ask whether it lives.
#[test]
fn what_was_made_by_hand_goes_by_name() {
    for place in PLACES {
        let sandbox = Sandbox::new();
        let files = by_hand(place.of(&sandbox, sandbox.plain()), "r1");
        let other = place.of(&sandbox, sandbox.plain());
        let other = other.args(["state", "init", "--run-id", "r1", "--pid", "42"]).output();
        assert_eq!(other.code(), 0, "{}", other.stderr);
        let other: Vec<PathBuf> =
            files.iter().map(|file| PathBuf::from(file.to_str().unwrap().replace("4242.", "42."))).collect();
        expect_there(&other);
        let by_name = |id: &str, pid: &str| {
            let guard = place.of(&sandbox, sandbox.plain());
            guard.args(["state", "gc", "--run-id", id, "--pid", pid]).output()
        };
        let out = by_name("r1", "4242");
        assert_eq!(out.code(), 0, "{place:?}: {}", out.stderr);
        assert!(files.iter().all(|file| lines(&out).contains(file)), "{place:?}: {}", out.text());
        expect_gone(&files);
        expect_there(&other);

        let (mut run, of_run) = start(place.of(&sandbox, sandbox.run()), "r2");
        let out = by_name("r2", &run.harness().to_string());
        assert_eq!((out.code(), out.text().as_str()), (1, ""), "{place:?}: {}", out.stderr);
        expect_there(&of_run);
        run.signal(Signal::SIGTERM);
        run.expect_code(143);
    }
}

/// In the private directory the names of all runs stand side by side, and ids may have dots in them.
/// To see it fail: take all files for a run's that begin with its id and a dot.
#[test]
fn an_id_with_a_dot_is_an_id_of_its_own() {
    for (living, other) in [("r", "r.1"), ("r.1", "r"), ("r.owner", "r"), ("r", "r.owner")] {
        let sandbox = Sandbox::new();
        let private = |guard| Place::Private.of(&sandbox, guard);
        let (_run, of_living) = start(private(sandbox.run()), living);
        let of_dead = dead(private(sandbox.run()), other);
        gc(&sandbox, &[]);
        expect_there(&of_living);
        expect_gone(&of_dead);
    }
}

/// Nothing but what a guard makes is removed, and no symlink leads anywhere else.
/// To see it fail: remove all that is in the run's directory, or read directories through symlinks.
#[test]
fn nothing_else_is_removed() {
    let sandbox = Sandbox::new();
    let given = dead(sandbox.run(), "r1");
    let in_runs = dead(Place::Runs.of(&sandbox, sandbox.run()), "r1");
    let beside = |file: &Path, name: &str| file.with_file_name(name);
    let foreign = [
        sandbox.runs_dir().join("r1/results.json"),
        beside(&in_runs[0], "notes"),
        beside(&given[0], "notes"),
        beside(&given[0], "x.deploys"),
        sandbox.state_dir().join("deploys"),
    ];
    for file in &foreign {
        fs::write(file, "theirs\n").unwrap();
    }
    let elsewhere = sandbox.path("elsewhere");
    fs::create_dir_all(elsewhere.join("ccci-guard")).unwrap();
    let out_there = ["owner", "7.deploys", "ccci-guard/owner", "ccci-guard/7.deploys"].map(|name| elsewhere.join(name));
    for file in &out_there {
        fs::write(file, "").unwrap();
    }
    symlink(&elsewhere, sandbox.state_dir().join("linked")).unwrap();
    symlink(&elsewhere, sandbox.runs_dir().join("linked")).unwrap();
    fs::create_dir(sandbox.runs_dir().join("half")).unwrap();
    symlink(&elsewhere, sandbox.runs_dir().join("half/ccci-guard")).unwrap();
    gc(&sandbox, &[]);
    expect_gone(&given);
    expect_gone(&in_runs);
    expect_there(&foreign);
    expect_there(&out_there);
}

/// Collectors beside runs that begin and end: no run misses a file, no collector fails.
/// To see it fail: collect without taking the owner file's lock first.
#[test]
fn collecting_beside_starting_runs_breaks_none() {
    let sandbox = Sandbox::new();
    let go_on = sandbox.path("go-on");
    fs::write(&go_on, "").unwrap();
    let collector = format!(
        "while [ -e '{}' ]; do \"$G\" state gc >/dev/null || echo collector $?; echo round; done",
        go_on.display()
    );
    let mut collectors = [0, 1].map(|_| sandbox.shell(&collector));
    for collector in &collectors {
        collector.expect_line("round");
    }
    let script = "[ -f \"$CCCI_RUN_APPS_FILE\" ] && \"$G\" state record-deploy d && [ \"$(wc -l <\"$CCCI_DEPLOY_COUNT_FILE\")\" = 1 ]";
    let begin = |place: Place, id: &str| place.of(&sandbox, sandbox.run()).args(["--run-id", id]).sh(script).spawn();
    for round in 0..rounds(100) {
        let ids = ["same".to_owned(), format!("r{round}")];
        let started: Vec<Proc> = [Place::Given, Place::Runs]
            .into_iter()
            .flat_map(|place| ids.iter().map(move |id| (place, id)))
            .map(|(place, id)| begin(place, id))
            .collect();
        for mut run in started {
            let code = run.wait(SOON * 2).code;
            assert_eq!(code, 0, "round {round}: {}", run.stderr());
        }
    }
    fs::remove_file(&go_on).unwrap();
    for collector in &mut collectors {
        collector.expect_code(0);
        assert!(!collector.stdout().contains("collector"), "{}", collector.stderr());
    }
    eventually(SOON, "no state is left", || {
        let left = fs::read_dir(sandbox.state_dir()).unwrap().flatten().map(|e| e.path());
        let left: Vec<_> = left.chain(fs::read_dir(sandbox.runs_dir()).unwrap().flatten().map(|e| e.path())).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
