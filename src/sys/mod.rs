//! The wall around the kernel: the only `unsafe`, the only `libc`.
//!
//! Each file wraps one family of system calls into safe functions that keep no policy. What to do with a
//! signal, a process or a descriptor is decided by the callers, none of which may need `unsafe`.

pub mod directory;
pub mod fd;
pub mod file_lock;
pub mod memory;
pub mod open_files;
mod other_proc;
pub mod process;
pub mod procfs;
pub mod signal;
pub mod time;
