//! Everything of an app goes, and nothing else: each kind of object, a slow container, half-removed stacks; what
//! can't go is named.

use crate::stack::{SMALL, Stack, WHOLE};
use crate::support::*;
use crate::swarm::{Swarm, only, report};
use std::time::Duration;

/// The external network of `WHOLE`; goes with the value.
struct Outside<'a>(&'a Swarm, String);

impl<'a> Outside<'a> {
    #[track_caller]
    fn new(swarm: &'a Swarm) -> Self {
        let name = Stack::new(swarm, "none").external_network();
        swarm.docker(&["network", "create", "--driver", "overlay", &name]);
        Self(swarm, name)
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_docker(&["network", "rm", &self.1]);
    }
}

/// Mission case 5 and 9: an orphan with one of each kind and a container that takes 10 s to stop; no lock file was
/// there. `reap` comes back when all is gone, not before; the neighbour whose name starts with this one's, and
/// the external network, are as they were.
///
/// Fails when a kind is left out of the sweep, when the volume is not tried again after its container, and when
/// objects are found by the beginning of their name (`volume ls --filter name=`): the neighbour's idle volume goes.
#[test]
fn a_stack_is_reaped_to_zero_objects_and_nothing_else() {
    let Some(swarm) = Swarm::there() else { return };
    let outside = Outside::new(&swarm);
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, WHOLE);
    let neighbour = swarm.deploy(&format!("{app}x"), SMALL);
    let neighbours_container = neighbour.expect_running();
    let label = format!("com.docker.stack.namespace={}", neighbour.name);
    swarm.docker(&["volume", "create", "--label", &label, &format!("{}_idle", neighbour.name)]);
    let before = neighbour.objects();
    let one_each = ["service", "container", "network", "secret", "config", "volume"].map(|kind| (kind, 1));
    stack.expect_counts(&one_each);

    let output = swarm.reap(&app).output();
    assert_eq!(output.code(), 0, "{}", output.stderr);
    stack.expect_gone();
    let took = output.exit.after;
    assert!(took > Duration::from_secs(9), "took {took:?}: the container was not given its 10 s");
    assert_eq!(only(&output).0, "reaped");
    let app_report = report(&output)["apps"][0].clone();
    assert_eq!(app_report["residual"], serde_json::json!([]), "{app_report:#}");
    assert_eq!(app_report["stack"], stack.name.as_str());

    assert_eq!(neighbour.objects(), before);
    assert_eq!(neighbour.expect_running(), neighbours_container, "its container is another one now");
    assert_eq!(
        swarm.docker(&["network", "ls", "--quiet", "--filter", &format!("name={}", outside.1)]).lines().count(),
        1
    );
    assert_eq!(swarm.lock_files(), [] as [std::path::PathBuf; 0], "the lock file stayed");
}

/// What stands behind the sweep: `docker stack rm` comes back while the container runs, and keeps the volume for
/// good. The janitor finds what is left, though there is no service any more, and finishes it.
///
/// Fails when stacks are listed by their services alone (`docker stack ls`).
#[test]
fn docker_stack_rm_alone_leaves_things_and_the_janitor_finishes_them() {
    let Some(swarm) = Swarm::there() else { return };
    let _outside = Outside::new(&swarm);
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, WHOLE);
    swarm.docker(&["stack", "rm", &stack.name]);
    stack.expect_counts(&[("service", 0), ("container", 1), ("volume", 1)]);
    stack.expect_no_containers();
    stack.expect_counts(&[("volume", 1)]);

    let output = swarm.janitor().output();
    assert_eq!(output.code(), 0, "{}", output.stderr);
    assert_eq!(only(&output).0, "reaped");
    stack.expect_gone();
}

/// Services gone, network and volume left, as moby leaves them; `--run-app-re` instead of a zone.
///
/// Fails when networks or volumes are not looked at for the names of stacks.
#[test]
fn a_half_removed_stack_is_found_and_finished() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let services = stack.list("service");
    swarm.docker(&["service", "rm", &services[0]]);
    stack.expect_no_containers();
    stack.expect_counts(&[("service", 0), ("network", 1), ("volume", 1)]);

    let pattern = format!(r"a1-[0-9a-f]+\.{}", swarm.zone.replace('.', r"\."));
    let janitor = swarm.on(swarm.sandbox.plain()).args(["janitor", "--json", "--run-app-re", &pattern]);
    let output = janitor.output();
    assert_eq!(output.code(), 0, "{}", output.stderr);
    assert_eq!(only(&output), ("reaped".to_owned(), "torn down, nothing is left".to_owned()));
    stack.expect_gone();
}

/// A container that is not the stack's keeps its volume busy: that container is nobody's to end, so the volume
/// stays, and is named, by `reap` and by the janitor; all else goes. When it has ended, the next round finishes.
///
/// Fails when what `docker volume rm` said is taken for the truth, or the proof leaves volumes out.
#[test]
fn a_volume_that_a_stranger_keeps_busy_is_partial_and_named() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let volume = stack.list("volume").remove(0);
    let mount = format!("{volume}:/data");
    let stranger = swarm.docker(&["run", "--detach", "--volume", &mount, &swarm.image, "sleep", "600"]);
    let stranger = RemovedAtEnd(&swarm, stranger);

    let named = format!("volume {volume}");
    for attempt in ["reap", "janitor"] {
        let guard = if attempt == "reap" { swarm.reap(&app) } else { swarm.janitor() };
        let output = guard.output();
        assert_eq!(output.code(), 1, "{attempt}: {}", output.stderr);
        let (verdict, why) = only(&output);
        assert_eq!(verdict, "partial", "{attempt}: {why}");
        assert!(why.contains(&named), "{attempt}: {why}");
        assert_eq!(report(&output)["apps"][0]["residual"], serde_json::json!([named]), "{attempt}");
        assert_eq!(stack.objects(), std::slice::from_ref(&named), "{attempt}");
        let state = swarm.docker(&["inspect", "--format", "{{.State.Running}}", &stranger.1]);
        assert_eq!(state, "true", "{attempt}: the stranger was ended");
    }
    drop(stranger);
    let output = swarm.janitor().output();
    assert_eq!((output.code(), only(&output).0.as_str()), (0, "reaped"), "{}", output.stderr);
    stack.expect_gone();
}

struct RemovedAtEnd<'a>(&'a Swarm, String);

impl Drop for RemovedAtEnd<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_docker(&["rm", "--force", &self.1]);
    }
}

/// A build that is cancelled while its app comes up: one service crashes again and again and leaves a dead container
/// each time, another waits for a node that there is not.
///
/// Fails when only containers that run are looked at: the dead ones keep the volume.
#[test]
fn an_app_that_never_came_up_is_reaped() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = Stack::new(&swarm, &app.replace('.', "_"));
    stack.deploy(NEVER_UP);
    eventually(SOON * 3, "two dead containers", || {
        let found = stack.list("container");
        if found.len() > 1 { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let output = swarm.janitor().output();
    assert_eq!((output.code(), only(&output).0.as_str()), (0, "reaped"), "{}", output.stderr);
    stack.expect_gone();
}

const NEVER_UP: &str = r#"version: "3.8"
services:
  crashes:
    image: IMAGE
    command: ["sh", "-c", "exit 1"]
    deploy:
      restart_policy: {condition: any, delay: 100ms}
    volumes: ["data:/data"]
  waits:
    image: IMAGE
    command: ["sleep", "600"]
    deploy:
      placement: {constraints: ["node.labels.there == not"]}
volumes:
  data: {}
"#;

/// The stack goes, but its `.env` is still in the canonical directory: partial, and named.
///
/// Fails when the proof looks at Docker alone.
#[test]
fn an_env_file_that_stays_is_partial() {
    let Some(swarm) = Swarm::there() else { return };
    let app = swarm.app(1);
    let stack = swarm.deploy(&app, SMALL);
    let canonical = swarm.sandbox.path("canonical");
    let server = canonical.join("servers/default");
    std::fs::create_dir_all(&server).unwrap();
    let env = server.join(format!("{app}.env"));
    std::fs::write(&env, "TYPE=x\n").unwrap();

    let output = swarm.janitor().arg("--canonical-abra-dir").arg(&canonical).output();
    assert_eq!(output.code(), 1, "{}", output.stderr);
    let (verdict, why) = only(&output);
    assert_eq!(verdict, "partial", "{why}");
    assert!(why.contains(env.to_str().unwrap()), "{why}");
    stack.expect_gone();
    assert!(env.exists());
}
