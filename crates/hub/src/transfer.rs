//! Downloads one file from the hub: resumes broken transfers and verifies the result.
//!
//! Existing bytes of a file are read once for the checksum, so that bytes of an earlier run are
//! never trusted.

use crate::client::Client;
use crate::listing::{RemoteFile, refusal};
use crate::{HubError, PullProgress};
use pg_caption_backoff::Backoff;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;
use ureq::Body;
use ureq::http::Response;

/// Size of one read and write, bytes.
const CHUNK: usize = 256 * 1024;

/// How often a broken transfer is resumed.
#[derive(Debug, Clone)]
pub struct RetryLimits {
    /// Consecutive attempts without progress.
    pub attempts: u32,
    /// Pause before the third attempt, doubled before each further one, up to 64 times; the second
    /// follows immediately.
    pub pause: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        RetryLimits { attempts: 6, pause: Duration::from_secs(1) }
    }
}

/// The transfer of one file.
pub(crate) struct Transfer<'a> {
    pub(crate) repo: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) remote: &'a RemoteFile,
    /// Bytes of the earlier files.
    pub(crate) before: u64,
    /// Bytes of all files.
    pub(crate) total: u64,
}

/// Fetches the missing bytes of a file into `to` and verifies the whole.
pub(crate) fn fetch(
    client: &Client,
    transfer: &Transfer,
    to: &Path,
    retries: &RetryLimits,
    progress: &mut dyn PullProgress,
) -> Result<(), HubError> {
    let mut part = PartialFile::open(to, transfer)?;
    // Existing bytes may belong to another version of the file, which only the checksum reveals.
    let mut inherited = part.length > 0;
    loop {
        part.complete(client, transfer, retries, progress)?;
        match part.check(transfer) {
            Ok(()) => return part.sync(),
            Err(wrong) => {
                part.truncate()?;
                if !std::mem::take(&mut inherited) {
                    return Err(wrong);
                }
            }
        }
    }
}

struct PartialFile<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    hash: Sha256,
}

impl<'a> PartialFile<'a> {
    fn open(path: &'a Path, transfer: &Transfer) -> Result<PartialFile<'a>, HubError> {
        let failed = |source| HubError::File { path: path.into(), source };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut part = PartialFile { path, file, length: 0, hash: Sha256::new() };
        // Without a checksum it is unknown whether existing bytes belong to this version.
        if transfer.remote.sha256.is_none()
            || part.file.metadata().map_err(failed)?.len() > transfer.remote.size
        {
            part.truncate()?;
            return Ok(part);
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            match part.file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(part),
                n => {
                    part.hash.update(&buffer[..n]);
                    part.length += n as u64;
                }
            }
        }
    }

    /// Removes all bytes.
    fn truncate(&mut self) -> Result<(), HubError> {
        let truncated = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        truncated.map_err(|source| HubError::File { path: self.path.into(), source })?;
        (self.length, self.hash) = (0, Sha256::new());
        Ok(())
    }

    /// Sends requests until the file is complete.
    fn complete(
        &mut self,
        client: &Client,
        transfer: &Transfer,
        retries: &RetryLimits,
        progress: &mut dyn PullProgress,
    ) -> Result<(), HubError> {
        let pauses = Backoff::new(retries.pause, retries.pause * 64);
        let (mut stalled, mut furthest) = (0u32, self.length);
        progress.at(&transfer.remote.path, transfer.before + self.length, transfer.total);
        while self.length < transfer.remote.size {
            let Err(error) = self.resume(client, transfer, progress) else { continue };
            if !is_transient(&error) {
                return Err(error);
            }
            // Progress means beyond any earlier attempt: a server without ranges that never ends a
            // file must not cause endless attempts.
            stalled = if self.length > furthest { 1 } else { stalled + 1 };
            furthest = furthest.max(self.length);
            if stalled >= retries.attempts {
                return Err(error);
            }
            if stalled > 1 {
                std::thread::sleep(pauses.pause(stalled - 2));
            }
        }
        Ok(())
    }

    fn resume(
        &mut self,
        client: &Client,
        transfer: &Transfer,
        progress: &mut dyn PullProgress,
    ) -> Result<(), HubError> {
        let Transfer { repo, commit, remote, .. } = transfer;
        let response =
            client.get(&client.location.file(repo, commit, &remote.path), self.length)?;
        match response.status().as_u16() {
            206 if starts_at(&response) == Some(self.length) => {}
            // The whole file, although a range was requested.
            200 => self.truncate()?,
            // No range, or not the requested one: start over.
            206 | 416 if self.length > 0 => {
                self.truncate()?;
                return Err(client.network_error("the server cannot resume a file"));
            }
            _ => return Err(refusal(client, &response, repo, commit, &remote.path)),
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) if self.length < remote.size => {
                    return Err(client.network_error("the connection ended early"));
                }
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) => return Err(client.network_error(error)),
            };
            if self.length + n as u64 > remote.size {
                self.truncate()?;
                return Err(HubError::Size { file: remote.path.clone(), expected: remote.size });
            }
            self.file
                .write_all(&buffer[..n])
                .map_err(|source| HubError::File { path: self.path.into(), source })?;
            self.hash.update(&buffer[..n]);
            self.length += n as u64;
            progress.at(&remote.path, transfer.before + self.length, transfer.total);
        }
    }

    fn check(&self, transfer: &Transfer) -> Result<(), HubError> {
        let Some(expected) = &transfer.remote.sha256 else { return Ok(()) };
        let found = format!("{:x}", self.hash.clone().finalize());
        if found == *expected {
            Ok(())
        } else {
            Err(HubError::Checksum {
                file: transfer.remote.path.clone(),
                expected: expected.clone(),
                found,
            })
        }
    }

    /// Flushes the file to disk.
    fn sync(self) -> Result<(), HubError> {
        self.file.sync_all().map_err(|source| HubError::File { path: self.path.into(), source })
    }
}

/// Whether another attempt may succeed.
fn is_transient(error: &HubError) -> bool {
    matches!(
        error,
        HubError::Network { .. } | HubError::Status { status: 408 | 429 | 500..=599, .. }
    )
}

/// First byte of a partial response.
fn starts_at(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
