//! What a name, a lock and a list mean together: pure functions with table tests.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::Serialize;

use crate::allow_list::AllowList;
use crate::app::AppName;
use crate::janitor::candidates::Candidate;

/// What became of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "docs/commands/janitor.md has a row for each")]
pub enum Verdict {
    Reaped,
    Live,
    PossibleLeak,
    Partial,
    Failed,
    Skipped,
    Protected,
    Gone,
    HeldUnlinked,
    InvalidName,
    StaleLock,
    WouldReap,
}

impl Verdict {
    /// All, in the order of the report's counts.
    pub const ALL: [Verdict; 12] = [
        Verdict::Reaped,
        Verdict::Live,
        Verdict::PossibleLeak,
        Verdict::Partial,
        Verdict::Failed,
        Verdict::Skipped,
        Verdict::Protected,
        Verdict::Gone,
        Verdict::HeldUnlinked,
        Verdict::InvalidName,
        Verdict::StaleLock,
        Verdict::WouldReap,
    ];

    /// Its name in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Reaped => "reaped",
            Verdict::Live => "live",
            Verdict::PossibleLeak => "possible_leak",
            Verdict::Partial => "partial",
            Verdict::Failed => "failed",
            Verdict::Skipped => "skipped",
            Verdict::Protected => "protected",
            Verdict::Gone => "gone",
            Verdict::HeldUnlinked => "held_unlinked",
            Verdict::InvalidName => "invalid_name",
            Verdict::StaleLock => "stale_lock",
            Verdict::WouldReap => "would_reap",
        }
    }

    /// Its name for people.
    pub fn text(self) -> &'static str {
        match self {
            Verdict::PossibleLeak => "possible leaked run",
            other => other.name(),
        }
    }
}

/// What the allow-list says of a name, before anything is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It may be probed.
    Admitted {
        /// The app.
        app: AppName,
        /// Something of it was listed, not just a lock file.
        has_app: bool,
    },
    /// It would be admitted, but `--protect` names it.
    Protected,
    /// No domain.
    Invalid(String),
    /// Its stack can't be told from another's.
    Ambiguous(String),
    /// Nothing to us.
    Foreign,
}

/// What the allow-list says of a name.
pub fn admit(name: &str, has_app: bool, allow_list: &AllowList) -> Found {
    match AppName::parse(name) {
        Err(problem) => Found::Invalid(problem),
        Ok(app) if allow_list.admits(&app) => Found::Admitted { app, has_app },
        Ok(app) if allow_list.would_admit(&app) => Found::Protected,
        Ok(_) => Found::Foreign,
    }
}

/// The verdict of a name that is not probed, if it is listed at all.
pub fn without_probe(candidate: &Candidate) -> Option<(Verdict, String)> {
    match &candidate.found {
        Found::Admitted { .. } | Found::Foreign => None,
        Found::Protected => Some((Verdict::Protected, "--protect names it".to_owned())),
        Found::Invalid(problem) => Some((Verdict::InvalidName, problem.clone())),
        Found::Ambiguous(why) => Some((Verdict::Skipped, why.clone())),
    }
}

/// A lock that somebody holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// For how long.
    pub held_for: Option<Duration>,
    /// The holder's own deadline, where its line names one.
    pub deadline: Option<Duration>,
    /// It is a janitor that tears the app down.
    pub by_janitor: bool,
}

/// A held lock is a live run, and never stolen; one that is held for too long is worth a look.
pub fn held(held: Held, leaked_after: Duration) -> Verdict {
    let limit = held.deadline.map_or(leaked_after, |deadline| deadline.saturating_mul(2));
    match held.held_for {
        Some(time) if time > limit && !held.by_janitor => Verdict::PossibleLeak,
        _ => Verdict::Live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_held_lock_is_live_however_old() {
        let row = |held_for, deadline, by_janitor| held(Held { held_for, deadline, by_janitor }, 2 * HOUR);
        assert_eq!(row(Some(HOUR), None, false), Verdict::Live);
        assert_eq!(row(Some(2 * HOUR), None, false), Verdict::Live);
        assert_eq!(row(Some(3 * HOUR), None, false), Verdict::PossibleLeak);
        assert_eq!(row(Some(3 * HOUR), Some(2 * HOUR), false), Verdict::Live);
        assert_eq!(row(Some(5 * HOUR), Some(2 * HOUR), false), Verdict::PossibleLeak);
        assert_eq!(row(Some(HOUR), Some(HOUR / 4), false), Verdict::PossibleLeak);
        assert_eq!(row(Some(9 * HOUR), None, true), Verdict::Live);
        assert_eq!(row(None, None, false), Verdict::Live);
        // Anybody may have written the line: twice of this is no duration any more.
        assert_eq!(row(Some(9 * HOUR), Some(Duration::from_secs(u64::MAX)), false), Verdict::Live);
    }

    #[test]
    fn the_allow_list_stands_in_front() {
        let mut list = AllowList::default();
        list.admit_zone("ci.example.net").expect("a zone");
        list.protect("keep-*").expect("a glob");
        let found = |name: &str| admit(name, true, &list);
        assert!(matches!(found("a1-0a1b2c.ci.example.net"), Found::Admitted { .. }));
        assert_eq!(found("keep-0a1b2c.ci.example.net"), Found::Protected);
        assert_eq!(found("keep-me.example.net"), Found::Foreign);
        assert_eq!(found("mail-facade.example.org"), Found::Foreign);
        for bad in ["../x", "-rf", "A.b", "a\nb", &"a".repeat(300)] {
            assert!(matches!(found(bad), Found::Invalid(_)), "{bad:?}");
        }
    }
}
