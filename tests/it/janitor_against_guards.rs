//! Many guards against two janitors over the same few names: the promise of the whole, under pressure.

use crate::support::{full, storm};
use std::time::Duration;

/// Never two owners of an app, no live app reaped, no orphan left, no lock file left.
///
/// Fails with the inode check off (tests/switched shows it), with a janitor that unlinks after it has let go of
/// the lock, and with one that reaps what it has listed without the lock.
#[test]
fn twenty_guards_in_a_loop_against_two_janitors() {
    let storm = storm(Duration::from_secs(if full() { 60 } else { 6 }), None);
    println!("{storm:#?}");
    assert_eq!(storm.faults, Vec::<String>::new());
    assert_eq!(storm.left, Vec::<String>::new());
    // Else it shows nothing.
    assert!(storm.ran > 20 && storm.killed > 3 && storm.reaped > 0 && storm.rounds > 2, "{storm:?}");
}
