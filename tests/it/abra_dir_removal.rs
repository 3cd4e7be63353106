//! Removal of an ABRA_DIR in which somebody left traps: the canonical one keeps every file as it was.

mod mounts;

use crate::abra_dir_commands::stage::{abra_dir, below, dead_run, expect};
use crate::support::*;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, fchownat, geteuid, linkat, mkfifo};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

const ID: &str = "1190";
const RECIPE: &str = "immich";
const NOBODY: u32 = 65534;

/// A canonical ABRA_DIR with a recipe, a run's beside it, and what the first looked like.
struct Trap {
    sandbox: Sandbox,
    canonical: Canonical,
    before: Fingerprint,
    abra: PathBuf,
}

impl Trap {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let canonical = Canonical::new(&sandbox);
        canonical.add_recipe(RECIPE);
        let (before, abra) = (fingerprint(canonical.path()), sandbox.runs_dir().join(ID).join("abra"));
        expect(&sandbox, 0, &["create", "--run-id", ID]);
        Self { sandbox, canonical, before, abra }
    }

    /// One whose runs directory, ABRA_DIR and guard are nobody's. `None` without root.
    fn of_nobody() -> Option<Self> {
        if !need("root, to become somebody else", geteuid().is_root()) {
            return None;
        }
        let trap = Self::new();
        expect(&trap.sandbox, 0, &["remove", ID]);
        fs::set_permissions(trap.sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        copy_program(GUARD, trap.sandbox.path("ccci-guard"));
        give(&trap.sandbox.runs_dir());
        let out = trap.as_nobody(&["create", "--run-id", ID]);
        assert_eq!(out.code(), 0, "{}", out.stderr);
        Some(trap)
    }

    fn as_nobody(&self, args: &[&str]) -> Output {
        let guard = self.sandbox.plain().program(self.sandbox.path("ccci-guard")).user(NOBODY, NOBODY);
        guard.arg("abra-dir").args(args).output()
    }

    fn recipes(&self) -> PathBuf {
        self.abra.join("recipes")
    }

    #[track_caller]
    fn canonical_is_untouched(&self) {
        self.before.expect_same(&fingerprint(self.canonical.path()));
    }

    /// It is removed, with all that lies in it, and nothing else.
    #[track_caller]
    fn is_removed_as(&self, id: &str, what: &str) {
        let out = expect(
            &self.sandbox,
            0,
            &["remove", id, "--runs-dir", &format!("{}//", self.sandbox.runs_dir().display())],
        );
        assert_eq!(out.stderr, "", "{what}");
        assert_eq!(below(&self.sandbox.runs_dir()), [""; 0], "{what}");
        self.canonical_is_untouched();
    }

    /// `remove`, and gc, leave everything as it is; `remove` says why in one sentence.
    #[track_caller]
    fn is_refused(&self, id: &str, what: &str) {
        let all = fingerprint(&self.sandbox.path(""));
        for id in [id.to_owned(), format!("{id}/")] {
            let out = expect(&self.sandbox, 1, &["remove", &id]);
            assert_eq!(out.stderr.lines().count(), 1, "{what}: {}", out.stderr);
            all.expect_same(&fingerprint(&self.sandbox.path("")));
        }
        for gc in [&["gc"][..], &["gc", "--kept"]] {
            assert_eq!(abra_dir(&self.sandbox, gc).text(), "", "{what}");
            all.expect_same(&fingerprint(&self.sandbox.path("")));
        }
    }
}

/// Links at every place where one could be followed: they go, what they lead to stays.
/// Seen failing with the type of what a link leads to. `rm -rf` of an entry with a slash behind it has once emptied a
/// canonical directory.
#[test]
fn links_are_unlinked_and_never_followed() {
    type Setting = fn(&Trap);
    let settings: [(&str, Setting); 9] = [
        ("as it is made", |_| {}),
        ("servers is a directory, with all that the canonical one has", |t| {
            fs::remove_file(t.abra.join("servers")).unwrap();
            copy_tree(&t.canonical.servers(), &t.abra.join("servers"));
        }),
        ("servers is a directory of links", |t| {
            fs::remove_file(t.abra.join("servers")).unwrap();
            fs::create_dir(t.abra.join("servers")).unwrap();
            symlink(t.canonical.servers().join("ci.example.net"), t.abra.join("servers/ci.example.net")).unwrap();
        }),
        ("recipes is a link to the canonical one", |t| {
            fs::remove_dir(t.recipes()).unwrap();
            symlink(t.canonical.path().join("recipes"), t.recipes()).unwrap();
        }),
        ("a recipe is a link to the canonical one", |t| {
            symlink(t.canonical.recipe_path(RECIPE), t.recipes().join(RECIPE)).unwrap();
        }),
        ("a link deep in a recipe", |t| {
            fs::create_dir_all(t.recipes().join("a/b/.git")).unwrap();
            symlink(t.canonical.path(), t.recipes().join("a/b/.git/objects")).unwrap();
        }),
        ("links in our own place", |t| {
            let ours = t.abra.join(".ccci-guard");
            let _ = fs::remove_dir_all(ours.join("recipes"));
            for name in ["recipes", "fetch-1", "fetch-2", "x"] {
                symlink(t.canonical.path().join("recipes"), ours.join(name)).unwrap();
            }
        }),
        ("links to nowhere, to themselves, up and to all", |t| {
            for (name, target) in
                [("nowhere", "/no/such"), ("self", "self"), ("up", ".."), ("all", "/"), ("there", "../../..")]
            {
                symlink(target, t.recipes().join(name)).unwrap();
            }
        }),
        ("a FIFO and a socket", |t| {
            mkfifo(&t.recipes().join("fifo"), Mode::S_IRWXU).unwrap();
            drop(UnixListener::bind(t.recipes().join("socket")).unwrap());
        }),
    ];
    for (n, (what, set)) in settings.into_iter().enumerate() {
        let trap = Trap::new();
        set(&trap);
        trap.is_removed_as(if n % 2 == 0 { "1190/" } else { ID }, what);
    }
}

/// Where our own mark is not in our own directory below the runs directory, nothing is removed.
/// Seen failing with directories opened through links.
#[test]
fn a_link_in_the_way_is_refused() {
    type Setting = fn(&Trap) -> &'static str;
    let settings: [(&str, Setting); 8] = [
        ("abra is a link to another run's", |t| {
            fs::create_dir(t.sandbox.runs_dir().join("alias")).unwrap();
            symlink(&t.abra, t.sandbox.runs_dir().join("alias/abra")).unwrap();
            "alias"
        }),
        ("abra is a link to the canonical one, which has a mark", |t| {
            copy_tree(&t.abra.join(".ccci-guard"), &t.canonical.path().join(".ccci-guard"));
            fs::create_dir(t.sandbox.runs_dir().join("alias")).unwrap();
            symlink(t.canonical.path(), t.sandbox.runs_dir().join("alias/abra")).unwrap();
            "alias"
        }),
        ("the run's directory is a link to another's", |t| {
            symlink(ID, t.sandbox.runs_dir().join("alias")).unwrap();
            "alias"
        }),
        ("the run's directory was moved elsewhere", |t| {
            fs::rename(t.abra.parent().unwrap(), t.sandbox.path("elsewhere")).unwrap();
            symlink("../elsewhere", t.abra.parent().unwrap()).unwrap();
            ID
        }),
        ("our place is a link", |t| {
            fs::rename(t.abra.join(".ccci-guard"), t.sandbox.path("elsewhere")).unwrap();
            symlink(t.sandbox.path("elsewhere"), t.abra.join(".ccci-guard")).unwrap();
            ID
        }),
        ("the mark is a link", |t| {
            fs::rename(t.abra.join(".ccci-guard/mark"), t.sandbox.path("elsewhere")).unwrap();
            symlink(t.sandbox.path("elsewhere"), t.abra.join(".ccci-guard/mark")).unwrap();
            ID
        }),
        ("the mark is a FIFO", |t| {
            fs::remove_file(t.abra.join(".ccci-guard/mark")).unwrap();
            mkfifo(&t.abra.join(".ccci-guard/mark"), Mode::S_IRWXU).unwrap();
            ID
        }),
        ("the mark is a directory", |t| {
            fs::remove_file(t.abra.join(".ccci-guard/mark")).unwrap();
            fs::create_dir(t.abra.join(".ccci-guard/mark")).unwrap();
            ID
        }),
    ];
    for (what, set) in settings {
        let trap = Trap::new();
        let id = set(&trap);
        trap.is_refused(id, what);
    }
}

/// Dead runs behind a link are somebody else's affair, for gc too.
/// Seen failing with directories opened through links.
#[test]
fn gc_follows_no_link_to_a_dead_run() {
    let trap = Trap::new();
    let dead = dead_run(&trap.sandbox, "dead");
    fs::rename(dead.parent().unwrap(), trap.sandbox.path("elsewhere")).unwrap();
    symlink("../elsewhere", dead.parent().unwrap()).unwrap();
    let moved = fingerprint(&trap.sandbox.path("elsewhere"));
    assert_eq!(abra_dir(&trap.sandbox, ["gc"]).text(), "");
    moved.expect_same(&fingerprint(&trap.sandbox.path("elsewhere")));
    trap.canonical_is_untouched();
}

/// Names of all bytes, and a tree deeper than a path may be long or a process may have descriptors.
/// Seen failing with a removal by path (`File name too long`), and with a descriptor held for each level.
#[test]
fn any_name_and_any_depth() {
    let trap = Trap::new();
    let long = vec![b'x'; 255];
    for name in [b"new\nline".as_slice(), b"\xff\xfe", b"-rf", b" ", b"*", b"..x", b"\\", b"$(touch pwned)", &long] {
        let directory = trap.recipes().join(OsStr::from_bytes(name));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(OsStr::from_bytes(name)), "").unwrap();
        symlink(trap.canonical.servers(), directory.join("link")).unwrap();
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = std::os::fd::OwnedFd::from(File::open(trap.recipes()).unwrap());
    for _ in 0..1500 {
        mkdirat(&at, "a-name-of-20-letters", Mode::S_IRWXU).unwrap();
        at = openat(&at, "a-name-of-20-letters", flags, Mode::empty()).unwrap();
    }
    nix::unistd::symlinkat(&trap.canonical.servers(), &at, "link").unwrap();
    let guard = trap.sandbox.plain().under(["/bin/sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"]);
    let out = guard.args(["abra-dir", "remove", ID]).output();
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    assert_eq!(below(&trap.sandbox.runs_dir()), [""; 0]);
    trap.canonical_is_untouched();
}

/// The canonical's own files by another name (a hard link): the name goes, and no mode of theirs is changed for it.
/// Seen failing with a chmod of each file before it is removed.
#[test]
fn a_hard_link_costs_the_canonical_nothing() {
    let trap = Trap::new();
    let env = trap.canonical.add_env("ci.example.net", "read-only.ci.example.net");
    fs::set_permissions(&env, fs::Permissions::from_mode(0o400)).unwrap();
    linkat(nix::fcntl::AT_FDCWD, &env, nix::fcntl::AT_FDCWD, &trap.recipes().join("linked"), AtFlags::empty()).unwrap();
    let modified = fs::metadata(&env).unwrap().modified().unwrap();
    expect(&trap.sandbox, 0, &["remove", ID]);
    let now = fs::metadata(&env).unwrap();
    assert_eq!((now.permissions().mode() & 0o7777, now.modified().unwrap()), (0o400, modified));
    assert_eq!(fs::read_to_string(&env).unwrap(), "TYPE=immich\n");
}

fn give(path: &Path) {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    fchownat(nix::fcntl::AT_FDCWD, path, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).unwrap();
}

/// Read-only and closed directories are no hindrance to their owner (git's object files are read-only).
/// Seen failing with the directories' modes left as they are, and with a chmod only after they are open.
#[test]
fn read_only_files_and_directories_go_too() {
    let Some(trap) = Trap::of_nobody() else {
        return;
    };
    for (bits, name) in [(0o555, "a"), (0o500, "b"), (0o000, "c"), (0o111, "d"), (0o444, "e")] {
        let directory = trap.recipes().join(name);
        fs::create_dir_all(directory.join("inner")).unwrap();
        fs::write(directory.join("inner/file"), "").unwrap();
        symlink(trap.canonical.servers(), directory.join("link")).unwrap();
        for (path, bits) in [("inner/file", bits & 0o444), ("inner", bits), ("", bits)] {
            fs::set_permissions(directory.join(path), fs::Permissions::from_mode(bits)).unwrap();
            give(&directory.join(path));
        }
    }
    let out = trap.as_nobody(&["remove", ID]);
    assert_eq!((out.code(), out.stderr.as_str()), (0, ""));
    assert_eq!(below(&trap.sandbox.runs_dir()), [""; 0]);
    trap.canonical_is_untouched();
}

/// What another user left in it can't be removed: a sentence, status 1; somebody who can finishes it with gc or remove.
/// Seen failing with a sentence that names the ABRA_DIR only.
#[test]
fn what_can_t_be_removed_is_told_and_not_lost() {
    let Some(trap) = Trap::of_nobody() else {
        return;
    };
    fs::create_dir(trap.recipes().join("roots")).unwrap();
    fs::write(trap.recipes().join("roots/file"), "").unwrap();
    let out = trap.as_nobody(&["remove", ID]);
    assert_eq!(out.code(), 1, "{}", out.stderr);
    assert!(out.stderr.contains("roots") && out.stderr.lines().count() == 1, "{}", out.stderr);
    expect(&trap.sandbox, 0, &["gc"]);
    assert!(matches!(abra_dir(&trap.sandbox, ["remove", ID]).code(), 0 | 66));
    let left = below(&trap.sandbox.runs_dir());
    assert!(left.is_empty() || left == [ID], "{left:?}");
    trap.canonical_is_untouched();
}

/// Directories become links to the canonical ABRA_DIR, and directories again, each just when its turn has come: whatever
/// was seen of it before the step down doesn't count.
/// Seen failing with children opened without O_NOFOLLOW, after a look that they are directories.
#[test]
fn directories_that_turn_into_links_on_the_way() {
    const VICTIMS: usize = 300;
    for _ in 0..rounds(30) {
        let trap = Trap::new();
        let links = trap.sandbox.path("links");
        fs::create_dir(&links).unwrap();
        let names: Vec<_> = (0..VICTIMS).map(|n| format!("victim-{n:03}")).collect();
        for name in &names {
            fs::create_dir(trap.recipes().join(name)).unwrap();
            symlink(trap.canonical.path(), links.join(name)).unwrap();
        }
        // By descriptors: the removal may first rename what is above.
        let (recipes, links) = (File::open(trap.recipes()).unwrap(), File::open(&links).unwrap());
        let swap = |name: &str| renameat2(&recipes, name, &links, name, RenameFlags::RENAME_EXCHANGE).is_ok();
        let turns = std::thread::scope(|scope| {
            // What turns at the wrong moment ends a removal with 1: gc takes it up where it was.
            let removal = scope.spawn(|| {
                let mut code = abra_dir(&trap.sandbox, ["remove", "1190/"]).code();
                while code == 1 {
                    code = abra_dir(&trap.sandbox, ["gc"]).code();
                }
                assert_eq!(code, 0);
            });
            let mut turns = 0;
            for name in &names {
                // Until it is gone, or the removal has given up.
                while !removal.is_finished() && swap(name) {
                    turns += 1;
                }
            }
            removal.join().unwrap();
            turns
        });
        assert!(turns > 0, "nothing was swapped: this shows nothing");
        trap.canonical_is_untouched();
        expect(&trap.sandbox, 0, &["gc"]);
        assert!(matches!(abra_dir(&trap.sandbox, ["remove", ID]).code(), 0 | 66));
        trap.canonical_is_untouched();
    }
}
