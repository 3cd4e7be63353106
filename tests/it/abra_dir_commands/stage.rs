//! Runs with an ABRA_DIR in each of its states, and `abra-dir` on them.

use crate::support::*;
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The end of `abra-dir ARGS`.
pub fn abra_dir<S: AsRef<std::ffi::OsStr>>(sandbox: &Sandbox, args: impl IntoIterator<Item = S>) -> Output {
    sandbox.plain().arg("abra-dir").args(args).output()
}

/// The same, which must end with `code`; an error is one sentence on stderr, and nothing on stdout.
#[track_caller]
pub fn expect(sandbox: &Sandbox, code: i32, args: &[&str]) -> Output {
    let out = abra_dir(sandbox, args);
    assert_eq!(out.code(), code, "abra-dir {args:?}: {}{}", out.text(), out.stderr);
    if !matches!(code, 0 | 1) {
        assert_eq!(out.text(), "", "abra-dir {args:?}");
    }
    if !matches!(code, 0 | 2) {
        assert!(out.stderr.starts_with("ccci-guard: "), "abra-dir {args:?}: {:?}", out.stderr);
    }
    out
}

/// Every path below `root`, relative to it and sorted; no link is followed.
pub fn below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = vec![root.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                rest.push(entry.path());
            }
            found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

/// A run with an ABRA_DIR that ends when its stdin does.
pub fn live_run(sandbox: &Sandbox, id: &str) -> Proc {
    let guard = sandbox.run().args(["--run-id", id, "--abra-dir", "auto"]);
    let run = guard.sh("echo ready $ABRA_DIR; read x").stdin(Stdio::piped()).spawn();
    assert_eq!(run.ready(), sandbox.runs_dir().join(id).join("abra").to_str().unwrap());
    run
}

/// A run all of whose guard processes were killed, so that its ABRA_DIR was left.
pub fn dead_run(sandbox: &Sandbox, id: &str) -> PathBuf {
    let mut run = live_run(sandbox, id);
    let (monitor, supervisor) = (run.monitor(), run.supervisor());
    // Stopped first: else the one that is left would finish the run.
    for (signal, pid) in [Signal::SIGSTOP, Signal::SIGKILL].iter().flat_map(|s| [(s, monitor), (s, supervisor)]) {
        kill(pid, *signal).unwrap();
    }
    assert_eq!(run.code(), 137);
    drop(run);
    let path = sandbox.runs_dir().join(id).join("abra");
    assert!(path.join("servers").is_symlink(), "{path:?} was to be left");
    path
}

/// A run that ended well and whose ABRA_DIR was kept.
pub fn kept_run(sandbox: &Sandbox, id: &str) -> PathBuf {
    let out = sandbox.run().args(["--run-id", id, "--abra-dir", "auto", "--keep-run-dir"]).sh("exit 0").output();
    let path = sandbox.runs_dir().join(id).join("abra");
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(path.is_dir(), "{}", out.stderr);
    path
}
