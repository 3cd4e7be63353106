//! Copying a working tree as it is: contents, modes, times, links; without its `.git`, and without changing it.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// Copies all that is in `from`, but its `.git`, to the directory `to`.
///
/// # Errors
/// The first thing that can't be read or made.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    copy_all(from, to, true)
}

fn copy_all(from: &Path, to: &Path, top: bool) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if top && entry.file_name() == ".git" {
            continue;
        }
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            let metadata = entry.metadata()?;
            let modified = TimeSpec::new(metadata.mtime(), metadata.mtime_nsec());
            utimensat(AT_FDCWD, &target, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::NoFollowSymlink)?;
        } else if kind.is_dir() {
            DirBuilder::new().mode(0o700).create(&target)?;
            copy_all(&source, &target, false)?;
            // After what is in it: that changes its time, and it may be read-only.
            let metadata = entry.metadata()?;
            let times = FileTimes::new().set_modified(metadata.modified()?);
            File::open(&target)?.set_times(times)?;
            fs::set_permissions(&target, Permissions::from_mode(metadata.permissions().mode()))?;
        } else if kind.is_file() {
            copy_file(&source, &target)
                .map_err(|error| io::Error::new(error.kind(), format!("'{}': {error}", source.display())))?;
        } else {
            // Sockets, FIFOs and devices are no part of a recipe.
            debug_assert!(kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device());
        }
    }
    Ok(())
}

fn copy_file(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(source)?;
    let metadata = from.metadata()?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
    io::copy(&mut from, &mut to)?;
    to.set_permissions(Permissions::from_mode(metadata.permissions().mode()))?;
    to.set_times(FileTimes::new().set_modified(metadata.modified()?))
}
