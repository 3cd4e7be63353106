//! Recording stand-ins for `abra` and `docker`: shell scripts in the sandbox, and a Swarm made of files.
//!
//! An object of a stack is a file `swarm/STACK/KIND/NAME`; the stub lists and removes those as docker would.
//! Each call is one line of `calls`. A script in `says/KEY` (`service-ls`, `app-undeploy`, …) runs before the
//! stub's own answer: it may fail, hang, print rubbish and exit, or do nothing.

use super::{FIXTURE, Guard, Sandbox};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The zone of all app names here.
pub const ZONE: &str = "ci.example.net";
/// All kinds of objects that a stack may have.
pub const KINDS: [&str; 6] = ["service", "container", "network", "secret", "config", "volume"];

const RECORD: &str = r#"
lock=none fd=none
if [ -n "${CCCI_APP_LOCK_PATH-}" ]; then
    lock=$('@FIXTURE@' probe-lock "$CCCI_APP_LOCK_PATH")
    fd=$(readlink "/proc/$$/fd/${CCCI_APP_LOCK_FD-}")
fi
argv=$*
printf '%s\n' "${0##*/}	pid=$$	cwd=$(pwd)	abra_dir=${ABRA_DIR-unset}	home=${HOME-unset}	stdin=$(readlink /proc/$$/fd/0)	lock=$lock	fd=$fd	app=${CCCI_TEARDOWN_APP-unset}	cause=${CCCI_TEARDOWN_CAUSE-unset}	argv=$argv" >>"$S/calls"
if [ -e "$S/says/$1-$2" ]; then . "$S/says/$1-$2"; fi
"#;

const ABRA: &str = r#"
for app in "$@"; do :; done
stack=$S/swarm/$(printf %s "$app" | tr . _)
case "$1 $2" in
'app undeploy') rm -f "$stack"/service/* "$stack"/container/* ;;
'app volume') rm -f "$stack"/volume/* ;;
'app secret') rm -f "$stack"/secret/* ;;
'app remove') rm -f "$ABRA_DIR"/servers/*/"$app.env" ;;
esac
"#;

const DOCKER: &str = r#"
kind=$1 verb=$2 filter= format= names=
shift 2
while [ $# -gt 0 ]; do
    case $1 in
    --filter) filter=$2; shift 2 ;;
    --format) format=$2; shift 2 ;;
    --*) shift ;;
    *) names="$names $1"; shift ;;
    esac
done
filter=${filter#label=com.docker.stack.namespace}
of=${filter#=}
case "$kind $verb" in
'node ls') cat "$S/nodes" ;;
'stack ls')
    for stack in "$S"/swarm/*; do
        for file in "$stack"/service/*; do
            [ -e "$file" ] && printf '{"Name":"%s","Orchestrator":"Swarm","Services":"1"}\n' "${stack##*/}" && break
        done
    done ;;
'stack ps')
    for name in $names; do
        if [ -e "$S/swarm/$name/task" ]; then echo task; else
            echo "nothing found in stack: $name" >&2
            exit 1
        fi
    done ;;
*' ls')
    for file in "$S"/swarm/${of:-*}/"$kind"/*; do
        [ -e "$file" ] || continue
        name=${file##*/} stack=${file%/*/*}
        case $format in
        *json*) printf '{"ID":"%s","Name":"%s"}\n' "$name" "$name" ;;
        *Label*) printf '%s\n' "${stack##*/}" ;;
        *) printf '%s\t%s\n' "$name" "$name" ;;
        esac
    done ;;
*' rm')
    for name in $names; do
        for file in "$S"/swarm/*/"$kind"/"$name"; do
            if [ ! -e "$file" ]; then echo "Error: No such $kind: $name" >&2; exit 1; fi
            if [ -s "$file" ]; then echo "Error response from daemon: $kind is in use" >&2; exit 1; fi
            rm -f "$file"
            [ "$kind" != service ] || rm -f "${file%/*/*}"/container/*
        done
    done ;;
esac
exit 0
"#;

/// The two programs, the Swarm of files, and the host's own ABRA_DIR.
pub struct Stubs<'a> {
    sandbox: &'a Sandbox,
}

/// One call of a stub.
#[derive(Clone, Debug)]
pub struct Call(String);

impl Call {
    /// `abra` or `docker`.
    pub fn program(&self) -> &str {
        self.0.split('\t').next().unwrap_or_default()
    }

    /// What was noted under this name.
    #[track_caller]
    pub fn value(&self, name: &str) -> &str {
        let found = self.0.split('\t').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }

    /// The arguments, a blank between two.
    pub fn argv(&self) -> &str {
        self.value("argv")
    }
}

impl<'a> Stubs<'a> {
    /// Both programs, a Swarm of one node with nothing in it, and `~/.abra` with one server.
    pub fn new(sandbox: &'a Sandbox) -> Self {
        let stubs = Self { sandbox };
        for dir in ["stubs/says", "stubs/swarm", "bin", "home/.abra/servers/host"] {
            fs::create_dir_all(sandbox.path(dir)).expect("a directory in the sandbox");
        }
        fs::write(sandbox.path("stubs/nodes"), "node1\n").expect("the nodes");
        for (name, body) in [("abra", ABRA), ("docker", DOCKER)] {
            stubs.program(&sandbox.path("bin").join(name), body);
        }
        stubs
    }

    /// A recording program somewhere else, or another in place of a stub.
    pub fn program(&self, path: &Path, body: &str) {
        let home = self.sandbox.path("stubs");
        let record = RECORD.replace("@FIXTURE@", FIXTURE);
        let script = format!("#!/bin/sh\nS='{}'\n{record}{body}", home.display());
        // Not written by us: a process that another thread forks meanwhile would have it open for writing, and
        // whoever executes it then gets ETXTBSY.
        let mut writer = Command::new("/bin/sh");
        writer.args(["-c", "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"]).arg(path).arg(script);
        assert!(writer.status().expect("a shell").success(), "cannot write {}", path.display());
    }

    /// A copy of `abra` or `docker` under another name.
    pub fn copy(&self, name: &str, path: &Path) {
        self.program(path, if name == "abra" { ABRA } else { DOCKER });
    }

    /// Takes a program away.
    pub fn without(&self, name: &str) {
        fs::remove_file(self.sandbox.path("bin").join(name)).expect("a stub to remove");
    }

    /// A script that runs before the answer to `KEY`: `service-ls`, `volume-rm`, `app-undeploy`, `app-remove`, …
    pub fn says(&self, key: &str, script: &str) {
        fs::write(self.sandbox.path("stubs/says").join(key), script).expect("an answer");
    }

    /// How many nodes the Swarm has.
    pub fn nodes(&self, count: usize) {
        let nodes: String = (0..count).map(|n| format!("node{n}\n")).collect();
        fs::write(self.sandbox.path("stubs/nodes"), nodes).expect("the nodes");
    }

    /// The host's own ABRA_DIR.
    pub fn abra_dir(&self) -> PathBuf {
        self.sandbox.path("home/.abra")
    }

    /// The app's `.env` file.
    pub fn env_file(&self, app: &str) -> PathBuf {
        self.abra_dir().join(format!("servers/host/{app}.env"))
    }

    /// Makes the `.env` file only.
    pub fn add_env(&self, app: &str) {
        fs::write(self.env_file(app), "TYPE=immich\n").expect("an .env file");
    }

    /// Makes one object; a stuck one can't be removed.
    pub fn add(&self, stack: &str, kind: &str, name: &str, stuck: bool) {
        let dir = self.sandbox.path("stubs/swarm").join(stack).join(kind);
        fs::create_dir_all(&dir).expect("a stack");
        fs::write(dir.join(name), if stuck { "stuck" } else { "" }).expect("an object");
    }

    /// An app with its `.env` file and one object of each kind.
    pub fn deploy(&self, app: &str) {
        self.add_env(app);
        let stack = stack_of(app);
        for kind in KINDS {
            self.add(&stack, kind, &format!("{stack}_{kind}"), false);
        }
    }

    /// What there is of an app: `env`, and kinds of objects.
    pub fn left(&self, app: &str) -> Vec<String> {
        let env = self.env_file(app).exists().then(|| "env".to_owned());
        let stack = self.sandbox.path("stubs/swarm").join(stack_of(app));
        let has = |kind: &&str| fs::read_dir(stack.join(kind)).is_ok_and(|mut dir| dir.next().is_some());
        env.into_iter().chain(KINDS.iter().filter(|kind| has(kind)).map(|kind| (*kind).to_owned())).collect()
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        let text = fs::read_to_string(self.sandbox.path("stubs/calls")).unwrap_or_default();
        text.lines().map(|line| Call(line.to_owned())).collect()
    }

    /// The arguments of all calls of one program.
    pub fn argvs(&self, program: &str) -> Vec<String> {
        self.calls().iter().filter(|call| call.program() == program).map(|call| call.argv().to_owned()).collect()
    }

    /// Calls that remove something: there are none where nothing may be touched.
    pub fn removals(&self) -> Vec<String> {
        let mut found = self.argvs("abra");
        found.extend(self.argvs("docker").into_iter().filter(|argv| argv.contains(" rm")));
        found
    }

    /// PATH with the stubs in front.
    pub fn path(&self) -> String {
        format!("{}:{}", self.sandbox.path("bin").display(), std::env::var("PATH").unwrap_or_default())
    }

    /// `ccci-guard janitor --zone …`
    pub fn janitor(&self) -> Guard<'a> {
        self.sandbox.plain().args(["janitor", "--zone", ZONE]).env("PATH", self.path())
    }

    /// `ccci-guard reap APP --zone …`
    pub fn reap(&self, app: &str) -> Guard<'a> {
        self.sandbox.plain().args(["reap", app, "--zone", ZONE]).env("PATH", self.path())
    }

    /// `ccci-guard run --zone … --app …`: the default app and automatic teardown.
    pub fn run(&self) -> Guard<'a> {
        self.sandbox.run().app().args(["--zone", ZONE]).env("PATH", self.path())
    }
}

/// The stack of an app.
pub fn stack_of(app: &str) -> String {
    app.replace('.', "_")
}
