//! Waiting without sleeping blindly, bounds on times, repetition counts, and chance with a seed.

use std::fmt::Display;
use std::ops::RangeBounds;
use std::time::{Duration, Instant};

/// Polls until `look` gives `Ok`, and panics with what it saw last once `limit` has passed.
#[track_caller]
pub fn eventually<T, E: Display>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        // Taken before the look: one that was slow because the machine is busy gets its last chance.
        let late = start.elapsed() > limit;
        match look() {
            Ok(found) => return found,
            Err(seen) if late => panic!("{what}: not within {limit:?}; last seen: {seen}"),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(16));
    }
}

/// Panics unless `took` lies in `bounds`: a thing that comes too early is as wrong as one too late.
#[track_caller]
pub fn within(what: &str, took: Duration, bounds: impl RangeBounds<Duration> + std::fmt::Debug) {
    assert!(bounds.contains(&took), "{what}: took {took:?}, expected {bounds:?}");
}

/// Do the full counts run? In CI always; elsewhere when asked with `CCCI_IT_FULL=1`.
pub fn full() -> bool {
    let set = |name, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    set("CCCI_IT_FULL", "1") || set("CI", "true")
}

/// How often a test of chance runs: `n` times in full, else a tenth of it, but three times at least.
pub fn rounds(n: usize) -> usize {
    if full() { n } else { (n / 10).max(3) }
}

/// Is a piece that a test needs there? In CI a missing one is a failure, elsewhere a visible notice.
#[must_use]
#[track_caller]
pub fn need(what: &str, present: bool) -> bool {
    if !present {
        assert!(!std::env::var("CI").is_ok_and(|v| v == "true"), "in CI this must be there: {what}");
        eprintln!("skip: {} needs {what}", std::thread::current().name().unwrap_or("a test"));
    }
    present
}

/// The system's Python; the first one on PATH may be a wrapper script, which is a process too many.
pub fn python() -> &'static str {
    let found = ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|p| std::path::Path::new(p).exists());
    found.unwrap_or("python3")
}

/// A small generator (xorshift64*), so that a failing round can be played again from its seed.
pub struct Random(u64);

impl Random {
    /// Starts from `seed`; the test prints it.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Starts from the clock, and from `CCCI_IT_SEED` where a round is to be played again.
    pub fn from_clock(test: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(1, |d| d.as_nanos() as u64);
        let seed = std::env::var("CCCI_IT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(now);
        println!("{test}: CCCI_IT_SEED={seed}");
        Self::new(seed)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound.max(1)
    }

    /// A duration below `bound`, by the microsecond.
    pub fn time_below(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.below(bound.as_micros() as u64))
    }
}
