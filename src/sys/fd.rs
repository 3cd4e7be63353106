//! Descriptors: pipes, pairs, duplicates, and the one place where a guard process sleeps.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::select::{FdSet, pselect};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;

/// The number that a descriptor handed to a harness has at least: out of the way of those it opens itself.
pub const HANDED_OVER: RawFd = 100;

const AT_ONCE: TimeSpec = TimeSpec::new(0, 0);

/// Sleeps until a signal was delivered or one of the descriptors is ready, and tells which are.
///
/// The only place where signals are unblocked: whatever is pending is delivered here, once a kind.
pub fn wait(descriptors: &[BorrowedFd<'_>]) -> Vec<bool> {
    wait_also_for_closed(descriptors, &[]).0
}

/// The same; wakes also when the reading end of one of `outputs` is closed, and tells whether one is.
pub fn wait_also_for_closed(descriptors: &[BorrowedFd<'_>], outputs: &[BorrowedFd<'_>]) -> (Vec<bool>, bool) {
    let to_read = descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
    // An output that is a socket may have something to read for somebody else: only its end counts.
    let to_end = outputs.iter().map(|fd| PollFd::new(*fd, PollFlags::empty()));
    let mut polled: Vec<PollFd<'_>> = to_read.chain(to_end).collect();
    match ppoll(&mut polled, None, Some(SigSet::empty())) {
        Ok(_) => {
            // Where a descriptor is ready at once, ppoll(2) puts the mask back before any signal is delivered:
            // a descriptor that stays ready would starve them.
            deliver_pending();
            let (read, end) = polled.split_at(descriptors.len());
            let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            (read.iter().map(is_ready).collect(), end.iter().any(is_ready))
        }
        // More descriptors than RLIMIT_NOFILE allows, since somebody lowered it under us (poll(2)): without this we would
        // be awake for ever, and deaf, since the mask is put back before anything is delivered.
        Err(Errno::EINVAL) => (wait_without_poll(descriptors), false),
        // EINTR: a handler ran, which is what we wait for. Nothing else can happen to valid descriptors.
        Err(_) => (vec![false; descriptors.len()], false),
    }
}

/// Waits by pselect(2), which knows no such limit, but only numbers below FD_SETSIZE. It can't tell an output that is
/// closed from one that can be written to, so that is not seen.
fn wait_without_poll(descriptors: &[BorrowedFd<'_>]) -> Vec<bool> {
    let mut to_read = FdSet::new();
    let known = descriptors.iter().filter(|fd| fd.as_raw_fd() < libc::FD_SETSIZE as RawFd);
    known.for_each(|fd| to_read.insert(*fd));
    if pselect(None, &mut to_read, None, None, None, &SigSet::empty()).is_err() {
        to_read.clear();
    }
    deliver_pending();
    descriptors.iter().map(|fd| fd.as_raw_fd() < libc::FD_SETSIZE as RawFd && to_read.contains(*fd)).collect()
}

/// Would a write be taken now, without waiting?
pub fn takes_writes(fd: &impl AsFd) -> bool {
    let mut ready = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    match ppoll(&mut ready, Some(AT_ONCE), None) {
        Ok(number) => number == 1,
        // As in `wait_also_for_closed`.
        Err(Errno::EINVAL) if fd.as_fd().as_raw_fd() < libc::FD_SETSIZE as RawFd => {
            let mut to_write = FdSet::new();
            to_write.insert(fd.as_fd());
            pselect(None, None, &mut to_write, None, &AT_ONCE, None) == Ok(1)
        }
        Err(_) => false,
    }
}

/// Delivers the signals that are pending, without sleeping.
pub fn deliver_pending() {
    let _ = ppoll(&mut [], Some(AT_ONCE), Some(SigSet::empty()));
}

/// A pipe of ours: close-on-exec, so that no harness ever sees it.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Two ends of a socket that keeps the bounds of messages.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message, never waiting.
pub fn send_now(socket: &impl AsRawFd, message: &[u8]) -> io::Result<()> {
    send(socket.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// Takes one message if there is one. Of length 0: the other end is closed.
pub fn receive_now(socket: &impl AsRawFd, buffer: &mut [u8]) -> Option<usize> {
    recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).ok()
}

/// Anonymous memory that forked processes share, used as a file.
pub fn shared_memory(name: &CStr) -> io::Result<File> {
    Ok(nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?.into())
}

/// A close-on-exec duplicate whose number is `at_least` or higher, or any where the limit on descriptors is
/// lower than that.
pub fn duplicate_above(fd: &impl AsFd, at_least: RawFd) -> io::Result<OwnedFd> {
    let number = match fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(at_least)) {
        Err(Errno::EINVAL) => fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(3))?,
        other => other?,
    };
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets the program that is exec'd next have this descriptor.
pub fn keep_over_exec(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// A descriptor that came to us by its number, in the environment.
///
/// It is borrowed for the life of the program: whoever handed it over wants it to stay open.
pub fn inherited(number: RawFd) -> Option<BorrowedFd<'static>> {
    if number < 3 {
        return None;
    }
    // SAFETY: F_GETFD (below) tells that the number is open; nothing in this program closes a descriptor that it
    // did not open itself, so it stays open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_GETFD).ok().map(|_| fd)
}

/// Opens a directory as an anchor for `openat(2)`; it stays the same directory when its path changes.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty())?)
}

/// Stdout and stderr, where somebody reads them at the other end: pipes and sockets.
pub fn watchable_outputs() -> Vec<BorrowedFd<'static>> {
    [1, 2]
        .into_iter()
        .filter_map(|number| {
            // SAFETY: Rust's start-up code makes sure that 0, 1 and 2 are open, and nothing here closes them.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            let mode = nix::sys::stat::fstat(fd).ok()?.st_mode & libc::S_IFMT;
            (mode == libc::S_IFIFO || mode == libc::S_IFSOCK).then_some(fd)
        })
        .collect()
}

/// Makes reads and writes on this open file description return instead of waiting.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Gives each descriptor the number beside it, and lets those through an exec; whatever had these numbers is closed. For a
/// forked child that is about to exec.
pub fn place(descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<()> {
    // First out of the way: one of them may have a number that another one is to have.
    let moved: Vec<OwnedFd> =
        descriptors.iter().map(|(fd, _)| duplicate_above(fd, HANDED_OVER)).collect::<io::Result<_>>()?;
    for (fd, (_, number)) in moved.iter().zip(descriptors) {
        // SAFETY: dup2 takes numbers. What had this number belongs to values of the parent, which this child never uses
        // again: it execs or ends.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), *number) })?;
    }
    Ok(())
}

/// Takes a descriptor over that our parent placed at this number.
///
/// # Errors
/// EBADF: it isn't open.
pub fn placed(number: RawFd) -> io::Result<OwnedFd> {
    let fd = inherited(number).ok_or(Errno::EBADF)?;
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, was placed for us by whoever exec'd this program, and is taken over once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from this number on (close_range(2), Linux 5.9): a process that lives on its own must not keep
/// open what its parent's caller had.
pub fn close_from(number: RawFd) {
    // SAFETY: numbers only; called first of all in a program that has opened nothing yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, number, libc::c_uint::MAX, 0) };
    if closed == 0 {
        return;
    }
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for other in numbers.into_iter().filter(|other| *other >= number) {
        // SAFETY: as above; the listing's own descriptor is closed already.
        unsafe { libc::close(other) };
    }
}

/// Makes `fd` the standard stream `number`, and lets it through an exec.
pub fn become_standard_stream(fd: &impl AsRawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes numbers; 0, 1 and 2 are owned by nobody in this program.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
    Ok(())
}
