use super::*;
use serde_json::json;

#[test]
fn written_out_defaults_count_as_unset() {
    let config = json!({
        "num_beams": 1, "early_stopping": false,
        "text_config": { "num_beams": 3, "early_stopping": true }
    });
    let merged = GenerationSettings::merged(&config, None).unwrap();
    assert_eq!((merged.num_beams, merged.early_stopping), (3, EarlyStopping::WhenFull));
    assert_eq!(
        GenerationSettings::merged(&config, Some(&json!({ "num_beams": 1 }))).unwrap().num_beams,
        1,
        "generation_config means it"
    );
}

#[test]
fn a_written_out_default_length_is_no_limit() {
    let config = json!({ "decoder": { "max_length": 20 } });
    let merged = GenerationSettings::merged(&config, None).unwrap();
    assert_eq!(merged.sequence_limit(1, 256), 257);
}

#[test]
fn the_smaller_length_limit_applies() {
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
fn invalid_overrides_are_named() {
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
fn only_equal_settings_share_a_bucket() {
    let greedy = GenerationSettings::default();
    let beams = greedy.overridden(&json!({ "num_beams": 3 })).unwrap();
    assert_eq!(greedy.bucket(), GenerationSettings::default().bucket());
    assert_ne!(greedy.bucket(), beams.bucket());
}
