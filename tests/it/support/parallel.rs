//! Many rounds of one test, a few at a time, and all that failed in one message.

use super::Random;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const PARALLEL: usize = 4;

/// Runs `round` for each number, a few at a time, each with chances of its own; panics with all that failed.
#[track_caller]
pub fn in_parallel(test: &str, count: usize, round: impl Fn(usize, &mut Random) + Sync) {
    let base = Random::from_clock(test).below(1 << 40);
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let mut random = Random::new(base + number as u64);
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(number, &mut random))) {
                        failures.lock().unwrap().push(format!("round {number}: {}", words(&*panic)));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{test}: {} of {count} failed:\n{}", failures.len(), failures.join("\n"));
}

/// What a panic said.
pub fn words(panic: &(dyn Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".to_owned())
}
