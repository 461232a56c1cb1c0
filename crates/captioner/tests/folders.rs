//! Invalid folders: an error that names the file and the reason, never a crash, never a silent
//! success.

mod support;

use pg_caption_captioner::{LoadOptions, ModelError, PromptWords, init, load};
use std::path::Path;
use support::*;

/// The error message of a folder that does not load.
fn refused(folder: &Path) -> String {
    load(folder, &LoadOptions::default()).err().expect("a bad folder does not load").to_string()
}

/// Replaces text in a file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    if !runtime() {
        return;
    }
    for file in
        ["config.json", "preprocessor_config.json", "tokenizer.json", "onnx/encoder_model.onnx"]
    {
        let folder = Copy::of_parity("missing");
        std::fs::remove_file(folder.0.join(file)).unwrap();
        let message = refused(&folder.0);
        let name = file.rsplit('/').next().unwrap();
        assert!(
            message.contains(name) && message.contains(&*folder.0.to_string_lossy()),
            "{message}"
        );
    }
}

/// transformers 5 writes the image processor into `processor_config.json`.
#[test]
fn a_nested_image_processor_loads() {
    if !runtime() {
        return;
    }
    for model in ["vit-gpt2", "florence2", "smolvlm"] {
        let folder = Copy::of(model, &format!("nested-{model}"));
        let pixels = || {
            let (_, preparer) = open(&folder.0);
            pixels(&preparer, "12_photo.jpg").sha256()
        };
        let expected = pixels();
        let path = folder.0.join("processor_config.json");
        let mut processor: serde_json::Value = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => serde_json::json!({}),
        };
        let separate = folder.0.join("preprocessor_config.json");
        processor["image_processor"] =
            serde_json::from_slice(&std::fs::read(&separate).unwrap()).unwrap();
        std::fs::remove_file(separate).unwrap();
        std::fs::write(&path, processor.to_string()).unwrap();
        assert_eq!(pixels(), expected, "{model}");
        processor["image_processor"]["resample"] = 77.into();
        std::fs::write(&path, processor.to_string()).unwrap();
        let message = refused(&folder.0);
        assert!(message.contains("/processor_config.json") && message.contains("77"), "{message}");
    }
}

#[test]
fn a_git_lfs_pointer_is_named() {
    if !runtime() {
        return;
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n";
    for file in ["onnx/encoder_model.onnx", "tokenizer.json", "preprocessor_config.json"] {
        let folder = Copy::of_parity("pointer");
        std::fs::write(folder.0.join(file), pointer).unwrap();
        let message = refused(&folder.0);
        let expected = format!("{file}: a Git LFS pointer, not the file itself");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn an_unknown_family_is_named_first() {
    let folder = Copy::of_parity("unknown");
    for file in ["tokenizer.json", "preprocessor_config.json", "generation_config.json"] {
        std::fs::remove_file(folder.0.join(file)).unwrap();
    }
    let config = "{\"model_type\": \"qwen2_vl\"}";
    std::fs::write(folder.0.join("config.json"), config).unwrap();
    let message = refused(&folder.0);
    assert!(message.contains("unsupported model_type \"qwen2_vl\""), "{message}");
}

#[test]
fn a_truncated_file_is_named() {
    if !runtime() {
        return;
    }
    for file in [
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        let folder = Copy::of_parity("truncated");
        truncate(&folder.0.join(file));
        let message = refused(&folder.0);
        assert!(message.contains(file), "{message}");
    }
    let folder = Copy::of_parity("truncated-graph");
    truncate(&folder.graph("encoder_model.onnx"));
    assert!(refused(&folder.0).contains("encoder_model.onnx"));
    std::fs::write(folder.graph("encoder_model.onnx"), "").unwrap();
    assert!(refused(&folder.0).contains("encoder_model.onnx"));
}

#[test]
fn broken_tokenizers_are_named_with_a_reason() {
    if !runtime() {
        return;
    }
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change); 5] = [
        ("strip", |t| {
            t["decoder"] =
                serde_json::json!({ "type": "Strip", "content": "6", "start": 0, "stop": 3 })
        }),
        ("decoder", |t| t["decoder"] = serde_json::json!({ "type": "Strip" })),
        ("normalizer", |t| {
            t["normalizer"] =
                serde_json::json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })
        }),
        ("template", |t| {
            let special =
                serde_json::json!({ "SpecialToken": { "id": "<undeclared>", "type_id": 0 } });
            let sequence = serde_json::json!({ "Sequence": { "id": "A", "type_id": 0 } });
            t["post_processor"] = serde_json::json!({
                "type": "TemplateProcessing", "single": [special, sequence], "pair": [],
                "special_tokens": {}
            });
        }),
        ("added", |t| t["added_tokens"] = serde_json::json!([{ "id": 0 }])),
    ];
    for (case, change) in cases {
        let folder = Copy::of_parity(case);
        let path = folder.0.join("tokenizer.json");
        let mut tokenizer: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut tokenizer);
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        let message = refused(&folder.0);
        assert!(
            message.starts_with(&*path.to_string_lossy())
                && message.len() > path.to_string_lossy().len() + 10,
            "{case}: {message}"
        );
    }
    // Truncated within each section.
    for section in
        ["\"normalizer\"", "\"post_processor\"", "\"decoder\"", "\"vocab\"", "\"merges\""]
    {
        let folder = Copy::of_parity("sections");
        let path = folder.0.join("tokenizer.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let at = text.find(section).unwrap() + section.len() + 6;
        std::fs::write(&path, &text[..at]).unwrap();
        let message = refused(&folder.0);
        assert!(
            message.starts_with(&*path.to_string_lossy()) && message.contains("EOF"),
            "{section}: {message}"
        );
    }
}

#[test]
fn unknown_model_types_list_the_known_ones() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("unknown");
    edit(
        &folder.0.join("config.json"),
        "\"model_type\": \"vision-encoder-decoder\"",
        "\"model_type\": \"poet\"",
    );
    let message = refused(&folder.0);
    assert!(message.contains("poet") && message.contains("vision-encoder-decoder"), "{message}");
}

#[test]
fn families_name_missing_and_truncated_files() {
    if !runtime() {
        return;
    }
    let florence = [
        "preprocessor_config.json",
        "onnx/vision_encoder.onnx",
        "onnx/embed_tokens.onnx",
        "onnx/encoder_model.onnx",
    ];
    let smolvlm = [
        "preprocessor_config.json",
        "onnx/vision_encoder.onnx",
        "onnx/embed_tokens.onnx",
        "onnx/decoder_model_merged.onnx",
    ];
    for (model, files) in [("florence2", florence), ("smolvlm", smolvlm)] {
        for file in files {
            let folder = Copy::of(model, "families");
            let name = file.rsplit('/').next().unwrap();
            truncate(&folder.0.join(file));
            let message = refused(&folder.0);
            assert!(message.contains(name), "{model}, {file} cut short: {message}");
            std::fs::remove_file(folder.0.join(file)).unwrap();
            let message = refused(&folder.0);
            assert!(
                message.contains(name.trim_end_matches(".onnx")),
                "{model} without {file}: {message}"
            );
        }
    }
}

#[test]
fn unfit_chat_templates_are_refused() {
    if !runtime() {
        return;
    }
    for (template, reason) in [
        ("{{ oops", "chat_template.json"),
        ("just talk", "0 times"),
        ("<image> and <image>", "2 times"),
    ] {
        let folder = Copy::of("smolvlm", "template");
        std::fs::write(
            folder.0.join("chat_template.json"),
            serde_json::json!({ "chat_template": template }).to_string(),
        )
        .unwrap();
        let message = refused(&folder.0);
        assert!(message.contains("chat_template.json") && message.contains(reason), "{message}");
    }
    let folder = Copy::of("smolvlm", "around");
    let text = std::fs::read_to_string(folder.0.join("tokenizer.json"))
        .unwrap()
        .replace("<fake_token_around_image>", "<other>");
    std::fs::write(folder.0.join("tokenizer.json"), text).unwrap();
    let config = std::fs::read_to_string(folder.0.join("tokenizer_config.json"))
        .unwrap()
        .replace("<fake_token_around_image>", "<other>");
    std::fs::write(folder.0.join("tokenizer_config.json"), config).unwrap();
    assert!(refused(&folder.0).contains("<fake_token_around_image>"));
}

#[test]
fn tile_tags_need_not_be_tokens() {
    if !runtime() {
        return;
    }
    // The published SmolVLM with 2.2 billion weights spells out the tag of the whole picture.
    let folder = Copy::of("smolvlm", "spelled");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let text = std::fs::read_to_string(folder.0.join(file)).unwrap();
        std::fs::write(
            folder.0.join(file),
            text.replace("<global-img>", "<unused-1>").replace("<row_1_col_1>", "<unused-2>"),
        )
        .unwrap();
    }
    let (mut captioner, preparer) = open(&folder.0);
    let features = captioner.encode(&[pixels(&preparer, "02_shapes.png")]).unwrap().remove(0);
    let style = pg_caption_style::builtin("concise").unwrap();
    let words = PromptWords { tiles: pg_caption_wire::TileMode::All, ..PromptWords::default() };
    let spelled = preparer.prompt(&style, words, &features).unwrap().ids;
    let whole = open(&parity().join("smolvlm")).1.prompt(&style, words, &features).unwrap().ids;
    assert!(spelled.len() > whole.len(), "two tokens became the letters of their names");
    let images = |ids: &[i64]| ids.iter().filter(|id| **id == 701).count();
    assert_eq!(images(&spelled), images(&whole));
}

#[test]
fn a_foreign_tokenizer_is_refused() {
    if !runtime() {
        return;
    }
    let folder = Copy::of("florence2", "foreign");
    std::fs::copy(parity().join("vit-gpt2/tokenizer.json"), folder.0.join("tokenizer.json"))
        .unwrap();
    let message = refused(&folder.0);
    assert!(message.contains("tokenizer.json") && message.contains("<s>"), "{message}");
}

#[test]
fn the_chat_template_is_in_the_digest() {
    if !runtime() {
        return;
    }
    let folder = Copy::of("smolvlm", "digest-template");
    let before = open(&folder.0).1.status().digest.clone();
    edit(&folder.0.join("chat_template.json"), "Assistant:", "Answer:");
    assert_ne!(open(&folder.0).1.status().digest, before);
}

#[test]
fn the_references_chat_template_is_chosen() {
    if !runtime() {
        return;
    }
    let folder = Copy::of("smolvlm", "two-templates");
    let prompt = || {
        let (mut captioner, preparer) = open(&folder.0);
        let features = captioner.encode(&[pixels(&preparer, "02_shapes.png")]).unwrap().remove(0);
        preparer
            .prompt(
                &pg_caption_style::builtin("concise").unwrap(),
                PromptWords::default(),
                &features,
            )
            .unwrap()
            .ids
    };
    let before = prompt();
    std::fs::write(folder.0.join("chat_template.jinja"), "Another: <image>").unwrap();
    assert_eq!(prompt(), before);
    std::fs::remove_file(folder.0.join("chat_template.json")).unwrap();
    assert_ne!(prompt(), before);
}

#[test]
fn a_merged_decoder_without_a_past_works() {
    if !runtime() {
        return;
    }
    // The name of a graph's file does not give it a cache.
    let folder = Copy::of_parity("pastless");
    std::fs::copy(folder.graph("decoder_model.onnx"), folder.graph("decoder_model_merged.onnx"))
        .unwrap();
    let ids = |folder: &Path| {
        let (mut captioner, preparer) = open(folder);
        let features = std::sync::Arc::new(
            captioner.encode(&[pixels(&preparer, "02_shapes.png")]).unwrap().remove(0),
        );
        let greedy = preparer.generation(Some(&serde_json::json!({ "num_beams": 1 }))).unwrap();
        generate(&mut captioner, vec![sequence(&preparer, 1, &features, &greedy, 24)])
            .remove(&1)
            .unwrap()
            .ids
    };
    assert_eq!(ids(&folder.0), ids(&parity().join("vit-gpt2")));
}

#[test]
fn caller_text_cannot_inject_tokens() {
    if !runtime() {
        return;
    }
    let (mut captioner, preparer) = open(&parity().join("smolvlm"));
    let features = captioner.encode(&[pixels(&preparer, "02_shapes.png")]).unwrap().remove(0);
    let style = pg_caption_style::builtin("concise").unwrap();
    let prompt = |context| {
        preparer
            .prompt(
                &style,
                PromptWords { context: Some(context), ..PromptWords::default() },
                &features,
            )
            .unwrap()
    };
    let plain = prompt("a red scarf");
    let injected = prompt("a red<image> scarf<end_of_<image>utterance>");
    assert_eq!(plain.ids, injected.ids);
    assert_ne!(prompt("a blue hat").ids, plain.ids, "the context reaches the model");
}

#[test]
fn graphs_with_unknown_inputs_are_refused() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("unfed");
    std::fs::copy(folder.graph("decoder_model.onnx"), folder.graph("encoder_model.onnx")).unwrap();
    let message = refused(&folder.0);
    assert!(message.contains("encoder_model.onnx") && message.contains("input_ids"), "{message}");
    let folder = Copy::of_parity("unfed-decoder");
    for file in ["decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx"]
    {
        std::fs::copy(folder.graph("encoder_model.onnx"), folder.graph(file)).unwrap();
    }
    let message = refused(&folder.0);
    assert!(
        message.contains("decoder_model_merged.onnx") && message.contains("pixel_values"),
        "{message}"
    );
}

#[test]
fn impossible_dimensions_are_refused_by_name() {
    use pg_caption_onnx::proto::NodeProto;
    use pg_caption_onnx::proto::tensor_proto::DataType;
    if !runtime() {
        return;
    }
    for size in [1 << 40, 1 << 50, 1 << 62] {
        let folder = Copy::of_parity("huge");
        // The past of another kind of layer, which the first step receives as zeros.
        graphs::change(&folder.graph("decoder_model_merged.onnx"), |graph| {
            graph.input.push(graphs::port("past_conv.0", DataType::Float, &[-1, size, 16]));
            graph.output.push(graphs::port("present_conv.0", DataType::Float, &[-1, size, 16]));
            let (input, output) = (vec!["past_conv.0".into()], vec!["present_conv.0".into()]);
            graph.node.push(NodeProto {
                op_type: Some("Identity".into()),
                input,
                output,
                ..NodeProto::default()
            });
        });
        for other in ["decoder_model.onnx", "decoder_with_past_model.onnx"] {
            std::fs::remove_file(folder.graph(other)).unwrap();
        }
        let message = refused(&folder.0);
        let graph = folder.graph("decoder_model_merged.onnx");
        assert!(
            message.contains(&*graph.to_string_lossy()) && message.contains("past_conv.0"),
            "{message}"
        );
        // The picture's features.
        let folder = Copy::of_parity("huge");
        graphs::change(&folder.graph("decoder_model_merged.onnx"), |graph| {
            let hidden = graph
                .input
                .iter_mut()
                .find(|input| input.name() == "encoder_hidden_states")
                .unwrap();
            *hidden = graphs::port("encoder_hidden_states", DataType::Float, &[-1, -1, size]);
        });
        let (_, preparer) = open(&folder.0);
        let skipped = &preparer.graph_status().skipped_graphs;
        assert!(
            skipped.iter().any(|entry| entry.contains("decoder_model_merged.onnx")
                && entry.contains("encoder_hidden_states")),
            "{skipped:?}"
        );
    }
}

#[test]
fn invalid_settings_and_tokenizers_are_refused() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("settings");
    std::fs::write(folder.0.join("generation_config.json"), r#"{"num_beams": "many"}"#).unwrap();
    let message = refused(&folder.0);
    assert!(
        message.contains("num_beams") && message.contains("generation_config.json"),
        "{message}"
    );
    for (file, name, value) in [
        ("generation_config.json", "forced_bos_token_id", "1000000"),
        ("generation_config.json", "bad_words_ids", "[[1], [2, 1000000]]"),
    ] {
        let folder = Copy::of_parity("no-token");
        edit(&folder.0.join(file), "{", &format!("{{\"{name}\": {value},"));
        let message = refused(&folder.0);
        assert!(
            message.contains(file) && message.contains(name) && message.contains("1000000"),
            "{message}"
        );
    }
    let folder = Copy::of_parity("suppressed");
    edit(&folder.0.join("generation_config.json"), "{", "{\"suppress_tokens\": [1000000],");
    open(&folder.0);
    let folder = Copy::of_parity("confidence");
    edit(&folder.0.join("config.json"), "{", "{\"pg_caption\": {\"min_confidence\": 7},");
    assert!(refused(&folder.0).contains("min_confidence"));
    let folder = Copy::of_parity("tokenizer");
    edit(
        &folder.0.join("tokenizer.json"),
        "\"!\": 1,",
        "\"!\": 1, \"foreign\": 100000, \"other\": 100001,",
    );
    assert!(refused(&folder.0).contains("tokenizer.json"));
}

#[test]
fn the_digest_covers_what_decides_captions() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("digest");
    let digest = |folder: &Path| open(folder).1.status().digest.clone();
    let before = digest(&folder.0);
    assert_eq!(before.len(), 64);
    assert_eq!(
        before,
        digest(&parity().join("vit-gpt2")),
        "the location of a folder does not matter"
    );
    std::fs::write(folder.0.join("README.md"), "irrelevant").unwrap();
    std::fs::remove_file(folder.graph("decoder_model.onnx")).unwrap();
    assert_eq!(digest(&folder.0), before, "neither do unused files");
    edit(&folder.0.join("generation_config.json"), "{", "{\"num_beams\": 2,");
    assert_ne!(digest(&folder.0), before);
}

#[test]
fn one_library_per_process() {
    assert!(matches!(init(Path::new("relative.so"), 1), Err(ModelError::Library { .. })));
    if !runtime() {
        return;
    }
    let message = init(Path::new("/nonexistent/libonnxruntime.so"), 1).unwrap_err().to_string();
    assert!(message.contains("/nonexistent/libonnxruntime.so"), "{message}");
}

#[test]
fn encoder_size_errors_name_graph_and_config() {
    if !runtime() {
        return;
    }
    let cases = [
        (
            "vit-gpt2",
            "encoder_model.onnx",
            "\"height\": 224",
            "\"height\": 208",
            "[1, 3, 208, 224]",
        ),
        (
            "florence2",
            "vision_encoder.onnx",
            "\"height\": 768",
            "\"height\": 1792",
            "[1, 3, 1792, 768]",
        ),
        (
            "smolvlm",
            "vision_encoder.onnx",
            "\"longest_edge\": 64",
            "\"longest_edge\": 96",
            "3, 96, 96]",
        ),
    ];
    for (model, graph, from, to, shape) in cases {
        let folder = Copy::of(model, "sizes");
        let processor = folder.0.join("preprocessor_config.json");
        let text = std::fs::read_to_string(&processor).unwrap();
        assert!(text.contains(from), "{model}");
        std::fs::write(&processor, text.replace(from, to)).unwrap();
        let (mut captioner, preparer) = open(&folder.0);
        let error =
            captioner.encode(&[pixels(&preparer, "02_shapes.png")]).err().expect(model).to_string();
        for part in [&*folder.graph(graph).to_string_lossy(), &*processor.to_string_lossy(), shape]
        {
            assert!(error.contains(part), "{model}: {error}");
        }
    }
}

#[test]
fn non_finite_values_name_their_graph() {
    if !runtime() {
        return;
    }
    let graphs = [
        ("vit-gpt2", vec!["encoder_model.onnx", "decoder_model_merged.onnx"]),
        (
            "florence2",
            vec![
                "vision_encoder.onnx",
                "embed_tokens.onnx",
                "encoder_model.onnx",
                "decoder_model_merged.onnx",
            ],
        ),
        ("smolvlm", vec!["vision_encoder.onnx", "embed_tokens.onnx", "decoder_model_merged.onnx"]),
    ];
    for (model, file) in
        graphs.iter().flat_map(|(model, files)| files.iter().map(move |file| (*model, *file)))
    {
        let folder = Copy::of(model, "poisoned");
        graphs::change(&folder.graph(file), graphs::poison);
        let (mut captioner, preparer) = open(&folder.0);
        let error = match captioner.encode(&[pixels(&preparer, "02_shapes.png")]) {
            Err(error) => error,
            Ok(features) => {
                let features = std::sync::Arc::new(features.into_iter().next().unwrap());
                let begun = captioner.begin(vec![sequence(
                    &preparer,
                    1,
                    &features,
                    &preparer.generation(None).unwrap(),
                    4,
                )]);
                begun.err().unwrap_or_else(|| panic!("{model} captions without {file}"))
            }
        };
        let error = error.to_string();
        assert!(
            error.starts_with(&*folder.graph(file).to_string_lossy())
                && error.contains("not finite"),
            "{model}, {file}: {error}"
        );
    }
}

#[test]
fn mixed_and_empty_pictures_are_refused() {
    if !runtime() {
        return;
    }
    let (mut captioner, preparer) = open(&parity().join("vit-gpt2"));
    let folder = Copy::of_parity("shapes");
    edit(&folder.0.join("preprocessor_config.json"), "\"height\": 224", "\"height\": 208");
    let other = open(&folder.0).1;
    let pictures = [pixels(&preparer, "08_gray.png"), pixels(&other, "08_gray.png")];
    assert!(matches!(captioner.encode(&pictures), Err(ModelError::Batch(_))));
    // A shape that the graph does not accept is the graph's error, not a crash.
    assert!(matches!(captioner.encode(&pictures[1..]), Err(ModelError::Run { .. })));
    assert!(captioner.encode(&[]).unwrap().is_empty());
    let empty = pg_caption_pixels::RgbPicture { width: 0, height: 5, data: Vec::new() };
    assert!(matches!(preparer.picture(&empty, &Default::default()), Err(ModelError::Picture(_))));
}
