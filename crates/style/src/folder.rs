//! The styles that a model folder defines: `captions.json`.
//!
//! ```json
//! { "styles": { "concise": { "max_chars": 90 },
//!               "poetic": { "instruction": "Write two lines of verse about this image.",
//!                           "task": "detailed", "prompt": "A poem:", "max_sentences": 2 } } }
//! ```
//! `"languages": ["de", "fr"]` next to `styles` lists the languages that the model knows.
//! Fields that are left out are as in the built-in style of that name, else as in the built-in
//! style of the task. `prompt` replaces the instruction for the folder's own model.

use crate::{CaptionStyle, StyleError, StylePatch, StyleTask, builtin, validate};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Why a folder's styles cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// The file is not JSON of the expected form.
    #[error("{0}")]
    Form(String),
    /// A new style has neither an instruction nor a prompt.
    #[error("style \"{0}\" has no \"instruction\" and no \"prompt\"")]
    NoInstruction(String),
    /// A definition is invalid.
    #[error("style \"{name}\": {error}")]
    Style {
        /// Name of the style.
        name: String,
        /// The rule it breaks.
        error: StyleError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaptionsFile {
    #[serde(default)]
    styles: BTreeMap<String, StylePatch>,
    languages: Option<Vec<String>>,
}

fn file(json: &[u8]) -> Result<CaptionsFile, FolderError> {
    serde_json::from_slice(json).map_err(|e| FolderError::Form(e.to_string()))
}

/// The languages that `captions.json` lists, as it writes them; `None` if it lists none.
///
/// # Errors
/// [`FolderError::Form`].
pub fn languages_of_folder(json: &[u8]) -> Result<Option<Vec<String>>, FolderError> {
    Ok(file(json)?.languages)
}

/// Reads `captions.json` of a folder of this `model_type`: whole definitions by name.
///
/// # Errors
/// [`FolderError`], about the first style that cannot be used.
pub fn of_folder(
    json: &[u8],
    model_type: &str,
) -> Result<BTreeMap<String, CaptionStyle>, FolderError> {
    file(json)?
        .styles
        .into_iter()
        .map(|(name, patch)| Ok((name.clone(), completed(patch, &name, model_type)?)))
        .collect()
}

/// The whole definition of a folder's style.
fn completed(
    mut patch: StylePatch,
    name: &str,
    model_type: &str,
) -> Result<CaptionStyle, FolderError> {
    if !patch.prompts.is_empty() {
        return Err(FolderError::Form(format!(
            "style \"{name}\": unknown field `prompts`, use `prompt`"
        )));
    }
    // They name columns, which a model does not know.
    if patch.template.is_some() || patch.fallback.is_some() {
        let reason = "templates and fallbacks belong to caption.style and to fills";
        return Err(FolderError::Form(format!("style \"{name}\": {reason}")));
    }
    let invalid = |error| FolderError::Style { name: name.into(), error };
    let base = match builtin(name) {
        Some(style) => style,
        None => {
            // The folder's own model is the only one that reads the instruction.
            patch.instruction = patch.instruction.or_else(|| patch.prompt.clone());
            if patch.instruction.is_none() {
                return Err(FolderError::NoInstruction(name.into()));
            }
            let task = patch.task.unwrap_or(StyleTask::Detailed).name();
            let style = builtin(task)
                .ok_or_else(|| FolderError::Form(format!("no built-in style \"{task}\"")))?;
            CaptionStyle { name: name.into(), ..style }
        }
    };
    patch.prompts.extend(patch.prompt.take().map(|prompt| (model_type.to_owned(), prompt)));
    patch.check().map_err(invalid)?;
    let style = patch.apply(base);
    validate(&style).map_err(invalid)?;
    Ok(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<BTreeMap<String, CaptionStyle>, FolderError> {
        of_folder(json.as_bytes(), "florence2")
    }

    #[test]
    fn a_folder_changes_a_built_in_style() {
        let styles = read(
            r#"{"styles": {"concise": {"max_chars": 90,
                "prompt": "What does the image describe?"}}}"#,
        )
        .unwrap();
        let (changed, builtin) = (&styles["concise"], builtin("concise").unwrap());
        assert_eq!(
            (changed.rules.max_chars, &changed.instruction, changed.task),
            (90, &builtin.instruction, StyleTask::Concise)
        );
        assert_eq!(changed.prompt_for(&["florence2"]), Some("What does the image describe?"));
        assert_eq!(changed.rules.min_chars, builtin.rules.min_chars);
    }

    #[test]
    fn a_new_style_defaults_to_its_task() {
        let styles = read(
            r#"{"styles": {"poetic": {"instruction": "Rhyme.", "task": "seo",
                "max_sentences": 4}}}"#,
        )
        .unwrap();
        let (poetic, seo) = (&styles["poetic"], builtin("seo").unwrap());
        assert_eq!(
            (poetic.name.as_str(), poetic.instruction.as_str(), poetic.rules.max_sentences),
            ("poetic", "Rhyme.", Some(4))
        );
        assert_eq!(
            (poetic.rules.max_chars, poetic.rules.min_chars),
            (seo.rules.max_chars, seo.rules.min_chars)
        );
        assert_eq!(
            read(r#"{"styles": {"prompted": {"prompt": "Say it."}}}"#).unwrap()["prompted"]
                .instruction,
            "Say it."
        );
        assert!(read("{}").unwrap().is_empty());
    }

    #[test]
    fn an_error_names_the_cause() {
        for (json, cause) in [
            ("[", "line 1"),
            (r#"{"style": {}}"#, "style"),
            (r#"{"styles": {"x": {"instructions": "Rhyme."}}}"#, "instructions"),
            (r#"{"styles": {"x": {"prompts": {"vit": "Rhyme."}}}}"#, "prompts"),
            (r#"{"styles": {"x": {"prompt": "x", "template": "{caption}"}}}"#, "caption.style"),
            (r#"{"styles": {"x": {"max_chars": 10}}}"#, "\"x\""),
            (r#"{"styles": {"Bad Name": {"instruction": "Rhyme."}}}"#, "Bad Name"),
            (r#"{"styles": {"concise": {"max_chars": 12, "min_chars": 13}}}"#, "min_chars"),
            (r#"{"styles": {"concise": {"max_chars": 9}}}"#, "max_chars"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(cause), "{json}: {error}");
        }
    }
}
