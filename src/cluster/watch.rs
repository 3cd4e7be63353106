//! Watching a key for its removal, in a thread of the keeper.
//!
//! A watch tells; it is never what decides alone: the key is looked at whenever one begins, since it may have gone
//! before.

#![forbid(unsafe_code)]

use std::io::{self, BufRead};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::etcd::{self, Client, Removal};
use crate::cluster::hold::Note;

/// Enough for a request and what TLS needs.
const STACK: usize = 512 * 1024;
/// Where no endpoint takes a watch, one is asked for again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Tells whenever a watch of this key has begun that may have missed its removal, and once it was removed; then it ends.
///
/// # Errors
/// No memory for a thread.
pub(super) fn start(mut client: Client, app: String, revision: Option<i64>, notes: Sender<Note>) -> io::Result<()> {
    let follow = move || {
        let mut revision = revision;
        // Ends when nobody listens any more.
        while let Ok(removal) = follow_once(&mut client, &app, revision.take(), &notes) {
            if let Some(removal) = removal {
                let _ = notes.send(Note::Removed { app, removal });
                return;
            }
            thread::sleep(AGAIN_AFTER);
        }
    };
    thread::Builder::new().name("watch".to_owned()).stack_size(STACK).spawn(follow).map(|_| ())
}

/// One watch, to its end; tells of the key's removal, if that was it. `Err`: nobody listens.
fn follow_once(
    client: &mut Client,
    app: &str,
    revision: Option<i64>,
    notes: &Sender<Note>,
) -> Result<Option<Removal>, ()> {
    let Ok(lines) = client.watch(app, revision) else { return Ok(None) };
    for line in lines.lines().map_while(Result::ok) {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else { return Ok(None) };
        let result = &answer["result"];
        if result["canceled"].as_bool() == Some(true) || etcd::refusal(&answer).is_some() {
            client.forget_token();
            return Ok(None);
        }
        // One that begins at a revision that we know leaves nothing out.
        if result["created"].as_bool() == Some(true) && revision.is_none() {
            notes.send(Note::Watching(app.to_owned())).map_err(|_| ())?;
        }
        let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(removal) = events.iter().find_map(etcd::removal) {
            return Ok(Some(removal));
        }
    }
    Ok(None)
}
