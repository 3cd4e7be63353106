//! Processes: fork, sessions, death signals, waiting, exec.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
pub use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How a process ended. Unlike nix's `WaitStatus` it knows real-time signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// By exit(2), with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    /// The status as a shell shows it: 128+n for a signal.
    pub fn as_shell_status(self) -> i32 {
        match self {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        }
    }
}

/// Forks; the child runs `child` and ends with the status that it returns, never unwinding into our frames.
///
/// Precondition: this process has one thread. Then the child may do all that the parent could.
///
/// # Errors
/// EAGAIN and ENOMEM of fork(2).
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: single-threaded (the precondition), so no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let guard = AbortOnUnwind;
            let status = child();
            std::mem::forget(guard);
            exit_now(status)
        }
        pid => Ok(Pid::from_raw(pid)),
    }
}

struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Ends the process without destructors, buffers or exit handlers, as a forked child must (`_exit(2)`).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(status) }
}

/// Asks for `signal` when the *thread* that forked us ends (PR_SET_PDEATHSIG); 0 asks for nothing.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a number, no pointer.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) })?;
    Ok(())
}

/// Orphaned descendants become our children from now on (PR_SET_CHILD_SUBREAPER).
pub fn set_subreaper() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes a number, no pointer.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    Ok(())
}

/// A descriptor that becomes readable when `pid` has ended (pidfd_open(2), Linux 5.3).
///
/// # Errors
/// ENOSYS or EPERM under a seccomp filter, EINVAL for a process of another pid namespace (0), ESRCH.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor that the kernel returns is new and belongs to nobody else.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Sends a signal by number (also a real-time one, which nix's type can't name).
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes numbers only.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) })?;
    Ok(())
}

/// Sends a signal to a process group.
pub fn kill_group(group: Pid, signal: i32) -> io::Result<()> {
    kill(Pid::from_raw(-group.as_raw()), signal)
}

/// What there is to know about children without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// This child has ended; it stays a zombie until [`reap`].
    Ended(Pid, Ended),
    /// There are children, none of which has ended.
    Alive,
    /// There is no child (ECHILD).
    None,
}

/// Looks for an ended child and leaves it unreaped (`WNOWAIT`): what is known of its end can be passed on first.
pub fn peek_ended() -> Children {
    wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Takes an ended child, whichever it is: for who has nothing to pass on first. With a thousand children each look for one
/// that has ended goes through most of them, so one look a child and not two halves the time that their end takes.
pub fn reap_any() -> Children {
    wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG)
}

/// Looks whether this child has ended, and leaves it unreaped.
pub fn peek_child(pid: Pid) -> Children {
    wait(libc::P_PID, pid.as_raw() as libc::id_t, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Takes an ended child's process-table entry away.
pub fn reap(pid: Pid) {
    let _ = wait(libc::P_PID, pid.as_raw() as libc::id_t, libc::WEXITED | libc::WNOHANG);
}

/// Waits for a child's end and takes it, where it has not been taken yet.
pub fn wait_for(pid: Pid) {
    let _ = wait(libc::P_PID, pid.as_raw() as libc::id_t, libc::WEXITED);
}

/// Has this child been stopped since the last call?
pub fn was_stopped(pid: Pid) -> bool {
    matches!(wait(libc::P_PID, pid.as_raw() as libc::id_t, libc::WSTOPPED | libc::WNOHANG), Children::Ended(..))
}

fn wait(kind: libc::idtype_t, id: libc::id_t, options: i32) -> Children {
    loop {
        // SAFETY: a zeroed siginfo_t is valid to be written to; si_pid and si_status are what waitid(2) fills in.
        let (result, pid, code, status) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let result = libc::waitid(kind, id, &mut info, options);
            (result, info.si_pid(), info.si_code, info.si_status())
        };
        return match Errno::result(result) {
            Err(Errno::EINTR) => continue,
            Err(_) => Children::None,
            Ok(_) if pid == 0 => Children::Alive,
            Ok(_) if code == libc::CLD_EXITED => Children::Ended(Pid::from_raw(pid), Ended::Code(status)),
            Ok(_) => Children::Ended(Pid::from_raw(pid), Ended::Signal(status)),
        };
    }
}

/// Replaces this process; returns only the error.
pub fn exec(program: &CString, argv: &[CString], environment: &[CString]) -> Errno {
    match nix::unistd::execve(program, argv, environment) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// The name by which ps(1) shows this process, 15 bytes of it (PR_SET_NAME).
pub fn set_name(name: &CStr) {
    // SAFETY: the kernel reads at most 16 bytes of a string that ends with NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Gives the pages of the program's file back that only the start-up needed; those still needed are faulted in again.
///
/// The kernel maps 16 pages around each one that is touched. Two guard processes that sleep for hours are half as large
/// without them (`docs/performance.md`).
pub fn forget_start_up() {
    // SAFETY: the callback keeps nothing of what it is handed, and ends with the call.
    unsafe { libc::dl_iterate_phdr(Some(forget_read_only), std::ptr::null_mut()) };
}

/// Of the first object, which is the program itself: each segment that can't be written to.
unsafe extern "C" fn forget_read_only(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: usize = 4096;
    // SAFETY: the C library hands over a valid object and the array of its headers (dl_iterate_phdr(3)). A segment without
    // PF_W is a private, read-only mapping of the file, so dropping its pages loses nothing (madvise(2)); the range is cut
    // to whole pages, and a kernel with larger ones refuses it and changes nothing.
    unsafe {
        let object = &*object;
        for header in std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) {
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
                let start = (object.dlpi_addr + header.p_vaddr) as usize;
                let first = start.next_multiple_of(PAGE);
                let length = ((start + header.p_memsz as usize) & !(PAGE - 1)).saturating_sub(first);
                libc::madvise(std::ptr::without_provenance_mut(first), length, libc::MADV_DONTNEED);
            }
        }
    }
    1
}

/// Sends SIGALRM to this process after `delay`; the timer goes on over an exec (setitimer(2)).
pub fn alarm(delay: Duration) -> io::Result<()> {
    // A delay of zero would switch the timer off.
    let delay = delay.max(Duration::from_micros(1));
    let timer = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval {
            tv_sec: delay.as_secs() as libc::time_t,
            tv_usec: delay.subsec_micros() as libc::suseconds_t,
        },
    };
    // SAFETY: the new value is a valid itimerval, the old one isn't asked for.
    Errno::result(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) })?;
    Ok(())
}
