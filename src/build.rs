//! The build script: which commit this is, for `--version`.

#![allow(clippy::print_stdout, reason = "a build script speaks to cargo on stdout")]

use std::process::Command;

fn main() {
    // Without a checkout (a source archive, a package build) the version stands alone.
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    println!("cargo::rustc-env=GUARD_COMMIT={}", commit.map(|commit| format!(" ({commit})")).unwrap_or_default());
    println!("cargo::rerun-if-changed=src/build.rs");
    // What a branch stands for changes in its own file, what is checked out in HEAD.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().map(str::to_owned).chain(branch) {
        if let Some(path) = git(&["rev-parse", "--git-path", &name]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
