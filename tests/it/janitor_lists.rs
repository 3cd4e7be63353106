//! A list that could not be had, or isn't one: exit 69, nothing is reaped, nothing unlinked.

use crate::support::stubs::{Stubs, ZONE, stack_of};
use crate::support::{APP, Apps, Output, Sandbox, full, within};
use std::fs;
use std::time::Duration;

const OTHER: &str = "keyc-0b52fe.ci.example.net";
const STALE: &str = "a1-111111.ci.example.net";

/// No verdict, a sentence, and everything as it was.
#[track_caller]
fn expect_no_list(sandbox: &Sandbox, what: &str, out: &Output) {
    assert_eq!(out.code(), 69, "{what}: {}", out.stderr);
    assert_eq!(out.text(), "", "{what}");
    assert!(out.stderr.contains("nothing was touched"), "{what}: {:?}", out.stderr);
    assert!(!out.stderr.contains("panicked"), "{what}: {:?}", out.stderr);
    let files: Vec<_> = fs::read_dir(sandbox.lock_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, [format!("cc-ci-app-{STALE}.lock").as_str()], "{what}");
    sandbox.expect_nothing_left();
}

/// With a stale lock file, that must not be unlinked either: its app may be on the list that nobody has.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::write(sandbox.lock_path(STALE), "").unwrap();
    sandbox
}

/// Fails with a failed command taken for an empty list (the lock file is unlinked), and with its output used.
#[test]
fn a_list_command_that_fails_or_prints_no_text() {
    let sandbox = sandbox();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let listed = apps.list_cmd();
    for bad in [
        format!("{listed}; exit 1"),
        format!("{listed}; kill -KILL $$"),
        "/no/such/program".to_owned(),
        format!("{listed}; printf 'a\\000b\\n'"),
        format!("{listed}; printf '\\377\\n'"),
        "head -c 3000 /dev/zero".to_owned(),
    ] {
        let janitor = sandbox.plain().args(["janitor", "--zone", ZONE, "--list-cmd", &bad]);
        let out = janitor.teardown(apps.teardown()).output();
        expect_no_list(&sandbox, &bad, &out);
        assert!(apps.has(APP), "{bad}");
    }
    let out = sandbox.plain().args(["janitor", "--zone", ZONE, "--list-cmd", ""]).output();
    assert_eq!(out.code(), 2, "{}", out.stderr);
}

/// What a list command may do: no line end at the end, empty lines, the same name twice, words on stderr.
/// Fails with a name reaped twice.
#[test]
fn a_list_command_need_not_be_tidy() {
    let sandbox = sandbox();
    let apps = Apps::new(&sandbox);
    apps.add(APP);
    let teardown = format!("echo once >>'{}'; {}", sandbox.path("log").display(), apps.teardown());
    let list = format!("echo words >&2; {}; echo; {}; printf ''", apps.list_cmd(), apps.list_cmd());
    let out = sandbox.plain().args(["janitor", "--zone", ZONE, "--list-cmd", &list]).teardown(teardown).output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains(&format!("{APP}  reaped")), "{}", out.text());
    assert_eq!(fs::read_to_string(sandbox.path("log")).unwrap(), "once\n");
    let out = sandbox.plain().args(["janitor", "--zone", ZONE, "--dry-run", "--list-cmd", &format!("printf {APP}")]);
    assert!(out.output().text().contains(&format!("{APP}  would_reap")));
}

/// Fails with the limit of the list taken out. A minute long: only with the full counts.
#[test]
fn a_list_that_hangs_is_none_after_a_minute() {
    if !full() {
        println!("only with the full counts: the limit is a minute");
        return;
    }
    let sandbox = sandbox();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.says("service-ls", "sleep 300\n");
    for options in [&["--list-cmd", "setsid sleep 300 & sleep 300"][..], &[]] {
        // Longer than any guard's `output` waits.
        let mut janitor = stubs.janitor().args(options).spawn();
        let exit = janitor.wait(Duration::from_secs(90));
        within("the list", exit.after, Duration::from_secs(60)..Duration::from_secs(80));
        assert_eq!(exit.code, 69, "{}", janitor.stderr());
        assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
        assert!(sandbox.lock_path(STALE).exists());
        sandbox.expect_nothing_left();
    }
}

/// Each of the lists, in each way of not being one.
/// Fails with any of them taken for empty.
#[test]
fn docker_lists_that_are_none() {
    let sandbox = sandbox();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let failing = "echo Cannot connect to the Docker daemon >&2; exit 1\n";
    let lists = ["node", "service", "stack", "container", "network", "secret", "config", "volume"];
    let cases = lists.iter().map(|list| (format!("{list}-ls"), failing));
    let rubbish = "echo 'error: <html>502 Bad Gateway</html>'; exit 0\n";
    let cases = cases.chain([
        ("service-ls".to_owned(), rubbish),
        ("stack-ls".to_owned(), rubbish),
        ("service-ls".to_owned(), "echo '[]'; exit 0\n"),
        ("stack-ls".to_owned(), "echo '{\"Nom\":\"x\"}'; exit 0\n"),
        ("volume-ls".to_owned(), "printf 'a\\000b\\n'; exit 0\n"),
        ("network-ls".to_owned(), "printf '\\377\\n'; exit 0\n"),
        ("service-ls".to_owned(), "kill -KILL $$\n"),
    ]);
    for (key, says) in cases {
        stubs.says(&key, says);
        let what = format!("{key}: {says}");
        expect_no_list(&sandbox, &what, &stubs.janitor().output());
        assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0), "{what}");
        stubs.says(&key, "");
    }
    stubs.without("docker");
    let path = format!("{}:/usr/bin:/bin", sandbox.path("bin").display());
    let out = stubs.janitor().env("PATH", path).output();
    expect_no_list(&sandbox, "no docker", &out);
    assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
}

/// Docker fails after the lists were had, in the middle of a teardown: failed, and never a clean proof.
/// Fails with a list that could not be had taken for an empty one in the proof.
#[test]
fn docker_that_fails_later_is_no_proof() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.deploy(OTHER);
    let broken = sandbox.path("broken");
    let says = format!("[ ! -e '{}' ] || {{ echo no >&2; exit 1; }}\n", broken.display());
    stubs.says("volume-ls", &says);
    stubs.says("app-remove", &format!(": >'{}'\n", broken.display()));
    let out = stubs.janitor().args(["--jobs", "1"]).output();
    assert_eq!(out.code(), 1, "{}", out.stderr);
    for app in [APP, OTHER] {
        assert!(out.text().contains(&format!("{app}  failed  ")), "{}", out.text());
        assert!(sandbox.lock_path(app).exists(), "unlinked without a proof: {app}");
    }
}

/// Several nodes: a lock of this host says nothing of runs on another.
/// Fails with the nodes not counted.
#[test]
fn a_swarm_of_several_nodes_needs_a_word() {
    let sandbox = sandbox();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.nodes(2);
    let out = stubs.janitor().output();
    expect_no_list(&sandbox, "two nodes", &out);
    assert!(out.stderr.contains("--single-runner"), "{:?}", out.stderr);
    let out = stubs.reap(APP).output();
    assert_eq!(out.code(), 69, "{}", out.stderr);
    assert_eq!((stubs.left(APP).len(), stubs.removals().len()), (7, 0));
    for by_flag in [true, false] {
        let janitor = stubs.janitor().arg("--dry-run");
        let janitor = if by_flag { janitor.arg("--single-runner") } else { janitor.env("CCCI_SINGLE_RUNNER", "yes") };
        let out = janitor.output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        assert!(out.text().contains(&format!("{APP}  would_reap  ")), "{}", out.text());
    }
    let out = stubs.janitor().arg("--single-runner").output();
    assert!(out.text().contains(&format!("{APP}  reaped  ")), "{}", out.text());
}

/// A canonical directory that is named and can't be read is a list that could not be had.
/// Fails with it taken for an empty one (the lock files of its apps are unlinked).
#[test]
fn a_canonical_directory_that_is_missing() {
    let sandbox = sandbox();
    let stubs = Stubs::new(&sandbox);
    for bad in ["none", "work"] {
        let out = stubs.janitor().arg("--canonical-abra-dir").arg(sandbox.path(bad)).output();
        expect_no_list(&sandbox, bad, &out);
        assert!(out.stderr.contains(bad), "{:?}", out.stderr);
    }
}

/// What comes from each source alone: an `.env` file, a stack with a volume only, a stack with a service only.
/// Fails with one of the sources left out.
#[test]
fn every_source_counts_alone() {
    let sandbox = sandbox();
    let stubs = Stubs::new(&sandbox);
    stubs.add_env(APP);
    let kinds = ["container", "network", "secret", "config", "volume", "service"];
    for (n, kind) in kinds.iter().enumerate() {
        stubs.add(&format!("a{n}-0000{n}0_ci_example_net"), kind, &format!("one-{kind}"), false);
    }
    let out = stubs.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    let text = out.text();
    assert!(text.contains(&format!("{APP}  reaped  ")), "{text}");
    for (n, kind) in kinds.iter().enumerate() {
        let app = format!("a{n}-0000{n}0.ci.example.net");
        assert!(text.contains(&format!("{app}  reaped  ")), "{kind}: {text}");
        assert_eq!(stubs.left(&app), Vec::<String>::new(), "{kind}");
    }
    assert!(text.contains(&format!("{STALE}  stale_lock  ")), "{text}");
}

/// Another stack whose name has this one as its beginning is left alone.
/// Fails with objects chosen by the beginning of their names.
#[test]
fn a_stack_with_a_longer_name_is_left_alone() {
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    let longer = "immi-ad3e33_ci_example_net_2";
    stubs.add(longer, "volume", "immi-ad3e33_ci_example_net_2_data", false);
    stubs.add(longer, "service", "immi-ad3e33_ci_example_net_2_app", false);
    let out = stubs.janitor().output();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains(&format!("{APP}  reaped  ")), "{}", out.text());
    assert_eq!(stubs.left("immi-ad3e33.ci.example.net.2"), ["service", "volume"]);
}

/// abra cuts the names of stacks: a long domain's stack is found under the cut name, but only where one known
/// domain can claim it.
/// Fails with the cut name not looked at. Two claims are refused twice, by the list and by the teardown: fails with
/// both taken out.
#[test]
fn a_long_name_may_be_cut() {
    let long = "abcd-0a1b2c.a-very-long-zone-name-indeed.ci.example.net";
    let rival = "abcd-0a1b2c.a-very-long-zone-name-indeed.ci.example.org";
    let cut = &stack_of(long)[..45];
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    let janitor = || {
        let janitor = sandbox.plain().args(["janitor", "--run-app-re", r"[a-z0-9]{4}-[0-9a-f]{6}\..*"]);
        janitor.env("PATH", stubs.path()).output()
    };
    let there = || sandbox.path("stubs/swarm").join(cut).join("volume/data").exists();
    stubs.add(cut, "volume", "data", false);
    let out = janitor();
    assert_eq!((out.code(), out.text().as_str()), (0, "0 apps: nothing to do\n"), "nobody's: {}", out.stderr);
    stubs.add_env(long);
    stubs.add_env(rival);
    let out = janitor();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    for app in [long, rival] {
        assert!(out.text().contains(&format!("{app}  skipped  ")), "{}", out.text());
    }
    assert!(there());
    assert_eq!(stubs.removals(), Vec::<String>::new());
    fs::remove_file(stubs.env_file(rival)).unwrap();
    for app in [long, rival] {
        let _ = fs::remove_file(sandbox.lock_path(app));
    }
    let out = janitor();
    assert_eq!(out.code(), 0, "{}", out.stderr);
    assert!(out.text().contains(&format!("{long}  reaped  ")), "{}", out.text());
    assert!(!there() && !stubs.env_file(long).exists());
}

/// With a list and a command of one's own neither abra nor Docker is needed, nor in the way.
/// Fails with their programs looked for all the same: abra's directory is missing here, and docker broken.
#[test]
fn abra_and_docker_do_not_matter_where_others_do_their_work() {
    let sandbox = Sandbox::new();
    let (stubs, apps) = (Stubs::new(&sandbox), Apps::new(&sandbox));
    fs::remove_dir_all(stubs.abra_dir()).unwrap();
    for key in ["node-ls", "service-ls"] {
        stubs.says(key, "sleep 100\n");
    }
    for path in [stubs.path(), "/usr/bin:/bin".to_owned()] {
        apps.add(APP);
        let out = apps.janitor().env("PATH", path).output();
        assert_eq!(out.code(), 0, "{}", out.stderr);
        assert!(out.text().contains(&format!("{APP}  reaped  ")), "{}", out.text());
    }
    assert!(stubs.calls().is_empty(), "{:#?}", stubs.calls());
}
