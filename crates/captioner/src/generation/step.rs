//! One step of a search: its fixed frame, its result, and the confidence so far. Shared by greedy
//! and beam search.

use super::rules::RulePosition;
use super::settings::GenerationSettings;
use pg_caption_wire::FinishReason;

/// The result of a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SearchAdvance {
    /// The rows of the next step: for each the row of this step whose cache it continues, and the
    /// token to feed.
    Continue(Vec<(usize, i64)>),
    /// The caption is complete.
    Done(SearchOutcome),
}

/// A complete caption.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SearchOutcome {
    /// New ids, the end token included when it was produced.
    pub ids: Vec<i64>,
    /// Why it ended; a forced final end token counts as `Length`.
    pub finish: FinishReason,
    /// Geometric mean of the probabilities of the chosen tokens (forced ones excluded), 0..=1.
    pub confidence: f32,
}

/// Error: logits with NaN or without a finite maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotNumbers;

/// The constants of a search.
#[derive(Clone, Copy)]
pub(super) struct SearchFrame<'a> {
    pub settings: &'a GenerationSettings,
    pub prompt: usize,
    pub limit: usize,
}

impl SearchFrame<'_> {
    pub fn at<'s>(&self, sequence: &'s [i64]) -> RulePosition<'s> {
        RulePosition { sequence, prompt: self.prompt, limit: self.limit }
    }

    /// The result for a complete sequence.
    pub fn outcome(&self, sequence: &[i64], chosen: ChosenTokens) -> SearchOutcome {
        let (before, last) = sequence.split_at(sequence.len() - 1);
        let ended = self.settings.eos_token_id.contains(&last[0])
            && !self.at(before).is_forced_end(self.settings);
        let finish = if ended { FinishReason::Stop } else { FinishReason::Length };
        SearchOutcome { ids: sequence[self.prompt..].to_vec(), finish, confidence: chosen.mean() }
    }
}

/// Log-probabilities of the tokens that the model chose itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct ChosenTokens {
    sum: f64,
    tokens: u32,
}

impl ChosenTokens {
    /// With one more token.
    pub fn with(self, log_probability: f32) -> ChosenTokens {
        ChosenTokens { sum: self.sum + log_probability as f64, tokens: self.tokens + 1 }
    }

    fn mean(self) -> f32 {
        if self.tokens == 0 {
            1.0
        } else {
            (self.sum / self.tokens as f64).exp().clamp(0.0, 1.0) as f32
        }
    }
}
