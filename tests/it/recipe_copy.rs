//! A fetched recipe is a whole repository of its own, however odd the canonical one is.

use crate::support::*;
use nix::unistd::geteuid;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Seen failing with a plain clone of the path: its origin is the canonical.
#[test]
fn origin_is_the_canonicals_own_origin() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    let origin = |id: &str| {
        let tree = RunCopy::create(&sandbox, id).fetched("immich", []);
        String::from_utf8(try_git(&tree, ["config", "--local", "--get-all", "remote.origin.url"]).stdout).unwrap()
    };
    for (n, url) in
        ["https://git.example.net/recipes/immich.git", "git@git.example.net:recipes/immich.git"].iter().enumerate()
    {
        recipe.git(["config", "remote.origin.url", url]);
        assert_eq!(origin(&format!("url{n}")), format!("{url}\n"));
    }
    // Relative to the canonical tree, not to the copy or to where the caller stands.
    recipe.git(["config", "remote.origin.url", "../../../../remotes/immich.git"]);
    let is = origin("relative");
    assert_eq!(fs::canonicalize(is.trim()).unwrap(), fs::canonicalize(&recipe.remote).unwrap());
    let tree = RunCopy::of(&sandbox, "relative").tree("immich");
    let new = recipe.advance_remote("main", "six");
    git(&tree, ["fetch", "-q", "origin"]);
    assert_eq!(git(&tree, ["rev-parse", "origin/main"]), new);

    recipe.git(["remote", "remove", "origin"]);
    assert_eq!(origin("none"), "");
    let tree = RunCopy::of(&sandbox, "none").tree("immich");
    assert_eq!(git(&tree, ["remote"]), "");
    assert_eq!(git(&tree, ["rev-parse", "HEAD"]), recipe.commit("main"));
    for id in ["url0", "url1", "relative", "none"] {
        RunCopy::of(&sandbox, id).expect_verified();
    }
}

/// The canonical's path is in no file of the copy's `.git`. Seen failing with FETCH_HEAD left there.
#[test]
fn nothing_in_the_copy_leads_back_to_the_canonical() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    let loose = recipe.git(["commit-tree", "-m", "nobody's", "HEAD^{tree}"]);
    let ways: [(&str, &[&str]); 4] =
        [("at", &["--ref", RELEASE]), ("loose", &["--ref", &loose]), ("head", &[]), ("staged", &["--staged"])];
    for (id, args) in ways {
        let tree = RunCopy::create(&sandbox, id).fetched("immich", args.iter().copied());
        let files = fingerprint(&tree.join(".git"));
        for file in files.paths().map(|p| tree.join(".git").join(p)).filter(|p| p.is_file()) {
            let bytes = fs::read(&file).unwrap();
            let words = recipe.path.as_os_str().as_bytes();
            assert!(
                !bytes.windows(words.len()).any(|w| w == words),
                "{id}: the canonical's path in {}",
                file.display()
            );
        }
        for file in files.paths().filter(|p| p.starts_with("hooks") && p.extension().is_none()) {
            assert_eq!(file, Path::new("hooks"), "{id}: a hook that would run");
        }
        assert!(git(&tree, ["remote"]).lines().eq(["origin"]), "{id}");
    }
}

/// `git clone` of a path copies the alternates too: seen failing without `--no-local`.
#[test]
fn objects_are_the_copys_own_when_the_canonical_borrows_its_own() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let lender = Canonical::at(sandbox.path("lender"), sandbox.path("lender-remotes")).add_recipe("immich");
    let recipe = canonical.add_recipe("immich");
    let objects = recipe.path.join(".git/objects");
    fs::remove_dir_all(&objects).unwrap();
    fs::create_dir_all(objects.join("info")).unwrap();
    let theirs = lender.path.join(".git/objects");
    fs::write(objects.join("info/alternates"), format!("{}\n", theirs.display())).unwrap();
    recipe.advance("seven");
    let before = fingerprint(canonical.path());
    for (id, args) in [("clean", &["--ref", RELEASE][..]), ("staged", &["--staged"])] {
        let tree = RunCopy::create(&sandbox, id).fetched("immich", args.iter().copied());
        check_repository(&recipe, &tree).unwrap();
        assert!(shared_files(&lender.path, &tree).is_empty());
    }
    before.expect_same(&fingerprint(canonical.path()));
    // The lender goes, the copies stay whole.
    fs::remove_dir_all(theirs).unwrap();
    for id in ["clean", "staged"] {
        git(&RunCopy::of(&sandbox, id).tree("immich"), ["fsck", "--full"]);
    }
}

/// Seen failing without `--mirror` and without `--no-local`; or copy the `.git` file.
#[test]
fn a_worktree_becomes_a_repository_of_its_own() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let main = Canonical::at(sandbox.path("elsewhere"), sandbox.path("remotes")).add_recipe("immich");
    let path = canonical.recipe_path("immich");
    main.git(["worktree", "add", "-q", path.to_str().unwrap(), BRANCH]);
    assert!(path.join(".git").is_file());
    let recipe = Recipe { name: "immich".to_owned(), path, remote: main.remote.clone() };
    let before = (fingerprint(canonical.path()), fingerprint(&main.path));
    for (id, args, commit) in [
        ("head", &[][..], recipe.commit(BRANCH)),
        ("at", &["--ref", RELEASE], recipe.commit(RELEASE)),
        ("staged", &["--staged"], recipe.commit(BRANCH)),
    ] {
        let run = RunCopy::create(&sandbox, id);
        expect_copy(&recipe, &run.fetched("immich", args.iter().copied()), &commit);
        run.expect_verified();
    }
    before.0.expect_same(&fingerprint(canonical.path()));
    before.1.expect_same(&fingerprint(&main.path));
}

/// A recipe that somebody keeps elsewhere, linked into place. Seen failing without `--no-local`.
#[test]
fn a_linked_recipe_becomes_a_tree_of_its_own() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let real = Canonical::at(sandbox.path("elsewhere"), sandbox.path("remotes")).add_recipe("immich");
    symlink(&real.path, canonical.recipe_path("immich")).unwrap();
    let before = fingerprint(&real.path);
    for (id, args) in [("clean", &[][..]), ("staged", &["--staged"])] {
        let run = RunCopy::create(&sandbox, id);
        let tree = run.fetched("immich", args.iter().copied());
        assert!(tree.symlink_metadata().unwrap().is_dir());
        expect_copy(&real, &tree, &real.commit("main"));
        run.expect_verified();
    }
    before.expect_same(&fingerprint(&real.path));
}

/// The branch is there, though nobody says where it came from. Seen failing with the remote left to `git checkout`.
#[test]
fn a_remote_branch_is_found_without_a_configured_remote() {
    let sandbox = Sandbox::new();
    let recipe = Canonical::new(&sandbox).add_recipe("immich");
    recipe.git(["config", "--remove-section", "remote.origin"]);
    for (n, reference) in [REMOTE_BRANCH, "origin/next"].into_iter().enumerate() {
        let tree = RunCopy::create(&sandbox, &format!("r{n}")).fetched("immich", ["--ref", reference]);
        assert_eq!(git(&tree, ["rev-parse", "HEAD"]), recipe.commit("origin/next"), "{reference}");
    }
}

/// A chmod or a write in the copy must not reach the canonical. Seen failing with a clone as git makes it by itself.
#[test]
fn the_copy_can_be_changed_without_the_canonical() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    recipe.git(["pack-refs", "--all"]);
    recipe.git(["commit", "-q", "--allow-empty", "-m", "a loose object"]);
    let before = fingerprint(canonical.path());
    for (id, args) in [("clean", &[][..]), ("staged", &["--staged"])] {
        let tree = RunCopy::create(&sandbox, id).fetched("immich", args.iter().copied());
        assert!(shared_files(canonical.path(), &tree).is_empty());
        let files = fingerprint(&tree);
        for file in files.paths().map(|p| tree.join(p)).filter(|p| p.is_file()) {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(&file, "overwritten").unwrap();
        }
    }
    before.expect_same(&fingerprint(canonical.path()));
}

/// Hooks of the canonical's own repository, and a program in its configuration: fetching runs none of them.
/// Seen failing with a clone as git makes it by itself, and then with the canonical's status asked for.
#[test]
fn no_program_of_the_canonical_repository_runs() {
    let sandbox = Sandbox::new();
    let recipe = Canonical::new(&sandbox).add_recipe("immich");
    let (trace, hook) = (sandbox.path("trace"), sandbox.path("hook"));
    let body = format!("#!/bin/sh\necho \"$0 $*\" >>'{}'\n", trace.display());
    program(&hook, &body);
    let hooks = recipe.path.join(".git/hooks");
    fs::create_dir_all(&hooks).unwrap();
    for name in ["post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc"] {
        program(&hooks.join(name), &body);
    }
    for key in ["core.fsmonitor", "uploadpack.packObjectsHook", "core.pager", "core.sshCommand"] {
        recipe.git(["config", key, hook.to_str().unwrap()]);
    }
    for (id, args) in [("clean", &["--ref", RELEASE][..]), ("staged", &["--staged"])] {
        let run = RunCopy::create(&sandbox, id);
        run.fetched("immich", args.iter().copied());
        run.expect_verified();
    }
    assert_eq!(fs::read_to_string(&trace).unwrap_or_default(), "");
}

/// A clone of the newest commit only, as CI hosts make them: fetched as far as it goes, with a plain
/// status. To see it fail, refuse a repository that is shallow.
#[test]
fn a_shallow_canonical_is_fetched_as_far_as_it_goes() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let full = Canonical::at(sandbox.path("elsewhere"), sandbox.path("remotes")).add_recipe("immich");
    let path = canonical.recipe_path("immich");
    let url = format!("file://{}", full.remote.display());
    git(canonical.path(), ["clone", "-q", "--depth", "1", "--no-single-branch", &url, path.to_str().unwrap()]);
    let before = fingerprint(canonical.path());
    for (id, args) in [("clean", &[][..]), ("staged", &["--staged"])] {
        let tree = RunCopy::create(&sandbox, id).fetched("immich", args.iter().copied());
        assert_eq!(git(&tree, ["rev-parse", "HEAD"]), full.commit("main"));
        assert_eq!(git(&tree, ["status", "--porcelain", "--ignored"]), "");
        assert_eq!(git(&tree, ["config", "remote.origin.url"]), url);
    }
    before.expect_same(&fingerprint(canonical.path()));
}

/// git calls that "dubious ownership". Seen failing without `safe.directory`, in fetch and in verify.
#[test]
fn a_repository_of_another_user_is_fetched() {
    if !need("root, to become somebody else", geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    give(&recipe.path, NOBODY);
    let before = fingerprint(canonical.path());
    for (id, args) in [("clean", &[][..]), ("at", &["--ref", REMOTE_BRANCH]), ("staged", &["--staged"])] {
        let run = RunCopy::create(&sandbox, id);
        let tree = run.fetched("immich", args.iter().copied());
        check_repository(&recipe, &tree).unwrap();
        run.expect_verified();
    }
    before.expect_same(&fingerprint(canonical.path()));
}

/// The other way round: an unprivileged run may read root's repository, and no more. Seen failing likewise.
#[test]
fn an_unprivileged_user_fetches_from_roots_repository() {
    if !need("root, to become somebody else", geteuid().is_root()) {
        return;
    }
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for dir in ["locks", "runs", "state", "work"] {
        give(&sandbox.path(dir), NOBODY);
    }
    let copy = sandbox.path("ccci-guard");
    // By another process, for the reason that `program` has.
    let mut install = sandbox.command("install");
    install.args(["-m", "755", GUARD]).arg(&copy);
    sandbox.spawn(install).expect_code(0);
    let as_nobody = |args: &[&str]| abra_dir(&sandbox, args).program(&copy).user(NOBODY, NOBODY).output();
    let before = fingerprint(canonical.path());
    for (id, args) in [("clean", &["--ref", RELEASE][..]), ("staged", &["--staged"])] {
        let made = as_nobody(&["create", "--run-id", id]);
        assert_eq!(made.code(), 0, "{}", made.stderr);
        let fetched = as_nobody(&[&["fetch", id, "immich"], args].concat());
        assert_eq!((fetched.code(), fetched.stderr.as_str()), (0, ""), "{id}");
        check_repository(&recipe, &RunCopy::of(&sandbox, id).tree("immich")).unwrap();
        let verified = as_nobody(&["verify", id]);
        assert_eq!((verified.code(), verified.stderr.as_str()), (0, ""), "{id}");
    }
    // What it may not read it says, by name.
    fs::set_permissions(recipe.path.join(".git/objects"), fs::Permissions::from_mode(0o700)).unwrap();
    let made = as_nobody(&["create", "--run-id", "closed"]);
    assert_eq!(made.code(), 0, "{}", made.stderr);
    let refused = as_nobody(&["fetch", "closed", "immich"]);
    assert!([1, 66].contains(&refused.code()), "{}: {}", refused.code(), refused.stderr);
    assert!(refused.stderr.contains("immich"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("dubious"), "{}", refused.stderr);
    let left = RunCopy::of(&sandbox, "closed").names();
    assert!(!left.iter().any(|name| name.contains("immich") || name.contains("fetch-")), "{left:?}");
    fs::set_permissions(recipe.path.join(".git/objects"), fs::Permissions::from_mode(0o755)).unwrap();
    before
        .only(|p| !p.ends_with("objects"))
        .expect_same(&fingerprint(canonical.path()).only(|p| !p.ends_with("objects")));
}

/// A repository with another kind of object names is copied as it is; a submodule comes along with `--staged`.
/// Seen failing: git writes the kind behind the remote's section, and what was taken for a repository without a commit
/// came out empty, with status 0; and git in a copy with a submodule found no repository.
#[test]
fn sha256_and_submodules_are_copied() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let path = canonical.recipe_path("modern");
    fs::create_dir(&path).unwrap();
    git(&path, ["init", "-q", "--object-format=sha256", "-b", "main"]);
    fs::write(path.join("compose.yml"), "services: {}\n").unwrap();
    git(&path, ["add", "-A"]);
    git(&path, ["commit", "-q", "-m", "first"]);
    let tree = RunCopy::create(&sandbox, "modern").fetched("modern", [] as [&str; 0]);
    assert_eq!(fs::read_to_string(tree.join("compose.yml")).unwrap(), "services: {}\n");
    assert_eq!(git(&tree, ["rev-parse", "HEAD"]), git(&path, ["rev-parse", "HEAD"]));

    let inner = canonical.add_recipe("inner");
    let outer = canonical.add_recipe("outer");
    let outer = canonical.recipe_path(&outer.name);
    let url = canonical.recipe_path(&inner.name);
    git(&outer, ["-c", "protocol.file.allow=always", "submodule", "add", "-q", url.to_str().unwrap(), "sub"]);
    let tree = RunCopy::create(&sandbox, "modules").fetched("outer", ["--staged"]);
    assert_eq!(git(&tree.join("sub"), ["rev-parse", "HEAD"]), git(&outer.join("sub"), ["rev-parse", "HEAD"]));
    assert!(git(&tree, ["status", "--porcelain"]).contains("sub"), "git works in it");
}
