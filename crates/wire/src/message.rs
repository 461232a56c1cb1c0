//! Requests and replies. Durations are in milliseconds.

use crate::{EngineStatus, Failure};
use pg_caption_style::CaptionStyle;
use serde::{Deserialize, Serialize};

/// Who speaks on a connection; the engine gives workers' rows what waiting people leave over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientRole {
    /// A backend in which somebody waits.
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
        /// Who speaks.
        role: ClientRole,
    },
    /// Caption one image.
    Request(CaptionRequest),
    /// The caller no longer wants this answer; no reply follows for it.
    Cancel {
        /// Of the request.
        id: u64,
    },
    /// Ask for [`ServerMessage::Status`].
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
        /// How many requests the client may have unanswered on this connection; at least 1.
        window: u32,
    },
    /// Answer to one request; replies come in any order.
    Reply(CaptionReply),
    /// Finish what is in flight, send nothing new here, connect again.
    GoAway,
    /// Answer to `Status`.
    Status(Box<EngineStatus>),
    /// The connection cannot go on: version mismatch, malformed frame. The engine closes after it.
    Refused(Failure),
}

/// One image, one or more captions of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionRequest {
    /// Chosen by the client, unique on its connection while unanswered.
    pub id: u64,
    /// Requests on this connection with the same `share` and the same URL may use one fetch and one
    /// encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u64>,
    /// Where the picture is.
    pub image: ImageSource,
    /// What is wanted of it; at least one.
    pub outputs: Vec<OutputSpec>,
    /// The caller's patience, all waiting included. The engine answers or gives up by then.
    pub remaining_ms: u64,
    /// Confidence below which the answer is `uncertain`, 0..=1; `None`: the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<f32>,
}

/// Where the picture of a request is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum ImageSource {
    /// To be fetched.
    Url {
        /// As the user gave it.
        url: String,
        /// The picture captioned before: one that is unchanged is answered with
        /// [`CaptionOutcome::Unchanged`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        known: Option<KnownPicture>,
    },
    /// The bytes are the body of the frame.
    Bytes,
}

/// A picture that was captioned before, and by which model: another model looks at it again in any
/// case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KnownPicture {
    /// As the server sent it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// As the server sent it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Digest of the model that wrote the captions, [`ModelRef::digest`].
    pub model: String,
}

/// One caption wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// The whole definition; the engine keeps none.
    pub style: CaptionStyle,
    /// Hard ceiling for generated tokens,
    /// [`pg_caption_style::MIN_TOKENS`]..=[`pg_caption_style::MAX_TOKENS`].
    pub max_tokens: u32,
    /// Words about the product that an instruction-following model may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// Answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptionReply {
    /// Of the request.
    pub id: u64,
    /// What came of it.
    pub outcome: CaptionOutcome,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum CaptionOutcome {
    /// The picture was captioned: one entry per [`OutputSpec`], in order.
    Done {
        /// The picture.
        image: ImageFacts,
        /// The captions.
        outputs: Vec<CaptionOutput>,
        /// Which model wrote them.
        model: ModelRef,
        /// Where the time went.
        timings: StageTimings,
    },
    /// The picture is the one captioned before (HTTP 304).
    Unchanged,
    /// No caption at all.
    Failed(Failure),
}

/// One caption, or why there is none in this style.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "output", rename_all = "snake_case")]
pub enum CaptionOutput {
    /// A caption that passed its style's rules.
    Written(WrittenCaption),
    /// None: uncertain.
    Failed(Failure),
}

/// A caption and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenCaption {
    /// Never blank.
    pub caption: String,
    /// Why generation ended.
    pub finish: FinishReason,
    /// Generated tokens, the end token included.
    pub tokens: u32,
    /// 0..=1.
    pub confidence: f32,
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
    /// As SQL shows it.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// What is known of a picture after it was fetched and decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff`.
    pub format: String,
    /// Upright, in pixels.
    pub width: u32,
    /// Upright, in pixels.
    pub height: u32,
    /// Size of the encoded file.
    pub bytes: u64,
    /// SHA-256 of the encoded file, lower-case hex.
    pub sha256: String,
    /// As the server sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// As the server sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// Which model wrote a caption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// Folder name.
    pub name: String,
    /// SHA-256 over the folder's graphs and configuration, lower-case hex.
    pub digest: String,
}

/// Milliseconds one request spent per stage, its share of batched work for the model stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StageTimings {
    /// From arrival to the first act for it, plus waiting between stages.
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
