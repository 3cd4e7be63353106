//! One stack on the Swarm: made by `docker stack deploy`, looked at by label, removed on drop.

use crate::support::*;
use crate::swarm::Swarm;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A service that ends on TERM, and a volume; `docker stack deploy` adds an overlay network.
pub const SMALL: &str = r#"version: "3.8"
services:
  web:
    image: IMAGE
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"]
    volumes: ["data:/data"]
volumes:
  data: {}
"#;

/// One of each kind, and a container that takes ten seconds to stop.
pub const WHOLE: &str = r#"version: "3.8"
services:
  web:
    image: IMAGE
    command: ["sh", "-c", "trap '' TERM; while :; do sleep 600; done"]
    stop_grace_period: 10s
    networks: [inner, outside]
    secrets: [token]
    configs: [settings]
    volumes: ["data:/data"]
networks:
  inner:
    driver: overlay
  outside:
    external: true
    name: OUTSIDE
volumes:
  data: {}
secrets:
  token:
    file: DIR/content
configs:
  settings:
    file: DIR/content
"#;

/// What a deploy, or the end of a container, may take on a busy machine.
const DEPLOYED_WITHIN: Duration = Duration::from_secs(60);

/// A stack; on drop all of it is removed that is still there.
pub struct Stack<'a> {
    swarm: &'a Swarm,
    /// Its name.
    pub name: String,
}

impl<'a> Stack<'a> {
    /// One that has not been deployed yet.
    pub fn new(swarm: &'a Swarm, name: &str) -> Self {
        Self { swarm, name: name.to_owned() }
    }

    /// The file for `docker stack deploy`.
    pub fn file(&self, text: &str) -> PathBuf {
        let dir = self.swarm.sandbox.path("work");
        let outside = self.external_network();
        fs::write(dir.join("content"), "secret or not\n").unwrap();
        let text = text.replace("IMAGE", &self.swarm.image).replace("OUTSIDE", &outside);
        let path = dir.join(format!("{}.yml", self.name));
        fs::write(&path, text.replace("DIR", &dir.display().to_string())).unwrap();
        path
    }

    /// Name of the network that is not the stack's own.
    pub fn external_network(&self) -> String {
        format!("{}_outside", self.swarm.zone.replace('.', "_"))
    }

    /// The command that deploys it, as words.
    pub fn deploy_command(&self, text: &str) -> String {
        format!("docker stack deploy --resolve-image never -c '{}' '{}'", self.file(text).display(), self.name)
    }

    /// Deploys it.
    #[track_caller]
    pub fn deploy(&self, text: &str) {
        let file = self.file(text);
        let file = file.to_str().unwrap();
        self.swarm.docker(&["stack", "deploy", "--resolve-image", "never", "-c", file, &self.name]);
    }

    fn filter(&self) -> String {
        format!("label=com.docker.stack.namespace={}", self.name)
    }

    /// Names of its objects of one kind.
    #[track_caller]
    pub fn list(&self, kind: &str) -> Vec<String> {
        let filter = self.filter();
        let mut args = vec![kind, "ls", "--filter", &filter, "--format"];
        args.push(if kind == "container" { "{{.Names}}" } else { "{{.Name}}" });
        if kind == "container" {
            args.push("--all");
        }
        self.swarm.docker(&args).lines().map(str::to_owned).collect()
    }

    /// Everything of it, `kind name`.
    #[track_caller]
    pub fn objects(&self) -> Vec<String> {
        let kinds = ["service", "container", "network", "secret", "config", "volume"];
        let of_kind = |kind: &str| self.list(kind).into_iter().map(|name| format!("{kind} {name}")).collect::<Vec<_>>();
        kinds.into_iter().flat_map(of_kind).collect()
    }

    /// How many objects of each kind it should have.
    #[track_caller]
    pub fn expect_counts(&self, expected: &[(&str, usize)]) {
        for (kind, count) in expected {
            assert_eq!(self.list(kind).len(), *count, "{kind}s of {}: {:?}", self.name, self.objects());
        }
    }

    /// Waits until its container runs; gives the id, by which one that was replaced is told.
    #[track_caller]
    pub fn expect_running(&self) -> String {
        let filter = self.filter();
        eventually(DEPLOYED_WITHIN, &format!("a container of {}", self.name), || {
            let found = self.swarm.docker(&["container", "ls", "--filter", &filter, "--format", "{{.ID}}"]);
            if found.is_empty() { Err(self.tasks()) } else { Ok(found) }
        })
    }

    fn tasks(&self) -> String {
        let shown = self.swarm.try_docker(&["stack", "ps", "--no-trunc", &self.name]);
        shown.unwrap_or_else(|said| said)
    }

    /// Nothing of it is there any more.
    #[track_caller]
    pub fn expect_gone(&self) {
        let left = self.objects();
        assert!(left.is_empty(), "left of {}: {left:?}", self.name);
    }

    /// Waits until its containers are gone, however its services ended.
    #[track_caller]
    pub fn expect_no_containers(&self) {
        eventually(DEPLOYED_WITHIN, &format!("end of the containers of {}", self.name), || {
            let left = self.list("container");
            if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
        });
    }
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        // Best effort, so that a Docker which is used again stays small; the private one is thrown away as a whole.
        let filter = self.filter();
        for (kind, all) in [("service", false), ("container", true), ("network", false), ("volume", false)] {
            let mut args = vec![kind, "ls", "--quiet", "--filter", &filter];
            args.extend(all.then_some("--all"));
            let ids = self.swarm.try_docker(&args).unwrap_or_default();
            let force: &[&str] = if kind == "container" { &["--force", "--volumes"] } else { &[] };
            let ids: Vec<&str> = ids.lines().collect();
            if !ids.is_empty() {
                let _ = self.swarm.try_docker(&[&[kind, "rm"], force, &ids].concat());
            }
        }
    }
}
