//! Why a text is refused. The one error enum of this crate's tidy-up; behaviour hangs on the
//! variant.

/// Why a generated text is no caption. Always class `uncertain`: the picture was seen, the model
/// had nothing to say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextRefusal {
    /// Nothing, or less than the style's least length, is left after tidying.
    #[error("the text is too short: {chars} characters, the style asks for at least {min}")]
    TooShort {
        /// Characters (Unicode scalar values) left.
        chars: usize,
        /// What the style asks for.
        min: usize,
    },
    /// Only digits and punctuation are left.
    #[error("the text holds no words")]
    NoWords,
    /// The text is the picture's file name or URL.
    #[error("the text repeats the name of the file")]
    EchoesName,
}

impl TextRefusal {
    /// Short and stable, for grouping failures.
    pub fn code(&self) -> &'static str {
        match self {
            TextRefusal::TooShort { .. } | TextRefusal::NoWords => "too_short",
            TextRefusal::EchoesName => "echoes_name",
        }
    }
}
