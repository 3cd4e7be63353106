//! The report tells each cause, and is written whole or not at all.

use crate::lock_holder::Holder;
use crate::support::{APP, Guard, SOON, Sandbox, eventually, within};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

const OTHER: &str = "keyc-0b52fe.ci.example.net";

/// Every key there is, whatever happened.
const KEYS: [&str; 13] = [
    "apps",
    "cause",
    "elapsed_s",
    "exit_code",
    "harness",
    "lock_wait_s",
    "run_id",
    "schema",
    "signal",
    "survivors_killed",
    "survivors_unkillable",
    "takeover",
    "teardown",
];

#[track_caller]
fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS);
    assert_eq!(report["schema"], 1);
    report
}

#[track_caller]
fn of(sandbox: &Sandbox) -> Value {
    read(&sandbox.path("report.json"))
}

fn none_due() -> Value {
    json!({"ran": false, "result": null, "status": null, "elapsed_s": 0.0, "apps": [], "residual": []})
}

fn run(sandbox: &Sandbox) -> Guard<'_> {
    sandbox.run().app().report()
}

/// Fails with `signal` as a number, and with a teardown of zero apps reported as run.
#[test]
fn a_harness_that_exits() {
    let sandbox = Sandbox::new();
    let out = run(&sandbox).args(["--teardown", "true", "--run-id", "1190"]).sh("echo $$; exit 7").output();
    let report = of(&sandbox);
    assert_eq!(out.code(), 7);
    assert_eq!(report["run_id"], "1190");
    assert_eq!(report["apps"], json!([APP]));
    assert_eq!(report["cause"], "harness-exit");
    assert_eq!(report["signal"], Value::Null);
    assert_eq!(report["exit_code"], 7);
    let pid: u64 = out.text().trim().parse().unwrap();
    assert_eq!(report["harness"], json!({"pid": pid, "status": {"code": 7}}));
    assert_eq!(report["survivors_killed"], 0);
    assert_eq!(report["survivors_unkillable"], json!([]));
    assert_eq!(report["takeover"], false);
    assert_eq!(report["teardown"], none_due());
    let elapsed = report["elapsed_s"].as_f64().unwrap();
    assert!((0.0..=out.exit.after.as_secs_f64()).contains(&elapsed), "{elapsed}");
    assert!((0.0..1.0).contains(&report["lock_wait_s"].as_f64().unwrap()));
}

/// Fails with the cause taken from the status as a shell shows it.
#[test]
fn a_harness_that_dies_of_a_signal() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = run(&sandbox).teardown(teardown.command());
    assert_eq!(guard.sh("ulimit -c 0; kill -SEGV $$").output().code(), 139);
    let report = of(&sandbox);
    assert_eq!((&report["cause"], &report["exit_code"]), (&json!("harness-signal"), &json!(139)));
    assert!([Value::Null, json!("SEGV")].contains(&report["signal"]), "{report}");
    assert_eq!(report["harness"]["status"], json!({"signal": 11}));
    teardown.expect_one();
    let torn = &report["teardown"];
    assert_eq!((&torn["ran"], &torn["result"], &torn["status"]), (&json!(true), &json!("ok"), &json!(0)));
    assert_eq!(torn["apps"], json!([{"app": APP, "result": "ok", "residual": []}]));
}

/// Seen failing with the harness's own end taken as the cause whatever came before.
#[test]
fn a_deadline() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let guard = run(&sandbox).teardown(teardown.command_with("--sleep 300")).deadline("1s");
    assert_eq!(guard.harness(["sleep", "60"]).output().code(), 142);
    let report = of(&sandbox);
    assert_eq!((&report["cause"], &report["exit_code"]), (&json!("deadline"), &json!(142)));
    assert_eq!(report["harness"]["status"], json!({"signal": 15}));
    assert!(report["elapsed_s"].as_f64().unwrap() >= 1.3, "{report}");
    assert!((0.29..5.0).contains(&report["teardown"]["elapsed_s"].as_f64().unwrap()), "{report}");
}

/// Seen failing with every signal mapped to 143.
#[test]
fn a_request_to_stop() {
    for (signal, name, code) in [
        (Signal::SIGTERM, "TERM", 143),
        (Signal::SIGINT, "INT", 130),
        (Signal::SIGHUP, "HUP", 129),
        (Signal::SIGQUIT, "QUIT", 131),
    ] {
        let sandbox = Sandbox::new();
        let mut guard = run(&sandbox)
            .teardown("true")
            .sh("trap 'exit 0' TERM INT HUP QUIT; echo ready; while :; do sleep 0.05; done")
            .spawn();
        guard.ready();
        guard.signal(signal);
        guard.expect_code(code);
        let report = of(&sandbox);
        assert_eq!((&report["cause"], &report["signal"]), (&json!("signal"), &json!(name)));
        assert_eq!((&report["exit_code"], &report["harness"]["status"]), (&json!(code), &json!({"code": 0})));
    }
}

/// Fails with the report written by the monitor only.
#[test]
fn a_caller_that_is_gone() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let line = run(&sandbox).teardown(teardown.command()).sh("echo ready; exec sleep 60").line();
    let caller = sandbox.shell(&format!("{line}; true"));
    caller.ready();
    caller.signal(Signal::SIGKILL);
    eventually(SOON, "nothing is left", || sandbox.nothing_left());
    let report = of(&sandbox);
    assert_eq!((&report["cause"], &report["exit_code"]), (&json!("parent-gone"), &json!(143)));
    assert_eq!(report["harness"]["status"], json!({"signal": 15}));
    teardown.expect_one();
}

/// Fails with `takeover` set at every end that the monitor sees.
#[test]
fn a_supervisor_that_is_killed() {
    let sandbox = Sandbox::new();
    let teardown = sandbox.teardown();
    let mut guard = run(&sandbox).teardown(teardown.command()).sh("echo ready; exec sleep 60").spawn();
    guard.ready();
    let harness = guard.harness();
    kill(guard.supervisor(), Signal::SIGKILL).unwrap();
    guard.expect_code(137);
    let report = of(&sandbox);
    assert_eq!((&report["cause"], &report["exit_code"]), (&json!("supervisor-gone"), &json!(137)));
    assert_eq!(report["takeover"], true);
    assert_eq!(report["harness"], json!({"pid": harness.as_raw(), "status": {"signal": 15}}));
    teardown.expect_one();
}

/// Fails with stdout not watched.
#[test]
fn an_output_that_nobody_reads() {
    let sandbox = Sandbox::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let guard = run(&sandbox).teardown("true").arg("--stop-on-closed-output");
    let mut guard = guard.sh("echo ready >started; exec sleep 60").stdout(writer).spawn();
    eventually(SOON, "the harness", || if sandbox.path("work/started").exists() { Ok(()) } else { Err("not yet") });
    drop(reader);
    guard.expect_code(141);
    let report = of(&sandbox);
    assert_eq!((&report["cause"], &report["exit_code"]), (&json!("output-closed"), &json!(141)));
}

/// Fails with no report for a run that never started.
#[test]
fn a_lock_that_was_not_had() {
    let sandbox = Sandbox::new();
    let _held = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let guard = run(&sandbox).teardown("true").args(["--lock-timeout", "500ms", "--teardown-on", "always"]);
    assert_eq!(guard.harness(["true"]).output().code(), 75);
    let report = of(&sandbox);
    assert_eq!((&report["cause"], &report["exit_code"]), (&json!("lock-timeout"), &json!(75)));
    assert_eq!(report["harness"], json!({"pid": null, "status": null}));
    assert!((0.49..10.0).contains(&report["lock_wait_s"].as_f64().unwrap()), "{report}");
    assert_eq!(report["teardown"], none_due());
}

/// Asked to stop while waiting: the cause is the request, and nothing was there to tear down.
/// Seen failing with signals looked at after the grant only.
#[test]
fn a_stop_while_waiting() {
    let sandbox = Sandbox::new();
    let _held = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let mut guard = run(&sandbox).teardown("true").harness(["true"]).spawn();
    guard.expect_stderr("waiting for app lock");
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    let report = of(&sandbox);
    assert_eq!(
        (&report["cause"], &report["signal"], &report["exit_code"]),
        (&json!("signal"), &json!("TERM"), &json!(143))
    );
    assert_eq!((&report["harness"]["status"], &report["teardown"]), (&Value::Null, &none_due()));
}

/// Fails with `lock_wait_s` at 0 whenever the lock was had.
#[test]
fn the_wait_is_counted() {
    let sandbox = Sandbox::new();
    let held = Holder::take(&sandbox, &sandbox.lock_path(APP));
    let mut guard = run(&sandbox).teardown("true").harness(["true"]).spawn();
    guard.expect_stderr("waiting for app lock");
    while guard.started().elapsed() < Duration::from_millis(600) {
        std::thread::sleep(Duration::from_millis(5));
    }
    held.release();
    guard.expect_code(0);
    let waited = of(&sandbox)["lock_wait_s"].as_f64().unwrap();
    assert!((0.3..10.0).contains(&waited), "{waited}");
}

/// Fails with cause `harness-exit` and code 127.
#[test]
fn a_command_that_could_not_be_run() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("work/text"), "").unwrap();
    for (command, code) in [("no-such-command", 127), ("./text", 126)] {
        let _ = fs::remove_file(sandbox.path("report.json"));
        let guard = run(&sandbox).teardown("true").args(["--teardown-on", "always"]);
        assert_eq!(guard.harness([command]).output().code(), code);
        let report = of(&sandbox);
        assert_eq!((&report["cause"], &report["exit_code"]), (&json!("guard-error"), &json!(code)));
        assert_eq!((&report["harness"]["status"], &report["teardown"]), (&Value::Null, &none_due()));
    }
}

/// Fails with survivors that ended by TERM not counted.
#[test]
fn survivors_are_counted() {
    let sandbox = Sandbox::new();
    let script =
        "sleep 300 & setsid sleep 300 & \"$F\" ignore-term >ignoring & while ! test -s ignoring; do sleep 0.01; done";
    let out = run(&sandbox).teardown("true").sh(script).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let report = of(&sandbox);
    assert_eq!((&report["survivors_killed"], &report["survivors_unkillable"]), (&json!(3), &json!([])));
    assert!(out.stderr.contains("killed 3 processes that outlived the harness: "), "{}", out.stderr);
}

/// Fails with the status of the last app's command as the whole teardown's result.
#[test]
fn each_app_has_its_result() {
    let sandbox = Sandbox::new();
    let command = format!("test $CCCI_TEARDOWN_APP != {APP}");
    let guard = run(&sandbox).args(["--app", OTHER, "--teardown-on", "always"]).teardown(command);
    let out = guard.harness(["true"]).output();
    assert_eq!(out.code(), 70, "{}", out.stderr);
    let report = of(&sandbox);
    assert_eq!(report["cause"], "harness-exit");
    assert_eq!((&report["teardown"]["result"], &report["teardown"]["status"]), (&json!("failed"), &json!(1)));
    let mut apps: Vec<Value> = report["teardown"]["apps"].as_array().unwrap().clone();
    apps.sort_by_key(|app| app["app"].as_str().unwrap().to_owned());
    let result = |app, result| json!({"app": app, "result": result, "residual": []});
    assert_eq!(apps, [result(APP, "failed"), result(OTHER, "ok")]);
    let mut names: Vec<String> =
        report["apps"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, [APP, OTHER]);
}

/// Fails with a hanging step waited for.
#[test]
fn a_teardown_that_hangs() {
    let sandbox = Sandbox::new();
    let guard =
        run(&sandbox).teardown("sleep 60; exit 0").args(["--teardown-on", "always", "--teardown-timeout", "1s"]);
    let out = guard.harness(["true"]).output();
    assert_eq!(out.code(), 70, "{}", out.stderr);
    within("the limit", out.exit.after, Duration::from_millis(990)..SOON);
    assert_eq!(of(&sandbox)["teardown"]["result"], "timeout");
    assert!(sandbox.lock_is_free());
    sandbox.expect_nothing_left();
}

/// Temporary file and rename: a reader sees the old one or the new one, and nothing is left over.
/// Fails with the file truncated and written in place.
#[test]
fn it_replaces_the_file_as_a_whole() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("out/report.json");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "old").unwrap();
    let before = fs::File::open(&path).unwrap();
    let guard = || sandbox.run().arg("--report").arg(&path);
    assert_eq!(guard().sh(&format!("grep -q old '{}'", path.display())).output().code(), 0, "kept until the end");
    read(&path);
    assert_ne!(before.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["report.json"], "nothing temporary is left");
}

/// A target that is no file is written to, not replaced.
/// Fails with the rename over it, and with a FIFO without reader opened blocking.
#[test]
fn what_is_no_file_is_written_in_place() {
    let sandbox = Sandbox::new();
    let run = |path: &Path| sandbox.run().arg("--report").arg(path).sh("exit 7").output();

    let fifo = sandbox.path("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let out = run(&fifo);
    assert_eq!(out.code(), 7, "no reader; {}", out.stderr);
    assert!(out.stderr.contains("report"), "a word about it: {:?}", out.stderr);
    let path = fifo.clone();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    // The reader may not be there yet for the first of them.
    eventually(SOON, "a report through the FIFO", || {
        assert_eq!(run(&fifo).code(), 7);
        if reader.is_finished() { Ok(()) } else { Err("no reader yet") }
    });
    let report: Value = serde_json::from_str(&reader.join().unwrap()).unwrap();
    assert_eq!(report["exit_code"], 7);
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());

    // The harness's own output comes first: the report is the last thing.
    let out = run(Path::new("/dev/stdout"));
    let report: Value = serde_json::from_str(out.text().trim()).unwrap();
    assert_eq!(report["exit_code"], 7);

    let link = sandbox.path("link");
    symlink("target.json", &link).unwrap();
    fs::write(sandbox.path("target.json"), "").unwrap();
    assert_eq!(run(&link).code(), 7);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("target.json"));
    read(&sandbox.path("target.json"));
}

/// At the end nobody can help any more: a word on stderr, and the status stays.
/// Fails with 125 at the end of a good run.
#[test]
fn a_report_that_can_t_be_written() {
    let sandbox = Sandbox::new();
    let out = sandbox.run().args(["--report", "/dev/full"]).sh("exit 7").output();
    assert_eq!(out.code(), 7);
    assert!(out.stderr.contains("/dev/full"), "{:?}", out.stderr);

    // The workspace went away under the run.
    let dir = sandbox.path("workspace");
    fs::create_dir(&dir).unwrap();
    let guard = sandbox.run().arg("--report").arg(dir.join("report.json"));
    let out = guard.sh(&format!("rmdir '{}'; exit 7", dir.display())).output();
    assert_eq!(out.code(), 7, "{}", out.stderr);
    assert!(out.stderr.contains("report"), "{:?}", out.stderr);
    assert!(!dir.exists(), "and nothing is made in its place");
}

/// A relative name is one in the caller's directory, wherever the guard is at the end.
/// Fails with the path opened at the end, when the guard is in `/`.
#[test]
fn a_relative_path_is_the_caller_s() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run().args(["--report", "r.json"]).harness(["true"]).output().code(), 0);
    read(&sandbox.path("work/r.json"));
}

/// A refused start reports nothing, and leaves an earlier report as it is.
/// Fails with the target made at the start.
#[test]
fn a_refused_start_leaves_it_alone() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("report.json"), "old").unwrap();
    let out = sandbox.run().report().args(["--parent-pid", "1"]).harness(["true"]).output();
    assert_eq!(out.code(), 125, "{}", out.stderr);
    let text = fs::read_to_string(sandbox.path("report.json")).unwrap();
    let told = serde_json::from_str::<Value>(&text).is_ok_and(|report| report["cause"] == "guard-error");
    assert!(text == "old" || told, "{text:?}");
}
