//! What every test here stands on: a sandbox, the guard under test, its processes, locks and time.
//!
//! Nothing in here uses the product's own code, so that a fault of the product can't hide itself.
#![allow(dead_code, unused_imports, reason = "a helper may be used by one suite only")]

mod apps;
mod canonical;
mod fingerprint;
mod guard;
mod hidden;
mod limit;
mod lock;
mod nobody;
mod parallel;
mod process;
mod processes;
mod pty;
mod run_copy;
mod sandbox;
mod storm;
pub mod stubs;
mod teardown;
mod time;

pub use apps::Apps;
pub use canonical::{
    BRANCH, Canonical, NOBODY, OLD_RELEASE, RELEASE, REMOTE_BRANCH, Recipe, copy_tree, git, git_command, give, program,
    try_git,
};
pub use fingerprint::{Fingerprint, fingerprint, shared_files};
pub use guard::{Guard, Output};
pub use hidden::expect_visible;
pub use limit::limit;
pub use lock::{FileLock, held, lock_is_free};
pub use nobody::for_nobody;
pub use parallel::{in_parallel, words};
pub use process::{Exit, Proc};
pub use processes::{Process, alive, children, marked, process, stopped};
pub use pty::Pty;
pub use run_copy::{RunCopy, abra_dir, check_copy, check_names, check_repository, expect_copy, locks};
pub use sandbox::Sandbox;
pub use storm::{Storm, storm};
pub use teardown::Teardown;
pub use time::{Random, eventually, full, need, python, rounds, within};

/// The program under test.
pub const GUARD: &str = env!("CARGO_BIN_EXE_ccci-guard");
/// The program that the tests run under it.
pub const FIXTURE: &str = env!("CARGO_BIN_EXE_ccci-fixture");
/// An app name as real ones look.
pub const APP: &str = "immi-ad3e33.ci.example.net";
/// Long enough for anything that should be quick, on a busy machine with two processors.
pub const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A copy of a program, ready to be run.
///
/// Not by `fs::copy`: a process that another thread forks in that moment has the copy open for writing until its own
/// exec, and a program that is open for writing can't be run (ETXTBSY, execve(2)).
#[track_caller]
pub fn copy_program(from: impl AsRef<std::path::Path>, to: impl AsRef<std::path::Path>) {
    let copied = std::process::Command::new("cp").arg("--").arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.as_ref().display());
}
