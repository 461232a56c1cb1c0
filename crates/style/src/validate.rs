//! Which style definitions are accepted. The engine asks before it uses one, and whoever reads a
//! folder's own.

use crate::CaptionStyle;

/// Longest style name, bytes (fits a PostgreSQL identifier).
pub const MAX_NAME: usize = 63;
/// Longest instruction, characters.
pub const MAX_INSTRUCTION: usize = 2000;
/// Largest `max_chars` of a style.
pub const MAX_CHARS: u32 = 4000;
/// Prompts of one style.
pub const MAX_PROMPTS: usize = 16;

/// Why a style definition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StyleError {
    /// Names are lower-case identifiers.
    #[error(
        "style name \"{0}\" is not allowed: use 1 to {MAX_NAME} lower-case letters, digits and underscores, a letter first"
    )]
    Name(String),
    /// Blank, too long, or with control characters.
    #[error(
        "the instruction must have 1 to {MAX_INSTRUCTION} characters and no control characters besides line breaks, it has {0} characters"
    )]
    Instruction(usize),
    /// Blank, too long, with control characters, or one too many.
    #[error(
        "the prompt for \"{0}\" must be as an instruction is: 1 to {MAX_INSTRUCTION} characters; and a style has at most {MAX_PROMPTS} prompts"
    )]
    Prompt(String),
    /// Lengths that no text can meet.
    #[error(
        "lengths must satisfy 1 <= min_chars <= max_chars <= {MAX_CHARS}, they are {min} and {max}"
    )]
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
    if min < 1 || min > max || max > MAX_CHARS {
        return Err(StyleError::Lengths { min, max });
    }
    if style.rules.max_sentences == Some(0) {
        return Err(StyleError::Sentences);
    }
    Ok(())
}

/// Not blank, not too long, nothing that moves a cursor.
fn is_instruction(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= MAX_INSTRUCTION
        && !text.chars().any(|c| c.is_control() && c != '\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builtin, builtin_names};

    fn own() -> CaptionStyle {
        CaptionStyle { name: "poetic_2".into(), ..builtin("detailed").unwrap() }
    }

    #[test]
    fn built_in_styles_pass() {
        for name in builtin_names() {
            assert_eq!(validate(&builtin(name).unwrap()), Ok(()));
        }
        assert_eq!(validate(&own()), Ok(()));
    }

    #[test]
    fn prompts_are_bounded_as_instructions_are() {
        for prompt in [" ", "bell\u{7}", &"x".repeat(2001)] {
            let prompts = [("florence2".to_string(), prompt.to_string())].into();
            assert_eq!(
                validate(&CaptionStyle { prompts, ..own() }),
                Err(StyleError::Prompt("florence2".into()))
            );
        }
        let prompts = (0..17).map(|at| (format!("family{at:02}"), "Look.".to_string())).collect();
        assert_eq!(
            validate(&CaptionStyle { prompts, ..own() }),
            Err(StyleError::Prompt("family16".into()))
        );
    }

    #[test]
    fn names_are_lower_case_identifiers() {
        for name in ["", "Poetic", "2nd", "_x", "a-b", "ä", "a b", &"a".repeat(64)] {
            let style = CaptionStyle { name: name.into(), ..own() };
            assert!(matches!(validate(&style), Err(StyleError::Name(_))), "{name:?}");
        }
        assert_eq!(validate(&CaptionStyle { name: "a".repeat(63), ..own() }), Ok(()));
    }

    #[test]
    fn instructions_and_lengths_have_bounds() {
        for instruction in ["", " \n ", "bell\u{7}", &"x".repeat(2001)] {
            assert!(matches!(
                validate(&CaptionStyle { instruction: instruction.into(), ..own() }),
                Err(StyleError::Instruction(_))
            ));
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
