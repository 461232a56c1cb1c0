//! The styles that a model folder brings along: `captions.json`.
//!
//! ```json
//! { "styles": { "concise": { "max_chars": 90 },
//!               "poetic": { "instruction": "Write two lines of verse about this image.", "task": "detailed", "prompt": "A poem:", "max_sentences": 2 } } }
//! ```
//! What a style leaves out is as in the built-in style of its name, else of its task. `prompt` is
//! what this model is told instead of the instruction.

use crate::{CaptionStyle, StyleError, StyleTask, builtin, validate};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Why a folder's styles cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// No JSON, or not of this form.
    #[error("{0}")]
    Form(String),
    /// A new style that says neither instruction nor prompt.
    #[error("style \"{0}\" has no \"instruction\" and no \"prompt\"")]
    Silent(String),
    /// A definition that is refused.
    #[error("style \"{name}\": {error}")]
    Style {
        /// Of the style.
        name: String,
        /// Why.
        error: StyleError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    styles: BTreeMap<String, Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    instruction: Option<String>,
    task: Option<StyleTask>,
    prompt: Option<String>,
    min_chars: Option<u32>,
    max_chars: Option<u32>,
    max_sentences: Option<u32>,
    strip_final_stop: Option<bool>,
}

/// Reads `captions.json` of a folder of this `model_type`: whole definitions by name.
///
/// # Errors
/// [`FolderError`], about the first style that cannot be used.
pub fn of_folder(
    json: &[u8],
    model_type: &str,
) -> Result<BTreeMap<String, CaptionStyle>, FolderError> {
    let file: File = serde_json::from_slice(json).map_err(|e| FolderError::Form(e.to_string()))?;
    file.styles
        .into_iter()
        .map(|(name, written)| Ok((name.clone(), written.whole(&name, model_type)?)))
        .collect()
}

impl Written {
    fn whole(self, name: &str, model_type: &str) -> Result<CaptionStyle, FolderError> {
        let task =
            self.task.or(builtin(name).map(|style| style.task)).unwrap_or(StyleTask::Detailed);
        let known = builtin(name);
        let mut style = match known.clone().or_else(|| builtin(task.name())) {
            Some(style) => CaptionStyle { name: name.into(), task, ..style },
            None => {
                return Err(FolderError::Form(format!("no built-in style \"{}\"", task.name())));
            }
        };
        match (self.instruction, &self.prompt, known) {
            (Some(instruction), _, _) => style.instruction = instruction,
            // Told to this model, and there is no other that would read the instruction.
            (None, Some(prompt), None) => style.instruction = prompt.clone(),
            (None, _, Some(_)) => {}
            (None, None, None) => return Err(FolderError::Silent(name.into())),
        }
        style.prompts.extend(self.prompt.map(|prompt| (model_type.to_owned(), prompt)));
        let rules = &mut style.rules;
        rules.max_chars = self.max_chars.unwrap_or(rules.max_chars);
        rules.min_chars = self.min_chars.unwrap_or(rules.min_chars.min(rules.max_chars));
        rules.max_sentences = self.max_sentences.or(rules.max_sentences);
        rules.strip_final_stop = self.strip_final_stop.unwrap_or(rules.strip_final_stop);
        validate(&style).map_err(|error| FolderError::Style { name: name.into(), error })?;
        Ok(style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<BTreeMap<String, CaptionStyle>, FolderError> {
        of_folder(json.as_bytes(), "florence2")
    }

    #[test]
    fn a_built_in_style_is_changed_where_the_folder_says_so() {
        let styles = read(r#"{"styles": {"concise": {"max_chars": 90, "prompt": "What does the image describe?"}}}"#).unwrap();
        let (ours, builtin) = (&styles["concise"], builtin("concise").unwrap());
        assert_eq!(
            (ours.rules.max_chars, &ours.instruction, ours.task),
            (90, &builtin.instruction, StyleTask::Concise)
        );
        assert_eq!(ours.prompt_for("florence2"), Some("What does the image describe?"));
        assert_eq!(ours.rules.min_chars, builtin.rules.min_chars);
    }

    #[test]
    fn a_new_style_is_as_its_task_where_it_says_nothing() {
        let styles = read(r#"{"styles": {"poetic": {"instruction": "Rhyme.", "task": "seo", "max_sentences": 4}}}"#).unwrap();
        let (ours, seo) = (&styles["poetic"], builtin("seo").unwrap());
        assert_eq!(
            (ours.name.as_str(), ours.instruction.as_str(), ours.rules.max_sentences),
            ("poetic", "Rhyme.", Some(4))
        );
        assert_eq!(
            (ours.rules.max_chars, ours.rules.min_chars),
            (seo.rules.max_chars, seo.rules.min_chars)
        );
        assert_eq!(
            read(r#"{"styles": {"told": {"prompt": "Say it."}}}"#).unwrap()["told"].instruction,
            "Say it."
        );
        assert!(read("{}").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (json, word) in [
            ("[", "line 1"),
            (r#"{"style": {}}"#, "style"),
            (r#"{"styles": {"x": {"instructions": "Rhyme."}}}"#, "instructions"),
            (r#"{"styles": {"x": {"max_chars": 10}}}"#, "\"x\""),
            (r#"{"styles": {"Bad Name": {"instruction": "Rhyme."}}}"#, "Bad Name"),
            (r#"{"styles": {"concise": {"max_chars": 2, "min_chars": 3}}}"#, "min_chars"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(word), "{json}: {error}");
        }
    }
}
