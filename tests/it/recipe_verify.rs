//! `abra-dir verify` finds each thing that can be wrong with a run's ABRA_DIR, and names it.

use crate::support::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A canonical with two recipes, both fetched, one of them `--staged`.
struct Fetched {
    sandbox: Sandbox,
    canonical: Canonical,
    immich: Recipe,
    gitea: Recipe,
}

impl Fetched {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let canonical = Canonical::new(&sandbox);
        let (immich, gitea) = (canonical.add_recipe("immich"), canonical.add_recipe("gitea"));
        fs::write(gitea.path.join("by-hand.yml"), "prepared\n").unwrap();
        let run = RunCopy::create(&sandbox, "r1");
        run.fetched("immich", ["--ref", RELEASE]);
        run.fetched("gitea", ["--staged"]);
        run.expect_verified();
        Self { sandbox, canonical, immich, gitea }
    }

    fn run(&self) -> RunCopy<'_> {
        RunCopy::of(&self.sandbox, "r1")
    }

    /// One line for each of these faults, which names it with these words, and no other.
    #[track_caller]
    fn expect_faults(&self, faults: &[&[&str]]) {
        let output = self.run().ask("verify", []).output();
        assert_eq!(output.code(), 1, "{faults:?}: {}", output.stderr);
        let lines: Vec<_> = output.stderr.lines().collect();
        for words in faults {
            let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
            assert!(found, "no line has {words:?}:\n{}", output.stderr);
        }
        assert_eq!(lines.len(), faults.len(), "one line a fault:\n{}", output.stderr);
    }
}

/// Plants a fault, expects its name.
#[track_caller]
fn planted(plant: impl Fn(&Fetched), words: &[&str]) {
    let fetched = Fetched::new();
    plant(&fetched);
    fetched.expect_faults(&[words]);
}

/// Seen failing without any check.
#[test]
fn links_that_lead_elsewhere_are_named() {
    let elsewhere = |name: &'static str| {
        move |f: &Fetched| {
            fs::create_dir(f.sandbox.path("elsewhere")).unwrap();
            fs::remove_file(f.run().path().join(name)).unwrap();
            symlink(f.sandbox.path("elsewhere"), f.run().path().join(name)).unwrap();
        }
    };
    planted(elsewhere("servers"), &["servers"]);
    planted(elsewhere("catalogue"), &["catalogue"]);
    planted(|f| fs::remove_file(f.run().path().join("servers")).unwrap(), &["servers"]);
    // abra would write its .env files into the run's directory, which goes.
    planted(
        |f| {
            fs::remove_file(f.run().path().join("servers")).unwrap();
            fs::create_dir(f.run().path().join("servers")).unwrap();
        },
        &["servers"],
    );
}

/// With a link there all recipes are the canonical's. Seen failing without any check.
#[test]
fn recipes_that_are_not_the_runs_own_are_named() {
    planted(
        |f| {
            fs::remove_dir_all(f.run().path().join("recipes")).unwrap();
            symlink(f.canonical.path().join("recipes"), f.run().path().join("recipes")).unwrap();
        },
        &["recipes"],
    );
}

/// Seen failing without any check.
#[test]
fn a_recipe_that_is_no_repository_of_its_own_is_named() {
    planted(
        |f| {
            let ours = f.run().tree("immich").join(".git");
            fs::rename(&ours, f.sandbox.path("moved")).unwrap();
            fs::write(&ours, format!("gitdir: {}\n", f.sandbox.path("moved").display())).unwrap();
        },
        &["immich", ".git"],
    );
    planted(|f| fs::remove_dir_all(f.run().tree("immich").join(".git")).unwrap(), &["immich", ".git"]);
    planted(
        |f| {
            let theirs = format!("{}\n", f.immich.path.join(".git/objects").display());
            fs::write(f.run().tree("immich").join(".git/objects/info/alternates"), theirs).unwrap();
        },
        &["immich", "alternates"],
    );
    planted(
        |f| {
            let url = f.immich.path.to_str().unwrap().to_owned();
            git(&f.run().tree("immich"), ["config", "remote.origin.url", &url]);
        },
        &["immich", "origin"],
    );
}

/// The same path in other words. Seen failing with `…/.git` not known for the repository, and with no look at origin.
#[test]
fn an_origin_that_is_the_canonical_in_other_words_is_named() {
    for words in ["file://{}", "{}/", "{}/.git", "{}/../immich"] {
        planted(
            |f| {
                let url = words.replace("{}", f.immich.path.to_str().unwrap());
                git(&f.run().tree("immich"), ["config", "remote.origin.url", &url]);
            },
            &["immich", "origin"],
        );
    }
}

/// Seen failing with a look only at files of the same name.
#[test]
fn a_file_shared_with_the_canonical_is_named() {
    let fetched = Fetched::new();
    let ours = fetched.run().tree("immich").join("compose.yml");
    fs::remove_file(&ours).unwrap();
    fs::hard_link(fetched.immich.path.join("compose.yml"), ours).unwrap();
    // A second name is a change of the canonical's file, too.
    fetched.expect_faults(&[&["immich", "compose.yml", "hard link"], &["immich", "compose.yml", "changed"]]);
    let pack = |f: &Fetched| {
        let packs = fs::read_dir(f.immich.path.join(".git/objects/pack")).unwrap();
        let pack = packs.map(|e| e.unwrap().path()).find(|p| p.extension().is_some_and(|e| e == "pack")).unwrap();
        let to = f.run().tree("immich").join(".git/objects/pack").join("shared.pack");
        fs::hard_link(&pack, to).unwrap();
    };
    planted(pack, &["immich", "pack"]);
}

/// What the operator or another run did to the canonical's tree since the fetch, also with the time set back. Seen failing
/// with size and time of change only.
#[test]
fn a_canonical_tree_that_changed_is_named_with_its_file() {
    let change = |file: &'static str, change: &dyn Fn(&Path)| {
        for (recipe, other) in [("immich", "gitea"), ("gitea", "immich")] {
            let fetched = Fetched::new();
            change(&fetched.canonical.recipe_path(recipe).join(file));
            fetched.expect_faults(&[&[recipe, file]]);
            let output = fetched.run().ask("verify", []).output();
            assert!(!output.stderr.contains(other), "{}", output.stderr);
        }
    };
    change("compose.yml", &|p| {
        let (text, time) = (fs::read_to_string(p).unwrap(), fs::metadata(p).unwrap().modified().unwrap());
        fs::write(p, text.replace("immich", "evilch")).unwrap();
        fs::File::options().write(true).open(p).unwrap().set_modified(time).unwrap();
    });
    change("version", &|p| fs::remove_file(p).unwrap());
    change("new.yml", &|p| fs::write(p, "new\n").unwrap());
    change("new.log", &|p| fs::write(p, "an ignored one\n").unwrap());
    change("abra.sh", &|p| fs::set_permissions(p, fs::Permissions::from_mode(0o644)).unwrap());
    change("compose.link.yml", &|p| {
        fs::remove_file(p).unwrap();
        symlink("version", p).unwrap();
    });
}

/// Seen failing with a look at the text of `.git/HEAD`: it is `main` before and after.
#[test]
fn a_canonical_head_that_moved_is_named() {
    planted(|f| drop(f.immich.git(["commit", "-q", "--allow-empty", "-m", "moved"])), &["immich", "HEAD"]);
    planted(|f| drop(f.immich.git(["checkout", "-q", "-b", "other"])), &["immich", "HEAD"]);
    planted(|f| fs::remove_dir_all(&f.immich.path).unwrap(), &["immich"]);
}

/// Where `.git` is a file, HEAD is elsewhere. Seen failing with `.git/HEAD` read.
#[test]
fn the_head_of_a_worktree_that_moved_is_named() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let main = Canonical::at(sandbox.path("elsewhere"), sandbox.path("remotes")).add_recipe("immich");
    let path = canonical.recipe_path("immich");
    main.git(["worktree", "add", "-q", "--detach", path.to_str().unwrap(), "main"]);
    let run = RunCopy::create(&sandbox, "r1");
    run.fetched("immich", []);
    git(&path, ["commit", "-q", "--allow-empty", "-m", "moved"]);
    let output = run.ask("verify", []).output();
    assert_eq!(output.code(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("immich") && output.stderr.contains("HEAD"), "{}", output.stderr);
}

/// Seen failing without any check; or end at the first fault.
#[test]
fn every_fault_gets_its_line() {
    let fetched = Fetched::new();
    fs::remove_file(fetched.run().path().join("servers")).unwrap();
    fs::write(fetched.gitea.path.join("version"), "changed\n").unwrap();
    fs::write(fetched.run().tree("immich").join(".git/objects/info/alternates"), "/nonexistent\n").unwrap();
    fetched.expect_faults(&[&["servers"], &["gitea", "version"], &["immich", "alternates"]]);
}

/// A fetch or a `gc` there, an `.env` written, the run's own work: none is a fault. Seen failing with the canonical's `.git`
/// in what is compared.
#[test]
fn what_may_change_is_no_fault() {
    let fetched = Fetched::new();
    fetched.immich.advance_remote(REMOTE_BRANCH, "six");
    fetched.immich.git(["fetch", "-q", "origin"]);
    fetched.immich.git(["gc", "-q", "--prune=now"]);
    fetched.immich.git(["tag", "9.9.9+1.0.0"]);
    fetched.canonical.add_env("ci.example.net", "gite-000001.ci.example.net");
    fetched.canonical.add_recipe("later");
    let tree = fetched.run().tree("immich");
    fs::write(tree.join("compose.yml"), "the run's own\n").unwrap();
    git(&tree, ["checkout", "-q", "-f", "main"]);
    git(&tree, ["fetch", "-q", "origin"]);
    fetched.run().expect_verified();
    let nobody = abra_dir(&fetched.sandbox, ["verify", "r2"]).output();
    assert_eq!(nobody.code(), 66, "{}", nobody.stderr);
}
