//! At the end of a round the janitor also does what `abra-dir gc` and `state gc` do.

use crate::dead_run::cut_off;
use crate::run_abra_dir::{abra_of, auto, run_ids, start};
use crate::support::{APP, Apps, Canonical, Guard, Output, Sandbox, fingerprint, need};
use std::fs;
use std::path::PathBuf;

/// A dead run's ABRA_DIR and its state files.
struct Dead {
    abra: PathBuf,
    state: Vec<PathBuf>,
}

impl Dead {
    #[track_caller]
    fn new(sandbox: &Sandbox, id: &str) -> Self {
        let script = "echo abra $ABRA_DIR; echo state $CCCI_DEPLOY_COUNT_FILE; echo ready; exec sleep 60";
        let run = auto(sandbox).args(["--run-id", id]).sh(script).spawn();
        let abra = PathBuf::from(run.expect_line("abra "));
        let deploys = run.expect_line("state ");
        run.ready();
        cut_off(&run);
        let state = vec![PathBuf::from(deploys.replace(".deploys", ".apps")), PathBuf::from(deploys)];
        let dead = Self { abra, state };
        dead.expect_there("it was cut off");
        dead
    }

    #[track_caller]
    fn expect_there(&self, what: &str) {
        assert!(self.abra.join("recipes").is_dir(), "{what}: {}", self.abra.display());
        assert!(self.state.iter().all(|file| file.is_file()), "{what}: {:?}", self.state);
    }

    #[track_caller]
    fn expect_gone(&self, out: &Output) {
        assert!(!self.abra.exists(), "{}", out.stderr);
        assert!(self.state.iter().all(|file| !file.exists()), "{:?}: {}", self.state, out.stderr);
    }
}

/// A round of a janitor with nothing to reap.
fn janitor(sandbox: &Sandbox) -> Guard<'_> {
    Apps::new(sandbox).janitor()
}

/// Dead ones go and are told of; a live run's stay, and kept, foreign and self-made ones, and results.
/// To see it fail: leave either gc out of the round, or ask for the age.
#[test]
fn a_round_removes_what_dead_runs_left() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let before = fingerprint(canonical.path());
    let (live, of_live) = start(auto(&sandbox).args(["--run-id", "live"]));
    let dead = Dead::new(&sandbox, "dead");
    let with_results = Dead::new(&sandbox, "results");
    let results = sandbox.runs_dir().join("results/results.json");
    fs::write(&results, "{}").unwrap();
    let kept = auto(&sandbox).args(["--run-id", "kept", "--keep-run-dir"]).harness(["true"]).output();
    assert_eq!(kept.code(), 0, "{}", kept.stderr);
    let foreign = abra_of(&sandbox, "foreign");
    fs::create_dir_all(foreign.join("recipes")).unwrap();
    for made in [&["abra-dir", "create", "--run-id", "made"][..], &["state", "init", "--run-id", "made", "--pid", "7"]]
    {
        let out = sandbox.plain().args(made).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
    }

    let out = janitor(&sandbox).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert_eq!(out.text(), "0 apps: nothing to do\n", "stdout is the report of apps");
    for gone in [&dead, &with_results] {
        gone.expect_gone(&out);
        assert!(out.stderr.contains(gone.abra.to_str().unwrap()), "told: {}", out.stderr);
    }
    let line = format!("removed the ABRA_DIR of run dead, which is dead: {}", dead.abra.display());
    assert!(out.stderr.contains(&line), "{line:?} is not in {}", out.stderr);
    assert!(!sandbox.runs_dir().join("dead").exists());
    assert!(results.is_file());
    for stays in [&of_live, &abra_of(&sandbox, "kept"), &foreign, &abra_of(&sandbox, "made")] {
        assert!(stays.join("recipes").is_dir(), "{}: {}", stays.display(), out.stderr);
    }
    let made = sandbox.plain().args(["state", "show", "--run-id", "made", "--pid", "7"]).output();
    assert_eq!(made.code(), 0, "{}", made.stderr);
    // The live one has its state, too.
    let harness = live.harness().to_string();
    let shown = sandbox.plain().args(["state", "show", "--run-id", "live", "--pid", &harness]).output();
    assert_eq!(shown.code(), 0, "{}", shown.stderr);
    assert_eq!(run_ids(&sandbox), ["foreign", "kept", "live", "made", "results"]);
    before.expect_same(&fingerprint(canonical.path()));
    // The next round has nothing to do.
    let out = janitor(&sandbox).output();
    assert_eq!(out.code(), 0);
    assert!(!out.stderr.contains("removed"), "{}", out.stderr);
}

/// A round that may touch nothing, and one that could not see what there is, remove nothing here either.
/// To see it fail: collect before the lists are had, or without a look at `--dry-run`.
#[test]
fn not_with_dry_run_and_not_after_a_list_that_failed() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let dead = Dead::new(&sandbox, "dead");
    let apps = Apps::new(&sandbox);
    let out = apps.janitor().arg("--dry-run").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    dead.expect_there("--dry-run");
    for list in ["exit 3", "printf 'a\\0b\\n'"] {
        let janitor = sandbox.plain().args(["janitor", "--zone", "ci.example.net", "--list-cmd", list]);
        let out = janitor.teardown("true").output();
        assert_eq!(out.code(), 69, "{}", out.stderr);
        dead.expect_there("69");
    }
    let out = sandbox.plain().args(["janitor", "--list-cmd", "true", "--teardown", "true"]).output();
    assert_eq!(out.code(), 2, "no allow-list; {}", out.stderr);
    dead.expect_there("2");
    let out = apps.janitor().output();
    dead.expect_gone(&out);
}

/// One app that can't be reaped does not keep the rest of the round from its end.
/// To see it fail: return as soon as the counts are bad.
#[test]
fn a_round_that_failed_with_an_app_does_it_all_the_same() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let dead = Dead::new(&sandbox, "dead");
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let out = apps.lister().teardown("exit 5").output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    dead.expect_gone(&out);
    // And beside an app that is reaped, whose run's were these.
    let dead = Dead::new(&sandbox, "dead");
    let out = apps.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(!apps.has(APP));
    dead.expect_gone(&out);
}

/// Where to look is told by flags or variables; a place that is not there is no fault.
/// To see it fail: look at the default places only.
#[test]
fn it_looks_where_it_is_told() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let dead = Dead::new(&sandbox, "dead");
    let elsewhere = sandbox.path("elsewhere");
    let empty = janitor(&sandbox).env("CCCI_RUNS_DIR", &elsewhere).env("CCCI_STATE_DIR", &elsewhere);
    let out = empty.output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(!out.stderr.contains("warning") && !elsewhere.exists(), "{}", out.stderr);
    dead.expect_there("it looked elsewhere");
    let told = janitor(&sandbox).env("CCCI_RUNS_DIR", &elsewhere).arg("--runs-dir").arg(sandbox.runs_dir());
    let out = told.output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    dead.expect_gone(&out);
}

/// What can't be removed is a warning, and the rest is removed; the status is that of the apps.
/// To see it fail: hand the error of gc on.
#[test]
fn what_can_t_be_removed_is_a_warning() {
    if !need("root, to mount something", nix::unistd::geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let before = fingerprint(canonical.path());
    let stuck = Dead::new(&sandbox, "a-stuck");
    let dead = Dead::new(&sandbox, "dead");
    let below = stuck.abra.join("recipes/mounted");
    fs::create_dir(&below).unwrap();
    // In a mount namespace of its own: nothing of it is left to unmount.
    let script = format!("mount --bind '{}' '{}' && exec \"$@\"", canonical.servers().display(), below.display());
    let out = janitor(&sandbox).under(["unshare", "-m", "sh", "-c", &script, "sh"]).output();
    assert_eq!((out.code(), out.text().as_str()), (0, "0 apps: nothing to do\n"), "{}", out.stderr);
    let warned = out.stderr.lines().any(|line| line.contains("warning") && line.contains(stuck.abra.to_str().unwrap()));
    assert!(warned, "{}", out.stderr);
    dead.expect_gone(&out);
    assert!(stuck.abra.join("recipes").is_dir() || stuck.abra.parent().unwrap().is_dir());
    before.expect_same(&fingerprint(canonical.path()));
    // Without the mount the next round takes it.
    let out = janitor(&sandbox).output();
    stuck.expect_gone(&out);
    assert_eq!(run_ids(&sandbox), Vec::<String>::new());
}

/// Rounds beside runs that begin and end: none of them loses anything.
/// To see it fail: collect without the kernel's word that the run is dead.
#[test]
fn rounds_beside_runs_break_none() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let go_on = sandbox.path("go-on");
    fs::write(&go_on, "").unwrap();
    let round = janitor(&sandbox).line();
    let script =
        format!("while [ -e '{}' ]; do {round} >/dev/null || echo failed $?; echo round; done", go_on.display());
    let mut collector = sandbox.shell(&script);
    collector.expect_line("round");
    let script = "for i in 1 2 3; do [ -d \"$ABRA_DIR/recipes\" ] && \"$G\" state record-deploy d || exit 9; done; \
                  [ -d \"$ABRA_DIR/servers/ci.example.net\" ] && [ \"$(wc -l <\"$CCCI_DEPLOY_COUNT_FILE\")\" = 3 ]";
    for number in 0..crate::support::rounds(60) {
        let id = format!("r{}", number % 2);
        let mut runs = [auto(&sandbox).args(["--run-id", &id]).sh(script).spawn(), auto(&sandbox).sh(script).spawn()];
        for run in &mut runs {
            let code = run.code();
            assert_eq!(code, 0, "run {number}: {}", run.stderr());
        }
    }
    fs::remove_file(&go_on).unwrap();
    collector.expect_code(0);
    assert!(!collector.stdout().contains("failed"), "{}", collector.stderr());
    assert!(!collector.stderr().contains("warning"), "{}", collector.stderr());
    assert!(!collector.stderr().contains("removed"), "no run was dead: {}", collector.stderr());
    assert_eq!(run_ids(&sandbox), Vec::<String>::new());
}
