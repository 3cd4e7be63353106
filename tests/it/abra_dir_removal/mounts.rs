//! File systems mounted below an ABRA_DIR that is to be removed: each test has a mount namespace of its own.

use super::{ID, Trap};
use crate::abra_dir_commands::stage::{dead_run, expect};
use crate::support::{Guard, Sandbox, fingerprint, need};
use nix::unistd::geteuid;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// unshare(1) for a mount namespace of its own, as root or as anybody.
fn unshare() -> &'static str {
    if geteuid().is_root() { "unshare -m --propagation private" } else { "unshare -Urm --propagation private" }
}

fn can_mount() -> bool {
    let done = std::process::Command::new("sh").args(["-c", &format!("{} true", unshare())]).output();
    need("mount namespaces (unshare -m)", done.is_ok_and(|o| o.status.success()))
}

/// A guard in a mount namespace in which `from` is mounted on `to`.
fn under_mount<'a>(sandbox: &'a Sandbox, from: &Path, to: &Path) -> Guard<'a> {
    let script = "from=$1 to=$2; shift 2; mount --bind \"$from\" \"$to\" && exec \"$@\"";
    let words = unshare().split(' ').chain(["sh", "-c", script, "sh"]).map(OsStr::new);
    sandbox.plain().under(words.chain([from.as_os_str(), to.as_os_str()]))
}

/// A bind mount has the device of what it shows, so only the kernel's mount ids tell it: nothing at all is removed.
/// Seen failing with devices compared instead.
#[test]
fn a_mount_below_stops_the_removal_before_it_begins() {
    if !can_mount() {
        return;
    }
    let (canonical, env) = (PathBuf::new(), Path::new("servers/ci.example.net/immi-ad3e33.ci.example.net.env"));
    let mounts: [(&str, PathBuf); 8] = [
        ("recipes", canonical.join("recipes")),
        ("recipes/immich", canonical.join("recipes/immich")),
        ("recipes/a/b/c", canonical.join("servers")),
        ("recipes/with a blank/and\na line", canonical.join("servers")),
        ("recipes/\\040", canonical.join("servers")),
        ("servers", canonical.join("servers")),
        ("recipes/file", env.to_owned()),
        (".ccci-guard/fetch-1/home", canonical.join("servers")),
    ];
    for (to, from) in mounts {
        let trap = Trap::new();
        let (from, to) = (trap.canonical.path().join(from), trap.abra.join(to));
        if to.ends_with("servers") {
            fs::remove_file(&to).unwrap();
        }
        if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
        } else {
            fs::write(&to, "").unwrap();
        }
        let all = fingerprint(&trap.sandbox.path("runs"));
        for id in [ID, "1190/"] {
            let out = under_mount(&trap.sandbox, &from, &to).args(["abra-dir", "remove", id]).output();
            assert_eq!(out.code(), 1, "{to:?}: {}", out.stderr);
            assert_eq!(out.stderr.lines().count(), 1, "{to:?}: {}", out.stderr);
            assert!(out.stderr.contains("mount"), "{to:?}: {}", out.stderr);
            all.expect_same(&fingerprint(&trap.sandbox.path("runs")));
            trap.canonical_is_untouched();
        }
        trap.is_removed_as(ID, "the mount is gone");
    }
}

/// One that can't be removed keeps gc from no other; and it goes once it can.
/// Seen failing with gc ended by its first fault, and with mounts not looked for.
#[test]
fn gc_leaves_a_dead_one_with_a_mount_and_goes_on() {
    if !can_mount() {
        return;
    }
    let trap = Trap::new();
    let dead = ["a-dead", "b-dead", "c-dead"].map(|id| dead_run(&trap.sandbox, id));
    let point = dead[1].join("recipes/immich");
    fs::create_dir(&point).unwrap();
    let out = under_mount(&trap.sandbox, &trap.canonical.servers(), &point).args(["abra-dir", "gc"]).output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    let mut gone: Vec<_> = out.text().lines().map(PathBuf::from).collect();
    gone.sort();
    assert_eq!(gone, [&dead[0], &dead[2]].map(PathBuf::clone), "{}", out.stderr);
    assert!(out.stderr.contains(dead[1].to_str().unwrap()), "{}", out.stderr);
    assert!(!dead[0].exists() && dead[1].join("servers").is_symlink() && !dead[2].exists());
    assert_eq!(expect(&trap.sandbox, 0, &["gc"]).text(), format!("{}\n", dead[1].display()));
    trap.is_removed_as(ID, "what `create` made");
}

/// A mount that only others see is taken off by the kernel with the directory under it; what it shows stays.
/// Fails with nothing that we know of: it holds the kernel (since 3.19) to its word.
#[test]
fn a_mount_that_others_see_loses_no_file() {
    if !can_mount() {
        return;
    }
    let trap = Trap::new();
    let point = trap.recipes().join("immich");
    fs::create_dir(&point).unwrap();
    let script = format!(
        "exec {} sh -c 'mount --bind \"{}\" \"{}\" && echo ready && read x'",
        unshare(),
        trap.canonical.servers().display(),
        point.display()
    );
    let mut command = trap.sandbox.command("/bin/sh");
    command.args(["-c", &script]).stdin(Stdio::piped());
    let mut other = trap.sandbox.spawn(command);
    other.ready();
    trap.is_removed_as(ID, "mounted elsewhere");
    drop(other.stdin());
    other.code();
}
