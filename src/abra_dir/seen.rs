//! How a canonical recipe looked when it was fetched, so that `verify` can tell whether anything changed it since.
//!
//! A line for each file of the working tree, and what is checked out. Not its objects and refs: somebody may fetch into
//! it at any time, and that changes nothing that a run sees.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::abra_dir::git::Head;
use crate::settings::quoted;

/// The listing of a recipe, sorted. `head`: what is checked out.
///
/// # Errors
/// What can't be read.
pub fn listing(recipe: &Path, head: &Head) -> io::Result<String> {
    let mut lines = vec![format!("'HEAD' {head}")];
    list(recipe, Path::new(""), &mut lines)?;
    lines.sort();
    Ok(lines.into_iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    }))
}

fn list(recipe: &Path, below: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(recipe.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if path == Path::new(".git") {
            continue;
        }
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            list(recipe, &path, lines)?;
            continue;
        }
        let name = quoted(path.as_os_str());
        let target =
            if metadata.is_symlink() { quoted(fs::read_link(entry.path())?.as_os_str()) } else { String::new() };
        let (mode, size) = (metadata.mode(), metadata.size());
        let modified = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        // Whoever sets the time of a file back can't set this one.
        let changed = format!("{}.{:09}", metadata.ctime(), metadata.ctime_nsec());
        lines.push(format!("{name} {mode:o} {size} {modified} {changed} {target}"));
    }
    Ok(())
}

/// The first file that differs between two listings.
pub fn difference<'a>(before: &'a str, now: &'a str) -> Option<&'a str> {
    let only_in = |a: &'a str, b: &str| {
        let other: std::collections::HashSet<&str> = b.lines().collect();
        a.lines().find(|line| !other.contains(line))
    };
    let line = only_in(now, before).or_else(|| only_in(before, now))?;
    // `'name' mode …`; a quote in the name is only a quote.
    Some(line.rfind("' ").and_then(|_| line.split("' ").next()).map_or(line, |name| name.trim_start_matches('\'')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_differs_is_named() {
        let before = "'a b' 100644 1 5.0 \n'c' 100644 1 5.0 \n";
        assert_eq!(difference(before, before), None);
        assert_eq!(difference(before, "'a b' 100644 2 5.0 \n'c' 100644 1 5.0 \n"), Some("a b"));
        assert_eq!(difference(before, "'a b' 100644 1 5.0 \n"), Some("c"));
    }
}
