//! A run's ABRA_DIR as `abra-dir` makes it, and what a recipe fetched into it must be.

use super::canonical::{Recipe, git};
use super::fingerprint::{fingerprint, shared_files};
use super::{Guard, Sandbox};
use std::fs;
use std::path::{Path, PathBuf};

/// The ABRA_DIR of one run id.
pub struct RunCopy<'a> {
    sandbox: &'a Sandbox,
    /// The run id.
    pub id: String,
}

impl<'a> RunCopy<'a> {
    /// Makes it with `abra-dir create`.
    #[track_caller]
    pub fn create(sandbox: &'a Sandbox, id: &str) -> Self {
        let made = abra_dir(sandbox, ["create", "--run-id", id]).output();
        assert_eq!(made.code(), 0, "create: {}", made.stderr);
        Self::of(sandbox, id)
    }

    /// One that somebody else makes.
    pub fn of(sandbox: &'a Sandbox, id: &str) -> Self {
        Self { sandbox, id: id.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.sandbox.runs_dir().join(&self.id).join("abra")
    }

    /// A recipe's tree in it.
    pub fn tree(&self, recipe: &str) -> PathBuf {
        self.path().join("recipes").join(recipe)
    }

    /// `abra-dir VERB ID ARGS`, not started yet.
    pub fn ask<'s>(&self, verb: &str, args: impl IntoIterator<Item = &'s str>) -> Guard<'a> {
        abra_dir(self.sandbox, [verb, self.id.as_str()]).args(args)
    }

    /// `abra-dir fetch ID RECIPE ARGS`, not started yet.
    pub fn fetch<'s>(&self, recipe: &str, args: impl IntoIterator<Item = &'s str>) -> Guard<'a> {
        self.ask("fetch", [recipe]).args(args)
    }

    /// Fetches, which must work, and gives the tree whose path it printed.
    #[track_caller]
    pub fn fetched<'s>(&self, recipe: &str, args: impl IntoIterator<Item = &'s str>) -> PathBuf {
        let output = self.fetch(recipe, args).output();
        assert_eq!(output.code(), 0, "fetch {recipe}: {}", output.stderr);
        assert_eq!(output.text(), format!("{}\n", self.tree(recipe).display()));
        assert_eq!(output.stderr, "");
        self.tree(recipe)
    }

    /// A fetch that must fail with `code` and these words, and leave nothing.
    #[track_caller]
    pub fn refused<'s>(&self, recipe: &str, args: impl IntoIterator<Item = &'s str>, code: i32, words: &str) {
        let before = self.names();
        let output = self.fetch(recipe, args).output();
        assert_eq!(output.code(), code, "fetch {recipe:?}: {}", output.stderr);
        assert!(output.stderr.contains(words), "{words:?} is not in: {}", output.stderr);
        assert_eq!(output.text(), "");
        assert_eq!(self.names(), before, "something is left of it");
        self.sandbox.nothing_left().expect("no process is left");
    }

    /// Everything that is in it, our own directory too; of a fetched recipe only the name.
    pub fn names(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in ["", "recipes", ".ccci-guard", ".ccci-guard/recipes"] {
            let entries = fs::read_dir(self.path().join(dir)).into_iter().flatten().flatten();
            found.extend(entries.map(|e| format!("{dir}/{}", e.file_name().display())));
        }
        found.sort();
        found
    }

    /// `verify` finds nothing.
    #[track_caller]
    pub fn expect_verified(&self) {
        let output = self.ask("verify", []).output();
        assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "verify");
    }
}

/// `ccci-guard abra-dir ARGS`, not started yet.
pub fn abra_dir<'a, S: AsRef<std::ffi::OsStr>>(sandbox: &'a Sandbox, args: impl IntoIterator<Item = S>) -> Guard<'a> {
    sandbox.plain().arg("abra-dir").args(args)
}

/// What every copy must be: a repository of its own at `commit`, clean, whole, with the canonical's branches and tags.
#[track_caller]
pub fn expect_copy(recipe: &Recipe, tree: &Path, commit: &str) {
    let checked = check_copy(recipe, tree, commit).and_then(|()| check_names(recipe, tree));
    checked.unwrap_or_else(|fault| panic!("{}: {fault}", tree.display()));
}

/// The same as a result, and without the names: somebody may change the canonical's meanwhile.
pub fn check_copy(recipe: &Recipe, tree: &Path, commit: &str) -> Result<(), String> {
    check_repository(recipe, tree)?;
    let same = |what: &str, is: String, should: String| {
        if is == should { Ok(()) } else { Err(format!("{what}: {is:?}, not {should:?}")) }
    };
    same("HEAD", git(tree, ["rev-parse", "HEAD"]), commit.to_owned())?;
    same("status", git(tree, ["status", "--porcelain", "--ignored"]), String::new())?;
    same("version", fs::read_to_string(tree.join("version")).unwrap_or_default(), recipe.version(commit) + "\n")
}

/// What holds for a `--staged` one too: whose it is, not how its tree looks.
pub fn check_repository(recipe: &Recipe, tree: &Path) -> Result<(), String> {
    let ours = tree.join(".git");
    match fs::symlink_metadata(&ours) {
        Ok(data) if data.is_dir() => {}
        other => return Err(format!(".git is no directory: {other:?}")),
    }
    for name in ["objects/info/alternates", "objects/info/http-alternates", "shallow", "commondir"] {
        if ours.join(name).symlink_metadata().is_ok() {
            return Err(format!("it has .git/{name}"));
        }
    }
    if let Some(lock) = locks(&ours).first() {
        return Err(format!("a stray {lock}"));
    }
    let shared = shared_files(&recipe.path, tree);
    if !shared.is_empty() {
        return Err(format!("hard links into the canonical: {shared:?}"));
    }
    let url = git(tree, ["config", "--local", "--get-all", "remote.origin.url"]);
    if Path::new(&url) != recipe.remote {
        return Err(format!("origin is {url}, not {}", recipe.remote.display()));
    }
    let fsck = super::try_git(tree, ["fsck", "--connectivity-only", "--no-dangling"]);
    if !fsck.status.success() {
        return Err(format!("fsck: {}", String::from_utf8_lossy(&fsck.stderr)));
    }
    Ok(())
}

/// Every branch, tag and remote branch of the canonical is one of the copy.
pub fn check_names(recipe: &Recipe, tree: &Path) -> Result<(), String> {
    let refs = |dir: &Path| {
        let format = "--format=%(refname) %(objectname)";
        git(dir, ["for-each-ref", format, "refs/heads", "refs/tags", "refs/remotes/origin"])
    };
    let mine = refs(tree);
    for line in refs(&recipe.path).lines().filter(|line| !line.starts_with("refs/remotes/origin/HEAD ")) {
        if !mine.lines().any(|l| l == line) {
            return Err(format!("{line} is not among its refs:\n{mine}"));
        }
    }
    Ok(())
}

/// Lock files that a git which is over has left.
pub fn locks(git_dir: &Path) -> Vec<String> {
    let found = fingerprint(git_dir);
    found.paths().filter(|p| p.extension().is_some_and(|e| e == "lock")).map(|p| p.display().to_string()).collect()
}
