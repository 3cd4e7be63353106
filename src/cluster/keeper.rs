//! The keeper's process: what it is told, and what becomes of it.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::time::Duration;

use crate::cluster::etcd::{Client, Problem};
use crate::cluster::hold::Holder;
use crate::cluster::request::{Answer, Question, Request, Work};
use crate::exit_status::ExitStatus;
use crate::log;
use crate::settings::EtcdSettings;
use crate::sys::{fd, process};

/// The name by which this program is started to be one, and the name that ps(1) shows.
pub const NAME: &str = "ccci-guard-keeper";

/// Where its starter places what it shares with it: the life pipe, the report pipe, the state.
pub(super) const LIFE: i32 = 3;
pub(super) const REPORT: i32 = 4;
pub(super) const STATE: i32 = 5;

/// A try at one endpoint may take a part of the lease's time; there are several to be made in it.
const TRY_SHARE: u32 = 10;
const TRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// The whole life of a keeper; returns the status to exit with.
pub fn keep() -> u8 {
    fd::close_from(STATE + 1);
    process::set_name(c"ccci-keeper");
    let _ = std::env::set_current_dir("/");
    match told().and_then(work) {
        Ok(()) => ExitStatus::Success as u8,
        Err(_) => ExitStatus::Failed as u8,
    }
}

fn told() -> io::Result<Request> {
    let request: Request = serde_json::from_reader(io::stdin().lock())?;
    let _ = log::start(request.log.clone());
    if let Some(run_id) = &request.run_id {
        log::set_run_id(run_id);
    }
    Ok(request)
}

fn work(request: Request) -> io::Result<()> {
    // A question is asked once, and can be waited for.
    let limit = if matches!(request.work, Work::Answer(_)) { TRY.1 } else { try_limit(&request.etcd) };
    let client = Client::new(&request.etcd, limit);
    match (request.work, client) {
        (Work::Answer(question), client) => {
            say(&client.and_then(|mut client| reply(&mut client, question)).unwrap_or_else(refused))
        }
        (Work::Seek { .. }, Err(problem)) => say(&refused(problem)),
        (Work::Seek { wanted, wait }, Ok(client)) => Holder::new(client, request.etcd, &wanted)?.seek(wanted, wait),
        (Work::Keep(_), Err(problem)) => Err(io::Error::other(problem.text().to_owned())),
        (Work::Keep(keep), Ok(client)) => Holder::new(client, request.etcd, &[])?.keep(keep),
    }
}

/// How long one try at one endpoint may take.
pub(super) fn try_limit(etcd: &EtcdSettings) -> Duration {
    (Duration::from_secs(etcd.ttl) / TRY_SHARE).clamp(TRY.0, TRY.1)
}

fn reply(client: &mut Client, question: Question) -> Result<Answer, Problem> {
    match question {
        Question::Ping => client.version().map(Answer::Pong),
        Question::WhoHolds(apps) => client.holders(&apps).map(Answer::Holders),
        Question::IsOurs { app, token } => {
            client.create_revision(&app).map(|revision| Answer::IsOurs(revision == Some(token)))
        }
    }
}

/// Says something to whoever started us.
pub(super) fn say(answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    // Nobody reads it any more: then nobody needs it.
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    Ok(())
}

/// A problem as an answer.
pub(super) fn refused(problem: Problem) -> Answer {
    match problem {
        Problem::Unreachable(text) => Answer::Unreachable(text),
        Problem::Refused(text) => Answer::Refused(text),
    }
}
