//! An environment that somebody else has made: a `PATH` that leads into the checkout, variables of the loader, of git and
//! of docker.

use crate::support::stubs::Stubs;
use crate::support::{APP, Sandbox};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A program in the working directory that says that it was run.
fn bring(sandbox: &Sandbox, name: &str) {
    fs::write(sandbox.path("work").join(name), format!("#!/bin/sh\necho {name} >>'{}'\n", taken_in(sandbox))).unwrap();
    fs::set_permissions(sandbox.path("work").join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

fn taken_in(sandbox: &Sandbox) -> String {
    sandbox.path("taken-in").display().to_string()
}

/// The checkout of a pull request is the working directory. What it has in it is not run as the host's abra, docker or
/// git, though it comes first; COMMAND is looked for as the shell would.
/// Seen failing with all elements of PATH counted for all programs.
#[test]
fn a_path_that_leads_into_the_checkout() {
    for element in ["", ".", "./", "bin/.."] {
        let sandbox = Sandbox::new();
        let stubs = Stubs::new(&sandbox);
        stubs.deploy(APP);
        for name in ["abra", "docker", "git", "my-harness"] {
            bring(&sandbox, name);
        }
        fs::create_dir(sandbox.path("work/bin")).unwrap();
        let path = format!("{element}:{}", stubs.path());

        let mut guard = stubs.run().env("PATH", &path).report().fixture("print-signals TERM=0").spawn();
        guard.ready();
        guard.signal(Signal::SIGTERM);
        guard.expect_code(143);
        assert_eq!(sandbox.report()["teardown"]["result"], "ok", "{element:?}: {}", guard.stderr());
        assert_eq!(stubs.left(APP), Vec::<String>::new(), "{element:?}");
        stubs.deploy(APP);
        let out = stubs.janitor().env("PATH", &path).output();
        assert_eq!(out.code(), 0, "{element:?}: {}", out.stderr);
        let step = stubs.run().env("PATH", &path).args(["--teardown-step", "my-harness {app}"]).harness(["true"]);
        assert_eq!(step.output().code(), 125, "{element:?}: a step that only the checkout has");
        let canonical = sandbox.path("home/.abra/recipes/immich");
        fs::create_dir_all(&canonical).unwrap();
        let create = sandbox.plain().args(["abra-dir", "create", "--run-id", "r", "--recipe", "immich"]);
        assert_ne!(create.env("PATH", &path).output().code(), 0, "no repository");
        assert!(!sandbox.path("taken-in").exists(), "{element:?}: {:?}", fs::read_to_string(sandbox.path("taken-in")));

        let out = sandbox.run().env("PATH", &path).harness(["my-harness"]).output();
        assert_eq!(out.code(), 0, "{element:?}: {}", out.stderr);
        assert_eq!(fs::read_to_string(sandbox.path("taken-in")).unwrap(), "my-harness\n");
    }
}

/// They are the caller's, whose rights are ours: they go on to the harness and to docker as they are, and disturb nothing.
/// Fails with one of them removed, or with what the loader says about the library taken for Docker's answer.
#[test]
fn variables_of_the_loader_and_of_docker_go_through() {
    let hostile = [
        ("LD_PRELOAD", "/no/such.so"),
        ("LD_LIBRARY_PATH", "/no:/such"),
        ("LD_BIND_NOW", "1"),
        ("GCONV_PATH", "."),
        ("MALLOC_PERTURB_", "7"),
        ("BASH_ENV", "/no/such"),
        ("ENV", "/no/such"),
        ("GIT_DIR", "/no/such"),
        ("DOCKER_HOST", "unix:///no/such"),
        ("DOCKER_CONFIG", "/no/such"),
        ("CCCI_UNKNOWN", "x"),
    ];
    let sandbox = Sandbox::new();
    let stubs = Stubs::new(&sandbox);
    stubs.deploy(APP);
    stubs.says("volume-ls", "env >\"$S/seen\"\n");
    let mut guard = stubs.run().report();
    for (name, value) in hostile {
        guard = guard.env(name, value);
    }
    let mut guard = guard.sh("env; echo ready; exec sleep 60").spawn();
    guard.ready();
    guard.signal(Signal::SIGTERM);
    guard.expect_code(143);
    assert_eq!(sandbox.report()["teardown"]["result"], "ok", "{}", guard.stderr());
    assert_eq!(stubs.left(APP), Vec::<String>::new());
    let docker = fs::read_to_string(sandbox.path("stubs/seen")).unwrap();
    for (name, value) in hostile {
        let line = format!("{name}={value}");
        assert!(guard.stdout().lines().any(|seen| seen == line), "the harness: {line}");
        assert!(docker.lines().any(|seen| seen == line), "docker: {line}");
    }
}
