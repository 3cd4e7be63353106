//! etcd for one test: started, asked, hurt and ended.

use crate::support::{SOON, eventually, need};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// One member.
struct Member {
    args: Vec<String>,
    url: String,
    child: Option<Child>,
}

/// A cluster of one or three members on loopback; gone on drop.
pub struct Etcd {
    members: Vec<Member>,
    dir: TempDir,
}

impl Etcd {
    /// One member; `None`, and said so, where there is no etcd.
    #[track_caller]
    pub fn there() -> Option<Self> {
        Self::of(1, &[])
    }

    /// Three.
    #[track_caller]
    pub fn cluster() -> Option<Self> {
        Self::of(3, &[])
    }

    /// So many members, with these options beside the usual ones.
    #[track_caller]
    pub fn of(count: usize, options: &[&str]) -> Option<Self> {
        let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !need("etcd (Debian package etcd-server)", found.is_ok_and(|status| status.success())) {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("ccci-etcd-").tempdir().expect("a temporary directory");
        // All held until all are chosen, so that no two are the same.
        let ports: Vec<TcpListener> = (0..count * 2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |index: usize| ports[index].local_addr().unwrap().port();
        let scheme = if options.iter().any(|option| option.starts_with("--cert-file")) { "https" } else { "http" };
        let peer = |index: usize| format!("http://127.0.0.1:{}", port(count + index));
        let all: Vec<String> = (0..count).map(|index| format!("m{index}={}", peer(index))).collect();
        let members = (0..count).map(|index| {
            let url = format!("{scheme}://127.0.0.1:{}", port(index));
            let data = dir.path().join(format!("m{index}")).display().to_string();
            let pairs = [
                ("--name", format!("m{index}")),
                ("--data-dir", data),
                ("--listen-client-urls", url.clone()),
                ("--advertise-client-urls", url.clone()),
                ("--listen-peer-urls", peer(index)),
                ("--initial-advertise-peer-urls", peer(index)),
                ("--initial-cluster", all.join(",")),
            ];
            let mut args: Vec<String> = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
            args.extend(options.iter().map(|option| (*option).to_owned()));
            Member { args, url, child: None }
        });
        let mut etcd = Self { members: members.collect(), dir };
        drop(ports);
        for index in 0..count {
            etcd.start(index);
        }
        (0..count).for_each(|index| etcd.wait_until_ready(index));
        Some(etcd)
    }

    /// For `CCCI_ETCD_ENDPOINTS`.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|member| member.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The port of the first member.
    pub fn port(&self) -> u16 {
        self.members[0].url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Starts a member that does not run.
    pub fn start(&mut self, index: usize) {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let member = &mut self.members[index];
        let mut command = Command::new("etcd");
        command.args(&member.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        member.child = Some(command.spawn().expect("etcd starts"));
    }

    /// Waits until a member answers.
    #[track_caller]
    pub fn wait_until_ready(&self, index: usize) {
        let url = &self.members[index].url;
        let port = url.rsplit(':').next().unwrap();
        if url.starts_with("https") {
            eventually(SOON, "etcd", || std::net::TcpStream::connect(format!("127.0.0.1:{port}")).map(drop));
            return;
        }
        // A range with a quorum: it has a leader, and its own store is up to date.
        eventually(SOON, "etcd", || self.try_post(index, "kv/range", &json!({ "key": "AA==" })).map(drop));
    }

    /// Sends a signal to a member.
    pub fn signal(&self, index: usize, signal: Signal) {
        if let Some(child) = &self.members[index].child {
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        }
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The member that leads.
    #[track_caller]
    pub fn leader(&self) -> usize {
        let status = |index| self.post(index, "maintenance/status", &json!({}));
        let leader = status(0)["leader"].clone();
        let leads = |index: &usize| status(*index)["header"]["member_id"] == leader;
        (0..self.members.len()).find(leads).expect("a leader")
    }

    /// Asks a member by its JSON gateway.
    pub fn try_post(&self, index: usize, path: &str, body: &Value) -> Result<Value, String> {
        self.try_post_as(index, path, body, None)
    }

    fn try_post_as(&self, index: usize, path: &str, body: &Value, token: Option<&str>) -> Result<Value, String> {
        let url = format!("{}/v3/{path}", self.members[index].url);
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build().into();
        let mut request = agent.post(&url);
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let mut response = request.send(body.to_string()).map_err(|error| error.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// The same, where it must succeed.
    #[track_caller]
    pub fn post(&self, index: usize, path: &str, body: &Value) -> Value {
        self.try_post(index, path, body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The key of an app: its value, lease and create revision.
    #[track_caller]
    pub fn key(&self, app: &str) -> Option<Key> {
        let answer = self.post(0, "kv/range", &json!({ "key": key(app) }));
        let entry = answer["kvs"].get(0)?;
        let value = STANDARD.decode(entry["value"].as_str()?).unwrap();
        let number = |name: &str| entry[name].as_str().unwrap().parse().unwrap();
        Some(Key {
            value: serde_json::from_slice(&value).unwrap_or_default(),
            lease: number("lease"),
            token: number("create_revision"),
        })
    }

    /// Removes an app's key.
    #[track_caller]
    pub fn remove_key(&self, app: &str) {
        let answer = self.post(0, "kv/deleterange", &json!({ "key": key(app) }));
        assert_eq!(answer["deleted"], "1", "{answer}");
    }

    /// The same, where etcd wants to know who asks.
    #[track_caller]
    pub fn remove_key_as(&self, app: &str, token: &str) {
        let answer = self.try_post_as(0, "kv/deleterange", &json!({ "key": key(app) }), Some(token));
        assert_eq!(answer.as_ref().map(|answer| answer["deleted"].clone()), Ok("1".into()), "{answer:?}");
    }

    /// Revokes the lease of an app's key.
    #[track_caller]
    pub fn revoke(&self, app: &str) {
        let lease = self.key(app).expect("a key").lease;
        self.post(0, "lease/revoke", &json!({ "ID": lease.to_string() }));
    }

    /// For `eventually`: no lease is left.
    pub fn no_lease(&self) -> Result<(), String> {
        self.leases(|count| count == 0)
    }

    /// For `eventually`: there is one beside that of the run that holds the app.
    pub fn another_lease(&self) -> Result<(), String> {
        self.leases(|count| count > 1)
    }

    fn leases(&self, is_good: impl Fn(usize) -> bool) -> Result<(), String> {
        let answer = self.try_post(0, "lease/leases", &json!({}))?;
        if is_good(answer["leases"].as_array().map_or(0, Vec::len)) { Ok(()) } else { Err(answer.to_string()) }
    }

    /// For `eventually`: so many keys are watched. Told without a password.
    pub fn watched(&self, count: u32) -> Result<(), String> {
        let url = format!("{}/metrics", self.members[0].url);
        let text = ureq::get(&url).call().and_then(|mut answer| answer.body_mut().read_to_string());
        let text = text.map_err(|error| error.to_string())?;
        let line = text.lines().find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total "));
        if line.is_some_and(|line| line.ends_with(&format!(" {count}"))) { Ok(()) } else { Err(format!("{line:?}")) }
    }
}

/// What is in a key.
#[derive(Debug)]
pub struct Key {
    /// The holder's line; null once it gives the key back.
    pub value: Value,
    /// Its lease.
    pub lease: i64,
    /// Its create revision.
    pub token: i64,
}

fn key(app: &str) -> String {
    STANDARD.encode(format!("/ccci/app-locks/{app}"))
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

/// Nothing reaches a port of loopback any more, nor comes from it, until this is dropped.
pub struct Cut(u16);

impl Cut {
    /// Can there be one? Only root has a firewall.
    #[track_caller]
    pub fn is_possible() -> bool {
        let list = Command::new("iptables").args(["-w", "-S", "INPUT"]).output();
        need("iptables, as root", list.is_ok_and(|output| output.status.success()))
    }

    /// By a firewall rule that drops all packets.
    #[track_caller]
    pub fn port(port: u16) -> Self {
        let cut = Cut(port);
        cut.rules("-I");
        cut
    }

    fn rules(&self, what: &str) {
        for side in ["--dport", "--sport"] {
            let port = self.0.to_string();
            let args = ["-w", what, "INPUT", "-i", "lo", "-p", "tcp", side, &port, "-j", "DROP"];
            let output = Command::new("iptables").args(args).output().expect("iptables");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.rules("-D");
    }
}
