//! What can go wrong between a name and a model folder: what happened, the facts, what to do. No
//! message holds a token.

use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not a repository's name, a revision's or a folder's.
    #[error(
        "\"{0}\" is not a name to be used here: a model's name is OWNER/NAME, a folder's has no slash and no dot at its start"
    )]
    Name(String),
    /// An address (`HF_ENDPOINT`, a proxy) that is none.
    #[error("{what} \"{value}\" cannot be used: {reason}")]
    Setting {
        /// Which.
        what: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: String,
    },
    /// No such repository, or one that is not shown to strangers.
    #[error("the hub shows no model \"{repo}\": check the name; {}", shown_to(*.token))]
    NoRepository {
        /// As asked.
        repo: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// Its files are given only to those who were let in.
    #[error("model \"{repo}\" is gated: its owner must grant access on its page at the hub; {}", shown_to(*.token))]
    Gated {
        /// As asked.
        repo: String,
        /// Whether a token was sent.
        token: bool,
    },
    /// No such branch, tag or commit.
    #[error("model \"{repo}\" has no revision \"{revision}\"")]
    NoRevision {
        /// As asked.
        repo: String,
        /// As asked.
        revision: String,
    },
    /// The hub cannot be reached, or the connection broke again and again.
    #[error(
        "cannot reach {host}: {reason} (a proxy is taken from HTTPS_PROXY, another hub from HF_ENDPOINT)"
    )]
    Network {
        /// The host.
        host: String,
        /// What happened last.
        reason: String,
    },
    /// A status that means nothing better known.
    #[error("{host} answered {status} for {file}")]
    Status {
        /// The host.
        host: String,
        /// The status.
        status: u16,
        /// What was asked for.
        file: String,
    },
    /// An answer that is not what the hub's protocol says.
    #[error("{host} gave an answer for {file} that cannot be read: {reason}")]
    Malformed {
        /// The host.
        host: String,
        /// What was asked for.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is published is no model for us; nothing large was downloaded.
    #[error("model \"{repo}\" cannot be used: {reason}{}", hint(.reason))]
    Unusable {
        /// As asked.
        repo: String,
        /// Why not.
        reason: pg_caption_models::ModelsError,
    },
    /// The disk has not enough room.
    #[error("not enough room in {}: {needed} more bytes are needed, {available} are free", path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        available: u64,
    },
    /// The file that came is not the one published.
    #[error(
        "{file} came with checksum {found}, but {expected} is published: the download was discarded, run the command again"
    )]
    Checksum {
        /// The file.
        file: String,
        /// SHA-256, lower-case hex.
        expected: String,
        /// SHA-256, lower-case hex.
        found: String,
    },
    /// More came than was published.
    #[error(
        "{file} is longer than the {expected} bytes published: the download was discarded, run the command again"
    )]
    Size {
        /// The file.
        file: String,
        /// Bytes.
        expected: u64,
    },
    /// There is a folder of that name, with something else in it.
    #[error("{} is there already{}: --replace puts the new one in its place, --name gives another name", path.display(), origin.as_ref().map(|o| format!(" ({o})")).unwrap_or_default())]
    Exists {
        /// The folder.
        path: PathBuf,
        /// Where it came from, if a pull made it.
        origin: Option<String>,
    },
    /// Somebody else is downloading it.
    #[error("{} is being downloaded by another process", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be written or read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn shown_to(token: bool) -> &'static str {
    match token {
        true => "the token of HF_TOKEN (or of a hub login) was sent, but does not open it",
        false => "private and gated ones need a token in HF_TOKEN",
    }
}

fn hint(reason: &pg_caption_models::ModelsError) -> &'static str {
    match reason {
        pg_caption_models::ModelsError::NoGraph { .. } => {
            "; it needs an export to ONNX, such as onnx-community publishes of many models"
        }
        pg_caption_models::ModelsError::NoDtype { .. } => {
            "; --dtype may be repeated, GRAPH=DTYPE holds for one graph"
        }
        _ => "",
    }
}
