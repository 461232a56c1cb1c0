//! Which style definitions are accepted. The extension asks before it stores a user's style, the engine before it uses one.

use crate::{Style, builtin_names};

/// Longest style name, bytes (fits a PostgreSQL identifier).
pub const MAX_NAME: usize = 63;
/// Longest instruction, characters.
pub const MAX_INSTRUCTION: usize = 2000;
/// Largest `max_chars` of a style.
pub const MAX_CHARS: u32 = 4000;

/// Why a style definition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StyleError {
    /// Names are lower-case identifiers.
    #[error("style name \"{0}\" is not allowed: use 1 to {MAX_NAME} lower-case letters, digits and underscores, a letter first")]
    Name(String),
    /// The built-in names are taken.
    #[error("style \"{0}\" is built in and cannot be redefined")]
    BuiltIn(String),
    /// Blank, too long, or with control characters.
    #[error("the instruction must have 1 to {MAX_INSTRUCTION} characters and no control characters besides line breaks, it has {0} characters")]
    Instruction(usize),
    /// Lengths that no text can meet.
    #[error("lengths must satisfy 1 <= min_chars <= max_chars <= {MAX_CHARS}, they are {min} and {max}")]
    Lengths {
        /// As given.
        min: u32,
        /// As given.
        max: u32,
    },
    /// A bound of no sentence at all.
    #[error("max_sentences must be at least 1")]
    Sentences,
}

/// Whether a definition can be used at all, built-in or not.
///
/// # Errors
/// The first rule it breaks.
pub fn validate(style: &Style) -> Result<(), StyleError> {
    let name = &style.name;
    let first = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !first || name.len() > MAX_NAME || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Err(StyleError::Name(name.chars().take(MAX_NAME + 1).collect()));
    }
    let length = style.instruction.chars().count();
    let control = style.instruction.chars().any(|c| c.is_control() && c != '\n');
    if style.instruction.trim().is_empty() || length > MAX_INSTRUCTION || control {
        return Err(StyleError::Instruction(length));
    }
    let (min, max) = (style.rules.min_chars, style.rules.max_chars);
    if min < 1 || min > max || max > MAX_CHARS {
        return Err(StyleError::Lengths { min, max });
    }
    if style.rules.max_sentences == Some(0) {
        return Err(StyleError::Sentences);
    }
    Ok(())
}

/// Whether a user may define this style.
///
/// # Errors
/// As [`validate`], and [`StyleError::BuiltIn`].
pub fn validate_new(style: &Style) -> Result<(), StyleError> {
    if builtin_names().contains(&style.name.as_str()) {
        return Err(StyleError::BuiltIn(style.name.clone()));
    }
    validate(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    fn own() -> Style {
        Style { name: "poetic_2".into(), ..builtin("detailed").unwrap() }
    }

    #[test]
    fn built_in_styles_pass_but_cannot_be_redefined() {
        for name in builtin_names() {
            assert_eq!(validate(&builtin(name).unwrap()), Ok(()));
            assert_eq!(validate_new(&builtin(name).unwrap()), Err(StyleError::BuiltIn(name.into())));
        }
        assert_eq!(validate_new(&own()), Ok(()));
    }

    #[test]
    fn names_are_lower_case_identifiers() {
        for name in ["", "Poetic", "2nd", "_x", "a-b", "ä", "a b", &"a".repeat(64)] {
            let style = Style { name: name.into(), ..own() };
            assert!(matches!(validate(&style), Err(StyleError::Name(_))), "{name:?}");
        }
        assert_eq!(validate(&Style { name: "a".repeat(63), ..own() }), Ok(()));
    }

    #[test]
    fn instructions_and_lengths_have_bounds() {
        for instruction in ["", " \n ", "bell\u{7}", &"x".repeat(2001)] {
            assert!(matches!(validate(&Style { instruction: instruction.into(), ..own() }), Err(StyleError::Instruction(_))));
        }
        for (min, max) in [(0, 10), (11, 10), (1, 4001)] {
            let mut style = own();
            (style.rules.min_chars, style.rules.max_chars) = (min, max);
            assert_eq!(validate(&style), Err(StyleError::Lengths { min, max }));
        }
        let mut style = own();
        style.rules.max_sentences = Some(0);
        assert_eq!(validate(&style), Err(StyleError::Sentences));
    }
}
