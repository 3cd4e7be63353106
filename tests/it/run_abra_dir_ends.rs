//! What becomes of a run's own ABRA_DIR: however the run ends it is removed, unless somebody needs it to see what went
//! wrong. Ends in which a guard process is killed are in `run_abra_dir_killed.rs`.

use crate::dead_run::expect_gone;
use crate::lock_holder::Holder;
use crate::run_abra_dir::{abra_of, auto, end, run_ids, start};
use crate::support::stubs::Stubs;
use crate::support::{APP, Canonical, Fingerprint, Guard, SOON, Sandbox, eventually, fingerprint, python};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::path::Path;

pub const NONE: Vec<String> = Vec::new();

/// The canonical ABRA_DIR, and how it looks: no end of a run may reach it.
pub struct Ground {
    pub sandbox: Sandbox,
    pub canonical: Canonical,
    pub before: Fingerprint,
}

impl Ground {
    pub fn new() -> Self {
        let sandbox = Sandbox::new();
        let canonical = Canonical::new(&sandbox);
        canonical.add_env("ci.example.net", "keyc-0b52fe.ci.example.net");
        let before = fingerprint(canonical.path());
        Self { sandbox, canonical, before }
    }

    /// Run 7, with an ABRA_DIR of its own and the app's lock.
    pub fn run(&self) -> Guard<'_> {
        auto(&self.sandbox).args(["--run-id", "7"]).app()
    }

    #[track_caller]
    pub fn expect_removed(&self, what: &str) {
        assert_eq!(run_ids(&self.sandbox), NONE, "{what}");
        self.before.expect_same(&fingerprint(self.canonical.path()));
    }

    /// The same where nobody of the run is ours to wait for.
    #[track_caller]
    pub fn expect_removed_soon(&self, what: &str) {
        eventually(SOON, what, || {
            let left = run_ids(&self.sandbox);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        self.before.expect_same(&fingerprint(self.canonical.path()));
    }

    /// `abra-dir gc`; its stdout.
    #[track_caller]
    pub fn gc(&self, args: &[&str]) -> String {
        let out = self.sandbox.plain().args(["abra-dir", "gc"]).args(args).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        out.text()
    }
}

/// A script for a run that has fetched something and left something behind in its ABRA_DIR.
pub fn with_recipe(then: &str) -> String {
    format!("mkdir -p \"$ABRA_DIR/recipes/immich/.git\" && : >\"$ABRA_DIR/recipes/immich/.git/HEAD\" && {then}")
}

/// The last line on stderr tells where a kept one is.
#[track_caller]
pub fn expect_kept(ground: &Ground, stderr: &str, what: &str) {
    let abra = abra_of(&ground.sandbox, "7");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("ccci-guard: "), "{what}: {stderr}");
    assert!(last.ends_with(&format!("ABRA_DIR kept: {}", abra.display())), "{what}: {stderr}");
    assert!(abra.join("recipes/immich/.git/HEAD").is_file(), "{what}");
    assert!(abra.join("servers/ci.example.net").is_dir(), "{what}");
    ground.before.expect_same(&fingerprint(ground.canonical.path()));
}

/// It ends by itself, or is made to.
/// To see it fail: remove it in the branch of a good end only.
#[test]
fn it_is_removed_at_every_end() {
    let ground = Ground::new();
    let none = || ground.run().teardown("none");
    let teardown = || ground.run().teardown("true");
    let expect = |guard: Guard<'_>, code: i32, what: &str| {
        let out = guard.output();
        assert_eq!(out.code(), code, "{what}: {}", out.stderr);
        ground.expect_removed(what);
        assert!(!out.stderr.contains("kept"), "{what}: {}", out.stderr);
    };
    expect(none().sh(&with_recipe("exit 0")), 0, "exit 0");
    expect(none().sh(&with_recipe("exit 7")), 7, "exit 7");
    expect(none().sh(&with_recipe("kill -9 $$")), 137, "killed by a signal of its own");
    expect(teardown().deadline("1s").sh(&with_recipe("exec sleep 60")), 142, "deadline");
    expect(teardown().args(["--teardown-on", "always"]).sh(&with_recipe("exit 3")), 3, "a teardown that is ok");
    expect(none().harness(["/no/such/harness"]), 127, "not found");
    expect(none().harness(["/etc/passwd"]), 126, "not executable");
    expect(none().harness([""]), 127, "an empty name");
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let guard = teardown().default_signals().sh(&with_recipe("echo ready; exec sleep 60"));
        let mut run = guard.spawn();
        run.ready();
        kill(run.monitor(), signal).unwrap();
        run.expect_code(code);
        ground.expect_removed(&format!("{signal}"));
    }
}

/// As it is where nobody sets CCCI_STATE_DIR: state files and ABRA_DIR side by side in one directory of the run.
/// To see it fail: let the one who made that directory forget it while the other has something in there.
#[test]
fn with_the_state_beside_it_nothing_is_left_either() {
    let ground = Ground::new();
    for (script, signal, code) in [("exit 0", None, 0), ("exec sleep 60", Some(Signal::SIGTERM), 143)] {
        let script = format!("ls \"$CCCI_RUNS_DIR/7\"; echo ready; {script}");
        let mut run = ground.run().env_remove("CCCI_STATE_DIR").teardown("true").sh(&script).spawn();
        assert_eq!((run.line(), run.line()), ("abra".to_owned(), "ccci-guard".to_owned()));
        run.ready();
        if let Some(signal) = signal {
            run.signal(signal);
        }
        run.expect_code(code);
        ground.expect_removed(&script);
    }
    // What the harness put beside them is why the directory is there.
    let script = "echo 1 >\"$CCCI_RUNS_DIR/7/results.json\"";
    let out = ground.run().env_remove("CCCI_STATE_DIR").teardown("none").sh(script).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let left: Vec<_> = fingerprint(&ground.sandbox.runs_dir()).paths().map(Path::to_owned).collect();
    assert_eq!(left, ["", "7", "7/results.json"].map(Path::new));
}

/// It is gone before the app's lock is free: the next run of this id may begin at once.
/// To see it fail: remove it after the unlock.
#[test]
fn it_is_gone_before_the_lock_is_free() {
    let ground = Ground::new();
    let sandbox = &ground.sandbox;
    // So much that its removal takes longer than the start of the next harness.
    let many = "cd \"$ABRA_DIR/recipes\" && seq 30000 | xargs touch && echo ready && exec sleep 60";
    let first = ground.run().teardown("none").sh(many).spawn();
    first.ready();
    let script = format!("ls -A '{}'", sandbox.runs_dir().display());
    let second = sandbox.run().app().args(["--teardown", "none", "--run-id", "8"]).sh(&script);
    let mut second = second.spawn();
    second.expect_stderr("waiting for app lock");
    first.signal(Signal::SIGTERM);
    second.expect_code(0);
    assert_eq!(second.stdout(), "");
}

/// The caller is killed, and with it perhaps its whole workspace: removed all the same.
/// To see it fail: remove it by the monitor after the supervisor's end only, and kill both callers' halves.
#[test]
fn it_is_removed_when_the_caller_is_killed() {
    let ground = Ground::new();
    let guard = ground.run().teardown("true").sh(&with_recipe("echo ready; exec sleep 60"));
    let caller = guard.called_by_shell().spawn();
    caller.ready();
    assert!(abra_of(&ground.sandbox, "7").is_dir());
    caller.signal(Signal::SIGKILL);
    ground.expect_removed_soon("after the caller's end");
    ground.sandbox.expect_over(SOON);
}

/// A run that never had the lock: its time was up, it was asked to stop, or killed while it waited.
/// To see it fail: leave a start that ends early without its clean end.
#[test]
fn a_run_that_never_began_leaves_none() {
    let ground = Ground::new();
    let holder = Holder::take(&ground.sandbox, &ground.sandbox.lock_path(APP));
    let waiting = || {
        let run = ground.run().teardown("none").harness(["echo", "started"]).default_signals().spawn();
        run.expect_stderr("waiting for app lock");
        assert!(abra_of(&ground.sandbox, "7").is_dir());
        run
    };
    for limit in ["0s", "200ms"] {
        let out = ground.run().teardown("none").args(["--lock-timeout", limit]).harness(["echo", "started"]).output();
        assert_eq!((out.code(), out.text().as_str()), (75, ""), "{}", out.stderr);
        ground.expect_removed(&format!("lock timeout {limit}"));
    }
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let mut run = waiting();
        kill(run.monitor(), signal).unwrap();
        run.expect_code(code);
        ground.expect_removed(&format!("{signal} at the lock"));
    }
    // Nobody is there to remove it: gc is for that, once nobody has the app's lock who may be this run's harness.
    let run = waiting();
    run.signal(Signal::SIGKILL);
    expect_gone(&run);
    assert_eq!(ground.gc(&[]), "");
    holder.release();
    assert_eq!(ground.gc(&[]), format!("{}\n", abra_of(&ground.sandbox, "7").display()));
    ground.expect_removed("SIGKILL at the lock");
}

/// Asked for, it stays, and the last line says where; neither gc takes it, but one that is told to.
/// To see it fail: forget the mark's `kept`.
#[test]
fn it_is_kept_when_asked() {
    for (script, signal, code) in [("exit 0", false, 0), ("exit 7", false, 7), ("echo ready; exec sleep 60", true, 143)]
    {
        let ground = Ground::new();
        let guard = ground.run().arg("--keep-run-dir").teardown("true").sh(&with_recipe(script));
        let mut run = guard.spawn();
        if signal {
            run.ready();
            run.signal(Signal::SIGTERM);
        }
        run.expect_code(code);
        run.expect_eof(SOON);
        expect_kept(&ground, &run.stderr(), script);
        let state = fs::read_dir(ground.sandbox.state_dir()).unwrap().count();
        assert_eq!(state, 0, "the state is not kept");
        assert_eq!(ground.gc(&[]), "");
        assert!(abra_of(&ground.sandbox, "7/").is_dir());
        let abra = abra_of(&ground.sandbox, "7");
        assert_eq!(ground.gc(&["--kept", "--dry-run"]), format!("{}\n", abra.display()));
        assert!(abra.is_dir());
        if code == 0 {
            let out = ground.sandbox.plain().args(["abra-dir", "remove", "7"]).output();
            assert_eq!(out.code(), 0, "{}", out.stderr);
        } else {
            assert_eq!(ground.gc(&["--kept"]), format!("{}\n", abra.display()));
        }
        ground.expect_removed("the kept one");
    }
}

/// A command as teardown that fails, or does not end: what the harness had is kept to look at.
/// To see it fail: keep it by the exit status instead of the teardown's result.
#[test]
fn it_is_kept_when_the_teardown_failed() {
    let cases = [("exit 3", "failed", 70), ("exec sleep 60", "timeout", 70)];
    for (command, result, code) in cases {
        let ground = Ground::new();
        let guard = ground.run().teardown(command).args(["--teardown-on", "always", "--teardown-timeout", "1s"]);
        let out = guard.report().sh(&with_recipe("exit 0")).output();
        assert_eq!(out.code(), code, "{}", out.stderr);
        assert_eq!(ground.sandbox.report()["teardown"]["result"], result);
        expect_kept(&ground, &out.stderr, command);
        assert_eq!(ground.gc(&[]), "");
        // A new run of this id begins anew.
        end(start(auto(&ground.sandbox).args(["--run-id", "7"])).0);
        ground.expect_removed("after the next run");
    }
}

/// The automatic teardown leaves something of the app: kept. Its abra had the canonical ABRA_DIR all the while.
/// To see it fail: hand the run's own one to the teardown, or keep it only where the teardown failed.
#[test]
fn it_is_kept_when_the_teardown_left_something() {
    for stuck in [false, true] {
        let sandbox = Sandbox::new();
        let stubs = Stubs::new(&sandbox);
        let canonical = Canonical::new(&sandbox);
        stubs.deploy(APP);
        if stuck {
            // This abra does nothing: the app's file stays.
            stubs.says("app-remove", "exit 0");
        }
        let guard = stubs.run().args(["--abra-dir", "auto", "--run-id", "7"]).report();
        let mut run = guard.sh("echo abra $ABRA_DIR; echo ready; exec sleep 60").spawn();
        assert_eq!(run.expect_line("abra "), abra_of(&sandbox, "7").display().to_string());
        run.ready();
        run.signal(Signal::SIGTERM);
        run.expect_code(143);
        run.expect_eof(SOON);
        let of_abra: Vec<_> = stubs.calls().into_iter().filter(|call| call.program() == "abra").collect();
        assert_eq!(of_abra.len(), 4, "{of_abra:?}");
        for call in of_abra {
            assert_eq!(call.value("abra_dir"), canonical.path().display().to_string());
        }
        let result = sandbox.report()["teardown"]["result"].clone();
        if stuck {
            assert_eq!(result, "partial", "{}", run.stderr());
            let last = run.stderr().lines().last().unwrap_or_default().to_owned();
            let kept = format!("ABRA_DIR kept: {}", abra_of(&sandbox, "7").display());
            assert!(last.ends_with(&kept), "{}", run.stderr());
            assert!(abra_of(&sandbox, "7").join("recipes").is_dir());
        } else {
            assert_eq!(result, "ok", "{}", run.stderr());
            assert_eq!(run_ids(&sandbox), NONE, "{}", run.stderr());
        }
        assert!(canonical.servers().is_dir());
    }
}

/// A teardown command has the canonical one too, and the run's is there as long as it may look.
/// To see it fail: export the harness's environment to it.
#[test]
fn the_teardown_has_the_canonical_one() {
    let ground = Ground::new();
    let guard =
        ground.run().args(["--teardown-on", "always"]).teardown("echo has $ABRA_DIR; ls \"$CCCI_RUNS_DIR/7/abra\"");
    let out = guard.sh("exit 0").output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let line = format!("ccci-guard: teardown: has {}", ground.canonical.path().display());
    assert!(out.stderr.lines().any(|seen| seen == line), "{}", out.stderr);
    assert!(out.stderr.contains("teardown: recipes"), "{}", out.stderr);
    ground.expect_removed("after the teardown");
}

/// A harness that has changed it: links replaced by directories, links out of it, files nobody may write.
/// To see it fail: follow what is in it, or stop at the first thing that can't be opened.
#[test]
fn whatever_the_harness_made_of_it_is_removed() {
    let ground = Ground::new();
    let outside = ground.sandbox.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    let changes = [
        "rm \"$ABRA_DIR/servers\"; mkdir \"$ABRA_DIR/servers\"; : >\"$ABRA_DIR/servers/x\"",
        "rm -r \"$ABRA_DIR/recipes\"; ln -s \"$OUT\" \"$ABRA_DIR/recipes\"",
        "ln -s \"$OUT\" \"$ABRA_DIR/recipes/out\"; ln -s / \"$ABRA_DIR/recipes/root\"",
        "mkdir -p \"$ABRA_DIR/recipes/a/b\"; : >\"$ABRA_DIR/recipes/a/b/c\"; chmod 0 \"$ABRA_DIR/recipes/a/b\" \"$ABRA_DIR/recipes/a\"",
        "mkfifo \"$ABRA_DIR/recipes/fifo\"; ln -s nowhere \"$ABRA_DIR/dangling\"",
        "rm -rf \"$ABRA_DIR\"",
        "mkdir -p \"$ABRA_DIR/recipes/$(printf %0250d 1)/$(printf %0250d 2)/$(printf 'a\\nb\\377')\"",
    ];
    for change in changes {
        let guard = ground.run().teardown("none").env("OUT", &outside).sh(change);
        let out = guard.output();
        assert_eq!(out.code(), 0, "{change}: {}", out.stderr);
        ground.expect_removed(change);
        assert!(outside.join("precious").exists(), "{change}");
    }
    // Deeper than a path may be long, and than descriptors are many.
    let deep =
        "import os\nos.chdir(os.environ['ABRA_DIR'] + '/recipes')\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')";
    let few = ["/bin/sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"];
    let out = ground.run().teardown("none").under(few).harness([python(), "-c", deep]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    ground.expect_removed("1500 deep");
    // One that the harness has renamed is not where ours was, and what stands there now is not ours.
    let script = "mv \"$ABRA_DIR\" \"$ABRA_DIR.old\"; mkdir \"$ABRA_DIR\"; : >\"$ABRA_DIR/theirs\"";
    let out = ground.run().teardown("none").sh(script).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(exists(&abra_of(&ground.sandbox, "7").join("theirs")), "{}", out.stderr);
    ground.before.expect_same(&fingerprint(ground.canonical.path()));
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
