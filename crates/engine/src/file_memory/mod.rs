//! The memory for files, on the network and until they are decoded. Called by the fetch threads and
//! by connections that receive uploads.
//!
//! The first bytes of every fetched file are kept ready for it, so small files never wait. Larger
//! ones claim the rest as they arrive ([`claims`]). A fetch thread waits a second for memory at
//! most; then the file gives up its memory and its thread, and starts again once the memory for all
//! of it is free.

mod claims;
#[cfg(test)]
mod tests;

use crate::budget::{ReserveError, wait};
use claims::{ClaimTable, FileOwner, Rank, Weights};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The part of the memory that is kept for the first bytes of files.
const FIRST_PART: u64 = 4;
/// Longest wait of a fetch thread.
const THREAD_WAIT: Duration = Duration::from_secs(1);

/// Why a file did not get its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMemoryError {
    /// There never will be, or the caller has left.
    Refused(ReserveError),
    /// Other files go first: it must start again.
    Displaced,
}

/// The memory for files.
pub struct FileMemory {
    total: u64,
    /// For the first bytes of all files.
    first_total: u64,
    /// The first bytes of one file, which need no claim.
    first: AtomicU64,
    claims: Mutex<ClaimTable>,
    freed: Condvar,
}

/// What one file holds beyond its first bytes, given back when dropped.
pub struct FileClaim {
    memory: Arc<FileMemory>,
    rank: Rank,
    most: u64,
    /// Set when the fetch must end and give its memory back.
    displaced: Arc<AtomicBool>,
}

impl FileMemory {
    /// `total` bytes. `largest`: of one file. `span`: the time limit of one fetch.
    pub fn new(total: u64, largest: u64, span: Duration) -> Arc<FileMemory> {
        let first_total = total / FIRST_PART;
        let total = total - first_total;
        Arc::new(FileMemory {
            total,
            first_total,
            first: AtomicU64::new(0),
            claims: Mutex::new(ClaimTable::new(total, Weights { span, largest })),
            freed: Condvar::new(),
        })
    }

    /// Shares the kept part among that many files.
    pub fn share_first(&self, files: usize) {
        self.first.store(self.first_total / files.max(1) as u64, Ordering::Relaxed);
    }

    /// The largest possible file, in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What a file of so many bytes must claim.
    fn beyond(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.first.load(Ordering::Relaxed))
    }

    /// Whether a fetched file holds more than its first bytes with so many.
    pub fn needs_claim(&self, bytes: u64) -> bool {
        self.beyond(bytes) > 0
    }

    fn add(
        self: &Arc<Self>,
        owner: FileOwner,
        most: u64,
        displaced: Option<Arc<AtomicBool>>,
    ) -> FileClaim {
        let flag = displaced.clone().unwrap_or_default();
        let rank = self.claims.lock().add(owner, most, displaced, Instant::now());
        FileClaim { memory: self.clone(), rank, most, displaced: flag }
    }

    /// The claim of a file that `host` sends, of `most` bytes at most. It holds nothing yet.
    ///
    /// # Errors
    /// [`ReserveError::TooLarge`]: it never fits.
    pub fn claim(
        self: &Arc<Self>,
        connection: u64,
        host: &str,
        most: u64,
        displaced: Arc<AtomicBool>,
    ) -> Result<FileClaim, ReserveError> {
        if self.beyond(most) > self.total {
            return Err(ReserveError::TooLarge { total: self.total });
        }
        let owner = FileOwner { connection, host: Some(host.into()) };
        Ok(self.add(owner, most, Some(displaced)))
    }

    /// Waits until an upload of `bytes` fits. The bytes belong to it until they are decoded.
    ///
    /// # Errors
    /// See [`ReserveError`].
    pub fn reserve(
        self: &Arc<Self>,
        connection: u64,
        bytes: u64,
        deadline: Instant,
        cancelled: impl Fn() -> bool,
    ) -> Result<FileClaim, ReserveError> {
        if bytes > self.total {
            return Err(ReserveError::TooLarge { total: self.total });
        }
        let claim = self.add(FileOwner { connection, host: None }, bytes, None);
        let mut claims = self.claims.lock();
        while !claims.grow(claim.rank, bytes) {
            if let Err(error) = wait(&self.freed, &mut claims, deadline, &cancelled) {
                drop(claims);
                return Err(error);
            }
        }
        drop(claims);
        Ok(claim)
    }
}

impl FileClaim {
    /// The flag that ends the fetch.
    pub fn displaced(&self) -> &Arc<AtomicBool> {
        &self.displaced
    }

    /// Lets the file become `to` bytes long, of `most` at most. Waits a second at most.
    ///
    /// # Errors
    /// See [`FileMemoryError`].
    pub fn grow(
        &mut self,
        to: u64,
        most: u64,
        deadline: Instant,
        cancelled: impl Fn() -> bool,
    ) -> Result<(), FileMemoryError> {
        // At the second attempt the host may send another file.
        self.most = self.most.max(most);
        let (to, began) = (self.memory.beyond(to), Instant::now());
        if to > self.memory.total {
            let total = self.memory.total;
            return Err(FileMemoryError::Refused(ReserveError::TooLarge { total }));
        }
        let mut claims = self.memory.claims.lock();
        loop {
            if self.displaced.load(Ordering::Relaxed) {
                return Err(FileMemoryError::Displaced);
            }
            if claims.grow(self.rank, to) {
                return Ok(());
            }
            if began.elapsed() >= THREAD_WAIT {
                return Err(FileMemoryError::Displaced);
            }
            wait(&self.memory.freed, &mut claims, deadline, &cancelled)
                .map_err(FileMemoryError::Refused)?;
        }
    }

    /// Takes the memory for the whole file, if it is free. Never waits.
    pub fn try_whole(&self) -> bool {
        self.displaced.store(false, Ordering::Relaxed);
        self.memory.claims.lock().grow(self.rank, self.memory.beyond(self.most))
    }

    /// Waits for nothing at the moment: later ranks may go on.
    pub fn rest(&self) {
        self.memory.claims.lock().rest(self.rank);
    }

    /// Gives everything back, and keeps the rank.
    pub fn release(&self) {
        self.memory.claims.lock().shrink(self.rank, 0);
        self.memory.freed.notify_all();
    }

    /// The file is complete, with so many bytes: it is no longer displaced.
    pub fn settle(&self, bytes: u64) {
        let mut claims = self.memory.claims.lock();
        claims.settle(self.rank);
        claims.shrink(self.rank, self.memory.beyond(bytes));
        drop(claims);
        self.memory.freed.notify_all();
    }
}

impl Drop for FileClaim {
    fn drop(&mut self) {
        self.memory.claims.lock().remove(self.rank);
        self.memory.freed.notify_all();
    }
}
