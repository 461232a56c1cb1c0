//! A reader over bytes in memory that fails after the deadline; decoders cannot be interrupted
//! otherwise.

use std::{
    borrow::Cow,
    io::{self, BufRead, Read, Seek, SeekFrom},
    time::Instant,
};

/// Bytes between two checks of the clock. Small, because a kilobyte of a well compressed file can
/// inflate a thousandfold.
const STEP: usize = 4096;

/// Reads parts of a file as one file; every read after the deadline is an error of kind `TimedOut`.
pub(crate) struct DeadlineReader<'a> {
    parts: [Cow<'a, [u8]>; 3],
    at: usize,
    deadline: Option<Instant>,
    next_check: usize,
}

impl<'a> DeadlineReader<'a> {
    pub(crate) fn new(bytes: &'a [u8], deadline: Option<Instant>) -> Self {
        Self::of_parts([Cow::Borrowed(bytes), Cow::default(), Cow::default()], deadline)
    }

    pub(crate) fn of_parts(parts: [Cow<'a, [u8]>; 3], deadline: Option<Instant>) -> Self {
        DeadlineReader { parts, at: 0, deadline, next_check: 0 }
    }

    fn length(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    fn check_deadline(&mut self) -> io::Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        // Check again after seeking backwards: a file that seeks often is suspicious.
        if self.at < self.next_check && self.at + STEP >= self.next_check {
            return Ok(());
        }
        self.next_check = self.at + STEP;
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
        self.check_deadline()?;
        let mut start = self.at;
        for part in &self.parts {
            if start < part.len() {
                return Ok(&part[start..start.saturating_add(STEP).min(part.len())]);
            }
            start -= part.len();
        }
        Ok(&[])
    }

    fn consume(&mut self, n: usize) {
        self.at = self.at.saturating_add(n);
    }
}

impl Seek for DeadlineReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => (self.length() as u64).checked_add_signed(n),
            SeekFrom::Current(n) => (self.at as u64).checked_add_signed(n),
        };
        let target = target.ok_or(io::ErrorKind::InvalidInput)?;
        self.at = usize::try_from(target).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        (0..20_000_u32).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn without_a_deadline_reads_and_seeks_work() {
        let bytes = bytes();
        let mut reader = DeadlineReader::new(&bytes, None);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, bytes);
        for (to, expected) in [
            (SeekFrom::Start(9000), 9000),
            (SeekFrom::End(-10), 19_990),
            (SeekFrom::Current(-100), 19_891),
        ] {
            assert_eq!(reader.seek(to).unwrap(), expected);
            let mut one = [0];
            reader.read_exact(&mut one).unwrap();
            assert_eq!(one[0], bytes[expected as usize]);
        }
        assert!(
            reader.seek(SeekFrom::Current(-100_000)).is_err(),
            "before the first byte there is nothing"
        );
        reader.seek(SeekFrom::Start(1 << 40)).unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "behind the last byte there is nothing");
    }

    #[test]
    fn an_expired_deadline_stops_reads() {
        let bytes = bytes();
        let mut reader = DeadlineReader::new(&bytes, Some(Instant::now()));
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_deadline_is_checked_every_few_kilobytes() {
        let bytes = bytes();
        let mut reader = DeadlineReader::new(&bytes, None);
        reader.read_exact(&mut [0; 100]).unwrap();
        reader.deadline = Some(Instant::now());
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(rest.len() <= 2 * STEP, "{} bytes were read past the deadline", rest.len());
    }
}
