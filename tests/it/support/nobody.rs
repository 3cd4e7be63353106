//! Runs as a plain user, from tests that run as root.

use super::{FIXTURE, GUARD, NOBODY, Sandbox, copy_program, give, need};
use nix::unistd::geteuid;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A sandbox that belongs to nobody, with copies of both programs that nobody can reach. `None` without root.
pub fn for_nobody() -> Option<(Sandbox, PathBuf)> {
    if !need("root, to become somebody else", geteuid().is_root()) {
        return None;
    }
    let sandbox = Sandbox::new();
    fs::set_permissions(sandbox.path(""), Permissions::from_mode(0o755)).unwrap();
    for dir in ["locks", "runs", "state", "home", "work"] {
        give(&sandbox.path(dir), NOBODY);
    }
    fs::create_dir(sandbox.path("bin")).unwrap();
    for program in [GUARD, FIXTURE] {
        let copy = sandbox.path("bin").join(Path::new(program).file_name().unwrap());
        copy_program(program, &copy);
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    }
    let fixture = sandbox.path("bin/ccci-fixture");
    Some((sandbox, fixture))
}
