//! What an engine writes to its pipes, within limits: an engine that was taken over fills neither
//! the launcher's memory nor the server log. The launcher reads the pipes, and passes the bytes on.

use std::time::{Duration, Instant};

/// Bytes read from one pipe at a time; the rest waits in the pipe.
pub const READ_LIMIT: usize = 64 * 1024;
/// Longest log line kept, bytes.
pub const LOG_LINE: usize = 8 * 1024;
/// Longest report kept, bytes: a few hundred hosts with a pause take a tenth of it.
pub const REPORT_LINE: usize = 512 * 1024;
/// Characters of a line in a message about it.
const EXCERPT: usize = 500;
/// Lines of one engine that are logged per second, from both pipes.
const LINES_PER_SECOND: u32 = 20;

/// Splits bytes into lines. What exceeds the limit of a line is dropped.
///
/// ```
/// use pg_caption_supervisor::engine_output::LineSplitter;
///
/// let mut lines = LineSplitter::new(5);
/// assert_eq!(lines.feed(b"one\ntw"), ["one"]);
/// assert_eq!(lines.feed(b"o long\nthree"), ["two l"]);
/// ```
#[derive(Debug)]
pub struct LineSplitter {
    limit: usize,
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        LineSplitter { limit, partial: Vec::new() }
    }

    /// Takes bytes. Returns the lines that they complete, without their ends.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, ended) = match piece.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (piece, false),
            };
            let room = self.limit.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if ended {
                lines.push(String::from_utf8_lossy(&self.partial).trim_end().to_string());
                self.partial.clear();
            }
        }
        lines
    }
}

/// The beginning of a line, for a message about it.
pub fn excerpt(line: &str) -> &str {
    let end = line.char_indices().nth(EXCERPT).map_or(line.len(), |(at, _)| at);
    &line[..end]
}

/// Limits the lines that one engine writes to the server log.
#[derive(Debug, Default)]
pub struct LogLimit {
    second: Option<Instant>,
    count: u32,
}

/// Whether a line is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogAdmission {
    /// It is logged.
    Log,
    /// It is dropped, and the first of its second: log that lines are dropped.
    DropFirst,
    /// It is dropped.
    Drop,
}

impl LogLimit {
    /// Counts one more line.
    pub fn admit(&mut self, now: Instant) -> LogAdmission {
        let is_over = |second| now.saturating_duration_since(second) >= Duration::from_secs(1);
        if self.second.is_none_or(is_over) {
            (self.second, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        match self.count {
            ..=LINES_PER_SECOND => LogAdmission::Log,
            count if count == LINES_PER_SECOND + 1 => LogAdmission::DropFirst,
            _ => LogAdmission::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_fragmentation() {
        let bytes = "one\n\nzwei drei\r\n\u{e9}t\u{e9}\nrest".as_bytes();
        for step in 1..bytes.len() {
            let mut splitter = LineSplitter::new(100);
            let lines: Vec<_> = bytes.chunks(step).flat_map(|piece| splitter.feed(piece)).collect();
            assert_eq!(lines, ["one", "", "zwei drei", "\u{e9}t\u{e9}"], "{step}");
        }
    }

    // An engine wrote 0.7 GB without a line end, and the launcher kept all of it.
    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut splitter = LineSplitter::new(100);
        for _ in 0..1000 {
            assert!(splitter.feed(&[b'x'; 1000]).is_empty());
        }
        assert!(splitter.partial.capacity() < 1000);
        assert_eq!(splitter.feed(b"\nnext\n"), ["x".repeat(100), "next".into()]);
    }

    #[test]
    fn a_second_has_a_limited_number_of_lines() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            let admitted: Vec<_> = (0..1000).map(|_| limit.admit(now)).collect();
            let count = |of| admitted.iter().filter(|admission| **admission == of).count();
            assert_eq!((count(LogAdmission::Log), count(LogAdmission::DropFirst)), (20, 1));
        }
    }
}
