//! The program that a file needs to be run by: a script's interpreter, a dynamic program's loader.
//!
//! When that is missing, execve(2) says ENOENT, as if the file itself were.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::settings::quoted;

/// Longest `#!` line that the kernel reads, and more than an ELF header needs.
const START: usize = 256;
/// Program header type of the loader's path (elf(5)).
const PT_INTERP: u32 = 3;

/// The complaint about an interpreter or loader that isn't there, if it isn't.
pub fn missing(program: &Path) -> Option<String> {
    let mut file = File::open(program).ok()?;
    let mut start = [0; START];
    let length = file.read(&mut start).ok()?;
    let start = &start[..length];
    let (what, path) = match start.strip_prefix(b"#!") {
        Some(line) => ("interpreter", interpreter(line)?.to_vec()),
        None => ("loader", loader(&file, start)?),
    };
    let interpreter = Path::new(OsStr::from_bytes(&path));
    if interpreter.exists() {
        return None;
    }
    let hint = if path.ends_with(b"\r") { " (Windows line ends?)" } else { "" };
    Some(format!("its {what} {} is missing{hint}", quoted(interpreter.as_os_str())))
}

fn interpreter(line: &[u8]) -> Option<&[u8]> {
    let line = line.split(|&byte| byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())
}

/// The loader that a 64-bit ELF program of this machine's byte order names.
fn loader(file: &File, header: &[u8]) -> Option<Vec<u8>> {
    if !header.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let table = u64_at(header, 32)?;
    let (size, count) = (u64::from(u16_at(header, 54)?), u64::from(u16_at(header, 56)?));
    (0..count.min(64)).find_map(|index| {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table.checked_add(index * size)?).ok()?;
        if u32::from_ne_bytes(entry[..4].try_into().ok()?) != PT_INTERP {
            return None;
        }
        let mut path = vec![0; usize::try_from(u64_at(&entry, 32)?).ok()?.min(4096)];
        file.read_exact_at(&mut path, u64_at(&entry, 8)?).ok()?;
        path.truncate(path.iter().position(|&byte| byte == 0).unwrap_or(path.len()));
        Some(path)
    })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_the_first_line() {
        assert_eq!(interpreter(b" /usr/bin/env python3\nx"), Some(&b"/usr/bin/env"[..]));
        assert_eq!(interpreter(b"/bin/sh\r\n"), Some(&b"/bin/sh\r"[..]));
        assert_eq!(interpreter(b"\n/bin/sh"), None);
    }

    #[test]
    fn a_dynamic_program_names_its_loader() {
        let program = std::env::current_exe().expect("this test's program");
        let file = File::open(program).expect("it can be read");
        let mut header = [0; START];
        file.read_exact_at(&mut header, 0).expect("it is longer than that");
        let path = loader(&file, &header).expect("tests are linked dynamically");
        assert!(Path::new(OsStr::from_bytes(&path)).is_absolute());
    }
}
