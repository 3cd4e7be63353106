//! What a keeper is asked for, and what it answers: JSON, through its standard streams.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::lock::holder::HolderLine;
use crate::log;
use crate::settings::EtcdSettings;

/// Everything that a keeper is told at its start. Through its stdin, since a command line is everybody's to read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Which etcd.
    pub(super) etcd: EtcdSettings,
    /// What is logged, where and how.
    pub(super) log: log::Settings,
    /// Whose it is, for the log.
    pub(super) run_id: Option<String>,
    /// What to do.
    pub(super) work: Work,
}

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// Get a lease and the keys of these apps, and keep them.
    Seek {
        /// The apps, in the order in which they are taken.
        wanted: Vec<Wanted>,
        /// Wait for those that others hold; else leave them out.
        wait: bool,
    },
    /// Keep a lease that is there, once the keeper before is dead.
    Keep(Keep),
    /// Answer, and end.
    Answer(Question),
}

/// An app that is to be ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Its domain.
    pub app: String,
    /// Who we are, as others are shown it.
    pub line: HolderLine,
    /// How long the run may take, in seconds: the line is to say when that is over.
    pub deadline: Option<u64>,
    /// Our lock file of it on this host.
    pub lock: PathBuf,
}

/// A lease, and the keys that go with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Keep {
    /// etcd's number of the lease.
    pub(super) lease: i64,
    /// The keys.
    pub(super) held: Vec<Held>,
}

/// An app that is ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Its domain.
    pub app: String,
    /// etcd's create revision of its key.
    pub token: i64,
    /// Our lock file of it on this host.
    pub lock: PathBuf,
    /// The pid and the run id in that file's line.
    pub line: (i32, String),
}

/// What can be asked without a lease.
#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    /// Does etcd answer, and let us in?
    Ping,
    /// Who holds these apps? All, where none is named.
    WhoHolds(Vec<String>),
    /// Is the key of this app still the one with this create revision?
    IsOurs {
        /// Its domain.
        app: String,
        /// The create revision.
        token: i64,
    },
}

/// An app that somebody holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its domain.
    pub app: String,
    /// The holder's line, if it makes sense.
    pub line: Option<HolderLine>,
    /// etcd's create revision of its key.
    pub token: i64,
    /// etcd's number of its lease.
    pub lease: i64,
}

impl Seen {
    /// Who holds it, in words.
    pub fn holder(&self) -> String {
        self.line.as_ref().map_or_else(|| "held by somebody".to_owned(), HolderLine::elsewhere)
    }
}

/// What a keeper says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Somebody has it: waited for, or left out.
    Elsewhere(Seen),
    /// All that could be had are ours, with this lease.
    Ours {
        /// etcd's number of the lease.
        lease: i64,
        /// Those that are ours.
        held: Vec<Held>,
    },
    /// etcd could not be reached.
    Unreachable(String),
    /// etcd refused us.
    Refused(String),
    /// To [`Question::Ping`]: etcd's version.
    Pong(String),
    /// To [`Question::WhoHolds`].
    Holders(Vec<Seen>),
    /// To [`Question::IsOurs`].
    IsOurs(bool),
}
