//! What a janitor says: lines, counts, JSON, metrics, and its exit status.

use crate::lock_holder::Holder;
use crate::support::stubs::{Stubs, stack_of};
use crate::support::{APP, Apps, Sandbox, eventually, held};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const OTHER: &str = "keyc-0b52fe.ci.example.net";
const THIRD: &str = "n8n-00ff00.ci.example.net";
const VERDICTS: [&str; 12] = [
    "reaped",
    "live",
    "possible_leak",
    "partial",
    "failed",
    "skipped",
    "protected",
    "gone",
    "held_unlinked",
    "invalid_name",
    "stale_lock",
    "would_reap",
];

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// The entry of one app.
#[track_caller]
fn entry(report: &Value, app: &str) -> Value {
    let apps = report["apps"].as_array().expect("a list");
    apps.iter().find(|entry| entry["app"] == app).unwrap_or_else(|| panic!("no {app} in {report}")).clone()
}

/// A round with one of each verdict that ends well, and its lines and counts.
/// Fails with the counts taken from the candidates.
#[test]
fn a_line_an_app_then_a_line_of_counts() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    for app in [APP, OTHER, THIRD] {
        stubs.deploy(app);
    }
    let stale = "a1-111111.ci.example.net";
    fs::write(sandbox.lock_path(stale), "").unwrap();
    let _held = Holder::take(&sandbox, &sandbox.lock_path(OTHER));
    let out = stubs.janitor().args(["--protect", "n8n-*"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    for (line, start) in lines.iter().zip([
        format!("{stale}  stale_lock  "),
        format!("{APP}  reaped  "),
        format!("{OTHER}  live  "),
        format!("{THIRD}  protected  "),
        "4 apps: 1 reaped, 1 live, 1 protected, 1 stale_lock".to_owned(),
    ]) {
        assert!(line.starts_with(&start), "{start:?}: {text}");
        assert!(line.len() > start.len() || line.starts_with("4 apps"), "without a reason: {line:?}");
    }
    assert!(!sandbox.lock_path(stale).exists(), "a lock file without an app stays");
}

/// Fails with a key left out where its count is 0 or its value none.
#[test]
fn json_always_has_all_keys() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let empty = stubs.janitor().arg("--json").output();
    let report = json(&empty.text());
    assert_eq!((&report["schema"], &report["apps"]), (&1.into(), &serde_json::json!([])));
    stubs.deploy(APP);
    stubs.deploy(OTHER);
    stubs.deploy(THIRD);
    stubs.says("app-secret", "exit 4\n");
    let holder = Holder::take(&sandbox, &sandbox.lock_path(OTHER));
    let out = stubs.janitor().args(["--json", "--protect", "n8n-*"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = out.text();
    assert_eq!(text.lines().count(), 1);
    let report = json(&text);
    for report in [&report, &json(&empty.text())] {
        let mut keys: Vec<&String> = report["counts"].as_object().unwrap().keys().collect();
        keys.sort();
        let mut expected = VERDICTS.to_vec();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
    assert_eq!((&report["counts"]["reaped"], &report["counts"]["live"]), (&1.into(), &1.into()));
    for app in [APP, OTHER, THIRD] {
        let entry = entry(&report, app);
        for key in ["app", "stack", "verdict", "why", "lock", "steps", "residual"] {
            assert!(entry.get(key).is_some(), "no {key} in {entry}");
        }
        for key in ["path", "held_s", "holder"] {
            assert!(entry["lock"].get(key).is_some(), "no lock.{key} in {entry}");
        }
        assert_eq!(entry["stack"], stack_of(app));
    }
    let reaped = entry(&report, APP);
    assert_eq!(reaped["lock"]["path"], sandbox.lock_path(APP).display().to_string());
    assert_eq!((&reaped["lock"]["held_s"], &reaped["lock"]["holder"]), (&Value::Null, &Value::Null));
    let steps = reaped["steps"].as_array().unwrap();
    assert!(steps.len() > 4, "{steps:?}");
    assert_eq!((&steps[0]["status"], &steps[2]["status"]), (&0.into(), &4.into()));
    assert_eq!(steps[0]["argv"].as_array().unwrap()[1..], ["app", "undeploy", "--no-input", APP].map(Value::from));
    assert!(steps[0]["ms"].is_u64());
    let live = entry(&report, OTHER);
    assert_eq!(live["lock"]["holder"]["pid"], holder.pid().as_raw());
    assert!(live["lock"]["held_s"].as_f64().is_some_and(|held| held >= 0.0), "{live}");
}

/// 1 wins over 3; the apps are named with what is left of them.
/// Fails with the findings looked at first.
#[test]
fn what_is_left_is_partial_and_named() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.deploy(OTHER);
    stubs.says("app-remove", &format!("[ \"$4\" != {APP} ] && [ \"$5\" != {APP} ] || exit 0\n"));
    fs::create_dir(sandbox.lock_path(THIRD)).unwrap();
    let out = stubs.janitor().args(["--json", "--fail-on-findings"]).output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    let report = json(&out.text());
    let partial = entry(&report, APP);
    assert_eq!(partial["verdict"], "partial");
    let env = format!("env {}", stubs.env_file(APP).display());
    assert_eq!(partial["residual"], serde_json::json!([env]));
    assert!(out.stderr.contains(&env), "{:?}", out.stderr);
    assert_eq!(entry(&report, OTHER)["verdict"], "reaped");
    assert_eq!(entry(&report, THIRD)["verdict"], "skipped");
    // Its lock file stays: it is not done with.
    eventually(Duration::from_secs(5), "the lock", || held(&sandbox.lock_path(APP)));
    assert_eq!((sandbox.lock_path(APP).exists(), sandbox.lock_path(OTHER).exists()), (true, false));
}

/// The limit: failed, with what is left.
/// Fails with the limit taken for partial.
#[test]
fn a_teardown_that_runs_into_its_limit_is_failed() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.deploy(OTHER);
    stubs.says("app-volume", "exit 0\n");
    stubs.add(&stack_of(APP), "volume", "kept", true);
    let out = stubs.janitor().args(["--json", "--teardown-timeout", "2s"]).output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    let report = json(&out.text());
    assert_eq!(entry(&report, APP)["verdict"], "failed", "{report}");
    assert_eq!(entry(&report, APP)["residual"], serde_json::json!(["volume kept"]));
    assert!(sandbox.lock_path(APP).exists(), "unlinked, and not done with");
    assert_eq!(entry(&report, OTHER)["verdict"], "reaped");
    sandbox.expect_nothing_left();
}

/// One bad app never stops the others, whatever is bad about it.
/// Fails with the first failure ending the round.
#[test]
fn one_bad_app_does_not_stop_the_others() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    for app in [APP, OTHER, THIRD] {
        apps.add(app);
    }
    let teardown = format!("case $CCCI_TEARDOWN_APP in immi-*) exit 9;; esac; {}", apps.teardown());
    for jobs in ["1", "4"] {
        let out = apps.lister().teardown(&teardown).args(["--json", "--jobs", jobs]).output();
        assert_eq!(out.code(), 1, "{}", out.stderr);
        let report = json(&out.text());
        let failed = entry(&report, APP);
        assert_eq!(failed["verdict"], "failed");
        assert!(failed["why"].as_str().unwrap().contains('9'), "{failed}");
        assert_eq!(entry(&report, OTHER)["verdict"], "reaped");
        assert_eq!(entry(&report, THIRD)["verdict"], "reaped");
        apps.add(OTHER);
        apps.add(THIRD);
    }
}

/// A command that says 0 and leaves the app: still listed, so it is partial.
/// Fails with the second look at the list left out.
#[test]
fn with_a_list_of_ones_own_the_proof_is_the_list() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let out = apps.lister().teardown("true").arg("--json").output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    let entry = entry(&json(&out.text()), APP);
    assert_eq!(entry["verdict"], "partial");
    assert!(!entry["residual"].as_array().unwrap().is_empty(), "{entry}");
    assert!(apps.has(APP));
}

/// An app that went away between the list and its lock.
/// Fails with the look under the lock left out (the teardown command is run).
#[test]
fn an_app_that_went_in_time_is_gone() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    // Listed once, and then no more.
    let list = format!("{}; rm -f '{}'", apps.list_cmd(), apps.file(APP).display());
    let ran = sandbox.path("ran");
    let teardown = format!(": >'{}'", ran.display());
    let janitor = sandbox.plain().args(["janitor", "--zone", "ci.example.net", "--list-cmd", &list]);
    let out = janitor.teardown(teardown).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains(&format!("{APP}  gone  ")), "{}", out.text());
    assert!(!ran.exists(), "torn down all the same");
    assert!(!sandbox.lock_path(APP).exists(), "the lock file that the probe made");
}

/// The same with automatic teardown: a stack that is listed, and of which nothing is there any more.
/// Fails with the look before the first step left out (abra is called).
#[test]
fn a_stack_that_went_in_time_is_gone() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let stack = stack_of(APP);
    stubs.says("volume-ls", &format!("case $* in *Label*) echo {stack}; exit 0 ;; esac\n"));
    let out = stubs.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains(&format!("{APP}  gone  ")), "{}", out.text());
    assert_eq!(stubs.removals(), Vec::<String>::new());
    assert!(!sandbox.lock_path(APP).exists(), "the lock file that the probe made");
}

/// Nothing is made, removed or written.
/// Fails with the probe opening the lock file as a run does, and with the stale lock file unlinked.
#[test]
fn a_dry_run_touches_nothing() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    for app in [APP, OTHER] {
        stubs.deploy(app);
    }
    fs::write(sandbox.lock_path(THIRD), "a line\n").unwrap();
    let _held = Holder::take(&sandbox, &sandbox.lock_path(OTHER));
    let listing = || {
        let mut found: Vec<_> = fs::read_dir(sandbox.lock_dir()).unwrap().map(|entry| entry.unwrap()).collect();
        found.sort_by_key(|entry| entry.file_name());
        let facts = |entry: &fs::DirEntry| {
            let metadata = entry.metadata().unwrap();
            (
                entry.file_name(),
                metadata.ino(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                fs::read(entry.path()).unwrap(),
            )
        };
        found.iter().map(facts).collect::<Vec<_>>()
    };
    let before = listing();
    let out = stubs.janitor().args(["--dry-run", "--json"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let report = json(&out.text());
    for (app, verdict) in [(APP, "would_reap"), (OTHER, "live"), (THIRD, "stale_lock")] {
        assert_eq!(entry(&report, app)["verdict"], verdict, "{report}");
    }
    assert_eq!(listing(), before);
    assert_eq!(stubs.removals(), Vec::<String>::new());
    assert_eq!((stubs.left(APP).len(), stubs.left(OTHER).len()), (7, 7));
}

/// Possible leaks, removed lock files under a live run, and locks that can't be probed: 3 where asked for.
/// Fails with `held_unlinked` not counted.
#[test]
fn findings_count_where_asked_for() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    let code = |findings: bool| {
        let janitor = apps.janitor();
        if findings { janitor.arg("--fail-on-findings") } else { janitor }.output().code()
    };
    assert_eq!((code(false), code(true)), (0, 0));
    apps.add(APP);
    let path = sandbox.lock_path(APP);
    let holder = Holder::take(&sandbox, &path);
    assert_eq!((code(false), code(true)), (0, 0), "a live run is no finding");
    let old = SystemTime::now() - Duration::from_secs(3 * 3600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    assert_eq!((code(false), code(true)), (0, 3), "a possible leak");
    fs::remove_file(&path).unwrap();
    assert_eq!((code(false), code(true)), (0, 3), "held, but removed");
    assert!(apps.has(APP) && !path.exists());
    holder.release();
    fs::create_dir(&path).unwrap();
    assert_eq!((code(false), code(true)), (0, 3), "skipped");
}

/// A lock file that was removed under a live run: the run is left alone, and no new file stays.
/// Fails with the look for holders of removed files left out (the live run's app is reaped).
#[test]
fn a_lock_file_removed_under_a_live_run_is_seen() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let run = stubs.run().fixture("print-signals TERM=0").spawn();
    run.ready();
    fs::remove_file(sandbox.lock_path(APP)).unwrap();
    for _ in 0..2 {
        let out = stubs.janitor().arg("--json").output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        let entry = entry(&json(&out.text()), APP);
        assert_eq!(entry["verdict"], "held_unlinked");
        assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
        assert!(!sandbox.lock_path(APP).exists(), "the file that the probe made");
    }
}

/// The same for one that was renamed, or that a mount hides: the file under the name is not the one that is locked.
/// Seen failing with only removed files looked for.
#[test]
fn a_lock_file_renamed_under_a_live_run_is_seen() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let run = stubs.run().fixture("print-signals TERM=0").spawn();
    run.ready();
    let path = sandbox.lock_path(APP);
    fs::rename(&path, path.with_extension("lock.bak")).unwrap();
    let out = stubs.janitor().arg("--json").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert_eq!(entry(&json(&out.text()), APP)["verdict"], "held_unlinked");
    assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
}

/// Another janitor's worker that has unlinked the file and not yet let go of it: live, and no finding.
/// Fails with the holder's line not read where its file was removed.
#[test]
fn a_janitor_that_unlinks_is_no_finding() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let path = sandbox.lock_path(APP);
    let holder = Holder::take(&sandbox, &path);
    let pid = holder.pid();
    let line =
        format!(r#"{{"pid":{pid},"run_id":"janitor-{pid}","command":"teardown","deadline_at":null,"teardown":true}}"#);
    fs::write(&path, line + "\n").unwrap();
    fs::remove_file(&path).unwrap();
    let out = apps.janitor().arg("--fail-on-findings").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains(&format!("{APP}  live  being torn down by pid {pid}\n")), "{}", out.text());
    assert!(apps.has(APP) && !path.exists());
}

/// Fails with a metric left out, and with the file written in place.
#[test]
fn metrics_for_the_node_exporter() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    apps.add(OTHER);
    fs::create_dir(sandbox.lock_path(OTHER)).unwrap();
    let file = sandbox.path("metrics/ccci.prom");
    fs::create_dir(sandbox.path("metrics")).unwrap();
    fs::write(&file, "old\n").unwrap();
    let old = fs::metadata(&file).unwrap().ino();
    let run = |findings: bool| {
        let janitor = apps.janitor().arg("--metrics").arg(&file);
        if findings { janitor.arg("--fail-on-findings") } else { janitor }.output()
    };
    assert_eq!(run(true).code(), 3);
    let text = fs::read_to_string(&file).unwrap();
    assert_ne!(fs::metadata(&file).unwrap().ino(), old, "a reader may see half of it");
    assert_eq!(fs::read_dir(sandbox.path("metrics")).unwrap().count(), 1, "a temporary file is left");
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    };
    for verdict in VERDICTS {
        let expected = f64::from(u8::from(["reaped", "skipped"].contains(&verdict)));
        assert_eq!(value(&format!("ccci_janitor_apps{{verdict=\"{verdict}\"}}")), expected, "{verdict}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - value("ccci_janitor_last_round_timestamp_seconds")).abs() < 60.0, "{text}");
    assert!((0.0..60.0).contains(&value("ccci_janitor_round_seconds")), "{text}");
    assert_eq!(value("ccci_janitor_exit_status"), 3.0);
    assert!(text.ends_with('\n'));
    // A round whose list could not be had is told, too.
    let out = sandbox.plain().args(["janitor", "--zone", "ci.example.net", "--list-cmd", "false"]);
    assert_eq!(out.arg("--metrics").arg(&file).output().code(), 69);
    assert!(fs::read_to_string(&file).unwrap().contains("ccci_janitor_exit_status 69\n"));
    // And a file that can't be written changes nothing but the log.
    let out = apps.janitor().arg("--metrics").arg(sandbox.path("none/ccci.prom")).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.stderr.contains("none/ccci.prom"), "{:?}", out.stderr);
}
