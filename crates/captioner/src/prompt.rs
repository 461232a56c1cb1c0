//! The prompt of a caption: a caller's additions, and the resulting token ids.

use pg_caption_wire::TileMode;

/// The start of a generation.
#[derive(Debug, Clone)]
pub struct TokenPrompt {
    /// The decoder's sequence before the first new token: a start token, or the whole prompt.
    pub ids: Vec<i64>,
    /// Input of a text encoder that reads picture and task together (Florence-2's task sentence);
    /// else empty.
    pub read: Vec<i64>,
    /// Only equal buckets may share a batch.
    pub bucket: u64,
    /// Its prefill takes so much memory that it gets a batch of its own.
    pub alone: bool,
}

impl TokenPrompt {
    /// The ids of the prompt's text (`prompt_ids` of the command line).
    pub fn words(&self) -> &[i64] {
        if self.read.is_empty() { &self.ids } else { &self.read }
    }
}

/// A caller's additions to a style.
#[derive(Debug, Clone, Copy, Default)]
pub struct PromptWords<'a> {
    /// Replaces the style's instruction or task.
    pub text: Option<&'a str>,
    /// Lines that follow the instruction, about the picture.
    pub context: Option<&'a str>,
    /// Which view of the picture to use.
    pub tiles: TileMode,
}
