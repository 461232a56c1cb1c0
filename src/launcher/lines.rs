//! The output of an engine on a pipe, line by line. The launcher reads it and never waits.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Log lines of an engine per second; more are dropped, so that a fault does not flood the log.
const LINES_PER_SECOND: u32 = 20;

/// The reading end of a pipe, split into lines.
pub struct PipeLines {
    pub pipe: File,
    partial: Vec<u8>,
    pub ended: bool,
    second: Instant,
    count: u32,
}

impl PipeLines {
    /// Makes the pipe non-blocking.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn new(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(PipeLines {
            pipe: pipe.into(),
            partial: Vec::new(),
            ended: false,
            second: Instant::now(),
            count: 0,
        })
    }

    /// The complete lines so far; the rest is kept.
    pub fn read(&mut self) -> Vec<String> {
        let mut buffer = [0u8; 4096];
        while !self.ended {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(read) => self.partial.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
        let mut lines = Vec::new();
        while let Some(at) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=at).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_string());
        }
        lines
    }

    /// Whether one more line may be logged in this second.
    pub fn may_log(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.count) = (now, 0);
        }
        self.count += 1;
        self.count <= LINES_PER_SECOND
    }
}
