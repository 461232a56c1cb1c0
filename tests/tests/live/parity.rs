//! Published model families through the SQL function: the text is what the reference
//! implementation's ids say, tidied as the style says. The ids themselves are held to the reference
//! in crates/captioner and crates/engine.

use pg_caption_style::{CaptionStyle, StyleRules, StyleTask, TextEnding, builtin, tidy};
use pg_caption_tests::{Models, parity};
use serde_json::Value;

/// Pictures decoded differently on purpose (transparency, 16-bit gray), and one that is blank: an
/// answer of its own.
const OTHERS: [&str; 5] =
    ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png", "04_1x1.png"];

/// What is asked of one model, and where it stands what the reference answers.
struct Asked<'a> {
    model: &'a str,
    /// `expected.json`, or the one of pictures that are not split.
    expected: &'a str,
    /// `pg_caption.tiles`.
    tiles: &'a str,
    prompt: &'a str,
    /// Mode and ceiling: `greedy_32`.
    output: &'a str,
    /// As the server knows it.
    style: CaptionStyle,
}

/// One model asked through SQL, its folder's generation settings changed to those of the mode.
fn says_what_the_reference_says(asked: &Asked) {
    let Asked { model, output, style, .. } = asked;
    let expected: Value =
        serde_json::from_slice(&std::fs::read(parity(model).join(asked.expected)).unwrap())
            .unwrap();
    let (mode, max_tokens) = output.rsplit_once('_').unwrap();
    let models = Models::of_parity(model);
    let mut settings = Value::Null;
    models.edit(model, "generation_config.json", |config| {
        let overrides =
            expected["modes"][mode]["overrides"].as_object().expect("a mode of the file").clone();
        config.as_object_mut().unwrap().extend(overrides);
        settings = config.clone();
    });
    let cluster = models.cluster_with(model, &[("pg_caption.tiles", asked.tiles)]);
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
        .filter(|(image, _)| !OTHERS.contains(&image.as_str()))
    {
        let want = &record["prompts"][asked.prompt]["outputs"][output];
        let (text, ids) = (want["text"].as_str().unwrap(), want["ids"].as_array().unwrap());
        // An end token in the last place stopped the text only if nobody forced it.
        let last =
            ids.len() >= max_tokens.parse().unwrap() && !settings["forced_eos_token_id"].is_null();
        let ending = if !last && ids.contains(&settings["eos_token_id"]) {
            TextEnding::Complete
        } else {
            TextEnding::Cut
        };
        let bytes = std::fs::read(parity("images").join(image)).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let said = session.value(&format!(
            "SELECT caption_image('\\x{hex}'::bytea, '{}', {max_tokens})",
            style.name
        ));
        assert_eq!(said, tidy(text, style, ending).ok(), "{model} {output} {image}: {text:?}");
        captions += u32::from(said.is_some());
    }
    assert!(captions > 3, "{captions} captions prove little");
    assert!(session.holds("(SELECT batch_invariant FROM caption.engine_status())"));
}

/// A style that lets nearly every text pass.
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
        says_what_the_reference_says(&Asked {
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
            says_what_the_reference_says(&Asked {
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
        says_what_the_reference_says(&Asked {
            model,
            expected,
            tiles,
            prompt: "",
            output,
            style: mine("Nobody reads this.", StyleTask::Detailed),
        });
    }
}
