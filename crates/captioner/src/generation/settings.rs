//! Generation settings of a folder and a caller, merged as in the reference implementation.
//!
//! `sources.rs` decides which file is read and which values count as unset. A caller's overrides
//! take precedence.

use super::sources::{deciding, is_default};
use crate::ModelError;
use crate::folder::ModelFolder;
use serde_json::{Map, Value};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// Most rows of a caption; memory grows with it, and a larger number is a mistake in a folder.
const MAX_BEAMS: u32 = 32;

/// When a beam search stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EarlyStopping {
    /// `false`: when the best running beam cannot beat the worst finished one at its current
    /// length.
    Heuristic,
    /// `true`: as soon as there are as many finished candidates as beams.
    WhenFull,
    /// `"never"`: as `false`, but judged at the greatest possible length.
    Never,
}

/// Generation settings: config.json, generation_config.json and the caller's overrides, merged as
/// in transformers. Names and meanings are those of `generation_config.json`. Captions are never
/// sampled, so they are reproducible.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationSettings {
    /// Rows per caption; 1 is greedy.
    pub num_beams: u32,
    /// Exponent of the length by which a finished beam's score is divided.
    pub length_penalty: f32,
    /// When a beam search stops.
    pub early_stopping: EarlyStopping,
    /// Values above 1 make used tokens less likely; 1 disables it.
    pub repetition_penalty: f32,
    /// No sequence of this many tokens occurs twice; 0 disables it.
    pub no_repeat_ngram_size: u32,
    /// No end token before the whole sequence (start token included) has this many tokens.
    pub min_length: u32,
    /// No end token before this many new tokens; takes precedence over `min_length`.
    pub min_new_tokens: Option<u32>,
    /// The folder's limit of the whole sequence, start token included, if it states one.
    pub max_length: Option<u32>,
    /// The folder's limit of new tokens; takes precedence over `max_length`.
    pub max_new_tokens: Option<u32>,
    /// Sequences of tokens that never occur; a single end token among them is ignored.
    pub bad_words_ids: Vec<Vec<i64>>,
    /// Tokens that never occur, even if forced.
    pub suppress_tokens: Vec<i64>,
    /// Tokens that never start the text.
    pub begin_suppress_tokens: Vec<i64>,
    /// The first new token, if forced.
    pub forced_bos_token_id: Option<i64>,
    /// The token at the last position, if forced.
    pub forced_eos_token_id: Vec<i64>,
    /// Tokens that end the text.
    pub eos_token_id: Vec<i64>,
    /// The first token of an encoder-decoder's decoder.
    pub decoder_start_token_id: Option<i64>,
    /// Replaces an absent `decoder_start_token_id`.
    pub bos_token_id: Option<i64>,
}

impl Default for GenerationSettings {
    /// The reference implementation's defaults, except `max_length`: its 20 is a stopgap, not a
    /// property of the model.
    fn default() -> Self {
        GenerationSettings {
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            min_length: 0,
            min_new_tokens: None,
            max_length: None,
            max_new_tokens: None,
            bad_words_ids: Vec::new(),
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            forced_bos_token_id: None,
            forced_eos_token_id: Vec::new(),
            eos_token_id: Vec::new(),
            decoder_start_token_id: None,
            bos_token_id: None,
        }
    }
}

impl GenerationSettings {
    /// A key for batching: only equal generation settings share a batch. Equal settings have equal
    /// keys within a process.
    pub fn bucket(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        (
            self.num_beams,
            self.length_penalty.to_bits(),
            self.early_stopping,
            self.repetition_penalty.to_bits(),
        )
            .hash(&mut hash);
        (
            self.no_repeat_ngram_size,
            self.min_length,
            self.min_new_tokens,
            self.max_length,
            self.max_new_tokens,
        )
            .hash(&mut hash);
        (&self.bad_words_ids, &self.suppress_tokens, &self.begin_suppress_tokens).hash(&mut hash);
        (
            self.forced_bos_token_id,
            &self.forced_eos_token_id,
            &self.eos_token_id,
            self.decoder_start_token_id,
            self.bos_token_id,
        )
            .hash(&mut hash);
        hash.finish()
    }

    /// The settings of a folder.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the file of an invalid setting.
    pub(crate) fn of_folder(folder: &ModelFolder) -> Result<GenerationSettings, ModelError> {
        Self::merged(&folder.config, folder.generation_config.as_ref())
            .map_err(|e| ModelError::config(Self::file(folder), e))
    }

    /// The file that contains a folder's settings.
    fn file(folder: &ModelFolder) -> PathBuf {
        let own = deciding(&folder.config, folder.generation_config.as_ref());
        folder.file(if own.is_some() { "generation_config.json" } else { "config.json" })
    }

    /// Checks that forced and forbidden tokens exist. Suppressed tokens need not exist, as in the
    /// reference.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the file and the setting.
    pub(crate) fn fits(&self, folder: &ModelFolder, vocabulary: usize) -> Result<(), ModelError> {
        let forced = self.forced_bos_token_id.iter().map(|id| ("forced_bos_token_id", id));
        let forced =
            forced.chain(self.forced_eos_token_id.iter().map(|id| ("forced_eos_token_id", id)));
        let mut all =
            forced.chain(self.bad_words_ids.iter().flatten().map(|id| ("bad_words_ids", id)));
        match all.find(|(_, id)| usize::try_from(**id).map_or(true, |id| id >= vocabulary)) {
            None => Ok(()),
            Some((name, id)) => {
                let reason = invalid(
                    name,
                    format!("no token {id}; the decoder's vocabulary has {vocabulary}"),
                );
                Err(ModelError::config(Self::file(folder), reason))
            }
        }
    }

    /// The settings of these two files.
    pub(crate) fn merged(
        config: &Value,
        generation_config: Option<&Value>,
    ) -> Result<GenerationSettings, ModelError> {
        let mut settings = GenerationSettings::default();
        if let Some(own) = deciding(config, generation_config) {
            settings.merge(own, Origin::GenerationConfig)?;
            if settings.decoder_start_token_id.or(settings.bos_token_id).is_none() {
                // The reference would fail here.
                settings.decoder_start_token_id = Self::merged(config, None)
                    .ok()
                    .and_then(|other| other.decoder_start_token_id.or(other.bos_token_id));
            }
            return settings.checked();
        }
        for section in ["decoder", "generator", "text_config"] {
            if let Some(nested) = config.get(section).and_then(Value::as_object) {
                settings.merge(nested, Origin::Config)?;
            }
        }
        if let Some(top) = config.as_object() {
            settings.merge(top, Origin::Config)?;
        }
        settings.checked()
    }

    /// These settings with a caller's overrides; `null` unsets an optional field. An unknown field
    /// is an error, so that no override is ignored silently.
    pub(crate) fn overridden(&self, overrides: &Value) -> Result<GenerationSettings, ModelError> {
        let Some(fields) = overrides.as_object() else {
            return Err(invalid(
                "generation",
                "expected a JSON object of generation_config fields",
            ));
        };
        let mut settings = self.clone();
        settings.merge(fields, Origin::Caller)?;
        settings.checked()
    }

    /// Greatest length of the whole sequence (prompt included) for a caller's limit: the smaller of
    /// both limits. A `max_length` below the prompt's length is ignored, as in the reference.
    pub(crate) fn sequence_limit(&self, prompt: usize, max_new_tokens: u32) -> usize {
        let own = match (self.max_new_tokens, self.max_length) {
            (Some(new), _) => new as usize,
            (None, Some(length)) if length as usize > prompt => length as usize - prompt,
            (None, _) => usize::MAX,
        };
        prompt + own.min(max_new_tokens as usize).max(1)
    }

    fn merge(&mut self, fields: &Map<String, Value>, origin: Origin) -> Result<(), ModelError> {
        for (name, value) in fields {
            if value.is_null() && origin != Origin::Caller {
                continue;
            }
            if origin == Origin::Config && is_default(name, value) {
                continue;
            }
            match name.as_str() {
                "num_beams" => self.num_beams = count(name, value)?,
                "length_penalty" => self.length_penalty = float(name, value)?,
                "early_stopping" => {
                    self.early_stopping = match value {
                        Value::Bool(true) => EarlyStopping::WhenFull,
                        Value::Bool(false) | Value::Null => EarlyStopping::Heuristic,
                        Value::String(text) if text == "never" => EarlyStopping::Never,
                        _ => {
                            return Err(invalid(
                                name,
                                format!("expected true, false or \"never\", not {value}"),
                            ));
                        }
                    }
                }
                "repetition_penalty" => self.repetition_penalty = float(name, value)?,
                "no_repeat_ngram_size" => self.no_repeat_ngram_size = count(name, value)?,
                "min_length" => self.min_length = count(name, value)?,
                "min_new_tokens" => self.min_new_tokens = optional(value, |v| count(name, v))?,
                "max_length" => self.max_length = optional(value, |v| count(name, v))?,
                "max_new_tokens" => self.max_new_tokens = optional(value, |v| count(name, v))?,
                "bad_words_ids" => self.bad_words_ids = sequences(name, value)?,
                "suppress_tokens" => self.suppress_tokens = tokens(name, value)?,
                "begin_suppress_tokens" => self.begin_suppress_tokens = tokens(name, value)?,
                "forced_bos_token_id" => {
                    self.forced_bos_token_id = optional(value, |v| token(name, v))?
                }
                "forced_eos_token_id" => self.forced_eos_token_id = tokens(name, value)?,
                "eos_token_id" => self.eos_token_id = tokens(name, value)?,
                "decoder_start_token_id" => {
                    self.decoder_start_token_id = optional(value, |v| token(name, v))?
                }
                "bos_token_id" => self.bos_token_id = optional(value, |v| token(name, v))?,
                "do_sample" if origin == Origin::Caller && *value == Value::Bool(true) => {
                    return Err(invalid(name, "captions are never sampled"));
                }
                // No effect: finished rows leave instead of being padded, and captions are never
                // sampled.
                "pad_token_id" | "do_sample" => {}
                _ if origin == Origin::Caller => return Err(invalid(name, "unknown setting")),
                _ => {}
            }
        }
        Ok(())
    }

    fn checked(self) -> Result<GenerationSettings, ModelError> {
        if !(1..=MAX_BEAMS).contains(&self.num_beams) {
            return Err(invalid(
                "num_beams",
                format!("{} is outside 1..={MAX_BEAMS}", self.num_beams),
            ));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(invalid(
                "repetition_penalty",
                format!("{} is not a positive number", self.repetition_penalty),
            ));
        }
        if !self.length_penalty.is_finite() {
            return Err(invalid(
                "length_penalty",
                format!("{} is not a finite number", self.length_penalty),
            ));
        }
        Ok(self)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Config,
    GenerationConfig,
    Caller,
}

fn invalid(setting: &str, reason: impl ToString) -> ModelError {
    ModelError::Generation { setting: setting.into(), reason: reason.to_string() }
}

fn optional<T>(
    value: &Value,
    read: impl FnOnce(&Value) -> Result<T, ModelError>,
) -> Result<Option<T>, ModelError> {
    if value.is_null() { Ok(None) } else { read(value).map(Some) }
}

fn count(name: &str, value: &Value) -> Result<u32, ModelError> {
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| invalid(name, format!("{value} is not a whole number")))
}

fn float(name: &str, value: &Value) -> Result<f32, ModelError> {
    let number = value.as_f64().map(|n| n as f32);
    number.ok_or_else(|| invalid(name, format!("{value} is not a number")))
}

fn token(name: &str, value: &Value) -> Result<i64, ModelError> {
    let id = value.as_i64().filter(|id| *id >= 0);
    id.ok_or_else(|| invalid(name, format!("{value} is not a token id")))
}

fn tokens(name: &str, value: &Value) -> Result<Vec<i64>, ModelError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(|v| token(name, v)).collect(),
        one => Ok(vec![token(name, one)?]),
    }
}

/// Non-empty sequences of tokens.
fn sequences(name: &str, value: &Value) -> Result<Vec<Vec<i64>>, ModelError> {
    let sequence = |value: &Value| match value.as_array() {
        Some(ids) if !ids.is_empty() => tokens(name, value),
        _ => Err(invalid(name, format!("{value} is not a list of token ids"))),
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(sequence).collect(),
        _ => Err(invalid(name, format!("{value} is not a list of lists of token ids"))),
    }
}

#[cfg(test)]
mod tests;
