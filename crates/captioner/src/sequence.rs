//! A caption before and after generation.

use crate::features::PictureFeatures;
use crate::generation::GenerationSettings;
use crate::prompt::TokenPrompt;
use pg_caption_wire::FinishReason;
use std::sync::Arc;

/// One caption to generate.
pub struct CaptionSequence {
    /// Chosen by the caller, returned in [`FinishedCaption`]; unique within a batch.
    pub key: u64,
    /// The picture.
    pub features: Arc<PictureFeatures>,
    /// What generation starts from.
    pub prompt: TokenPrompt,
    /// Limit of new tokens; the smaller of this and the folder's own applies.
    pub max_new_tokens: u32,
    /// Beams, n-gram ban, penalties …: only equal settings share a batch.
    pub generation: Arc<GenerationSettings>,
}

/// A caption that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedCaption {
    /// Key of the sequence.
    pub key: u64,
    /// New ids, the end token included when it was produced.
    pub ids: Vec<i64>,
    /// Why it ended; a forced final end token counts as `Length`.
    pub finish: FinishReason,
    /// Geometric mean of the probabilities of the tokens that the model chose itself, 0..=1.
    pub confidence: f32,
}
