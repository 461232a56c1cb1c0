//! A decoder is published in several layouts; whichever of them is installed, the text is the same.

mod support;

use pg_caption_captioner::{Captioner, InputPreparer, LoadOptions, PictureFeatures, load};
use std::path::Path;
use std::sync::Arc;
use support::*;

const IMAGES: [&str; 4] = ["01_gradient.png", "02_shapes.png", "08_gray.png", "13_large.png"];

/// Ids of some pictures, greedy and with beams, in one batch each.
fn ids(captioner: &mut Captioner, preparer: &InputPreparer) -> Vec<Vec<i64>> {
    let pictures: Vec<_> = IMAGES.iter().map(|image| pixels(preparer, image)).collect();
    let features: Vec<Arc<PictureFeatures>> =
        captioner.encode(&pictures).unwrap().into_iter().map(Arc::new).collect();
    let mut all = Vec::new();
    for overrides in [r#"{}"#, r#"{"num_beams": 3, "no_repeat_ngram_size": 3}"#] {
        let generation =
            preparer.generation(Some(&serde_json::from_str(overrides).unwrap())).unwrap();
        let sequences = features.iter().enumerate();
        let sequences = sequences
            .map(|(key, f)| sequence(preparer, key as u64, f, &generation, 10 + 5 * key as u32))
            .collect();
        all.extend(generate(captioner, sequences).into_values().map(|finished| finished.ids));
    }
    all
}

fn loaded(folder: &Path) -> Vec<String> {
    open(folder).1.status().graphs.iter().map(|g| g.file.clone()).collect()
}

const MERGED: &str = "decoder_model_merged.onnx";
const FIRST: &str = "decoder_model.onnx";
const NEXT: &str = "decoder_with_past_model.onnx";

/// What the folder says as it is.
fn ids_of_the_whole() -> Vec<Vec<i64>> {
    let (mut captioner, preparer) = open(&parity().join("vit-gpt2"));
    ids(&mut captioner, &preparer)
}

#[test]
fn every_layout_of_vit_gpt2_says_the_same() {
    // The step graph reads a past of any length, none included: what a merged graph without
    // use_cache_branch does.
    every_layout(
        "vit-gpt2",
        &["encoder_model.onnx"],
        &[("one-graph", &[MERGED, FIRST], &[(NEXT, MERGED)], &[MERGED])],
    );
}

#[test]
fn every_layout_of_florence_2_says_the_same() {
    every_layout(
        "florence2",
        &["vision_encoder.onnx", "embed_tokens.onnx", "encoder_model.onnx"],
        &[],
    );
}

/// What is left out, what is renamed, which decoder graphs must have been loaded.
type Layout<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

fn every_layout(model: &str, others: &[&str], more: &[Layout]) {
    if !runtime() {
        return;
    }
    let (mut captioner, preparer) = open(&parity().join(model));
    let expected = ids(&mut captioner, &preparer);
    // Florence-2 keeps the keys and values of the picture in its cache; ViT-GPT2's graphs have no
    // place for them there.
    let hoists = model == "vit-gpt2";
    assert_eq!(preparer.status().hoisted, hoists);
    assert!(
        expected.iter().any(|ids| ids.len() > 5) && expected.iter().any(|ids| *ids != expected[0]),
        "{expected:?}"
    );

    let layouts: [Layout; 3] = [
        ("merged", &[FIRST, NEXT], &[], &[MERGED]),
        ("pair", &[MERGED], &[], &[FIRST, NEXT]),
        ("alone", &[MERGED, NEXT], &[], &[FIRST]),
    ];
    for (name, without, renamed, decoders) in layouts.iter().chain(more) {
        let folder = Copy::of(model, &format!("{model}-{name}"));
        for file in *without {
            std::fs::remove_file(folder.graph(file)).unwrap();
        }
        for (from, to) in *renamed {
            std::fs::rename(folder.graph(from), folder.graph(to)).unwrap();
        }
        assert_eq!(loaded(&folder.0), [others, decoders].concat(), "{model} {name}");
        let (mut captioner, preparer) = open(&folder.0);
        assert_eq!(preparer.status().hoisted, hoists && *name != "alone", "{model} {name}");
        assert_eq!(ids(&mut captioner, &preparer), expected, "{model} {name}");
    }
}

fn passed_over(folder: &Path) -> Vec<String> {
    open(folder).1.status().passed_over.clone()
}

/// Each file was named with a reason that holds this word, and no other file was.
fn says(passed_over: &[String], expected: &[(&str, &str)]) {
    assert_eq!(passed_over.len(), expected.len(), "{passed_over:?}");
    for (said, (file, reason)) in passed_over.iter().zip(expected) {
        assert!(
            said.split_once(": ")
                .is_some_and(|(path, why)| path.ends_with(file) && why.contains(reason)),
            "{said}"
        );
    }
}

#[test]
fn a_layout_that_does_not_load_is_passed_over_with_a_word() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("passed-over");
    assert_eq!(passed_over(&folder.0), [""; 0]);
    truncate(&folder.graph(MERGED));
    assert_eq!(loaded(&folder.0), ["encoder_model.onnx", FIRST, NEXT]);
    says(&passed_over(&folder.0), &[(MERGED, "failed")]);
    truncate(&folder.graph(NEXT));
    assert_eq!(loaded(&folder.0), ["encoder_model.onnx", FIRST]);
    says(&passed_over(&folder.0), &[(MERGED, "failed"), (NEXT, "failed")]);
    // What loads and is of no use is no better; what is not there is no damage.
    std::fs::copy(folder.graph("encoder_model.onnx"), folder.graph(MERGED)).unwrap();
    std::fs::remove_file(folder.graph(NEXT)).unwrap();
    says(&passed_over(&folder.0), &[(MERGED, "pixel_values")]);
    truncate(&folder.graph(FIRST));
    let error = load(&folder.0, &LoadOptions::default()).err().unwrap().to_string();
    for file in [MERGED, FIRST] {
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn halves_of_two_types_are_no_pair() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("mixed-pair");
    std::fs::remove_file(folder.graph(MERGED)).unwrap();
    let half = "decoder_with_past_model_fp16.onnx";
    std::fs::rename(folder.graph(NEXT), folder.graph(half)).unwrap();
    graphs::change(&folder.graph(half), |graph| assert!(graphs::halve(graph) > 0));
    assert_eq!(loaded(&folder.0), ["encoder_model.onnx", FIRST]);
    says(&passed_over(&folder.0), &[(half, "of type f16")]);
    let (mut captioner, preparer) = open(&folder.0);
    assert_eq!(ids(&mut captioner, &preparer), ids_of_the_whole());
}

#[test]
fn a_graph_that_states_how_many_positions_a_picture_has_is_cut_as_well() {
    use pg_caption_onnx::proto::tensor_proto::DataType;
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("static");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.0.join("config.json")).unwrap()).unwrap();
    let encoder = |key: &str| config["encoder"][key].as_i64().unwrap();
    let (positions, width) =
        ((encoder("image_size") / encoder("patch_size")).pow(2) + 1, encoder("hidden_size"));
    for file in [MERGED, NEXT] {
        graphs::change(&folder.graph(file), |graph| {
            let hidden = graph
                .input
                .iter_mut()
                .find(|input| input.name() == "encoder_hidden_states")
                .unwrap();
            *hidden =
                graphs::port("encoder_hidden_states", DataType::Float, &[-1, positions, width]);
        });
    }
    for without in [None, Some(MERGED)] {
        without.into_iter().for_each(|file| std::fs::remove_file(folder.graph(file)).unwrap());
        let (mut captioner, preparer) = open(&folder.0);
        assert!(preparer.status().hoisted, "without {without:?}");
        assert_eq!(ids(&mut captioner, &preparer), ids_of_the_whole());
    }
}

#[test]
fn a_precision_that_does_not_load_is_passed_over_with_a_word_and_a_stated_one_is_not() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("precision");
    std::fs::rename(folder.graph("encoder_model.onnx"), folder.graph("encoder_model_q4.onnx"))
        .unwrap();
    std::fs::write(folder.graph("encoder_model_quantized.onnx"), "not a graph").unwrap();
    let status = open(&folder.0).1.status().clone();
    assert_eq!(status.graphs[0].dtype, "q4");
    assert_eq!(status.graphs[1].dtype, "fp32");
    says(&status.passed_over, &[("encoder_model_quantized.onnx", "failed")]);
    let error =
        load(&folder.0, &LoadOptions { dtype: "_quantized".into() }).err().unwrap().to_string();
    assert!(error.contains("encoder_model_quantized.onnx"), "{error}");
}
