//! `ccci-guard abra-dir`: what each command prints, makes and removes, and the status it ends with.
//!
//! `fetch` and `verify` have files of their own; hostile directories are in `abra_dir_removal`.

mod gc;
pub mod stage;

use crate::support::{Canonical, Output, Sandbox, fingerprint};
use serde_json::{Value, json};
use stage::{below, dead_run, expect, kept_run, live_run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const RECIPE: &str = "immich";

#[track_caller]
fn parsed(out: &Output) -> Value {
    let text = out.text();
    assert!(text.ends_with('\n'), "{text:?}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Lines of stdout, sorted.
fn lines(out: &Output) -> Vec<String> {
    let mut lines: Vec<String> = out.text().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What `create` makes and says, and what `path` and `env` say of it later.
/// Seen failing with `recipes` made a link to the canonical one.
#[test]
fn create_makes_links_and_an_empty_recipes() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let before = fingerprint(canonical.path());
    fs::remove_dir(sandbox.runs_dir()).unwrap();
    let abra = sandbox.runs_dir().join("1190/abra");
    let shown = format!("{}\n", abra.display());
    let out = expect(&sandbox, 0, &["create", "--run-id", "1190"]);
    assert_eq!((out.text(), out.stderr.as_str()), (shown.clone(), ""));
    for name in ["servers", "catalogue"] {
        assert_eq!(fs::read_link(abra.join(name)).unwrap(), canonical.path().join(name), "{name}");
    }
    assert!(abra.join("recipes").symlink_metadata().unwrap().is_dir());
    assert!(below(&abra.join("recipes")).is_empty());
    assert_eq!(mode(&sandbox.runs_dir()), 0o755);
    assert_eq!(mode(&sandbox.runs_dir().join("1190")), 0o755);
    assert_eq!(mode(&abra.join(".ccci-guard/mark")), 0o600);
    let others: Vec<_> = below(&sandbox.runs_dir()).into_iter().filter(|p| !p.starts_with("1190/abra")).collect();
    assert_eq!(others, ["1190"], "nothing else is left of the making");
    assert_eq!(expect(&sandbox, 0, &["path", "1190"]).text(), shown);
    let export = format!("export ABRA_DIR='{}'\n", abra.display());
    assert_eq!(expect(&sandbox, 0, &["env", "1190"]).text(), export);
    expect(&sandbox, 0, &["verify", "1190"]);
    before.expect_same(&fingerprint(canonical.path()));
}

/// The three forms of what `create` prints, the id from the environment, and a canonical without a catalogue.
/// Seen failing with a link made to a catalogue that isn't there.
#[test]
fn create_prints_a_path_or_json_or_an_export() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let abra = |id: &str| sandbox.runs_dir().join(id).join("abra");
    let out = expect(&sandbox, 0, &["create", "--run-id", "a", "--json"]);
    assert_eq!(parsed(&out), json!({"schema": 1, "run_id": "a", "abra_dir": abra("a")}));
    let out = expect(&sandbox, 0, &["create", "--run-id", "b", "--export"]);
    assert_eq!(out.text(), format!("export ABRA_DIR='{}'\n", abra("b").display()));
    expect(&sandbox, 2, &["create", "--run-id", "c", "--export", "--json"]);
    let out = sandbox.plain().args(["abra-dir", "create"]).env("CCCI_RUN_ID", "d").output();
    assert_eq!((out.code(), out.text()), (0, format!("{}\n", abra("d").display())), "{}", out.stderr);

    let bare = sandbox.path("bare");
    fs::create_dir_all(bare.join("servers")).unwrap();
    expect(&sandbox, 0, &["create", "--run-id", "e", "--canonical-abra-dir", bare.to_str().unwrap()]);
    assert_eq!(fs::read_link(abra("e").join("servers")).unwrap(), bare.join("servers"));
    assert!(!abra("e").join("catalogue").is_symlink());
    assert_eq!(fs::read_link(abra("a").join("servers")).unwrap(), canonical.servers());
}

/// A path that a shell would read in its own way reaches ABRA_DIR byte for byte through `eval`.
/// Seen failing with the path printed as it is (`Unterminated quoted string`).
#[test]
fn an_export_is_safe_to_eval() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    for (id, name) in
        ["it's", "a b", "$HOME `id` \"x\"", "back\\slash", "new\nline", "*", "-n", "''"].iter().enumerate()
    {
        let (id, runs) = (format!("r{id}"), sandbox.path(name));
        fs::create_dir(&runs).unwrap();
        let script = "eval \"$(\"$G\" abra-dir create --export --run-id $ID)\"; env -0 | grep -z ^ABRA_DIR= ; unset ABRA_DIR; \
                      eval \"$(\"$G\" abra-dir env $ID)\"; env -0 | grep -z ^ABRA_DIR=";
        let mut shell = sandbox.command("/bin/sh");
        shell.args(["-c", script]).env("CCCI_RUNS_DIR", &runs).env("ID", &id);
        let mut shell = sandbox.spawn(shell);
        shell.expect_code(0);
        let once = format!("ABRA_DIR={}/{id}/abra\0", runs.display());
        assert_eq!(String::from_utf8(shell.stdout_bytes()).unwrap(), once.repeat(2), "{name:?}: {}", shell.stderr());
    }
}

/// Slashes at the end of an id are no part of it, and everything else that is no id is refused before a look at the disk.
/// Seen failing with `create --run-id r1/` refused; fails with the id joined to a path as it is given.
#[test]
fn ids_with_slashes_and_ids_that_are_none() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let abra = sandbox.runs_dir().join("r1/abra");
    for (n, slashes) in ["", "/", "///"].iter().enumerate() {
        let id = format!("r1{slashes}");
        let shown = format!("{}\n", abra.display());
        assert_eq!(expect(&sandbox, 0, &["create", "--run-id", &id]).text(), shown, "{n}");
        assert_eq!(expect(&sandbox, 0, &["path", &id]).text(), shown);
        assert_eq!(expect(&sandbox, 0, &["env", &id]).text(), format!("export ABRA_DIR='{}'\n", abra.display()));
        expect(&sandbox, 0, &["verify", &id]);
        expect(&sandbox, 73, &["create", "--run-id", &id]);
        expect(&sandbox, 0, &["remove", &id]);
        assert!(below(&sandbox.runs_dir()).is_empty());
    }
    expect(&sandbox, 0, &["create", "--run-id", "r1"]);
    let before = below(&sandbox.path(""));
    let long = "x".repeat(65);
    let absolute = abra.parent().unwrap().to_str().unwrap().to_owned();
    let bad = ["", "/", ".", "..", "./", "../", "../r1", "r1/.", "r1/abra", "r1/../r1", "/r1", "a b", "r1\n", "ä", "*"];
    for id in bad.into_iter().chain([long.as_str(), absolute.as_str()]) {
        expect(&sandbox, 2, &["create", "--run-id", id]);
        for command in ["path", "env", "verify", "remove"] {
            expect(&sandbox, 2, &[command, "--", id]);
        }
        expect(&sandbox, 2, &["fetch", "--", id, "recipe"]);
        assert_eq!(below(&sandbox.path("")), before, "{id:?}");
    }
}

/// One table of the statuses 2, 66 and 73; none of them leaves a trace.
/// Seen failing with a live run's ABRA_DIR removed, which is the last line.
#[test]
fn usage_is_2_missing_is_66_and_there_already_is_73() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    canonical.add_recipe(RECIPE);
    fs::create_dir(sandbox.path("no-servers")).unwrap();
    fs::create_dir_all(sandbox.path("a-file")).unwrap();
    fs::write(sandbox.path("a-file/servers"), "").unwrap();
    let place = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    expect(&sandbox, 0, &["create", "--run-id", "there"]);
    expect(&sandbox, 0, &["fetch", "there", RECIPE]);
    let _live = live_run(&sandbox, "live");
    let before = below(&sandbox.runs_dir());
    let table: &[(i32, &[&str])] = &[
        (2, &[]),
        (2, &["burn", "there"]),
        (2, &["create"]),
        (2, &["create", "--run-id", "new", "there"]),
        (2, &["create", "--run-id", "new", "--recipe", "../x"]),
        (2, &["create", "--run-id", "new", "--recipe", ".git"]),
        (2, &["create", "--run-id", "new", "--recipe", ""]),
        (2, &["path"]),
        (2, &["remove"]),
        (2, &["remove", "there", "--force"]),
        (2, &["gc", "there"]),
        (2, &["list", "there"]),
        (2, &["path", "there", "../r"]),
        (2, &["path", "there", "-r"]),
        (66, &["path", "missing"]),
        (66, &["path", "there", "missing"]),
        (66, &["env", "missing"]),
        (66, &["fetch", "missing", RECIPE]),
        (66, &["verify", "missing"]),
        (66, &["remove", "missing"]),
        (66, &["create", "--run-id", "new", "--canonical-abra-dir", &place("missing")]),
        (66, &["create", "--run-id", "new", "--canonical-abra-dir", &place("no-servers")]),
        (66, &["create", "--run-id", "new", "--canonical-abra-dir", &place("a-file")]),
        (66, &["create", "--run-id", "new", "--recipe", "missing"]),
        (73, &["create", "--run-id", "there"]),
        (73, &["create", "--run-id", "there", "--recipe", "missing"]),
        (73, &["create", "--run-id", "live"]),
        (73, &["fetch", "there", RECIPE]),
        (1, &["remove", "live"]),
    ];
    for (code, args) in table {
        expect(&sandbox, *code, args);
        assert_eq!(below(&sandbox.runs_dir()), before, "{args:?}");
    }
}

/// `create` with recipes is all or nothing, and takes only its own back.
/// Seen failing with the begun directory left when a fetch fails.
#[test]
fn create_with_an_unknown_recipe_or_ref_leaves_nothing() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    canonical.add_recipe(RECIPE);
    canonical.add_recipe("keycloak");
    let before = fingerprint(canonical.path());
    let unknown_ref = format!("{RECIPE}@no-such-ref");
    for with_results in [false, true] {
        if with_results {
            fs::create_dir(sandbox.runs_dir().join("r1")).unwrap();
            fs::write(sandbox.runs_dir().join("r1/results.json"), "{}").unwrap();
        }
        for bad in ["no-such-recipe", &unknown_ref] {
            let out = expect(&sandbox, 66, &["create", "--run-id", "r1", "--recipe", "keycloak", "--recipe", bad]);
            assert!(out.stderr.contains("no-such-re"), "names it: {}", out.stderr);
            let left: &[&str] = if with_results { &["r1", "r1/results.json"] } else { &[] };
            assert_eq!(below(&sandbox.runs_dir()), left, "{bad}");
        }
    }
    let out = expect(&sandbox, 0, &["create", "--run-id", "r1", "--recipe", RECIPE]);
    let tree = format!("{}/recipes/{RECIPE}\n", out.text().trim_end());
    assert_eq!(expect(&sandbox, 0, &["path", "r1", RECIPE]).text(), tree);
    assert_eq!(expect(&sandbox, 0, &["path", "r1/", RECIPE]).text(), tree);
    expect(&sandbox, 0, &["verify", "r1"]);
    expect(&sandbox, 0, &["remove", "r1"]);
    assert_eq!(below(&sandbox.runs_dir()), ["r1", "r1/results.json"]);
    before.expect_same(&fingerprint(canonical.path()));
}

/// `list` knows four kinds; ids of state alone, foreign directories and what has no mark are none.
/// Seen failing with an unmarked directory listed, and with a kept one told as dead.
#[test]
fn list_tells_alive_dead_kept_and_manual() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    canonical.add_recipe(RECIPE);
    assert_eq!(expect(&sandbox, 0, &["list"]).text(), "");
    assert_eq!(parsed(&expect(&sandbox, 0, &["list", "--json"])), json!({"schema": 1, "runs": []}));
    dead_run(&sandbox, "b-dead");
    kept_run(&sandbox, "c-kept");
    expect(&sandbox, 0, &["create", "--run-id", "d-manual", "--recipe", RECIPE]);
    let _live = live_run(&sandbox, "a-live");
    fs::create_dir_all(sandbox.runs_dir().join("unmarked/abra/recipes")).unwrap();
    fs::write(sandbox.runs_dir().join("a-file"), "").unwrap();
    let kinds = ["a-live  alive", "b-dead  dead", "c-kept  kept", "d-manual  manual"];
    let at = |id: &str| sandbox.runs_dir().join(id).join("abra").to_str().unwrap().to_owned();
    let shown = lines(&expect(&sandbox, 0, &["list"]));
    let expected = kinds.map(|kind| {
        let id = kind.split(' ').next().unwrap();
        let recipes = if id == "d-manual" { format!("  {RECIPE}") } else { String::new() };
        format!("{kind}  {}{recipes}", at(id))
    });
    assert_eq!(shown.iter().map(|line| line.trim_end()).collect::<Vec<_>>(), expected);
    let listed = parsed(&expect(&sandbox, 0, &["list", "--json"]));
    let entry = |id: &str, alive: bool, kept: bool, made_by: &str, recipes: &[&str]| json!({"run_id": id, "abra_dir": at(id), "alive": alive, "recipes": recipes, "made_by": made_by, "kept": kept});
    let mut runs = listed["runs"].as_array().expect("a list").clone();
    runs.sort_by_key(|run| run["run_id"].to_string());
    let expected = [
        entry("a-live", true, false, "run", &[]),
        entry("b-dead", false, false, "run", &[]),
        entry("c-kept", false, true, "run", &[]),
        entry("d-manual", false, false, "create", &[RECIPE]),
    ];
    assert_eq!(Value::from(runs), Value::from(expected.to_vec()));
}

/// `remove` takes the ABRA_DIR and the run's directory where that was ours and is empty; never a result.
/// Seen failing with `remove_dir_all` on the run's directory, and with one removed that somebody else had made.
#[test]
fn remove_takes_only_what_create_made() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox);
    let run = |name: &str| sandbox.runs_dir().join(name);
    for id in ["ours", "ours-with-results", "theirs"] {
        if id == "theirs" {
            fs::create_dir(run(id)).unwrap();
        }
        expect(&sandbox, 0, &["create", "--run-id", id]);
    }
    fs::write(run("ours-with-results/results.json"), "{}").unwrap();
    kept_run(&sandbox, "kept");
    dead_run(&sandbox, "dead");
    for id in ["ours", "ours-with-results", "theirs", "kept", "dead"] {
        let out = expect(&sandbox, 0, &["remove", id]);
        assert_eq!(out.stderr, "", "{id}");
        expect(&sandbox, 66, &["remove", id]);
    }
    assert_eq!(below(&sandbox.runs_dir()), ["ours-with-results", "ours-with-results/results.json", "theirs"]);
    for id in ["ours", "ours-with-results", "theirs"] {
        expect(&sandbox, 0, &["create", "--run-id", id]);
    }
}
