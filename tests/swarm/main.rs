//! Teardown, `reap` and the janitor on a real Docker Swarm: real stacks, containers, networks, volumes.
//!
//! `tests/swarm-up cargo test --test swarm` starts a private Docker for it and removes it at the end; without one
//! every test says `skip:`, and in CI fails. The tests share nothing but the daemon: each has a zone, a lock
//! directory and stacks of its own. The support code is that of `tests/it`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    missing_docs,
    reason = "tests fail by panic and speak on stdout"
)]

mod containers;
mod guarded_runs;
mod left_alone;
mod long_names;
mod stack;
#[path = "../it/support/mod.rs"]
mod support;
mod swarm;
mod two_janitors;
mod whole_stacks;
