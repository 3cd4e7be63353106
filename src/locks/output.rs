//! What a look at the locks prints: a table on a terminal, columns with tabs between in a pipe, JSON.

#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::cluster;
use crate::duration;
use crate::lock::holder::HolderLine;
use crate::locks::look::{Lock, Look, Seen, State};
use crate::log;

/// The keys are a contract.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    locks: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    app: &'a str,
    #[serde(serialize_with = "log::path_as_text")]
    path: &'a Path,
    state: State,
    held_s: Option<f64>,
    recorded: Option<Recorded<'a>>,
    holders: &'a [Seen],
    waiters: &'a [Seen],
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<InCluster<'a>>,
}

/// Its holder in etcd.
#[derive(Serialize)]
struct InCluster<'a> {
    host: Option<&'a str>,
    pid: Option<i32>,
    run_id: Option<&'a str>,
    command: Option<&'a str>,
    since: Option<u64>,
    deadline_at: Option<u64>,
    token: i64,
}

impl<'a> InCluster<'a> {
    fn of(seen: &'a cluster::Seen) -> Self {
        let line = seen.line.as_ref();
        InCluster {
            host: line.and_then(|line| line.host.as_deref()),
            pid: line.map(|line| line.pid),
            run_id: line.map(|line| line.run_id.as_str()),
            command: line.map(|line| line.command.as_str()),
            since: line.and_then(|line| line.since),
            deadline_at: line.and_then(|line| line.deadline_at),
            token: seen.token,
        }
    }
}

#[derive(Serialize)]
struct Recorded<'a> {
    pid: i32,
    run_id: &'a str,
    command: &'a str,
    deadline_at: Option<u64>,
}

/// One object, and a line end.
pub fn as_json(look: &Look) -> String {
    log::json_line(&Report { schema: 1, locks: look.locks.iter().map(Entry::of).collect() })
}

impl<'a> Entry<'a> {
    fn of(lock: &'a Lock) -> Self {
        let recorded = lock.recorded.as_ref().map(|line| Recorded {
            pid: line.pid,
            run_id: &line.run_id,
            command: &line.command,
            deadline_at: line.deadline_at,
        });
        Entry {
            app: lock.app.as_str(),
            path: &lock.path,
            state: lock.state,
            held_s: lock.held_for.map(|held| held.as_secs_f64()),
            recorded,
            holders: &lock.holders,
            waiters: &lock.waiters,
            cluster: lock.cluster.as_ref().map(InCluster::of),
        }
    }
}

const HEAD: [&str; 8] = ["APP", "STATE", "SINCE", "HELD BY", "RUN", "DEADLINE", "WAITING", "COMMAND"];

/// For people and for awk(1).
pub fn as_text(look: &Look) -> String {
    let rows: Vec<[String; HEAD.len()]> = look.locks.iter().map(row).collect();
    if std::io::stdout().is_terminal() {
        if rows.is_empty() {
            return "no app locks\n".to_owned();
        }
        let head = HEAD.map(str::to_owned);
        return table(&[&[head], rows.as_slice()].concat());
    }
    rows.iter().map(|row| format!("{}\n", row.join("\t"))).collect()
}

fn row(lock: &Lock) -> [String; HEAD.len()] {
    let names = |processes: &[Seen]| {
        let names: Vec<_> = processes.iter().map(|seen| format!("{} ({})", seen.pid, seen.comm)).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(", ") }
    };
    // The line of one who has let go tells of the past.
    let recorded = lock.recorded.as_ref().filter(|_| lock.state != State::Free);
    // Nobody of this host: then the one that etcd names.
    let elsewhere = lock.cluster.as_ref().filter(|_| lock.holders.is_empty());
    let recorded = elsewhere.map_or(recorded, |seen| seen.line.as_ref());
    let held_by = elsewhere.map_or_else(|| names(&lock.holders), |seen| host_and_pid(seen.line.as_ref()));
    let state = match lock.state {
        State::Free => "free",
        State::Held => "held",
        State::Leaked => "leaked",
        State::Invisible => "invisible",
        State::Replaced => "replaced",
    };
    let dash = || "-".to_owned();
    let cells = [
        lock.app.to_string(),
        state.to_owned(),
        lock.held_for.map_or_else(dash, duration::show),
        held_by,
        recorded.map_or_else(dash, |line| line.run_id.clone()),
        recorded.and_then(|line| line.deadline_at).map_or_else(dash, moment),
        names(&lock.waiters),
        recorded.map_or_else(dash, |line| line.command.clone()),
    ];
    // What somebody wrote into a lock file is one cell of one line, whatever it is.
    cells.map(|cell| log::visible(&cell).into_owned())
}

fn host_and_pid(line: Option<&HolderLine>) -> String {
    let host = |line: &HolderLine| line.host.clone().unwrap_or_else(|| "another host".to_owned());
    line.map_or_else(|| "somebody".to_owned(), |line| format!("{} on {}", line.pid, host(line)))
}

/// Seconds since 1970, as people write them: UTC.
fn moment(seconds: u64) -> String {
    let moment = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(u64::from(u32::MAX))));
    moment.map(|moment| humantime::format_rfc3339_seconds(moment).to_string()).unwrap_or_default()
}

/// Columns as wide as their widest cell; the last one as it is.
fn table(rows: &[[String; HEAD.len()]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; HEAD.len()]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
