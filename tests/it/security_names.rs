//! Names that would lead elsewhere: through no door do they become a path, an option, or a line of their own.

use crate::support::{Guard, Sandbox};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const HOSTILE: [&str; 10] =
    ["../x", "/etc/x", "..", ".", "-rf", "a/b", "a\nb", "a b", "\u{1b}[2J", "x;touch started;`touch started`"];

fn everything(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            found.extend(everything(&path));
        }
        found.insert(path);
    }
    found
}

/// One way in for a name; the name is its last word, or `=NAME` of it.
type Door = for<'a> fn(&'a Sandbox, &str) -> Guard<'a>;

fn run<'a>(guard: Guard<'a>) -> Guard<'a> {
    guard.args(["--teardown", "none"]).harness(["touch", "started"])
}

/// Seen failing with a run id that may have a slash; fails with an app's name used as a file's before it was looked at.
#[test]
fn a_hostile_name_is_refused_at_each_door() {
    let doors: [(&str, Door); 11] = [
        ("--app", |sandbox, name| run(sandbox.run().arg(format!("--app={name}")))),
        ("CCCI_APP_DOMAIN", |sandbox, name| run(sandbox.run().env("CCCI_APP_DOMAIN", name))),
        ("--run-id", |sandbox, name| run(sandbox.run().arg(format!("--run-id={name}")))),
        ("CCCI_RUN_ID", |sandbox, name| run(sandbox.run().env("CCCI_RUN_ID", name))),
        ("DRONE_BUILD_NUMBER", |sandbox, name| run(sandbox.run().env("DRONE_BUILD_NUMBER", name))),
        ("exec --app", |sandbox, name| sandbox.exec().arg(format!("--app={name}")).harness(["touch", "started"])),
        ("reap", |sandbox, name| {
            let reap = sandbox.plain().args(["reap", "--zone", "ci.example.net", "--list-cmd", "true"]);
            reap.args(["--teardown", "touch started", "--", name])
        }),
        ("abra-dir create", |sandbox, name| {
            sandbox.plain().args(["abra-dir", "create"]).arg(format!("--run-id={name}"))
        }),
        ("abra-dir remove", |sandbox, name| sandbox.plain().args(["abra-dir", "remove", "--", name])),
        ("state init", |sandbox, name| {
            sandbox.plain().args(["state", "init", "--pid", "1"]).arg(format!("--run-id={name}"))
        }),
        ("state record-app", |sandbox, name| {
            sandbox.plain().args(["state", "record-app", "--run-id", "1", "--pid", "1", "--", name])
        }),
    ];
    for (door, guard) in doors {
        for name in HOSTILE {
            // A run id may be a word with dashes and dots.
            if name == "-rf" && !["--app", "CCCI_APP_DOMAIN", "exec --app", "reap", "state record-app"].contains(&door)
            {
                continue;
            }
            let sandbox = Sandbox::new();
            let before = everything(&sandbox.path(""));
            let out = guard(&sandbox, name).output();
            let refused = if door.contains(' ') && !door.starts_with("exec") || door == "reap" { 2 } else { 125 };
            assert_eq!(out.code(), refused, "{door} {name:?}: {} {}", out.text(), out.stderr);
            assert_eq!(everything(&sandbox.path("")), before, "{door} {name:?}");
            assert_eq!(out.stderr.lines().count(), 1, "one line: {door} {name:?}: {:?}", out.stderr);
            crate::support::expect_visible(door, &out.stderr);
        }
    }
}
