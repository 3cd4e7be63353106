//! The Swarm sweep: every object of one stack, by its label, through the `docker` command.
//!
//! Never by name prefix, never `prune`. `docker stack rm` alone is not enough: it returns while containers
//! still run, keeps volumes, and can leave networks. So: services, then wait until their tasks and containers
//! are gone, then networks, secrets, configs, and volumes, each again and again while they are in use.
//! Only what a list shows counts, never what a removal says.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys::time;

/// The label that Docker gives every object of a stack.
const LABEL: &str = "com.docker.stack.namespace";
/// Between two looks at what does not go at once.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The longest time between two looks.
const LOOK_AT_LEAST: Duration = Duration::from_millis(500);
/// How often containers are asked for their tasks.
const TASKS_EVERY: Duration = Duration::from_secs(1);
/// Containers without a task any more are nobody's but ours after this long.
const ABANDONED_AFTER: Duration = Duration::from_secs(2);
/// What no round has made less in this time, with all containers gone, is not ours to remove.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// What can be in a stack, in the order in which it can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A service.
    Service,
    /// A container, on this node.
    Container,
    /// A network of its own; an external one has no label of the stack.
    Network,
    /// A secret.
    Secret,
    /// A config.
    Config,
    /// A volume, on this node.
    Volume,
}

/// All kinds.
pub const KINDS: [Kind; 6] = [Kind::Service, Kind::Container, Kind::Network, Kind::Secret, Kind::Config, Kind::Volume];

impl Kind {
    /// The word for it in `docker` commands.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Service => "service",
            Kind::Container => "container",
            Kind::Network => "network",
            Kind::Secret => "secret",
            Kind::Config => "config",
            Kind::Volume => "volume",
        }
    }

    /// Id and name, tab between; a volume has its name only.
    fn format(self) -> &'static str {
        match self {
            Kind::Container => "{{.ID}}\t{{.Names}}",
            Kind::Volume => "{{.Name}}\t{{.Name}}",
            _ => "{{.ID}}\t{{.Name}}",
        }
    }

    /// Name of the stack it belongs to, where a list can show it.
    fn stack_format(self) -> Option<String> {
        (self != Kind::Service).then(|| format!("{{{{.Label \"{LABEL}\"}}}}"))
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// What `docker … rm` takes.
    pub id: String,
    /// What people call it.
    pub name: String,
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)
    }
}

/// Why a sweep could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Docker did not give a list.
    NoList(String),
    /// The app is not ours any more.
    NotOurs,
    /// The limit.
    TimedOut,
}

/// The `docker` command, and what stands around it.
pub trait Docker {
    /// Runs `docker ARGS` and gives its stdout.
    ///
    /// # Errors
    /// When it did not exit 0: what it said.
    fn run(&mut self, args: &[&str]) -> Result<String, Failure>;
    /// May the next destructive step be done?
    ///
    /// # Errors
    /// Not ours any more, or out of time.
    fn may_go_on(&mut self) -> Result<(), Failure>;
    /// Hears what Docker says when it removes nothing.
    fn refused(&mut self, said: &str);
    /// Sleeps.
    fn pause(&mut self, delay: Duration);
}

/// The objects of one kind of this stack.
///
/// # Errors
/// When Docker gives no list, or one that isn't in the expected form.
pub fn list(docker: &mut dyn Docker, kind: Kind, stack: &str) -> Result<Vec<Object>, Failure> {
    let filter = format!("label={LABEL}={stack}");
    let mut args = vec![kind.word(), "ls"];
    if kind == Kind::Container {
        args.push("--all");
    }
    args.extend(["--filter", &filter, "--format", kind.format()]);
    let text = docker.run(&args)?;
    let object = |line: &str| {
        let (id, name) = line.split_once('\t')?;
        // An id becomes a word of `docker … rm`.
        (!id.is_empty() && !id.starts_with('-') && !name.is_empty()).then(|| Object {
            kind,
            id: id.to_owned(),
            name: name.to_owned(),
        })
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| object(line).ok_or_else(|| unexpected(kind.word(), line))).collect()
}

fn unexpected(what: &str, line: &str) -> Failure {
    let line: String = line.chars().take(80).flat_map(char::escape_default).collect();
    Failure::NoList(format!("docker's list of {what}s is not in the expected form: '{line}'"))
}

/// Everything of this stack.
///
/// # Errors
/// See [`list`].
pub fn all(docker: &mut dyn Docker, stack: &str) -> Result<Vec<Object>, Failure> {
    let mut found = Vec::new();
    for kind in KINDS {
        found.extend(list(docker, kind, stack)?);
    }
    Ok(found)
}

/// The names of all stacks that have any object, each once.
///
/// # Errors
/// See [`list`].
pub fn stacks(docker: &mut dyn Docker) -> Result<Vec<String>, Failure> {
    // Also proves that this is a manager that answers, before anything is made of the other lists.
    let services = docker.run(&["service", "ls", "--filter", &format!("label={LABEL}"), "--format", "{{json .}}"])?;
    for line in services.lines().filter(|line| !line.trim().is_empty()) {
        serde_json::from_str::<serde_json::Value>(line)
            .ok()
            .filter(serde_json::Value::is_object)
            .ok_or_else(|| unexpected("service", line))?;
    }
    let mut names: Vec<String> = Vec::new();
    let stacks = docker.run(&["stack", "ls", "--format", "{{json .}}"])?;
    for line in stacks.lines().filter(|line| !line.trim().is_empty()) {
        let entry: serde_json::Value = serde_json::from_str(line).map_err(|_| unexpected("stack", line))?;
        let name = entry.get("Name").and_then(serde_json::Value::as_str).ok_or_else(|| unexpected("stack", line))?;
        names.push(name.to_owned());
    }
    for kind in KINDS {
        let Some(format) = kind.stack_format() else { continue };
        let mut args = vec![kind.word(), "ls"];
        if kind == Kind::Container {
            args.push("--all");
        }
        let filter = format!("label={LABEL}");
        args.extend(["--filter", &filter, "--format", &format]);
        names.extend(docker.run(&args)?.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// How many nodes the Swarm has.
///
/// # Errors
/// See [`list`].
pub fn nodes(docker: &mut dyn Docker) -> Result<usize, Failure> {
    Ok(docker.run(&["node", "ls", "--format", "{{.ID}}"])?.lines().filter(|line| !line.trim().is_empty()).count())
}

/// Removes everything of this stack; gives what is left when time is up, or nothing more goes. What it gives was
/// listed after the last removal: it is the proof.
///
/// `known`: what there is, where that has just been listed.
///
/// # Errors
/// When Docker gives no list any more, or the app is not ours any more.
pub fn sweep(docker: &mut dyn Docker, stack: &str, known: Option<Vec<Object>>) -> Result<Vec<Object>, Failure> {
    let mut best = usize::MAX;
    let mut better_at = time::now();
    let mut found = known.map_or_else(|| all(docker, stack), Ok)?;
    loop {
        if found.len() < best {
            best = found.len();
            better_at = time::now();
        }
        if found.is_empty() || time::now().saturating_sub(better_at) > STUCK_AFTER {
            return Ok(found);
        }
        let of = |kind| found.iter().filter(move |object| object.kind == kind);
        let timed_out = |failure| match failure {
            Failure::TimedOut => Ok(found.clone()),
            other => Err(other),
        };
        if let Err(failure) = docker.may_go_on() {
            return timed_out(failure);
        }
        if of(Kind::Service).next().is_some() {
            remove(docker, Kind::Service, of(Kind::Service));
        }
        let runs = of(Kind::Service).next().is_some() || of(Kind::Container).next().is_some();
        if runs && let Err(failure) = wait_for_containers(docker, stack) {
            // Something was removed since the last list.
            return if failure == Failure::TimedOut { all(docker, stack) } else { Err(failure) };
        }
        for kind in [Kind::Network, Kind::Secret, Kind::Config, Kind::Volume] {
            remove(docker, kind, of(kind));
        }
        let left = all(docker, stack)?;
        if !left.is_empty() {
            // In use still: another round.
            docker.pause(LOOK_AGAIN);
        }
        found = left;
    }
}

/// One command for all of a kind. What it says does not count: "not found" is success, "in use" comes again.
fn remove<'a>(docker: &mut dyn Docker, kind: Kind, objects: impl Iterator<Item = &'a Object>) {
    let ids: Vec<&str> = objects.map(|object| object.id.as_str()).collect();
    if ids.is_empty() {
        return;
    }
    let mut args = vec![kind.word(), "rm"];
    if kind == Kind::Container {
        args.push("--force");
    }
    args.extend(ids);
    if let Err(Failure::NoList(said)) = docker.run(&args) {
        tracing::debug!(event = "sweep", "docker {} rm: {said}", kind.word());
        docker.refused(&said);
    }
}

/// Until the tasks and containers of the removed services are gone: their volumes are in use until then.
fn wait_for_containers(docker: &mut dyn Docker, stack: &str) -> Result<(), Failure> {
    let mut pause = LOOK_AGAIN;
    let mut tasks_at = time::now();
    let mut without_task_since = None;
    loop {
        docker.may_go_on()?;
        let containers = list(docker, Kind::Container, stack)?;
        let now = time::now();
        // Each question costs a start of the docker command: while containers run, their tasks are there.
        if containers.is_empty() || now.saturating_sub(tasks_at) >= TASKS_EVERY {
            tasks_at = now;
            if has_tasks(docker, stack) {
                without_task_since = None;
            } else if containers.is_empty() {
                return Ok(());
            } else if now.saturating_sub(*without_task_since.get_or_insert(now)) >= ABANDONED_AFTER {
                remove(docker, Kind::Container, containers.iter());
            }
        }
        docker.pause(pause);
        pause = (pause * 5 / 4).min(LOOK_AT_LEAST);
    }
}

/// `docker stack ps` exits 1 when there is none.
fn has_tasks(docker: &mut dyn Docker, stack: &str) -> bool {
    docker.run(&["stack", "ps", "--quiet", stack]).is_ok_and(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(&'static str);

    impl Docker for Says {
        fn run(&mut self, _: &[&str]) -> Result<String, Failure> {
            Ok(self.0.to_owned())
        }
        fn may_go_on(&mut self) -> Result<(), Failure> {
            Ok(())
        }
        fn refused(&mut self, _: &str) {}
        fn pause(&mut self, _: Duration) {}
    }

    /// The option among them was found by the fuzz target `docker`: `docker network rm --all`.
    #[test]
    fn a_list_in_another_form_is_none() {
        assert_eq!(list(&mut Says("n1\tweb\n\n"), Kind::Network, "s").map(|found| found.len()), Ok(1));
        for bad in ["n1", "n1\t", "\tweb", "--all\tweb", "n1\tweb\nx"] {
            assert!(matches!(list(&mut Says(bad), Kind::Network, "s"), Err(Failure::NoList(_))), "{bad:?}");
        }
    }
}
