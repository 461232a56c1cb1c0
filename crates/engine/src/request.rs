//! What a job asks for: its picture, its captions and the options of the command line.

use pg_caption_rules::RuleSet;
use pg_caption_wire::{AnswerReuse, ClientRole, EarlierAnswer, KnownPicture, OutputSpec};
use std::sync::Arc;
use std::time::Duration;

/// Where a picture comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PictureSource {
    /// To be fetched.
    Url {
        /// As the user gave it.
        url: String,
        /// The picture that was captioned before.
        known: Option<KnownPicture>,
        /// What failures show in place of the URL.
        shown: Option<String>,
    },
    /// The bytes came with the request.
    Bytes {
        /// SHA-256 of the bytes, lower-case hex; only where requests may share the picture.
        sha256: Option<String>,
    },
}

/// Which file a URL or a request has: its digest, and the validators of the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileIdentity {
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// ETag of the response.
    pub etag: Option<String>,
    /// Last-Modified of the response.
    pub last_modified: Option<String>,
}

/// Options which the command line has beyond those of a client's request.
#[derive(Debug, Clone, Default)]
pub struct JobExtras {
    /// Full decode, blank pictures accepted, no threshold, no postprocessing.
    pub exact: bool,
    /// Replaces the style's instruction.
    pub prompt: Option<String>,
    /// `generation_config` fields that override the folder's.
    pub generation: Option<serde_json::Value>,
    /// Compute the digest of the prepared picture.
    pub pixels_sha256: bool,
    /// The name that a caption must not repeat, for bytes read from a file.
    pub file_name: Option<String>,
    /// The job is of the command line: it shares no work with others, which may ask otherwise.
    pub apart: bool,
}

/// One request for captions of one picture.
pub struct JobSpec {
    /// Id of the connection; connections take turns.
    pub connection: u64,
    /// Role of the client.
    pub role: ClientRole,
    /// Time limit.
    pub timeout: Duration,
    /// The time limit begins when the fetch may start, not at the request's arrival.
    pub from_turn: bool,
    /// The picture.
    pub source: PictureSource,
    /// The captions.
    pub outputs: Vec<OutputSpec>,
    /// The request's own threshold.
    pub min_confidence: Option<f32>,
    /// Rules for the words of its captions.
    pub rules: Arc<RuleSet>,
    /// Options of the command line.
    pub extras: JobExtras,
    /// What the ledger has for the row.
    pub earlier: Option<Box<EarlierAnswer>>,
    /// Which earlier work may be used.
    pub reuse: AnswerReuse,
}
