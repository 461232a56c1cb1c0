//! The logits rules, in the reference implementation's order.
//!
//! `scores` are raw logits for greedy search and log-probabilities for beam search; one row, changed in place. A forced token
//! overrides everything before it, the n-gram ban included. Ids outside the vocabulary are passed over.

use super::settings::Generation;

/// A sequence as the rules see it.
#[derive(Clone, Copy)]
pub(super) struct Position<'a> {
    /// The decoder's whole sequence: start token or prompt, then what was generated.
    pub sequence: &'a [i64],
    /// Tokens of it that were given.
    pub prompt: usize,
    /// Greatest length of the whole sequence.
    pub limit: usize,
}

impl Position<'_> {
    /// The next token is not the model's choice.
    pub fn is_forced(&self, settings: &Generation) -> bool {
        (settings.forced_bos_token_id.is_some() && self.sequence.len() == 1) || self.is_forced_end(settings)
    }

    /// The next token is the last there is room for, and has to be an end token.
    pub fn is_forced_end(&self, settings: &Generation) -> bool {
        !settings.forced_eos_token_id.is_empty() && self.sequence.len() + 1 == self.limit
    }
}

/// Applies every rule that is on.
pub(super) fn apply(settings: &Generation, at: Position, scores: &mut [f32]) {
    penalise_repetition(settings.repetition_penalty, at.sequence, scores);
    ban_repeated_ngrams(settings.no_repeat_ngram_size as usize, at.sequence, scores);
    let new = at.sequence.len() - at.prompt;
    let too_short = match settings.min_new_tokens {
        Some(least) => new < least as usize,
        None => at.sequence.len() < settings.min_length as usize,
    };
    if too_short {
        set(scores, &settings.eos_token_id, f32::NEG_INFINITY);
    }
    if let (Some(first), 1) = (settings.forced_bos_token_id, at.sequence.len()) {
        force(scores, &[first]);
    }
    if at.is_forced_end(settings) {
        force(scores, &settings.forced_eos_token_id);
    }
}

fn set(scores: &mut [f32], tokens: &[i64], value: f32) {
    for token in tokens {
        if let Some(score) = usize::try_from(*token).ok().and_then(|t| scores.get_mut(t)) {
            *score = value;
        }
    }
}

fn force(scores: &mut [f32], tokens: &[i64]) {
    if tokens.iter().all(|t| usize::try_from(*t).map_or(true, |t| t >= scores.len())) {
        return;
    }
    scores.fill(f32::NEG_INFINITY);
    set(scores, tokens, 0.0);
}

fn penalise_repetition(penalty: f32, sequence: &[i64], scores: &mut [f32]) {
    if penalty == 1.0 {
        return;
    }
    let mut seen: Vec<usize> = sequence.iter().filter_map(|t| usize::try_from(*t).ok()).filter(|t| *t < scores.len()).collect();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        let score = &mut scores[token];
        *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
    }
}

fn ban_repeated_ngrams(size: usize, sequence: &[i64], scores: &mut [f32]) {
    if size == 0 || sequence.len() + 1 < size {
        return;
    }
    let tail = &sequence[sequence.len() + 1 - size..];
    for ngram in sequence.windows(size) {
        if ngram[..size - 1] == *tail {
            set(scores, &ngram[size - 1..], f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OUT: f32 = f32::NEG_INFINITY;

    fn after(settings: serde_json::Value, sequence: &[i64], limit: usize, mut scores: Vec<f32>) -> Vec<f32> {
        let settings = Generation::default().overridden(&settings).unwrap();
        apply(&settings, Position { sequence, prompt: 1, limit }, &mut scores);
        scores
    }

    #[test]
    fn a_used_token_is_multiplied_when_negative_and_divided_when_positive_once() {
        assert_eq!(after(json!({ "repetition_penalty": 2.0 }), &[0, 1, 1, 99], 9, vec![-1.0, 4.0, 3.0]), [-2.0, 2.0, 3.0]);
    }

    #[test]
    fn an_ngram_that_occurred_does_not_occur_again_start_token_included() {
        assert_eq!(after(json!({ "no_repeat_ngram_size": 3 }), &[0, 1, 2, 0, 1], 9, vec![0.0; 4]), [0.0, 0.0, OUT, 0.0]);
        assert_eq!(after(json!({ "no_repeat_ngram_size": 1 }), &[0, 2], 9, vec![0.0; 3]), [OUT, 0.0, OUT]);
        assert_eq!(after(json!({ "no_repeat_ngram_size": 5 }), &[0, 1], 9, vec![0.0; 3]), [0.0; 3]);
    }

    #[test]
    fn no_end_token_before_the_minimum() {
        let settings = json!({ "eos_token_id": 1, "min_length": 3 });
        assert_eq!(after(settings.clone(), &[0, 2], 9, vec![0.0; 3]), [0.0, OUT, 0.0]);
        assert_eq!(after(settings, &[0, 2, 2], 9, vec![0.0; 3]), [0.0; 3]);
        assert_eq!(after(json!({ "eos_token_id": 1, "min_new_tokens": 2 }), &[0, 2], 9, vec![0.0; 3]), [0.0, OUT, 0.0]);
        let both = json!({ "eos_token_id": 1, "min_new_tokens": 1, "min_length": 8 });
        assert_eq!(after(both, &[0, 2], 9, vec![0.0; 3]), [0.0; 3], "the more precise one counts");
    }

    #[test]
    fn forced_tokens_override_the_ngram_ban() {
        let settings = json!({ "forced_bos_token_id": 0, "forced_eos_token_id": [2], "no_repeat_ngram_size": 1 });
        assert_eq!(after(settings.clone(), &[0], 9, vec![1.0; 3]), [0.0, OUT, OUT]);
        assert_eq!(after(settings.clone(), &[0, 1, 2], 4, vec![1.0; 3]), [OUT, OUT, 0.0]);
        assert_eq!(after(settings, &[0, 1, 2], 5, vec![1.0; 3]), [OUT, OUT, OUT]);
    }

    #[test]
    fn an_id_outside_the_vocabulary_changes_nothing() {
        let settings = json!({ "forced_bos_token_id": 70, "eos_token_id": 80, "min_length": 4 });
        assert_eq!(after(settings, &[0], 9, vec![1.0; 3]), [1.0; 3]);
    }
}
