//! What a janitor is for: orphans are reaped, each once, and live runs never (the mission's cases 5 to 12).

use crate::lock_holder::Holder;
use crate::support::stubs::{Stubs, ZONE};
use crate::support::{APP, Apps, Output, SOON, Sandbox, eventually, held};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

const OTHER: &str = "keyc-0b52fe.ci.example.net";

/// The line of one app.
#[track_caller]
fn line(out: &Output, app: &str) -> String {
    let text = out.text();
    let line = text.lines().find(|line| line.starts_with(&format!("{app}  ")));
    line.unwrap_or_else(|| panic!("no {app} in {text:?}; {}", out.stderr)).to_owned()
}

#[track_caller]
fn expect_verdict(out: &Output, app: &str, verdict: &str) {
    let line = line(out, app);
    assert!(line.starts_with(&format!("{app}  {verdict}  ")), "{line:?}; {}", out.stderr);
}

/// Mission 5: an orphan app is reaped once and its lock file unlinked.
/// Fails with the unlink taken out, and with the worker left in the caller's directory.
#[test]
fn case_05_an_orphan_is_reaped_once_and_its_lock_file_unlinked() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    fs::write(sandbox.lock_path(APP), "").unwrap();
    let out = stubs.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    expect_verdict(&out, APP, "reaped");
    assert!(!sandbox.lock_path(APP).exists(), "the lock file");
    assert_eq!(stubs.left(APP), Vec::<String>::new());
    assert_eq!(stubs.argvs("abra").len(), 4);
    for call in stubs.calls().iter().filter(|call| call.program() == "abra") {
        assert_eq!((call.value("lock"), call.value("cwd"), call.value("cause")), ("held", "/", "janitor"));
        assert_eq!(call.value("abra_dir"), stubs.abra_dir().display().to_string());
    }
    // The next round has nothing to do.
    let out = stubs.janitor().output();
    assert_eq!((out.code(), out.text().as_str()), (0, "0 apps: nothing to do\n"));
    assert_eq!(stubs.argvs("abra").len(), 4);
    sandbox.expect_nothing_left();
}

/// Mission 6: a live holder is never reaped, and that is logged; whoever it is: a run, or an old harness.
/// Fails with the lock taken for free when its holder wrote no line.
#[test]
fn case_06_a_live_holder_is_never_reaped() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.deploy(OTHER);
    let run = stubs.run().args(["--run-id", "1187"]).fixture("print-signals TERM=0").spawn();
    run.ready();
    let old_harness = Holder::take(&sandbox, &sandbox.lock_path(OTHER));
    let out = stubs.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    expect_verdict(&out, APP, "live");
    expect_verdict(&out, OTHER, "live");
    let words = format!("held by pid {}, run 1187", run.pid());
    assert!(line(&out, APP).contains(&words), "{words:?} not in {:?}", out.text());
    assert!(line(&out, OTHER).contains(&format!("pid {}", old_harness.pid())), "{}", out.text());
    for app in [APP, OTHER] {
        assert!(out.stderr.contains(&format!("live: {app}")), "not logged: {:?}", out.stderr);
        assert_eq!(stubs.left(app).len(), 7);
        assert!(sandbox.lock_path(app).exists());
    }
    assert_eq!(stubs.removals(), Vec::<String>::new());
}

/// Mission 7: a new run's acquire waits until a slow reap is done.
/// Fails with the janitor's lock closed before the teardown.
#[test]
fn case_07_a_new_run_waits_until_a_slow_reap_is_done() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let (begun, go) = (sandbox.path("begun"), sandbox.path("go"));
    let slow =
        format!(": >'{}'; until [ -e '{}' ]; do sleep 0.02; done; {}", begun.display(), go.display(), apps.teardown());
    let mut janitor = apps.lister().teardown(slow).spawn();
    eventually(SOON, "the reap", || if begun.exists() { Ok(()) } else { Err(janitor.stderr()) });
    let file = apps.file(APP);
    let run = sandbox.bare().app().teardown("none").sh(&format!("[ ! -e '{}' ] && echo clean", file.display()));
    let mut run = run.spawn();
    run.expect_stderr(&format!("waiting for app lock {APP}"));
    assert!(apps.has(APP));
    fs::write(&go, "").unwrap();
    run.expect_code(0);
    run.expect_line("clean");
    janitor.expect_code(0);
    janitor.expect_line(&format!("{APP}  reaped"));
}

/// Mission 8: two janitors at once, exactly one reaps.
/// Fails with the second one waiting for the lock and tearing down what is not there any more, and with no lock.
#[test]
fn case_08_of_two_janitors_exactly_one_reaps() {
    for _ in 0..3 {
        let sandbox = Sandbox::new();
        let apps = Apps::new(&sandbox);
        apps.add(APP);
        let log = sandbox.path("reaps");
        let teardown = format!("echo reap >>'{}'; sleep 0.3; {}", log.display(), apps.teardown());
        let janitors = [0, 1].map(|_| apps.lister().teardown(&teardown).spawn());
        let mut verdicts: Vec<String> = Vec::new();
        for mut janitor in janitors {
            janitor.expect_code(0);
            janitor.expect_eof(SOON);
            let text = janitor.stdout();
            let own = text.lines().find_map(|line| line.strip_prefix(&format!("{APP}  ")));
            verdicts.extend(own.map(|own| own.split("  ").next().unwrap_or_default().to_owned()));
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "reap\n");
        assert_eq!(verdicts.iter().filter(|verdict| *verdict == "reaped").count(), 1, "{verdicts:?}");
        let others = verdicts.iter().filter(|verdict| *verdict != "reaped");
        assert!(others.clone().all(|verdict| verdict == "live" || verdict == "gone"), "{verdicts:?}");
        assert!(!sandbox.lock_path(APP).exists());
    }
}

/// Mission 9: no lock file, as after a reboot: reaped at once. The `.env` file is of this very moment.
/// Fails with an age wait.
#[test]
fn case_09_without_a_lock_file_it_is_reaped_at_once() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    assert!(!sandbox.lock_path(APP).exists());
    let out = stubs.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    expect_verdict(&out, APP, "reaped");
    assert_eq!(stubs.left(APP), Vec::<String>::new());
    assert!(!sandbox.lock_path(APP).exists(), "the lock file that the probe made");
}

/// Mission 10: held over 120 minutes is a possible leak, and not stolen.
/// Fails with the lock stolen by age, and with `--leaked-after` not looked at.
#[test]
fn case_10_held_for_long_is_reported_not_stolen() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let path = sandbox.lock_path(APP);
    let holder = Holder::take(&sandbox, &path);
    let inode = fs::metadata(&path).unwrap().ino();
    let held_for = |minutes: u64| {
        let since = SystemTime::now() - Duration::from_secs(minutes * 60);
        fs::File::options().write(true).open(&path).unwrap().set_modified(since).unwrap();
    };
    for (minutes, options, verdict) in [
        (119, &[][..], "live"),
        (121, &[], "possible leaked run"),
        (121, &["--leaked-after", "3h"], "live"),
        (2, &["--leaked-after", "1m"], "possible leaked run"),
    ] {
        held_for(minutes);
        let out = stubs.janitor().args(options).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        expect_verdict(&out, APP, verdict);
        assert!(out.stderr.contains(verdict), "not logged: {:?}", out.stderr);
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert!(held(&path).is_err());
    assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
    holder.release();
    expect_verdict(&stubs.janitor().output(), APP, "reaped");
}

/// A run's own deadline tells how long it may take: twice that is the limit.
/// Fails with `--leaked-after` counted in spite of it.
#[test]
fn case_10_a_run_with_a_deadline_has_its_own_limit() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let mut run = stubs.run().deadline("3h").fixture("print-signals TERM=0").spawn();
    run.ready();
    let path = sandbox.lock_path(APP);
    let line = fs::read_to_string(&path).unwrap();
    let backdate = |hours: u64| {
        let now = SystemTime::now();
        let since = now - Duration::from_secs(hours * 3600);
        let epoch = since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut value: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        value["deadline_at"] = (epoch + 3 * 3600).into();
        fs::write(&path, format!("{value}\n")).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(since).unwrap();
    };
    for (hours, verdict) in [(5, "live"), (7, "possible leaked run")] {
        backdate(hours);
        expect_verdict(&stubs.janitor().output(), APP, verdict);
    }
    run.signal(Signal::SIGTERM);
    run.expect_code(143);
}

/// Mission 11: warm and canonical names: never probed, no lock file even made, not even listed.
/// Fails with the allow-list asked after the probe.
#[test]
fn case_11_other_names_are_never_touched() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let others = [
        "warm-immich.ci.example.net",
        "traefik.ci.example.net",
        "ci.example.net",
        "mail-facade.example.org",
        "immi-ad3e33.ci.example.org",
        "immi-ad3e33.ci-example.net",
        "x.immi-ad3e33.ci.example.net",
        "immich-ad3e33.ci.example.net",
        "immi-ad3e3g.ci.example.net",
        "immi-ad3e333.ci.example.net",
    ];
    for other in others {
        stubs.deploy(other);
    }
    stubs.add("traefik", "service", "traefik_app", false);
    let out = stubs.janitor().output();
    assert_eq!((out.code(), out.text().as_str()), (0, "0 apps: nothing to do\n"), "{}", out.stderr);
    assert!(fs::read_dir(sandbox.lock_dir()).unwrap().next().is_none(), "a lock file was made");
    assert_eq!(stubs.removals(), Vec::<String>::new());
    for other in others {
        assert_eq!(stubs.left(other).len(), 7, "{other}");
        // Not even by name.
        let out = stubs.reap(other).output();
        assert_eq!(out.code(), 2, "{other}: {}", out.stderr);
    }
    assert!(fs::read_dir(sandbox.lock_dir()).unwrap().next().is_none(), "a lock file was made");
    // A lock file of such a name is nobody's business either.
    fs::write(sandbox.lock_path(others[0]), "").unwrap();
    assert_eq!(stubs.janitor().output().text(), "0 apps: nothing to do\n");
    assert!(sandbox.lock_path(others[0]).exists());
}

/// Mission 11: the same through `--list-cmd` and `--protect`.
/// Fails with `--protect` asked after the probe.
#[test]
fn case_11_protected_names_are_listed_and_left() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    for app in [APP, OTHER, "warm-immich.ci.example.net"] {
        apps.add(app);
    }
    let out = apps.janitor().args(["--protect", "immi-*", "--protect", "x*"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    expect_verdict(&out, APP, "protected");
    expect_verdict(&out, OTHER, "reaped");
    assert!(!out.text().contains("warm-"), "{}", out.text());
    assert_eq!((apps.has(APP), apps.has(OTHER)), (true, false));
    let out = apps.janitor().env("CCCI_PROTECT", "x* , *-ad3e33.*").output();
    expect_verdict(&out, APP, "protected");
    assert!(!sandbox.lock_path(APP).exists());
}

/// Mission 12: a directory as lock file is skipped and logged, no crash, and the next app has its turn.
/// Fails with the first such file ending the round. FIFO, symbolic and hard link are of the same kind.
#[test]
fn case_12_what_is_no_lock_file_is_skipped() {
    for kind in ["directory", "fifo", "symlink", "hard link"] {
        let sandbox = Sandbox::new();
        let apps = Apps::new(&sandbox);
        apps.add(APP);
        apps.add(OTHER);
        let (path, target) = (sandbox.lock_path(APP), sandbox.path("target"));
        fs::write(&target, "kept").unwrap();
        match kind {
            "directory" => fs::create_dir(&path).unwrap(),
            "fifo" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "symlink" => std::os::unix::fs::symlink(&target, &path).unwrap(),
            _ => fs::hard_link(&target, &path).unwrap(),
        }
        let before = fs::symlink_metadata(&path).unwrap();
        let out = apps.janitor().output();
        assert_eq!(out.code(), 0, "{kind}: {}", out.stderr);
        expect_verdict(&out, APP, "skipped");
        expect_verdict(&out, OTHER, "reaped");
        assert!(out.stderr.contains(APP), "{kind}: not logged: {:?}", out.stderr);
        assert!(apps.has(APP), "{kind}");
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()), "{kind}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert_eq!(apps.janitor().args(["--fail-on-findings"]).output().code(), 3, "{kind}");
    }
}

/// Mission 12: a missing lock directory: every app skipped and logged, exit 0, and none is made.
/// Fails with the directory made, and with the apps reaped without a lock.
#[test]
fn case_12_without_a_lock_directory_all_is_skipped() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    apps.add(OTHER);
    let missing = sandbox.path("no/locks");
    for dry_run in [false, true] {
        let janitor = apps.janitor().arg("--lock-dir").arg(&missing);
        let out = if dry_run { janitor.arg("--dry-run") } else { janitor }.output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        expect_verdict(&out, APP, "skipped");
        expect_verdict(&out, OTHER, "skipped");
        assert!(out.stderr.contains(&missing.display().to_string()), "not logged: {:?}", out.stderr);
        assert!(apps.has(APP) && apps.has(OTHER) && !missing.exists());
    }
}

/// There is no default for what may be reaped.
/// Fails with an empty allow-list that admits all, or none without a word.
#[test]
fn without_an_allow_list_it_is_a_usage_error() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    for form in [&["janitor"][..], &["reap", APP], &["janitor", "--protect", "x*"], &["janitor", "--zone="]] {
        let out = sandbox.plain().args(form).env("PATH", stubs.path()).env("CCCI_ZONE", "").output();
        assert_eq!(out.code(), 2, "{form:?}: {}", out.stderr);
        assert!(out.stderr.contains("--zone"), "{form:?}: {:?}", out.stderr);
        assert_eq!(out.text(), "");
    }
    assert!(stubs.calls().is_empty(), "{:#?}", stubs.calls());
    // Each of the two by its variable, too; with both, either admits.
    stubs.deploy(OTHER);
    let janitor = || sandbox.plain().args(["janitor", "--dry-run"]).env("PATH", stubs.path());
    expect_verdict(&janitor().env("CCCI_ZONE", ZONE).output(), APP, "would_reap");
    let out = janitor().env("CCCI_RUN_APP_RE", r"immi-[a-f0-9]+\.ci\.example\.net").output();
    expect_verdict(&out, APP, "would_reap");
    assert!(!out.text().contains(OTHER), "{}", out.text());
    let both = janitor().env("CCCI_ZONE", "example.org").args(["--run-app-re", r"keyc-.*"]).output();
    expect_verdict(&both, OTHER, "would_reap");
    assert!(!both.text().contains(APP), "{}", both.text());
}
