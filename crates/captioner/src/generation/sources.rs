//! Chooses the file of the generation settings as the reference implementation (4.57.6) does.
//!
//! `generation_config.json` if it exists, else `config.json`; the other file is ignored. One
//! exception: a `generation_config.json` that was generated from a `config.json`
//! (`_from_model_config`) yields to a `config.json` with settings of its own. In `config.json`,
//! top-level fields take precedence over nested sections. Values in it that equal the library's
//! defaults count as unset: old folders list every default (`max_length: 20` in the decoder's
//! section, `num_beams: 1` at the top).

use serde_json::{Map, Value};

/// The fields of `generation_config.json`, if that file decides.
pub(super) fn deciding<'a>(
    config: &Value,
    generation_config: Option<&'a Value>,
) -> Option<&'a Map<String, Value>> {
    let own = generation_config?.as_object()?;
    let copied = own.get("_from_model_config") == Some(&Value::Bool(true));
    let is_set = |(name, value): (&String, &Value)| {
        !value.is_null() && global_default(name).is_some_and(|default| !equal(value, &default))
    };
    let overruled = copied && config.as_object().is_some_and(|config| config.iter().any(is_set));
    (!overruled).then_some(own)
}

/// Equality as in Python: 1 equals 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The library's default of a generation field in `config.json` (4.57.6,
/// `PretrainedConfig._get_global_generation_defaults`); `None` for every other field.
fn global_default(name: &str) -> Option<Value> {
    Some(match name {
        "max_length" => 20.into(),
        "top_k" => 50.into(),
        "num_beams" | "num_return_sequences" | "num_beam_groups" => 1.into(),
        "min_length"
        | "no_repeat_ngram_size"
        | "encoder_no_repeat_ngram_size"
        | "diversity_penalty" => 0.into(),
        "temperature" | "top_p" | "typical_p" | "repetition_penalty" | "length_penalty" => 1.into(),
        "do_sample"
        | "early_stopping"
        | "output_scores"
        | "return_dict_in_generate"
        | "remove_invalid_values" => false.into(),
        "bad_words_ids"
        | "forced_bos_token_id"
        | "forced_eos_token_id"
        | "exponential_decay_length_penalty" => Value::Null,
        "suppress_tokens" | "begin_suppress_tokens" => Value::Null,
        _ => return None,
    })
}

/// Whether a field of `config.json` equals the library's default.
pub(super) fn is_default(name: &str, value: &Value) -> bool {
    global_default(name).is_some_and(|default| equal(value, &default))
}

#[cfg(test)]
mod tests {
    use super::super::settings::GenerationSettings;
    use serde_json::{Value, json};

    /// As transformers 4.57.6 (`_prepare_generation_config` of a VisionEncoderDecoderModel) reads
    /// the same files. An earlier version filled the gaps of `generation_config.json` from
    /// `config.json`, which was wrong.
    #[test]
    fn one_file_decides_generation() {
        let config = json!({
            "num_beams": 4,
            "decoder": { "num_beams": 2, "no_repeat_ngram_size": 3, "eos_token_id": 9 },
            "eos_token_id": null
        });
        let own = json!({ "num_beams": 3, "bos_token_id": 1 });
        let merged = GenerationSettings::merged(&config, Some(&own)).unwrap();
        assert_eq!(
            merged,
            GenerationSettings {
                num_beams: 3,
                bos_token_id: Some(1),
                ..GenerationSettings::default()
            }
        );
        let merged = GenerationSettings::merged(&config, None).unwrap();
        assert_eq!(
            (merged.num_beams, merged.no_repeat_ngram_size, merged.eos_token_id),
            (4, 3, vec![9])
        );
    }

    #[test]
    fn derived_settings_yield_to_config() {
        let own = json!({
            "num_beams": 3, "length_penalty": 0.5, "eos_token_id": 9, "bos_token_id": 1,
            "_from_model_config": true
        });
        let beams =
            |config: Value| GenerationSettings::merged(&config, Some(&own)).unwrap().num_beams;
        // Defaults, tokens and nested sections do not count.
        for silent in [
            json!({}),
            json!({ "num_beams": 1, "max_length": 20, "temperature": 1.0 }),
            json!({ "eos_token_id": 30 }),
        ] {
            assert_eq!(beams(silent.clone()), 3, "{silent}");
        }
        assert_eq!(beams(json!({ "decoder": { "num_beams": 2 } })), 3);
        let merged = GenerationSettings::merged(
            &json!({ "num_beams": 2, "decoder": { "eos_token_id": 7 } }),
            Some(&own),
        )
        .unwrap();
        assert_eq!(
            merged,
            GenerationSettings {
                num_beams: 2,
                eos_token_id: vec![7],
                ..GenerationSettings::default()
            }
        );
        for own_setting in [
            json!({ "max_length": 30 }),
            json!({ "suppress_tokens": [3] }),
            json!({ "forced_eos_token_id": 3 }),
            json!({ "top_k": 5 }),
        ] {
            assert_eq!(beams(own_setting.clone()), 1, "{own_setting}");
        }
        let own = json!({ "num_beams": 3, "_from_model_config": false });
        assert_eq!(
            GenerationSettings::merged(&json!({ "num_beams": 2 }), Some(&own)).unwrap().num_beams,
            3
        );
    }

    #[test]
    fn config_fills_in_the_start_token() {
        let config = json!({ "bos_token_id": 4, "decoder": { "decoder_start_token_id": 5 } });
        assert_eq!(
            GenerationSettings::merged(&config, Some(&json!({}))).unwrap().decoder_start_token_id,
            Some(5)
        );
        assert_eq!(
            GenerationSettings::merged(&config, Some(&json!({ "bos_token_id": 6 })))
                .unwrap()
                .decoder_start_token_id,
            None
        );
    }
}
