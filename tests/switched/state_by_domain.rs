//! What the key of the state files is for: by domain, two runs of one domain break each other's counts.

use crate::state_two_runs::{Ways, play};

/// The switch that keys them by domain (its value is the domain); the ordinary program does not know it.
const BY_DOMAIN: &str = "CCCI_TEST_STATE_BY_DOMAIN";

/// The very test of mission 20 sees both faults of old: the count of the first one is lost when the second one
/// starts, and the second one's file is gone when the first one ends.
/// Fails with the switch not looked at.
#[test]
fn keyed_by_domain_each_breaks_the_other() {
    for ids in [["same", "same"], ["1187", "1190"]] {
        let faults = play(ids, Ways::Files, Some(BY_DOMAIN));
        println!("{ids:?}: {faults:#?}");
        for fault in
            ["the first one's count after the second one's start", "the second one's deploy after the first one"]
        {
            assert!(faults.iter().any(|seen| seen.starts_with(fault)), "{ids:?}: not seen: {fault}; {faults:?}");
        }
    }
}
