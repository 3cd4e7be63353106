//! Who has which file open: one look at every process (proc(5), `/proc/PID/fd`).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::fstatat;

use super::directory::Directory;
use super::process::Pid;
use super::procfs::FileId;

/// What a look at all processes has shown.
#[derive(Debug, Default)]
pub struct OpenFiles {
    /// Who has one of the files open, and by which descriptors.
    pub users: HashMap<FileId, Vec<(Pid, i32)>>,
    /// Who has a removed file of the directory open: by the path that it had.
    pub removed: Vec<(PathBuf, FileId, Pid, i32)>,
    /// So many processes did not let themselves be looked at (that takes CAP_SYS_PTRACE for those of other users).
    pub unseen: usize,
}

impl OpenFiles {
    /// Looks for `files`, and for removed ones that were in `directory` on `device`.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn look(files: &HashSet<FileId>, directory: &Path, device: u64) -> std::io::Result<Self> {
        let mut look = OpenFiles::default();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match Directory::open(&entry.path().join("fd")) {
                Ok(descriptors) => look.look_at(Pid::from_raw(pid), &descriptors, files, directory, device),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => look.unseen += 1,
                // It has ended meanwhile.
                Err(_) => {}
            }
        }
        Ok(look)
    }

    fn look_at(&mut self, pid: Pid, descriptors: &Directory, files: &HashSet<FileId>, directory: &Path, device: u64) {
        for name in descriptors.names().unwrap_or_default() {
            // One stat(2) each tells which file it is, whatever its path looks like from there.
            let Ok(stat) = fstatat(descriptors.as_fd(), name.as_os_str(), AtFlags::empty()) else { continue };
            let file = FileId { device: stat.st_dev, inode: stat.st_ino };
            let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if files.contains(&file) {
                self.users.entry(file).or_default().push((pid, number));
            } else if stat.st_nlink == 0 && stat.st_dev == device {
                let Ok(target) = readlinkat(descriptors.as_fd(), name.as_os_str()) else { continue };
                let path = target.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
                let path = path.filter(|path| path.parent() == Some(directory));
                self.removed.extend(path.map(|path| (path, file, pid, number)));
            }
        }
    }
}
