//! Which style definitions are accepted. Called by the engine for the styles of a request, by
//! `folder.rs` for those of a model folder, and by `row.rs` for rows of `caption.style`.

use crate::CaptionStyle;

/// Longest style name, bytes (fits a PostgreSQL identifier).
pub const MAX_NAME: usize = 63;
/// Longest instruction, characters.
pub const MAX_INSTRUCTION: usize = 2000;
/// Smallest `min_chars` of a style.
pub const MIN_CHARS: u32 = 1;
/// Smallest `max_chars` of a definition. A request may carry less, for a narrow column.
pub const MIN_MAX_CHARS: u32 = 10;
/// Largest `max_chars` of a style.
pub const MAX_CHARS: u32 = 4000;
/// Most prompts of one style.
pub const MAX_PROMPTS: usize = 16;

/// Why a style definition is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StyleError {
    /// The name is not a lower-case identifier.
    #[error(
        "style name \"{0}\" is not allowed: use 1 to {MAX_NAME} lower-case letters, digits and \
         underscores, a letter first"
    )]
    Name(String),
    /// The instruction is blank, too long, or contains control characters.
    #[error(
        "the instruction must have 1 to {MAX_INSTRUCTION} characters and no control characters \
         besides line breaks and tabs, it has {0} characters"
    )]
    Instruction(usize),
    /// A prompt is blank, too long, contains control characters, or is one too many.
    #[error(
        "the prompt for \"{0}\" must have 1 to {MAX_INSTRUCTION} characters like an instruction, \
         and a style has at most {MAX_PROMPTS} prompts"
    )]
    Prompt(String),
    /// No text can have such a length.
    #[error(
        "lengths must satisfy {MIN_CHARS} <= min_chars <= max_chars <= {MAX_CHARS}, \
         they are {min} and {max}"
    )]
    Lengths {
        /// `min_chars` as given.
        min: u32,
        /// `max_chars` as given.
        max: u32,
    },
    /// A definition's `max_chars` is too small.
    #[error("max_chars must be at least {MIN_MAX_CHARS}, it is {0}")]
    MaxChars(u32),
    /// `max_sentences` is 0.
    #[error("max_sentences must be at least 1")]
    Sentences,
}

/// Checks a definition, built-in or not.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate(style: &CaptionStyle) -> Result<(), StyleError> {
    let name = &style.name;
    let first = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !first
        || name.len() > MAX_NAME
        || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        return Err(StyleError::Name(name.chars().take(MAX_NAME + 1).collect()));
    }
    if !is_instruction(&style.instruction) {
        return Err(StyleError::Instruction(style.instruction.chars().count()));
    }
    if let Some((family, _)) = style
        .prompts
        .iter()
        .enumerate()
        .find(|(at, (_, prompt))| *at >= MAX_PROMPTS || !is_instruction(prompt))
        .map(|(_, p)| p)
    {
        return Err(StyleError::Prompt(family.chars().take(MAX_NAME).collect()));
    }
    let (min, max) = (style.rules.min_chars, style.rules.max_chars);
    if min < MIN_CHARS || min > max || max > MAX_CHARS {
        return Err(StyleError::Lengths { min, max });
    }
    if style.rules.max_sentences == Some(0) {
        return Err(StyleError::Sentences);
    }
    Ok(())
}

/// Not blank, not too long, no control characters but line breaks, also of Windows, and tabs.
fn is_instruction(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= MAX_INSTRUCTION
        && !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builtin, builtin_names};

    fn custom() -> CaptionStyle {
        CaptionStyle { name: "poetic_2".into(), ..builtin("detailed").unwrap() }
    }

    #[test]
    fn built_in_styles_pass() {
        for name in builtin_names() {
            assert_eq!(validate(&builtin(name).unwrap()), Ok(()));
        }
        assert_eq!(validate(&custom()), Ok(()));
    }

    #[test]
    fn prompts_are_bounded_like_instructions() {
        for prompt in [" ", "bell\u{7}", &"x".repeat(2001)] {
            let prompts = [("florence2".to_string(), prompt.to_string())].into();
            assert_eq!(
                validate(&CaptionStyle { prompts, ..custom() }),
                Err(StyleError::Prompt("florence2".into()))
            );
        }
        let prompts = (0..17).map(|at| (format!("family{at:02}"), "Look.".to_string())).collect();
        assert_eq!(
            validate(&CaptionStyle { prompts, ..custom() }),
            Err(StyleError::Prompt("family16".into()))
        );
    }

    #[test]
    fn names_are_lower_case_identifiers() {
        for name in ["", "Poetic", "2nd", "_x", "a-b", "ä", "a b", &"a".repeat(64)] {
            let style = CaptionStyle { name: name.into(), ..custom() };
            assert!(matches!(validate(&style), Err(StyleError::Name(_))), "{name:?}");
        }
        assert_eq!(validate(&CaptionStyle { name: "a".repeat(63), ..custom() }), Ok(()));
    }

    #[test]
    fn instructions_and_lengths_are_bounded() {
        for instruction in ["", " \n ", "bell\u{7}", &"x".repeat(2001)] {
            assert!(matches!(
                validate(&CaptionStyle { instruction: instruction.into(), ..custom() }),
                Err(StyleError::Instruction(_))
            ));
        }
        for (min, max) in [(0, 10), (11, 10), (1, 4001)] {
            let mut style = custom();
            (style.rules.min_chars, style.rules.max_chars) = (min, max);
            assert_eq!(validate(&style), Err(StyleError::Lengths { min, max }));
        }
        let mut style = custom();
        style.rules.max_sentences = Some(0);
        assert_eq!(validate(&style), Err(StyleError::Sentences));
    }
}
