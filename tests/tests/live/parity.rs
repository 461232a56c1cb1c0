//! Published model families through the SQL function: the caption equals the postprocessed text of
//! the reference implementation. Tests of crates/captioner and crates/engine compare the token ids.

use pg_caption_style::{CaptionStyle, StyleRules, StyleTask, TextEnding, builtin, postprocess};
use pg_caption_tests::{ModelsDirectory, parity, pictures};
use serde_json::Value;

/// Pictures that are decoded differently on purpose (transparency, 16-bit gray), and a blank one,
/// which is rejected.
const EXCLUDED: [&str; 5] =
    ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png", "04_1x1.png"];

/// The parameters of one comparison.
struct ParityCase<'a> {
    model: &'a str,
    /// The file of reference answers: `expected.json`, or the one without tiles.
    expected: &'a str,
    /// `pg_caption.tiles`.
    tiles: &'a str,
    prompt: &'a str,
    /// Mode and ceiling: `greedy_32`.
    output: &'a str,
    /// The style of the SQL call.
    style: CaptionStyle,
}

/// Captions all pictures through SQL and compares the texts. The generation settings of the model's
/// folder are changed to those of the mode.
fn assert_matches_reference(case: &ParityCase) {
    let ParityCase { model, output, style, .. } = case;
    let expected: Value =
        serde_json::from_slice(&std::fs::read(parity(model).join(case.expected)).unwrap()).unwrap();
    let (mode, max_tokens) = output.rsplit_once('_').unwrap();
    let models = ModelsDirectory::of_parity(model);
    let mut settings = Value::Null;
    models.edit(model, "generation_config.json", |config| {
        let overrides =
            expected["modes"][mode]["overrides"].as_object().expect("a mode of the file").clone();
        config.as_object_mut().unwrap().extend(overrides);
        settings = config.clone();
    });
    // Random weights write noise, which the threshold of the folder refuses.
    let own = [("pg_caption.min_confidence", "0"), ("pg_caption.block_obscenity", "off")];
    let own = [&[("pg_caption.tiles", case.tiles)], &own[..]].concat();
    let cluster = models.cluster_with(model, &own);
    let db = cluster.database();
    let mut session = db.session();
    if builtin(&style.name).is_none() {
        session.run(&format!(
            "INSERT INTO caption.style (name, instruction) VALUES ('{}', '{}')",
            style.name, style.instruction
        ));
    }
    let mut captions = 0;
    for (image, record) in expected["images"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(image, _)| !EXCLUDED.contains(&image.as_str()))
    {
        let want = &record["prompts"][case.prompt]["outputs"][output];
        let (text, ids) = (want["text"].as_str().unwrap(), want["ids"].as_array().unwrap());
        // An end token in the last position ended the text only if it was not forced.
        let last =
            ids.len() >= max_tokens.parse().unwrap() && !settings["forced_eos_token_id"].is_null();
        let ending = if !last && ids.contains(&settings["eos_token_id"]) {
            TextEnding::Complete
        } else {
            TextEnding::Cut
        };
        let bytes = std::fs::read(parity("images").join(image)).unwrap();
        let caption = session.value(&format!(
            "SELECT caption_image({}, '{}', {max_tokens})",
            pictures::bytea_literal(&bytes),
            style.name
        ));
        assert_eq!(
            caption,
            postprocess(text, style, ending).ok(),
            "{model} {output} {image}: {text:?}"
        );
        captions += u32::from(caption.is_some());
    }
    assert!(captions > 3, "only {captions} captions");
    assert!(session.holds("(SELECT batch_invariant FROM caption.engine_status())"));
}

/// A style that accepts nearly every text.
fn mine(instruction: &str, task: StyleTask) -> CaptionStyle {
    let rules =
        StyleRules { min_chars: 3, max_chars: 1000, max_sentences: None, strip_final_stop: false };
    CaptionStyle {
        name: "mine".into(),
        instruction: instruction.into(),
        task,
        rules,
        ..builtin("detailed").unwrap()
    }
}

#[test]
fn florence_2_matches_the_reference() {
    let style = builtin("concise").unwrap();
    for output in ["beam3_32", "greedy_32"] {
        let (model, expected, tiles) = ("florence2", "expected.json", "auto");
        assert_matches_reference(&ParityCase {
            model,
            expected,
            tiles,
            prompt: "<CAPTION>",
            output,
            style: style.clone(),
        });
    }
}

#[test]
fn smolvlm_matches_the_reference() {
    let prompt = "Can you describe this image?";
    for (expected, tiles) in [("expected.json", "all"), ("expected_one_tile.json", "one")] {
        for output in ["greedy_32", "beam3_ngram3_32"] {
            assert_matches_reference(&ParityCase {
                model: "smolvlm",
                expected,
                tiles,
                prompt,
                output,
                style: mine(prompt, StyleTask::Detailed),
            });
        }
    }
}

#[test]
fn vit_gpt2_matches_the_reference() {
    for output in ["greedy_32", "beam3_ngram3_32"] {
        let (model, expected, tiles) = ("vit-gpt2", "expected.json", "auto");
        assert_matches_reference(&ParityCase {
            model,
            expected,
            tiles,
            prompt: "",
            output,
            style: mine("The model takes no instruction.", StyleTask::Detailed),
        });
    }
}
