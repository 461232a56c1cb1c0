//! The rules for logits, in the reference implementation's order.
//!
//! `scores` are raw logits for greedy search and log-probabilities for beam search; one row,
//! changed in place. A forced token overrides all earlier rules, the n-gram ban included; only
//! suppression comes later. Ids outside the vocabulary are ignored.

use super::settings::GenerationSettings;

/// A sequence as the rules need it.
#[derive(Clone, Copy)]
pub(super) struct RulePosition<'a> {
    /// The decoder's whole sequence: start token or prompt, then generated tokens.
    pub sequence: &'a [i64],
    /// Number of prompt tokens in it.
    pub prompt: usize,
    /// Greatest length of the whole sequence.
    pub limit: usize,
}

impl RulePosition<'_> {
    /// Whether the next token is forced.
    pub fn is_forced(&self, settings: &GenerationSettings) -> bool {
        (settings.forced_bos_token_id.is_some() && self.sequence.len() == 1)
            || self.is_forced_end(settings)
    }

    /// Whether the next token reaches the limit and has to be an end token.
    pub fn is_forced_end(&self, settings: &GenerationSettings) -> bool {
        !settings.forced_eos_token_id.is_empty() && self.sequence.len() + 1 == self.limit
    }
}

/// Applies every enabled rule.
pub(super) fn apply(settings: &GenerationSettings, at: RulePosition, scores: &mut [f32]) {
    penalise_repetition(settings.repetition_penalty, at.sequence, scores);
    ban_repeated_ngrams(settings.no_repeat_ngram_size as usize, at.sequence, scores);
    ban_words(settings, at.sequence, scores);
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
    set(scores, &settings.suppress_tokens, f32::NEG_INFINITY);
    // A forced first token does not count as the beginning of the text.
    let begin = at.prompt + usize::from(at.prompt == 1 && settings.forced_bos_token_id.is_some());
    if at.sequence.len() == begin {
        set(scores, &settings.begin_suppress_tokens, f32::NEG_INFINITY);
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
    let mut seen: Vec<usize> = sequence
        .iter()
        .filter_map(|t| usize::try_from(*t).ok())
        .filter(|t| *t < scores.len())
        .collect();
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

fn ban_words(settings: &GenerationSettings, sequence: &[i64], scores: &mut [f32]) {
    for word in &settings.bad_words_ids {
        let Some((last, before)) = word.split_last() else { continue };
        let is_end = before.is_empty() && settings.eos_token_id.contains(last);
        // The reference skips a word as long as the whole sequence, even if all its tokens but the
        // last precede.
        let fits = before.is_empty() || word.len() <= sequence.len();
        if !is_end && fits && sequence.ends_with(before) {
            set(scores, &[*last], f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OUT: f32 = f32::NEG_INFINITY;

    fn after(
        settings: serde_json::Value,
        sequence: &[i64],
        limit: usize,
        mut scores: Vec<f32>,
    ) -> Vec<f32> {
        let settings = GenerationSettings::default().overridden(&settings).unwrap();
        apply(&settings, RulePosition { sequence, prompt: 1, limit }, &mut scores);
        scores
    }

    #[test]
    fn repetition_penalty_applies_once_per_token() {
        assert_eq!(
            after(json!({ "repetition_penalty": 2.0 }), &[0, 1, 1, 99], 9, vec![-1.0, 4.0, 3.0]),
            [-2.0, 2.0, 3.0]
        );
    }

    #[test]
    fn ngrams_never_repeat() {
        assert_eq!(
            after(json!({ "no_repeat_ngram_size": 3 }), &[0, 1, 2, 0, 1], 9, vec![0.0; 4]),
            [0.0, 0.0, OUT, 0.0]
        );
        assert_eq!(
            after(json!({ "no_repeat_ngram_size": 1 }), &[0, 2], 9, vec![0.0; 3]),
            [OUT, 0.0, OUT]
        );
        assert_eq!(after(json!({ "no_repeat_ngram_size": 5 }), &[0, 1], 9, vec![0.0; 3]), [0.0; 3]);
    }

    #[test]
    fn no_end_token_before_the_minimum() {
        let settings = json!({ "eos_token_id": 1, "min_length": 3 });
        assert_eq!(after(settings.clone(), &[0, 2], 9, vec![0.0; 3]), [0.0, OUT, 0.0]);
        assert_eq!(after(settings, &[0, 2, 2], 9, vec![0.0; 3]), [0.0; 3]);
        assert_eq!(
            after(json!({ "eos_token_id": 1, "min_new_tokens": 2 }), &[0, 2], 9, vec![0.0; 3]),
            [0.0, OUT, 0.0]
        );
        let both = json!({ "eos_token_id": 1, "min_new_tokens": 1, "min_length": 8 });
        assert_eq!(after(both, &[0, 2], 9, vec![0.0; 3]), [0.0; 3], "the more precise one counts");
    }

    #[test]
    fn forced_tokens_override_the_ngram_ban() {
        let settings = json!({
            "forced_bos_token_id": 0, "forced_eos_token_id": [2], "no_repeat_ngram_size": 1
        });
        assert_eq!(after(settings.clone(), &[0], 9, vec![1.0; 3]), [0.0, OUT, OUT]);
        assert_eq!(after(settings.clone(), &[0, 1, 2], 4, vec![1.0; 3]), [OUT, OUT, 0.0]);
        assert_eq!(after(settings, &[0, 1, 2], 5, vec![1.0; 3]), [OUT, OUT, OUT]);
    }

    /// The reference's NoBadWords, SuppressTokens and SuppressTokensAtBegin by definition: whether
    /// a token is allowed.
    fn is_allowed(
        settings: &GenerationSettings,
        sequence: &[i64],
        prompt: usize,
        token: i64,
    ) -> bool {
        let mut after = sequence.to_vec();
        after.push(token);
        let bad = settings.bad_words_ids.iter().any(|word| match word[..] {
            [only] => only == token && !settings.eos_token_id.contains(&only),
            _ => after.len() > word.len() && after[after.len() - word.len()..] == word[..],
        });
        let begins = match (prompt, settings.forced_bos_token_id) {
            (1, Some(_)) => sequence.len() == 2,
            _ => sequence.len() == prompt,
        };
        let suppressed = settings.suppress_tokens.contains(&token)
            || (begins && settings.begin_suppress_tokens.contains(&token));
        !(bad || suppressed)
    }

    proptest::proptest! {
        #[test]
        fn bans_remove_tokens_and_change_nothing_else(
            words in proptest::collection::vec(proptest::collection::vec(0i64..5, 1..4), 0..6),
            suppressed in proptest::collection::vec(0i64..7, 0..3),
            at_begin in proptest::collection::vec(0i64..7, 0..3),
            ends in proptest::collection::vec(0i64..5, 0..2),
            sequence in proptest::collection::vec(0i64..5, 1..7),
            given in 1usize..7,
            forced in proptest::bool::ANY,
        ) {
            let prompt = given.min(sequence.len());
            let settings = GenerationSettings {
                bad_words_ids: words,
                suppress_tokens: suppressed,
                begin_suppress_tokens: at_begin,
                eos_token_id: ends,
                forced_bos_token_id: forced.then_some(99), ..GenerationSettings::default()
            };
            let before = [0.5, -1.0, 2.0, 0.0, -0.25];
            let mut scores = before.to_vec();
            apply(&settings, RulePosition { sequence: &sequence, prompt, limit: 99 }, &mut scores);
            for (token, (is, was)) in scores.iter().zip(before).enumerate() {
                let allowed = is_allowed(&settings, &sequence, prompt, token as i64);
                let expected = if allowed { was } else { OUT };
                proptest::prop_assert_eq!(*is, expected, "token {} after {:?}", token, sequence);
            }
        }
    }

    #[test]
    fn suppression_overrides_forcing() {
        let settings =
            json!({ "forced_bos_token_id": 0, "suppress_tokens": [0], "bad_words_ids": [[1]] });
        assert_eq!(after(settings, &[2], 9, vec![1.0; 3]), [OUT; 3]);
        let settings = json!({
            "forced_bos_token_id": 1, "begin_suppress_tokens": [1], "bad_words_ids": [[1]]
        });
        assert_eq!(after(settings.clone(), &[2], 9, vec![1.0; 3]), [OUT, 0.0, OUT]);
        assert_eq!(after(settings, &[2, 1], 9, vec![1.0; 3]), [1.0, OUT, 1.0]);
    }

    #[test]
    fn ids_outside_the_vocabulary_are_ignored() {
        let settings = json!({ "forced_bos_token_id": 70, "eos_token_id": 80, "min_length": 4 });
        assert_eq!(after(settings, &[0], 9, vec![1.0; 3]), [1.0; 3]);
    }
}
