//! One file from the hub: resumed where it broke, and checked.
//!
//! What is there of a file is read once for its checksum, so that bytes of an earlier run are never
//! trusted.

use crate::client::Client;
use crate::listing::{Remote, refusal};
use crate::{HubError, PullProgress};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;
use ureq::Body;
use ureq::http::Response;

/// Read and written at once, bytes.
const CHUNK: usize = 256 * 1024;

/// How often a broken transfer is taken up again.
#[derive(Debug, Clone)]
pub struct RetryLimits {
    /// Attempts in a row that come no further.
    pub attempts: u32,
    /// Pause before the second of them, doubled before each further one; the first follows at once.
    pub pause: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        RetryLimits { attempts: 6, pause: Duration::from_secs(1) }
    }
}

/// Where a file is and what it must be.
pub(crate) struct Order<'a> {
    pub(crate) repo: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) remote: &'a Remote,
    /// Bytes of the files before it, and of all.
    pub(crate) before: u64,
    pub(crate) total: u64,
}

/// Fetches what is missing of a file into `to` and checks the whole.
pub(crate) fn fetch(
    client: &Client,
    order: &Order,
    to: &Path,
    patience: &RetryLimits,
    progress: &mut dyn PullProgress,
) -> Result<(), HubError> {
    let mut part = Part::open(to, order)?;
    // What was here before may be of an earlier run and of another version: that is found out only
    // at the end.
    let mut inherited = part.length > 0;
    loop {
        part.complete(client, order, patience, progress)?;
        match part.check(order) {
            Ok(()) => return part.keep(),
            Err(wrong) => {
                part.cut()?;
                if !std::mem::take(&mut inherited) {
                    return Err(wrong);
                }
            }
        }
    }
}

struct Part<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    hash: Sha256,
}

impl<'a> Part<'a> {
    fn open(path: &'a Path, order: &Order) -> Result<Part<'a>, HubError> {
        let failed = |source| HubError::File { path: path.into(), source };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut part = Part { path, file, length: 0, hash: Sha256::new() };
        // Without a checksum nobody could tell whether the rest fits.
        if order.remote.sha256.is_none()
            || part.file.metadata().map_err(failed)?.len() > order.remote.size
        {
            part.cut()?;
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

    /// Back to nothing.
    fn cut(&mut self) -> Result<(), HubError> {
        let cut = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cut.map_err(|source| HubError::File { path: self.path.into(), source })?;
        (self.length, self.hash) = (0, Sha256::new());
        Ok(())
    }

    /// Asks until all of it is here.
    fn complete(
        &mut self,
        client: &Client,
        order: &Order,
        patience: &RetryLimits,
        progress: &mut dyn PullProgress,
    ) -> Result<(), HubError> {
        let (mut in_vain, mut furthest) = (0, self.length);
        progress.at(&order.remote.path, order.before + self.length, order.total);
        while self.length < order.remote.size {
            let Err(error) = self.go_on(client, order, progress) else { continue };
            if !is_passing(&error) {
                return Err(error);
            }
            // Further than ever, not only further than before: a server that knows no ranges and
            // never ends a file must not keep us for ever.
            in_vain = if self.length > furthest { 1 } else { in_vain + 1 };
            furthest = furthest.max(self.length);
            if in_vain >= patience.attempts {
                return Err(error);
            }
            if in_vain > 1 {
                std::thread::sleep(patience.pause * 2u32.saturating_pow(in_vain - 2).min(64));
            }
        }
        Ok(())
    }

    fn go_on(
        &mut self,
        client: &Client,
        order: &Order,
        progress: &mut dyn PullProgress,
    ) -> Result<(), HubError> {
        let Order { repo, commit, remote, .. } = order;
        let response = client.get(&client.place.file(repo, commit, &remote.path), self.length)?;
        match response.status().as_u16() {
            206 if starts_at(&response) == Some(self.length) => {}
            // The whole file, although a part was asked for.
            200 => self.cut()?,
            // A range that is none, or not the one asked for: from the start.
            206 | 416 if self.length > 0 => {
                self.cut()?;
                return Err(client.broken("the server cannot go on from the middle of a file"));
            }
            _ => return Err(refusal(client, &response, repo, commit, &remote.path)),
        }
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) if self.length < remote.size => {
                    return Err(client.broken("the connection ended early"));
                }
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) => return Err(client.broken(error)),
            };
            if self.length + n as u64 > remote.size {
                self.cut()?;
                return Err(HubError::Size { file: remote.path.clone(), expected: remote.size });
            }
            self.file
                .write_all(&buffer[..n])
                .map_err(|source| HubError::File { path: self.path.into(), source })?;
            self.hash.update(&buffer[..n]);
            self.length += n as u64;
            progress.at(&remote.path, order.before + self.length, order.total);
        }
    }

    fn check(&self, order: &Order) -> Result<(), HubError> {
        let Some(expected) = &order.remote.sha256 else { return Ok(()) };
        let found: String =
            self.hash.clone().finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found == *expected {
            Ok(())
        } else {
            Err(HubError::Checksum {
                file: order.remote.path.clone(),
                expected: expected.clone(),
                found,
            })
        }
    }

    /// Onto the disk.
    fn keep(self) -> Result<(), HubError> {
        self.file.sync_all().map_err(|source| HubError::File { path: self.path.into(), source })
    }
}

/// Whether another attempt may end otherwise.
fn is_passing(error: &HubError) -> bool {
    matches!(
        error,
        HubError::Network { .. } | HubError::Status { status: 408 | 429 | 500..=599, .. }
    )
}

/// First byte of a partial answer.
fn starts_at(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
