//! While long teardowns run, a terminal shows them: a line an app, how long it takes and may take. Nothing of it
//! goes into a pipe.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::duration;
use crate::sys::time;

/// How often the lines are drawn anew.
const EVERY: Duration = Duration::from_secs(1);

/// The lines on the terminal.
pub struct Progress {
    is_terminal: bool,
    drawn: usize,
    next: Duration,
}

impl Progress {
    /// Nothing is drawn yet.
    pub fn new() -> Self {
        Progress { is_terminal: std::io::stderr().is_terminal(), drawn: 0, next: time::now() + EVERY }
    }

    /// Draws them when it is time; tells when that is next.
    pub fn show<'a>(&mut self, apps: impl Iterator<Item = (&'a str, Duration)>, limit: Duration) -> Option<Duration> {
        if !self.is_terminal {
            return None;
        }
        let now = time::now();
        if now >= self.next {
            self.next = now + EVERY;
            self.clear();
            let mut text = String::new();
            for (app, elapsed) in apps {
                let _ = writeln!(text, "tearing down {app}: {} of {}", duration::show(elapsed), duration::exact(limit));
                self.drawn += 1;
            }
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        Some(self.next)
    }

    /// Takes the lines away, before anything else is written; they are drawn again at once.
    pub fn clear(&mut self) {
        if self.drawn > 0 {
            self.next = time::now();
            let _ = write!(std::io::stderr(), "\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
