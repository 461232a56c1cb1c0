//! Language tags (BCP 47).

use icu_locale::{Locale, LocaleCanonicalizer, LocaleExpander, subtags::Script};
use std::fmt;
use std::str::FromStr;

/// Longest tag, bytes.
pub const MAX_TAG: usize = 35;

/// Why a text names no language.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// It is not a tag, or too long.
    #[error("\"{0}\" is no language tag: use a code such as \"de\", \"pt-BR\" or \"zh-Hant\"")]
    Form(String),
    /// The form is right, but no such language is known.
    #[error("language \"{0}\" is unknown")]
    Unknown(String),
}

/// A language with its script, and a region if the tag has one. The canonical form is compared and
/// shown: `pt-br` is `pt-BR`, `iw` is `he`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LanguageTag {
    canonical: String,
    language: String,
    script: Script,
}

impl LanguageTag {
    /// The language without script and region: `pt` of `pt-BR`.
    pub fn language(&self) -> &str {
        &self.language
    }

    /// The canonical tag.
    pub fn as_str(&self) -> &str {
        &self.canonical
    }

    /// The script in which the language is written, in the form of ISO 15924: `Latn`, `Jpan`.
    pub fn script(&self) -> &str {
        self.script.as_str()
    }

    /// Whether a model that knows `other` knows this language: `de` covers `de-AT`, and the other
    /// way round, but not a different script.
    pub fn is_covered_by(&self, other: &LanguageTag) -> bool {
        self.language == other.language && self.script == other.script
    }
}

impl FromStr for LanguageTag {
    type Err = TagError;

    /// Reads a tag; extensions and private subtags are refused.
    ///
    /// ```
    /// use pg_caption_language::LanguageTag;
    ///
    /// let tag: LanguageTag = "pt-br".parse().unwrap();
    /// assert_eq!((tag.as_str(), tag.language(), tag.script()), ("pt-BR", "pt", "Latn"));
    /// assert!("german".parse::<LanguageTag>().is_err());
    /// ```
    fn from_str(text: &str) -> Result<LanguageTag, TagError> {
        let shown = || text.chars().take(MAX_TAG + 1).filter(|c| !c.is_control()).collect();
        if text.len() > MAX_TAG {
            return Err(TagError::Form(shown()));
        }
        let mut locale = Locale::try_from_str(text).map_err(|_| TagError::Form(shown()))?;
        if locale.id.language.is_unknown() || !locale.extensions.is_empty() {
            return Err(TagError::Form(shown()));
        }
        LocaleCanonicalizer::new_extended().canonicalize(&mut locale);
        let mut full = locale.id.clone();
        LocaleExpander::new_extended().maximize(&mut full);
        let script = full.script.ok_or_else(|| TagError::Unknown(shown()))?;
        Ok(LanguageTag {
            canonical: locale.id.to_string(),
            language: locale.id.language.as_str().to_string(),
            script,
        })
    }
}

impl fmt::Display for LanguageTag {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.canonical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> LanguageTag {
        text.parse().unwrap()
    }

    #[test]
    fn tags_are_read_in_canonical_form() {
        for (text, canonical, script) in [
            ("de", "de", "Latn"),
            ("DE-at", "de-AT", "Latn"),
            ("zh-hant-tw", "zh-Hant-TW", "Hant"),
            ("zh", "zh", "Hans"),
            ("ja", "ja", "Jpan"),
            ("sr-Latn", "sr-Latn", "Latn"),
            ("iw", "he", "Hebr"),
            ("uk", "uk", "Cyrl"),
            ("hi", "hi", "Deva"),
        ] {
            let tag = tag(text);
            assert_eq!((tag.as_str(), tag.script()), (canonical, script), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "german", "de_", "d", "und", "de-u-co-phonebk", "de x", "xx-invalid-1"] {
            assert!(text.parse::<LanguageTag>().is_err(), "{text}");
        }
        assert!(matches!("qq".parse::<LanguageTag>(), Err(TagError::Unknown(_))));
        assert!("x".repeat(500).parse::<LanguageTag>().unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn a_region_does_not_matter_a_script_does() {
        assert!(tag("de-AT").is_covered_by(&tag("de")));
        assert!(!tag("zh-Hant").is_covered_by(&tag("zh")));
        assert!(!tag("de").is_covered_by(&tag("nl")));
    }
}
