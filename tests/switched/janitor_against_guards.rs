//! The same storm as in tests/it, with a safety taken away: its detector must see something.

use crate::support::storm;
use std::time::Duration;

/// Fails with the switch not looked at: then there is no fault to see.
#[test]
fn without_the_inode_check_two_owners_meet() {
    let storm = storm(Duration::from_secs(60), Some("CCCI_TEST_NO_INODE_CHECK"));
    println!("{storm:#?}");
    assert!(!storm.faults.is_empty(), "the storm would not see a missing check");
}
