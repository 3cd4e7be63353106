//! The harness sees what the caller gave, what the command line page lists, and nothing else of ours.

use crate::support::{APP, FIXTURE, Guard, Output, SOON, Sandbox, python};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

const OTHER: &str = "keyc-0b52fe.ci.example.net";

/// What `report-env` says of the environment.
#[track_caller]
fn environment(out: &Output) -> BTreeMap<String, String> {
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let parts: Vec<String> = out.stdout.split(|b| *b == 0).map(|p| String::from_utf8_lossy(p).into_owned()).collect();
    let count: usize = parts[0].parse().unwrap();
    let entries = parts[1 + count..].iter().filter_map(|entry| entry.split_once('='));
    entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What `report-status` says.
#[track_caller]
fn status(out: &Output) -> serde_json::Value {
    assert_eq!(out.code(), 0, "{}", out.stderr);
    serde_json::from_slice(&out.stdout).unwrap()
}

/// What `report-fds` says.
#[track_caller]
fn descriptors(out: &Output) -> BTreeMap<i32, String> {
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let lines = out.text();
    let entries = lines.lines().map(|line| line.split_once(' ').unwrap());
    entries.map(|(number, target)| (number.parse().unwrap(), target.to_owned())).collect()
}

fn locked(guard: Guard<'_>) -> Guard<'_> {
    guard.app().env("CCCI_TEARDOWN", "none")
}

/// Seen failing with pipes without O_CLOEXEC, and with the descriptor left close-on-exec.
#[test]
fn descriptors_are_the_caller_s_and_the_lock() {
    let sandbox = Sandbox::new();
    let lock = sandbox.lock_path(APP).to_str().unwrap().to_owned();
    let opened = [5, 17, 120, 1000];
    let open = opened.map(|number| ["--open".to_owned(), number.to_string()]).concat();
    let caller = [["exec-with".to_owned()].to_vec(), open, vec!["--".to_owned(), FIXTURE.to_owned()]].concat();
    // As the fixture sees them when nobody stands between: whoever runs these tests may have some open too.
    let mut direct = sandbox.command(FIXTURE);
    direct.args(&caller).arg("report-fds");
    let mut direct = sandbox.spawn(direct);
    direct.expect_code(0);
    direct.expect_eof(SOON);
    let without: Vec<i32> =
        direct.stdout().lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!([0, 1, 2].iter().chain(&opened).all(|number| without.contains(number)), "{without:?}");

    let under = [vec![FIXTURE.to_owned()], caller[..caller.len() - 1].to_vec()].concat();
    for (form, extra) in [("run", 0), ("exec", 1)] {
        let guard = if form == "exec" { sandbox.exec() } else { sandbox.run().report() };
        let guard = locked(guard.args(["--deadline", "1h"]));
        let mut seen = descriptors(&guard.under(&under).fixture("report-fds").output());
        for number in &without {
            assert!(seen.remove(number).is_some(), "{form}: descriptor {number} of the caller is gone");
        }
        let locks: Vec<i32> = seen.iter().filter(|(_, target)| **target == lock).map(|(n, _)| *n).collect();
        assert_eq!(locks.len(), 1, "{form}: the lock, once: {seen:?}");
        assert!(locks[0] >= 100, "{form}: the lock's number is {}", locks[0]);
        seen.remove(&locks[0]);
        // With exec also the owner file, which says that the run is alive.
        assert!(seen.values().all(|target| target.contains("owner")), "{form}: more than the lock: {seen:?}");
        assert_eq!(seen.len(), extra, "{form}: {seen:?}");
    }
    // Without an app there is no lock either.
    let seen = descriptors(&sandbox.run().under(&under).fixture("report-fds").output());
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), without);
}

/// A descriptor that was non-blocking, close-on-exec or at an offset stays as it is.
/// Seen failing with O_NONBLOCK set on the shared description of stderr.
#[test]
fn the_caller_s_descriptions_are_not_changed() {
    use std::io::{Seek, Write};
    let sandbox = Sandbox::new();
    let mut log = fs::File::create(sandbox.path("stderr.txt")).unwrap();
    log.write_all(b"before\n").unwrap();
    let guard = sandbox.run().args(["-v", "--deadline", "1s"]).stderr(log.try_clone().unwrap());
    assert_eq!(guard.sh("echo harness >&2; sleep 30").output().code(), 142);
    // The offset is shared: what we write goes behind what they wrote.
    log.write_all(b"after\n").unwrap();
    assert_eq!(log.stream_position().unwrap(), log.metadata().unwrap().len());
    let text = fs::read_to_string(sandbox.path("stderr.txt")).unwrap();
    assert!(text.starts_with("before\n") && text.ends_with("after\n"), "{text:?}");
    assert!(text.contains("harness\n") && text.contains("deadline"), "{text:?}");

    let (reader, writer) = std::io::pipe().unwrap();
    let guard = sandbox.run().args(["-v"]).stderr(writer.try_clone().unwrap());
    assert_eq!(guard.sh("grep -i '^flags' /proc/self/fdinfo/2 >flags").output().code(), 0);
    let flags = fs::read_to_string(sandbox.path("work/flags")).unwrap();
    let flags = u32::from_str_radix(flags.split_whitespace().nth(1).unwrap(), 8).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK as u32, 0, "stderr became non-blocking");
    drop((reader, writer));
}

/// Signals 32 and 33 are the C library's own: its posix_spawn(3), by which these tests start programs, leaves
/// them ignored, and its sigprocmask(2) never blocks them.
const LIBRARY: u64 = 0b11 << 31;

/// Seen failing with the caller's mask not restored, and with SIGPIPE left ignored.
#[test]
fn mask_and_dispositions_are_the_caller_s() {
    let sandbox = Sandbox::new();
    let bit = |signal: Signal| 1u64 << (signal as u64 - 1);
    let bits = |report: &serde_json::Value, key: &str| {
        u64::from_str_radix(report[key].as_str().unwrap(), 16).unwrap() & !LIBRARY
    };
    for form in ["run", "exec"] {
        let guard = |under: &[&str]| {
            let guard = if form == "exec" { sandbox.exec() } else { sandbox.run() };
            let under: Vec<&str> = [&[FIXTURE, "exec-with"], under, &["--"]].concat();
            locked(guard.args(["--deadline", "1h"])).under(under).fixture("report-status").output()
        };
        let plain = status(&guard(&[]));
        assert_eq!((bits(&plain, "SigBlk"), bits(&plain, "SigIgn"), bits(&plain, "SigCgt")), (0, 0, 0), "{form}");

        let report = status(&guard(&["--block", "USR1", "--block", "TERM", "--block", "ALRM"]));
        let mut blocked = bit(Signal::SIGUSR1) | bit(Signal::SIGTERM) | bit(Signal::SIGALRM);
        if form == "exec" {
            blocked &= !bit(Signal::SIGALRM); // Its deadline is an alarm.
        }
        assert_eq!(bits(&report, "SigBlk"), blocked, "{form}");

        let report = status(&guard(&["--block-all"]));
        // All but KILL and STOP.
        let all = !(bit(Signal::SIGKILL) | bit(Signal::SIGSTOP));
        let alarm = if form == "exec" { bit(Signal::SIGALRM) } else { 0 };
        assert_eq!(bits(&report, "SigBlk"), all & !alarm & !LIBRARY, "{form}");

        let ignore = ["INT", "HUP", "USR2", "PIPE", "CHLD", "ALRM", "TSTP", "TTOU", "QUIT", "WINCH"];
        let under: Vec<&str> = ignore.iter().flat_map(|name| ["--ignore", name]).collect();
        let report = status(&guard(&under));
        let mut kept = ignore.iter().map(|name| bit(format!("SIG{name}").parse().unwrap())).sum::<u64>();
        kept &= !bit(Signal::SIGPIPE) & !bit(Signal::SIGCHLD);
        if form == "exec" {
            kept &= !bit(Signal::SIGALRM);
        }
        assert_eq!(bits(&report, "SigIgn"), kept, "{form}");
        assert_eq!((bits(&report, "SigPnd"), bits(&report, "ShdPnd")), (0, 0), "{form}");
    }
}

/// Real-time signals are numbers to the kernel, not names of nix.
/// Seen failing with the caller's mask not restored.
#[test]
fn real_time_signals_keep_their_place() {
    let sandbox = Sandbox::new();
    let script = "import signal,os,sys; signal.pthread_sigmask(signal.SIG_BLOCK, {40, 50, 64}); \
                  signal.signal(45, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])";
    for guard in [sandbox.run(), sandbox.exec()] {
        let guard = guard.under([python(), "-c", script]);
        let report = status(&guard.fixture("report-status").output());
        let bits = |key: &str| u64::from_str_radix(report[key].as_str().unwrap(), 16).unwrap() & !LIBRARY;
        assert_eq!(bits("SigBlk"), 1 << 39 | 1 << 49 | 1 << 63);
        // Python itself ignores PIPE and XFSZ; PIPE is default again.
        assert_eq!(bits("SigIgn") & !(1 << 24), 1 << 44);
    }
}

/// The umask takes our own rights to what we make, which a plain user needs.
/// Seen failing with a umask of our own, and, as a plain user, with the run's directory made under the caller's: 125.
#[test]
fn umask_limits_directory_and_session() {
    let sandbox = Sandbox::new();
    for form in ["run", "exec"] {
        let guard = if form == "exec" { sandbox.exec() } else { sandbox.run() };
        let guard = guard.under([FIXTURE, "exec-with", "--umask", "0137", "--nofile", "777", "--"]);
        let report = status(&locked(guard).fixture("report-status").output());
        assert_eq!(report["umask"], "0137", "{form}");
        assert_eq!(report["nofile"], serde_json::json!([777, 777]), "{form}");
        assert_eq!(report["cwd"], sandbox.path("work").to_str().unwrap(), "{form}");
        assert_eq!(report["sid"], report["pid"], "{form}: leads a session of its own");
        assert_eq!(report["pgrp"], report["pid"], "{form}");
    }
    let shell = sandbox.run().args(["--session", "keep"]).fixture("report-status").output();
    assert_ne!(status(&shell)["sid"], status(&shell)["pid"], "keep: the caller's session");
}

/// Seen failing with SIGPIPE left ignored.
#[test]
fn a_pipe_inside_ends_by_sigpipe() {
    let sandbox = Sandbox::new();
    for guard in [sandbox.run(), sandbox.exec()] {
        let script = "yes | head -1; echo ${PIPESTATUS[0]}";
        let out = guard.harness(["bash", "-c", script]).output();
        assert_eq!((out.text().as_str(), out.stderr.as_str()), ("y\n141\n", ""));
    }
}

/// Fails with stdin replaced by /dev/null for the harness.
#[test]
fn stdin_is_the_caller_s() {
    let sandbox = Sandbox::new();
    for guard in [sandbox.run(), sandbox.exec()] {
        fs::write(sandbox.path("input"), "a\nb\n").unwrap();
        let out = guard.stdin(fs::File::open(sandbox.path("input")).unwrap()).harness(["wc", "-l"]).output();
        assert_eq!(out.text().trim(), "2");
    }
}

/// Nothing but what the page lists is added, nothing is taken away.
/// Seen failing with the four variables of the locks set, empty, without an app.
#[test]
fn without_an_app_the_environment_has_few_additions() {
    let sandbox = Sandbox::new();
    for guard in [sandbox.run(), sandbox.exec()] {
        let given = ["PATH", "LANG", "HOME", "USER", "G", "F", "CCCI_IT_MARK"];
        let settings = ["CCCI_APP_LOCK_DIR", "CCCI_RUNS_DIR", "CCCI_STATE_DIR"];
        let added = ["CCCI_RUN_ID", "CCCI_GUARD_PID", "CCCI_RUN_APPS_FILE"];
        let files = ["CCCI_DEPLOY_COUNT_FILE", "CCCI_OP_STATE_FILE", "CCCI_DEPS_FILE", "CCCI_DEPS_SKIP_FILE"];
        let mut expected: Vec<&str> = [&given[..], &settings, &added, &files].concat();
        expected.sort_unstable();
        let seen = environment(&guard.fixture("report-env").output());
        assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), expected);
        assert_eq!(seen["HOME"], sandbox.path("home").to_str().unwrap());
    }
}

/// Seen failing with the device in hexadecimal.
#[test]
fn the_locks_are_handed_over_in_one_order() {
    let sandbox = Sandbox::new();
    for (form, order) in [("run", [APP, OTHER]), ("exec", [OTHER, APP])] {
        let guard = if form == "exec" { sandbox.exec() } else { sandbox.run().args(["--teardown", "none"]) };
        let guard = guard.args(["--app", order[0], "--app", order[1]]);
        // Holds its descriptors open while we look.
        let script = "\"$F\" report-env >report; echo ready $$; sleep 60";
        let guard = guard.sh(script).spawn();
        let harness = guard.ready_pid();
        let report = fs::read(sandbox.path("work/report")).unwrap();
        let parts: Vec<String> = report.split(|b| *b == 0).map(|p| String::from_utf8_lossy(p).into_owned()).collect();
        let value = |name: &str| -> Vec<String> {
            let found = parts.iter().find_map(|part| part.strip_prefix(&format!("{name}=")));
            found.unwrap_or_else(|| panic!("{name}")).split(',').map(str::to_owned).collect()
        };
        let apps = value("CCCI_APP_DOMAIN");
        assert_eq!(apps.len(), 2);
        for (n, app) in apps.iter().enumerate() {
            let path = sandbox.lock_path(app);
            assert_eq!(value("CCCI_APP_LOCK_PATH")[n], path.to_str().unwrap(), "{form}");
            let file = fs::metadata(&path).unwrap();
            assert_eq!(value("CCCI_APP_LOCK_ID")[n], format!("{}:{}", file.dev(), file.ino()), "{form}");
            let fd: i32 = value("CCCI_APP_LOCK_FD")[n].parse().unwrap();
            assert!(fd >= 100, "{form}: {fd}");
            let fdinfo = fs::read_to_string(format!("/proc/{harness}/fdinfo/{fd}")).unwrap();
            assert!(fdinfo.contains("FLOCK"), "{form}: descriptor {fd} of the harness has no lock: {fdinfo}");
            assert_eq!(fs::read_link(format!("/proc/{harness}/fd/{fd}")).unwrap(), path, "{form}");
        }
        let pid = value("CCCI_GUARD_PID")[0].clone();
        let expected = if form == "exec" { harness } else { guard.monitor() };
        assert_eq!(pid, expected.to_string(), "{form}");
    }
}

/// Seen failing with milliseconds.
#[test]
fn the_harness_knows_its_deadline() {
    let sandbox = Sandbox::new();
    for guard in [sandbox.run(), sandbox.exec()] {
        let out = guard.deadline("90s").sh("echo $CCCI_DEADLINE_AT; date +%s.%N").output();
        let numbers: Vec<f64> = out.text().lines().map(|line| line.parse().unwrap()).collect();
        let left = numbers[0] - numbers[1];
        assert!((80.0..=91.0).contains(&left), "{left} s left of 90");
    }
}

/// Explicit, from the environment, Drone's number, and the monitor's pid.
/// Seen failing with the supervisor's pid as the guard's.
#[test]
fn the_run_has_an_id() {
    let sandbox = Sandbox::new();
    let id = |guard: Guard<'_>| guard.sh("echo $CCCI_RUN_ID $CCCI_GUARD_PID $$").output().text();
    assert!(id(sandbox.run().args(["--run-id", "a.b_c-9"])).starts_with("a.b_c-9 "));
    assert!(id(sandbox.run().env("CCCI_RUN_ID", "x1")).starts_with("x1 "));
    assert!(id(sandbox.run().env("DRONE_BUILD_NUMBER", "1190")).starts_with("1190 "));
    assert!(id(sandbox.run().env("DRONE_BUILD_NUMBER", "1190").env("CCCI_RUN_ID", "x1")).starts_with("x1 "));
    for guard in [sandbox.run(), sandbox.exec()] {
        let text = id(guard);
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[0], format!("manual-{}", words[1]));
    }
}

/// Two steps of one build at a time: each a name of its own.
/// Seen failing with Drone's number shared with a live run.
#[test]
fn a_build_number_that_a_live_run_owns_is_made_longer() {
    let sandbox = Sandbox::new();
    let guard = || {
        let guard = sandbox.run().env("DRONE_BUILD_NUMBER", "1190").env("DRONE_STAGE_NUMBER", "1");
        guard.env("DRONE_STEP_NUMBER", "3").sh("echo id $CCCI_RUN_ID; sleep 60").spawn()
    };
    let first = guard();
    assert_eq!(first.expect_line("id "), "1190");
    let second = guard();
    assert_eq!(second.expect_line("id "), "1190-1-3");
    let third = guard();
    assert_eq!(third.expect_line("id "), format!("1190-1-3-{}", third.monitor()));
    // A dead owner's name is free again.
    drop(first);
    assert_eq!(guard().expect_line("id "), "1190");
}
