//! What a round says: a line an app, or JSON, metrics, and the exit status.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::getpid;
use serde::{Serialize, Serializer};

use crate::exit_status::ExitStatus;
use crate::janitor::classify::Verdict;
use crate::log;
use crate::sys::time;
use crate::teardown::StepReport;

/// One app. Its keys are a contract.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the keys are documented in docs/commands/janitor.md")]
pub struct Entry {
    pub app: String,
    pub stack: String,
    pub verdict: Verdict,
    pub why: String,
    pub lock: LockReport,
    pub steps: Vec<StepReport>,
    pub residual: Vec<String>,
}

/// What its lock told.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the keys are documented in docs/commands/janitor.md")]
pub struct LockReport {
    #[serde(serialize_with = "optional_path_as_text")]
    pub path: Option<PathBuf>,
    pub held_s: Option<f64>,
    pub holder: Option<HolderReport>,
}

/// Who holds it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the keys are documented in docs/commands/janitor.md")]
pub struct HolderReport {
    pub pid: Option<i32>,
    pub run_id: Option<String>,
    pub command: Option<String>,
}

fn optional_path_as_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => log::path_as_text(path, serializer),
        None => serializer.serialize_none(),
    }
}

impl Entry {
    /// An app, what became of it, and why.
    pub fn new(app: &str, verdict: Verdict, why: impl Into<String>) -> Self {
        Entry {
            app: app.to_owned(),
            stack: app.replace('.', "_"),
            verdict,
            why: why.into(),
            lock: LockReport { path: None, held_s: None, holder: None },
            steps: Vec::new(),
            residual: Vec::new(),
        }
    }
}

/// A whole round.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    schema: u32,
    apps: Vec<Entry>,
    counts: BTreeMap<&'static str, usize>,
}

impl Report {
    /// Of these apps.
    pub fn of(apps: Vec<Entry>) -> Self {
        let count = |verdict: Verdict| apps.iter().filter(|entry| entry.verdict == verdict).count();
        let counts = Verdict::ALL.iter().map(|&verdict| (verdict.name(), count(verdict))).collect();
        Report { schema: 1, apps, counts }
    }

    fn count(&self, verdicts: &[Verdict]) -> usize {
        verdicts.iter().filter_map(|verdict| self.counts.get(verdict.name())).sum()
    }

    /// 1 when something failed or is partial; 3, where asked for, when there were findings.
    pub fn exit_status(&self, fail_on_findings: bool) -> u8 {
        let findings = [Verdict::PossibleLeak, Verdict::HeldUnlinked, Verdict::Skipped];
        let status = if self.count(&[Verdict::Failed, Verdict::Partial]) > 0 {
            ExitStatus::Failed
        } else if fail_on_findings && self.count(&findings) > 0 {
            ExitStatus::Findings
        } else {
            ExitStatus::Success
        };
        status as u8
    }

    /// `DOMAIN  VERDICT  WHY` a line, then the counts that are not 0.
    pub fn as_text(&self) -> String {
        let mut text = String::new();
        for entry in &self.apps {
            let _ =
                writeln!(text, "{}  {}  {}", log::visible(&entry.app), entry.verdict.text(), log::visible(&entry.why));
        }
        let counts =
            Verdict::ALL.iter().map(|verdict| (verdict, self.count(&[*verdict]))).filter(|(_, count)| *count > 0);
        let counts: Vec<String> = counts.map(|(verdict, count)| format!("{count} {}", verdict.text())).collect();
        let counts = if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") };
        let apps = if self.apps.len() == 1 { "app" } else { "apps" };
        let _ = writeln!(text, "{} {apps}: {counts}", self.apps.len());
        text
    }

    /// One object, and a line end.
    pub fn as_json(&self) -> String {
        log::json_line(self)
    }
}

/// Writes the metrics whole, for the node_exporter's textfile collector.
pub fn write_metrics(path: &Path, report: &Report, took: Duration, status: u8) {
    let mut text = String::from("# TYPE ccci_janitor_apps gauge\n");
    for verdict in Verdict::ALL {
        let (name, count) = (verdict.name(), report.count(&[verdict]));
        let _ = writeln!(text, "ccci_janitor_apps{{verdict=\"{name}\"}} {count}");
    }
    let values = [
        ("last_round_timestamp_seconds", time::since_epoch().as_secs_f64()),
        ("round_seconds", took.as_secs_f64()),
        ("exit_status", f64::from(status)),
    ];
    for (name, value) in values {
        let _ = writeln!(text, "# TYPE ccci_janitor_{name} gauge\nccci_janitor_{name} {value}");
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", getpid()));
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        tracing::error!(event = "metrics-failed", "cannot write the metrics '{}': {error}", path.display());
    }
}
