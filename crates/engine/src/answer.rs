//! The answer to a job. The server turns it into a message, the command line prints it.

use pg_caption_wire::{Failure, FinishReason, ImageFacts, ModelRef, StageTimings};

/// One caption as generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedCaption {
    /// The postprocessed text, or why it was refused.
    pub caption: Result<String, Failure>,
    /// Before postprocessing.
    pub text_raw: String,
    /// Generated tokens, the end token included.
    pub tokens: u32,
    /// Generated token ids; empty where the provider does not know them.
    pub ids: Vec<i64>,
    /// Token ids of the prompt; empty where the provider does not know them.
    pub prompt_ids: Vec<i64>,
    /// Why generation ended.
    pub finish: FinishReason,
    /// 0..=1; `None`: the provider has none.
    pub confidence: Option<f32>,
    /// The model's folder wants a review of it.
    pub draft: bool,
    /// Its prompt held the facts of the request.
    pub with_context: bool,
    /// The model that wrote it, if it is not the one of the answer.
    pub model: Option<ModelRef>,
}

/// The answer to a job.
#[derive(Debug, Clone)]
pub enum JobAnswer {
    /// The picture was captioned; one entry per requested output, in order.
    Done {
        /// The picture.
        image: ImageFacts,
        /// `Err`: refused before anything was generated.
        outputs: Vec<Result<GeneratedCaption, Failure>>,
        /// The model that wrote them.
        model: ModelRef,
        /// Time spent by stage.
        timings: StageTimings,
        /// SHA-256 of the prepared picture, if requested.
        pixels_sha256: Option<String>,
    },
    /// The host reports that the picture was not modified.
    Unchanged,
    /// No caption at all.
    Failed(Failure),
}
