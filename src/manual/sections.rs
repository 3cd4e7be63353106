//! The sections of the man pages that clap knows nothing of.

#![forbid(unsafe_code)]

use crate::exit_status::{self, Forms};

/// Signals, as a run takes them.
const SIGNALS: [(&str, &str); 5] = [
    (
        "SIGTERM, SIGINT, SIGHUP, SIGQUIT",
        "stop the run: the harness gets the same signal, SIGKILL after the grace, then comes the teardown. A second one ends the grace; nothing ends a teardown but its limit",
    ),
    ("SIGUSR1, SIGUSR2, SIGWINCH", "are passed on to the harness"),
    ("SIGTSTP, SIGCONT", "stop and continue the run; the deadline goes on counting"),
    ("SIGKILL", "to the guard: the process of it that is left finishes the run"),
    ("SIGHUP, SIGINT", "that arrived ignored (nohup) stay ignored, for guard and harness"),
];

/// Signals, as the janitor and `reap` take them.
const REAPER_SIGNALS: [(&str, &str); 1] = [(
    "SIGTERM, SIGINT, SIGHUP, SIGQUIT",
    "end the round, or the wait for the lock; a teardown that has begun goes on to its end",
)];

/// Files that the program uses.
const FILES: [(&str, &str); 5] = [
    ("/run/lock/cc-ci-app-DOMAIN.lock", "the lock of an app (CCCI_APP_LOCK_DIR)"),
    ("/var/lib/cc-ci-runs/RUN/ccci-guard/", "owner file and state files of a run (CCCI_RUNS_DIR, CCCI_STATE_DIR)"),
    ("/var/lib/cc-ci-runs/RUN/abra/", "the ABRA_DIR of a run (--abra-dir auto)"),
    ("$XDG_RUNTIME_DIR/ccci-guard/, /tmp/ccci-guard-UID/", "state files where the runs directory can't be used"),
    ("~/.abra/", "the host's own ABRA_DIR (CCCI_CANONICAL_ABRA_DIR)"),
];

/// Variables that are no option's: those of options are named with them.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("CCCI_RUN_ID, CCCI_GUARD_PID, CCCI_DEADLINE_AT", "tell the harness of its run"),
    (
        "CCCI_APP_LOCK_FD, CCCI_APP_LOCK_PATH, CCCI_APP_LOCK_ID",
        "hand the app locks down to the harness, lists in the order of CCCI_APP_DOMAIN",
    ),
    (
        "CCCI_DEPLOY_COUNT_FILE, CCCI_OP_STATE_FILE, CCCI_DEPS_FILE, CCCI_DEPS_SKIP_FILE, CCCI_RUN_APPS_FILE",
        "name the state files of the harness",
    ),
    ("NO_COLOR", "no colour, also on a terminal"),
];

/// The sections of a page, in roff(7).
pub fn of(name: &str, example: &str) -> Vec<String> {
    let form = name.trim_start_matches("ccci-guard").trim_start_matches('-');
    let is_run = matches!(form, "" | "run" | "exec");
    let mut sections = Vec::new();
    // The page of the whole program has the bare form, which is `run`.
    let rows = exit_status::rows(if form.is_empty() { Forms::Run } else { Forms::of(form) });
    let mut statuses = list("EXIT STATUS", rows.map(|row| (row.status, row.meaning)));
    if form.is_empty() {
        statuses.push_str(
            ".PP
These are those of a run; each other command has a page of its own.
",
        );
    }
    sections.push(statuses);
    if is_run {
        sections.push(list("ENVIRONMENT", ENVIRONMENT.into_iter()));
    } else {
        sections.push(
            "\n.SH ENVIRONMENT\nThe variable and the default of an option stand in brackets behind it.\n".to_owned(),
        );
    }
    sections.push(list("FILES", FILES.into_iter()));
    if is_run {
        sections.push(list("SIGNALS", SIGNALS.into_iter()));
    } else if matches!(form, "janitor" | "reap") {
        sections.push(list("SIGNALS", REAPER_SIGNALS.into_iter()));
    }
    if let Some((_, example)) = example.split_once(": ") {
        sections.push(format!("\n.SH EXAMPLES\n.nf\n{}\n.fi\n", escaped(example)));
    }
    sections
}

fn list<'a>(title: &str, entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let entry = |(term, text)| format!(".TP\n\\fB{}\\fR\n{}\n", escaped(term), escaped(text));
    format!("\n.SH \"{title}\"\n{}", entries.map(entry).collect::<String>())
}

/// As roff takes it for text.
pub fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
