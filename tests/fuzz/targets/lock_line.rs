//! The line in a lock file, which anyone may have written: no panic, and what is shown of it is one line of bounded length.
#![no_main]

use std::time::Duration;

use ccci_guard::lock::holder::{Holder, HolderLine, parse_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(line) = parse_line(bytes) else { return };
    let again = serde_json::to_vec(&line).expect("a line that was read can be written");
    let again = parse_line(&again).expect("and be read again");
    assert_eq!(facts(&again), facts(&line));
    let holder = Holder { pid: Some(line.pid), line: Some(line), held_for: Some(Duration::from_secs(760)) };
    assert!(holder.to_string().starts_with("held by pid "));
    assert!(holder.in_short().starts_with(" by pid "));
});

fn facts(line: &HolderLine) -> (i32, &str, &str, Option<u64>, Option<u64>, bool) {
    (line.pid, &line.run_id, &line.command, line.deadline_at, line.pid_ns, line.teardown)
}
