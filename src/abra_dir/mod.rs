//! A run's own ABRA_DIR: built for it, filled with the recipes that it asks for, removed with it.
//!
//! `<runs dir>/<run id>/abra` has links to the host's own (*canonical*) `servers` and `catalogue`, so that what abra
//! writes there lands in the canonical place, and a `recipes` directory of its own, so that no two runs check out one
//! tree. The runs directory is the harness's results store: nothing there is removed without the [`mark`] that makes it
//! ours, and nothing is reached through a link or across a mount. `docs/design/abra-dir.md` tells why it is built so.
//!
//! Invariant: no file below the canonical directory is ever written, linked to, or removed from here.

#![forbid(unsafe_code)]

mod build;
mod commands;
mod config;
mod fetch;
mod gc;
mod git;
mod mark;
mod place;
mod seen;
mod staged;
mod verify;

pub use build::{AbraDir, InTheWay, Plan};
pub use commands::run;
pub use fetch::{Recipe, parse_ref};
pub use gc::{Swept, sweep};
pub use place::make_runs_dir;
