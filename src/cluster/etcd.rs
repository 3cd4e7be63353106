//! etcd through its JSON gateway (grpc-gateway, `/v3/…`): the few calls that a lease needs.
//!
//! Keys and values travel as base64, numbers of 64 bits as text; what is zero is left out.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::cluster::request::Seen;
use crate::settings::EtcdSettings;

/// Before the domain, in etcd.
const PREFIX: &str = "/ccci/app-locks/";
/// What a holder writes into its key before it removes it.
const GIVEN_BACK: &str = "given back";
/// An answer that is longer is none of etcd's to us: ten thousand holders' lines are a few megabytes.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;
/// A connection on which nothing comes for so long may be dead without anybody having noticed.
const QUIET_MAX: Duration = Duration::from_secs(300);
/// Statuses of gRPC by which a member says that it can't answer now; another one may (google.rpc.Code).
const NOT_NOW: [i64; 4] = [4, 8, 13, 14];
/// The status of gRPC for a token that has expired.
const UNAUTHENTICATED: i64 = 16;

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) enum Problem {
    /// No endpoint answered.
    Unreachable(String),
    /// One did, and said no.
    Refused(String),
}

impl Problem {
    /// In words.
    pub(super) fn text(&self) -> &str {
        match self {
            Problem::Unreachable(text) | Problem::Refused(text) => text,
        }
    }
}

/// What an attempt to make a key gave.
pub(super) enum Made {
    /// It is ours; its create revision.
    Ours(i64),
    /// Somebody has it, as of this revision of the store.
    Others(Seen, i64),
}

/// A client.
pub(super) struct Client {
    agent: Agent,
    /// For answers that go on for ever.
    streaming: Agent,
    etcd: EtcdSettings,
    /// The endpoint that answered last.
    best: usize,
    token: Option<String>,
}

impl Client {
    /// One whose tries take so long at each endpoint, at most.
    ///
    /// # Errors
    /// A certificate that can't be used.
    pub(super) fn new(etcd: &EtcdSettings, limit: Duration) -> Result<Self, Problem> {
        let tls = tls(etcd)?;
        // No proxy: HTTP_PROXY is for the world outside, and a lock may not depend on it. No redirect: etcd knows none.
        let config = || {
            let config = Agent::config_builder().tls_config(tls.clone()).proxy(None).max_redirects(0);
            config.http_status_as_error(false).timeout_connect(Some(limit)).timeout_recv_response(Some(limit))
        };
        Ok(Client {
            agent: config().timeout_global(Some(limit)).max_idle_age(Duration::from_secs(etcd.ttl)).build().into(),
            streaming: config().timeout_per_read(Some(QUIET_MAX)).build().into(),
            etcd: etcd.clone(),
            best: 0,
            token: None,
        })
    }

    /// etcd's version.
    pub(super) fn version(&mut self) -> Result<String, Problem> {
        // Any call that needs what our calls need: a user, a quorum.
        self.holders(&["".to_owned()])?;
        // What only tells may be kept from a user who may do all that is needed.
        let status = self.call("maintenance/status", &json!({})).unwrap_or_default();
        Ok(status["version"].as_str().unwrap_or("unknown").to_owned())
    }

    /// A lease of so many seconds: its number, and how many etcd gave.
    pub(super) fn grant(&mut self, ttl: u64) -> Result<(i64, u64), Problem> {
        let answer = self.call("lease/grant", &json!({ "TTL": ttl.to_string() }))?;
        match (number(&answer["ID"]), number(&answer["TTL"])) {
            (Some(id), Some(given)) if given > 0 => Ok((id, given as u64)),
            _ => Err(Problem::Refused(format!("no lease in the answer {answer}"))),
        }
    }

    /// Renews a lease: how many seconds it has from the moment of the request on. None: it is over.
    pub(super) fn renew(&mut self, lease: i64) -> Result<Option<u64>, Problem> {
        let answer = self.call("lease/keepalive", &json!({ "ID": lease.to_string() }))?;
        Ok(number(&answer["result"]["TTL"]).filter(|ttl| *ttl > 0).map(|ttl| ttl as u64))
    }

    /// Ends a lease, and with it the keys that hang on it.
    fn revoke(&mut self, lease: i64) -> Result<(), Problem> {
        self.call("lease/revoke", &json!({ "ID": lease.to_string() })).map(|_| ())
    }

    /// Makes a key with a lease, unless it is there.
    pub(super) fn make(&mut self, app: &str, value: &str, lease: i64) -> Result<Made, Problem> {
        let name = key(app);
        let answer = self.call(
            "kv/txn",
            &json!({
                "compare": [{ "key": name, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
                "success": [{ "request_put": {
                    "key": name, "value": STANDARD.encode(value), "lease": lease.to_string(),
                } }],
                "failure": [{ "request_range": { "key": name } }],
            }),
        )?;
        let Some(revision) = number(&answer["header"]["revision"]) else {
            return Err(Problem::Refused(format!("no revision in the answer {answer}")));
        };
        let holder = &answer["responses"][0]["response_range"]["kvs"][0];
        match answer["succeeded"].as_bool() {
            Some(true) => Ok(Made::Ours(revision)),
            // A request that was sent twice, because its first answer got lost, finds its own key.
            _ if number(&holder["lease"]) == Some(lease) => {
                Ok(Made::Ours(number(&holder["create_revision"]).unwrap_or(revision)))
            }
            _ => Ok(Made::Others(seen(app.to_owned(), holder), revision)),
        }
    }

    /// Says in a key, while it is still ours, that it is given back and not lost; then ends its lease.
    pub(super) fn give_back(&mut self, keys: &[(String, i64)], lease: i64) -> Result<(), Problem> {
        for (app, token) in keys {
            let name = key(app);
            let compare = json!({
                "key": name, "target": "CREATE", "result": "EQUAL", "create_revision": token.to_string(),
            });
            let put = json!({ "key": name, "value": STANDARD.encode(GIVEN_BACK), "lease": lease.to_string() });
            self.call("kv/txn", &json!({ "compare": [compare], "success": [{ "request_put": put }] }))?;
        }
        self.revoke(lease)
    }

    /// For how long a lease lasts still, and was granted, in seconds; nothing, where it is over.
    pub(super) fn remaining(&mut self, lease: i64) -> Result<Option<(u64, u64)>, Problem> {
        let answer = self.call("lease/timetolive", &json!({ "ID": lease.to_string() }))?;
        let seconds = |name: &str| number(&answer[name]).filter(|seconds| *seconds > 0).map(|seconds| seconds as u64);
        Ok(seconds("TTL").zip(seconds("grantedTTL")))
    }

    /// The create revision of an app's key, if it is there.
    pub(super) fn create_revision(&mut self, app: &str) -> Result<Option<i64>, Problem> {
        let answer = self.call("kv/range", &json!({ "key": key(app) }))?;
        Ok(number(&answer["kvs"][0]["create_revision"]))
    }

    /// Who holds these apps; all, where none is named.
    pub(super) fn holders(&mut self, apps: &[String]) -> Result<Vec<Seen>, Problem> {
        let mut found = Vec::new();
        let all = json!({ "key": key(""), "range_end": STANDARD.encode("/ccci/app-locks0") });
        let ranges: Vec<Value> =
            if apps.is_empty() { vec![all] } else { apps.iter().map(|app| json!({ "key": key(app) })).collect() };
        for range in ranges {
            let answer = self.call("kv/range", &range)?;
            for entry in answer["kvs"].as_array().into_iter().flatten() {
                let name = decoded(&entry["key"]);
                let app = name.as_deref().and_then(|name| name.strip_prefix(PREFIX));
                found.extend(app.map(|app| seen(app.to_owned(), entry)));
            }
        }
        Ok(found)
    }

    /// Watches an app's key for its removal; returns the lines of the answer as they come. From `revision` on, else from
    /// now.
    pub(super) fn watch(&mut self, app: &str, revision: Option<i64>) -> Result<impl BufRead + use<>, Problem> {
        let mut request = json!({ "key": key(app), "filters": ["NOPUT"], "prev_kv": true });
        if let Some(revision) = revision {
            request["start_revision"] = revision.to_string().into();
        }
        let request = json!({ "create_request": request }).to_string();
        self.log_in()?;
        let mut said = "no endpoint".to_owned();
        for index in self.best_first() {
            match self.send(&self.streaming, index, "watch", &request) {
                Ok(body) => return Ok(BufReader::new(body.into_reader())),
                Err(error) => said = format!("{}: {error}", self.etcd.endpoints[index]),
            }
        }
        Err(Problem::Unreachable(said))
    }

    /// For a watch that was refused: its token may have expired, and the next one gets another.
    pub(super) fn forget_token(&mut self) {
        self.token = None;
    }

    /// The endpoints, beginning with the one that answered last.
    fn best_first(&self) -> impl Iterator<Item = usize> + use<> {
        let (best, count) = (self.best, self.etcd.endpoints.len());
        (0..count).map(move |offset| (best + offset) % count)
    }

    /// Calls the first endpoint that answers; logs in again where the token has expired.
    fn call(&mut self, path: &str, request: &Value) -> Result<Value, Problem> {
        self.log_in()?;
        match self.try_all(path, request) {
            Err((UNAUTHENTICATED, _)) if self.token.take().is_some() => {
                self.log_in()?;
                self.try_all(path, request).map_err(|(_, problem)| problem)
            }
            answer => answer.map_err(|(_, problem)| problem),
        }
    }

    fn log_in(&mut self) -> Result<(), Problem> {
        let Some((name, password)) = self.etcd.user.clone().filter(|_| self.token.is_none()) else { return Ok(()) };
        let request = json!({ "name": name, "password": password.0 });
        let answer = self.try_all("auth/authenticate", &request).map_err(|(_, problem)| problem)?;
        self.token = answer["token"].as_str().map(str::to_owned);
        Ok(())
    }

    /// Each endpoint in turn, until one answers; with gRPC's status where that is a no.
    fn try_all(&mut self, path: &str, request: &Value) -> Result<Value, (i64, Problem)> {
        let request = request.to_string();
        let mut said = Vec::new();
        for index in self.best_first() {
            let endpoint = &self.etcd.endpoints[index];
            let body = self.send(&self.agent, index, path, &request);
            match body.and_then(|body| answer(body).map_err(|error| error.to_string())) {
                Err(error) => said.push(format!("{endpoint}: {error}")),
                Ok(answer) => match refusal(&answer) {
                    None => {
                        self.best = index;
                        return Ok(answer);
                    }
                    Some((code, text)) if NOT_NOW.contains(&code) => said.push(format!("{endpoint}: {text}")),
                    Some((code, text)) => return Err((code, Problem::Refused(format!("{endpoint}: {text}")))),
                },
            }
        }
        Err((0, Problem::Unreachable(said.join("; "))))
    }

    fn send(&self, agent: &Agent, index: usize, path: &str, request: &str) -> Result<Body, String> {
        let url = format!("{}/v3/{path}", self.etcd.endpoints[index]);
        let mut call = agent.post(&url).content_type("application/json");
        if let Some(token) = &self.token {
            call = call.header("Authorization", token);
        }
        call.send(request).map(|response| response.into_body()).map_err(|error| error.to_string())
    }
}

/// The first object of an answer: some calls answer by a stream of which there is one. Read to the end, so that the
/// connection can be used again: a renewal needs no new one, nor a descriptor, nor TLS once more.
fn answer(mut body: Body) -> std::io::Result<Value> {
    let mut text = String::new();
    body.as_reader().take(ANSWER_MAX).read_to_string(&mut text)?;
    let line = text.lines().next().unwrap_or_default();
    serde_json::from_str(line).map_err(|_| {
        let shown: String = line.chars().take(80).filter(|c| !c.is_control()).collect();
        std::io::Error::other(format!("no JSON, is this an etcd? {shown}"))
    })
}

/// gRPC's status and text, where an answer is a no.
pub(super) fn refusal(answer: &Value) -> Option<(i64, String)> {
    let error = [&answer["error"], answer].into_iter().find(|error| !error["code"].is_null())?;
    let text = ["message", "error"].iter().find_map(|name| error[*name].as_str()).unwrap_or("no reason given");
    let code = [&error["grpc_code"], &error["code"]].into_iter().find_map(number).unwrap_or(0);
    Some((code, text.to_owned()))
}

/// A key's removal, as a watch tells of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    /// The create revision that the key had, where etcd still knows: the watch may be about an older key than is meant.
    pub(super) token: Option<i64>,
    /// Its holder said before that it gives it back.
    pub(super) given_back: bool,
}

/// The removal that an event of a watch is about.
pub(super) fn removal(event: &Value) -> Option<Removal> {
    let before = &event["prev_kv"];
    (event["type"] == "DELETE").then(|| Removal {
        token: number(&before["create_revision"]),
        given_back: decoded(&before["value"]).as_deref() == Some(GIVEN_BACK),
    })
}

/// A number, as JSON has it or as text.
pub(super) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn key(app: &str) -> String {
    STANDARD.encode(format!("{PREFIX}{app}"))
}

fn decoded(value: &Value) -> Option<String> {
    String::from_utf8(STANDARD.decode(value.as_str()?).ok()?).ok()
}

fn seen(app: String, entry: &Value) -> Seen {
    let line = decoded(&entry["value"]).and_then(|line| serde_json::from_str(&line).ok());
    let number = |name: &str| number(&entry[name]).unwrap_or(0);
    Seen { app, line, token: number("create_revision"), lease: number("lease") }
}

fn tls(etcd: &EtcdSettings) -> Result<TlsConfig, Problem> {
    let mut config = TlsConfig::builder();
    if let Some(path) = &etcd.cacert {
        let roots = certificates(path)?;
        config = config.root_certs(RootCerts::new_with_certs(&roots));
    }
    if let (Some(cert), Some(key)) = (&etcd.cert, &etcd.key) {
        let bad = |error: ureq::Error| Problem::Refused(format!("'{}' is no key: {error}", key.display()));
        let key = PrivateKey::from_pem(&read(key)?).map_err(bad)?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&certificates(cert)?, key)));
    }
    Ok(config.build())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Problem> {
    let text = read(path)?;
    let found: Vec<_> = parse_pem(&text)
        .filter_map(|item| if let Ok(PemItem::Certificate(certificate)) = item { Some(certificate) } else { None })
        .collect();
    if found.is_empty() {
        return Err(Problem::Refused(format!("'{}' has no certificate in it", path.display())));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|error| Problem::Refused(format!("'{}' can't be read: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_is_told_from_an_answer() {
        for (text, expected) in [
            (r#"{"header":{"revision":"3"},"kvs":[]}"#, None),
            (r#"{"error":"etcdserver: requested lease not found","code":5,"message":"m"}"#, Some((5, "m"))),
            (r#"{"error":{"grpc_code":14,"http_code":503,"message":"no leader","code":503}}"#, Some((14, "no leader"))),
            (r#"{"error":"x","code":16}"#, Some((16, "x"))),
        ] {
            let value: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(refusal(&value), expected.map(|(code, text)| (code, text.to_owned())), "{text}");
        }
    }

    #[test]
    fn numbers_come_as_text() {
        assert_eq!((number(&json!("7")), number(&json!(7)), number(&json!("x"))), (Some(7), Some(7), None));
    }
}
