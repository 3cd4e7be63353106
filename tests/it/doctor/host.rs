//! A host as `doctor` sees it: directories, stand-ins for the programs, and the lines that come of it.

use crate::support::*;
use serde_json::Value;
use std::fs;

/// The lines, in their order.
pub const NAMES: [&str; 13] = [
    "lock-directory",
    "lock-conflict",
    "kernel",
    "signals",
    "runs-directory",
    "canonical-abra-dir",
    "deadline",
    "git",
    "abra",
    "docker",
    "swarm",
    "teardown",
    "janitor-timer",
];

/// A host where all is well: stand-ins for the programs, alone on PATH, and an ABRA_DIR at home.
pub struct Host(pub Sandbox);

impl Host {
    /// All is well.
    pub fn new() -> Self {
        let host = Host(Sandbox::new());
        fs::create_dir(host.0.path("bin")).unwrap();
        fs::create_dir_all(host.0.path("home/.abra/servers")).unwrap();
        host.answers("git", "echo git version 2.99.1");
        host.answers("abra", "echo abra version 0.99.2");
        host.answers("docker", "case \"$1 $2\" in\n'version --format') echo 99.3.1 ;;\n'node ls') echo node1 ;;\nesac");
        host.answers("systemctl", "echo active");
        host
    }

    /// Another answer of a program; each call is one line of `calls`.
    pub fn answers(&self, name: &str, script: &str) {
        let calls = self.0.path("calls");
        let body = format!("#!/bin/sh\nprintf '%s\\n' \"{name} $*\" >>'{}'\n{script}\n", calls.display());
        program(&self.0.path("bin").join(name), &body);
    }

    /// Takes a program away.
    pub fn without(&self, name: &str) {
        fs::remove_file(self.0.path("bin").join(name)).unwrap();
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// `ccci-guard doctor ARGS`.
    pub fn doctor(&self, args: &[&str]) -> Guard<'_> {
        self.0.plain().arg("doctor").args(args).env("PATH", self.0.path("bin"))
    }

    /// All lines of `doctor --json`, as this command gives them.
    #[track_caller]
    pub fn look(&self, guard: Guard<'_>) -> Lines {
        Lines::of(&guard.arg("--json").output())
    }

    /// The lines of `doctor --json`.
    #[track_caller]
    pub fn lines(&self) -> Lines {
        self.look(self.doctor(&[]))
    }
}

/// What `doctor --json` has said.
#[derive(Debug)]
pub struct Lines(Vec<Value>);

impl Lines {
    /// All lines are there, in order, with all their keys; the status says whether one is an error.
    #[track_caller]
    pub fn of(out: &Output) -> Self {
        let report: Value = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|error| panic!("{error}: {:?}; {}", out.text(), out.stderr));
        assert_eq!((&report["schema"], report.as_object().unwrap().len()), (&1.into(), 2), "{report}");
        let checks = report["checks"].as_array().unwrap().clone();
        let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
        assert_eq!(names, NAMES);
        for check in &checks {
            let keys: Vec<&str> = check.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["detail", "name", "next", "status"], "{check}");
            assert!(!check["detail"].as_str().unwrap().is_empty(), "{check}");
            match check["status"].as_str().unwrap() {
                "ok" => assert!(check["next"].is_null(), "nothing to do: {check}"),
                "warning" | "error" => assert!(!check["next"].as_str().unwrap().is_empty(), "the next step: {check}"),
                other => panic!("no such status: {other}"),
            }
        }
        let failed = checks.iter().any(|check| check["status"] == "error");
        assert_eq!(out.code(), i32::from(failed), "{report}; {}", out.stderr);
        assert_eq!(out.stderr, "", "all that there is to say is in the lines");
        Lines(checks)
    }

    /// The line of this name has this status, and its words say `words`.
    #[track_caller]
    pub fn expect(&self, name: &str, status: &str, words: &str) {
        let check = self.0.iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(check["status"], status, "{check}");
        let said = format!("{} next: {}", check["detail"].as_str().unwrap(), check["next"].as_str().unwrap_or("-"));
        assert!(said.contains(words), "{words:?} not in {said:?}");
    }

    /// All others are well.
    #[track_caller]
    pub fn expect_others_ok(&self, names: &[&str]) {
        let others = self.0.iter().filter(|check| !names.contains(&check["name"].as_str().unwrap()));
        let bad: Vec<_> = others.filter(|check| check["status"] != "ok").collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}
