//! The janitor on a real Swarm: how long until a number of orphan stacks, each with a service, a network and a volume,
//! are gone without a trace, against a shell loop of `docker stack rm`, waiting, and `docker volume rm`.
//!
//! `tests/swarm-up` gives the private Swarm and names its socket and image; without them there is nothing to measure.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::Bench;
use crate::options::Options;
use crate::table::{Table, ratio};

/// At least so many times faster than the loop.
const GOAL: f64 = 3.0;

const STACK: &str = "\
version: '3.8'
services:
  app:
    image: IMAGE
    command: sleep 1000
    stop_grace_period: 1s
    networks: [inner]
    volumes: ['data:/data']
networks:
  inner: {}
volumes:
  data: {}
";

/// What an operator would write: a volume is in use until the stack's last container is gone.
const LOOP: &str = r#"
for stack; do
    mine=label=com.docker.stack.namespace=$stack
    docker stack rm "$stack"
    while [ -n "$(docker container ls --all --quiet --filter "$mine")" ]; do sleep 0.2; done
    docker volume ls --quiet --filter "$mine" | xargs -r docker volume rm
done
"#;

pub fn measure(bench: &Bench, options: &Options) {
    let Ok(image) = std::env::var("CCCI_SWARM_IMAGE") else {
        eprintln!("skip: no private Swarm; the figures of orphan stacks are missing");
        return;
    };
    let locks = bench.path("swarm-locks");
    std::fs::create_dir(&locks).unwrap();
    let file = bench.path("stack.yml");
    std::fs::write(&file, STACK.replace("IMAGE", &image)).unwrap();
    let names: Vec<String> = (0..options.stacks).map(|number| format!("orph-{number:06x}.ci.example.net")).collect();
    let stacks: Vec<String> = names.iter().map(|name| name.replace('.', "_")).collect();

    deploy(&file, &stacks);
    let janitor = reap_all(bench, options, &locks);
    deploy(&file, &stacks);
    let shell = timed(Command::new("sh").args(["-c", LOOP, "loop"]).args(&stacks).stdout(Stdio::null()));
    let left = docker(&["volume", "ls", "--quiet", "--filter", "label=com.docker.stack.namespace"]);
    assert!(left.trim().is_empty(), "the loop left {left}");

    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let mut table = Table::new(
        format!("Janitor: {} orphan stacks on a real Swarm, until nothing is left", options.stacks),
        options.markdown,
        &["", "all", "loop to it"],
    );
    table.row(vec![format!("janitor --jobs {}", options.jobs), seconds(janitor), ratio(shell, janitor)]);
    table.row(vec!["shell loop".to_owned(), seconds(shell), ratio(shell, shell)]);
    let times = shell.as_secs_f64() / janitor.as_secs_f64();
    let word = if times >= GOAL { "met" } else { "MISSED" };
    table.print(&[format!("goal: at least {GOAL} times faster than the loop: {times:.2}, {word}")]);
}

fn reap_all(bench: &Bench, options: &Options, locks: &Path) -> Duration {
    let mut command = Command::new(bench.guard());
    let jobs = options.jobs.to_string();
    command.args(["janitor", "--zone", "ci.example.net", "--teardown-step", "true", "--json", "--quiet"]);
    command.arg("--lock-dir").arg(locks).args(["--jobs", &jobs]).stdin(Stdio::null());
    let start = Instant::now();
    let output = command.output().unwrap();
    let elapsed = start.elapsed();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        output.status.success() && report["counts"]["reaped"] == options.stacks,
        "janitor: {}: {}",
        output.status,
        report["counts"]
    );
    elapsed
}

/// Deploys all and waits until every one has its container.
fn deploy(file: &Path, stacks: &[String]) {
    let each = r#"docker stack deploy --resolve-image never -c "$0" "$1" >/dev/null"#;
    for some in stacks.chunks(8) {
        let start = |stack| Command::new("sh").args(["-c", each]).arg(file).arg(stack).spawn().unwrap();
        let mut children: Vec<_> = some.iter().map(start).collect();
        assert!(children.iter_mut().all(|child| child.wait().unwrap().success()), "docker stack deploy");
    }
    let give_up = Instant::now() + Duration::from_secs(300);
    let running = || docker(&["container", "ls", "--quiet", "--filter", "label=com.docker.stack.namespace"]);
    while running().lines().count() < stacks.len() {
        assert!(Instant::now() < give_up, "not all stacks run");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
    start.elapsed()
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
