//! The cluster lock: what it adds to a run, and how many renewals one etcd bears.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::contender::Bench;
use crate::options::Options;
use crate::proc;
use crate::table::{Samples, Table, milliseconds, ratio};

/// Leases of as many runs.
const LEASES: usize = 10_000;
/// Clients that renew them, each over a connection of its own.
const CLIENTS: usize = 16;
const HAMMERED: Duration = Duration::from_secs(10);
const APP: &str = "benc-000000.ci.example.net";

/// An etcd of its own, on disk, as it comes.
struct Etcd {
    child: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Option<Self> {
        let data = tempfile::tempdir().unwrap();
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(data.path().join("etcd")).args(["--initial-cluster", &format!("default={peer}")]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let address = client.trim_start_matches("http://").to_owned();
        let etcd = Etcd { child, address, _data: data };
        proc::eventually("etcd answers", || etcd.try_call("lease/leases", "{}"));
        Some(etcd)
    }

    fn try_call(&self, path: &str, body: &str) -> Option<String> {
        Connection::to(&self.address)?.call(path, body)
    }

    fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11..=12].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        // USER_HZ is 100 on every Linux that there is (proc_pid_stat(5), sysconf(3)).
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection that is kept open, as a keeper has it.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn to(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        Some(Connection(BufReader::new(stream)))
    }

    /// Posts a body, and gives the answer's: of a known length, or in chunks.
    fn call(&mut self, path: &str, body: &str) -> Option<String> {
        let head = format!("POST /v3/{path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes()).ok()?;
        let mut length = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            length = line.strip_prefix("content-length: ").and_then(|length| length.parse().ok()).or(length);
        }
        let mut text = Vec::new();
        match length {
            Some(length) => self.take(length, &mut text)?,
            None => loop {
                let length = usize::from_str_radix(&self.line()?, 16).ok()?;
                self.take(length, &mut text)?;
                self.line()?;
                if length == 0 {
                    break;
                }
            },
        }
        String::from_utf8(text).ok()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|length| *length > 0)?;
        Some(line.trim_end().to_owned())
    }

    fn take(&mut self, length: usize, text: &mut Vec<u8>) -> Option<()> {
        let from = text.len();
        text.resize(from + length, 0);
        self.0.read_exact(&mut text[from..]).ok()
    }
}

pub fn measure(bench: &Bench, options: &Options) {
    let Some(etcd) = Etcd::start() else {
        println!("skip: the cluster lock: no etcd (Debian package etcd-server)\n");
        return;
    };
    measure_runs(bench, options, &etcd);
    measure_renewals(options, &etcd);
}

fn guarded(bench: &Bench, etcd: Option<&Etcd>, harness: &[&str]) -> Command {
    let mut command = Command::new(bench.guard());
    command.args(["run", "--app", APP, "--teardown", "none", "--lock-dir"]).arg(bench.path("locks"));
    command.arg("--runs-dir").arg(bench.path("runs")).arg("--state-dir").arg(bench.path("state"));
    if let Some(etcd) = etcd {
        let endpoint = format!("http://{}", etcd.address);
        command.args(["--lock-backend", "etcd", "--etcd-endpoints", &endpoint]);
    }
    command.arg("--").args(harness).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn measure_runs(bench: &Bench, options: &Options, etcd: &Etcd) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..options.runs.min(100) {
        for (times, etcd) in times.iter_mut().zip([None, Some(etcd)]) {
            let began = Instant::now();
            assert!(guarded(bench, etcd, &["true"]).status().unwrap().success());
            times.push(began.elapsed());
        }
    }
    let resident = |etcd| {
        let mut run = guarded(bench, etcd, &["sleep", "86400"]).spawn().unwrap();
        let has_harness = || proc::tree(run.id()).iter().any(|&pid| proc::name(pid) == "sleep").then_some(());
        proc::eventually("the harness", has_harness);
        std::thread::sleep(Duration::from_millis(500));
        let mut tree = proc::tree(run.id());
        tree.retain(|&pid| proc::name(pid) != "sleep");
        let total: u64 = tree.iter().map(|&pid| proc::memory(pid).pss).sum();
        // SIGTERM to the monitor; the harness dies of it at once.
        let _ = Command::new("kill").arg(run.id().to_string()).status();
        let _ = run.wait();
        format!("{total} KiB in {}", tree.len())
    };
    let [plain, with] = times.map(|times| Samples::new(times).median());
    let mut table = Table::new(
        "The cluster lock: a run around `true`, and what stays resident".to_owned(),
        options.markdown,
        &["lock", "median", "to flock", "PSS, processes"],
    );
    table.row(vec!["flock".to_owned(), milliseconds(plain), ratio(plain, plain), resident(None)]);
    table.row(vec!["etcd".to_owned(), milliseconds(with), ratio(with, plain), resident(Some(etcd))]);
    table.print(&[]);
}

fn measure_renewals(options: &Options, etcd: &Etcd) {
    let mut connection = Connection::to(&etcd.address).expect("a connection");
    let leases: Vec<String> = (0..LEASES)
        .map(|_| {
            let answer = connection.call("lease/grant", r#"{"TTL":"600"}"#).expect("a lease");
            let id = answer.split("\"ID\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("its number");
            format!(r#"{{"ID":"{id}"}}"#)
        })
        .collect();
    let (renewed, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (before, began) = (etcd.processor_time(), Instant::now());
    std::thread::scope(|scope| {
        for leases in leases.chunks(LEASES.div_ceil(CLIENTS)) {
            scope.spawn(|| {
                let mut connection = Connection::to(&etcd.address).expect("a connection");
                for lease in leases.iter().cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                    let answer = connection.call("lease/keepalive", lease).expect("an answer");
                    assert!(answer.contains("\"TTL\":\"600\""), "{answer}");
                    renewed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(HAMMERED);
        over.store(true, Ordering::Relaxed);
    });
    let (took, spent) = (began.elapsed(), etcd.processor_time() - before);
    #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
    let count = renewed.into_inner() as f64;
    let rate = count / took.as_secs_f64();
    let mut table = Table::new(
        format!("The cluster lock: renewals of {LEASES} leases by one etcd, {CLIENTS} clients on the same machine"),
        options.markdown,
        &["renewals", "a second", "etcd's processor time, each"],
    );
    let each = format!("{:.0} us", spent.as_secs_f64() * 1e6 / count);
    table.row(vec![format!("{count:.0}"), format!("{rate:.0}"), each]);
    table.print(&[format!("10,000 runs with leases of 30 s need 1,000 a second: {:.2} of this", 1000.0 / rate)]);
}
