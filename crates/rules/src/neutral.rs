//! Gender-neutral wording: a built-in set of replacements that a shop can switch on.

use crate::{BlockRule, RuleAction, RuleError, RuleSet};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NeutralFile {
    keep: Vec<String>,
    replace: BTreeMap<String, BTreeMap<String, String>>,
}

/// The rules of the built-in set, for English and Dutch. Other languages would need other endings
/// in the rest of the sentence, which a replacement of words cannot give.
///
/// ```
/// let rules = pg_caption_rules::neutral_wording().unwrap();
/// let text = rules.apply("A woman in a men's coat on the Isle of Man", "concise").unwrap();
/// assert_eq!(text, "A person in a men's coat on the Isle of Man");
/// ```
///
/// # Errors
/// [`RuleError`] if the built-in file breaks the bounds of rules; a test excludes that.
pub fn neutral_wording() -> Result<RuleSet, RuleError> {
    RuleSet::new(neutral_rules())
}

/// The rules of [`neutral_wording`], each for all styles.
pub fn neutral_rules() -> Vec<BlockRule> {
    let file: NeutralFile = toml::from_str(include_str!("../data/neutral.toml"))
        .unwrap_or_else(|error| panic!("data/neutral.toml: {error}"));
    let replace =
        |(pattern, words): (String, String)| BlockRule::new(pattern, RuleAction::Replace(words));
    // What stays is replaced by itself: the longest pattern wins.
    let keep = file.keep.into_iter().map(|words| (words.clone(), words));
    let all = keep.chain(file.replace.into_values().flatten());
    all.map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::neutral_wording;

    #[test]
    fn persons_are_named_without_gender() {
        let rules = neutral_wording().unwrap();
        for (text, neutral) in [
            ("A man and two women at a table", "A person and two people at a table"),
            ("Women in red coats", "People in red coats"),
            ("A boy in his yellow boots", "A child in their yellow boots"),
            ("A fireman holds a hose", "A firefighter holds a hose"),
            ("He is smiling", "They are smiling"),
            ("A woman rides her horse", "A person rides their horse"),
            ("Een vrouw met een hoed", "Een persoon met een hoed"),
        ] {
            assert_eq!(rules.apply(text, "concise").as_deref(), Ok(neutral));
        }
    }

    #[test]
    fn names_of_goods_and_places_stay() {
        let rules = neutral_wording().unwrap();
        for text in [
            "Women's running shoes",
            "Men’s wallet",
            "Boys' jacket",
            "Man-made leather bag",
            "Isle of Man flag",
            "Batman figure",
            "Girl with a Pearl Earring print",
            "Action man figure",
            "Manual, German edition",
        ] {
            assert_eq!(rules.apply(text, "concise").as_deref(), Ok(text));
        }
    }
}
