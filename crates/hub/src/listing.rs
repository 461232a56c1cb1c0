//! The files that a repository publishes at one commit, with sizes and checksums.

use crate::HubError;
use crate::client::Client;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, StatusCode};

/// Largest listing, bytes; thousands of files need a few megabytes.
const MAX_LISTING: u64 = 64 << 20;

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Relative to the repository.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256, lower-case hex; small files have none.
    pub(crate) sha256: Option<String>,
}

/// A repository at one commit.
pub(crate) struct Listing {
    /// The commit; a branch may change while files are fetched.
    pub(crate) commit: String,
    /// Its files.
    pub(crate) files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Requests the listing from the hub.
    pub(crate) fn read(client: &Client, repo: &str, revision: &str) -> Result<Listing, HubError> {
        let mut response = client.get(&client.location.listing(repo, revision), 0)?;
        if response.status() != StatusCode::OK {
            return Err(refusal(client, &response, repo, revision, "the listing"));
        }
        let malformed = |reason: String| HubError::Malformed {
            host: client.location.host().into(),
            file: repo.into(),
            reason,
        };
        let reader = response.body_mut().with_config().limit(MAX_LISTING).reader();
        let info: Info = serde_json::from_reader(std::io::BufReader::new(reader))
            .map_err(|e| malformed(e.to_string()))?;
        if !is_hex(&info.sha) {
            return Err(malformed(format!("\"{}\" is not a commit", info.sha)));
        }
        let mut files = Vec::with_capacity(info.siblings.len());
        for Sibling { rfilename: path, size, lfs } in info.siblings {
            files.push(match (lfs, size) {
                (Some(lfs), _) if lfs.sha256.len() != 64 || !is_hex(&lfs.sha256) => {
                    return Err(malformed(format!("the checksum of \"{path}\" is invalid")));
                }
                (Some(lfs), _) => RemoteFile {
                    path,
                    size: lfs.size,
                    sha256: Some(lfs.sha256.to_ascii_lowercase()),
                },
                (None, Some(size)) => RemoteFile { path, size, sha256: None },
                (None, None) => {
                    return Err(malformed(format!("the size of \"{path}\" is missing")));
                }
            });
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// A file by its path.
    pub(crate) fn file(&self, path: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The error for a status other than success. The hub sends its own code in a header.
pub(crate) fn refusal(
    client: &Client,
    response: &Response<Body>,
    repo: &str,
    revision: &str,
    file: &str,
) -> HubError {
    let code = response.headers().get("x-error-code").and_then(|value| value.to_str().ok());
    let token = client.location.token().is_some();
    match (response.status().as_u16(), code) {
        (_, Some("GatedRepo")) | (403, _) => HubError::Gated { repo: repo.into(), token },
        (_, Some("RevisionNotFound")) => {
            HubError::NoRevision { repo: repo.into(), revision: revision.into() }
        }
        // Without a valid token the hub answers 401 also for repositories that do not exist.
        (401, _) | (_, Some("RepoNotFound")) => HubError::NoRepository { repo: repo.into(), token },
        (404, None) => HubError::NoRepository { repo: repo.into(), token },
        (status, _) => {
            HubError::Status { host: client.location.host().into(), status, file: file.into() }
        }
    }
}
