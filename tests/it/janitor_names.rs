//! Names that are none, and what bears them: told, never opened, never a reason to stop.

use crate::support::stubs::Stubs;
use crate::support::{APP, Apps, Sandbox};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// With `--list-cmd` a line is a name; each of these is none.
const BAD: [&str; 12] = [
    "../x",
    "-rf",
    "/etc/passwd",
    "IMMI-ad3e33.ci.example.net",
    "immi-ad3e33.ci.example.net.",
    "immi-ad3e33.ci.example.net/..",
    " immi-ad3e33.ci.example.net",
    "immi_ad3e33.ci.example.net",
    "$(touch pwned)",
    "*",
    "\u{1b}[31mred",
    "immi-ad3e33.ci.example.net\t",
];

/// Every file of the sandbox, and its content.
fn all_files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rest.push(path.clone());
            }
            found.insert(format!("{path:?}"), fs::read(&path).unwrap_or_default());
        }
    }
    found
}

#[track_caller]
fn verdicts(text: &str) -> BTreeMap<String, String> {
    let report: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let word = |entry: &Value, key: &str| entry[key].as_str().expect("a word").to_owned();
    report["apps"].as_array().unwrap().iter().map(|entry| (word(entry, "app"), word(entry, "verdict"))).collect()
}

/// Fails with the name put into a path before it is checked.
#[test]
fn listed_names_that_are_none() {
    let sandbox = Sandbox::new();
    let mut names: Vec<String> = BAD.map(str::to_owned).to_vec();
    names.push("a".repeat(300));
    names.push(format!("{}.{}", "a".repeat(64), "ci.example.net"));
    names.push("aaaa.".repeat(50) + "net");
    let list = sandbox.path("list");
    fs::write(&list, names.join("\n") + "\n" + APP + "\n").unwrap();
    let done = sandbox.path("done");
    let teardown = format!("echo \"$CCCI_TEARDOWN_APP\" >>'{}'", done.display());
    let list_cmd = format!("[ -e '{}' ] || cat '{}'", done.display(), list.display());
    let before = all_files(&sandbox.path(""));
    let janitor = || sandbox.plain().args(["janitor", "--zone", "ci.example.net", "--list-cmd", &list_cmd, "--json"]);
    let dry = janitor().arg("--dry-run").output();
    assert_eq!(all_files(&sandbox.path("")), before);
    let out = janitor().teardown(teardown).output();
    assert_eq!((dry.code(), out.code()), (0, 0), "{}", out.stderr);
    for (out, verdict) in [(dry, "would_reap"), (out, "reaped")] {
        let verdicts = verdicts(&out.text());
        for name in &names {
            assert_eq!(verdicts.get(name).map(String::as_str), Some("invalid_name"), "{name:?}: {verdicts:#?}");
        }
        assert_eq!(verdicts[APP], verdict);
        assert_eq!(verdicts.len(), names.len() + 1);
    }
    assert_eq!(fs::read_to_string(&done).unwrap(), format!("{APP}\n"), "torn down");
    let mut after = all_files(&sandbox.path(""));
    after.retain(|name, _| !name.ends_with("/done\""));
    assert_eq!(after, before);
}

/// A name can't break the report's lines, or the terminal.
/// Fails with names printed as they are.
#[test]
fn a_name_is_one_line_of_text() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("list"), "\u{1b}[2Jx\u{7}\n").unwrap();
    fs::write(sandbox.path("locks").join("cc-ci-app-a\nb.lock"), "").unwrap();
    let list = format!("cat '{}'", sandbox.path("list").display());
    let out = sandbox.plain().args(["janitor", "--zone", "ci.example.net", "--list-cmd", &list]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = out.text() + &out.stderr;
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    assert_eq!(out.text().lines().count(), 3, "{text:?}");
    assert_eq!(out.text().matches("invalid_name").count(), 3, "{text:?}");
}

/// Lock files, `.env` files and stacks with such names: told or not listed, and left as they are.
/// Fails with the stale ones unlinked.
#[test]
fn files_whose_names_are_none() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let long = "b".repeat(235);
    for name in ["..", "-rf", "UPPER.ci.example.net", "a\nb", "", "x y", long.as_str()] {
        fs::write(sandbox.path("locks").join(format!("cc-ci-app-{name}.lock")), "kept").unwrap();
        fs::write(stubs.env_file(name), "kept").unwrap();
    }
    let not_text = std::ffi::OsStr::from_bytes(b"cc-ci-app-\xff.lock");
    fs::write(sandbox.path("locks").join(not_text), "kept").unwrap();
    for name in ["other.lock", "cc-ci-app-immi-ad3e33.ci.example.net", "cc-ci-app-immi-ad3e33.ci.example.net.lock.old"]
    {
        fs::write(sandbox.path("locks").join(name), "kept").unwrap();
    }
    stubs.add("UPPER_ci_example_net", "volume", "one", false);
    let before = all_files(&sandbox.path("locks"));
    let envs = all_files(&stubs.abra_dir());
    let out = stubs.janitor().arg("--json").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let verdicts = verdicts(&out.text());
    assert!(verdicts.values().all(|verdict| verdict == "invalid_name"), "{verdicts:#?}");
    for name in ["-rf", "UPPER.ci.example.net", "a\nb", "x y"] {
        assert!(verdicts.contains_key(name), "{name:?} not in {verdicts:#?}");
    }
    assert_eq!(all_files(&sandbox.path("locks")), before);
    assert_eq!(all_files(&stubs.abra_dir()), envs);
    assert_eq!(stubs.removals(), Vec::<String>::new());
}

/// Fails with the name checked by the janitor only.
#[test]
fn reap_takes_no_such_name() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let before = all_files(&sandbox.path("locks"));
    for name in BAD.iter().copied().filter(|name| !name.starts_with('-')).chain([""]) {
        let out = stubs.reap(name).output();
        assert_eq!(out.code(), 2, "{name:?}: {}", out.stderr);
        assert!(!out.stderr.contains('\u{1b}'), "{:?}", out.stderr);
        assert_eq!(out.text(), "");
    }
    for args in [&["reap", "--zone", "ci.example.net", "--", "-rf"][..], &["reap", "-rf"], &["reap"]] {
        assert_eq!(sandbox.plain().args(args).output().code(), 2, "{args:?}");
    }
    assert_eq!(all_files(&sandbox.path("locks")), before);
    assert!(stubs.calls().is_empty(), "{:#?}", stubs.calls());
}

/// The age of a run, and of an app, was once looked at; nothing of it is left.
/// Fails with the variable read.
#[test]
fn an_age_limit_has_no_effect() {
    let sandbox = Sandbox::new();
    for age in ["0", "1", "999999", "rubbish", "-1"] {
        let apps = Apps::new(&sandbox);
        apps.add(APP);
        let out = apps.janitor().env("CCCI_JANITOR_MAX_AGE", age).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        assert!(out.text().contains(&format!("{APP}  reaped  ")), "{}", out.text());
        assert!(!out.stderr.contains("MAX_AGE"), "{:?}", out.stderr);
    }
}

/// A janitor may be started in a run's environment.
/// Fails with the run's settings resolved for the janitor, too.
#[test]
fn the_settings_of_runs_do_not_disturb_a_janitor() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let mut janitor = apps.janitor();
    for (name, value) in [
        ("CCCI_DEADLINE", "120"),
        ("CCCI_GRACE", "soon"),
        ("CCCI_LOCK_TIMEOUT", "never"),
        ("CCCI_APP_DOMAIN", ""),
        ("CCCI_TEARDOWN", "none"),
        ("CCCI_RUN_ID", "a/b"),
        ("CCCI_PARENT_PID", "x"),
        ("CCCI_STOP_SIGNAL", "NOPE"),
        ("CCCI_REPORT", "/no/such/dir/report"),
        ("CCCI_ABRA_DIR", "auto"),
    ] {
        janitor = janitor.env(name, value);
    }
    let out = janitor.output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains(&format!("{APP}  reaped  ")), "{}", out.text());
}

/// Fails with a bad value taken for the default.
#[test]
fn bad_options_are_usage_errors() {
    let sandbox = Sandbox::new();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    for bad in [
        &["--jobs", "0"][..],
        &["--jobs", "-1"],
        &["--jobs", "many"],
        &["--leaked-after", "120"],
        &["--leaked-after", "1M"],
        &["--teardown-timeout", "0s"],
        &["--teardown", "none"],
        &["--teardown", ""],
        &["--run-app-re", ".*"],
        &["--run-app-re", "("],
        &["--zone", "UPPER.net"],
        &["--protect", ""],
        &["--no-such-option"],
        &["extra-word"],
        &["--", "true"],
    ] {
        let list = apps.list_cmd();
        let out = sandbox.plain().args(["janitor", "--list-cmd", &list]).env("CCCI_ZONE", "ci.example.net").args(bad);
        let out = out.output();
        assert_eq!(out.code(), 2, "{bad:?}: {}", out.stderr);
        assert!(out.stderr.starts_with("ccci-guard: error: "), "{bad:?}: {:?}", out.stderr);
        assert_eq!(out.text(), "", "{bad:?}");
        assert!(apps.has(APP), "{bad:?}");
    }
    assert!(fs::read_dir(sandbox.lock_dir()).unwrap().next().is_none());
}
