//! Durations as people write them: no panic, never over the limit, and what is shown is read again.
#![no_main]

use ccci_guard::duration::{MAX, exact, parse, show};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(duration) => {
            assert!(duration <= MAX, "{text:?} is {duration:?}");
            assert_eq!(parse(&exact(duration)), Ok(duration), "{text:?} is shown as {:?}", exact(duration));
            assert!(parse(&show(duration)).is_ok_and(|shown| shown <= duration), "{text:?}");
        }
        Err(problem) => assert!(!problem.is_empty(), "{text:?}"),
    }
});
