//! Runs of a build that has switches: one takes a safety away, to show that the tests of it can fail; others
//! shorten times that are fixed for users.
//!
//! `cargo test --features test-switches --test switched`. The support code is that of `tests/it`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    missing_docs,
    reason = "tests fail by panic and speak on stdout"
)]

mod inode_check;
mod janitor_against_guards;
#[path = "../it/lock_holder.rs"]
mod lock_holder;
mod self_deadlock;
mod state_by_domain;
#[path = "../it/state_two_runs.rs"]
mod state_two_runs;
#[path = "../it/support/mod.rs"]
mod support;
