//! Prompts by style, kept between pictures: tokenising an instruction for each picture would cost
//! more than postprocessing its text.

use crate::catch_panic::catch_panic;
use crate::failures;
use crate::job::Job;
use crate::provider::prompt;
use pg_caption_captioner::{InputPreparer, PictureFeatures, PromptWords, TokenPrompt};
use pg_caption_models::{aliases, follows_instructions};
use pg_caption_style::CaptionStyle;
use pg_caption_wire::{ContextFacts, Failure, TileMode};
use std::collections::HashMap;

/// Prompts kept; beyond it all are forgotten. Clients use a handful of styles.
const MOST_PROMPTS: usize = 64;

/// What a prompt depends on.
#[derive(PartialEq, Eq, Hash)]
struct PromptKey {
    style: CaptionStyle,
    /// Replaces the style's instruction.
    text: Option<String>,
    /// What is known about the picture.
    context: Option<ContextFacts>,
    tiles: TileMode,
    /// Bucket of the picture's features.
    bucket: u64,
}

/// Prompts that were made before.
#[derive(Default)]
pub struct PromptCache(HashMap<PromptKey, TokenPrompt>);

impl PromptCache {
    /// The prompt for one output of a job.
    ///
    /// # Errors
    /// The model has no prompt for the style.
    pub fn get(
        &mut self,
        preparer: &InputPreparer,
        job: &Job,
        output: usize,
        tiles: TileMode,
        features: &PictureFeatures,
    ) -> Result<TokenPrompt, Failure> {
        let output = &job.outputs[output];
        let family = aliases(&preparer.status().family);
        let text = job.extras.prompt.as_deref().or_else(|| output.style.prompt_for(&family));
        let key = PromptKey {
            style: output.style.clone(),
            text: text.map(Into::into),
            context: output.context.clone(),
            tiles,
            bucket: features.bucket,
        };
        if let Some(prompt) = self.0.get(&key) {
            return Ok(prompt.clone());
        }
        let is_asked = follows_instructions(&preparer.status().family);
        let text = match is_asked && output.style.language.is_some() {
            true => Some(prompt::instruction(&output.style, key.text.as_deref())),
            false => key.text.clone(),
        };
        let facts = prompt::facts(output).filter(|_| is_asked);
        let words = PromptWords { text: text.as_deref(), context: facts.as_deref(), tiles };
        let prompt = catch_panic(|| preparer.prompt(&output.style, words, features))
            .map_err(|panic| failures::step_panicked("the code that makes the prompt", &panic))?
            .map_err(|error| failures::no_prompt(&output.style.name, &error.to_string()))?;
        if self.0.len() >= MOST_PROMPTS {
            self.0.clear();
        }
        self.0.insert(key, prompt.clone());
        Ok(prompt)
    }
}
