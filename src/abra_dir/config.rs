//! The configuration of a copied recipe: that of an ordinary clone of the canonical one's own origin.
//!
//! Written here and not by git: each call of it takes as long as all the rest of this.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// `mirror` is what git wrote a moment ago for a mirror of the canonical repository at `source`; `kept` what that has of
/// origin and branches (`git config -z`: name, line end, value, NUL).
pub fn ordinary(mirror: &[u8], kept: &[u8], source: &Path) -> Vec<u8> {
    let remote = b"[remote \"origin\"]".as_slice();
    let mut config = Vec::new();
    let mut in_remote = false;
    for line in mirror.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"[") {
            in_remote = line.trim_ascii() == remote;
        }
        if !in_remote {
            config.extend_from_slice(if line.trim_ascii() == b"bare = true" { b"\tbare = false\n" } else { line });
        }
    }
    let entries = kept.split(|&byte| byte == 0).filter_map(|entry| {
        let end = entry.iter().position(|&byte| byte == b'\n')?;
        Some((&entry[..end], &entry[end + 1..]))
    });
    for (name, value) in entries {
        if name == b"remote.origin.url" {
            config.extend_from_slice(remote);
            config.extend_from_slice(b"\n");
            set(&mut config, b"url", absolute(source, value).as_bytes());
            set(&mut config, b"fetch", b"+refs/heads/*:refs/remotes/origin/*");
        } else if let Some(branch) = name.strip_prefix(b"branch.")
            && let Some(dot) = branch.iter().rposition(|&byte| byte == b'.')
        {
            config.extend_from_slice(b"[branch ");
            quote(&mut config, &branch[..dot]);
            config.extend_from_slice(b"]\n");
            set(&mut config, &branch[dot + 1..], value);
        }
    }
    config
}

fn set(config: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    config.push(b'\t');
    config.extend_from_slice(name);
    config.extend_from_slice(b" = ");
    quote(config, value);
    config.push(b'\n');
}

/// As git-config(1) reads it back.
fn quote(config: &mut Vec<u8>, text: &[u8]) {
    config.push(b'"');
    for &byte in text {
        match byte {
            b'\n' => config.extend_from_slice(b"\\n"),
            b'"' | b'\\' => config.extend_from_slice(&[b'\\', byte]),
            other => config.push(other),
        }
    }
    config.push(b'"');
}

/// An origin that is a relative path means the same repository from anywhere.
fn absolute(source: &Path, origin: &[u8]) -> OsString {
    let first = origin.split(|&byte| byte == b'/').next().unwrap_or_default();
    // A URL, or host:path.
    if first.contains(&b':') || origin.starts_with(b"/") || origin.starts_with(b"~") {
        return OsString::from_vec(origin.to_vec());
    }
    source.join(OsStr::from_bytes(origin)).into_os_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_becomes_an_ordinary_clone() {
        let mirror = b"[core]\n\tbare = true\n[remote \"origin\"]\n\turl = /canonical\n\tmirror = true\n";
        let source = Path::new("/c/recipes/r");
        assert_eq!(ordinary(mirror, b"", source), b"[core]\n\tbare = false\n");
        // git writes what it must know of the objects behind the remote.
        let sha256 = [mirror.as_slice(), b"[extensions]\n\tobjectformat = sha256\n"].concat();
        let expected = b"[core]\n\tbare = false\n[extensions]\n\tobjectformat = sha256\n";
        assert_eq!(ordinary(&sha256, b"", source), expected);
        let kept = b"remote.origin.url\na\"b#c\0branch.v1.2.merge\nrefs/heads/v1.2\0";
        let expected = "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = \"/c/recipes/r/a\\\"b#c\"\n\
            \tfetch = \"+refs/heads/*:refs/remotes/origin/*\"\n[branch \"v1.2\"]\n\tmerge = \"refs/heads/v1.2\"\n";
        assert_eq!(String::from_utf8_lossy(&ordinary(mirror, kept, source)), expected);
    }

    #[test]
    fn a_relative_origin_is_one_below_the_canonical_recipe() {
        let source = Path::new("/c/recipes/r");
        assert_eq!(absolute(source, b"../up.git"), "/c/recipes/r/../up.git");
        for same in ["/srv/up.git", "https://example.org/r.git", "git@example.org:r.git", "~me/r.git"] {
            assert_eq!(absolute(source, same.as_bytes()), same);
        }
    }
}
