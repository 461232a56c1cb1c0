//! A picture that the provider has accepted, kept for every caption of it.

use crate::provider::values::{AnswerTerms, PictureEncoding};
use pg_caption_wire::{ImageFacts, StageTimings};
use std::sync::Arc;
use std::time::Instant;

/// A picture that the provider has accepted, shared by its captions.
pub struct EncodedPicture {
    /// The provider's own state.
    pub encoding: PictureEncoding,
    /// The provider's confidence that it recognises the picture, before any text, 0..=1.
    pub confidence: Option<f32>,
    /// The file.
    pub facts: ImageFacts,
    /// Fetch to encode.
    pub timings: StageTimings,
    /// SHA-256 of the prepared picture, if requested.
    pub pixels_sha256: Option<String>,
    /// When the provider had accepted it.
    pub at: Instant,
    /// Model and threshold of its answers.
    pub terms: Arc<AnswerTerms>,
}
