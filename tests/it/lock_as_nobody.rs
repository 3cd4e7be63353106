//! Runs as a plain user: what a lock directory may hold for it, and the helper that became root.

use crate::support::{APP, Guard, NOBODY, SOON, Sandbox, alive, copy_program, eventually, for_nobody, need, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, chown};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const STRANGER: u32 = 65533;

pub fn give(path: &Path, uid: u32) {
    chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).unwrap();
}

pub fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn as_nobody(sandbox: &Sandbox) -> Guard<'_> {
    let guard = sandbox.run().program(sandbox.path("bin/ccci-guard")).user(NOBODY, NOBODY);
    guard.app().env("CCCI_TEARDOWN", "none")
}

/// Seen failing with the owner not looked at.
#[test]
fn a_foreign_lock_file_is_refused_to_a_plain_user() {
    let Some((sandbox, _)) = for_nobody() else {
        return;
    };
    let lock = sandbox.lock_path(APP);
    for bits in [0o600, 0o666] {
        fs::write(&lock, "theirs\n").unwrap();
        give(&lock, STRANGER);
        mode(&lock, bits);
        let out = as_nobody(&sandbox).harness(["touch", "started"]).output();
        assert_eq!(out.code(), 125, "{bits:o}; {}", out.stderr);
        assert!(out.stderr.contains(lock.to_str().unwrap()), "{}", out.stderr);
        assert_eq!(fs::read_to_string(&lock).unwrap(), "theirs\n");
        assert!(!sandbox.path("work/started").exists());
        fs::remove_file(&lock).unwrap();
    }
}

/// Root's file is as good as one's own, if it may be opened at all.
/// Seen failing with only the own uid allowed.
#[test]
fn root_s_lock_file_is_good_for_everybody() {
    let Some((sandbox, _)) = for_nobody() else {
        return;
    };
    let lock = sandbox.lock_path(APP);
    fs::write(&lock, "").unwrap();
    mode(&lock, 0o666);
    let out = as_nobody(&sandbox).harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
}

/// Root takes any owner's, also in a sticky directory where the kernel denies it O_CREAT
/// (fs.protected_regular, proc_sys_fs(5)).
/// Fails with O_CREAT in the first open.
#[test]
fn root_accepts_any_owner() {
    let Some((sandbox, _)) = for_nobody() else {
        return;
    };
    let lock = sandbox.lock_path(APP);
    give(&sandbox.lock_dir(), 0);
    mode(&sandbox.lock_dir(), 0o1777);
    fs::write(&lock, "").unwrap();
    give(&lock, NOBODY);
    mode(&lock, 0o600);
    let out = sandbox.run().app().args(["--teardown", "none"]).harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    // And the other way round they exclude each other: one file, two users.
    let holder = as_nobody(&sandbox).sh("echo ready; sleep 60").spawn();
    holder.ready();
    let root = sandbox.run().app().args(["--teardown", "none", "--lock-timeout", "0s"]);
    assert_eq!(root.harness(["true"]).output().code(), 75);
}

/// Fails with the bare `Permission denied`.
#[test]
fn a_directory_that_can_t_be_written_to_names_the_variable() {
    let Some((sandbox, _)) = for_nobody() else {
        return;
    };
    give(&sandbox.lock_dir(), 0);
    mode(&sandbox.lock_dir(), 0o755);
    let out = as_nobody(&sandbox).harness(["touch", "started"]).output();
    assert_eq!(out.code(), 125);
    assert!(out.stderr.contains("CCCI_APP_LOCK_DIR"), "{}", out.stderr);
    assert!(out.stderr.contains(sandbox.lock_dir().to_str().unwrap()), "{}", out.stderr);
    assert!(!sandbox.path("work/started").exists());
}

/// A set-uid helper became root: nobody's guard can't end it. It says so, and does not wait for ever.
/// Seen failing with survivors without a part in the status.
#[test]
fn a_child_that_became_root_is_named_and_not_waited_for() {
    let Some((sandbox, fixture)) = for_nobody() else {
        return;
    };
    let helper = sandbox.path("bin/root-helper");
    copy_program(&fixture, &helper);
    mode(&helper, 0o4755);
    for (harness, code) in [("exit 0", 70), ("exit 7", 7)] {
        let guard = as_nobody(&sandbox).arg("--report").arg(sandbox.path("work/report.json"));
        let script = format!("'{}' become-root & read x <helper; {harness}", helper.display());
        let script = format!("mkfifo helper; {}", script.replace("become-root", "become-root >helper"));
        let guard = guard.sh(&script).spawn();
        let mut guard = guard;
        let exit = guard.wait(SOON);
        let survivor = guard.tree().into_iter().find(|p| p.name == "root-helper").expect("the helper lives");
        let uid = fs::read_to_string(format!("/proc/{}/status", survivor.pid)).unwrap();
        let _killed_at_the_end = KillOnDrop(survivor.pid);
        if !need("set-uid programs (no nosuid, no no_new_privs)", uid.contains("Uid:\t0\t0\t0")) {
            return;
        }
        assert_eq!(exit.code, code, "{}", guard.stderr());
        // TERM and CONT, 2 s; KILL, 5 s; then go on.
        within("the end", exit.after, Duration::from_millis(4900)..SOON);
        let words = format!("{} (root-helper)", survivor.pid);
        assert!(guard.stderr().contains(&words), "{words:?} not in {}", guard.stderr());
        let report = fs::read_to_string(sandbox.path("work/report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["exit_code"], code);
        let named = report["survivors_unkillable"].as_array().unwrap();
        assert_eq!(named.len(), 1, "{report}");
        assert!(named[0].to_string().contains(&survivor.pid.to_string()), "{report}");
        assert!(sandbox.lock_is_free(), "the lock does not stay with it");
        fs::remove_file(sandbox.path("work/helper")).unwrap();
    }
}

/// The helper is root's: the sandbox, run by root, can end it.
struct KillOnDrop(Pid);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        eventually(SOON, "the helper's end", || if alive(self.0) { Err("alive") } else { Ok(()) });
    }
}
