//! Layouts of a published decoder: the text does not depend on the installed one.

mod support;

use pg_caption_captioner::{Captioner, InputPreparer, LoadOptions, PictureFeatures, load};
use std::path::Path;
use std::sync::Arc;
use support::*;

const IMAGES: [&str; 4] = ["01_gradient.png", "02_shapes.png", "08_gray.png", "13_large.png"];

/// Token ids of some pictures, greedy and with beams, in one batch each.
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
    open(folder).1.graph_status().graphs.iter().map(|g| g.file.clone()).collect()
}

const MERGED: &str = "decoder_model_merged.onnx";
const FIRST: &str = "decoder_model.onnx";
const NEXT: &str = "decoder_with_past_model.onnx";

/// Token ids of the unchanged folder.
fn ids_of_the_complete_folder() -> Vec<Vec<i64>> {
    let (mut captioner, preparer) = open(&parity().join("vit-gpt2"));
    ids(&mut captioner, &preparer)
}

#[test]
fn layouts_of_vit_gpt2_agree() {
    // The step graph reads a past of any length, zero included, like a merged graph without
    // use_cache_branch.
    every_layout(
        "vit-gpt2",
        &["encoder_model.onnx"],
        &[("one-graph", &[MERGED, FIRST], &[(NEXT, MERGED)], &[MERGED])],
    );
}

#[test]
fn layouts_of_florence_2_agree() {
    every_layout(
        "florence2",
        &["vision_encoder.onnx", "embed_tokens.onnx", "encoder_model.onnx"],
        &[],
    );
}

/// Name, removed files, renamed files, and the decoder graphs that must have been loaded.
type Layout<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

fn every_layout(model: &str, others: &[&str], more: &[Layout]) {
    if !runtime() {
        return;
    }
    let (mut captioner, preparer) = open(&parity().join(model));
    let expected = ids(&mut captioner, &preparer);
    // Florence-2 caches the keys and values of the picture; ViT-GPT2's graphs have no entries for
    // them.
    let hoists = model == "vit-gpt2";
    assert_eq!(preparer.graph_status().hoisted, hoists);
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
        assert_eq!(preparer.graph_status().hoisted, hoists && *name != "alone", "{model} {name}");
        assert_eq!(ids(&mut captioner, &preparer), expected, "{model} {name}");
    }
}

fn skipped(folder: &Path) -> Vec<String> {
    open(folder).1.graph_status().skipped_graphs.clone()
}

/// Each of these files, and no other, was skipped with a reason that contains the text.
fn assert_skipped(skipped: &[String], expected: &[(&str, &str)]) {
    assert_eq!(skipped.len(), expected.len(), "{skipped:?}");
    for (entry, (file, reason)) in skipped.iter().zip(expected) {
        assert!(
            entry
                .split_once(": ")
                .is_some_and(|(path, why)| path.ends_with(file) && why.contains(reason)),
            "{entry}"
        );
    }
}

#[test]
fn unloadable_layouts_are_skipped_with_reason() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("skipped");
    assert_eq!(skipped(&folder.0), [""; 0]);
    truncate(&folder.graph(MERGED));
    assert_eq!(loaded(&folder.0), ["encoder_model.onnx", FIRST, NEXT]);
    assert_skipped(&skipped(&folder.0), &[(MERGED, "failed")]);
    truncate(&folder.graph(NEXT));
    assert_eq!(loaded(&folder.0), ["encoder_model.onnx", FIRST]);
    assert_skipped(&skipped(&folder.0), &[(MERGED, "failed"), (NEXT, "failed")]);
    // A graph that loads but is unusable is skipped too; a missing file is not reported.
    std::fs::copy(folder.graph("encoder_model.onnx"), folder.graph(MERGED)).unwrap();
    std::fs::remove_file(folder.graph(NEXT)).unwrap();
    assert_skipped(&skipped(&folder.0), &[(MERGED, "pixel_values")]);
    truncate(&folder.graph(FIRST));
    let error = load(&folder.0, &LoadOptions::default()).err().unwrap().to_string();
    for file in [MERGED, FIRST] {
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn halves_of_two_types_are_not_paired() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("mixed-pair");
    std::fs::remove_file(folder.graph(MERGED)).unwrap();
    let half = "decoder_with_past_model_fp16.onnx";
    std::fs::rename(folder.graph(NEXT), folder.graph(half)).unwrap();
    graphs::change(&folder.graph(half), |graph| assert!(graphs::halve(graph) > 0));
    assert_eq!(loaded(&folder.0), ["encoder_model.onnx", FIRST]);
    assert_skipped(&skipped(&folder.0), &[(half, "of type f16")]);
    let (mut captioner, preparer) = open(&folder.0);
    assert_eq!(ids(&mut captioner, &preparer), ids_of_the_complete_folder());
}

#[test]
fn graphs_with_stated_positions_are_split() {
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
        assert!(preparer.graph_status().hoisted, "without {without:?}");
        assert_eq!(ids(&mut captioner, &preparer), ids_of_the_complete_folder());
    }
}

#[test]
fn only_auto_skips_unloadable_precisions() {
    if !runtime() {
        return;
    }
    let folder = Copy::of_parity("precision");
    std::fs::rename(folder.graph("encoder_model.onnx"), folder.graph("encoder_model_q4.onnx"))
        .unwrap();
    std::fs::write(folder.graph("encoder_model_quantized.onnx"), "not a graph").unwrap();
    let status = open(&folder.0).1.graph_status().clone();
    assert_eq!(status.graphs[0].dtype, "q4");
    assert_eq!(status.graphs[1].dtype, "fp32");
    assert_skipped(&status.skipped_graphs, &[("encoder_model_quantized.onnx", "failed")]);
    let error =
        load(&folder.0, &LoadOptions { dtype: "_quantized".into() }).err().unwrap().to_string();
    assert!(error.contains("encoder_model_quantized.onnx"), "{error}");
}
