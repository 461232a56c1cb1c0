//! Generation settings: what a folder and a caller say, merged as the reference implementation
//! does.
//!
//! Which file is read, and what in it counts as unsaid: `sources.rs`. A caller's overrides go
//! before all.

use super::sources::{deciding, is_default};
use crate::ModelError;
use crate::folder::Folder;
use serde_json::{Map, Value};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// Most rows a caption may take; more is a typing error in a folder, and memory grows with it.
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
/// transformers does. Names and meanings are those of `generation_config.json`. Sampling does not
/// exist here: a caption is reproducible.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationSettings {
    /// Rows per caption; 1 is greedy.
    pub num_beams: u32,
    /// Exponent of the length a finished beam's score is divided by.
    pub length_penalty: f32,
    /// When a beam search stops.
    pub early_stopping: EarlyStopping,
    /// Above 1: tokens that were already used become less likely. 1 is off.
    pub repetition_penalty: f32,
    /// No sequence of this many tokens occurs twice. 0 is off.
    pub no_repeat_ngram_size: u32,
    /// No end token before the whole sequence (start token included) has this many tokens.
    pub min_length: u32,
    /// No end token before this many new tokens; where it is stated, `min_length` is not looked at.
    pub min_new_tokens: Option<u32>,
    /// The folder's bound on the whole sequence, start token included; `None`: it states none.
    pub max_length: Option<u32>,
    /// The folder's bound on new tokens; goes before `max_length`.
    pub max_new_tokens: Option<u32>,
    /// Sequences of tokens that never occur; a single end token among them counts for nothing.
    pub bad_words_ids: Vec<Vec<i64>>,
    /// Tokens that never occur, forced ones included.
    pub suppress_tokens: Vec<i64>,
    /// Tokens that the text does not begin with.
    pub begin_suppress_tokens: Vec<i64>,
    /// The first new token, if forced.
    pub forced_bos_token_id: Option<i64>,
    /// The token at the last position, if forced.
    pub forced_eos_token_id: Vec<i64>,
    /// Tokens that end the text.
    pub eos_token_id: Vec<i64>,
    /// What an encoder-decoder's decoder starts with.
    pub decoder_start_token_id: Option<i64>,
    /// Stands in for `decoder_start_token_id` where that is absent.
    pub bos_token_id: Option<i64>,
}

impl Default for GenerationSettings {
    /// The reference implementation's defaults, except `max_length`: its 20 is a stopgap and not a
    /// statement about the model.
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
    /// A key: only equal generations share a batch. Equal settings have equal keys within a
    /// process.
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
    /// [`ModelError::Config`] with the file that holds a setting that cannot be.
    pub(crate) fn of_folder(folder: &Folder) -> Result<GenerationSettings, ModelError> {
        Self::merged(&folder.config, folder.generation_config.as_ref())
            .map_err(|e| ModelError::config(Self::file(folder), e))
    }

    /// The file that a folder's settings are read from.
    fn file(folder: &Folder) -> PathBuf {
        let own = deciding(&folder.config, folder.generation_config.as_ref());
        folder.file(if own.is_some() { "generation_config.json" } else { "config.json" })
    }

    /// Whether tokens that are forced or forbidden are there at all. Those that are only suppressed
    /// need not be, as in the reference.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the file and the setting.
    pub(crate) fn fits(&self, folder: &Folder, vocabulary: usize) -> Result<(), ModelError> {
        let forced = self.forced_bos_token_id.iter().map(|id| ("forced_bos_token_id", id));
        let forced =
            forced.chain(self.forced_eos_token_id.iter().map(|id| ("forced_eos_token_id", id)));
        let mut all =
            forced.chain(self.bad_words_ids.iter().flatten().map(|id| ("bad_words_ids", id)));
        match all.find(|(_, id)| usize::try_from(**id).map_or(true, |id| id >= vocabulary)) {
            None => Ok(()),
            Some((name, id)) => {
                let reason =
                    wrong(name, format!("there is no token {id}: the decoder knows {vocabulary}"));
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
                // Where the reference would stop with an error.
                settings.decoder_start_token_id = Self::merged(config, None)
                    .ok()
                    .and_then(|said| said.decoder_start_token_id.or(said.bos_token_id));
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

    /// These settings with a caller's overrides; `null` unsets what may be absent. An unknown field
    /// is an error: silence would look like obedience.
    pub(crate) fn overridden(&self, overrides: &Value) -> Result<GenerationSettings, ModelError> {
        let Some(fields) = overrides.as_object() else {
            return Err(wrong("generation", "expected a JSON object of generation_config fields"));
        };
        let mut settings = self.clone();
        settings.merge(fields, Origin::Caller)?;
        settings.checked()
    }

    /// Greatest length of the whole sequence (prompt included) for a caller's ceiling: the smaller
    /// of the two bounds. A bound on the whole that the prompt alone exceeds was not made for such
    /// prompts, and the reference passes it over too.
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
                        Value::String(word) if word == "never" => EarlyStopping::Never,
                        _ => {
                            return Err(wrong(
                                name,
                                format!("{value} is neither true, false nor \"never\""),
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
                "bad_words_ids" => self.bad_words_ids = words(name, value)?,
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
                    return Err(wrong(
                        name,
                        "captions are never sampled: the same picture gives the same text",
                    ));
                }
                // Without effect: finished rows leave instead of being padded, and nothing is
                // sampled.
                "pad_token_id" | "do_sample" => {}
                _ if origin == Origin::Caller => return Err(wrong(name, "no such setting")),
                _ => {}
            }
        }
        Ok(())
    }

    fn checked(self) -> Result<GenerationSettings, ModelError> {
        if !(1..=MAX_BEAMS).contains(&self.num_beams) {
            return Err(wrong(
                "num_beams",
                format!("{} is outside 1..={MAX_BEAMS}", self.num_beams),
            ));
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return Err(wrong(
                "repetition_penalty",
                format!("{} is not a positive number", self.repetition_penalty),
            ));
        }
        if !self.length_penalty.is_finite() {
            return Err(wrong(
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

fn wrong(setting: &str, reason: impl ToString) -> ModelError {
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
    number.ok_or_else(|| wrong(name, format!("{value} is not a whole number")))
}

fn float(name: &str, value: &Value) -> Result<f32, ModelError> {
    let number = value.as_f64().map(|n| n as f32);
    number.ok_or_else(|| wrong(name, format!("{value} is not a number")))
}

fn token(name: &str, value: &Value) -> Result<i64, ModelError> {
    let id = value.as_i64().filter(|id| *id >= 0);
    id.ok_or_else(|| wrong(name, format!("{value} is not a token id")))
}

fn tokens(name: &str, value: &Value) -> Result<Vec<i64>, ModelError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(|v| token(name, v)).collect(),
        one => Ok(vec![token(name, one)?]),
    }
}

/// Sequences of tokens, each with something in it.
fn words(name: &str, value: &Value) -> Result<Vec<Vec<i64>>, ModelError> {
    let word = |word: &Value| match word.as_array() {
        Some(ids) if !ids.is_empty() => tokens(name, word),
        _ => Err(wrong(name, format!("{word} is not a list of token ids"))),
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(word).collect(),
        _ => Err(wrong(name, format!("{value} is not a list of lists of token ids"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_config_says_of_its_own_accord_goes_before_defaults_that_were_written_out() {
        let config = json!({ "num_beams": 1, "early_stopping": false, "text_config": { "num_beams": 3, "early_stopping": true } });
        let merged = GenerationSettings::merged(&config, None).unwrap();
        assert_eq!((merged.num_beams, merged.early_stopping), (3, EarlyStopping::WhenFull));
        assert_eq!(
            GenerationSettings::merged(&config, Some(&json!({ "num_beams": 1 })))
                .unwrap()
                .num_beams,
            1,
            "generation_config means it"
        );
    }

    #[test]
    fn a_written_out_default_length_of_old_folders_is_no_limit() {
        let config = json!({ "decoder": { "max_length": 20 } });
        let merged = GenerationSettings::merged(&config, None).unwrap();
        assert_eq!(merged.sequence_limit(1, 256), 257);
    }

    #[test]
    fn the_limit_is_the_smaller_of_the_folders_and_the_callers_and_counts_the_start_token() {
        let folder = GenerationSettings::merged(&json!({ "max_length": 16 }), None).unwrap();
        assert_eq!(folder.sequence_limit(1, 64), 16);
        assert_eq!(folder.sequence_limit(1, 8), 9);
        assert_eq!(
            folder.sequence_limit(40, 64),
            104,
            "a bound that the prompt exceeds was not made for it"
        );
        let folder = folder.overridden(&json!({ "max_new_tokens": 40 })).unwrap();
        assert_eq!(folder.sequence_limit(1, 64), 41);
    }

    #[test]
    fn end_tokens_may_be_a_list() {
        assert_eq!(
            GenerationSettings::merged(&json!({}), Some(&json!({ "eos_token_id": [2, 5] })))
                .unwrap()
                .eos_token_id,
            [2, 5]
        );
    }

    #[test]
    fn overrides_that_cannot_be_obeyed_are_named() {
        let settings = GenerationSettings::default();
        for (overrides, named) in [
            (json!({ "num_beams": 0 }), "num_beams"),
            (json!({ "num_beam": 2 }), "num_beam"),
            (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
            (json!({ "early_stopping": "soon" }), "early_stopping"),
            (json!({ "eos_token_id": [-1] }), "eos_token_id"),
            (json!({ "bad_words_ids": [3] }), "bad_words_ids"),
            (json!({ "bad_words_ids": [[]] }), "bad_words_ids"),
            (json!({ "suppress_tokens": "all" }), "suppress_tokens"),
            (json!({ "do_sample": true }), "do_sample"),
            (json!(3), "generation"),
        ] {
            let error = settings.overridden(&overrides).unwrap_err();
            assert!(
                matches!(&error, ModelError::Generation { setting, .. } if setting == named),
                "{overrides}: {error}"
            );
        }
    }

    #[test]
    fn equal_settings_share_a_bucket_and_different_ones_do_not() {
        let greedy = GenerationSettings::default();
        let beams = greedy.overridden(&json!({ "num_beams": 3 })).unwrap();
        assert_eq!(greedy.bucket(), GenerationSettings::default().bucket());
        assert_ne!(greedy.bucket(), beams.bucket());
    }
}
