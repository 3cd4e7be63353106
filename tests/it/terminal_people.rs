//! What people see at a terminal beside a running harness: the line of a run that waits for a lock, the janitor's
//! progress, tables and colours, and a help that fits the window. (^C, ^Z and `fg` of a run are in `terminal`.)

use crate::lock_holder::Holder;
use crate::support::*;
use std::fs;

const OTHER: &str = "keyc-0b52fe.ci.example.net";

/// An interactive shell on a terminal that has been given `line` to run; `at` is where the answers begin.
struct Terminal {
    pty: Pty,
    shell: Proc,
    at: usize,
}

impl Terminal {
    fn start(sandbox: &Sandbox, line: &str) -> Self {
        // Sourced, so that the command itself is the shell's job, and nothing of it is seen as an echo.
        fs::write(sandbox.path("work/go"), format!("{line}\n")).unwrap();
        let pty = Pty::new();
        let shell = pty.spawn(sandbox, &["/bin/sh", "-i"]);
        let at = pty.expect(0, "prompt> ");
        pty.write(". ./go\n");
        let at = pty.expect(at, "\n");
        Self { pty, shell, at }
    }

    fn expect(&mut self, words: &str) {
        self.at = self.pty.expect(self.at, words);
    }

    /// Asks the shell how the job ended. (What is typed has no digit, so its echo is not the answer.)
    fn expect_status(&mut self, code: i32) {
        self.pty.write("echo \"ended with $?\"\n");
        self.expect(&format!("ended with {code}\r\n"));
    }
}

/// A run of the default app that would leave a trace.
fn run(sandbox: &Sandbox) -> String {
    sandbox.bare().app().args(["--teardown", "none"]).sh("echo it r\\uns; exit 7").line()
}

/// The line of a waiter, whole and once, at the start of a line.
#[track_caller]
fn expect_waiting(terminal: &mut Terminal, holder: &Holder) {
    terminal.expect(&format!("ccci-guard: waiting for app lock {APP} (held by pid {}", holder.pid()));
    terminal.expect(")\r\n");
    let shown = terminal.pty.shown();
    assert_eq!(shown.matches("waiting for app lock").count(), 1, "{shown}");
    assert!(shown.contains("\nccci-guard: waiting") || shown.contains("\rccci-guard: waiting"), "{shown:?}");
}

/// A run that waits says so on the terminal; ^C ends the wait at once with 130, nothing was started, and the holder
/// has its lock.
///
/// Seen failing with INT taken for ^Z while it waits.
#[test]
fn control_c_ends_a_wait() {
    let sandbox = Sandbox::new();
    let holder = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let mut terminal = Terminal::start(&sandbox, &run(&sandbox));
    expect_waiting(&mut terminal, &holder);
    terminal.pty.write("\x03");
    terminal.expect_status(130);
    let shown = terminal.pty.shown();
    assert!(!shown.contains("it runs") && !shown.contains("panicked"), "{shown}");
    assert!(alive(holder.pid()) && !sandbox.lock_is_free());
    eventually(SOON, "the end of the waiter", || {
        let waiters: Vec<_> = terminal.shell.tree().into_iter().filter(Process::is_guard).collect();
        if waiters.is_empty() { Ok(()) } else { Err(format!("{} left", waiters.len())) }
    });
}

/// ^Z stops the wait, `fg` goes on with it, twice; the lock is freed meanwhile, and the run begins only after `fg`.
///
/// Seen failing with ^Z taken for a request to stop.
#[test]
fn control_z_and_fg_work_while_it_waits() {
    let sandbox = Sandbox::new();
    let holder = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let mut terminal = Terminal::start(&sandbox, &run(&sandbox));
    expect_waiting(&mut terminal, &holder);
    let waiter = terminal.shell.monitor();
    let stop = |terminal: &mut Terminal| {
        terminal.pty.write("\x1a");
        terminal.expect("Stopped");
        eventually(SOON, "the stop", || if stopped(waiter) { Ok(()) } else { Err("runs") });
    };
    stop(&mut terminal);
    terminal.pty.write("fg\n");
    eventually(SOON, "the wait goes on", || if stopped(waiter) { Err("stopped") } else { Ok(()) });
    stop(&mut terminal);
    holder.kill();
    eventually(SOON, "the holder's end", || if alive(holder.pid()) { Err("alive") } else { Ok(()) });
    assert!(!terminal.pty.shown().contains("it runs"), "a stopped run started its harness");
    terminal.pty.write("fg\n");
    terminal.expect("it runs");
    terminal.expect_status(7);
    assert!(sandbox.lock_is_free());
}

/// The janitor on a terminal: a line for each teardown under way, drawn over when it is time, and gone at the end: what
/// stays are the verdicts.
///
/// Seen failing with nothing wiped: new lines below the old ones.
#[test]
fn the_janitor_draws_its_progress_over() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    for app in [APP, OTHER] {
        apps.add(app);
    }
    let go = sandbox.path("go");
    let teardown = format!("while [ ! -e '{}' ]; do sleep 0.05; done; {}", go.display(), apps.teardown());
    let janitor = apps.lister().teardown(teardown).args(["--teardown-timeout", "5m"]).line();
    let mut terminal = Terminal::start(&sandbox, &janitor);
    for _ in 0..2 {
        terminal.expect(&format!("tearing down {APP}: "));
        terminal.expect(" of 5m\r\n");
        terminal.expect(&format!("tearing down {OTHER}: "));
        terminal.expect(" of 5m\r\n");
        // Two lines up, and all below is wiped: on the screen there are never more than two.
        terminal.expect("\x1b[2A\x1b[J");
    }
    fs::write(go, "").unwrap();
    terminal.expect(&format!("{APP}  reaped  "));
    terminal.expect(&format!("{OTHER}  reaped  "));
    terminal.expect("2 apps: 2 reaped");
    terminal.expect_status(0);
    // What was drawn last was wiped too, before the verdicts.
    let shown = terminal.pty.shown();
    let drawn = shown.matches(&format!("tearing down {APP}: ")).count();
    let wiped = shown.matches("A\x1b[J").count();
    assert!(wiped >= drawn, "drawn {drawn} times, wiped {wiped} times: {shown:?}");
}

/// What a command shows on a terminal of this width.
fn shown_at(sandbox: &Sandbox, columns: u32, variables: &str, words: &str) -> String {
    let pty = Pty::new();
    // `stty` sets the window's size; a terminal made here has none.
    let script = format!("stty cols {columns} rows 40; {variables} \"$G\" {words}; echo \"the end: $?\"");
    let mut shell = pty.spawn(sandbox, &["/bin/sh", "-c", &script]);
    let end = pty.expect(0, "the end: ");
    shell.wait(SOON);
    pty.shown()[..end - "the end: ".len()].replace("\r\n", "\n")
}

/// `locks` and `doctor` on a terminal: a head over the columns, and colour where it is wanted; a pipe gets neither.
///
/// Seen failing with `NO_COLOR` not looked at.
#[test]
fn tables_and_colours_are_for_a_terminal() {
    let sandbox = Sandbox::new();
    // Not as root it also says what it can't see.
    assert!(shown_at(&sandbox, 100, "", "locks 2>/dev/null").ends_with("no app locks\n"));
    assert_eq!(sandbox.plain().arg("locks").output().text(), "");
    fs::write(sandbox.lock_path(APP), "").unwrap();
    let table = shown_at(&sandbox, 100, "", "locks 2>/dev/null");
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head[..3], ["APP", "STATE", "SINCE"], "{table}");
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with(APP)), "{table}");
    let piped = sandbox.plain().arg("locks").output().text();
    assert!(piped.starts_with(&format!("{APP}\tfree\t")), "{piped:?}");

    let coloured = shown_at(&sandbox, 100, "", "doctor");
    assert!(coloured.contains("\x1b[32mok"), "{coloured:?}");
    let plain = shown_at(&sandbox, 100, "NO_COLOR=1", "doctor");
    assert!(plain.starts_with("ok ") || plain.contains("\nok "), "{plain:?}");
    for text in [plain, sandbox.plain().arg("doctor").output().text()] {
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}

/// A help takes the width of the window, down to 60 columns.
///
/// Seen failing with a fixed width of 100.
#[test]
fn a_help_fits_the_window() {
    let sandbox = Sandbox::new();
    for columns in [60, 80, 100] {
        for command in ["run", "janitor", "state init"] {
            let help = shown_at(&sandbox, columns, "", &format!("{command} --help"));
            assert!(help.contains("--help"), "{help}");
            // The example is one line: it is there to be copied.
            let wide = help.lines().skip(1).find(|line| line.chars().count() > columns as usize);
            assert_eq!(wide, None, "{command} at {columns} columns");
        }
    }
}
