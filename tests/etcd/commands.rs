//! What people see and type: `locks`, `doctor`, settings, and etcd behind a password or TLS.

use crate::host::{Detector, Host, keepers, ready};
use crate::server::Etcd;
use crate::support::*;
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

/// `locks` shows both: the lock file of this host, and who holds the app in the cluster, on whatever host.
/// Fails without `add_cluster`.
#[test]
fn locks_shows_the_cluster_too() {
    let Some(etcd) = Etcd::there() else { return };
    let (one, two, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let guard = one.run(APP, "5s").args(["--run-id", "1187", "--deadline", "1h"]);
    let run = guard.sh(&detector.harness(APP, "sleep 60")).spawn();
    let (_, token) = ready(&run);
    for apps in [&[][..], &[APP]] {
        for (host, has_holders) in [(&one, true), (&two, false)] {
            let output = host.plain().arg("locks").args(apps).arg("--json").output();
            assert_eq!(output.code(), 0, "{}", output.stderr);
            let report: Value = serde_json::from_str(&output.text()).unwrap();
            let lock = &report["locks"][0];
            assert_eq!((&lock["app"], &lock["state"]), (&APP.into(), &"held".into()), "{report:#}");
            assert_eq!(lock["holders"].as_array().is_some_and(|holders| !holders.is_empty()), has_holders);
            let cluster = &lock["cluster"];
            assert_eq!((&cluster["pid"], &cluster["run_id"]), (&run.pid().as_raw().into(), &"1187".into()));
            assert_eq!(cluster["token"], token);
            assert!(cluster["host"].is_string() && cluster["since"].is_u64() && cluster["deadline_at"].is_u64());
        }
    }
    let output = two.plain().arg("locks").output();
    let cells: Vec<String> = output.text().trim_end().split('\t').map(str::to_owned).collect();
    assert_eq!(cells[..2], [APP.to_owned(), "held".to_owned()]);
    assert!(cells[3].starts_with(&format!("{} on ", run.pid())) && cells[4] == "1187", "{cells:?}");
    // It takes no lock and makes no file.
    assert!(!two.sandbox.lock_path(APP).exists());
    let output = two.sandbox.plain().args(["locks", "--json"]).output();
    assert_eq!(output.text(), "{\"schema\":1,\"locks\":[]}\n", "without the option nothing of it shows");
    let gone = two.sandbox.plain().args(["locks", "--lock-backend", "etcd", "--etcd-endpoints", "http://127.0.0.1:1"]);
    let output = gone.output();
    assert_eq!((output.code(), output.text().as_str()), (1, ""), "{}", output.stderr);
}

/// A line for etcd: there where it is asked for, with what is wrong.
/// Fails without the line.
#[test]
fn doctor_looks_at_etcd() {
    let Some(etcd) = Etcd::there() else { return };
    let host = Host::on(&etcd);
    let line = |guard: Guard<'_>| {
        let report: Value = serde_json::from_str(&guard.args(["doctor", "--json"]).output().text()).unwrap();
        report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "etcd").cloned()
    };
    let found = line(host.plain()).expect("a line");
    assert_eq!(found["status"], "ok", "{found}");
    assert!(found["detail"].as_str().unwrap().contains("version 3."), "{found}");
    let gone = host.plain().env("CCCI_ETCD_ENDPOINTS", "http://127.0.0.1:1");
    assert_eq!(line(gone).expect("a line")["status"], "error");
    assert_eq!(line(host.sandbox.plain()), None);
}

/// Each bad value is one sentence that names its source, with the form's own status.
/// Fails with a lease of any length allowed.
#[test]
fn bad_settings_are_said() {
    let sandbox = Sandbox::new();
    let good = ["--lock-backend", "etcd", "--etcd-endpoints", "http://127.0.0.1:1"];
    for (options, variables, words) in [
        (&["--lock-backend", "zookeeper"][..], &[][..], "--lock-backend 'zookeeper': is unknown; use flock or etcd"),
        (&["--lock-backend", "etcd"], &[], "needs --etcd-endpoints URL[,URL…] (CCCI_ETCD_ENDPOINTS)"),
        (&["--lease-ttl", "30s"], &[], "--lease-ttl '30s': means something with --lock-backend etcd only"),
        (&good, &[("CCCI_LEASE_TTL", "4s")], "CCCI_LEASE_TTL='4s': is too short: 5s at least"),
        (&good, &[("CCCI_LEASE_TTL", "11m")], "CCCI_LEASE_TTL='11m': is too long: 10m at most"),
        (&good, &[("CCCI_LEASE_TTL", "5500ms")], "is no whole number of seconds"),
        (&["--lock-backend", "etcd"], &[("CCCI_ETCD_ENDPOINTS", "127.0.0.1:1")], "is no etcd endpoint"),
        (&good, &[("CCCI_ETCD_USER", "ci")], "one of them is missing"),
        (&good, &[("CCCI_ETCD_CERT", "/etc/passwd")], "one of them is missing"),
        (&good, &[("CCCI_ETCD_CACERT", "/no/such")], "CCCI_ETCD_CACERT='/no/such': can't be read: "),
        (&["--lock-backend", "etcd", "--etcd-endpoints", "http://u:p@h:1"], &[], "set CCCI_ETCD_USER and"),
    ] {
        let with = |mut guard: Guard<'_>| {
            for (name, value) in variables {
                guard = guard.env(name, value);
            }
            guard.output()
        };
        let run = with(sandbox.run().app().teardown("none").args(options).sh("echo started"));
        let janitor = with(sandbox.plain().args(["janitor", "--zone", "ci.example.net"]).args(options));
        let locks = with(sandbox.plain().arg("locks").args(options));
        for (output, status) in [(run, 125), (janitor, 2), (locks, 2)] {
            assert_eq!(output.code(), status, "{options:?} {variables:?}: {}", output.stderr);
            assert!(output.stderr.contains(words), "{words:?} not in {}", output.stderr);
            assert_eq!((output.stderr.lines().count(), output.text().as_str()), (1, ""), "{}", output.stderr);
        }
    }
    // With the local backend the host's variables mean nothing, good or bad.
    let plain = sandbox.run().app().teardown("none").env("CCCI_LEASE_TTL", "1s").env("CCCI_ETCD_USER", "ci");
    assert_eq!(plain.harness(["true"]).output().code(), 0);
}

/// Nobody could renew the lease: refused, from the environment too, and nothing is run.
/// Fails with the look at the form taken out.
#[test]
fn exec_refuses_the_cluster_lock() {
    let sandbox = Sandbox::new();
    let flag = sandbox.exec().args(["--lock-backend", "etcd", "--etcd-endpoints", "http://127.0.0.1:1"]);
    let variable = sandbox.exec().env("CCCI_LOCK_BACKEND", "etcd").env("CCCI_ETCD_ENDPOINTS", "http://127.0.0.1:1");
    for guard in [flag, variable] {
        let output = guard.sh("echo started").output();
        assert_eq!((output.code(), output.text().as_str()), (125, ""), "{}", output.stderr);
        assert!(output.stderr.contains("nobody could renew the lease"), "{}", output.stderr);
    }
}

/// A user with a password that may touch our keys only; it is in no command line, log, lock line or report.
/// Fails with no new token asked for when the old one has expired, and with watches that don't log in.
#[test]
fn etcd_behind_a_password() {
    let Some(mut etcd) = Etcd::there() else { return };
    let post = |etcd: &Etcd, path: &str, body: Value| etcd.post(0, path, &body);
    let range = serde_json::json!({
        "permType": "READWRITE", "key": base64("/ccci/app-locks/"), "range_end": base64("/ccci/app-locks0"),
    });
    for (path, body) in [
        ("auth/user/add", serde_json::json!({ "name": "root", "password": "toor" })),
        ("auth/user/grant", serde_json::json!({ "user": "root", "role": "root" })),
        ("auth/role/add", serde_json::json!({ "name": "locks" })),
        ("auth/role/grant", serde_json::json!({ "name": "locks", "perm": range })),
        ("auth/user/add", serde_json::json!({ "name": "ci", "password": "hunter2" })),
        ("auth/user/grant", serde_json::json!({ "user": "ci", "role": "locks" })),
        ("auth/enable", serde_json::json!({})),
    ] {
        post(&etcd, path, body);
    }
    let (host, other, detector) = (Host::on(&etcd), Host::on(&etcd), Detector::new());
    let output = host.run(APP, "5s").sh("echo started").output();
    assert_eq!((output.code(), output.text().as_str()), (75, ""), "{}", output.stderr);
    let wrong = host.run(APP, "5s").env("CCCI_ETCD_USER", "ci").env("CCCI_ETCD_PASSWORD", "wrong");
    let output = wrong.sh("echo started").output();
    assert_eq!((output.code(), output.text().as_str()), (75, ""), "{}", output.stderr);
    assert!(output.stderr.contains("etcd refused: ") && !output.stderr.contains("wrong"), "{}", output.stderr);

    let log = host.sandbox.path("log");
    let guard = host.run(APP, "5s").env("CCCI_ETCD_USER", "ci").env("CCCI_ETCD_PASSWORD", "hunter2");
    let guard = guard.args(["-vv", "--log-file"]).arg(&log).report().stdin(Stdio::piped());
    let mut run = guard.sh(&detector.harness(APP, "read line; exit 0")).spawn();
    ready(&run);
    let keeper = keepers(run.monitor())[0];
    let line = fs::read_to_string(format!("/proc/{keeper}/cmdline")).unwrap();
    let lock = fs::read_to_string(host.sandbox.lock_path(APP)).unwrap();
    // A restart forgets all tokens: those of renewals and of watches.
    let next = other.run(APP, "5s").env("CCCI_ETCD_USER", "ci").env("CCCI_ETCD_PASSWORD", "hunter2");
    let mut next = next.sh(&detector.harness(APP, "sleep 60")).spawn();
    next.expect_stderr("waiting for the cluster's lock");
    etcd.kill(0);
    etcd.start(0);
    // Longer than the lease: it is renewed.
    assert!(run.try_line(std::time::Duration::from_secs(7)).is_none());
    drop(run.stdin());
    let ended = std::time::Instant::now();
    run.expect_code(0);
    ready(&next);
    // Not when the lease runs out.
    within("until the next one has it", ended.elapsed(), ..std::time::Duration::from_secs(3));
    // Its key is watched with a token of before the restart, and with a new one.
    etcd.kill(0);
    etcd.start(0);
    eventually(SOON, "a watch of its key", || etcd.watched(1));
    let token = etcd.post(0, "auth/authenticate", &serde_json::json!({ "name": "root", "password": "toor" }))["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    etcd.remove_key_as(APP, &token);
    let removed = std::time::Instant::now();
    next.expect_code(76);
    within("until the removal is noticed", removed.elapsed(), ..std::time::Duration::from_secs(2));
    let report = host.sandbox.report().to_string();
    let log = fs::read_to_string(log).unwrap();
    for (what, text) in [("argv", &line), ("lock line", &lock), ("report", &report), ("log", &log)] {
        assert!(!text.contains("hunter2"), "{what}: {text}");
    }
    assert!(!run.stderr().contains("hunter2"));
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// TLS with an authority of our own, and a certificate that etcd asks for. What can't be trusted is refused.
/// Fails with the authority's certificate ignored.
#[test]
fn etcd_behind_tls() {
    if !need("openssl", Command::new("openssl").arg("version").output().is_ok()) {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let at = |name: &str| keys.path().join(name).display().to_string();
    let script = "set -e
        new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr; }
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -days 2 -keyout ca.key -out ca.pem
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=no -days 2 -keyout no.key -out no.pem
        printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >ext
        for name in server client; do
            new $name
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $name.pem
        done";
    let made = Command::new("/bin/sh").args(["-c", script]).current_dir(keys.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (cert, key, ca) = (at("server.pem"), at("server.key"), at("ca.pem"));
    let options = [
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        "--client-cert-auth".to_owned(),
        format!("--trusted-ca-file={ca}"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let Some(etcd) = Etcd::of(1, &options) else { return };
    let host = Host::on(&etcd);
    let client = [("CCCI_ETCD_CERT", at("client.pem")), ("CCCI_ETCD_KEY", at("client.key"))];
    let with = |ca: &str, client: &[(&str, String)]| {
        let mut guard = host.run(APP, "5s").args(["--etcd-cacert", ca]);
        for (name, value) in client {
            guard = guard.env(name, value);
        }
        guard.sh("echo token $CCCI_APP_LOCK_TOKEN").output()
    };
    // The member answers when it has a leader; until then it can't be reached.
    eventually(SOON, "a run", || {
        let output = with(&at("ca.pem"), &client);
        if output.code() == 0 && output.text().starts_with("token ") { Ok(()) } else { Err(output.stderr) }
    });
    let output = with(&at("nothing.pem"), &client);
    assert_eq!((output.code(), output.text().as_str()), (125, ""), "{}", output.stderr);
    assert!(output.stderr.contains("nothing.pem': can't be read: "), "{}", output.stderr);
    for (what, output) in [
        ("another authority", with(&at("no.pem"), &client)),
        ("no certificate of ours", with(&at("ca.pem"), &[])),
        ("no certificate in it", with(&at("ca.key"), &client)),
    ] {
        assert_eq!((output.code(), output.text().as_str()), (75, ""), "{what}: {}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{what}: {}", output.stderr);
    }
}
