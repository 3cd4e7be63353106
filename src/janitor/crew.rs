//! The janitor's workers: each tears one app down under its lock, and does not need the janitor for it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::unistd::getpid;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::app::AppName;
use crate::cluster::Lease;
use crate::janitor::candidates::{self, Lister};
use crate::janitor::classify::Verdict;
use crate::janitor::output::{Entry, LockReport};
use crate::janitor::progress::Progress as ProgressLines;
use crate::lock::AppLock;
use crate::lock::path::LockDirectory;
use crate::settings::{self, JanitorSettings, Teardown};
use crate::sys::fd;
use crate::sys::process::{self, Children, Pid};
use crate::sys::signal::{Delivery, Inherited};
use crate::sys::time::{self, Alarm};
use crate::teardown::command::{self, Context};
use crate::teardown::worker::{Listed, Target, When, Work, Worker};
use crate::teardown::{self, AppEnd, ResultSlot};
use crate::tree::Tree;

/// What a killed worker left has this long to die of SIGKILL.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// A teardown that was killed from outside is run once more.
const TRIES: u8 = 2;

struct Hand {
    pid: Pid,
    app: AppName,
    lock: AppLock,
    lease: Option<Box<Lease>>,
    slot: ResultSlot,
    tries: u8,
    began: Duration,
}

/// All workers of a round.
pub struct Crew<'a> {
    settings: &'a JanitorSettings,
    delivery: &'a Delivery,
    inherited: &'a Inherited,
    lister: &'a Lister<'a>,
    directory: Option<&'a LockDirectory>,
    hands: Vec<Hand>,
    ended: VecDeque<Pid>,
    entries: Vec<Entry>,
    asked: Option<i32>,
    alarm: Option<Alarm>,
    progress: ProgressLines,
}

impl<'a> Crew<'a> {
    /// No workers yet.
    pub fn new(
        settings: &'a JanitorSettings,
        delivery: &'a Delivery,
        inherited: &'a Inherited,
        lister: &'a Lister<'a>,
        directory: Option<&'a LockDirectory>,
    ) -> Self {
        Crew {
            settings,
            delivery,
            inherited,
            lister,
            directory,
            hands: Vec::new(),
            ended: VecDeque::new(),
            entries: Vec::new(),
            asked: None,
            alarm: Alarm::new().ok(),
            progress: ProgressLines::new(),
        }
    }

    /// Has somebody asked us to stop? Then nothing new is begun; what has begun is brought to its end.
    pub fn asked(&self) -> Option<i32> {
        self.asked
    }

    /// What became of the apps.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Until one more worker may be started.
    pub fn wait_for_a_hand(&mut self) {
        self.collect();
        while self.hands.len() >= self.settings.jobs {
            self.sleep();
            self.collect();
        }
    }

    /// Until none works any more.
    pub fn wait_for_all(&mut self) {
        self.collect();
        while !self.hands.is_empty() {
            self.sleep();
            self.collect();
        }
    }

    /// Starts a worker on this app, whose lock we hold.
    pub fn start(&mut self, app: AppName, lock: AppLock, lease: Option<Box<Lease>>) {
        match ResultSlot::new() {
            Ok(slot) => self.fork(Hand { pid: getpid(), app, lock, lease, slot, tries: 0, began: time::now() }),
            Err(error) => {
                self.entries.push(Entry::new(app.as_str(), Verdict::Failed, format!("cannot make memory: {error}")));
            }
        }
    }

    fn fork(&mut self, mut hand: Hand) {
        hand.tries += 1;
        let forked = process::fork(|| {
            if let Some(lease) = &hand.lease {
                lease.is_of_parent();
            }
            self.work(&mut hand);
            0
        });
        match forked {
            Ok(pid) => self.hands.push(Hand { pid, ..hand }),
            Err(error) => self.settle(hand, Some(format!("cannot start a worker: {error}"))),
        }
    }

    /// In the worker.
    fn work(&self, hand: &mut Hand) {
        let context = Context {
            environment: settings::caller_environment(),
            cause: "janitor",
            harness_status: None,
            canonical_abra_dir: self.settings.canonical_abra_dir.clone(),
        };
        let environment = command::environment(&context, Some(&hand.app));
        let work = match &self.settings.teardown {
            Teardown::Command(words) => Work::Command(command::shell(words, environment.clone())),
            _ => Work::Auto(&self.lister.auto, environment.clone()),
        };
        let list = self.settings.list_cmd.as_ref().map(|words| command::shell(words, environment));
        let by_command = matches!(self.settings.teardown, Teardown::Command(_));
        let auto = &self.lister.auto;
        let is_listed = |app: &AppName, runner: &mut teardown::runner::Runner<'_>, when: When| match &list {
            Some(command) => candidates::is_listed(app, runner, command).map(Some),
            // A command does not look itself.
            None if by_command && when == When::Before => {
                teardown::auto::is_there(auto, runner, &context.environment, app).map(Some)
            }
            None => Ok(None),
        };
        let listed: &Listed<'_> = &is_listed;
        let limit = self.settings.teardown_timeout;
        let Ok(mut worker) = Worker::become_worker(self.delivery, self.inherited, self.directory, limit, &hand.slot)
        else {
            return;
        };
        let lease = hand.lease.as_deref();
        if let Some(lease) = lease {
            worker.back_up(lease);
        }
        let target = Target { app: Some(hand.app.clone()), lock: Some(&mut hand.lock), lease, work, look_first: true };
        worker.reap(target, listed);
    }

    /// Sleeps until a worker ends, somebody asks us to stop, or the lines on the terminal are a second old.
    fn sleep(&mut self) {
        let shown = self.hands.iter().map(|hand| (hand.app.as_str(), time::now().saturating_sub(hand.began)));
        let next = self.progress.show(shown, self.settings.teardown_timeout);
        self.wait_until(next);
    }

    fn wait_until(&mut self, moment: Option<Duration>) {
        match &mut self.alarm {
            Some(alarm) => {
                alarm.set(moment);
                fd::wait(&[alarm.as_fd()]);
            }
            None => {
                fd::wait(&[]);
            }
        }
        self.take_requests();
    }

    fn take_requests(&mut self) {
        let requests = self.delivery.take().into_iter().map(|received| received.signal);
        let mut requests = requests.filter(|number| matches!(*number, SIGTERM | SIGINT | SIGHUP | SIGQUIT));
        self.asked = self.asked.or_else(|| requests.next());
    }

    /// Takes the results of the workers that have ended.
    fn collect(&mut self) {
        self.reap();
        while let Some(pid) = self.ended.pop_front() {
            self.progress.clear();
            let Some(at) = self.hands.iter().position(|hand| hand.pid == pid) else { continue };
            let hand = self.hands.swap_remove(at);
            if hand.slot.outcome().is_none() {
                self.end_what_is_left(hand.lease.as_deref().and_then(Lease::keeper));
                if hand.tries < TRIES {
                    tracing::warn!(
                        event = "worker-killed",
                        app = hand.app.as_str(),
                        "the teardown of {} was killed from outside: running it once more",
                        hand.app
                    );
                    self.fork(hand);
                    continue;
                }
            }
            self.settle(hand, None);
        }
        self.progress.clear();
        for hand in &self.hands {
            if process::was_stopped(hand.pid) {
                let _ = process::kill(hand.pid, SIGCONT);
            }
        }
    }

    fn reap(&mut self) {
        while let Children::Ended(pid, _) = process::peek_ended() {
            process::reap(pid);
            self.ended.push_back(pid);
        }
    }

    /// Ends what a killed worker left; the other workers are not it, nor are the keepers of leases, its own too.
    fn end_what_is_left(&mut self, keeper: Option<Pid>) {
        let give_up = time::now() + KILLED_WITHIN;
        let keepers = self.hands.iter().filter_map(|hand| hand.lease.as_ref()?.keeper()).chain(keeper);
        let workers = self.hands.iter().map(|hand| hand.pid).chain(keepers);
        let mut tree = Tree::new(workers.chain(self.lister.noted.iter().copied()).collect());
        while time::now() < give_up {
            self.reap();
            if tree.is_empty(process::peek_ended()) {
                return;
            }
            tree.kill_children();
            self.wait_until(Some(give_up));
        }
    }

    fn settle(&mut self, hand: Hand, problem: Option<String>) {
        let end = hand.slot.end_of(hand.app.as_str());
        let failed = |why: String| AppEnd { why, ..AppEnd::of_command(teardown::Verdict::Failed, None) };
        let end = end.unwrap_or_else(|| {
            failed(problem.unwrap_or_else(|| "its teardown was killed from outside each time".to_owned()))
        });
        let verdict = match end.result {
            teardown::Verdict::Gone => Verdict::Gone,
            teardown::Verdict::Skipped => Verdict::Skipped,
            teardown::Verdict::Ok => Verdict::Reaped,
            teardown::Verdict::Partial => Verdict::Partial,
            teardown::Verdict::Failed | teardown::Verdict::Timeout => Verdict::Failed,
        };
        if let Some(lease) = &hand.lease {
            lease.release();
        }
        hand.lock.release();
        match verdict {
            Verdict::Reaped => tracing::info!(event = "reaped", app = hand.app.as_str(), "reaped {}", hand.app),
            Verdict::Gone => {}
            _ => {
                let name = verdict.text();
                tracing::error!(event = "not-reaped", app = hand.app.as_str(), "{}: {name}: {}", hand.app, end.why);
            }
        }
        self.entries.push(Entry {
            lock: LockReport { path: Some(hand.lock.path().to_owned()), held_s: None, holder: None },
            steps: end.steps,
            residual: end.residual,
            ..Entry::new(hand.app.as_str(), verdict, end.why)
        });
    }
}
