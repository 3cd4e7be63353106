//! What a directory looks like, to the last nanosecond: two of them are equal only when nothing was changed between.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One line for each thing in a directory, the directory itself included, by its path from there.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Thing>);

/// The times of change tell also of what was done and undone: a lock file, a link, a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Thing {
    mode: String,
    owner: (u32, u32),
    nlink: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Bytes(u64),
    Link(PathBuf),
    Other,
}

/// Content, mode, owner, times, link target and link count of everything below `path`, no link followed.
#[track_caller]
pub fn fingerprint(path: &Path) -> Fingerprint {
    let (mut found, mut open) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(next) = open.pop() {
        // What somebody else's git removed meanwhile is not there: `join` of an empty path adds a slash.
        let full = if next.as_os_str().is_empty() { path.to_owned() } else { path.join(&next) };
        let Ok(data) = fs::symlink_metadata(&full) else { continue };
        let content = if data.is_symlink() {
            fs::read_link(&full).map_or(Content::Other, Content::Link)
        } else if data.is_file() {
            fs::read(&full).map_or(Content::Other, |bytes| Content::Bytes(hash(&bytes)))
        } else {
            Content::Other
        };
        if data.is_dir() {
            open.extend(fs::read_dir(&full).into_iter().flatten().flatten().map(|e| next.join(e.file_name())));
        }
        let thing = Thing {
            mode: format!("{:o}", data.mode()),
            owner: (data.uid(), data.gid()),
            nlink: data.nlink(),
            // A directory's size is its file system's own affair.
            size: if data.is_dir() { 0 } else { data.size() },
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
            content,
        };
        found.insert(next, thing);
    }
    assert!(!found.is_empty(), "{} is not there", path.display());
    Fingerprint(found)
}

impl Fingerprint {
    /// Only those things whose path from the top `keep` wants.
    pub fn only(mut self, keep: impl Fn(&Path) -> bool) -> Self {
        self.0.retain(|path, _| keep(path));
        self
    }

    /// The paths in it.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// What is new, gone or different in `later`, one line each.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let gone = self.0.iter().filter(|(path, _)| !later.0.contains_key(*path));
        let gone = gone.map(|(path, _)| format!("gone: {}", path.display()));
        let other = later.0.iter().filter_map(|(path, now)| match self.0.get(path) {
            None => Some(format!("new: {}", path.display())),
            Some(before) if before != now => Some(format!("changed: {}: {before:?} to {now:?}", path.display())),
            Some(_) => None,
        });
        gone.chain(other).collect()
    }

    /// Panics with every difference.
    #[track_caller]
    pub fn expect_same(&self, later: &Self) {
        let difference = self.difference(later);
        assert!(difference.is_empty(), "not untouched:\n{}", difference.join("\n"));
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Regular files with more than one name, and every inode number: for the search of hard links.
pub fn inodes(path: &Path) -> BTreeMap<(u64, u64), PathBuf> {
    let mut found = BTreeMap::new();
    for below in fingerprint(path).paths() {
        let full = if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) };
        if let Ok(data) = fs::symlink_metadata(&full)
            && data.is_file()
        {
            found.insert((data.dev(), data.ino()), full);
        }
    }
    found
}

/// Files that are in both directories by hard link.
pub fn shared_files(one: &Path, other: &Path) -> Vec<PathBuf> {
    let here = inodes(one);
    inodes(other).into_iter().filter(|(inode, _)| here.contains_key(inode)).map(|(_, path)| path).collect()
}
