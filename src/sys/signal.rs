//! Signals: what the caller handed us, how they reach a guard process, what a child gets back.
//!
//! **All signals stay blocked in every guard process, except inside `ppoll(2)`** ([`super::fd::wait`]).
//! A handler (installed by signal-hook) therefore runs only there. So nothing is interrupted, every fork
//! happens with all signals blocked, and a child that resets its [`Delivery`] after the fork shares no pipe
//! with its parent: a self-pipe that both read lost one signal in five.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

/// Highest signal number on Linux, see signal(7).
const LAST: i32 = 64;

/// The signals whose dispositions we ever change. All others reach a child as the caller left them (exec resets
/// handlers, and nothing else, to the default).
fn touched() -> impl Iterator<Item = i32> {
    use libc::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGTTOU, SIGUSR1, SIGUSR2};
    let standard = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2, SIGCHLD, SIGPIPE, SIGALRM, SIGTTOU];
    standard.into_iter().chain([libc::SIGWINCH, libc::SIGXFSZ, parent_death()])
}

/// What was ignored and blocked when the program was started; a child gets it back before its exec.
#[derive(Clone)]
pub struct Inherited {
    mask: SigSet,
    ignored: [bool; LAST as usize + 1],
}

/// Remembers the caller's mask and dispositions, blocks every signal, and sets SIGCHLD to its default:
/// with SIGCHLD ignored the kernel reaps for us and every exit status is lost (wait(2), NOTES).
pub fn take_over() -> Inherited {
    let mut mask = SigSet::empty();
    // Can't fail: both pointers are valid and the request is known (sigprocmask(2)).
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask));
    let mut ignored = [false; LAST as usize + 1];
    for signal in touched() {
        ignored[signal as usize] = disposition(signal) == Some(libc::SIG_IGN);
    }
    set_disposition(libc::SIGCHLD, libc::SIG_DFL);
    Inherited { mask, ignored }
}

impl Inherited {
    /// Was this signal ignored by the caller? (`nohup`, a shell's `&`.) Known of those that we change.
    pub fn ignores(&self, signal: i32) -> bool {
        self.ignored.get(signal as usize).copied().unwrap_or(false)
    }

    /// The signals that the caller had blocked.
    pub fn blocked(&self) -> Vec<Signal> {
        self.mask.iter().collect()
    }

    /// Gives a child that is about to exec the caller's dispositions, then the caller's mask.
    ///
    /// SIGPIPE and SIGCHLD become default: Rust's start-up code ignores the first, and an inherited ignored
    /// SIGCHLD makes Python report 0 for a child's exit 7. This order: a signal that waits since the fork
    /// must meet the caller's disposition, not a handler of ours.
    pub fn restore(&self) {
        for signal in touched() {
            let wanted = match signal {
                libc::SIGPIPE | libc::SIGCHLD => libc::SIG_DFL,
                _ if self.ignores(signal) => libc::SIG_IGN,
                _ => libc::SIG_DFL,
            };
            set_disposition(signal, wanted);
        }
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }

    /// For `exec`: makes sure that one signal is delivered with its default action after [`Self::restore`].
    pub fn force_default(&mut self, signal: Signal) {
        self.ignored[signal as usize] = false;
        self.mask.remove(signal);
    }
}

fn disposition(signal: i32) -> Option<libc::sighandler_t> {
    // SAFETY: a zeroed sigaction is a valid place for the kernel to write to; nothing is changed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, std::ptr::null(), &mut action) == 0).then_some(action.sa_sigaction)
    }
}

fn set_disposition(signal: i32, handler: libc::sighandler_t) {
    debug_assert!(handler == libc::SIG_DFL || handler == libc::SIG_IGN);
    // SAFETY: the action is SIG_DFL or SIG_IGN, so no handler of ours can be called through it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        libc::sigaction(signal, &action, std::ptr::null_mut());
    }
}

/// Ignores a signal from now on.
pub fn ignore(signal: i32) {
    set_disposition(signal, libc::SIG_IGN);
}

/// The signal by which the kernel tells a guard process that its parent has died: a real-time signal of our
/// own, so that it can't be taken for somebody's SIGTERM.
pub fn parent_death() -> i32 {
    libc::SIGRTMIN() + 7
}

/// One kind of signal that has arrived since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Sent by the kernel, as a terminal does for ^C, and not by a process (`si_code`, sigaction(2)).
    pub from_kernel: bool,
}

#[derive(Default)]
struct Slot {
    count: AtomicU32,
    from_kernel: AtomicBool,
}

/// The signals that a guard process handles, counted by their handlers.
pub struct Delivery {
    slots: Arc<Vec<Slot>>,
}

impl Delivery {
    /// Installs a handler for each of `signals`.
    ///
    /// # Errors
    /// What sigaction(2) gives, for a number that is no signal.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let slots: Arc<Vec<Slot>> = Arc::new((0..=LAST).map(|_| Slot::default()).collect());
        for &signal in signals {
            let seen = Arc::clone(&slots);
            // SAFETY: the action only stores to atomics, which is async-signal-safe (signal-safety(7)).
            unsafe {
                signal_hook_registry::register_sigaction(signal, move |info| {
                    let slot = &seen[signal as usize];
                    slot.from_kernel.store(info.si_code == libc::SI_KERNEL, Ordering::Relaxed);
                    slot.count.fetch_add(1, Ordering::Release);
                })?;
            }
        }
        Ok(Delivery { slots })
    }

    /// Forgets what arrived for the process that we were forked from.
    pub fn reset(&self) {
        for slot in self.slots.iter() {
            slot.count.store(0, Ordering::Relaxed);
        }
    }

    /// What has arrived since the last call, each kind once, in the order of the numbers.
    pub fn take(&self) -> Vec<Received> {
        let arrived = |(signal, slot): (usize, &Slot)| {
            (slot.count.swap(0, Ordering::Acquire) > 0)
                .then(|| Received { signal: signal as i32, from_kernel: slot.from_kernel.load(Ordering::Relaxed) })
        };
        self.slots.iter().enumerate().filter_map(arrived).collect()
    }
}

/// Stops this process as ^Z would have, and returns when it is continued.
///
/// In an orphaned process group the kernel discards the stop (setpgid(2), signal(7)): then this returns at once.
pub fn stop_by_terminal() {
    // SAFETY: the old action is put back as it was; SIGTSTP is default only in between, and unblocked only here.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGTSTP, &default, &mut old);
        libc::raise(libc::SIGTSTP);
        let mut only_stop = SigSet::empty();
        only_stop.add(Signal::SIGTSTP);
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only_stop), None);
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&only_stop), None);
        libc::sigaction(libc::SIGTSTP, &old, std::ptr::null_mut());
    }
}

/// Names of a signal as people write them: `TERM`, `SIGTERM`, `15`.
pub fn parse(name: &str) -> Option<Signal> {
    if let Ok(number) = name.parse::<i32>() {
        return Signal::try_from(number).ok();
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse().ok()
}

/// `TERM` for 15; the number itself for one without a name.
pub fn name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(known) => known.as_str().trim_start_matches("SIG").to_owned(),
        Err(_) => signal.to_string(),
    }
}
