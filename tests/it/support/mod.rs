//! What every test here stands on: a sandbox, the guard under test, its processes, locks and time.
//!
//! Nothing in here uses the product's own code, so that a fault of the product can't hide itself.
#![allow(dead_code, unused_imports, reason = "a helper may be used by one suite only")]

mod apps;
mod guard;
mod lock;
mod process;
mod processes;
mod pty;
mod sandbox;
mod storm;
pub mod stubs;
mod teardown;
mod time;

pub use apps::Apps;
pub use guard::{Guard, Output};
pub use lock::{FileLock, held, lock_is_free};
pub use process::{Exit, Proc};
pub use processes::{Process, alive, children, marked, process, stopped};
pub use pty::Pty;
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
