//! What people see: one line an event on stderr and in the log file, as text or JSON.
//!
//! Best effort and never blocking: a closed, full or slow stderr changes nothing of a run. Events come from
//! `tracing`'s macros; this subscriber exists because `tracing-subscriber`'s writers block and panic-print,
//! and its registry costs more at start than a run that says nothing should pay.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize, Serializer};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::Error;
use crate::sys::{fd, time};

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// `ccci-guard: warning: …`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// When text is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What is logged, where and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Text or JSON.
    pub format: Format,
    /// Colour on stderr.
    pub color: Color,
    /// The `NO_COLOR` variable is set.
    pub no_color: bool,
    /// -v counts up, -q down.
    pub verbosity: i8,
    /// Gets every event, before stderr does.
    pub file: Option<PathBuf>,
}

struct Log {
    settings: Settings,
    file: Option<File>,
    run_id: OnceLock<String>,
    stderr: Mutex<Option<Stderr>>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts logging. Nothing is opened but the log file; stderr follows with the first line.
///
/// # Errors
/// When the log file can't be opened.
pub fn start(settings: Settings) -> Result<(), Error> {
    let file = settings.file.as_deref().map(open_log_file).transpose()?;
    // The first caller wins; there is only one.
    let _ = LOG.set(Log { settings, file, run_id: OnceLock::new(), stderr: Mutex::new(None) });
    let _ = tracing::subscriber::set_global_default(ToLog);
    Ok(())
}

fn open_log_file(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .append(true)
        // A FIFO without a reader must not hold the start up.
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(|error| Error::File { what: "cannot open the log file", path: path.to_owned(), error })
}

/// How this process logs, and for which run: for a process of ours that is to log the same way.
pub fn settings() -> (Settings, Option<String>) {
    LOG.get().map(|log| (log.settings.clone(), log.run_id.get().cloned())).unwrap_or_default()
}

/// From now on JSON lines name this run.
pub fn set_run_id(run_id: &str) {
    if let Some(log) = LOG.get() {
        let _ = log.run_id.set(run_id.to_owned());
    }
}

/// From now on this process speaks of this app: JSON lines name it, and [`of_app`] where it is one of several.
pub fn set_app(app: Option<&str>, one_of_several: bool) {
    let app = app.map(|app| (app.to_owned(), one_of_several));
    *APP.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = app;
}

static APP: Mutex<Option<(String, bool)>> = Mutex::new(None);

/// `APP: ` where this process speaks of one of several apps, else nothing.
pub fn of_app() -> String {
    match &*APP.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some((app, true)) => format!("{app}: "),
        _ => String::new(),
    }
}

/// Writes data to stdout. A reader that has gone is a quiet end; what else goes wrong is said, and [`stdout_failed`] tells.
pub fn stdout(data: &str) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(data.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            STDOUT_FAILED.store(true, Ordering::Relaxed);
            say_error(&format!("cannot write to stdout: {error}"));
        }
        _ => {}
    }
}

static STDOUT_FAILED: AtomicBool = AtomicBool::new(false);

/// Did data get lost on its way to stdout, for another reason than that nobody reads it?
pub fn stdout_failed() -> bool {
    STDOUT_FAILED.load(Ordering::Relaxed)
}

/// One JSON object and a line end, as data on stdout has it. People read it on terminals too: see [`visible`].
pub fn json_line(data: &impl Serialize) -> String {
    let text = serde_json::to_string(data).unwrap_or_default();
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // In JSON such a character is in a string, and below U+0020 it is escaped already.
        if is_hidden(c) {
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// A foreign text as one harmless line: what would move the cursor, hide, or turn round what stands beside it is escaped.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    text.chars().flat_map(|c| if is_hidden(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Control characters, and Unicode's own: line ends, marks of direction, and characters without a width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// For serde: a path as text, whatever bytes it has. JSON has no others, and a path that is not UTF-8 is no reason for none.
pub fn path_as_text<S: Serializer>(path: &impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}

/// Says an error of the command line itself, before (or without) [`start`].
pub fn say_error(message: &str) {
    if LOG.get().is_none() {
        let _ = start(Settings::default());
    }
    tracing::error!(event = "error", "{message}");
}

struct ToLog;

impl Subscriber for ToLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let Some(log) = LOG.get() else { return false };
        log.file.is_some() || *metadata.level() <= log.settings.shown()
    }

    fn event(&self, event: &Event<'_>) {
        let Some(log) = LOG.get() else { return };
        let mut line = Line::default();
        event.record(&mut line);
        log.write(*event.metadata().level(), &line);
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Settings {
    /// Is text coloured, on a terminal or elsewhere?
    pub fn wants_color(&self, is_terminal: bool) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && !self.no_color,
        }
    }

    fn shown(&self) -> Level {
        match self.verbosity {
            ..=-2 => Level::ERROR,
            -1 => Level::WARN,
            0 => Level::INFO,
            1 => Level::DEBUG,
            2.. => Level::TRACE,
        }
    }
}

impl Log {
    fn write(&self, level: Level, line: &Line) {
        let text = |color| match self.settings.format {
            Format::Text => line.as_text(level, color),
            Format::Json => line.as_json(level, self.run_id.get().map(String::as_str)),
        };
        if let Some(mut file) = self.file.as_ref() {
            let mut line = text(false);
            if self.settings.format == Format::Text {
                // It is read later, and may be that of many runs.
                line.insert_str(0, &format!("{} {} ", timestamp(), self.run_id.get().map_or("-", String::as_str)));
            }
            // One write a line: lines of several processes don't mix (O_APPEND, write(2)).
            let _ = file.write(line.as_bytes());
        }
        if level <= self.settings.shown() {
            // A poisoned lock is no reason to be silent.
            let mut stderr = self.stderr.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let stderr = stderr.get_or_insert_with(Stderr::open);
            let color = self.settings.wants_color(stderr.is_terminal);
            stderr.write(text(color).as_bytes());
        }
    }
}

/// Now, in UTC.
fn timestamp() -> String {
    let now = std::time::SystemTime::UNIX_EPOCH + time::since_epoch();
    humantime::format_rfc3339_millis(now).to_string()
}

/// The fields of one event.
#[derive(Default)]
struct Line {
    message: String,
    event: String,
    app: Option<String>,
    pid: Option<i64>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "event" => write!(self.event, "{value:?}"),
            "app" => write!(self.app.get_or_insert_default(), "{value:?}"),
            _ => Ok(()),
        }
        .unwrap_or_default();
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => value.clone_into(&mut self.event),
            "app" => self.app = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "pid" {
            self.pid = Some(value);
        }
    }
}

impl Line {
    fn as_text(&self, level: Level, color: bool) -> String {
        let (word, code) = match level {
            Level::ERROR => ("error: ", "1;31"),
            Level::WARN => ("warning: ", "1;33"),
            _ => ("", ""),
        };
        let mut line = String::from("ccci-guard: ");
        if color && !word.is_empty() {
            let _ = write!(line, "\x1b[{code}m{word}\x1b[0m");
        } else {
            line.push_str(word);
        }
        // One event, one line, whatever a process called itself or a teardown printed.
        for part in self.message.split_inclusive('\t') {
            let text = part.trim_end_matches('\t');
            line.push_str(&visible(text));
            line.push_str(&part[text.len()..]);
        }
        line.push('\n');
        line
    }

    fn as_json(&self, level: Level, run_id: Option<&str>) -> String {
        json_line(&serde_json::json!({
            "ts": timestamp(),
            "level": level.as_str().to_ascii_lowercase(),
            "event": self.event,
            "message": self.message,
            "app": self.app.clone().or_else(|| APP.lock().ok()?.as_ref().map(|(app, _)| app.clone())),
            "pid": self.pid,
            "run_id": run_id,
        }))
    }
}

/// Stderr, opened so that writing never waits and the caller's own description stays as it is.
struct Stderr {
    kind: StderrKind,
    is_terminal: bool,
}

enum StderrKind {
    /// A description of our own, non-blocking.
    Reopened(File),
    /// A socket can't be reopened, but sent to without waiting.
    Socket,
    /// A regular file: a second description would have an offset of its own and write over what is there.
    Regular,
    /// Something that can't be reopened: asked first whether it would wait.
    Shared,
}

impl Stderr {
    fn open() -> Self {
        let stderr = std::io::stderr();
        let is_terminal = stderr.is_terminal();
        let kind = match std::fs::metadata("/proc/self/fd/2").map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_socket() => StderrKind::Socket,
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => OpenOptions::new()
                .write(true)
                .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
                .open("/proc/self/fd/2")
                .map_or(StderrKind::Shared, StderrKind::Reopened),
            Ok(kind) if kind.is_file() => StderrKind::Regular,
            _ => StderrKind::Shared,
        };
        Stderr { kind, is_terminal }
    }

    fn write(&mut self, line: &[u8]) {
        let stderr = std::io::stderr();
        let _ = match &mut self.kind {
            StderrKind::Reopened(file) => file.write(line),
            StderrKind::Regular => (&stderr).write(line),
            StderrKind::Socket => fd::send_now(&stderr, line).map(|()| line.len()),
            StderrKind::Shared if fd::takes_writes(&stderr) => (&stderr).write(line),
            StderrKind::Shared => Ok(0),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_is_one_line_without_control_characters() {
        let line = Line { message: "killed 5 (a\nb\x1b[2J)".to_owned(), ..Line::default() };
        assert_eq!(line.as_text(Level::WARN, false), "ccci-guard: warning: killed 5 (a\\nb\\u{1b}[2J)\n");
    }
}
