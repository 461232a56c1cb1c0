//! Whether a text is in a language: its script always, its words only if they leave no doubt.

use crate::LanguageTag;
use icu_properties::{CodePointMapData, props::Script};
use pg_caption_style::function_words;
use whatlang::Lang;

/// Least share of letters in a script other than Latin; names of brands keep theirs.
const MIN_SHARE: f64 = 0.3;
/// Least share of letters in the Latin script.
const MIN_LATIN: f64 = 0.7;
/// Fewer letters say nothing about the language.
const MIN_LETTERS: usize = 24;
/// Least certainty of the detector.
const MIN_CONFIDENCE: f64 = 0.95;
/// Chinese characters without any Japanese syllable that a Japanese text can have.
const MAX_KANJI: usize = 8;
/// Words of another language that leave no doubt if the expected one has no word in the text.
const CLEAR_WORDS: usize = 2;

/// Languages that detectors confuse; one is never taken for the other.
const ALIKE: &[&[&str]] = &[
    &["pt", "es", "gl", "ca"],
    &["da", "nb", "no", "nn", "sv"],
    &["cs", "sk"],
    &["hr", "sr", "bs", "sl"],
    &["ru", "uk", "bg", "be", "mk"],
    &["id", "ms", "jv", "tl"],
    &["nl", "af"],
    &["hi", "mr", "ne"],
    &["fa", "ur", "ar"],
];

/// Whether `text` may be in `language`. `false` only if the script is another one, or if its words
/// are clearly those of another language.
///
/// ```
/// use pg_caption_language::in_language;
///
/// let german = "de".parse().unwrap();
/// assert!(in_language("Ein roter Korb auf einem Tisch", &german));
/// assert!(!in_language("A red basket on a table with the apples", &german));
/// assert!(in_language("Nike Air Max 90", &german));
/// ```
pub fn in_language(text: &str, language: &LanguageTag) -> bool {
    is_in_script(text, language) && !is_clearly_other(text, language)
}

/// What stands for the letters of a script.
#[derive(Default)]
struct LetterCount {
    all: usize,
    expected: usize,
    latin: usize,
    han: usize,
    kana: usize,
}

fn letters_of(text: &str, script: &str) -> LetterCount {
    let map = CodePointMapData::<Script>::new();
    let mut count = LetterCount::default();
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        let (han, kana) = match map.get(c) {
            Script::Han => (1, 0),
            Script::Hiragana | Script::Katakana => (0, 1),
            Script::Common | Script::Inherited => continue,
            other => {
                count.latin += usize::from(other == Script::Latin);
                count.expected += usize::from(is_script(other, script));
                (0, 0)
            }
        };
        count.all += 1;
        count.han += han;
        count.kana += kana;
        count.expected += match script {
            "Jpan" => han + kana,
            "Hans" | "Hant" | "Hani" | "Kore" => han,
            _ => 0,
        };
    }
    count
}

fn is_script(script: Script, code: &str) -> bool {
    match code {
        "Kore" => script == Script::Hangul,
        "Hrkt" => matches!(script, Script::Hiragana | Script::Katakana),
        _ => icu_properties::PropertyNamesShort::<Script>::new().get(script) == Some(code),
    }
}

fn is_in_script(text: &str, language: &LanguageTag) -> bool {
    let count = letters_of(text, language.script());
    if count.all == 0 {
        return true;
    }
    let share = count.expected as f64 / count.all as f64;
    match language.script() {
        "Latn" => share >= MIN_LATIN,
        "Jpan" => share >= MIN_SHARE && (count.kana > 0 || count.han <= MAX_KANJI),
        "Hans" | "Hant" | "Hani" => share >= MIN_SHARE && count.kana * 10 < count.han.max(1),
        "Kore" => share >= MIN_SHARE && count.han < count.all,
        _ => share >= MIN_SHARE,
    }
}

fn is_clearly_other(text: &str, language: &LanguageTag) -> bool {
    let alike = |code: &str| {
        code == language.language()
            || ALIKE.iter().any(|set| set.contains(&code) && set.contains(&language.language()))
    };
    let words = function_words(text);
    let own = words.iter().find(|count| count.language == language.language());
    if own.is_some_and(|own| own.own > 0) {
        return false;
    }
    let most = words.iter().map(|count| count.own).max().unwrap_or(0);
    let enough = match own {
        Some(own) => own.all == 0 && most >= CLEAR_WORDS,
        None => most > CLEAR_WORDS,
    };
    if enough && words.iter().any(|count| count.own == most && !alike(count.language)) {
        return true;
    }
    if text.chars().filter(|c| c.is_alphabetic()).count() < MIN_LETTERS {
        return false;
    }
    let known = detected(language.language()).is_some();
    match whatlang::detect(text) {
        Some(found) if known && found.is_reliable() && found.confidence() >= MIN_CONFIDENCE => {
            !CODES.iter().any(|(code, other)| *other == found.lang().code() && alike(code))
        }
        _ => false,
    }
}

/// Codes of the detector for a language, by ISO 639-1.
#[rustfmt::skip]
const CODES: &[(&str, &str)] = &[
    ("af", "afr"), ("am", "amh"), ("ar", "ara"), ("az", "aze"), ("be", "bel"),
    ("bg", "bul"), ("bn", "ben"), ("ca", "cat"), ("cs", "ces"), ("cy", "cym"),
    ("da", "dan"), ("de", "deu"), ("el", "ell"), ("en", "eng"), ("eo", "epo"),
    ("es", "spa"), ("et", "est"), ("fa", "pes"), ("fi", "fin"), ("fr", "fra"),
    ("gu", "guj"), ("he", "heb"), ("hi", "hin"), ("hr", "hrv"), ("hu", "hun"),
    ("hy", "hye"), ("id", "ind"), ("it", "ita"), ("ja", "jpn"), ("jv", "jav"),
    ("ka", "kat"), ("km", "khm"), ("kn", "kan"), ("ko", "kor"), ("la", "lat"),
    ("lt", "lit"), ("lv", "lav"), ("mk", "mkd"), ("ml", "mal"), ("mr", "mar"),
    ("my", "mya"), ("nb", "nob"), ("ne", "nep"), ("nl", "nld"), ("no", "nob"),
    ("or", "ori"), ("pa", "pan"), ("pl", "pol"), ("pt", "por"), ("ro", "ron"),
    ("ru", "rus"), ("si", "sin"), ("sk", "slk"), ("sl", "slv"), ("sn", "sna"),
    ("sr", "srp"), ("sv", "swe"), ("ta", "tam"), ("te", "tel"), ("th", "tha"),
    ("tk", "tuk"), ("tl", "tgl"), ("tr", "tur"), ("uk", "ukr"), ("ur", "urd"),
    ("uz", "uzb"), ("vi", "vie"), ("yi", "yid"), ("zh", "cmn"), ("zu", "zul"),
];

/// The detector's language for a code of ISO 639-1.
pub(crate) fn detected(language: &str) -> Option<Lang> {
    CODES.iter().find(|(code, _)| *code == language).and_then(|(_, code)| Lang::from_code(*code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(text: &str, language: &str) -> bool {
        in_language(text, &language.parse().unwrap())
    }

    #[test]
    fn the_script_is_always_checked() {
        assert!(is("赤いマグカップと本", "ja"));
        assert!(is("東京都庁", "ja"));
        assert!(!is("白色陶瓷杯放在木桌上的照片", "ja"));
        assert!(!is("赤いマグカップと本", "zh"));
        assert!(is("Nike 运动鞋", "zh"));
        assert!(!is("Red cup", "zh"));
        assert!(!is("Красная чашка", "de"));
        assert!(is("Красная чашка", "ru"));
        assert!(!is("Red cup", "ru"));
        assert!(is("빨간 컵", "ko"));
        assert!(!is("Crvena šolja", "sr"));
        assert!(is("Crvena šolja", "sr-Latn"));
        assert!(is("كوب أحمر", "ar"));
        assert!(is("12345", "ja"));
    }

    #[test]
    fn words_count_only_if_they_are_clear() {
        assert!(!is("A red T-shirt on a wooden hanger with the label", "de"));
        assert!(!is("Ein roter Pullover mit einer Kapuze auf einem Stuhl", "en"));
        assert!(is("Polo Ralph Lauren", "de"));
        assert!(is("Red Bull Racing Cap", "de"));
        assert!(is("Camiseta azul com gola redonda", "es"));
    }
}
