//! `abra-dir create`, `fetch` and `remove`, killed at any moment, alone or with their git: the canonical ABRA_DIR is
//! untouched, nothing half-built is taken for a whole thing, and the next command finds a clean place.

use crate::abra_dir_commands::stage::{abra_dir, below, expect};
use crate::support::*;
use nix::sys::signal::{Signal, killpg};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

const ID: &str = "1190";
const RECIPES: [&str; 2] = ["immich", "keycloak"];
const CREATE: [&str; 7] = ["create", "--run-id", ID, "--recipe", "immich@fix/env", "--recipe", "keycloak"];
const FETCH: [&str; 5] = ["fetch", ID, "immich", "--ref", "fix/env"];

/// Who gets the SIGKILL.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The guard alone: its git must not go on without it.
    Guard,
    /// The guard and all below it, as the kernel's memory killer or a container's end does it.
    All,
}

struct Place {
    sandbox: Sandbox,
    canonical: Canonical,
    before: Fingerprint,
    random: Random,
    rounds: usize,
    killed: usize,
    /// The blow comes at a moment below this.
    limit: Duration,
}

impl Place {
    fn new(test: &str) -> Self {
        let sandbox = Sandbox::new();
        let canonical = Canonical::new(&sandbox);
        for recipe in RECIPES {
            canonical.add_recipe(recipe);
        }
        let before = fingerprint(canonical.path());
        Self { sandbox, canonical, before, random: Random::from_clock(test), rounds: 0, killed: 0, limit: SOON }
    }

    /// Runs `args` undisturbed, to know how long that takes.
    fn time(&mut self, args: &[&str]) {
        let start = Instant::now();
        expect(&self.sandbox, 0, args);
        self.limit = start.elapsed();
    }

    /// Starts `args` and kills them at some moment; everything of them is gone before this returns.
    /// Says what was done.
    #[track_caller]
    fn strike(&mut self, args: &[&str]) -> String {
        let at = self.random.time_below(self.limit);
        let victim = if self.random.below(2) == 0 { Victim::Guard } else { Victim::All };
        let mut command = self.sandbox.plain().arg("abra-dir").args(args).own_group().spawn();
        // The moment is the test's subject, nothing is waited for.
        std::thread::sleep(at.saturating_sub(command.started().elapsed()));
        match victim {
            // Not yet waited for, so the number is still its own.
            Victim::All => drop(killpg(command.pid(), Signal::SIGKILL)),
            Victim::Guard => command.signal(Signal::SIGKILL),
        }
        let code = command.code();
        assert!(matches!(code, 0 | 137), "{code}: {}", command.stderr());
        self.killed += usize::from(code == 137);
        // The machine is now busy and now idle: about two in three are to come in time, at all moments.
        self.limit = self.limit.mul_f64(if code == 137 { 1.1 } else { 0.8 });
        // A git of it that went on would fill a directory that is being removed, or hold a lock in it.
        eventually(SOON, &format!("{victim:?} killed after {at:?}: end of all git"), || self.sandbox.nothing_left());
        self.before.expect_same(&fingerprint(self.canonical.path()));
        format!("{victim:?} killed after {at:?}, status {code}")
    }

    /// The whole entry of the run in `list --json`, where there is one.
    fn listed(&self) -> Option<Value> {
        let text = expect(&self.sandbox, 0, &["list", "--json"]).text();
        let listed: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let runs = listed["runs"].as_array().expect("a list").clone();
        assert!(runs.iter().all(|run| run["run_id"] == ID), "{listed}");
        { runs }.pop()
    }

    /// Does `path` know it? Then `list` does, and `verify` finds no fault; else neither knows it.
    #[track_caller]
    fn is_there(&self, what: &str) -> bool {
        let code = abra_dir(&self.sandbox, ["path", ID]).code();
        assert!(matches!(code, 0 | 66), "{what}: {code}");
        expect(&self.sandbox, code, &["verify", ID]);
        assert_eq!(self.listed().is_some(), code == 0, "{what}");
        code == 0
    }

    /// Either every recipe is there, or none is; every other round, what is left is shown to be in nobody's way.
    #[track_caller]
    fn is_whole_or_gone(&self, round: usize, what: &str) {
        if self.is_there(what) {
            for recipe in RECIPES {
                assert!(self.has_recipe(recipe, what), "{what}: no {recipe}");
            }
        } else if round.is_multiple_of(2) {
            expect(&self.sandbox, 0, &CREATE);
        }
    }

    /// Does `path` know this recipe? Then it is whole: git finds nothing missing, and every file is as committed.
    #[track_caller]
    fn has_recipe(&self, recipe: &str, what: &str) -> bool {
        let out = abra_dir(&self.sandbox, ["path", ID, recipe]);
        let listed = self.listed().unwrap_or_else(|| panic!("{what}: not listed"));
        let listed = listed["recipes"].as_array().unwrap().iter().any(|name| name == recipe);
        assert_eq!(listed, out.code() == 0, "{what}: {recipe}");
        let tree = self.sandbox.runs_dir().join(ID).join("abra/recipes").join(recipe);
        assert_eq!(tree.symlink_metadata().is_ok(), out.code() == 0, "{what}: {recipe}");
        if out.code() == 0 {
            git(&tree, ["fsck", "--full", "--strict", "--connectivity-only"]);
            assert_eq!(git(&tree, ["status", "--porcelain", "--ignored"]), "", "{what}: {recipe}");
            let reference = if recipe == RECIPES[0] { BRANCH } else { "HEAD" };
            let asked = git(&self.canonical.recipe_path(recipe), ["rev-parse", reference]);
            assert_eq!(git(&tree, ["rev-parse", "HEAD"]), asked, "{what}: {recipe}");
            assert!(!tree.join(".git/index.lock").exists(), "{what}: {recipe}");
        }
        out.code() == 0
    }

    /// gc has taken away whatever no command knows: what is left is a whole ABRA_DIR, or at most an empty `<run id>`,
    /// made in the moment before there was a mark.
    #[track_caller]
    fn gc_cleans(&self, what: &str) {
        let there = self.is_there(what);
        expect(&self.sandbox, 0, &["gc"]);
        assert_eq!(self.is_there(what), there, "{what}: `create`'s survive gc, whole");
        let left = below(&self.sandbox.runs_dir());
        let known = |path: &String| path == ID || there && path.starts_with(&format!("{ID}/abra"));
        assert!(left.iter().all(known), "{what}: {left:#?}");
        let state = below(&self.sandbox.state_dir());
        assert!(state.is_empty(), "{what}: {state:?}");
    }

    /// Clean again for the next round.
    #[track_caller]
    fn remove(&self, what: &str) {
        if self.is_there(what) {
            expect(&self.sandbox, 0, &["remove", ID]);
        }
        // Empty: a plain rmdir is enough.
        let _ = fs::remove_dir(self.sandbox.runs_dir().join(ID));
        assert_eq!(below(&self.sandbox.runs_dir()), [""; 0], "{what}");
    }

    /// The number of the next round, until enough of them were killed.
    #[track_caller]
    fn next_round(&mut self) -> Option<usize> {
        assert!(self.rounds < 4 * rounds(100), "only {} of {} were killed", self.killed, self.rounds);
        let next = (self.killed < rounds(100)).then_some(self.rounds);
        self.rounds += 1;
        next
    }
}

/// `create` with two recipes: there is a whole one with both, or none.
/// Seen failing with the directory built in its place, with gc that looks at `<run id>/abra` only, and with gc that takes
/// `create`'s.
#[test]
fn create_killed_anywhere_is_all_or_nothing() {
    let mut place = Place::new("create_killed_anywhere_is_all_or_nothing");
    place.time(&CREATE);
    place.remove("undisturbed");
    while let Some(round) = place.next_round() {
        let what = format!("round {round}: {}", place.strike(&CREATE));
        place.is_whole_or_gone(round, &what);
        place.gc_cleans(&what);
        place.remove(&what);
    }
}

/// `fetch`: the recipe is whole or not there, and the next fetch of it works.
/// Seen failing with the clone made in its place.
#[test]
fn fetch_killed_anywhere_leaves_no_half_a_recipe() {
    let mut place = Place::new("fetch_killed_anywhere_leaves_no_half_a_recipe");
    expect(&place.sandbox, 0, &["create", "--run-id", ID]);
    place.time(&FETCH);
    place.remove("undisturbed");
    while let Some(round) = place.next_round() {
        expect(&place.sandbox, 0, &["create", "--run-id", ID]);
        let what = format!("round {round}: {}", place.strike(&FETCH));
        assert!(place.is_there(&what), "{what}");
        let has = place.has_recipe(RECIPES[0], &what);
        expect(&place.sandbox, if has { 73 } else { 0 }, &FETCH);
        assert!(place.has_recipe(RECIPES[0], &what), "{what}");
        place.gc_cleans(&what);
        place.remove(&what);
    }
}

/// `remove`: it is whole or not there, and gc takes away what was begun.
/// Seen failing with the directory emptied in its place, and with gc that looks at `<run id>/abra` only.
#[test]
fn remove_killed_anywhere_leaves_no_half_a_directory() {
    let mut place = Place::new("remove_killed_anywhere_leaves_no_half_a_directory");
    expect(&place.sandbox, 0, &CREATE);
    place.time(&["remove", ID]);
    while let Some(round) = place.next_round() {
        expect(&place.sandbox, 0, &CREATE);
        let what = format!("round {round}: {}", place.strike(&["remove", ID]));
        place.is_whole_or_gone(round, &what);
        place.gc_cleans(&what);
        place.remove(&what);
    }
}

/// A git that hangs (on a FIFO in the canonical recipe) doesn't outlive a guard that is killed.
/// Seen failing with git started without a death signal.
#[test]
fn a_hanging_git_dies_with_its_guard() {
    let place = Place::new("a_hanging_git_dies_with_its_guard");
    expect(&place.sandbox, 0, &["create", "--run-id", ID]);
    let config = place.canonical.recipe_path(RECIPES[0]).join(".git/config");
    let text = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut fetch = place.sandbox.plain().arg("abra-dir").args(FETCH).spawn();
    let git = eventually(SOON, "a git that sleeps", || {
        let tree = fetch.tree();
        let git = tree.iter().find(|p| p.name == "git" && p.state == 'S');
        git.map(|p| p.pid).ok_or(format!("{tree:?}"))
    });
    fetch.signal(Signal::SIGKILL);
    assert_eq!(fetch.code(), 137);
    eventually(SOON, "end of git", || {
        if alive(git) { Err("alive") } else { place.sandbox.nothing_left().map_err(|_| "others") }
    });
    fs::remove_file(&config).unwrap();
    fs::write(&config, text).unwrap();
    assert!(place.is_there("a hanging git"));
    expect(&place.sandbox, 0, &FETCH);
    assert!(place.has_recipe(RECIPES[0], "a hanging git"));
}
