//! Fetching a recipe into an ABRA_DIR: a copy of the canonical one that shares nothing with it.
//!
//! git's own transport makes it (`--no-local`), not a copy of files: it takes whole objects only and can't meet a half
//! written pack, a lock file or a repack of somebody who works in the canonical recipe at the same time. The copy is made
//! beside the recipes and renamed to them when it is whole.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::getpid;

use crate::abra_dir::git::{Git, Head, Stopped, Tools};
use crate::abra_dir::mark::{MARKS, Marked};
use crate::abra_dir::{config, seen, staged};
use crate::error::Error;
use crate::sys::directory::Directory;

/// Which state of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// What is checked out in the canonical one, as it was committed.
    Head,
    /// A branch, tag or commit.
    Ref(String),
    /// The working tree of the canonical one as it is, for a recipe that was prepared by hand.
    Staged,
}

/// The name of a recipe: `[A-Za-z0-9._-]+`, not beginning with a dot or a dash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe(String);

impl Recipe {
    /// Checks a name.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(name: &str) -> Result<Self, String> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > 200 {
            Err("is no recipe: a name has 1 to 200 characters".to_owned())
        } else if name.starts_with(['.', '-']) || !name.bytes().all(good) {
            Err("is no recipe: a name has A-Z, a-z, 0-9, '.', '_' and '-', and begins with none of '.' and '-'"
                .to_owned())
        } else {
            Ok(Recipe(name.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks the name of a branch, tag or commit as far as it must not be taken for an option.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn parse_ref(name: &str) -> Result<String, String> {
    match name {
        "" => Err("is empty; give a branch, tag or commit".to_owned()),
        name if name.starts_with('-') => Err("is no branch, tag or commit: it begins with '-'".to_owned()),
        name if name.contains(char::is_control) => Err("is no branch, tag or commit".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// Fetches a recipe into the ABRA_DIR at `abra`; the caller holds its mark. Tells the path of the new tree.
///
/// # Errors
/// It is there already; the canonical one, or the version, is not; git fails; a request to stop.
pub fn fetch(
    tools: &Tools<'_>,
    marked: &Marked,
    abra: &Path,
    canonical: &Path,
    recipe: &Recipe,
    version: &Version,
) -> Result<PathBuf, Stopped> {
    let name = recipe.as_str();
    let place = abra.join("recipes").join(name);
    let failed = |error| Error::File { what: "cannot fetch the recipe to", path: place.clone(), error };
    let recipes = marked.directory.child("recipes").map_err(failed)?;
    if recipes.stat(name).is_ok() {
        return Err(exists(&place).into());
    }
    let source = canonical.join("recipes").join(name);
    let unknown = |problem| Error::Missing(format!("recipe {name} is unknown: '{}' {problem}", source.display()));
    if !source.is_dir() {
        return Err(unknown("is not there").into());
    }
    let work = Work::begin(&marked.marks, abra).map_err(failed)?;
    let mut git = Git::new(tools, abra)?;
    let Some(head) = git.head(&source)? else {
        return Err(match std::fs::File::open(source.join(".git")).err() {
            Some(error) if error.kind() == io::ErrorKind::PermissionDenied => cannot_read(&source.join(".git"), error),
            _ => unknown("is no git repository"),
        }
        .into());
    };
    let seen = seen::listing(&source, &head).map_err(|error| cannot_read(&source, error))?;
    clone(&mut git, &source, &head, &work.path("tree"))?;
    check_out(&mut git, &source, &work.path("tree"), recipe, version)?;
    // git takes a repository whose format it does not know for one without a commit.
    if head != Head::Unborn && matches!(git.head(&work.path("tree"))?, None | Some(Head::Unborn)) {
        return Err(Error::Tool(format!("the copy of recipe {name} came out empty; nothing was kept of it")).into());
    }
    // Before the recipe is seen: one that can't be verified would be worse than none.
    write(&marked.marks.child("recipes").map_err(failed)?, name, seen.as_bytes()).map_err(failed)?;
    match work.directory.rename("tree", &recipes, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&place).into()),
        renamed => Ok(renamed.map(|()| place.clone()).map_err(failed)?),
    }
}

fn cannot_read(path: &Path, error: io::Error) -> Error {
    Error::File { what: "cannot read the canonical recipe", path: path.to_owned(), error }
}

fn exists(place: &Path) -> Error {
    Error::Exists(format!("'{}' exists already; nothing was changed", place.display()))
}

/// A place for one fetch: removed at its end. What a killed one leaves goes with the ABRA_DIR.
struct Work<'a> {
    marks: &'a Directory,
    name: OsString,
    directory: Directory,
    path: PathBuf,
}

impl<'a> Work<'a> {
    fn begin(marks: &'a Directory, abra: &Path) -> io::Result<Self> {
        let pid = getpid();
        let name = |n: u32| OsString::from(format!("fetch-{pid}-{n}"));
        let name = (0..).map(name).find(|name| marks.stat(name).is_err()).unwrap_or_default();
        marks.make(&name, 0o700)?;
        let directory = marks.child(&name)?;
        let path = abra.join(MARKS).join(&name);
        Ok(Work { marks, name, directory, path })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let _ = self.marks.remove_tree(&self.name, &[]);
    }
}

fn write(directory: &Directory, name: &str, text: &[u8]) -> io::Result<()> {
    directory.file(name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC, 0o600)?.write_all(text)
}

/// All refs as they are, remote ones too, and then the true origin in the place of the canonical path.
fn clone(git: &mut Git<'_>, source: &Path, head: &Head, tree: &Path) -> Result<(), Stopped> {
    let words = |text: &'static str| text.split(' ').map(OsStr::new).collect::<Vec<_>>();
    let repository = tree.join(".git");
    let mut clone = words("clone --quiet --mirror --no-hardlinks --no-local --template= --origin origin --");
    clone.extend([source.as_os_str(), repository.as_os_str()]);
    std::fs::create_dir(tree).map_err(|error| Error::File {
        what: "cannot make the recipe's directory",
        path: tree.to_owned(),
        error,
    })?;
    git.run(Path::new("/"), &clone)?;
    let kept = r"config -z --get-regexp ^(remote\.origin\.url|branch\..*\.(remote|merge))$";
    let kept = git.ask(source, &words(kept))?.unwrap_or_default();
    let write = |name: &str, text: &[u8]| {
        let path = repository.join(name);
        std::fs::write(&path, text).map_err(|error| Error::File {
            what: "cannot write to the recipe's copy",
            path,
            error,
        })
    };
    let path = repository.join("config");
    let mirror = std::fs::read(&path).map_err(|error| cannot_read(&path, error))?;
    write("config", &config::ordinary(&mirror, &kept, source))?;
    // git guesses a branch where HEAD is a commit alone.
    Ok(head.as_file().map_or(Ok(()), |head| write("HEAD", head.as_bytes()))?)
}

fn check_out(git: &mut Git<'_>, source: &Path, tree: &Path, recipe: &Recipe, version: &Version) -> Result<(), Stopped> {
    match version {
        // Also in a repository without a commit, where `checkout` fails.
        Version::Head => git.run(tree, &["reset", "--quiet", "--hard"].map(OsStr::new)),
        Version::Staged => {
            staged::copy(source, tree).map_err(|error| Error::File {
                what: "cannot copy the working tree",
                path: source.to_owned(),
                error,
            })?;
            copy_submodules(source, tree)?;
            git.run(tree, &["reset", "--quiet", "--mixed"].map(OsStr::new))
        }
        Version::Ref(name) => check_out_ref(git, source, tree, recipe, name),
    }
}

/// The repositories of submodules, which the working tree refers to, lie in that of the recipe.
fn copy_submodules(source: &Path, tree: &Path) -> Result<(), Error> {
    let (from, to) = (source.join(".git/modules"), tree.join(".git/modules"));
    if !from.is_dir() {
        return Ok(());
    }
    let copied = std::fs::create_dir(&to).and_then(|()| staged::copy(&from, &to));
    copied.map_err(|error| Error::File { what: "cannot copy the submodules", path: from, error })
}

fn check_out_ref(git: &mut Git<'_>, source: &Path, tree: &Path, recipe: &Recipe, name: &str) -> Result<(), Stopped> {
    let check_out = ["checkout", "--quiet", name, "--"].map(OsStr::new);
    if git.ask(tree, &check_out)?.is_some() {
        return Ok(());
    }
    let commit = |name: &str| OsString::from(format!("{name}^{{commit}}"));
    let look_up = ["rev-parse", "--verify", "--quiet"].map(OsStr::new);
    let mut find = |place: &Path, name: &str| git.ask(place, &[&look_up[..], &[&commit(name)]].concat());
    if find(tree, name)?.is_some() {
        // It is there: what is wrong is something else, and git says what.
        return git.run(tree, &check_out);
    }
    let remote = format!("refs/remotes/origin/{name}");
    if find(tree, &remote)?.is_some() {
        return git.run(tree, &["checkout", "--quiet", "--no-track", "-b", name, &remote].map(OsStr::new));
    }
    // A commit that no ref leads to.
    let Some(id) = find(source, name)? else {
        return Err(Error::Missing(format!("recipe {} has no branch, tag or commit '{name}'", recipe.as_str())).into());
    };
    let id = OsStr::from_bytes(id.trim_ascii());
    let fetch = ["fetch", "--quiet", "--no-tags", "--"].map(OsStr::new);
    git.run(tree, &[&fetch[..], &[source.as_os_str(), id]].concat())?;
    let _ = std::fs::remove_file(tree.join(".git/FETCH_HEAD"));
    git.run(tree, &[OsStr::new("checkout"), OsStr::new("--quiet"), OsStr::new("--detach"), id])
}
