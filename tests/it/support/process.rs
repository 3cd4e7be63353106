//! One started program: its output line by line, its end, its tree, and no survivor once it is dropped.

use super::processes::{MARK, Process, children, kill_marked, marked};
use super::{SOON, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// As a shell shows it: 128+n when a signal ended it.
    pub code: i32,
    /// From its start to the moment its end was seen.
    pub after: Duration,
}

/// A started program. On drop everything that carries its mark is killed.
pub struct Proc {
    child: Child,
    mark: String,
    started: Instant,
    exit: Option<Exit>,
    stdout: Stream,
    stderr: Stream,
}

impl Proc {
    /// Starts `command`, which `Sandbox::command` made.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        let mark = command.get_envs().find(|(name, _)| *name == MARK).and_then(|(_, v)| v);
        let mark = mark.and_then(|m| m.to_str()).expect("a command of the sandbox").to_owned();
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (stdout, stderr) = (Stream::read(child.stdout.take()), Stream::read(child.stderr.take()));
        Self { child, mark, started, exit: None, stdout, stderr }
    }

    /// Its pid (of the guard's monitor, unless it was started through something else).
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Its stdin, when that was a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Sends a signal to it alone; one that has ended by itself gets none.
    pub fn signal(&self, signal: Signal) {
        // Not yet reaped by us, so the pid is still its own.
        if self.exit.is_none() {
            let _ = kill(self.pid(), signal);
        }
    }

    /// Has it ended? Does not wait.
    pub fn try_wait(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            let status = self.child.try_wait().expect("our own child can be waited for")?;
            self.exit = Some(Exit { code: shell_code(status), after: self.started.elapsed() });
        }
        self.exit
    }

    /// Waits for its end; panics with its stderr when that does not come.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Exit {
        let start = Instant::now();
        loop {
            if let Some(exit) = self.try_wait() {
                self.drain();
                return exit;
            }
            if start.elapsed() > limit {
                let tree: Vec<_> = self.tree().iter().map(ToString::to_string).collect();
                panic!("not ended within {limit:?}; alive: {tree:#?}; its stderr:\n{}", self.stderr());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it wrote before its end is in the pipes, but perhaps not with us yet. Somebody else may keep them open:
    /// then this is as much as there is to wait for.
    fn drain(&self) {
        let start = Instant::now();
        while !(self.stdout.ended() && self.stderr.ended()) && start.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits up to `SOON` and gives the status as a shell shows it.
    #[track_caller]
    pub fn code(&mut self) -> i32 {
        self.wait(SOON).code
    }

    /// Waits for its end and compares the status; a failure shows stderr.
    #[track_caller]
    pub fn expect_code(&mut self, expected: i32) -> Exit {
        let exit = self.wait(SOON * 3);
        assert_eq!(exit.code, expected, "exit status; its stderr:\n{}", self.stderr());
        exit
    }

    /// The next line of stdout.
    #[track_caller]
    pub fn line(&self) -> String {
        self.try_line(SOON).unwrap_or_else(|| panic!("no line of stdout; stderr:\n{}", self.stderr()))
    }

    /// The next line of stdout, `None` when it does not come in time or the output has ended.
    pub fn try_line(&self, limit: Duration) -> Option<String> {
        self.stdout.line(limit)
    }

    /// The next signal that the fixture's `print-signals` tells, but CONT: that one follows every stop signal,
    /// and its handler may come first.
    #[track_caller]
    pub fn signal_line(&self) -> String {
        loop {
            let line = self.line();
            if !line.starts_with("CONT") {
                return line;
            }
        }
    }

    /// Reads stdout up to the line that starts with `start`; gives the rest of that line.
    #[track_caller]
    pub fn expect_line(&self, start: &str) -> String {
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Reads stdout up to the fixture's `ready`; gives what stands behind it.
    #[track_caller]
    pub fn ready(&self) -> String {
        self.expect_line("ready")
    }

    /// Reads stdout up to `ready PID`; gives that pid.
    #[track_caller]
    pub fn ready_pid(&self) -> Pid {
        let rest = self.ready();
        let pid = rest.split_whitespace().next().and_then(|p| p.parse().ok());
        Pid::from_raw(pid.unwrap_or_else(|| panic!("no pid behind ready: {rest:?}")))
    }

    /// Everything on stdout so far, also what was read by line.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout_bytes()).into_owned()
    }

    /// The same as bytes.
    pub fn stdout_bytes(&self) -> Vec<u8> {
        self.stdout.bytes()
    }

    /// Everything on stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.bytes()).into_owned()
    }

    /// Waits until stderr contains `words`.
    #[track_caller]
    pub fn expect_stderr(&self, words: &str) {
        eventually(SOON, &format!("{words:?} on stderr"), || {
            let text = self.stderr();
            if text.contains(words) { Ok(()) } else { Err(text) }
        });
    }

    /// Both pipes must end: nobody may keep the caller's output open.
    #[track_caller]
    pub fn expect_eof(&self, limit: Duration) {
        eventually(limit, "end of file on stdout and stderr", || {
            if self.stdout.ended() && self.stderr.ended() { Ok(()) } else { Err("a pipe is open") }
        });
    }

    /// All living processes that this one caused, itself included.
    pub fn tree(&self) -> Vec<Process> {
        marked(&self.mark)
    }

    /// The monitor: the topmost process of the guard (also where it was started through a script).
    #[track_caller]
    pub fn monitor(&self) -> Pid {
        eventually(SOON, "the monitor", || {
            let guards: Vec<_> = self.tree().into_iter().filter(Process::is_guard).collect();
            let top = guards.iter().find(|p| guards.iter().all(|q| q.pid != p.parent));
            top.map(|p| p.pid).ok_or("no guard process")
        })
    }

    /// The supervisor: the guard process below the monitor. Ask while the monitor is its parent.
    #[track_caller]
    pub fn supervisor(&self) -> Pid {
        let monitor = self.monitor();
        eventually(SOON, "the supervisor", || {
            let mut below = children(monitor).into_iter().filter(Process::is_guard);
            below.next().map(|p| p.pid).ok_or(format!("no guard below {monitor}"))
        })
    }

    /// The harness: what the supervisor started and is no guard any more.
    #[track_caller]
    pub fn harness(&self) -> Pid {
        let supervisor = self.supervisor();
        eventually(SOON, "the harness", || {
            let mut below = children(supervisor).into_iter().filter(|p| !p.is_guard());
            below.next().map(|p| p.pid).ok_or(format!("no harness below {supervisor}"))
        })
    }

    /// The worker that runs a step: a guard process with a child, two below the monitor or, after a takeover, one.
    #[track_caller]
    pub fn worker(&self) -> Pid {
        eventually(SOON, "the worker", || {
            let tree = self.tree();
            let guards = || tree.iter().filter(|p| p.is_guard());
            let with_step = guards().filter(|p| tree.iter().any(|c| c.parent == p.pid && !c.is_guard()));
            // The supervisor may still have the harness below it; the worker is the lowest guard.
            let lowest = with_step.filter(|p| !guards().any(|c| c.parent == p.pid));
            let shown = || tree.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let led = lowest.filter(|p| p.session == p.pid && guards().any(|g| g.pid == p.parent));
            { led }.next_back().map(|p| p.pid).ok_or_else(shown)
        })
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        kill_marked(&self.mark);
        if self.exit.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// What a thread has read from one pipe.
struct Stream(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    lines_taken: usize,
    ended: bool,
}

impl Stream {
    fn read(source: Option<impl Read + Send + 'static>) -> Self {
        let shared = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let Some(mut source) = source else {
            shared.0.lock().unwrap().ended = true;
            return Self(shared);
        };
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let n = source.read(&mut buffer).unwrap_or(0);
                let mut state = shared.0.lock().unwrap();
                state.bytes.extend_from_slice(&buffer[..n]);
                state.ended = n == 0;
                shared.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        Self(ours)
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().bytes.clone()
    }

    fn ended(&self) -> bool {
        self.0.0.lock().unwrap().ended
    }

    fn line(&self, limit: Duration) -> Option<String> {
        let until = Instant::now() + limit;
        let mut state = self.0.0.lock().unwrap();
        loop {
            let rest = &state.bytes[state.lines_taken..];
            if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                state.lines_taken += end + 1;
                return Some(line);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
    }
}
