//! Getting the keys of all apps, waiting for others where that is asked for.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use super::{Holder, Note, Over, RENEW_SHARE};
use crate::cluster::etcd::{Made, Problem};
use crate::cluster::keeper::say;
use crate::cluster::request::{Answer, Held, Wanted};
use crate::duration;
use crate::sys::{procfs, time};

/// An etcd that does not answer within this, when a lease is asked for, can't be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// A failed call is made again after this, where it is no renewal.
const CALL_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// etcd gives whole seconds, and looks for leases that are over twice in one.
const CLOCKS: Duration = Duration::from_secs(1);

/// Another's lease, as it was last looked at.
#[derive(Default)]
struct Other {
    token: i64,
    lease: i64,
    /// When it would be over without a renewal.
    ends_at: Duration,
    ttl: Duration,
}

impl Other {
    /// Its key was removed just now: when is its holder dead?
    fn dead_at(&self, app: &str) -> Duration {
        let now = time::now();
        // A renewal that we don't know of makes it later, so it did not end by itself.
        if now + CLOCKS >= self.ends_at {
            return now;
        }
        tracing::warn!(
            event = "lock-wait",
            app,
            "the cluster's lock of {app} was taken from its holder: waiting {} until that is dead",
            duration::show(self.ttl)
        );
        now + self.ttl
    }
}

impl Holder {
    pub(super) fn take_all(&mut self, wanted: &[Wanted], wait: bool) -> Result<Vec<Held>, Over> {
        loop {
            self.grant()?;
            match wanted.iter().map(|wanted| self.take(wanted, wait)).collect::<Result<Vec<_>, _>>() {
                // While another one was waited for; nothing runs yet, so nothing is lost.
                Err(Over::Lost) => tracing::warn!(event = "lease-again", "etcd ended the lease: asking for another"),
                taken => return taken.map(|held| held.into_iter().flatten().collect()),
            }
        }
    }

    /// A lease. Where no endpoint answers they are asked again for a while: one try is cut short so that a renewal has
    /// several, and a moment's trouble is no reason to refuse a run.
    fn grant(&mut self) -> Result<(), Over> {
        // Until there is one, none is renewed.
        self.lease = 0;
        let give_up = time::now() + REACHED_WITHIN;
        let (sent, lease, ttl) = loop {
            let sent = time::now();
            match self.client.grant(self.etcd.ttl) {
                Ok((lease, ttl)) => break (sent, lease, ttl),
                Err(Problem::Unreachable(_)) if time::now() < give_up => self.rest(time::now() + CALL_AGAIN_AFTER)?,
                Err(problem) => return Err(Over::Failed(problem)),
            }
        };
        // etcd may give more than was asked for; nobody is to wait for us longer than that.
        self.ttl = Duration::from_secs(ttl.min(self.etcd.ttl));
        self.lease = lease;
        self.state.renewed(sent, self.ttl);
        self.renew_at = sent + self.ttl / RENEW_SHARE;
        Ok(())
    }

    /// Takes one app; nothing, where it is another's and not waited for.
    fn take(&mut self, wanted: &Wanted, wait: bool) -> Result<Option<Held>, Over> {
        let mut said = None;
        let mut not_before = time::now();
        loop {
            match self.client.make(&wanted.app, &wanted.value(), self.lease) {
                Ok(Made::Ours(token)) => {
                    // From now on it is to be given back, whatever comes between.
                    self.locks.iter_mut().filter(|held| held.app == wanted.app).for_each(|held| held.token = token);
                    self.rest(not_before)?;
                    return Ok(Some(wanted.held(token)));
                }
                Ok(Made::Others(seen, revision)) => {
                    let (token, lease) = (seen.token, seen.lease);
                    if said != Some(seen.token) {
                        said = Some(seen.token);
                        say(&Answer::Elsewhere(seen)).map_err(|error| failed(&error))?;
                    }
                    if !wait {
                        return Ok(None);
                    }
                    self.watch(&wanted.app, Some(revision + 1)).map_err(|error| failed(&error))?;
                    not_before = self.wait_for_removal(&wanted.app, Other { token, lease, ..Other::default() })?;
                }
                Err(Problem::Refused(text)) => return Err(Over::Failed(Problem::Refused(text))),
                Err(problem @ Problem::Unreachable(_)) => {
                    if time::now() >= self.state.lost_at() {
                        return Err(Over::Failed(problem));
                    }
                    self.rest(time::now() + CALL_AGAIN_AFTER)?;
                }
            }
        }
    }

    /// Until this key is removed, with our own lease renewed meanwhile; tells from when on its holder is dead.
    ///
    /// One that gave it back is dead; so is one whose lease ran out, by its own clock. But somebody else may have ended
    /// its lease, or removed its key: then it has not heard of that yet, perhaps, and has the time of its lease to.
    fn wait_for_removal(&mut self, app: &str, mut other: Other) -> Result<Duration, Over> {
        self.look_at(&mut other);
        loop {
            match self.next_note(self.renew_at) {
                Some(Note::Removed { app: removed, removal })
                    if removed == app && removal.token.is_none_or(|token| token == other.token) =>
                {
                    return Ok(if removal.given_back { time::now() } else { other.dead_at(app) });
                }
                Some(Note::Watching(watched)) if watched == app && self.is_removed(app) => {
                    return Ok(other.dead_at(app));
                }
                Some(Note::End) => return Err(Over::Ended),
                Some(Note::Orphaned) => return Err(Over::Orphaned),
                Some(_) => {}
                None => {
                    self.renew()?;
                    self.look_at(&mut other);
                }
            }
        }
    }

    /// How long does another's lease last?
    fn look_at(&mut self, other: &mut Other) {
        let sent = time::now();
        if let Ok(Some((remaining, granted))) = self.client.remaining(other.lease) {
            other.ends_at = sent + Duration::from_secs(remaining);
            other.ttl = Duration::from_secs(granted);
        }
    }

    fn is_removed(&mut self, app: &str) -> bool {
        matches!(self.client.create_revision(app), Ok(None))
    }

    /// Lets time pass, without becoming deaf or losing the lease.
    fn rest(&mut self, until: Duration) -> Result<(), Over> {
        while time::now() < until {
            let moment = if self.lease == 0 { until } else { until.min(self.renew_at) };
            match self.next_note(moment) {
                Some(Note::End) => return Err(Over::Ended),
                Some(Note::Orphaned) => return Err(Over::Orphaned),
                Some(_) => {}
                None if self.lease != 0 && time::now() >= self.renew_at => self.renew()?,
                None => {}
            }
        }
        Ok(())
    }
}

fn failed(error: &io::Error) -> Over {
    Over::Failed(Problem::Refused(error.to_string()))
}

impl Wanted {
    pub(super) fn held(&self, token: i64) -> Held {
        let line = (self.line.pid, self.line.run_id.clone());
        Held { app: self.app.clone(), token, lock: self.lock.clone(), line }
    }

    /// What is written into the key: the line of the lock file, with what others can't know.
    fn value(&self) -> String {
        let now = time::since_epoch().as_secs();
        let mut line = self.line.clone();
        line.host = procfs::host_name();
        line.since = Some(now);
        line.deadline_at = self.deadline.map(|deadline| now + deadline);
        serde_json::to_string(&line).unwrap_or_default()
    }
}
