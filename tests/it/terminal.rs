//! At a terminal: ^C, ^Z and `fg`, hang-up, and a harness that needs the terminal itself.

use crate::support::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// An interactive shell on a terminal that has started `guard` as its foreground job, harness ready.
struct Terminal {
    pty: Pty,
    shell: Proc,
    harness: Pid,
    at: usize,
}

impl Terminal {
    fn start(sandbox: &Sandbox, guard: Guard<'_>) -> Self {
        // Sourced, so that the guard itself is the shell's job, without a script's process between.
        std::fs::write(sandbox.path("work/go"), guard.line() + "\n").unwrap();
        let pty = Pty::new();
        let shell = pty.spawn(sandbox, &["/bin/sh", "-i"]);
        let at = pty.expect(0, "prompt> ");
        pty.write(". ./go\n");
        let at = pty.expect(at, "ready ");
        let line_end = pty.expect(at, "\n");
        let harness = pty.shown()[at..line_end].trim().parse().unwrap();
        Self { pty, shell, harness: Pid::from_raw(harness), at: line_end }
    }

    fn keys(&self, keys: &str) {
        self.pty.write(keys);
    }

    fn expect(&mut self, words: &str) {
        self.at = self.pty.expect(self.at, words);
    }

    /// Asks the shell how the job ended. (What is typed has no digit, so its echo is not the answer.)
    fn expect_status(&mut self, code: i32) {
        self.keys("echo \"ended with $?\"\n");
        self.expect(&format!("ended with {code}\r\n"));
    }
}

/// ^C: the harness gets one INT, the status is 130, nothing is left.
///
/// Fails when the INT reaches the harness twice (from the terminal and from the guard), or the guard dies of it.
#[test]
fn control_c_gives_the_harness_one_int_and_130() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).grace("1s");
    // It ignores its INT, so that a second one would still be seen in the second before its end.
    let mut terminal = Terminal::start(&sandbox, guard.fixture("print-signals"));
    terminal.keys("\x03");
    terminal.expect("INT 1");
    terminal.expect_status(130);
    let shown = terminal.pty.shown();
    assert!(!shown.contains("INT 2") && !shown.contains("TERM 1"), "{shown}");
    teardown.expect_one();
    sandbox.expect_only_left(terminal.shell.pid());
    assert!(sandbox.lock_is_free());
}

/// ^Z and `fg`, three times (sudo-rs#1598), then ^C.
///
/// Fails when the monitor stops alone, when `fg` continues only one of the two, or when it works just once.
#[test]
fn control_z_and_fg_work_three_times() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command());
    let mut terminal = Terminal::start(&sandbox, guard.fixture("print-signals INT=0"));
    let monitor = terminal.shell.monitor();
    for round in 1..=3 {
        terminal.keys("\x1a");
        terminal.expect("Stopped");
        for (who, pid) in [("harness", terminal.harness), ("monitor", monitor)] {
            eventually(SOON, &format!("round {round}: stop of the {who}"), || {
                if stopped(pid) { Ok(()) } else { Err("runs") }
            });
        }
        terminal.keys("fg\n");
        terminal.expect(&format!("CONT {round}"));
        eventually(SOON, "the monitor goes on", || if stopped(monitor) { Err("stopped") } else { Ok(()) });
    }
    teardown.expect_none();
    terminal.keys("\x03");
    terminal.expect("INT 1");
    terminal.expect_status(130);
    teardown.expect_one();
}

/// The deadline goes on counting while all is stopped, and then ends the run: nobody needs to come back for it.
///
/// Fails when the supervisor stops too, or the stopped harness is not continued for its stop signal.
#[test]
fn the_deadline_counts_while_the_job_is_stopped() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).deadline("3s");
    let mut terminal = Terminal::start(&sandbox, guard.fixture("print-signals TERM=0"));
    terminal.keys("\x1a");
    terminal.expect("Stopped");
    terminal.expect("TERM 1");
    teardown.expect_end(SOON);
    sandbox.expect_only_left(terminal.shell.pid());
    assert!(sandbox.lock_is_free());
    teardown.expect_one();
}

/// A job that is stopped and then asked to stop (`kill %1` sends TERM, then CONT): ends, torn down.
///
/// Fails when a stopped monitor keeps the request for itself.
#[test]
fn a_stopped_job_can_be_ended() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command());
    let mut terminal = Terminal::start(&sandbox, guard.fixture("print-signals TERM=0"));
    terminal.keys("\x1a");
    terminal.expect("Stopped");
    terminal.keys("kill %1; fg\n");
    terminal.expect("TERM 1");
    teardown.expect_end(SOON);
    sandbox.expect_only_left(terminal.shell.pid());
    teardown.expect_one();
}

/// By default the harness has no terminal: it leads a session of its own.
///
/// Fails when the harness stays in the caller's session.
#[test]
fn a_harness_has_no_terminal_by_default() {
    let sandbox = Sandbox::new();
    let script = "if ( : > /dev/tty ) 2>/dev/null; then echo has a terminal; else echo has none; fi; \
        exec \"$F\" print-signals INT=0";
    let mut terminal = Terminal::start(&sandbox, sandbox.bare().sh(script));
    assert!(terminal.pty.shown().contains("has none"), "{}", terminal.pty.shown());
    terminal.keys("\x03");
    terminal.expect_status(130);
}

/// `--session keep`: the harness has the terminal; one ^C is one INT; nothing is left.
///
/// Fails when the guard forwards what the terminal has sent already.
#[test]
fn with_session_keep_the_harness_has_the_terminal() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let script = "if ( : > /dev/tty ) 2>/dev/null; then echo has a terminal; else echo has none; fi; \
        exec \"$F\" print-signals";
    let guard = sandbox.bare().app().teardown(teardown.command()).grace("1s");
    let guard = guard.args(["--session", "keep"]).sh(script);
    let mut terminal = Terminal::start(&sandbox, guard);
    assert!(terminal.pty.shown().contains("has a terminal"), "{}", terminal.pty.shown());
    terminal.keys("\x03");
    terminal.expect("INT 1");
    terminal.expect_status(130);
    assert!(!terminal.pty.shown().contains("INT 2"), "{}", terminal.pty.shown());
    teardown.expect_one();
    sandbox.expect_only_left(terminal.shell.pid());
}

/// `--session keep`: ^Z and `fg` are the terminal's own business, and work.
///
/// Fails when the guard answers the terminal's stop with one of its own, or ignores it; or, now and then, when a
/// harness that ends of the ^C faster than the supervisor hears of it counts as one that ended by itself.
#[test]
fn with_session_keep_control_z_and_fg_work() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).args(["--session", "keep"]);
    let mut terminal = Terminal::start(&sandbox, guard.fixture("print-signals INT=0"));
    for round in 1..=3 {
        terminal.keys("\x1a");
        terminal.expect("Stopped");
        eventually(SOON, "the stop", || if stopped(terminal.harness) { Ok(()) } else { Err("runs") });
        terminal.keys("fg\n");
        terminal.expect(&format!("CONT {round}"));
    }
    terminal.keys("\x03");
    terminal.expect_status(130);
    teardown.expect_one();
}

/// `--session keep` with `--stop-scope group` is refused: the group is the caller's.
///
/// Fails when the stop signal then hits the caller itself.
#[test]
fn session_keep_and_scope_group_do_not_go_together() {
    let sandbox = Sandbox::new();
    let guard = sandbox.bare().args(["--session", "keep", "--stop-scope", "group"]);
    let output = guard.sh("echo ran").output();
    assert_eq!((output.code(), output.text().as_str()), (125, ""), "{}", output.stderr);
}

/// `nohup G …`, then HUP: goes on (fish-shell#4007). TERM still works.
///
/// Fails when the guard installs a handler for a signal that came ignored.
#[test]
fn under_nohup_a_hangup_changes_nothing() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).under(["nohup"]);
    let mut guard = guard.fixture("print-signals TERM=0").spawn();
    guard.ready();
    guard.signal(Signal::SIGHUP);
    kill(guard.supervisor(), Signal::SIGHUP).unwrap();
    guard.signal(Signal::SIGUSR1);
    assert_eq!(guard.signal_line(), "USR1 1", "and no HUP before it");
    guard.signal(Signal::SIGTERM);
    assert_eq!(guard.signal_line(), "TERM 1");
    guard.expect_code(143);
    teardown.expect_one();
}

/// An INT that came ignored (a script's `&`) stays ignored, for guard and harness.
///
/// Fails as above.
#[test]
fn an_ignored_int_stays_ignored() {
    let sandbox = Sandbox::new();
    let guard = sandbox.bare().under([FIXTURE, "exec-with", "--default-all", "--ignore", "INT", "--"]);
    let mut guard = guard.fixture("print-signals USR1=7").spawn();
    guard.ready();
    guard.signal(Signal::SIGINT);
    guard.signal(Signal::SIGUSR1);
    assert_eq!(guard.signal_line(), "USR1 1", "and no INT before it");
    guard.expect_code(7);
}

/// The terminal goes away (its window is closed): the shell ends by HUP, and the run with it.
///
/// Fails when neither HUP nor the caller's end is acted on, or writing to the dead terminal ends the guard.
#[test]
fn a_closed_terminal_ends_the_run() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = sandbox.bare().app().teardown(teardown.command()).grace("2s");
    let mut terminal = Terminal::start(&sandbox, guard.fixture("print-signals"));
    terminal.shell.signal(Signal::SIGKILL);
    assert_eq!(terminal.shell.wait(SOON).code, 137);
    teardown.expect_end(SOON);
    sandbox.expect_over(Duration::from_secs(10));
    teardown.expect_one();
}
