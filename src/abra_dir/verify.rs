//! Is an ABRA_DIR as it must be: linked to the canonical one where it should be, and sharing nothing else with it?

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::abra_dir::git::{Git, Stopped, Tools};
use crate::abra_dir::place::Found;
use crate::abra_dir::seen;

/// Everything that is wrong with it, a sentence each.
///
/// # Errors
/// git can't be run; a request to stop.
pub fn faults(tools: &Tools<'_>, found: &Found, canonical: &Path) -> Result<Vec<String>, Stopped> {
    let mut faults = Vec::new();
    for shared in ["servers", "catalogue"] {
        let (link, target) = (found.path.join(shared), canonical.join(shared));
        match fs::read_link(&link) {
            Ok(leads) if leads == target && (shared != "servers" || target.is_dir()) => {}
            Ok(leads) if leads == target => faults.push(format!("'{}' leads to nothing", link.display())),
            Ok(leads) => faults.push(format!(
                "'{}' leads to '{}', not to '{}'",
                link.display(),
                leads.display(),
                target.display()
            )),
            // A host without a catalogue has none to link to.
            Err(_) if shared == "catalogue" && !target.exists() => {}
            Err(_) => faults.push(format!("'{}' is no link to '{}'", link.display(), target.display())),
        }
    }
    let recipes = found.path.join("recipes");
    let Ok(directory) = found.marked.directory.child("recipes") else {
        faults.push(format!("'{}' is no directory", recipes.display()));
        return Ok(faults);
    };
    let mut git = Git::new(tools, &found.path)?;
    for name in directory.names().unwrap_or_default() {
        let (tree, source) = (recipes.join(&name), canonical.join("recipes").join(&name));
        let mut fault = |problem: String| faults.push(format!("recipe {}: {problem}", name.to_string_lossy()));
        if !directory.has_directory(&name) || !directory.child(&name).is_ok_and(|tree| tree.has_directory(".git")) {
            fault(format!("'{}' is no directory with a directory '.git'", tree.display()));
            continue;
        }
        for alternates in ["alternates", "http-alternates"] {
            let path = tree.join(".git/objects/info").join(alternates);
            if path.symlink_metadata().is_ok() {
                fault(format!("'{}' is there: it borrows objects from elsewhere", path.display()));
            }
        }
        if let Some(origin) = origin(&mut git, &tree)?
            && same_place(&origin, &source)
        {
            fault(format!("its origin is the canonical recipe '{}'", source.display()));
        }
        if let Some(shared) = first_shared_file(&tree, &source) {
            fault(format!("'{}' is one file with that of the canonical recipe (a hard link)", shared.display()));
        }
        if let Some(problem) = changed(&mut git, found, &name, &source)? {
            fault(problem);
        }
    }
    Ok(faults)
}

fn origin(git: &mut Git<'_>, tree: &Path) -> Result<Option<PathBuf>, Stopped> {
    let config = tree.join(".git/config");
    let words = [
        OsStr::new("config"),
        OsStr::new("--file"),
        config.as_os_str(),
        OsStr::new("--get"),
        OsStr::new("remote.origin.url"),
    ];
    let origin = git.ask(Path::new("/"), &words)?;
    Ok(origin.map(|origin| PathBuf::from(OsString::from_vec(origin.trim_ascii_end().to_vec()))))
}

fn same_place(origin: &Path, source: &Path) -> bool {
    let origin = origin.strip_prefix("file://").unwrap_or(origin);
    let bare = |path: &Path| if path.ends_with(".git") { path.parent().map(Path::to_owned) } else { None };
    let origin = bare(origin).unwrap_or_else(|| origin.to_owned());
    origin == source || matches!((origin.canonicalize(), source.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The first file of the tree that is one with a file of the canonical recipe, whatever its name there.
fn first_shared_file(tree: &Path, source: &Path) -> Option<PathBuf> {
    let linked: Vec<_> = files(tree).into_iter().filter(|(_, metadata)| metadata.nlink() > 1).collect();
    if linked.is_empty() {
        return None;
    }
    let theirs: HashSet<(u64, u64)> =
        files(source).iter().map(|(_, metadata)| (metadata.dev(), metadata.ino())).collect();
    linked.into_iter().find(|(_, metadata)| theirs.contains(&(metadata.dev(), metadata.ino()))).map(|(path, _)| path)
}

/// All files below a directory; no link is followed.
fn files(directory: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => found.push((entry.path(), metadata)),
                Err(_) => {}
            }
        }
    }
    found
}

fn changed(git: &mut Git<'_>, found: &Found, recipe: &OsStr, source: &Path) -> Result<Option<String>, Stopped> {
    let mut before = String::new();
    let record = found.marked.marks.child("recipes").and_then(|seen| seen.file(recipe, OFlag::O_RDONLY, 0));
    if record.and_then(|mut record| record.read_to_string(&mut before)).is_err() {
        // One that the harness put there by itself: nothing is known of its canonical one.
        return Ok(None);
    }
    let shown = source.display();
    let Some(head) = git.head(source)? else {
        return Ok(Some(format!("the canonical recipe '{shown}' is no repository any more")));
    };
    Ok(match seen::listing(source, &head) {
        Err(error) => Some(format!("the canonical recipe '{shown}' can't be read: {error}")),
        Ok(now) => seen::difference(&before, &now)
            .map(|file| format!("the canonical recipe '{shown}' has changed since it was fetched: {file}")),
    })
}
