//! Starting keepers, and hearing what they say.
//!
//! A keeper is this same program, exec'd again: so it has none of our descriptors (least of all the lock's) but those
//! that it is given, none of our environment, and threads as it likes. It leads a session of its own, and every signal
//! stays blocked in it as in us: a SIGTERM to all processes of a unit must not end it, since the teardown still needs the
//! lease.

#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use signal_hook::consts::{SIGCHLD, SIGKILL};

use crate::cluster::Lease;
use crate::cluster::keeper::{self, NAME};
use crate::cluster::request::{Answer, Held, Question, Request, Seen, Wanted, Work};
use crate::cluster::state::LeaseState;
use crate::error::Error;
use crate::log;
use crate::settings::EtcdSettings;
use crate::sys::fd;
use crate::sys::process::{self, Pid};
use crate::sys::signal::Delivery;
use crate::sys::time::{self, Alarm};

/// A question is answered within this, or not at all: some tries at each of several endpoints.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// What the guard processes of a run and its keepers share.
#[derive(Debug)]
pub(super) struct Ends {
    /// What is known of the lease.
    pub(super) state: LeaseState,
    /// The life pipe. We hold both ends: a keeper that dies is replaced, and the new one reads it too.
    life_read: OwnedFd,
    life: OwnedFd,
    /// Readable, for good, once a keeper has something to say.
    pub(super) report: OwnedFd,
    report_write: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (life_read, life) = fd::pipe()?;
        let (report, report_write) = fd::pipe()?;
        Ok(Ends { state: LeaseState::new()?, life_read, life, report, report_write })
    }

    /// Tells the keeper to end the lease now.
    pub(super) fn tell_to_end(&self) -> io::Result<()> {
        File::from(self.life.try_clone()?).write_all(&[1])
    }
}

/// Starts a keeper.
pub(super) fn start(
    etcd: &EtcdSettings,
    work: Work,
    ends: Option<&Ends>,
    answers: Option<&OwnedFd>,
) -> io::Result<Pid> {
    let (log, run_id) = log::settings();
    let request = Request { etcd: etcd.clone(), log, run_id, work };
    let mut told = fd::shared_memory(c"ccci-guard-keeper")?;
    told.write_all(&serde_json::to_vec(&request)?)?;
    told.rewind()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut placed: Vec<(BorrowedFd<'_>, i32)> =
        vec![(told.as_fd(), 0), (answers.map_or(null.as_fd(), AsFd::as_fd), 1)];
    if let Some(ends) = ends {
        placed.push((ends.life_read.as_fd(), keeper::LIFE));
        placed.push((ends.report_write.as_fd(), keeper::REPORT));
        placed.push((ends.state.as_fd(), keeper::STATE));
    }
    let argv = [c_string(NAME)];
    process::fork(|| {
        let _ = nix::unistd::setsid();
        if fd::place(&placed).is_ok() {
            process::exec(&c_string("/proc/self/exe"), &argv, &[]);
        }
        1
    })
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// A keeper's answers, as they come.
#[derive(Debug)]
struct Answers {
    pipe: File,
    pending: Vec<u8>,
    ended: bool,
}

impl Answers {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        fd::set_nonblocking(&pipe)?;
        Ok(Answers { pipe: pipe.into(), pending: Vec::new(), ended: false })
    }

    /// The next one that is there. One that ended without its last word could not do its work.
    fn next(&mut self) -> Option<Answer> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap_or_else(|_| no_answer()));
            }
            match self.pipe.read(&mut buffer) {
                Ok(0) if self.ended => return None,
                Ok(0) => {
                    self.ended = true;
                    return Some(no_answer());
                }
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
                Err(_) => return None,
            }
        }
    }
}

fn no_answer() -> Answer {
    Answer::Unreachable("the process that talks to etcd ended early".to_owned())
}

/// A lease that is being sought.
#[derive(Debug)]
pub struct Asking {
    lease: Lease,
    answers: Answers,
}

/// The lease, and what others hold.
pub type Taken = (Option<Lease>, Vec<Seen>);

impl Asking {
    /// Starts a keeper that takes these apps, in this order: all of them, waiting for each (`wait`), or those that
    /// nobody holds.
    ///
    /// # Errors
    /// No process, memory or descriptor for it.
    pub fn start(etcd: &EtcdSettings, wanted: Vec<Wanted>, wait: bool) -> Result<Self, Error> {
        let failed = Error::system("cannot start the process that talks to etcd");
        let start = || {
            let (answers, answers_end) = fd::pipe()?;
            let ends = Ends::new()?;
            let work = Work::Seek { wanted, wait };
            let keeper = start(etcd, work, Some(&ends), Some(&answers_end))?;
            Ok(Asking { lease: Lease::sought(etcd, ends, keeper), answers: Answers::new(answers)? })
        };
        start().map_err(failed)
    }

    /// Readable when there is something to hear.
    pub fn answers(&self) -> BorrowedFd<'_> {
        self.answers.pipe.as_fd()
    }

    /// A keeper that was stopped says nothing.
    pub fn continue_keeper(&self) {
        self.lease.continue_keeper();
    }

    /// The next thing that it says, if it has said it.
    pub fn heard(&mut self) -> Option<Answer> {
        self.answers.next()
    }

    /// Once it has said [`Answer::Ours`].
    pub fn into_lease(self, id: i64, held: Vec<Held>) -> Lease {
        self.lease.with(id, held)
    }

    /// The lease is not wanted any more, nor the keys that were had: they are given back when this returns.
    pub fn call_off(&self) {
        // Nobody is left to do it where it has ended.
        if !self.answers.ended {
            self.lease.release();
        }
    }

    /// For one that does not wait for others: the lease, and what others hold.
    ///
    /// # Errors
    /// etcd could not be reached, or refused us.
    pub fn finish_now(self) -> Result<Taken, Error> {
        match self.finish(time::now() + ANSWERED_WITHIN, None) {
            Ok(Ok((None, seen))) if seen.is_empty() => Err(failure(no_answer_in_time())),
            Ok(taken) => taken,
            Err(_) => Err(failure(no_answer_in_time())),
        }
    }

    /// Waits until the keys are had, until this moment, or until somebody asks this process to stop (`Err`, the signal):
    /// the lease, unless it was not had in time, and who held what.
    pub fn finish(mut self, until: Duration, delivery: Option<&Delivery>) -> Result<Result<Taken, Error>, i32> {
        let mut alarm = match Alarm::new().map_err(Error::system("cannot make a timer")) {
            Ok(alarm) => alarm,
            Err(error) => return Ok(Err(error)),
        };
        alarm.set(Some(until));
        let mut elsewhere = Vec::new();
        loop {
            match self.heard() {
                Some(Answer::Elsewhere(seen)) => elsewhere.push(seen),
                Some(Answer::Ours { lease, held }) => return Ok(Ok((Some(self.into_lease(lease, held)), elsewhere))),
                Some(other) => return Ok(Err(failure(other))),
                None if time::now() >= until => {
                    self.call_off();
                    return Ok(Ok((None, elsewhere)));
                }
                None => {
                    fd::wait(&[self.answers(), alarm.as_fd()]);
                }
            }
            let asked = delivery.and_then(|delivery| {
                delivery.take().into_iter().map(|received| received.signal).find(|signal| *signal != SIGCHLD)
            });
            if let Some(signal) = asked {
                self.call_off();
                return Err(signal);
            }
        }
    }
}

/// Asks etcd something, by a keeper that answers and ends.
///
/// # Errors
/// etcd could not be reached, or refused us.
pub fn ask(etcd: &EtcdSettings, question: Question) -> Result<Answer, Error> {
    let (pipe, end) = fd::pipe().map_err(Error::system("cannot make a pipe"))?;
    let pid = start(etcd, Work::Answer(question), None, Some(&end))
        .map_err(Error::system("cannot start the process that talks to etcd"))?;
    drop(end);
    let heard = hear_one(pipe).map_err(Error::system("cannot hear the process that talks to etcd"));
    let _ = process::kill(pid, SIGKILL);
    process::wait_for(pid);
    match heard? {
        answer @ (Answer::Unreachable(_) | Answer::Refused(_)) => Err(failure(answer)),
        answer => Ok(answer),
    }
}

fn hear_one(pipe: OwnedFd) -> io::Result<Answer> {
    let mut answers = Answers::new(pipe)?;
    let until = time::now() + ANSWERED_WITHIN;
    let mut alarm = Alarm::new()?;
    alarm.set(Some(until));
    loop {
        if let Some(answer) = answers.next() {
            return Ok(answer);
        }
        if time::now() >= until {
            return Ok(no_answer_in_time());
        }
        fd::wait(&[answers.pipe.as_fd(), alarm.as_fd()]);
    }
}

fn no_answer_in_time() -> Answer {
    Answer::Unreachable(format!("no answer within {}s", ANSWERED_WITHIN.as_secs()))
}

/// The error that an answer means.
pub fn failure(answer: Answer) -> Error {
    let (problem, next) = match answer {
        Answer::Unreachable(why) => {
            (format!("etcd can't be reached: {why}"), "see to it, or to --etcd-endpoints (CCCI_ETCD_ENDPOINTS)")
        }
        Answer::Refused(why) => (format!("etcd refused: {why}"), "see CCCI_ETCD_USER, CCCI_ETCD_PASSWORD, --etcd-cert"),
        other => (format!("etcd's answer makes no sense: {other:?}"), "see --etcd-endpoints (CCCI_ETCD_ENDPOINTS)"),
    };
    Error::Cluster(format!("{problem}; {next}"))
}
