//! The output of an engine on a pipe, line by line. The launcher reads it and never waits.

use pg_caption_supervisor::engine_output::{LineSplitter, READ_LIMIT};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

/// The reading end of a pipe, split into lines.
pub struct PipeLines {
    pub pipe: File,
    pub ended: bool,
    lines: LineSplitter,
}

impl PipeLines {
    /// Makes the pipe non-blocking. Lines are cut at `longest` bytes.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn new(pipe: OwnedFd, longest: usize) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(PipeLines { pipe: pipe.into(), ended: false, lines: LineSplitter::new(longest) })
    }

    /// The lines that were completed since the last call. Reads [`READ_LIMIT`] bytes at most; a
    /// pipe with more stays readable.
    pub fn read(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let (mut buffer, mut total) = ([0u8; 4096], 0);
        while !self.ended && total < READ_LIMIT {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(read) => {
                    total += read;
                    lines.extend(self.lines.feed(&buffer[..read]));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
        lines
    }
}
