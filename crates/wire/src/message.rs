//! Requests and replies. Durations are in milliseconds.

use crate::{ContextFacts, EngineStatus, Failure};
use pg_caption_rules::BlockRule;
use pg_caption_style::CaptionStyle;
use serde::{Deserialize, Serialize};

/// The kind of client. Queue workers get the capacity that waiting sessions do not use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientRole {
    /// A backend whose session waits.
    Call,
    /// A queue worker.
    Worker,
}

/// From the extension to the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// First message on a connection.
    Hello {
        /// [`crate::PROTOCOL`] of the client.
        version: u32,
        /// Release of the extension, for messages about a mismatch.
        release: String,
        /// The kind of client.
        role: ClientRole,
    },
    /// Caption one image.
    Request(CaptionRequest),
    /// Withdraws a request; it is not answered. The extension closes its connection instead, which
    /// withdraws all of its requests.
    Cancel {
        /// Id of the request.
        id: u64,
    },
    /// Requests [`ServerMessage::Status`].
    Status,
}

/// From the engine to the extension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// Answer to the client's hello.
    Hello {
        /// [`crate::PROTOCOL`] of the engine.
        version: u32,
        /// Release of the engine.
        release: String,
        /// Most unanswered requests on this connection; at least 1.
        window: u32,
    },
    /// A request's picture is about to be decoded, or to reach the model. If the engine dies from
    /// now on, the picture may be the cause. Requests without this message are never the cause.
    Running {
        /// Id of the request.
        id: u64,
        /// No other picture, of any connection, has been in decoder or model since. Sent again
        /// with `false` when that ends; it never becomes true again.
        alone: bool,
    },
    /// Answer to one request; replies arrive in any order.
    Reply(CaptionReply),
    /// The client must send no further requests here, wait for its answers, and reconnect.
    GoAway,
    /// Answer to `Status`.
    Status(Box<EngineStatus>),
    /// The connection is refused: version mismatch, malformed frame. The engine closes it.
    Refused(Failure),
}

/// Request for one or more captions of one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionRequest {
    /// Chosen by the client, unique on its connection while unanswered.
    pub id: u64,
    /// Requests on this connection with the same `share` and the same URL may use one fetch and one
    /// encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u64>,
    /// Source of the picture.
    pub image: ImageSource,
    /// The requested captions; at least one.
    pub outputs: Vec<OutputSpec>,
    /// Time limit of the caller in milliseconds, all waiting included. The engine answers by then.
    pub remaining_ms: u64,
    /// The time limit begins when the fetch may start, not at the arrival: the request is one of
    /// many that wait for the same host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_turn: bool,
    /// Confidence below which the answer is `uncertain`, 0..=1; `None`: the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<f32>,
    /// The picture is suspected of killing engines: the engine decodes and captions it while no
    /// other picture, of any connection, is in decoder or model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Rules of the database for the words of captions, of all styles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<BlockRule>,
    /// Earlier captions of the row that the request is for. If the file is the same, they are the
    /// answer, and the model does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Box<EarlierAnswer>>,
    /// Which earlier work may be used for the answer.
    #[serde(default)]
    pub reuse: AnswerReuse,
}

/// Which earlier work of the engine a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerReuse {
    /// All that is known of the URL and of the picture.
    #[default]
    Any,
    /// What is known of the picture: its host is asked which picture it is.
    Picture,
    /// None: the picture is captioned again.
    Nothing,
}

/// What the ledger has for the row of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlierAnswer {
    /// SHA-256 of the file that was captioned, lower-case hex.
    pub sha256: String,
    /// Digest of the model that answered, [`ModelRef::digest`].
    pub model: String,
    /// One for each [`OutputSpec`], in order.
    pub captions: Vec<EarlierCaption>,
}

/// A caption in the ledger, written for the style and limit of its output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlierCaption {
    /// The caption.
    pub caption: String,
    /// 0..=1; `None`: the model had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// The model that wrote it, if it was one of a cascade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
}

/// Source of the picture of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum ImageSource {
    /// The engine fetches it.
    Url {
        /// As the user wrote it.
        url: String,
        /// The picture captioned before. If it is unchanged, the answer is
        /// [`CaptionOutcome::Unchanged`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        known: Option<KnownPicture>,
        /// What failures show in place of the URL, which is signed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shown: Option<String>,
    },
    /// The bytes are the body of the frame.
    Bytes,
}

/// A picture that was captioned before, and by which model. Another model captions it in any case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KnownPicture {
    /// ETag of that response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Last-Modified of that response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Digest of the model that wrote the captions, [`ModelRef::digest`].
    pub model: String,
}

/// One requested caption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// The whole definition with what a fill changes, as its language; the engine stores none.
    pub style: CaptionStyle,
    /// Upper limit for generated tokens,
    /// [`pg_caption_style::MIN_TOKENS`]..=[`pg_caption_style::MAX_TOKENS`].
    pub max_tokens: u32,
    /// Facts about the picture that a model which follows instructions may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextFacts>,
    /// Confidence below which this caption is `uncertain`, 0..=1; `None`: that of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<f32>,
}

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionReply {
    /// Id of the request.
    pub id: u64,
    /// Its outcome.
    pub outcome: CaptionOutcome,
}

/// Outcome of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum CaptionOutcome {
    /// The picture was captioned: one entry per [`OutputSpec`], in order.
    Done {
        /// Facts about the picture.
        image: ImageFacts,
        /// The captions.
        outputs: Vec<CaptionOutput>,
        /// The model that wrote them.
        model: ModelRef,
        /// Time spent by stage.
        timings: StageTimings,
    },
    /// The picture has not changed since it was captioned (HTTP 304).
    Unchanged,
    /// No caption in any style.
    Failed(Failure),
}

/// One caption, or the reason for its absence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "output", rename_all = "snake_case")]
pub enum CaptionOutput {
    /// A caption that passed its style's rules.
    Written(WrittenCaption),
    /// No caption; of class `Uncertain`.
    Failed(Failure),
}

/// A caption and how it was generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenCaption {
    /// Never blank.
    pub caption: String,
    /// Why generation ended.
    pub finish: FinishReason,
    /// Generated tokens, the end token included.
    pub tokens: u32,
    /// 0..=1; `None`: the provider has none, and no threshold applies.
    #[serde(default)]
    pub confidence: Option<f32>,
    /// The model's folder wants a review of captions without confidence: a watch does not write
    /// it by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draft: bool,
    /// Its prompt held the facts of [`OutputSpec::context`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_context: bool,
    /// The model that wrote it, if it is not the one of the answer: one of a cascade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended its text.
    Stop,
    /// `max_tokens` or the model's own bound was reached.
    Length,
}

impl FinishReason {
    /// The name that SQL shows.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// Facts about a decoded picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff`; empty where the file was not read.
    pub format: String,
    /// Width of the upright picture, pixels; 0 where the file was not read.
    pub width: u32,
    /// Height of the upright picture, pixels; 0 where the file was not read.
    pub height: u32,
    /// Size of the encoded file, bytes.
    pub bytes: u64,
    /// SHA-256 of the encoded file, lower-case hex.
    pub sha256: String,
    /// ETag of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Last-Modified of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// The model that wrote a caption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// Folder name.
    pub name: String,
    /// SHA-256 over the folder's graphs and configuration, lower-case hex.
    pub digest: String,
}

/// Milliseconds that one request spent per stage; for the model stages its share of the batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTimings {
    /// Waiting, before the first stage and between stages.
    pub wait: f64,
    /// Network.
    pub fetch: f64,
    /// Bytes to pixels.
    pub decode: f64,
    /// Resize and normalise.
    pub preprocess: f64,
    /// Image encoder.
    pub encode: f64,
    /// Prefill and decode steps, all outputs.
    pub generate: f64,
    /// From arrival to reply.
    pub total: f64,
}
