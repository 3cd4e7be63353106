//! The cluster lock on a real etcd: two "hosts" are two sandboxes with a lock directory each.
//!
//! `etcd` is Debian's `etcd-server`, on loopback, in a temporary directory; each test has its own. Without the program
//! every test says `skip:`, and in CI fails. The support code is that of `tests/it`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    missing_docs,
    reason = "tests fail by panic and speak on stdout"
)]

mod commands;
mod host;
mod janitor;
mod keeper;
mod keeper_faults;
mod loss;
mod server;
#[path = "../it/support/mod.rs"]
mod support;
mod taking;
