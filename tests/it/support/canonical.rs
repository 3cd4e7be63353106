//! The host's own ABRA_DIR, as the operator has it: servers, a catalogue, recipes that are git repositories.
//!
//! A recipe is made by two processes (`fast-import`, `reset`), so that a test may have many. Git runs with no
//! configuration but ours, and never touches an index only to look at it.

use super::Sandbox;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A recipe's newest release: an annotated tag with a `+` in it, as abra makes them.
pub const RELEASE: &str = "1.1.0+2.4.0";
/// The release before it: a light tag.
pub const OLD_RELEASE: &str = "1.0.0+2.3.4";
/// A local branch with a slash in its name.
pub const BRANCH: &str = "fix/env";
/// A branch of the remote that is here only as `refs/remotes/origin/next`.
pub const REMOTE_BRANCH: &str = "next";

/// An ABRA_DIR and the remotes of its recipes.
pub struct Canonical {
    root: PathBuf,
    remotes: PathBuf,
}

/// One recipe of the canonical ABRA_DIR: its working tree is clean, on branch `main`.
pub struct Recipe {
    /// The name below `recipes/`.
    pub name: String,
    /// The working tree.
    pub path: PathBuf,
    /// The bare repository that is its `origin`.
    pub remote: PathBuf,
}

impl Canonical {
    /// In the sandbox's `home/.abra`, where a guard looks by itself: one server with one app, a catalogue, no recipe.
    pub fn new(sandbox: &Sandbox) -> Self {
        Self::at(sandbox.path("home/.abra"), sandbox.path("remotes"))
    }

    /// The same somewhere else.
    pub fn at(root: PathBuf, remotes: PathBuf) -> Self {
        for dir in ["servers", "catalogue", "recipes"] {
            fs::create_dir_all(root.join(dir)).expect("a directory of the canonical ABRA_DIR");
        }
        fs::create_dir_all(&remotes).expect("a directory of remotes");
        let canonical = Self { root, remotes };
        canonical.add_env("ci.example.net", "immi-ad3e33.ci.example.net");
        fs::write(canonical.path().join("catalogue/recipes.json"), "{}\n").expect("a catalogue");
        canonical
    }

    /// The ABRA_DIR itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// `servers/`.
    pub fn servers(&self) -> PathBuf {
        self.root.join("servers")
    }

    /// `catalogue/`.
    pub fn catalogue(&self) -> PathBuf {
        self.root.join("catalogue")
    }

    /// `recipes/NAME`, whether it is there or not.
    pub fn recipe_path(&self, name: &str) -> PathBuf {
        self.root.join("recipes").join(name)
    }

    /// An app's `.env` file; it is made.
    pub fn add_env(&self, server: &str, app: &str) -> PathBuf {
        let path = self.servers().join(server).join(format!("{app}.env"));
        fs::create_dir_all(path.parent().expect("a server")).expect("a server");
        fs::write(&path, "TYPE=immich\n").expect("an .env file");
        path
    }

    /// A recipe with history: `main` (three commits), two releases, a local branch, a branch of the remote only.
    pub fn add_recipe(&self, name: &str) -> Recipe {
        let (path, remote) = (self.recipe_path(name), self.remotes.join(format!("{name}.git")));
        skeleton(&path.join(".git"), &work_config(&remote.display().to_string()));
        let mut import = git_command(&path);
        import.args(["-c", "fastimport.unpackLimit=1", "fast-import", "--quiet"]).stdin(Stdio::piped());
        let mut import = import.spawn().expect("git fast-import");
        import.stdin.take().expect("its stdin").write_all(history(name).as_bytes()).expect("a history");
        let output = import.wait_with_output().expect("git fast-import");
        assert!(output.status.success(), "fast-import: {}", String::from_utf8_lossy(&output.stderr));
        git(&path, ["reset", "-q", "--hard"]);
        let recipe = Recipe { name: name.to_owned(), path, remote };
        recipe.publish();
        recipe
    }
}

impl Recipe {
    /// Git in the working tree; gives its stdout without the last newline.
    #[track_caller]
    pub fn git<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        git(&self.path, args)
    }

    /// The full id of the commit that `reference` means here.
    #[track_caller]
    pub fn commit(&self, reference: &str) -> String {
        self.git(["rev-parse", "--verify", &format!("{reference}^{{commit}}")])
    }

    /// What `version` says in the tree of `reference`: each commit has its own.
    #[track_caller]
    pub fn version(&self, reference: &str) -> String {
        self.git(["show", &format!("{reference}:version")])
    }

    /// A new commit on the branch that is checked out.
    #[track_caller]
    pub fn advance(&self, version: &str) -> String {
        fs::write(self.path.join("version"), format!("{version}\n")).expect("a new version");
        self.git(["commit", "-qam", version]);
        self.commit("HEAD")
    }

    /// A new commit on a branch of the remote, by one process: nobody here has it before a fetch.
    #[track_caller]
    pub fn advance_remote(&self, branch: &str, version: &str) -> String {
        let old = git(&self.remote, ["rev-parse", &format!("refs/heads/{branch}")]);
        let tree = git(&self.remote, ["rev-parse", &format!("{old}^{{tree}}")]);
        let new = git(&self.remote, ["commit-tree", "-p", &old, "-m", version, &tree]);
        git(&self.remote, ["update-ref", &format!("refs/heads/{branch}"), &new]);
        new
    }

    /// Makes the bare remote as a copy of what is here; the remote-only branch is a branch there.
    fn publish(&self) {
        skeleton(&self.remote, "[core]\n\trepositoryformatversion = 0\n\tbare = true\n");
        copy_tree(&self.path.join(".git/objects"), &self.remote.join("objects"));
        for kind in ["heads", "tags"] {
            copy_tree(&self.path.join(".git/refs").join(kind), &self.remote.join("refs").join(kind));
        }
        let next = format!("refs/heads/{REMOTE_BRANCH}");
        fs::copy(self.path.join(".git/refs/remotes/origin").join(REMOTE_BRANCH), self.remote.join(next))
            .expect("the remote's own branch");
        let head = self.path.join(".git/refs/remotes/origin/HEAD");
        fs::write(head, "ref: refs/remotes/origin/main\n").expect("the remote's HEAD");
    }
}

/// Git in `dir`, without anybody's configuration; gives its stdout without the last newline.
#[track_caller]
pub fn git<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> String {
    let output = try_git(dir, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git in {}: {}: {stderr}", dir.display(), output.status);
    String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
}

/// The same where it may fail.
#[track_caller]
pub fn try_git<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Output {
    git_command(dir).args(args).output().expect("git is installed")
}

/// Git, not started yet: nothing of the caller's environment but PATH, any owner is fine, no lock only to look.
pub fn git_command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", "/nonexistent");
    command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "tester").env(format!("GIT_{who}_EMAIL"), "tester@example.net");
    }
    command.args(["-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Copies directories, files with their modes, and links; into what is there already, too.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory of the copy");
    for entry in fs::read_dir(from).expect("a directory to copy") {
        let entry = entry.expect("an entry");
        let (kind, target) = (entry.file_type().expect("a type"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &target);
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path()).expect("a link"), target).expect("a link in the copy");
        } else {
            fs::copy(entry.path(), target).expect("a file of the copy");
        }
    }
}

/// What `git init` makes, as far as git needs it.
fn skeleton(dir: &Path, config: &str) {
    for name in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "refs/remotes/origin"] {
        fs::create_dir_all(dir.join(name)).expect("a directory of a repository");
    }
    fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").expect("HEAD");
    fs::write(dir.join("config"), config).expect("a config");
}

fn work_config(url: &str) -> String {
    format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\
         [remote \"origin\"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\
         [branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n"
    )
}

/// A `fast-import` stream. What a recipe has: an executable, a link, a directory, an ignored name.
fn history(name: &str) -> String {
    let data = |text: &str| format!("data {}\n{text}\n", text.len());
    let who = |when: u32| format!("tester <tester@example.net> {} +0000", 1_700_000_000 + when);
    let commit = |to: &str, when: u32, from: &str, version: &str, more: &str| {
        let file = data(&format!("{name} {version}\n"));
        format!(
            "commit {to}\nmark :{when}\ncommitter {}\n{}{from}M 100644 inline version\n{file}{more}\n",
            who(when),
            data(version)
        )
    };
    let compose = data("services:\n  app:\n    image: immich\n");
    let files = format!(
        "M 100644 inline compose.yml\n{compose}M 100755 inline abra.sh\n{}M 100644 inline .gitignore\n{}\
         M 100644 inline config/app.conf\n{}M 120000 inline compose.link.yml\n{}",
        data("#!/bin/sh\nexport APP=immich\n"),
        data("*.log\n/build/\n"),
        data("listen 80\n"),
        data("compose.yml")
    );
    let light = |tag: &str, from: u32| format!("reset refs/tags/{tag}\nfrom :{from}\n\n");
    [
        commit("refs/heads/main", 1, "", "one", &files),
        light(OLD_RELEASE, 1),
        commit("refs/heads/main", 2, "from :1\n", "two", ""),
        format!("tag {RELEASE}\nfrom :2\ntagger {}\n{}", who(2), data("the release")),
        commit("refs/heads/main", 3, "from :2\n", "three", "D config/app.conf\n"),
        commit(&format!("refs/heads/{BRANCH}"), 4, "from :1\n", "four", ""),
        commit(&format!("refs/remotes/origin/{REMOTE_BRANCH}"), 5, "from :3\n", "five", ""),
        "reset refs/remotes/origin/main\nfrom :3\n\ndone\n".to_owned(),
    ]
    .concat()
}

/// The user whom a repository is given to.
pub const NOBODY: u32 = 65534;

/// Gives a directory and everything below it to somebody else.
pub fn give(path: &Path, uid: u32) {
    for below in super::fingerprint(path).paths() {
        std::os::unix::fs::lchown(path.join(below), Some(uid), Some(uid)).expect("root may do that");
    }
}

/// An executable script. Not written by us: a process that another thread forks meanwhile would have it open for
/// writing, and whoever executes it then gets ETXTBSY.
pub fn program(path: &Path, body: &str) {
    let mut writer = Command::new("/bin/sh");
    writer.args(["-c", "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).arg(body);
    assert!(writer.status().expect("a shell").success(), "cannot write {}", path.display());
}
