//! A gate that a forked child waits at until its parent has told others of it, or written it down.
//!
//! When the parent dies first, the gate never opens and the child ends without having done anything: nobody
//! has to know of a child that has done nothing.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use crate::sys::fd;

/// Exit status of a child whose gate was never opened: it has done nothing.
pub const CLOSED: i32 = 99;

/// The parent's side of a gate.
pub struct Gate {
    write: OwnedFd,
    read: OwnedFd,
}

impl Gate {
    /// A gate for the next child.
    ///
    /// # Errors
    /// What pipe2(2) gives.
    pub fn new() -> io::Result<Self> {
        let (read, write) = fd::pipe()?;
        Ok(Gate { write, read })
    }

    /// In the parent: lets the child go.
    pub fn open(self) {
        let _ = std::fs::File::from(self.write).write(&[1]);
    }

    /// In the child: waits for the parent's word. False: the parent died or thought better of it.
    pub fn wait(self) -> bool {
        // Our own copy of the writing end would keep the end of the file away for ever.
        drop(self.write);
        let mut byte = [0];
        matches!(std::fs::File::from(self.read).read(&mut byte), Ok(1))
    }
}
