//! One rule, and which are accepted.

use serde::{Deserialize, Serialize};

/// Longest pattern and longest replacement, characters.
pub const MAX_PATTERN: usize = 200;
/// Most rules of one set.
pub const MAX_RULES: usize = 10_000;

/// What happens to a text with the pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// The text is refused as `uncertain` with the code `blocked_word`.
    Refuse,
    /// The words are replaced. A replacement without characters removes them.
    Replace(String),
}

/// A row of `caption.rule`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRule {
    /// A word or phrase. It is compared literally, as whole words, without case.
    pub pattern: String,
    /// What happens.
    pub action: RuleAction,
    /// The style whose texts are meant; all if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
}

impl BlockRule {
    /// A rule for all styles.
    pub fn new(pattern: impl Into<String>, action: RuleAction) -> BlockRule {
        BlockRule { pattern: pattern.into(), action, style: None }
    }

    /// Whether the rule can be applied.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn check(&self) -> Result<(), RuleError> {
        let bad =
            |text: &str| text.chars().count() > MAX_PATTERN || text.chars().any(char::is_control);
        if bad(&self.pattern) || !self.pattern.contains(|c: char| !c.is_whitespace()) {
            return Err(RuleError::Pattern);
        }
        match &self.action {
            RuleAction::Replace(words) if bad(words) => Err(RuleError::Replacement),
            _ => Ok(()),
        }
    }
}

/// Why a rule or a set of rules is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The pattern is blank, too long or has control characters.
    #[error("a pattern must have 1 to {MAX_PATTERN} characters and no control characters")]
    Pattern,
    /// The replacement is too long or has control characters.
    #[error("a replacement must have at most {MAX_PATTERN} characters and no control characters")]
    Replacement,
    /// There are too many rules.
    #[error("there are {0} rules, at most {MAX_RULES} are allowed")]
    TooMany(usize),
}
