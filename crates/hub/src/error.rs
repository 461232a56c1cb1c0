//! The errors between a repository's name and a model folder. Each message names the remedy; no
//! message contains a token.

use std::path::PathBuf;

/// Why a model was not downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not a valid name of a repository, revision or folder.
    #[error(
        "\"{0}\" is not a valid name: a model's name is OWNER/NAME, a folder's name has no slash \
         and no leading dot"
    )]
    Name(String),
    /// An invalid address (`HF_ENDPOINT`, a proxy).
    #[error("{what} \"{value}\" cannot be used: {reason}")]
    Setting {
        /// Name of the variable.
        what: &'static str,
        /// Its value.
        value: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The repository does not exist or is private.
    #[error("the hub shows no model \"{repo}\": check the name; {}", token_hint(*.token))]
    NoRepository {
        /// As requested.
        repo: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// The owner restricts access to the files.
    #[error(
        "model \"{repo}\" is gated: its owner must grant access on its page at the hub; {}",
        token_hint(*.token)
    )]
    Gated {
        /// As requested.
        repo: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// No such branch, tag or commit.
    #[error("model \"{repo}\" has no revision \"{revision}\"")]
    NoRevision {
        /// As requested.
        repo: String,
        /// As requested.
        revision: String,
    },
    /// The hub cannot be reached, or connections broke repeatedly.
    #[error(
        "could not connect to {host}: {reason} (HTTPS_PROXY sets a proxy, HF_ENDPOINT another hub)"
    )]
    Network {
        /// The host.
        host: String,
        /// The last error.
        reason: String,
    },
    /// Any other status.
    #[error("host {host} answered with status {status} for \"{file}\"")]
    Status {
        /// The host.
        host: String,
        /// The status.
        status: u16,
        /// The requested file.
        file: String,
    },
    /// A response that violates the hub's protocol.
    #[error("could not read the response of {host} for \"{file}\": {reason}")]
    Malformed {
        /// The host.
        host: String,
        /// The requested file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine cannot use the published model; nothing large was downloaded.
    #[error("model \"{repo}\" cannot be used: {reason}{}", model_hint(.reason))]
    Unusable {
        /// As requested.
        repo: String,
        /// Why it cannot be used.
        reason: pg_caption_models::ModelsError,
    },
    /// The file system is too full.
    #[error(
        "not enough space for \"{}\": {needed} more bytes are needed, {available} are free",
        path.display()
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Missing bytes.
        needed: u64,
        /// Free bytes.
        available: u64,
    },
    /// The downloaded file differs from the published one.
    #[error(
        "file \"{file}\" has checksum {found} instead of the published {expected}: \
         the download was discarded, run the command again"
    )]
    Checksum {
        /// The file.
        file: String,
        /// SHA-256, lower-case hex.
        expected: String,
        /// SHA-256, lower-case hex.
        found: String,
    },
    /// The downloaded file is longer than the published one.
    #[error(
        "file \"{file}\" is longer than the published {expected} bytes: \
         the download was discarded, run the command again"
    )]
    Size {
        /// The file.
        file: String,
        /// Published length, bytes.
        expected: u64,
    },
    /// A folder of that name exists and has other content.
    #[error(
        "folder \"{}\" already exists{}: use --replace to replace it, or --name for another name",
        path.display(),
        origin.as_ref().map(|o| format!(" ({o})")).unwrap_or_default()
    )]
    Exists {
        /// The folder.
        path: PathBuf,
        /// Its repository and commit, if a pull made it.
        origin: Option<String>,
    },
    /// Another process is downloading it.
    #[error("another process is downloading \"{}\"", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be written or read.
    #[error("could not access \"{}\": {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

fn token_hint(token: bool) -> &'static str {
    match token {
        true => "the token of HF_TOKEN (or of a hub login) was sent, but gives no access",
        false => "private and gated models need a token in HF_TOKEN",
    }
}

fn model_hint(reason: &pg_caption_models::ModelsError) -> &'static str {
    match reason {
        pg_caption_models::ModelsError::NoGraph { .. } => {
            "; it needs an export to ONNX, such as onnx-community publishes for many models"
        }
        pg_caption_models::ModelsError::NoDtype { .. } => {
            "; --dtype can be repeated, GRAPH=DTYPE applies to one graph"
        }
        _ => "",
    }
}
