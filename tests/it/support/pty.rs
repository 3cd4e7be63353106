//! A terminal: the master side in our hands, a program on the other side that has it as its own.

use super::{FIXTURE, Proc, SOON, Sandbox, eventually};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A pseudoterminal. What programs print on it is collected.
pub struct Pty {
    master: File,
    slave: PathBuf,
    shown: Arc<Mutex<String>>,
}

impl Pty {
    /// Opens one.
    pub fn new() -> Self {
        let (master, slave) = raw::open().expect("a pseudoterminal");
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, collected) = (master.try_clone().expect("a second descriptor"), Arc::clone(&shown));
        // Held open here, so that the master reads on (and not EIO) when all programs have closed it.
        let kept = File::options().read(true).write(true).open(&slave).expect("the slave side");
        std::thread::spawn(move || {
            let _kept = kept;
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { master, slave, shown }
    }

    /// Runs `argv` as leader of a session of its own with this terminal as its controlling one.
    #[track_caller]
    pub fn spawn(&self, sandbox: &Sandbox, argv: &[&str]) -> Proc {
        let mut command = sandbox.command(FIXTURE);
        command.arg("on-tty").arg(&self.slave).args(argv).env("TERM", "dumb").env("PS1", "prompt> ");
        sandbox.spawn(command)
    }

    /// Types: `"\x03"` is ^C, `"\x1a"` ^Z, `"\n"` return.
    pub fn write(&self, keys: &str) {
        let mut master = &self.master;
        master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// All that was shown so far (with the typed keys, as a terminal echoes them).
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits until `words` have been shown behind byte `from`; gives the position behind them.
    #[track_caller]
    pub fn expect(&self, from: usize, words: &str) -> usize {
        eventually(SOON, &format!("{words:?} on the terminal"), || {
            let shown = self.shown();
            let found = shown.get(from..).and_then(|s| s.find(words));
            found.map(|at| from + at + words.len()).ok_or(shown)
        })
    }
}

mod raw {
    //! The calls that `nix` has behind a feature that the package does not use.
    #![expect(unsafe_code, reason = "posix_openpt and its kin have no safe wrapper at hand")]

    use super::{AsRawFd, File, PathBuf};
    use std::ffi::CStr;
    use std::io::{Error, Result};
    use std::os::fd::FromRawFd;

    /// Opens a master (close-on-exec) and names its slave.
    pub fn open() -> Result<(File, PathBuf)> {
        // SAFETY: no memory is passed; the descriptor is checked before a File owns it.
        let fd = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: `fd` is open and nobody else's.
        let master = unsafe { File::from_raw_fd(fd) };
        let mut name = [0; 64];
        // SAFETY: `fd` is a master; the buffer is as long as we say.
        let failed = unsafe {
            libc::grantpt(fd) != 0
                || libc::unlockpt(fd) != 0
                || libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()) != 0
        };
        if failed {
            return Err(Error::last_os_error());
        }
        // SAFETY: ptsname_r succeeded, so the buffer holds a terminated string.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Ok((master, PathBuf::from(name.to_string_lossy().into_owned())))
    }
}
