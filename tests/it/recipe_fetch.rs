//! `abra-dir fetch`: a run's own copy of a recipe, at the ref that it asked for.

use crate::support::*;
use std::fs;

/// Fails when the canonical ABRA_DIR is not what it says. Seen failing with the fingerprint blind to times of change.
#[test]
fn the_canonical_abra_dir_is_a_real_one_and_a_change_is_seen() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    assert_eq!(recipe.git(["status", "--porcelain", "--ignored"]), "");
    assert_eq!(recipe.git(["fsck", "--full", "--strict", "--no-dangling"]), "");
    let all =
        ["main", RELEASE, OLD_RELEASE, BRANCH, "origin/main", "origin/next", "origin/HEAD"].map(|r| recipe.version(r));
    let words = ["three", "two", "one", "four", "three", "five", "three"].map(|w| format!("immich {w}"));
    assert_eq!(all, words);
    let new = recipe.advance_remote(REMOTE_BRANCH, "six");
    recipe.git(["fetch", "-q", "origin"]);
    assert_eq!(recipe.commit("origin/next"), new);

    let before = fingerprint(canonical.path());
    recipe.git(["status"]);
    before.expect_same(&fingerprint(canonical.path()));
    let file = recipe.path.join("version");
    let times = fs::metadata(&file).unwrap().modified().unwrap();
    let changes: [(&str, &dyn Fn()); 4] = [
        ("content", &|| fs::write(&file, "immich nine!\n").unwrap()),
        ("mode", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap()),
        ("time", &|| fs::File::options().write(true).open(&file).unwrap().set_modified(times).unwrap()),
        ("link count", &|| fs::hard_link(&file, sandbox.path("second")).unwrap()),
    ];
    for (what, change) in changes {
        let before = fingerprint(canonical.path());
        change();
        assert_eq!(before.difference(&fingerprint(canonical.path())).len(), 1, "{what}");
    }
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    assert!(shared_files(canonical.path(), &sandbox.path("elsewhere")).is_empty());
    fs::rename(sandbox.path("second"), sandbox.path("elsewhere/second")).unwrap();
    assert_eq!(shared_files(canonical.path(), &sandbox.path("elsewhere")), [sandbox.path("elsewhere/second")]);
}

/// Every way to name a commit. Seen failing with `--bare` in place of `--mirror` (no remote branches), and with the
/// canonical's index refreshed.
#[test]
fn a_recipe_is_fetched_at_any_kind_of_ref() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    let (two, five) = (recipe.commit(RELEASE), recipe.commit("origin/next"));
    let before = fingerprint(canonical.path());
    let refs = [
        (None, recipe.commit("main")),
        (Some("main"), recipe.commit("main")),
        (Some(RELEASE), two.clone()),
        (Some(OLD_RELEASE), recipe.commit(OLD_RELEASE)),
        (Some(BRANCH), recipe.commit(BRANCH)),
        (Some(REMOTE_BRANCH), five.clone()),
        (Some("origin/next"), five.clone()),
        (Some(two.as_str()), two.clone()),
        (Some(&two[..8]), two.clone()),
        (Some(five.as_str()), five.clone()),
    ];
    for (n, (reference, commit)) in refs.iter().enumerate() {
        let run = RunCopy::create(&sandbox, &format!("r{n}"));
        let tree = run.fetched("immich", reference.iter().flat_map(|r| ["--ref", r]));
        expect_copy(&recipe, &tree, commit);
        run.expect_verified();
    }
    before.expect_same(&fingerprint(canonical.path()));
}

/// abra asks which branch a recipe is on. Seen failing with `checkout --detach`.
#[test]
fn a_branch_is_checked_out_as_a_branch_and_anything_else_detached() {
    let sandbox = Sandbox::new();
    let recipe = Canonical::new(&sandbox).add_recipe("immich");
    let cases = [
        (None, Some("refs/heads/main")),
        (Some(BRANCH), Some("refs/heads/fix/env")),
        (Some(RELEASE), None),
        (Some("origin/next"), None),
    ];
    for (n, (reference, head)) in cases.into_iter().enumerate() {
        let run = RunCopy::create(&sandbox, &format!("r{n}"));
        let tree = run.fetched("immich", reference.iter().flat_map(|r| ["--ref", r]));
        let is = fs::read_to_string(tree.join(".git/HEAD")).unwrap();
        assert_eq!(is.trim().strip_prefix("ref: "), head, "{reference:?} of {}", recipe.name);
    }
}

/// Also one that no ref reaches, as a recipe stands on while somebody works at it. Seen failing with the HEAD that git's
/// clone guesses: a branch with the same commit.
#[test]
fn a_detached_head_is_fetched_as_it_is() {
    let sandbox = Sandbox::new();
    let recipe = Canonical::new(&sandbox).add_recipe("immich");
    recipe.git(["checkout", "-q", "--detach", OLD_RELEASE]);
    let tagged = RunCopy::create(&sandbox, "tagged").fetched("immich", []);
    expect_copy(&recipe, &tagged, &recipe.commit(OLD_RELEASE));
    // On the commit of a branch, git's clone would guess that it is on the branch.
    recipe.git(["checkout", "-q", "--detach", "main"]);
    let main = recipe.commit("main");
    let detached = RunCopy::create(&sandbox, "main").fetched("immich", []);
    expect_copy(&recipe, &detached, &main);
    assert_eq!(fs::read_to_string(detached.join(".git/HEAD")).unwrap().trim(), main);
    let commit = recipe.advance("nobody's");
    let loose = RunCopy::create(&sandbox, "loose").fetched("immich", []);
    expect_copy(&recipe, &loose, &commit);
    assert_eq!(fs::read_to_string(loose.join(".git/HEAD")).unwrap().trim(), commit);
}

/// Seen failing with the work directory left behind, and with a broken repository left to `git clone` (status 1).
#[test]
fn what_cannot_be_fetched_is_refused_and_nothing_is_left() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    fs::create_dir(canonical.recipe_path("empty")).unwrap();
    fs::write(canonical.recipe_path("file"), "no directory\n").unwrap();
    fs::create_dir(canonical.path().join("recipes/.hidden")).unwrap();
    // Below a repository, so that git would find that one.
    git(canonical.path(), ["init", "-q", "--template="]);
    git(canonical.path(), ["commit", "-q", "--allow-empty", "-m", "the one above"]);
    fs::create_dir_all(canonical.recipe_path("broken/.git")).unwrap();
    let before = fingerprint(canonical.path());
    let run = RunCopy::create(&sandbox, "r1");
    let unknown = "0123456789012345678901234567890123456789";
    let blob = recipe.git(["rev-parse", "HEAD:version"]);
    for reference in ["nowhere", "9.9.9+1.0.0", unknown, "0123456", "refs/heads/nowhere", blob.as_str()] {
        run.refused("immich", ["--ref", reference], 66, reference);
    }
    for recipe in ["nothing", "empty", "file", "broken"] {
        run.refused(recipe, [], 66, recipe);
    }
    for name in ["../x", "..", ".", "", "a/b", "/etc", ".hidden", "immich/", "im mich", "im\nmich", "immich@main"] {
        run.refused(name, [], 2, "");
    }
    for reference in ["-", "-f", "--upload-pack=touch owned", "--orphan", ""] {
        run.refused("immich", [format!("--ref={reference}").as_str()], 2, "");
        run.refused("immich", ["--ref", reference], 2, "");
    }
    run.refused("--", ["-x"], 2, "");
    run.refused("-x", [], 2, "");
    run.refused("immich", ["--staged", "--ref", "main"], 2, "");
    let nobody = abra_dir(&sandbox, ["fetch", "r2", "immich"]).output();
    assert_eq!(nobody.code(), 66, "no such ABRA_DIR: {}", nobody.stderr);
    assert!(!sandbox.runs_dir().join("r2").exists());
    assert!(!sandbox.path("work/owned").exists());
    before.expect_same(&fingerprint(canonical.path()));
    run.expect_verified();
}

/// Seen failing with what is there removed first.
#[test]
fn a_recipe_that_is_there_already_is_left_alone() {
    let sandbox = Sandbox::new();
    Canonical::new(&sandbox).add_recipe("immich");
    let run = RunCopy::create(&sandbox, "r1");
    let tree = run.fetched("immich", ["--ref", RELEASE]);
    fs::write(tree.join("version"), "the run's own\n").unwrap();
    let before = fingerprint(&tree);
    for args in [&["--ref", "main"][..], &[], &["--staged"]] {
        run.refused("immich", args.iter().copied(), 73, "immich");
    }
    // Also what the run made by itself.
    for name in ["dir", "link"] {
        if name == "dir" {
            fs::create_dir(run.tree(name)).unwrap()
        } else {
            std::os::unix::fs::symlink("/nonexistent", run.tree(name)).unwrap()
        }
    }
    before.expect_same(&fingerprint(&tree));
}

/// All or nothing. Seen failing with a recipe that is given twice: 73, and a path that was gone.
#[test]
fn create_fetches_its_recipes_or_makes_nothing() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let (immich, gitea) = (canonical.add_recipe("immich"), canonical.add_recipe("gitea"));
    let before = fingerprint(canonical.path());
    let create = |id: &str, recipes: &[&str]| {
        let recipes = recipes.iter().flat_map(|recipe| ["--recipe", recipe]);
        abra_dir(&sandbox, ["create", "--run-id", id]).args(recipes).output()
    };
    let at = format!("immich@{RELEASE}");
    let made = create("r1", &[&at, "gitea"]);
    let dir = sandbox.runs_dir().join("r1/abra");
    assert_eq!((made.code(), made.text()), (0, format!("{}\n", dir.display())), "{}", made.stderr);
    expect_copy(&immich, &dir.join("recipes/immich"), &immich.commit(RELEASE));
    expect_copy(&gitea, &dir.join("recipes/gitea"), &gitea.commit("main"));
    assert_eq!(create("r1", &["gitea"]).code(), 73, "exists");
    let faults = [
        ("immich@nowhere", 66),
        ("nothing", 66),
        ("nothing@main", 66),
        ("immich@-x", 2),
        ("../x", 2),
        ("@main", 2),
        ("", 2),
    ];
    for (fault, code) in faults {
        let refused = create("r2", &["gitea", fault]);
        assert_eq!((refused.code(), refused.text().as_str()), (code, ""), "{fault}: {}", refused.stderr);
        let left: Vec<_> = fs::read_dir(sandbox.runs_dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["r1"], "{fault}");
    }
    // Twice the same: which of the two would it be?
    let twice = create("r2", &["immich", &at]);
    assert_eq!(twice.code(), 2, "{}", twice.stderr);
    assert!(twice.stderr.contains("immich") && !twice.stderr.contains(".ccci-guard"), "{}", twice.stderr);
    assert!(!sandbox.runs_dir().join("r2").exists());
    before.expect_same(&fingerprint(canonical.path()));
    RunCopy::of(&sandbox, "r1").expect_verified();
}
