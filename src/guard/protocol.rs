//! What monitor and supervisor tell each other.
//!
//! The *order* of messages is the protocol: whatever the supervisor is about to do is said before it is done,
//! so that a monitor that takes over after a SIGKILL at any moment knows at least as much as has happened.
//! Messages travel over a socket pair that keeps their bounds. Neither side ever waits for the other, and the
//! end of the file means nothing: forked children hold copies of the socket.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::guard::event::{Cause, Origin};
use crate::sys::fd;
use crate::sys::process::Ended;
use crate::teardown::Outcome;

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    // From the monitor: requests, each of which is answered by `Acknowledged` (or `Suspended`).
    /// Somebody asked the monitor to stop.
    Stop { signal: i32, origin: Origin },
    /// The monitor's parent is gone.
    CallerGone,
    /// The cluster lease is lost.
    LeaseLost,
    /// Pass this signal on to the harness.
    Forward { signal: i32 },
    /// Stop the harness for ^Z.
    Suspend,
    /// Continue it.
    Resume,
    /// The answer to `AnyRequest`: all requests were passed on before this.
    NoMoreRequests,

    // From the supervisor: what it is about to do, or has learnt.
    /// The harness waits at its gate.
    HarnessIs { pid: i32 },
    /// The gate is about to be opened: from now on the harness may have run.
    GateOpened,
    /// The command could not be executed after all.
    NeverStarted { status: u8 },
    /// Why the run ends.
    CauseIs(Cause),
    /// Has the monitor a request that it has not passed on yet?
    AnyRequest,
    /// How the harness ended, and why the run does.
    HarnessEnded { how: Ended, cause: Option<Cause> },
    /// Survivors were ended; some could not be.
    Swept { killed: u32, unkillable: Vec<String> },
    /// A worker waits at its gate, or tears down already.
    WorkerIs { pid: i32 },
    /// What the teardown came to, without its lists: those are in the diary that all share. Nothing, where the worker
    /// was killed.
    WorkerEnded(Option<Outcome>),
    /// A request was heard.
    Acknowledged,
    /// The harness is stopped, as asked.
    Suspended,
    /// All is done but the release of the lock: exit with this status.
    Finished { status: u8 },
}

/// One end of the conversation.
pub struct Channel {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// Far larger than any message.
const LONGEST: usize = 64 * 1024;

impl Channel {
    /// Two ends.
    ///
    /// # Errors
    /// What socketpair(2) gives.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = fd::message_pair()?;
        let end = |socket| Channel { socket, buffer: vec![0; LONGEST] };
        Ok((end(one), end(other)))
    }

    /// Says something, or not: a peer that is stopped and has a full buffer learns what it missed when it is
    /// found dead or takes over.
    pub fn tell(&self, message: &Message) {
        let text = serde_json::to_vec(message).unwrap_or_default();
        let _ = fd::send_now(&self.socket, &text);
    }

    /// The next message that is there, without waiting.
    pub fn heard(&mut self) -> Option<Message> {
        loop {
            // Of length 0: the other end is closed.
            let length = fd::receive_now(&self.socket, &mut self.buffer).filter(|length| *length > 0)?;
            // One that makes no sense must not hide those behind it.
            if let Ok(message) = serde_json::from_slice(&self.buffer[..length]) {
                return Some(message);
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
