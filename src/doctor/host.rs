//! What the kernel and the file systems of this host must give.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access, getpid};
use signal_hook::consts::SIGCHLD;

use crate::doctor::Check;
use crate::duration;
use crate::lock::path::LockDirectory;
use crate::settings::DoctorSettings;
use crate::sys::process;
use crate::sys::signal::Inherited;

/// Is there a directory for the locks, on a file system where they hold?
pub fn lock_directory(settings: &DoctorSettings) -> Check {
    let (name, path) = ("lock-directory", &settings.lock_dir);
    let shown = path.display();
    match LockDirectory::open_existing(path) {
        Err(error) => Check::error(
            name,
            error.to_string(),
            "set CCCI_APP_LOCK_DIR to a local directory, for runs and janitor alike",
        ),
        Ok(None) if path.symlink_metadata().is_ok() => {
            Check::error(name, format!("'{shown}' is a symbolic link to nothing"), "mend it, or set CCCI_APP_LOCK_DIR")
        }
        Ok(None) => match path.parent().map(writable) {
            Some(true) => Check::warning(
                name,
                format!("'{shown}' is not there yet"),
                "the first run makes it; the janitor skips everything until then",
            ),
            _ => Check::error(
                name,
                format!("'{shown}' is not there, nor can it be made"),
                "make it, or set CCCI_APP_LOCK_DIR",
            ),
        },
        Ok(Some(_)) if !writable(path) => Check::error(
            name,
            format!("'{shown}' can't be written to by this user"),
            "set CCCI_APP_LOCK_DIR to a local directory that this user can write to",
        ),
        Ok(Some(_)) => Check::ok(name, format!("'{shown}'")),
    }
}

fn writable(path: &Path) -> bool {
    access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// Do two descriptions of one file exclude each other there?
pub fn lock_conflict(settings: &DoctorSettings) -> Check {
    let name = "lock-conflict";
    if !settings.lock_dir.is_dir() {
        return Check::warning(name, "not tried: there is no lock directory", "see lock-directory");
    }
    // Not the name of a lock file: nobody takes it for one.
    let path = settings.lock_dir.join(format!(".ccci-guard-doctor-{}", getpid()));
    let tried = try_conflict(&path);
    let _ = fs::remove_file(&path);
    match tried {
        Ok(true) => Check::ok(name, "a second flock(2) of one file is refused"),
        Ok(false) => Check::error(
            name,
            "two flock(2) of one file were both granted: locks there exclude nobody",
            "set CCCI_APP_LOCK_DIR to a directory on another file system",
        ),
        Err(error) => Check::error(
            name,
            format!("cannot lock a file there: {error}"),
            "set CCCI_APP_LOCK_DIR to one that can be used",
        ),
    }
}

fn try_conflict(path: &Path) -> io::Result<bool> {
    let first = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let second = File::open(path)?;
    first.try_lock().map_err(io::Error::from)?;
    match second.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(true),
        Ok(()) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The system calls that a guard lives on. `subreaper`: could this process become one?
pub fn kernel(subreaper: io::Result<()>) -> Check {
    let name = "kernel";
    if let Err(error) = subreaper {
        let next = "look for a seccomp filter around this process";
        return Check::error(name, format!("no subreaper (prctl(2)): {error}"), next);
    }
    if let Err(error) = process::set_parent_death_signal(0) {
        return Check::error(
            name,
            format!("no parent-death signals (prctl(2)): {error}"),
            "look for a seccomp filter around this process",
        );
    }
    match process::pidfd(getpid()) {
        Ok(_) => Check::ok(name, "parent-death signals, subreaper and pidfd work"),
        Err(error) => Check::warning(
            name,
            format!("no pidfd (pidfd_open(2)): {error}"),
            "runs work by parent-death signals alone; Linux 5.4 or later, and no seccomp filter, would be better",
        ),
    }
}

/// Did the caller hand down something odd?
pub fn signals(inherited: &Inherited) -> Check {
    let name = "signals";
    let blocked: Vec<String> = inherited.blocked().iter().map(ToString::to_string).collect();
    let next = "a run gives the harness what it was given itself; look at what starts it";
    if inherited.ignores(SIGCHLD) {
        Check::warning(name, "SIGCHLD is ignored by the caller: other tools lose exit statuses so", next)
    } else if !blocked.is_empty() {
        Check::warning(name, format!("blocked by the caller: {}", blocked.join(", ")), next)
    } else {
        Check::ok(name, "nothing odd was handed down")
    }
}

/// Can runs keep their state and ABRA_DIRs there?
pub fn runs_directory(settings: &DoctorSettings) -> Check {
    let (name, path) = ("runs-directory", &settings.runs_dir);
    let shown = path.display();
    let next = "make it, or set CCCI_RUNS_DIR; until then state goes to a private directory, and --abra-dir auto may be refused";
    match fs::metadata(path) {
        Ok(found) if found.is_dir() && writable(path) => Check::ok(name, format!("'{shown}'")),
        Ok(found) if found.is_dir() => {
            Check::warning(name, format!("'{shown}' can't be written to by this user"), next)
        }
        Ok(_) => Check::error(name, format!("'{shown}' is no directory"), "set CCCI_RUNS_DIR"),
        Err(error) => Check::warning(name, format!("'{shown}': {error}"), next),
    }
}

/// Where abra's files of this host are.
pub fn canonical_abra_dir(settings: &DoctorSettings) -> Check {
    let name = "canonical-abra-dir";
    let next = "set CCCI_CANONICAL_ABRA_DIR; without it there is no --abra-dir auto, and with abra no --teardown auto";
    match &settings.canonical {
        None => Check::warning(name, "no .abra with servers in HOME or in the home that /etc/passwd names", next),
        Some(path) if !path.join("servers").is_dir() => {
            let problem = match path.join("servers").metadata() {
                Err(error) if error.kind() != io::ErrorKind::NotFound => format!("can't be looked into: {error}"),
                _ if path.is_dir() => "has no directory 'servers'".to_owned(),
                _ => "is not there".to_owned(),
            };
            Check::error(name, format!("'{}' {problem}", path.display()), next)
        }
        Some(path) => {
            let how = if settings.canonical_given { "" } else { " (found in the home; a step's HOME may be another)" };
            Check::ok(name, format!("'{}'{how}", path.display()))
        }
    }
}

/// Does a run's deadline come before the runner's own limit, with time for the teardown?
pub fn deadline(settings: &DoctorSettings) -> Check {
    let name = "deadline";
    let shown = |time| duration::exact(time);
    match (settings.deadline, settings.runner_limit) {
        (None, None) => Check::ok(name, "none asked about (--deadline, CCCI_DEADLINE), and no runner above"),
        (Some(deadline), None) => {
            Check::ok(name, format!("{}; no runner above that would end it earlier", shown(deadline)))
        }
        (None, Some((limit, _))) => Check::warning(
            name,
            format!("none is set, and the runner ends a build after {}", shown(limit)),
            format!("set CCCI_DEADLINE to less, with time for the teardown: {}", shown(limit.mul_f64(5.0 / 6.0))),
        ),
        (Some(deadline), Some((limit, told))) => {
            let whose = if told { "the runner's limit" } else { "Drone's default limit" };
            if deadline >= limit {
                Check::error(
                    name,
                    format!(
                        "{} is not shorter than {whose} of {}: the runner kills the step first",
                        shown(deadline),
                        shown(limit)
                    ),
                    format!(
                        "set CCCI_DEADLINE to {}, or raise the repository's limit",
                        shown(limit.mul_f64(5.0 / 6.0))
                    ),
                )
            } else {
                let detail = format!("{}, before {whose} of {}", shown(deadline), shown(limit));
                // The grace and the teardown come after it.
                if limit - deadline < limit / 10 {
                    Check::warning(
                        name,
                        detail,
                        "leave a tenth of it for the teardown, or the runner kills the step in it",
                    )
                } else {
                    Check::ok(name, detail)
                }
            }
        }
    }
}
