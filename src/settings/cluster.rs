//! What the options of the cluster lock mean: which etcd, how it is reached, how long a lease lasts.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::ClusterArgs;
use crate::duration;
use crate::error::Error;
use crate::settings::lookup::{Counts, Lookup, Value, absolute, at_least, one_of};
use crate::settings::{Form, variable};

/// A lease that lasts for less is lost by one slow disk; one that lasts for more keeps an app from its next owner.
const TTL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// Which etcd, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdSettings {
    /// `http://host:port` or `https://host:port`, in the order in which they are tried.
    pub endpoints: Vec<String>,
    /// Certificates of the authorities that etcd's own is checked against, PEM.
    pub cacert: Option<PathBuf>,
    /// Our certificate, PEM.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// The user that we are to etcd, and the password.
    pub user: Option<(String, Secret)>,
    /// How long a lease lasts without a renewal, in seconds.
    pub ttl: u64,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Settles the options of the cluster lock for a form that runs nothing; `None`: there is none.
///
/// # Errors
/// The first thing that is wrong, as one sentence.
pub fn resolve_cluster(args: &ClusterArgs) -> Result<Option<EtcdSettings>, Error> {
    Lookup { nested: false, form: Form::Run }.cluster(args)
}

impl Lookup {
    /// Settles the options of the cluster lock; `None`: there is none.
    pub(super) fn cluster(&self, args: &ClusterArgs) -> Result<Option<EtcdSettings>, Error> {
        let always = Counts::Always;
        let backend = self.value(args.lock_backend.as_ref(), "lock-backend", always);
        let backends = one_of(&[("flock", false), ("etcd", true)]);
        let Some(backend) = backend.map(|value| value.parse(backends).map(|etcd| (value, etcd))).transpose()? else {
            return without_backend(args);
        };
        let (backend, true) = backend else { return without_backend(args) };
        if self.form == Form::Exec {
            // From the environment too: a run that was to be alone in its cluster must not start unprotected.
            return Err(backend.bad("can't be kept by exec: nobody could renew the lease; use: ccci-guard run"));
        }
        let endpoints = self
            .value(args.etcd_endpoints.as_ref(), "etcd-endpoints", always)
            .ok_or_else(|| backend.bad("needs --etcd-endpoints URL[,URL…] (CCCI_ETCD_ENDPOINTS)"))?;
        let urls = endpoints.entries().iter().map(|entry| entry.parse(endpoint)).collect::<Result<Vec<_>, _>>()?;
        let cacert = self.readable(args.etcd_cacert.as_ref(), "etcd-cacert")?;
        let cert = self.readable(args.etcd_cert.as_ref(), "etcd-cert")?;
        let key = self.readable(args.etcd_key.as_ref(), "etcd-key")?;
        if cert.is_some() != key.is_some() {
            return Err(backend.bad("takes --etcd-cert and --etcd-key together: one of them is missing"));
        }
        let ttl = self.parsed(args.lease_ttl.as_ref(), "lease-ttl", always, lease_ttl)?;
        Ok(Some(EtcdSettings { endpoints: urls, cacert, cert, key, user: user(&backend)?, ttl: ttl.unwrap_or(30) }))
    }
}

impl Lookup {
    /// A file that can be read now: better said at the start than by whoever needs it.
    fn readable(&self, flag: Option<&OsString>, option: &str) -> Result<Option<PathBuf>, Error> {
        let Some(value) = self.value(flag, option, Counts::Always) else { return Ok(None) };
        let path = absolute(&value)?;
        match File::open(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) => Err(value.bad(format!("can't be read: {error}"))),
        }
    }
}

/// A flag that means nothing without etcd was meant to have it; variables may be those of the whole host.
fn without_backend(args: &ClusterArgs) -> Result<Option<EtcdSettings>, Error> {
    match args.of_etcd().into_iter().find_map(|(name, text)| text.map(|text| Value::flag(name, text))) {
        Some(value) => Err(value.bad("means something with --lock-backend etcd only; add that, or leave it out")),
        None => Ok(None),
    }
}

/// From the environment alone: a command line is everybody's to read.
fn user(backend: &Value) -> Result<Option<(String, Secret)>, Error> {
    let text = |name: &str| match variable(name).map(OsString::into_string) {
        Some(Err(_)) => Err(Error::Usage(format!("{name} is not UTF-8"))),
        Some(Ok(text)) => Ok(Some(text)),
        None => Ok(None),
    };
    match (text("CCCI_ETCD_USER")?, text("CCCI_ETCD_PASSWORD")?) {
        (Some(name), Some(password)) => Ok(Some((name, Secret(password)))),
        (None, None) => Ok(None),
        _ => Err(backend.bad("takes CCCI_ETCD_USER and CCCI_ETCD_PASSWORD together: one of them is missing")),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match host {
        Some(host) if host.contains('@') => {
            Err("has a user in it; set CCCI_ETCD_USER and CCCI_ETCD_PASSWORD instead".to_owned())
        }
        Some(host) if !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"/?#,".contains(c)) => {
            Ok(url.to_owned())
        }
        _ => Err("has an entry that is no etcd endpoint; use URLs like http://10.0.0.1:2379".to_owned()),
    }
}

fn lease_ttl(text: &str) -> Result<u64, String> {
    let ttl = at_least(TTL.0)(text)?;
    if ttl > TTL.1 {
        return Err(format!("is too long: {} at most", duration::show(TTL.1)));
    }
    if ttl.subsec_nanos() != 0 {
        return Err("is no whole number of seconds, as etcd counts them".to_owned());
    }
    Ok(ttl.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_without_a_path() {
        for good in ["http://127.0.0.1:2379", "https://etcd.example.net:2379/", "http://[::1]:2379"] {
            assert_eq!(endpoint(good), Ok(good.trim_end_matches('/').to_owned()));
        }
        for bad in ["", "127.0.0.1:2379", "http://", "ftp://a", "http://a/v3", "http://u:p@a:1", "http://a b"] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_lease_lasts_from_five_seconds_to_ten_minutes() {
        assert_eq!((lease_ttl("5s"), lease_ttl("10m")), (Ok(5), Ok(600)));
        for bad in ["4999ms", "601s", "5500ms", "30"] {
            assert!(lease_ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert!(!format!("{:?}", Secret("hunter2".to_owned())).contains("hunter2"));
    }
}
