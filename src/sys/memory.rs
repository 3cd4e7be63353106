//! A few words of memory that processes share, whether forked from one another or started by exec.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use super::fd;

/// So many words there are.
const COUNT: usize = 8;
const SIZE: usize = COUNT * size_of::<u64>();

/// Words of 64 bits in a memfd, each read and written as a whole. They are 0 at first, and stay mapped for the life of
/// the process.
#[derive(Debug)]
pub struct SharedWords {
    memory: File,
    words: NonNull<[AtomicU64; COUNT]>,
}

impl SharedWords {
    /// New ones. Forked processes share them; one that is exec'd needs the descriptor, and [`SharedWords::open`].
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) and mmap(2) give.
    pub fn new(name: &CStr) -> io::Result<Self> {
        let memory = fd::shared_memory(name)?;
        memory.set_len(SIZE as u64)?;
        Self::open(memory)
    }

    /// Those that another process made.
    ///
    /// # Errors
    /// What mmap(2) gives, or when this is no such memory.
    pub fn open(memory: File) -> io::Result<Self> {
        if memory.metadata()?.len() != SIZE as u64 {
            return Err(io::Error::other("no shared words"));
        }
        let size = NonZeroUsize::MIN.saturating_add(SIZE - 1);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that is as long as it. Nobody unmaps it,
        // and all that is ever done with it are atomic operations, so it doesn't matter who else writes.
        let mapped = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, &memory, 0)? };
        Ok(SharedWords { memory, words: mapped.cast() })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, as long as the array, and never unmapped.
        let words = unsafe { self.words.as_ref() };
        &words[index]
    }

    /// A word.
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Sets a word.
    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Sets a word if it is `from`; tells whether it was.
    pub fn change(&self, index: usize, from: u64, to: u64) -> bool {
        self.word(index).compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl AsFd for SharedWords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}
