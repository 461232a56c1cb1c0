//! Many rules, applied in one pass.

use crate::folded::{FoldedText, folded};
use crate::{BlockRule, MAX_RULES, RuleAction, RuleError};
use aho_corasick::AhoCorasick;
use pg_caption_style::TextRefusal;

/// Compiled rules.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    rules: Vec<BlockRule>,
    /// Positions are those of `rules`; `None` without rules.
    automaton: Option<AhoCorasick>,
}

/// A rule that holds for a part of a text: first and last byte, position of the rule.
struct RuleHit {
    start: usize,
    end: usize,
    rule: usize,
}

impl RuleSet {
    /// Compiles rules. Where several hold for the same words, the longest pattern wins; a refusal
    /// wins over replacements that hold elsewhere.
    ///
    /// # Errors
    /// [`RuleError`], about the first rule that cannot be applied.
    pub fn new(rules: Vec<BlockRule>) -> Result<RuleSet, RuleError> {
        if rules.len() > MAX_RULES {
            return Err(RuleError::TooMany(rules.len()));
        }
        for rule in &rules {
            rule.check()?;
        }
        let patterns: Vec<String> = rules.iter().map(|rule| folded(&rule.pattern)).collect();
        let automaton = match patterns.is_empty() {
            true => None,
            false => Some(AhoCorasick::new(&patterns).map_err(|_| RuleError::Pattern)?),
        };
        Ok(RuleSet { rules, automaton })
    }

    /// The text of a style after all replacements.
    ///
    /// # Errors
    /// [`TextRefusal::BlockedWord`] with the pattern that the text holds.
    pub fn apply(&self, text: &str, style: &str) -> Result<String, TextRefusal> {
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for hit in self.hits(text, style) {
            let rule = &self.rules[hit.rule];
            match &rule.action {
                RuleAction::Refuse => {
                    return Err(TextRefusal::BlockedWord { pattern: Some(rule.pattern.clone()) });
                }
                // What is replaced by itself is kept as it is written.
                RuleAction::Replace(words) if folded(words) == folded(&rule.pattern) => {}
                RuleAction::Replace(words) => {
                    out.push_str(&text[done..hit.start]);
                    out.push_str(&in_case_of(words, &text[hit.start..hit.end]));
                    done = hit.end;
                }
            }
        }
        if done == 0 && out.is_empty() {
            return Ok(text.to_string());
        }
        out.push_str(&text[done..]);
        Ok(tidied(&out))
    }

    /// Whether a rule replaces a word by itself, which allows it.
    pub fn keeps(&self, word: &str) -> bool {
        let word = folded(word);
        let is_kept = |rule: &BlockRule| match &rule.action {
            RuleAction::Replace(words) => folded(&rule.pattern) == word && folded(words) == word,
            RuleAction::Refuse => false,
        };
        self.rules.iter().any(is_kept)
    }

    /// What holds, from left to right, without overlaps.
    fn hits(&self, text: &str, style: &str) -> Vec<RuleHit> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let folded = FoldedText::new(text);
        let mut all: Vec<RuleHit> = automaton
            .find_overlapping_iter(&folded.folded)
            .filter(|found| {
                let rule = &self.rules[found.pattern().as_usize()];
                rule.style.as_deref().is_none_or(|name| name == style)
            })
            .filter_map(|found| {
                let (start, end) = folded.whole_words(found.start(), found.end())?;
                Some(RuleHit { start, end, rule: found.pattern().as_usize() })
            })
            .collect();
        all.sort_by_key(|hit| (hit.start, std::cmp::Reverse(hit.end), self.is_replacement(hit)));
        let mut last = 0;
        all.retain(|hit| {
            let free = hit.start >= last;
            if free {
                last = hit.end;
            }
            free
        });
        all
    }

    fn is_replacement(&self, hit: &RuleHit) -> bool {
        self.rules[hit.rule].action != RuleAction::Refuse
    }
}

/// The replacement in the case of what it replaces.
fn in_case_of(words: &str, replaced: &str) -> String {
    let letters = || replaced.chars().filter(|c| c.is_alphabetic());
    if letters().count() > 1 && letters().all(char::is_uppercase) {
        return words.to_uppercase();
    }
    let mut chars = words.chars();
    match chars.next() {
        Some(first) if letters().next().is_some_and(char::is_uppercase) => {
            first.to_uppercase().chain(chars).collect()
        }
        _ => words.to_string(),
    }
}

/// Without the blanks that removed words leave.
fn tidied(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        let joined = word.starts_with([',', '.', ';']) && word.chars().count() == 1;
        if !out.is_empty() && !joined {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(pattern: &str, text: &str) -> bool {
        let rules = RuleSet::new(vec![BlockRule::new(pattern, RuleAction::Refuse)]).unwrap();
        rules.apply(text, "concise").is_err()
    }

    fn replaced(rules: &[(&str, &str)], text: &str) -> String {
        let rule = |(pattern, words): &(&str, &str)| {
            BlockRule::new(*pattern, RuleAction::Replace((*words).into()))
        };
        RuleSet::new(rules.iter().map(rule).collect()).unwrap().apply(text, "concise").unwrap()
    }

    #[test]
    fn patterns_are_whole_words_without_case() {
        for (pattern, text) in [
            ("acme", "A cup by ACME."),
            ("acme", "Acme's cup"),
            ("acme", "Acme’s cup"),
            ("homme", "Chemise d'homme"),
            ("straße", "In der STRASSE"),
            ("STRASSE", "in der Straße"),
            ("café", "A CAFE\u{301} table"),
            ("İstanbul", "i̇stanbul"),
            ("on  sale", "Shoes on\nsale"),
            ("t-shirt", "Red T-Shirt"),
            ("C++", "A book on c++"),
            ("時計", "赤い時計と本"),
            ("ΣΊΣΥΦΟΣ", "ο σίσυφος"),
        ] {
            assert!(refuses(pattern, text), "{pattern:?} {text:?}");
        }
        for (pattern, text) in [
            ("cup", "Cupboard, teacups"),
            ("art", "Party cart"),
            ("man", "Manual of a German"),
            ("on sale", "Salon sales"),
            ("a.b", "a b axb"),
        ] {
            assert!(!refuses(pattern, text), "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn replacements_take_the_case_of_the_words() {
        let rules = [("sneakers", "trainers"), ("colour", "color"), ("very", "")];
        assert_eq!(replaced(&rules, "Sneakers in one COLOUR"), "Trainers in one COLOR");
        assert_eq!(replaced(&rules, "A very red, very , cup"), "A red,, cup");
        assert_eq!(replaced(&[("a", "b"), ("b", "a")], "a b"), "b a");
        assert_eq!(replaced(&[("man", "x"), ("man ray", "y")], "man ray, man rays"), "y, x rays");
    }

    #[test]
    fn a_rule_of_a_style_leaves_the_others() {
        let mut rule = BlockRule::new("cup", RuleAction::Refuse);
        rule.style = Some("seo".into());
        let rules = RuleSet::new(vec![rule]).unwrap();
        assert_eq!(rules.apply("A cup", "concise").as_deref(), Ok("A cup"));
        assert_eq!(
            rules.apply("A cup", "seo"),
            Err(TextRefusal::BlockedWord { pattern: Some("cup".into()) })
        );
    }

    #[test]
    fn rules_are_bounded() {
        let new = |pattern: &str, action| RuleSet::new(vec![BlockRule::new(pattern, action)]);
        for pattern in ["", "  ", "a\u{7}b", &"x".repeat(201)] {
            assert_eq!(new(pattern, RuleAction::Refuse).err(), Some(RuleError::Pattern));
        }
        let long = RuleAction::Replace("x".repeat(201));
        assert_eq!(new("a", long).err(), Some(RuleError::Replacement));
        assert!(new(&"ß".repeat(200), RuleAction::Refuse).is_ok());
        let many = vec![BlockRule::new("a", RuleAction::Refuse); MAX_RULES + 1];
        assert_eq!(RuleSet::new(many).err(), Some(RuleError::TooMany(MAX_RULES + 1)));
        assert_eq!(RuleSet::new(Vec::new()).unwrap().apply("A cup", "x").as_deref(), Ok("A cup"));
    }
}
