//! The five files that a harness is told of: where they are, whose, and that nothing else is removed with them.

use crate::lock_holder::Holder;
use crate::support::{APP, Guard, SOON, Sandbox, eventually};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Seen failing with the files not made at the start, and with the paths keyed by domain.
#[test]
fn the_state_files_are_named_made_and_removed() {
    let sandbox = Sandbox::new();
    let script = "for f in DEPLOY_COUNT OP_STATE DEPS DEPS_SKIP RUN_APPS; do eval echo file \\$CCCI_${f}_FILE; done; \
                  echo ready; read x; echo one >>$CCCI_DEPLOY_COUNT_FILE; echo done";
    let mut guard = sandbox.run().sh(script).stdin(std::process::Stdio::piped()).spawn();
    let files: Vec<PathBuf> = (0..5).map(|_| guard.expect_line("file ").into()).collect();
    guard.ready();
    let [deploys, opstate, deps, depskip, apps] = &files[..] else { panic!("five files: {files:?}") };
    for made in [deploys, apps] {
        assert_eq!(fs::read_to_string(made).unwrap(), "", "{made:?} is made, empty");
    }
    for named in [opstate, deps, depskip] {
        assert!(!named.exists(), "{named:?} is only a name");
        assert!(named.parent().unwrap().is_dir(), "{named:?} can be made");
    }
    for file in &files {
        assert!(file.is_absolute() && file.starts_with(sandbox.state_dir()), "{file:?}");
        let mode = fs::metadata(file.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file:?} is nobody else's");
    }
    let harness = guard.harness().to_string();
    assert!(deploys.to_str().unwrap().contains(&harness), "keyed by the harness's pid: {deploys:?}");
    drop(guard.stdin());
    guard.expect_line("done");
    guard.expect_code(0);
    eventually(SOON, "the state is removed", || {
        let left: Vec<_> = fs::read_dir(sandbox.state_dir()).unwrap().flatten().map(|e| e.path()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// One run of a domain waits at the lock while another runs: one deploy each, each count is 1, and the end of
/// the first does not break the second. Here it is the harnesses that lock, as those do that are not yet adapted:
/// both have their files all the while.
/// Seen failing with the paths keyed by domain.
#[test]
fn two_runs_of_one_domain_don_t_share_their_counts() {
    let sandbox = Sandbox::new();
    let inner = "echo ready; read x; test -f \"$CCCI_DEPLOY_COUNT_FILE\" || exit 66; \
                 echo d >>\"$CCCI_DEPLOY_COUNT_FILE\"; echo count $(wc -l <\"$CCCI_DEPLOY_COUNT_FILE\"); \
                 read x; test -f \"$CCCI_DEPLOY_COUNT_FILE\" || exit 67; echo count $(wc -l <\"$CCCI_DEPLOY_COUNT_FILE\")";
    let lock = sandbox.lock_path(APP);
    let script = format!("echo begun; flock '{}' sh -c \"$INNER\"", lock.display());
    let guard = || {
        let guard = sandbox.run().args(["--run-id", "same"]).env("INNER", inner);
        guard.sh(&script).stdin(std::process::Stdio::piped()).spawn()
    };
    let mut first = guard();
    first.ready();
    let mut go_on = first.stdin().unwrap();
    writeln!(go_on).unwrap();
    assert_eq!(first.expect_line("count"), "1");
    let mut second = guard();
    second.expect_line("begun");
    writeln!(go_on).unwrap();
    assert_eq!(first.expect_line("count"), "1", "the second one's start; {}", first.stderr());
    first.expect_code(0);
    second.ready();
    let mut go_on = second.stdin().unwrap();
    writeln!(go_on, "\n").unwrap();
    assert_eq!(second.expect_line("count"), "1", "the first one's end; {}", second.stderr());
    second.expect_code(0);
}

/// The same with the guards' own lock, one after the other.
/// Fails with the files left to the next run of the same id and number.
#[test]
fn runs_that_wait_for_each_other_count_by_themselves() {
    let sandbox = Sandbox::new();
    let script = "echo ready; read x; echo d >>$CCCI_DEPLOY_COUNT_FILE; echo count $(wc -l <$CCCI_DEPLOY_COUNT_FILE)";
    let guard = || {
        let guard = sandbox.run().app().args(["--teardown", "none", "--run-id", "same"]);
        guard.sh(script).stdin(std::process::Stdio::piped()).spawn()
    };
    let mut first = guard();
    first.ready();
    let mut second = guard();
    second.expect_stderr("waiting for app lock");
    for run in [&mut first, &mut second] {
        drop(run.stdin());
        assert_eq!(run.expect_line("count"), "1");
        run.expect_code(0);
    }
}

/// Where state goes: what was asked for, else the run's directory, else a private one of ours.
/// Seen failing with the fallback left out.
#[test]
fn state_goes_where_there_is_a_place() {
    let sandbox = Sandbox::new();
    let place = |guard: Guard<'_>| PathBuf::from(guard.sh("echo $CCCI_DEPLOY_COUNT_FILE").output().text().trim());
    let asked = sandbox.path("asked");
    assert!(place(sandbox.run().arg("--state-dir").arg(&asked)).starts_with(&asked));
    let by_run = place(sandbox.run().env_remove("CCCI_STATE_DIR").args(["--run-id", "r1"]));
    assert!(by_run.starts_with(sandbox.runs_dir().join("r1")), "{by_run:?}");
    assert!(!sandbox.runs_dir().join("r1").exists(), "made by us, removed by us");

    let runtime = sandbox.path("runtime");
    fs::create_dir(&runtime).unwrap();
    let without_runs = sandbox.run().env_remove("CCCI_STATE_DIR").env("CCCI_RUNS_DIR", "/proc/no-such-place");
    let fallback = place(without_runs.env("XDG_RUNTIME_DIR", &runtime));
    assert!(fallback.starts_with(&runtime), "{fallback:?}");
}

/// What the harness put into its run's directory stays, and so does the directory.
/// Seen failing with `remove_dir_all` on the run's directory.
#[test]
fn results_in_the_run_s_directory_stay() {
    let sandbox = Sandbox::new();
    let guard = sandbox.run().env_remove("CCCI_STATE_DIR").args(["--run-id", "r1"]);
    let out = guard.sh("echo result >\"$CCCI_RUNS_DIR/$CCCI_RUN_ID/results.json\"").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let left: Vec<_> = walk(&sandbox.runs_dir());
    assert_eq!(left, [sandbox.runs_dir().join("r1/results.json")]);
    assert_eq!(fs::metadata(sandbox.runs_dir().join("r1")).unwrap().permissions().mode() & 0o777, 0o755);
}

/// A start that fails half way, here for want of descriptors, takes its state away again.
/// Fails with the state's directory left by a supervisor that could not be forked.
#[test]
fn a_start_that_fails_leaves_no_state() {
    let sandbox = Sandbox::new();
    for limit in 3..=24 {
        for held in [false, true] {
            let _other = held.then(|| Holder::take(&sandbox, &sandbox.lock_path(APP)));
            let guard = sandbox.run().app().args(["--teardown", "none", "--lock-timeout", "100ms"]);
            let line = guard.sh("exit 7").line();
            // Whoever runs these tests may have some open already, which count too.
            let mut shell = sandbox.shell(&format!("ulimit -n {limit}; exec {line}"));
            let code = shell.code();
            // Below a handful not even the loader of a dynamic program comes to its end.
            let expected: &[i32] = if held { &[75, 125, 127] } else { &[7, 125, 127] };
            assert!(expected.contains(&code), "{limit} descriptors: {code}; {}", shell.stderr());
            assert_eq!(walk(&sandbox.state_dir()), Vec::<PathBuf>::new(), "{limit} descriptors, {code}");
            let left: Vec<_> = fs::read_dir(sandbox.state_dir()).unwrap().flatten().map(|e| e.path()).collect();
            assert!(left.is_empty(), "{limit} descriptors, {code}: {left:?}");
            assert!(shell.tree().is_empty());
        }
    }
}

/// Another ABRA_DIR for the harness, the canonical one for the teardown.
/// Fails with the harness's handed to the teardown.
#[test]
fn each_has_its_abra_dir() {
    let sandbox = Sandbox::new();
    let seen = |guard: Guard<'_>| {
        let guard = guard.teardown("echo $ABRA_DIR").args(["--teardown-on", "always"]);
        let out = guard.env("ABRA_DIR", "/the/caller").sh("echo $ABRA_DIR").output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        let told = out.stderr.lines().find_map(|line| line.strip_prefix("ccci-guard: teardown: ")).unwrap().to_owned();
        (out.text().trim().to_owned(), told)
    };
    let canonical = sandbox.path("home/.abra");
    fs::create_dir_all(canonical.join("servers")).unwrap();
    let canonical = canonical.to_str().unwrap().to_owned();
    let pair = |harness: &str, teardown: &str| (harness.to_owned(), teardown.to_owned());
    assert_eq!(seen(sandbox.run()), pair("/the/caller", &canonical));
    assert_eq!(seen(sandbox.run().args(["--abra-dir", "inherit"])), pair("/the/caller", &canonical));
    assert_eq!(seen(sandbox.run().args(["--abra-dir", "/of/the/run"])), pair("/of/the/run", &canonical));
    assert_eq!(seen(sandbox.run().env("CCCI_ABRA_DIR", "/of/the/run")), pair("/of/the/run", &canonical));
    assert_eq!(seen(sandbox.run().args(["--canonical-abra-dir", "/canon"])), pair("/the/caller", "/canon"));
    assert_eq!(seen(sandbox.run().env("CCCI_CANONICAL_ABRA_DIR", "/canon")), pair("/the/caller", "/canon"));
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
