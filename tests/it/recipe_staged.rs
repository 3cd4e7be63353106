//! `abra-dir fetch --staged`: a recipe that somebody prepared by hand, with everything that git does not know of.

use crate::support::*;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What of a working tree a copy must have: kind and mode, time of change, content or target.
fn tree_of(path: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let below = fingerprint(path);
    let ours = below.paths().filter(|p| !p.as_os_str().is_empty() && !p.starts_with(".git"));
    let look = |p: &Path| {
        let full = path.join(p);
        let data = fs::symlink_metadata(&full).unwrap();
        let content = if data.is_symlink() {
            fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else if data.is_file() {
            fs::read(&full).unwrap()
        } else {
            Vec::new()
        };
        (data.mode(), data.mtime(), data.mtime_nsec(), content)
    };
    ours.map(|p| (p.to_owned(), look(p))).collect()
}

#[track_caller]
fn expect_same_tree(canonical: &Path, copy: &Path) {
    let (should, is) = (tree_of(canonical), tree_of(copy));
    let missing: Vec<_> = should.keys().filter(|p| !is.contains_key(*p)).collect();
    let extra: Vec<_> = is.keys().filter(|p| !should.contains_key(*p)).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:?}, too many: {extra:?}");
    for (path, thing) in should {
        assert_eq!(is[&path], thing, "{}", path.display());
    }
}

/// What a person leaves in a working tree.
fn make_dirty(recipe: &Recipe) {
    let path = |name: &str| recipe.path.join(name);
    fs::write(path("compose.yml"), "services: {}\n").unwrap();
    fs::remove_file(path("abra.sh")).unwrap();
    fs::set_permissions(path("version"), fs::Permissions::from_mode(0o755)).unwrap();
    for dir in ["untracked/deep", "build/out", "empty", "closed"] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    fs::write(path("untracked/deep/file"), "untracked\n").unwrap();
    fs::write(path("debug.log"), "ignored\n").unwrap();
    fs::write(path("build/out/file"), "in an ignored directory\n").unwrap();
    fs::write(path("closed/secret"), "secret\n").unwrap();
    fs::write(path("-rf"), "starts with a dash\n").unwrap();
    fs::write(path("new\nline"), "").unwrap();
    fs::write(recipe.path.join(OsStr::from_bytes(b"latin-\xe9")), "not UTF-8\n").unwrap();
    symlink("../../servers", path("way-out")).unwrap();
    symlink("/nonexistent/absolute", path("dangling")).unwrap();
    fs::remove_file(path("compose.link.yml")).unwrap();
    symlink("untracked/deep", path("compose.link.yml")).unwrap();
    fs::write(path("staged.yml"), "added, not committed\n").unwrap();
    recipe.git(["add", "staged.yml", "compose.yml"]);
    fs::write(path("compose.yml"), "services: {}\n# and changed after that\n").unwrap();
    fs::set_permissions(path("closed/secret"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(path("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    // Links and directories too, inner ones first.
    let mut all: Vec<_> = tree_of(&recipe.path).into_keys().collect();
    all.reverse();
    for (n, name) in all.iter().enumerate() {
        let time = TimeSpec::from_duration(Duration::new(1_600_000_000 + n as u64, 123_456_789));
        utimensat(nix::fcntl::AT_FDCWD, &recipe.path.join(name), &time, &time, UtimensatFlags::NoFollowSymlink)
            .unwrap();
    }
}

/// Seen failing without the times of files, of links, and with links followed.
#[test]
fn a_dirty_tree_is_copied_as_it_is() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    make_dirty(&recipe);
    let before = fingerprint(canonical.path());
    let run = RunCopy::create(&sandbox, "r1");
    let tree = run.fetched("immich", ["--staged"]);
    before.expect_same(&fingerprint(canonical.path()));
    expect_same_tree(&recipe.path, &tree);
    check_repository(&recipe, &tree).unwrap();
    assert_eq!(git(&tree, ["rev-parse", "HEAD"]), recipe.commit("HEAD"));
    assert_eq!(fs::read_to_string(tree.join(".git/HEAD")).unwrap(), "ref: refs/heads/main\n");
    // Against HEAD it differs just as the canonical does.
    let names = |dir: &Path| git(dir, ["diff", "--no-ext-diff", "HEAD", "--", ":!staged.yml"]);
    assert_eq!(names(&tree), names(&recipe.path));
    run.expect_verified();
}

/// The dirty tree stays with the operator: a fetch without `--staged` has HEAD, and nothing more.
/// Seen failing with the canonical's index refreshed.
#[test]
fn without_staged_a_dirty_tree_is_left_where_it_is() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    make_dirty(&recipe);
    let before = fingerprint(canonical.path());
    for (id, args) in [("head", &[][..]), ("at", &["--ref", "main"])] {
        let run = RunCopy::create(&sandbox, id);
        expect_copy(&recipe, &run.fetched("immich", args.iter().copied()), &recipe.commit("main"));
        run.expect_verified();
    }
    before.expect_same(&fingerprint(canonical.path()));
}

/// A tree that is deep in a merge, on a detached HEAD: the files are the files. Seen failing with the HEAD that git's
/// clone guesses.
#[test]
fn a_tree_in_the_middle_of_a_merge_is_copied() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    recipe.git(["checkout", "-q", "--detach"]);
    assert!(!try_git(&recipe.path, ["merge", "-q", BRANCH]).status.success(), "a conflict");
    let before = fingerprint(canonical.path());
    let run = RunCopy::create(&sandbox, "r1");
    let tree = run.fetched("immich", ["--staged"]);
    expect_same_tree(&recipe.path, &tree);
    check_repository(&recipe, &tree).unwrap();
    assert_eq!(fs::read_to_string(tree.join(".git/HEAD")).unwrap().trim(), recipe.commit("main"));
    before.expect_same(&fingerprint(canonical.path()));
}

/// A repository in the tree (a recipe that was cloned into another by mistake) and a link out of it: both are copied,
/// neither followed nor shared. Seen failing with links followed.
#[test]
fn what_lies_in_the_tree_is_neither_followed_nor_shared() {
    let sandbox = Sandbox::new();
    let canonical = Canonical::new(&sandbox);
    let recipe = canonical.add_recipe("immich");
    let inner = canonical.add_recipe("inner");
    fs::rename(&inner.path, recipe.path.join("inner")).unwrap();
    symlink(canonical.path(), recipe.path.join("loop")).unwrap();
    fs::hard_link(recipe.path.join("version"), recipe.path.join("same")).unwrap();
    let before = fingerprint(canonical.path());
    let run = RunCopy::create(&sandbox, "r1");
    let tree = run.fetched("immich", ["--staged"]);
    expect_same_tree(&recipe.path, &tree);
    assert_eq!(git(&tree.join("inner"), ["fsck", "--full"]), "");
    assert!(shared_files(canonical.path(), &tree).is_empty());
    run.expect_verified();
    before.expect_same(&fingerprint(canonical.path()));
}

/// A pipe or a socket in the tree must not make it wait for ever. Seen failing with whatever is there opened.
#[test]
fn a_pipe_in_the_tree_does_not_block_it() {
    let sandbox = Sandbox::new();
    let recipe = Canonical::new(&sandbox).add_recipe("immich");
    nix::unistd::mkfifo(&recipe.path.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(recipe.path.join("socket")).unwrap();
    let run = RunCopy::create(&sandbox, "r1");
    let mut fetch = run.fetch("immich", ["--staged"]).spawn();
    let code = fetch.code();
    // Copied, left out or refused by name: all is well but to hang.
    if code != 0 {
        assert!(fetch.stderr().contains("pipe") || fetch.stderr().contains("socket"), "{code}: {}", fetch.stderr());
        assert!(!run.tree("immich").exists());
    }
}
