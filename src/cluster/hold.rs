//! Getting a lease, keeping it, giving it back: the keeper's work.
//!
//! One thread does it and sleeps between renewals; others read the life pipe and watch keys, and leave notes. It ends
//! when the life pipe says so, or when nobody holds its other end any more: then every guard process of the run is dead,
//! and the lease lives on only as long as something of the run still holds its lock file.

#![forbid(unsafe_code)]

mod take;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::cluster::etcd::{Client, Problem, Removal};
use crate::cluster::keeper::{LIFE, REPORT, STATE, refused, say, try_limit};
use crate::cluster::request::{Answer, Held, Keep, Wanted};
use crate::cluster::state::{LeaseState, Loss, Status};
use crate::cluster::watch;
use crate::duration;
use crate::lock::holder;
use crate::settings::EtcdSettings;
use crate::sys::{fd, time};

/// A lease is renewed after one part in so many of its time; after one in so many more where that failed.
const RENEW_SHARE: u32 = 3;
const RETRY_SHARE: u32 = 15;
/// When all guard processes of a run are dead, its lock file is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// An etcd that does not answer for so long at the end lets the lease run out; nobody waits for longer.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(2);
/// Enough for one system call.
const STACK: usize = 64 * 1024;

/// What the threads tell.
#[derive(Debug)]
pub(super) enum Note {
    /// A watch of this app's key has begun: what happened before it is not told.
    Watching(String),
    /// A key of this app's was removed.
    Removed {
        /// The app.
        app: String,
        /// What is known of that.
        removal: Removal,
    },
    /// End the lease now.
    End,
    /// No guard process of the run is left.
    Orphaned,
}

/// Why the work is over.
enum Over {
    /// The run has ended.
    Ended,
    /// All its guard processes have.
    Orphaned,
    /// The lease is lost.
    Lost,
    /// etcd can't be reached, or refused us.
    Failed(Problem),
}

/// A keeper at work.
pub(super) struct Holder {
    client: Client,
    etcd: EtcdSettings,
    state: LeaseState,
    report: File,
    sender: Sender<Note>,
    notes: Receiver<Note>,
    lease: i64,
    ttl: Duration,
    renew_at: Duration,
    /// Since when renewals fail.
    failing_since: Option<Duration>,
    /// The lock files, and whose line they had, for the end.
    locks: Vec<Held>,
}

impl Holder {
    /// Takes over what our starter placed.
    ///
    /// # Errors
    /// It isn't there.
    pub(super) fn new(client: Client, etcd: EtcdSettings, wanted: &[Wanted]) -> io::Result<Self> {
        let (sender, notes) = mpsc::channel();
        let state = LeaseState::of(fd::placed(STATE)?)?;
        let report = fd::placed(REPORT)?.into();
        let ttl = Duration::from_secs(etcd.ttl);
        let locks = wanted.iter().map(|wanted| wanted.held(0)).collect();
        let renew_at = time::now();
        Ok(Holder { client, etcd, state, report, sender, notes, lease: 0, ttl, renew_at, failing_since: None, locks })
    }

    /// Takes these apps, and keeps the lease.
    pub(super) fn seek(mut self, wanted: Vec<Wanted>, wait: bool) -> io::Result<()> {
        let _alone = self.alone()?;
        listen(fd::placed(LIFE)?, self.sender.clone())?;
        let over = match self.take_all(&wanted, wait) {
            Ok(held) => {
                self.state.held();
                self.locks.clone_from(&held);
                self.watch_all(&held)?;
                say(&Answer::Ours { lease: self.lease, held: held.clone() })?;
                self.keep_on(&held)
            }
            Err(over) => over,
        };
        self.end(over)
    }

    /// Goes on where a keeper died.
    pub(super) fn keep(mut self, keep: Keep) -> io::Result<()> {
        let _alone = self.alone()?;
        if self.state.status() != Status::Held {
            return Ok(());
        }
        listen(fd::placed(LIFE)?, self.sender.clone())?;
        self.lease = keep.lease;
        self.locks.clone_from(&keep.held);
        self.watch_all(&keep.held)?;
        let over = self.keep_on(&keep.held);
        self.end(over)
    }

    /// Waits until no other keeper of this lease is left. By a lock on the state, which the kernel frees when its holder
    /// dies; on a description of our own.
    fn alone(&self) -> io::Result<File> {
        let state = File::options().read(true).write(true).open(format!("/proc/self/fd/{STATE}"))?;
        state.lock()?;
        Ok(state)
    }

    fn watch_all(&self, held: &[Held]) -> io::Result<()> {
        held.iter().try_for_each(|held| self.watch(&held.app, None))
    }

    fn watch(&self, app: &str, revision: Option<i64>) -> io::Result<()> {
        match Client::new(&self.etcd, try_limit(&self.etcd)) {
            Ok(client) => watch::start(client, app.to_owned(), revision, self.sender.clone()),
            Err(problem) => Err(io::Error::other(problem.text().to_owned())),
        }
    }

    /// The next note; `None` at this moment.
    fn next_note(&mut self, moment: Duration) -> Option<Note> {
        match self.notes.recv_timeout(moment.saturating_sub(time::now())) {
            Ok(note) => Some(note),
            Err(RecvTimeoutError::Timeout) => None,
            // We hold a sender ourselves.
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Renews the lease until there is no need, or no use.
    fn keep_on(&mut self, held: &[Held]) -> Over {
        loop {
            match self.next_note(self.renew_at) {
                Some(Note::End) => return Over::Ended,
                Some(Note::Orphaned) => return Over::Orphaned,
                Some(Note::Removed { app, removal: Removal { token: Some(token), .. } }) => {
                    // Of another token: it is that of the one before us, whom we had waited for.
                    if held.iter().any(|held| held.app == app && held.token == token) {
                        return self.lost(Loss::KeyRemoved);
                    }
                }
                Some(Note::Watching(app) | Note::Removed { app, .. }) => {
                    let Some(held) = held.iter().find(|held| held.app == app) else { continue };
                    match self.client.create_revision(&app) {
                        Ok(None) => return self.lost(Loss::KeyRemoved),
                        Ok(Some(token)) if token != held.token => return self.lost(Loss::Taken),
                        _ => {}
                    }
                }
                None => {
                    if let Err(over) = self.renew() {
                        return over;
                    }
                }
            }
        }
    }

    fn renew(&mut self) -> Result<(), Over> {
        let sent = time::now();
        let answer = self.client.renew(self.lease);
        // Judged after the answer: it may have taken the rest of the time.
        if self.state.status() == Status::Held && self.state.loss(time::now()).is_some() {
            return Err(self.lost(Loss::NotRenewed));
        }
        match answer {
            Ok(Some(ttl)) => {
                self.ttl = Duration::from_secs(ttl.min(self.etcd.ttl));
                self.state.renewed(sent, self.ttl);
                self.renew_at = sent + self.ttl / RENEW_SHARE;
                if let Some(since) = self.failing_since.take() {
                    let after = duration::show(time::now().saturating_sub(since));
                    tracing::info!(event = "lease-renewed", "the cluster lease is renewed again, after {after}");
                }
                Ok(())
            }
            Ok(None) if self.state.status() == Status::Sought => Err(Over::Lost),
            Ok(None) => Err(self.lost(Loss::Ended)),
            Err(problem) => {
                if self.failing_since.is_none() {
                    self.failing_since = Some(sent);
                    let left = duration::show(self.state.lost_at().saturating_sub(time::now()));
                    tracing::warn!(
                        event = "lease-not-renewed",
                        "the cluster lease can't be renewed ({}): it is lost in {left} unless that changes",
                        problem.text()
                    );
                }
                if self.state.status() == Status::Sought && time::now() >= self.state.lost_at() {
                    return Err(Over::Failed(problem));
                }
                self.renew_at = time::now() + self.ttl / RETRY_SHARE;
                Ok(())
            }
        }
    }

    fn lost(&mut self, loss: Loss) -> Over {
        self.state.lose(loss);
        let _ = self.report.write(&[1]);
        Over::Lost
    }

    fn end(mut self, over: Over) -> io::Result<()> {
        match over {
            Over::Ended => {}
            Over::Orphaned => self.wait_for_the_locks(),
            // The run is being killed; the keys that it still has are freed when it is dead.
            Over::Lost => self.wait_for_the_end(),
            Over::Failed(problem) => say(&refused(problem))?,
        }
        // Who waits for the end of the run's output does not wait for etcd.
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = fd::become_standard_stream(&null, 2);
        }
        if self.lease != 0 {
            // Those that were had: nothing has the create revision 0 but a key that is not there.
            let had = self.locks.iter().filter(|held| held.token != 0);
            let keys: Vec<_> = had.map(|held| (held.app.clone(), held.token)).collect();
            let give_up = time::now() + GIVEN_BACK_WITHIN;
            while let Err(Problem::Unreachable(_)) = self.client.give_back(&keys, self.lease)
                && time::now() < give_up
            {
                thread::sleep(LOOK_EVERY);
            }
        }
        self.state.released();
        let _ = self.report.write(&[1]);
        Ok(())
    }

    fn wait_for_the_end(&mut self) {
        loop {
            match self.notes.recv() {
                Ok(Note::End) | Err(_) => return,
                Ok(Note::Orphaned) => return self.wait_for_the_locks(),
                Ok(_) => {}
            }
        }
    }

    /// All guard processes are dead. What they started may not be: it holds the lock file until it is, and so long
    /// nobody else may have the app, on no host.
    fn wait_for_the_locks(&mut self) {
        let since = SystemTime::now();
        while self.locks.iter().any(|held| is_held_still(held, since)) {
            if time::now() >= self.renew_at {
                let _ = self.renew();
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Does something of the dead run hold its lock file? A newcomer that has it writes its own line into it, or at least
/// its time.
fn is_held_still(held: &Held, since: SystemTime) -> bool {
    let Ok(file) = File::open(&held.lock) else { return false };
    if file.try_lock_shared().is_ok() {
        return false;
    }
    let is_ours = holder::read_line(&file).is_some_and(|line| (line.pid, line.run_id) == held.line);
    is_ours && modified(&held.lock).is_some_and(|modified| modified <= since)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// Reads the life pipe: a byte ends the lease, the end of the file tells that nobody is left.
fn listen(life: OwnedFd, notes: Sender<Note>) -> io::Result<()> {
    let mut life = File::from(life);
    let hear = move || {
        let said = life.read(&mut [0]);
        let _ = notes.send(if matches!(said, Ok(1)) { Note::End } else { Note::Orphaned });
    };
    thread::Builder::new().name("life".to_owned()).stack_size(STACK).spawn(hear).map(|_| ())
}
