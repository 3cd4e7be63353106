//! What lies where the lock file should be: anything but a plain file of ours is refused and left as it is.

use crate::support::{APP, Guard, Sandbox, within};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// 125 in a moment, with the file named; nothing started.
#[track_caller]
fn refused(sandbox: &Sandbox, guard: Guard<'_>, words: &str) {
    let teardown = sandbox.teardown();
    let out = guard.harness(["touch", "started"]).output();
    assert_eq!(out.code(), 125, "{words}; {}", out.stderr);
    within("the refusal", out.exit.after, ..Duration::from_secs(10));
    let path = sandbox.lock_path(APP);
    assert!(out.stderr.contains(path.to_str().unwrap()), "{}", out.stderr);
    assert!(out.stderr.contains(words), "{words:?} not in {}", out.stderr);
    assert!(!sandbox.path("work/started").exists());
    teardown.expect_none();
    assert_eq!(sandbox.nothing_left(), Ok(()));
}

/// In each form, with a teardown that would be due always.
#[track_caller]
fn refused_in_both_forms(sandbox: &Sandbox, words: &str) {
    let teardown = sandbox.teardown();
    let run = sandbox.run().app().teardown(teardown.command()).args(["--teardown-on", "always"]);
    refused(sandbox, run, words);
    refused(sandbox, sandbox.exec().app(), words);
}

fn facts(path: &Path) -> (u64, u64, u32, i64, i64, Option<Vec<u8>>) {
    let file = fs::symlink_metadata(path).unwrap();
    let content = file.is_file().then(|| fs::read(path).unwrap());
    (file.ino(), file.nlink(), file.mode(), file.mtime(), file.mtime_nsec(), content)
}

/// A link to somebody's file would have that file locked, stamped and written to (CVE-2025-68146).
/// Seen failing with O_NOFOLLOW left out.
#[test]
fn a_symbolic_link() {
    let sandbox = Sandbox::new();
    let target = sandbox.path("target");
    fs::write(&target, "precious\n").unwrap();
    symlink(&target, sandbox.lock_path(APP)).unwrap();
    let before = facts(&target);
    refused_in_both_forms(&sandbox, "symbolic link");
    assert_eq!(facts(&target), before);
    assert_eq!(fs::read_link(sandbox.lock_path(APP)).unwrap(), target);

    // One that leads nowhere must not have its target made.
    fs::remove_file(sandbox.lock_path(APP)).unwrap();
    let nowhere = sandbox.path("nowhere");
    symlink(&nowhere, sandbox.lock_path(APP)).unwrap();
    refused_in_both_forms(&sandbox, "symbolic link");
    assert!(!nowhere.exists());
}

/// Seen failing with the links not counted.
#[test]
fn a_hard_link() {
    let sandbox = Sandbox::new();
    let target = sandbox.path("target");
    fs::write(&target, "precious\n").unwrap();
    fs::hard_link(&target, sandbox.lock_path(APP)).unwrap();
    let before = facts(&target);
    refused_in_both_forms(&sandbox, "link");
    assert_eq!(facts(&target), before);
}

/// Seen failing with EISDIR told as a fault of the lock directory.
#[test]
fn a_directory() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.lock_path(APP)).unwrap();
    fs::write(sandbox.lock_path(APP).join("inside"), "").unwrap();
    refused_in_both_forms(&sandbox, "directory");
    assert!(sandbox.lock_path(APP).join("inside").exists());
}

/// Opening a FIFO waits for its other end.
/// Seen failing with a FIFO accepted.
#[test]
fn a_fifo() {
    let sandbox = Sandbox::new();
    mkfifo(&sandbox.lock_path(APP), Mode::from_bits_truncate(0o600)).unwrap();
    let before = facts(&sandbox.lock_path(APP));
    refused_in_both_forms(&sandbox, "FIFO");
    assert_eq!(facts(&sandbox.lock_path(APP)), before);
}

/// Seen failing with ENXIO told as a fault of the lock directory.
#[test]
fn a_socket() {
    let sandbox = Sandbox::new();
    let listener = UnixListener::bind(sandbox.lock_path(APP)).unwrap();
    listener.set_nonblocking(true).unwrap();
    refused_in_both_forms(&sandbox, "socket");
    assert!(listener.accept().is_err(), "nobody connected");
}

/// A read-only file of ours, and one whose content is somebody's: opened, locked, given the line.
/// Fails with `File::open` and its O_RDONLY.
#[test]
fn a_plain_file_of_any_content_will_do() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.lock_path(APP), "left by the Python harness").unwrap();
    let inode = fs::metadata(sandbox.lock_path(APP)).unwrap().ino();
    let out = sandbox.run().app().args(["--teardown", "none"]).harness(["true"]).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let file = fs::metadata(sandbox.lock_path(APP)).unwrap();
    assert_eq!(file.ino(), inode, "the same file: others may hold or await it");
}

/// A run never removes a lock file: others may wait on it.
/// Seen failing with the file removed at the end.
#[test]
fn the_file_stays() {
    let sandbox = Sandbox::new();
    for guard in [sandbox.run().args(["--teardown", "none"]), sandbox.exec()] {
        assert_eq!(guard.app().harness(["true"]).output().code(), 0);
        assert!(sandbox.lock_path(APP).is_file());
    }
}

/// One bad file among two: none is kept, and the good one is free at once.
/// Fails with the first lock's description left in a process that lives on.
#[test]
fn all_or_none() {
    let sandbox = Sandbox::new();
    let other = "aaaa-0b52fe.ci.example.net";
    fs::create_dir(sandbox.lock_path(APP)).unwrap();
    let guard = sandbox.run().args(["--app", other, "--app", APP, "--teardown", "none"]);
    refused(&sandbox, guard, "directory");
    assert!(crate::support::lock_is_free(&sandbox.lock_path(other)));
}

/// Where the lock directory is a link, it is the directory that counts; where it is a file, it is none.
/// Seen failing with O_NOFOLLOW on the directory.
#[test]
fn the_lock_directory() {
    let sandbox = Sandbox::new();
    let link = sandbox.path("link");
    symlink(sandbox.lock_dir(), &link).unwrap();
    let guard = sandbox.run().app().args(["--teardown", "none"]).arg("--lock-dir").arg(&link);
    assert_eq!(guard.harness(["true"]).output().code(), 0);
    assert!(sandbox.lock_path(APP).is_file());

    let file = sandbox.path("file");
    fs::write(&file, "").unwrap();
    for bad in [file.clone(), "/dev/null".into(), sandbox.path("work/missing/locks")] {
        let guard = sandbox.run().app().args(["--teardown", "none"]).arg("--lock-dir").arg(&bad);
        let out = guard.harness(["touch", "started"]).output();
        assert_eq!(out.code(), 125, "{bad:?}; {}", out.stderr);
        assert!(out.stderr.contains(bad.to_str().unwrap()), "{bad:?}: {}", out.stderr);
        assert!(out.stderr.contains("CCCI_APP_LOCK_DIR"), "{bad:?}: {}", out.stderr);
        assert!(!sandbox.path("work/started").exists());
    }
}
