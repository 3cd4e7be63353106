//! Who looks from elsewhere: a namespace of its own, or another user.

use crate::support::*;
use nix::unistd::geteuid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// unshare(1) with these options, where that may be had.
pub fn unshared(options: &str) -> Option<Vec<String>> {
    let user = if geteuid().is_root() { "" } else { "Ur" };
    let words = format!("unshare -{user}{options}").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let done = Command::new(&words[0]).args(&words[1..]).arg("true").output();
    need("namespaces (unshare)", done.is_ok_and(|out| out.status.success())).then_some(words)
}

/// Somebody else who can reach the sandbox, and a copy of the program: Cargo's directory may be closed to others.
pub struct Nobody(PathBuf);

impl Nobody {
    /// `None` without root.
    pub fn in_sandbox(sandbox: &Sandbox) -> Option<Self> {
        if !need("root, to become somebody else", geteuid().is_root()) {
            return None;
        }
        let copy = sandbox.path("ccci-guard");
        // Not written by us: a process that another thread forks meanwhile would have it open for writing (ETXTBSY).
        assert!(Command::new("cp").arg(GUARD).arg(&copy).status().unwrap().success());
        for path in [&sandbox.path(""), &copy] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        give(&sandbox.path("work"), NOBODY);
        Some(Nobody(copy))
    }

    /// This guard as its own.
    pub fn runs<'a>(&self, guard: Guard<'a>) -> Guard<'a> {
        guard.program(&self.0).user(NOBODY, NOBODY)
    }
}
