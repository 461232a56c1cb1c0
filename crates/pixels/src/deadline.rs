//! A reader over bytes in memory that fails once the deadline has passed, because decoders cannot be interrupted otherwise.

use std::{
    io::{self, BufRead, Read, Seek, SeekFrom},
    time::Instant,
};

/// Bytes handed out between two looks at the clock. Small, because a kilobyte of a well compressed file can inflate a thousandfold.
const STEP: usize = 4096;

/// Reads `bytes`; every read past the deadline is an error of kind `TimedOut`.
pub(crate) struct DeadlineReader<'a> {
    bytes: &'a [u8],
    at: usize,
    deadline: Option<Instant>,
    next_look: usize,
}

impl<'a> DeadlineReader<'a> {
    pub(crate) fn new(bytes: &'a [u8], deadline: Option<Instant>) -> Self {
        DeadlineReader { bytes, at: 0, deadline, next_look: 0 }
    }

    fn look_at_the_clock(&mut self) -> io::Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        // Seeking backwards looks again at once: a file that jumps around is the suspicious one.
        if self.at < self.next_look && self.at + STEP >= self.next_look {
            return Ok(());
        }
        self.next_look = self.at + STEP;
        if Instant::now() >= deadline { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl Read for DeadlineReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let n = chunk.len().min(out.len());
        out[..n].copy_from_slice(&chunk[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for DeadlineReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.look_at_the_clock()?;
        let start = self.at.min(self.bytes.len());
        let end = start.saturating_add(STEP).min(self.bytes.len());
        Ok(&self.bytes[start..end])
    }

    fn consume(&mut self, n: usize) {
        self.at = self.at.saturating_add(n);
    }
}

impl Seek for DeadlineReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => (self.bytes.len() as u64).checked_add_signed(n),
            SeekFrom::Current(n) => (self.at as u64).checked_add_signed(n),
        };
        let target = target.ok_or(io::ErrorKind::InvalidInput)?;
        self.at = usize::try_from(target).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(target)
    }
}
