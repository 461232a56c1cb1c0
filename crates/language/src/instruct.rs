//! How a model is asked for a language. The texts are in `data/instructions.toml`.

use crate::LanguageTag;
use crate::check::detected;
use pg_caption_style::{CaptionStyle, builtin};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TranslatedTexts {
    concise: String,
    seo: String,
    detailed: String,
    only: String,
    facts: String,
}

fn texts() -> &'static BTreeMap<String, TranslatedTexts> {
    static TEXTS: LazyLock<BTreeMap<String, TranslatedTexts>> = LazyLock::new(|| {
        toml::from_str(include_str!("../data/instructions.toml"))
            .unwrap_or_else(|error| panic!("data/instructions.toml: {error}"))
    });
    &TEXTS
}

/// Languages in which the instructions of the built-in styles exist.
pub fn translated_languages() -> impl Iterator<Item = &'static str> {
    texts().keys().map(String::as_str)
}

/// The instruction of a style for an answer in `language`. That of a built-in style is in the
/// language itself where it is translated; others are followed by a sentence that asks for the
/// language.
///
/// ```
/// use pg_caption_language::instruction_in;
///
/// let style = pg_caption_style::builtin("detailed").unwrap();
/// assert!(instruction_in(&style, &"de".parse().unwrap()).starts_with("Beschreibe"));
/// assert!(instruction_in(&style, &"sv".parse().unwrap()).ends_with("in Swedish (Svenska) only."));
/// ```
pub fn instruction_in(style: &CaptionStyle, language: &LanguageTag) -> String {
    let translated = texts().get(language.language());
    let unchanged = builtin(&style.name).is_some_and(|own| own.instruction == style.instruction);
    match (translated, style.name.as_str()) {
        (Some(texts), "concise") if unchanged => texts.concise.clone(),
        (Some(texts), "seo") if unchanged => texts.seo.clone(),
        (Some(texts), "detailed") if unchanged => texts.detailed.clone(),
        (Some(texts), _) => format!("{} {}", style.instruction, texts.only),
        (None, _) => format!("{} Answer in {} only.", style.instruction, name(language)),
    }
}

/// The line before the words of the row in a prompt; in English if it is not translated.
pub fn facts_heading(language: Option<&LanguageTag>) -> &'static str {
    let own = language.and_then(|tag| texts().get(tag.language()));
    own.or_else(|| texts().get("en")).map_or("", |texts| &texts.facts)
}

/// The name of a language in English and in itself; the tag if it is not known.
fn name(language: &LanguageTag) -> String {
    match detected(language.language()) {
        Some(lang) => format!("{} ({})", lang.eng_name(), lang.name()),
        None => format!("the language \"{language}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_style::{builtin_names, validate};

    #[test]
    fn the_english_texts_are_the_built_in_instructions() {
        for name in builtin_names() {
            let style = builtin(name).unwrap();
            assert_eq!(instruction_in(&style, &"en-GB".parse().unwrap()), style.instruction);
        }
    }

    #[test]
    fn every_translation_is_a_valid_instruction() {
        assert!(translated_languages().count() >= 10);
        for language in translated_languages() {
            let tag: LanguageTag = language.parse().unwrap();
            for name in builtin_names() {
                let style = builtin(name).unwrap();
                let instruction = instruction_in(&style, &tag);
                assert!(language == "en" || instruction != style.instruction, "{language} {name}");
                assert_eq!(validate(&CaptionStyle { instruction, ..style }), Ok(()));
            }
            assert!(!facts_heading(Some(&tag)).is_empty());
        }
    }

    #[test]
    fn a_changed_instruction_is_followed_by_the_language() {
        let style = CaptionStyle { instruction: "Rhyme.".into(), ..builtin("seo").unwrap() };
        assert_eq!(
            instruction_in(&style, &"fr".parse().unwrap()),
            "Rhyme. Réponds uniquement en français."
        );
    }
}
