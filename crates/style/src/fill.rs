//! What a watch writes into one column: a style, and what differs from it.
//!
//! Called by the extension, which stores definitions as JSON in `caption.watch.fills`. Reads no
//! style; whether its name exists is the caller's question.

use crate::{CaptionStyle, MAX_TOKENS, MIN_TOKENS, json_problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A fill: the name of a style, and changes for one column. `None` keeps what the style, the watch
/// or the server has.
///
/// ```
/// use pg_caption_style::FillDefinition;
/// use serde_json::json;
///
/// let plain = FillDefinition::from_json(&json!("concise")).unwrap();
/// assert_eq!((plain.style.as_str(), plain.max_tokens), ("concise", None));
/// let fill = FillDefinition::from_json(&json!({"style": "seo", "max_tokens": 128})).unwrap();
/// assert_eq!(fill.max_tokens, Some(128));
/// assert_eq!(plain.to_json(), json!("concise"));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FillDefinition {
    /// Name of the style.
    pub style: String,
    /// Upper limit of generated tokens, [`MIN_TOKENS`]..=[`MAX_TOKENS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Language of the text, a BCP 47 tag. Its caller checks it and keeps its canonical form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Combines the caption with words of the row, as `{title}: {caption}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The text of a picture without a caption, as `{title}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Confidence below which there is no caption, 0..=1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<f64>,
}

/// Why a value is not a fill; completes "the fill of column …".
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FillError {
    /// Neither a string nor an object.
    #[error("must be the name of a style or an object, not {0}")]
    Kind(&'static str),
    /// A key is unknown, or its value has another type.
    #[error("cannot be read: {0}")]
    Field(String),
    /// `max_tokens` is out of range.
    #[error("has max_tokens {0}; it must be {MIN_TOKENS} to {MAX_TOKENS}")]
    MaxTokens(u32),
    /// `min_confidence` is out of range.
    #[error("has min_confidence {0}; it must be 0 to 1")]
    MinConfidence(f64),
}

impl FillDefinition {
    /// The fill with a style and nothing else.
    pub fn of_style(style: impl Into<String>) -> FillDefinition {
        FillDefinition {
            style: style.into(),
            max_tokens: None,
            language: None,
            template: None,
            fallback: None,
            min_confidence: None,
        }
    }

    /// From the name of a style, or from an object with the fields of this type.
    ///
    /// # Errors
    /// [`FillError`].
    pub fn from_json(value: &Value) -> Result<FillDefinition, FillError> {
        let fill: FillDefinition = match value {
            Value::String(style) => return Ok(FillDefinition::of_style(style)),
            Value::Object(_) => serde_json::from_value(value.clone())
                .map_err(|error| FillError::Field(json_problem(&error)))?,
            Value::Null => return Err(FillError::Kind("null")),
            Value::Bool(_) => return Err(FillError::Kind("a boolean")),
            Value::Number(_) => return Err(FillError::Kind("a number")),
            Value::Array(_) => return Err(FillError::Kind("an array")),
        };
        match (fill.max_tokens, fill.min_confidence) {
            (Some(max), _) if !(MIN_TOKENS..=MAX_TOKENS).contains(&max) => {
                Err(FillError::MaxTokens(max))
            }
            (_, Some(min)) if !(0.0..=1.0).contains(&min) => Err(FillError::MinConfidence(min)),
            _ => Ok(fill),
        }
    }

    /// The fill with what it leaves to its style.
    pub fn completed(self, style: &CaptionStyle) -> FillDefinition {
        FillDefinition {
            language: self.language.or_else(|| style.language.clone()),
            template: self.template.or_else(|| style.template.clone()),
            fallback: self.fallback.or_else(|| style.fallback.clone()),
            ..self
        }
    }

    /// The value that [`FillDefinition::from_json`] reads; a string where only the style is set.
    pub fn to_json(&self) -> Value {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) if fields.len() > 1 => Value::Object(fields),
            _ => Value::String(self.style.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_field_survives_a_round_trip() {
        let value = json!({
            "style": "seo", "language": "de", "max_tokens": 128, "min_confidence": 0.8,
            "template": "{title}: {caption}", "fallback": "{title}",
        });
        assert_eq!(FillDefinition::from_json(&value).unwrap().to_json(), value);
        assert_eq!(FillDefinition::from_json(&json!({"style": "seo"})).unwrap().to_json(), "seo");
    }

    #[test]
    fn a_fill_wins_over_its_style() {
        let style = CaptionStyle {
            language: Some("de".into()),
            template: Some("{title}: {caption}".into()),
            ..CaptionStyle::with_defaults("mine")
        };
        let fill = FillDefinition {
            language: Some("fr".into()),
            fallback: Some("{title}".into()),
            ..FillDefinition::of_style("mine")
        };
        let completed = fill.clone().completed(&style);
        assert_eq!(completed, FillDefinition { template: style.template.clone(), ..fill });
        let plain = FillDefinition::of_style("mine").completed(&style);
        assert_eq!((plain.language, plain.fallback), (Some("de".into()), None));
    }

    #[test]
    fn wrong_values_are_refused() {
        for (value, why) in [
            (json!(null), "not null"),
            (json!(["seo"]), "not an array"),
            (json!({}), "missing field \"style\""),
            (json!({"style": 1}), "expected a string"),
            (json!({"style": "seo", "max_token": 64}), "unknown field \"max_token\""),
            (json!({"style": "seo", "max_tokens": 31}), "32 to 256"),
            (json!({"style": "seo", "max_tokens": -1}), "cannot be read"),
            (json!({"style": "seo", "min_confidence": 1.5}), "0 to 1"),
        ] {
            let error = FillDefinition::from_json(&value).unwrap_err().to_string();
            assert!(error.contains(why), "{value}: {error}");
        }
    }
}
