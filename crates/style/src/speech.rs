//! Sentences in which a model speaks of itself, of the request or of its text, recognised by what
//! they speak of rather than by their wording. Used by `smalltalk`. The words are in `data/*.toml`.

use crate::phrase::WordSet;
use crate::sentence;
use crate::vocabulary::vocabulary;
use crate::words::{TextWord, words_of};

/// Words of a sentence in which a refusal or an offer is looked for.
const MAX_WORDS: usize = 40;
/// Words at the start of a sentence by which a title is recognised.
const TITLE_WORDS: usize = 4;
/// What has a caption or text on it is the subject.
pub const PLACED: [&str; 12] =
    ["with", "mit", "avec", "con", "com", "met", "on", "auf", "sur", "sobre", "su", "op"];

/// Whether a text begins with a refusal.
pub fn declines(text: &str) -> bool {
    if vocabulary().refusal.starts(text) {
        return true;
    }
    let Some(words) = spoken(sentence::sentences(text).first().copied().unwrap_or_default()) else {
        return false;
    };
    vocabulary().speech.iter().any(|signals| {
        let has = |set: &WordSet| set.is_in(&words);
        has(&signals.negation)
            && (has(&signals.first)
                || (has(&signals.speaker) && (has(&signals.task) || has(&signals.media)))
                || (has(&signals.media) && has(&signals.sent)))
    })
}

/// Whether what is left begins with the model and its request instead of a picture.
pub fn speaks_of_itself(text: &str) -> bool {
    let first = sentence::sentences(text).first().copied().unwrap_or_default();
    let Some(words) = spoken(first) else { return false };
    let mut speech = vocabulary().speech.iter();
    speech.any(|signals| {
        signals.first.is_in(&words) && (signals.sent.is_in(&words) || signals.media.is_in(&words))
    })
}

/// Whether the model speaks of what else it can do.
pub fn offers(sentence: &str) -> bool {
    let Some(words) = spoken(sentence) else { return false };
    let mut speech = vocabulary().speech.iter();
    speech.any(|signals| signals.speaker.is_in(&words) && signals.offer.is_in(&words))
}

/// The words of a sentence that is no quotation: a sign or mug may speak to its reader, in quotes
/// or in title case ("I Can't Breathe").
pub fn spoken(sentence: &str) -> Option<Vec<TextWord>> {
    let quoted = sentence.contains(['"', '“', '”', '«', '„', '‘']);
    let words = words_of(sentence, MAX_WORDS);
    // The first word, and the "I" of any sentence, are capitalised anyway.
    let titled = words.iter().skip(1).take(TITLE_WORDS).filter(|word| {
        sentence[word.start..].starts_with(char::is_uppercase) && word.key.chars().count() > 2
    });
    (!quoted && titled.count() < 2).then_some(words)
}

/// Whether a unit before a colon has the model or its reader in it.
pub fn addresses(unit: &str) -> bool {
    let Some(found) = spoken(unit) else { return false };
    vocabulary().speech.iter().any(|signals| signals.first.is_in(&found))
}

/// Whether a sentence before the caption presents it: "Below you'll find the requested alt text."
pub fn presents(unit: &str) -> bool {
    let Some(found) = spoken(unit) else { return false };
    !found.iter().any(|word| PLACED.contains(&word.key.as_str()))
        && vocabulary().label.is_in(&found)
        && vocabulary().speech.iter().any(|signals| signals.speaker.is_in(&found))
}
