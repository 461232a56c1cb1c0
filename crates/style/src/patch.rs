//! A style partly overwritten: what `captions.json` of a model folder and a row of `caption.style`
//! state about a style.
//!
//! Called by `folder.rs` and by the extension (`src/api/style.rs`). Fields that are not set keep
//! the value of a base style, which the caller chooses.

use crate::validate::MIN_MAX_CHARS;
use crate::{CaptionStyle, StyleError, StyleTask, builtin};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Changes to a style; every field is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StylePatch {
    /// Replaces the instruction.
    pub instruction: Option<String>,
    /// Replaces the nearest trained task.
    pub task: Option<StyleTask>,
    /// Replaces the minimum length, characters.
    pub min_chars: Option<u32>,
    /// Replaces the maximum length, characters; at least [`MIN_MAX_CHARS`].
    pub max_chars: Option<u32>,
    /// Replaces the maximum number of sentences.
    pub max_sentences: Option<u32>,
    /// Replaces whether a final full stop is removed.
    pub strip_final_stop: Option<bool>,
    /// Replaces the language, a BCP 47 tag.
    pub language: Option<String>,
    /// Replaces the template; for rows of `caption.style`.
    pub template: Option<String>,
    /// Replaces the fallback; for rows of `caption.style`.
    pub fallback: Option<String>,
    /// Prompts by `model_type`, added to those of the base; for rows of `caption.style`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, String>,
    /// The prompt for the model of the folder; for `captions.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
}

/// Columns of `caption.style` other than its name.
const COLUMNS: [&str; 10] = [
    "instruction",
    "task",
    "min_chars",
    "max_chars",
    "max_sentences",
    "strip_final_stop",
    "prompts",
    "language",
    "template",
    "fallback",
];

impl StylePatch {
    /// A row of `caption.style` as `to_jsonb` writes it. Other columns and NULLs are ignored.
    ///
    /// # Errors
    /// A column has the wrong type. Stored rows have none: `row.rs` checks them first.
    pub fn from_row(mut row: Map<String, Value>) -> Result<StylePatch, serde_json::Error> {
        row.retain(|column, value| COLUMNS.contains(&column.as_str()) && !value.is_null());
        serde_json::from_value(Value::Object(row))
    }

    /// `base` with the fields that are set here. A minimum length that is not set is lowered to the
    /// new maximum.
    ///
    /// ```
    /// use pg_caption_style::{StylePatch, builtin};
    ///
    /// let patch = StylePatch { max_chars: Some(90), ..StylePatch::default() };
    /// let style = patch.apply(builtin("concise").unwrap());
    /// assert_eq!((style.name.as_str(), style.rules.max_chars), ("concise", 90));
    /// ```
    pub fn apply(self, base: CaptionStyle) -> CaptionStyle {
        let mut style = base;
        style.instruction = self.instruction.unwrap_or(style.instruction);
        style.task = self.task.unwrap_or(style.task);
        style.prompts.extend(self.prompts);
        style.language = self.language.or(style.language);
        style.template = self.template.or(style.template);
        style.fallback = self.fallback.or(style.fallback);
        let rules = &mut style.rules;
        rules.max_chars = self.max_chars.unwrap_or(rules.max_chars);
        rules.min_chars = self.min_chars.unwrap_or(rules.min_chars.min(rules.max_chars));
        rules.max_sentences = self.max_sentences.or(rules.max_sentences);
        rules.strip_final_stop = self.strip_final_stop.unwrap_or(rules.strip_final_stop);
        style
    }

    /// The style that a row of `caption.style` with that name defines: completed by the built-in
    /// style of the name, else by the defaults of a style.
    pub fn completed(self, name: &str) -> CaptionStyle {
        self.apply(builtin(name).unwrap_or_else(|| CaptionStyle::with_defaults(name)))
    }

    /// Whether the bounds that hold for definitions, but not for requests, are kept: a request to a
    /// narrow column (`varchar(5)`) carries a smaller `max_chars`.
    ///
    /// # Errors
    /// [`StyleError::MaxChars`].
    pub(crate) fn check(&self) -> Result<(), StyleError> {
        match self.max_chars {
            Some(max) if max < MIN_MAX_CHARS => Err(StyleError::MaxChars(max)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StyleRules, builtin};
    use serde_json::json;

    fn row(value: Value) -> StylePatch {
        let Value::Object(row) = value else { panic!("not a row: {value}") };
        StylePatch::from_row(row).unwrap()
    }

    #[test]
    fn an_empty_patch_changes_nothing() {
        let seo = builtin("seo").unwrap();
        assert_eq!(StylePatch::default().apply(seo.clone()), seo);
    }

    #[test]
    fn a_row_sets_each_of_its_columns() {
        let patch = row(json!({
            "name": "seo", "instruction": "Rhyme.", "task": "concise", "min_chars": 2,
            "max_chars": 40, "max_sentences": 3, "strip_final_stop": true,
            "prompts": {"florence2": "Look."}, "language": "de", "template": "{title}: {caption}",
            "fallback": "{title}", "comment": "of the administrator",
        }));
        let style = patch.apply(builtin("seo").unwrap());
        let expected = CaptionStyle {
            name: "seo".into(),
            instruction: "Rhyme.".into(),
            task: StyleTask::Concise,
            rules: StyleRules {
                min_chars: 2,
                max_chars: 40,
                max_sentences: Some(3),
                strip_final_stop: true,
            },
            prompts: BTreeMap::from([("florence2".to_string(), "Look.".to_string())]),
            language: Some("de".into()),
            template: Some("{title}: {caption}".into()),
            fallback: Some("{title}".into()),
        };
        assert_eq!(style, expected);
    }

    #[test]
    fn null_columns_keep_the_base() {
        let patch = row(json!({
            "name": "concise", "instruction": null, "task": null, "min_chars": null,
            "max_chars": 100, "max_sentences": null, "strip_final_stop": null, "prompts": {},
        }));
        assert_eq!(patch, StylePatch { max_chars: Some(100), ..StylePatch::default() });
    }

    #[test]
    fn an_unset_minimum_follows_the_maximum() {
        let patch = row(json!({"max_chars": 12}));
        assert_eq!(patch.apply(builtin("seo").unwrap()).rules.min_chars, 12);
    }

    #[test]
    fn every_column_is_a_field() {
        let all = COLUMNS.map(|column| (column.to_string(), Value::Null)).into_iter();
        let known = serde_json::to_value(StylePatch {
            prompts: BTreeMap::from([("x".to_string(), "x".to_string())]),
            ..StylePatch::default()
        });
        let known: Vec<String> = known.unwrap().as_object().unwrap().keys().cloned().collect();
        let mut columns: Vec<String> = all.map(|(column, _)| column).collect();
        columns.sort();
        assert_eq!(columns, known);
    }
}
