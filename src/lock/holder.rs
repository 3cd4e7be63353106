//! Who holds a lock: the line in the file, and what the kernel says. Hints for people, never a decision.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::sys::process::Pid;
use crate::sys::{procfs, time};

/// Longest part of a command line that is written or shown.
const COMMAND_MAX: usize = 200;

/// The one line of JSON that a holder writes into its lock file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HolderLine {
    /// The monitor.
    pub pid: i32,
    /// The run's id.
    pub run_id: String,
    /// The command as words with spaces between, cut to a readable length.
    pub command: String,
    /// Seconds since 1970 when the deadline passes, if the run has one and its harness is about to start.
    pub deadline_at: Option<u64>,
    /// The pid namespace in which `pid` means something, by its inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_ns: Option<u64>,
    /// The host, in a cluster lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Seconds since 1970 when it was taken, in a cluster lock; a file has its modification time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// It is no run, but a janitor that tears the app down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub teardown: bool,
}

impl HolderLine {
    /// A line for a run of `command`, without a deadline.
    pub fn new(pid: Pid, run_id: &str, command: &[std::ffi::OsString]) -> Self {
        let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        let command = without_secrets(&words.join(" ")).chars().take(COMMAND_MAX).collect();
        HolderLine {
            pid: pid.as_raw(),
            run_id: run_id.to_owned(),
            command,
            deadline_at: None,
            pid_ns: procfs::pid_namespace(),
            host: None,
            since: None,
            teardown: false,
        }
    }

    /// `held by pid 4242 on ci-2, run 1187, since 12m 40s: harness run nextcloud`, of one on another host.
    pub fn elsewhere(&self) -> String {
        let host = self.host.as_deref().unwrap_or("another host");
        let held = self.since.and_then(|since| time::since_epoch().checked_sub(Duration::from_secs(since)));
        let since = held.map(|held| format!(", since {}", duration::show(held))).unwrap_or_default();
        format!("held by pid {} on {host}, run {}{since}: {}", self.pid, self.run_id, self.command)
    }

    pub(super) fn to_json(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// Parts of the names of options and variables whose values are nobody's business.
const SECRET: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "api-key",
    "api_key",
    "apikey",
    "private-key",
];

/// A command line with `***` for what its own words call a secret: `TOKEN=…`, `--password …`, `scheme://user:…@host`.
///
/// Other builds show it in their logs while they wait. It can't know every secret: docs/security.md says where one is
/// safe.
fn without_secrets(command: &str) -> String {
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        SECRET.iter().any(|part| name.contains(part))
    };
    let mut value_follows = false;
    let words = command.split(' ').map(|word| {
        if std::mem::take(&mut value_follows) {
            return "***".to_owned();
        }
        match word.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=***"),
            _ => {
                value_follows = word.starts_with('-') && !word.contains('=') && is_secret(word);
                without_password(word)
            }
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A URL without the password in it.
fn without_password(word: &str) -> String {
    let masked = word.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (user, host) = rest[..end].rsplit_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{host}{}", &rest[end..]))
    });
    masked.unwrap_or_else(|| word.to_owned())
}

/// The line in an open lock file, whoever wrote it.
pub fn read_line(file: &File) -> Option<HolderLine> {
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, 0).unwrap_or(0);
    parse_line(&buffer[..length])
}

/// The first line of a lock file's content, if it is one of ours.
pub fn parse_line(content: &[u8]) -> Option<HolderLine> {
    serde_json::from_slice(content.split(|&byte| byte == b'\n').next().unwrap_or_default()).ok()
}

/// What can be told of a holder.
#[derive(Debug)]
pub struct Holder {
    /// Who took it, from `/proc/locks`, else from the line.
    pub pid: Option<i32>,
    /// The line, where it is the same process's.
    pub line: Option<HolderLine>,
    /// Since when: the file's modification time.
    pub held_for: Option<Duration>,
}

/// Looks at a lock that another holds.
pub(super) fn look(file: &File, modified: Option<SystemTime>, taker: Option<Pid>) -> Holder {
    let line = read_line(file);
    let taker = taker.map(Pid::as_raw);
    // A line that somebody else left says nothing of this holder (a Python harness writes none).
    let line = line.filter(|line| taker.is_none_or(|pid| pid == line.pid));
    let held_for = modified.and_then(|since| SystemTime::now().duration_since(since).ok());
    Holder { pid: taker.or(line.as_ref().map(|line| line.pid)), line, held_for }
}

impl Holder {
    /// ` by pid 4242 (run 1187)`, or nothing.
    pub fn in_short(&self) -> String {
        match (self.pid, &self.line) {
            (Some(pid), Some(line)) => format!(" by pid {pid} (run {})", line.run_id),
            (Some(pid), None) => format!(" by pid {pid}"),
            (None, _) => String::new(),
        }
    }
}

impl fmt::Display for Holder {
    /// `held by pid 4242, run 1187, since 12m 40s: harness run nextcloud`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "held by pid {pid}")?,
            None => write!(f, "holder unknown")?,
        }
        if let Some(line) = &self.line {
            write!(f, ", run {}", line.run_id)?;
        }
        if let Some(held) = self.held_for {
            write!(f, ", since {}", duration::show(held))?;
        }
        match (&self.line, self.pid.and_then(|pid| procfs::process(Pid::from_raw(pid)))) {
            (Some(line), _) => write!(f, ": {}", line.command),
            (None, Some(process)) => write!(f, ": {}", process.name),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen failing with the value of an option that follows it left as it is.
    #[test]
    fn what_calls_itself_a_secret_is_not_shown() {
        for (command, shown) in [
            ("harness run immich --retries=3", "harness run immich --retries=3"),
            ("harness --password=a=b run", "harness --password=*** run"),
            ("harness --registry-token abc run", "harness --registry-token *** run"),
            ("sh -c export A=1 DB_PASSWORD='x' && run", "sh -c export A=1 DB_PASSWORD=*** && run"),
            ("git clone https://me:abc@host/x@y", "git clone https://me:***@host/x@y"),
            ("curl https://me@host/ ssh://host:22", "curl https://me@host/ ssh://host:22"),
            ("login --token", "login --token"),
        ] {
            assert_eq!(without_secrets(command), shown);
        }
    }
}
