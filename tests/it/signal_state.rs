//! A caller that blocks or ignores signals: the guard works all the same, and hands the caller's state on.

use crate::support::*;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

const BLOCKED: [&str; 4] = [FIXTURE, "exec-with", "--block-all", "--"];
const CHILD_IGNORED: [&str; 5] = [FIXTURE, "exec-with", "--ignore", "CHLD", "--"];

/// All blocked, or SIGCHLD ignored: exit 7 stays 7 (util-linux#4014; tini, catatonit, bwrap, flock and timeout
/// hang there).
///
/// Seen failing with SIGCHLD left as it came and not handled: the status is then lost.
#[test]
fn an_exit_status_survives_blocked_and_ignored_signals() {
    for under in [&BLOCKED[..], &CHILD_IGNORED[..]] {
        let sandbox = Sandbox::new();
        let output = sandbox.bare().app().teardown("none").under(under).sh("exit 7").output();
        assert_eq!(output.code(), 7, "{under:?}: {}", output.stderr);
        sandbox.expect_nothing_left();
    }
}

/// The same callers: deadline and TERM work. (A harness that was given a blocked TERM can't see it: it is
/// killed after the grace.)
///
/// Fails when the guard's own signal delivery depends on the inherited mask.
#[test]
fn deadline_and_sigterm_work_with_blocked_and_ignored_signals() {
    for under in [&BLOCKED[..], &CHILD_IGNORED[..]] {
        let sandbox = Sandbox::new();
        let teardown = sandbox.teardown();
        let run = || {
            let guard = sandbox.bare().app().teardown(teardown.command()).grace("1s");
            guard.under(under).sh("echo ready; sleep 60")
        };
        let mut late = run().deadline("1s").spawn();
        late.ready();
        let exit = late.expect_code(142);
        within("deadline", exit.after, Duration::from_millis(900)..Duration::from_secs(9));
        teardown.expect_one();
        std::fs::remove_file(teardown.log()).unwrap();

        let mut asked = run().spawn();
        asked.ready();
        asked.signal(Signal::SIGTERM);
        asked.expect_code(143);
        teardown.expect_one();
        sandbox.expect_nothing_left();
    }
}

fn status(sandbox: &Sandbox, options: &[&str], guarded: bool) -> Value {
    let mut under = vec![FIXTURE, "exec-with", "--default-all"];
    under.extend(options);
    under.push("--");
    let output = if guarded {
        sandbox.bare().under(&under).fixture("report-status").output()
    } else {
        under.extend([FIXTURE, "report-status"]);
        let plain = sandbox.plain().program(under[0]).args(&under[1..]);
        plain.output()
    };
    assert_eq!(output.code(), 0, "{}", output.stderr);
    serde_json::from_str(&output.text()).unwrap()
}

/// The harness's blocked mask is the caller's; its ignored signals too, but for PIPE and CHLD, which are default;
/// nothing is pending. Compared with the same program started without the guard.
///
/// Fails when the guard's own mask, or std's ignored SIGPIPE, is handed on.
#[test]
fn the_harness_gets_the_callers_mask_and_dispositions() {
    let sandbox = Sandbox::new();
    let cases: [&[&str]; 5] = [
        &[],
        &["--block-all"],
        &["--block", "USR1", "--block", "TERM"],
        &["--ignore", "HUP", "--ignore", "USR2", "--ignore", "TTOU", "--ignore", "TSTP"],
        &["--ignore", "PIPE", "--ignore", "CHLD", "--ignore", "INT"],
    ];
    for options in cases {
        let (plain, guarded) = (status(&sandbox, options, false), status(&sandbox, options, true));
        assert_eq!(guarded["SigBlk"], plain["SigBlk"], "{options:?}");
        let ignored = |report: &Value| u64::from_str_radix(report["SigIgn"].as_str().unwrap(), 16).unwrap();
        let bit = |signal: Signal| 1_u64 << (signal as i32 - 1);
        let reset = bit(Signal::SIGPIPE) | bit(Signal::SIGCHLD);
        let expected = ignored(&plain) & !reset;
        assert_eq!(ignored(&guarded), expected, "{options:?}: {guarded}");
        let nothing = ["SigPnd", "ShdPnd"].map(|k| guarded[k].as_str().unwrap().trim_matches('0').to_owned());
        assert_eq!(nothing, ["", ""], "{options:?}: pending signals were handed on");
    }
}

/// The teardown command too starts with a usable state: a caller that blocks everything must not make it immortal.
///
/// Fails when the guard's own blocked mask is handed to the step: then the TERM of its limit is not seen.
#[test]
fn the_teardown_has_a_usable_mask() {
    let sandbox = Sandbox::new();
    let command = format!("grep -E '^Sig(Blk|Ign)' /proc/self/status > '{}'", sandbox.path("seen").display());
    let guard = sandbox.bare().app().teardown(command).args(["--teardown-on", "always"]);
    guard.default_signals().sh("exit 0").spawn().expect_code(0);
    let seen = std::fs::read_to_string(sandbox.path("seen")).unwrap();
    for line in seen.lines() {
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        // posix_spawn(3) of the C library, by which tests start programs, leaves its own two ignored.
        let internal = (1 << 31) | (1 << 32);
        assert_eq!(mask & !internal, 0, "{seen}");
    }
    assert_eq!(seen.lines().count(), 2);
}
