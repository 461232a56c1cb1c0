//! The values that pass through the provider seam. Knows neither jobs nor models.

use super::Provider;
use crate::shared_answers::SharedAnswers;
use pg_caption_models::{ModelLanguages, WithoutConfidence};
use pg_caption_wire::{EngineConfig, FinishReason, ModelRef};
use std::any::Any;
use std::sync::{Arc, Weak};

/// The ways in which a picture must be prepared: whole, in tiles … The bits belong to the provider.
/// Jobs that share a picture unite their sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ViewSet(u32);

impl ViewSet {
    /// A set of the provider's own bits.
    pub const fn from_bits(bits: u32) -> ViewSet {
        ViewSet(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The views of both sets.
    pub const fn union(self, other: ViewSet) -> ViewSet {
        ViewSet(self.0 | other.0)
    }
}

/// Options for the preparation of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PictureOptions {
    /// The views that its captions need.
    pub views: ViewSet,
}

/// A picture as one provider takes it: a tensor, a compressed file … The provider that made it
/// downcasts it.
pub trait PreparedPicture: Any + Send {
    /// Bytes held.
    fn bytes(&self) -> u64;
    /// SHA-256 of the data, lower-case hex; computed on demand.
    fn sha256(&self) -> String;
}

/// What a provider keeps of a picture for all captions of it. The provider that made it downcasts
/// it.
pub type PictureEncoding = Arc<dyn Any + Send + Sync>;

/// One caption as the provider returns it, before threshold and postprocessing.
#[derive(Debug, Clone, PartialEq)]
pub struct RawCaption {
    /// The text; nothing trimmed.
    pub text: String,
    /// Why generation ended.
    pub finish: FinishReason,
    /// 0..=1; `None`: the provider has none, and the threshold does not apply.
    pub confidence: Option<f32>,
    /// Generated tokens, the end token included.
    pub tokens: u32,
    /// Generated token ids; empty where the provider does not know them.
    pub ids: Vec<i64>,
    /// Token ids of the prompt; empty where the provider does not know them.
    pub prompt_ids: Vec<i64>,
}

/// What every answer of a provider needs of its model.
#[derive(Clone)]
pub struct AnswerTerms {
    /// The model that answers.
    pub model: ModelRef,
    /// Threshold of requests without their own: the setting, else the model's.
    pub min_confidence: Option<f32>,
    /// What becomes of captions without confidence.
    pub without_confidence: WithoutConfidence,
    /// Languages in which the model can write.
    pub languages: ModelLanguages,
    /// Texts with slurs or obscene words are refused.
    pub block_obscenity: bool,
    /// Whether its prompts hold the facts of a request.
    pub reads_context: bool,
    /// Whether an equal request has an equal answer.
    pub repeats_answers: bool,
    /// Where raw answers are shared; `None`: the provider gives no raw answers.
    answers: Option<Arc<SharedAnswers>>,
    provider: Weak<dyn Provider>,
}

impl AnswerTerms {
    /// The terms of a provider under a configuration.
    pub fn new(
        provider: &Arc<dyn Provider>,
        config: &EngineConfig,
        answers: Option<Arc<SharedAnswers>>,
    ) -> AnswerTerms {
        let status = provider.status();
        AnswerTerms {
            min_confidence: config.min_confidence.or(status.min_confidence),
            model: ModelRef { name: status.name, digest: status.digest },
            without_confidence: provider.without_confidence(),
            // A folder that cannot be read has no provider; others were checked when it was loaded.
            languages: ModelLanguages::of_folder(&config.model).unwrap_or(ModelLanguages::Any),
            block_obscenity: config.block_obscenity,
            reads_context: provider.reads_context(),
            repeats_answers: provider.repeats_answers(),
            answers: answers.filter(|_| provider.gives_raw_answers()),
            provider: Arc::downgrade(provider),
        }
    }

    /// Where raw answers are shared.
    pub fn answers(&self) -> Option<&Arc<SharedAnswers>> {
        self.answers.as_ref()
    }

    /// The provider, if it still exists.
    pub fn provider(&self) -> Option<Arc<dyn Provider>> {
        self.provider.upgrade()
    }
}
