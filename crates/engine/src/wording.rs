//! The wording of captions: their language, the rules of the database, and the word list against
//! slurs and obscenity.
//!
//! Applied to each answer, also to one that was kept from an earlier request: what is kept is the
//! raw text.

use crate::provider::prompt::language_of;
use parking_lot::Mutex;
use pg_caption_language::in_language;
use pg_caption_rules::{BlockRule, RuleError, RuleSet, refuse_obscene_unless};
use pg_caption_style::{CaptionStyle, TextRefusal, cut};
use std::sync::Arc;

/// Sets of rules that are kept: one for each of the databases that ask now.
const MOST_SETS: usize = 16;

/// A postprocessed text after language check and rules.
///
/// # Errors
/// The text is in another language, or holds a blocked word.
pub fn checked(
    text: String,
    style: &CaptionStyle,
    rules: &RuleSet,
    block_obscenity: bool,
) -> Result<String, TextRefusal> {
    if let Some(language) = language_of(style)
        && !in_language(&text, &language)
    {
        return Err(TextRefusal::WrongLanguage { expected: language.to_string() });
    }
    let text = rules.apply(&text, &style.name)?;
    let text = cut(&text, style.rules.max_chars as usize).trim_end().to_string();
    let (chars, min) = (text.chars().count(), style.rules.min_chars as usize);
    if chars < min {
        return Err(TextRefusal::TooShort { chars, min });
    }
    if block_obscenity {
        refuse_obscene_unless(&text, |word| rules.keeps(word))?;
    }
    Ok(text)
}

/// The sets of recent requests, compiled.
#[derive(Default)]
pub struct RuleCache(Mutex<Vec<CompiledRules>>);

struct CompiledRules {
    rules: Vec<BlockRule>,
    set: Arc<RuleSet>,
}

impl RuleCache {
    /// The rules of a request, compiled.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn compiled(&self, rules: Vec<BlockRule>) -> Result<Arc<RuleSet>, RuleError> {
        if rules.is_empty() {
            return Ok(Arc::default());
        }
        if let Some(found) = self.0.lock().iter().find(|kept| kept.rules == rules) {
            return Ok(found.set.clone());
        }
        let set = Arc::new(RuleSet::new(rules.clone())?);
        let mut kept = self.0.lock();
        if kept.len() == MOST_SETS {
            kept.remove(0);
        }
        kept.push(CompiledRules { rules, set: set.clone() });
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_rules::RuleAction;
    use pg_caption_style::builtin;

    fn rule(pattern: &str, words: &str) -> BlockRule {
        BlockRule::new(pattern, RuleAction::Replace(words.into()))
    }

    fn concise(language: Option<&str>) -> CaptionStyle {
        CaptionStyle { language: language.map(String::from), ..builtin("concise").unwrap() }
    }

    #[test]
    fn the_language_is_checked_before_the_rules() {
        let rules = RuleSet::new(vec![rule("red", "rot")]).unwrap();
        let checked = |text: &str, language| {
            checked(text.into(), &concise(language), &rules, true)
                .map_err(|refusal| refusal.code().to_string())
        };
        let text = "A red mug on the table with a spoon";
        assert_eq!(checked(text, None).unwrap(), "A rot mug on the table with a spoon");
        assert_eq!(checked(text, Some("de")).unwrap_err(), "wrong_language");
        assert_eq!(checked("Eine Tasse auf dem Tisch", Some("de-AT")).unwrap().len(), 24);
    }

    #[test]
    fn a_replacement_keeps_the_lengths_of_the_style() {
        let rules = RuleSet::new(vec![rule("mug", &"mug ".repeat(49)), rule("cup", "")]).unwrap();
        let text = checked("A mug".into(), &concise(None), &rules, true).unwrap();
        assert!(text.len() <= 125 && text.ends_with("mug"), "{text}");
        let error = checked("Cup".into(), &concise(None), &rules, true).unwrap_err();
        assert_eq!(error, TextRefusal::TooShort { chars: 0, min: 3 });
    }

    #[test]
    fn obscenity_is_refused_unless_it_is_allowed() {
        let rude = || "A sign that says fuck".to_string();
        let none = RuleSet::default();
        let allowing = RuleSet::new(vec![rule("Fuck", "fuck")]).unwrap();
        let blocked = Err(TextRefusal::BlockedWord { pattern: None });
        assert_eq!(checked(rude(), &concise(None), &none, true), blocked);
        assert_eq!(checked(rude(), &concise(None), &none, false), Ok(rude()));
        assert_eq!(checked(rude(), &concise(None), &allowing, true), Ok(rude()));
    }

    #[test]
    fn equal_rules_are_compiled_once() {
        let cache = RuleCache::default();
        let first = cache.compiled(vec![rule("a", "b")]).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.compiled(vec![rule("a", "b")]).unwrap()));
        for at in 0..40 {
            cache.compiled(vec![rule(&format!("a{at}"), "b")]).unwrap();
        }
        assert_eq!(cache.0.lock().len(), MOST_SETS);
        assert!(cache.compiled(vec![rule(" ", "b")]).is_err());
    }
}
