//! Why a generated text is refused. The one error enum of postprocessing; behaviour hangs on the
//! variant.

/// Why a generated text is not a caption. Always of class `uncertain`: the picture was captioned,
/// but the text is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextRefusal {
    /// The postprocessed text is empty or shorter than the style's minimum.
    #[error("the text is too short: it has {chars} of at least {min} characters")]
    TooShort {
        /// Characters (Unicode scalar values) after postprocessing.
        chars: usize,
        /// The style's minimum.
        min: usize,
    },
    /// The text consists of digits and punctuation only.
    #[error("the text holds no words")]
    NoWords,
    /// The text is the picture's file name or URL.
    #[error("the text repeats the name of the file")]
    EchoesName,
    /// The model refused to describe the picture.
    #[error("the model declined to describe the picture")]
    Declined,
    /// The text describes nothing: "Image", "Unknown", the name of a file, a URL.
    #[error("the text describes no picture")]
    NoCaption,
    /// The text is not in the language of the style.
    #[error("the text is not in the language \"{expected}\"")]
    WrongLanguage {
        /// The language that was asked for, as a BCP 47 tag.
        expected: String,
    },
    /// The text holds a word that a rule or the built-in word list refuses.
    #[error("the text holds a blocked word")]
    BlockedWord {
        /// The pattern of the rule; `None` for the built-in list.
        pattern: Option<String>,
    },
}

impl TextRefusal {
    /// The stable code of the failure, for grouping.
    pub fn code(&self) -> &'static str {
        match self {
            TextRefusal::TooShort { .. } | TextRefusal::NoWords => "too_short",
            TextRefusal::EchoesName => "echoes_name",
            TextRefusal::Declined => "declined",
            TextRefusal::NoCaption => "no_caption",
            TextRefusal::WrongLanguage { .. } => "wrong_language",
            TextRefusal::BlockedWord { .. } => "blocked_word",
        }
    }

    /// What to do, as a whole sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            TextRefusal::TooShort { .. } => {
                "Write the text by hand, choose a larger model with caption.use_model(), or lower \
                 min_chars of the style."
            }
            TextRefusal::NoWords | TextRefusal::EchoesName => {
                "Write the text by hand, or choose a larger model with caption.use_model()."
            }
            TextRefusal::Declined | TextRefusal::NoCaption => {
                "Write the text by hand, or choose another model with caption.use_model()."
            }
            TextRefusal::WrongLanguage { .. } => {
                "Write the text by hand, or call caption.use_model() with a model that knows the \
                 language."
            }
            TextRefusal::BlockedWord { pattern: Some(_) } => {
                "Write the text by hand, or change the rule in caption.rule."
            }
            TextRefusal::BlockedWord { pattern: None } => {
                "Write the text by hand. A row of caption.rule can allow the word."
            }
        }
    }
}
