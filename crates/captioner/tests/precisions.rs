//! Graphs with float16 inputs and outputs, and graphs with external weights, from the folder to the
//! caption.

mod support;

use pg_caption_captioner::{LoadOptions, PictureFeatures, load};
use pg_caption_onnx::proto::tensor_proto::DataType;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use support::*;

const MODELS: [&str; 3] = ["vit-gpt2", "florence2", "smolvlm"];

/// Pictures of different ratios, so that their tiles differ.
const IMAGES: [&str; 4] = ["01_gradient.png", "02_shapes.png", "08_gray.png", "13_large.png"];

/// Token limits of the captions of a picture.
const LENGTHS: [u32; 2] = [8, 24];

/// Token ids of some pictures with these settings, each picture's captions in one batch.
fn ids(folder: &Path, overrides: &Value) -> Vec<Vec<i64>> {
    let (mut captioner, preparer) = open(folder);
    let generation = preparer.generation(Some(overrides)).unwrap();
    let mut all = Vec::new();
    for image in IMAGES {
        let features: Arc<PictureFeatures> =
            Arc::new(captioner.encode(&[pixels(&preparer, image)]).unwrap().remove(0));
        let sequences = LENGTHS
            .map(|max| sequence(&preparer, u64::from(max), &features, &generation, max))
            .into();
        all.extend(generate(&mut captioner, sequences).into_values().map(|finished| finished.ids));
    }
    all
}

/// The same, each caption alone.
fn ids_alone(folder: &Path, overrides: &Value) -> Vec<Vec<i64>> {
    let (mut captioner, preparer) = open(folder);
    let generation = preparer.generation(Some(overrides)).unwrap();
    let mut all = Vec::new();
    for (image, max) in IMAGES.iter().flat_map(|image| LENGTHS.map(|max| (*image, max))) {
        let features: Arc<PictureFeatures> =
            Arc::new(captioner.encode(&[pixels(&preparer, image)]).unwrap().remove(0));
        let sequences = vec![sequence(&preparer, 0, &features, &generation, max)];
        all.extend(generate(&mut captioner, sequences).into_values().map(|finished| finished.ids));
    }
    all
}

fn greedy() -> Value {
    json!({ "num_beams": 1 })
}

fn graph_files(folder: &Copy) -> Vec<String> {
    let entries = std::fs::read_dir(folder.graph("")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn float16_graphs_caption_like_float32() {
    if !runtime() {
        return;
    }
    for model in MODELS {
        let folder = Copy::of(model, "half");
        for file in graph_files(&folder) {
            graphs::change(&folder.graph(&file), |graph| {
                assert!(graphs::halve(graph) > 0, "{file}")
            });
            std::fs::rename(
                folder.graph(&file),
                folder.graph(&file.replace(".onnx", "_fp16.onnx")),
            )
            .unwrap();
        }
        let status = open(&folder.0).1.graph_status().clone();
        assert!(
            status.graphs.iter().all(|graph| graph.dtype == "fp16")
                && status.skipped_graphs.is_empty(),
            "{status:?}"
        );
        let full = ids(&parity().join(model), &greedy());
        assert!(
            full.iter().any(|ids| ids.len() > 8) && full.iter().any(|ids| *ids != full[0]),
            "{full:?}"
        );
        assert_eq!(ids(&folder.0, &greedy()), full, "{model}");
        // Rounding may change the order of beams, but never depending on neighbours in the batch.
        let beams = json!({ "num_beams": 3 });
        assert_eq!(ids(&folder.0, &beams), ids_alone(&folder.0, &beams), "{model}");
        // A folder with one graph in half precision only is loaded in mixed precision by `auto`.
        for halved in &status.graphs {
            let mixed = Copy::of(model, "mixed");
            let whole = halved.file.replace("_fp16", "");
            std::fs::remove_file(mixed.graph(&whole)).unwrap();
            std::fs::copy(folder.graph(&halved.file), mixed.graph(&halved.file)).unwrap();
            if whole == "decoder_model_merged.onnx" {
                // Otherwise another layout would be loaded.
                graph_files(&mixed)
                    .iter()
                    .filter(|f| f.starts_with("decoder") && !f.contains("fp16"))
                    .for_each(|f| std::fs::remove_file(mixed.graph(f)).unwrap());
            }
            assert_eq!(ids(&mixed.0, &greedy()), full, "{model} with {}", halved.file);
        }
    }
}

#[test]
fn unsupported_tensor_types_are_refused_or_skipped() {
    if !runtime() {
        return;
    }
    for (model, file) in [
        ("vit-gpt2", "encoder_model.onnx"),
        ("florence2", "encoder_model.onnx"),
        ("smolvlm", "decoder_model_merged.onnx"),
    ] {
        let folder = Copy::of(model, "bfloat16");
        graphs::change(&folder.graph(file), |graph| {
            assert!(graphs::retype(graph, DataType::Bfloat16) > 0)
        });
        let error =
            load(&folder.0, &LoadOptions::default()).err().expect("it does not load").to_string();
        assert!(
            error.contains(&*folder.graph(file).to_string_lossy()) && error.contains("bf16"),
            "{model}: {error}"
        );
        std::fs::copy(
            parity().join(model).join("onnx").join(file),
            folder.graph(&file.replace(".onnx", "_fp16.onnx")),
        )
        .unwrap();
        let skipped_graphs = open(&folder.0).1.graph_status().skipped_graphs.clone();
        assert!(
            skipped_graphs.len() == 1 && skipped_graphs[0].contains("bf16"),
            "{skipped_graphs:?}"
        );
    }
}

/// A copy whose graphs have external weights.
fn moved_out(model: &str, test: &str) -> Copy {
    let folder = Copy::of(model, test);
    for file in graph_files(&folder) {
        let data = format!("{file}_data");
        let mut weights = Vec::new();
        graphs::change(&folder.graph(&file), |graph| weights = graphs::move_out(graph, &data));
        std::fs::write(folder.graph(&data), weights).unwrap();
    }
    folder
}

#[test]
fn weights_of_any_name_are_in_the_digest() {
    if !runtime() {
        return;
    }
    let folder = Copy::of("vit-gpt2", "any-name");
    let mut weights = Vec::new();
    graphs::change(&folder.graph("encoder_model.onnx"), |graph| {
        weights = graphs::move_out(graph, "weights.bin")
    });
    std::fs::write(folder.graph("weights.bin"), &weights).unwrap();
    let before = open(&folder.0).1.status().clone();
    assert!(before.bytes > weights.len() as u64);
    // A bit that changes the model slightly.
    weights[0] ^= 1;
    std::fs::write(folder.graph("weights.bin"), &weights).unwrap();
    let after = open(&folder.0).1.status().clone();
    assert_ne!(after.digest, before.digest);
    assert_eq!(after.bytes, before.bytes);
    // A file that no graph names is not part of the model.
    std::fs::write(folder.graph("encoder_model.onnx_data"), "old").unwrap();
    assert_eq!(open(&folder.0).1.status().digest, after.digest);
    std::fs::remove_file(folder.graph("weights.bin")).unwrap();
    let message =
        pg_caption_captioner::load(&folder.0, &Default::default()).err().unwrap().to_string();
    assert!(message.contains("encoder_model.onnx") && message.contains("weights.bin"), "{message}");
}

#[test]
fn external_weights_are_found_and_digested() {
    if !runtime() {
        return;
    }
    for model in MODELS {
        let folder = moved_out(model, "external");
        let beams = json!({ "num_beams": 3 });
        assert_eq!(ids(&folder.0, &beams), ids(&parity().join(model), &beams), "{model}");
        let before = open(&folder.0).1.status().clone();
        assert_eq!(before.skipped_graphs(), [""; 0]);
        let weights =
            folder.graph(&format!("{}_data", before.local.as_ref().unwrap().graphs[0].file));
        let mut bytes = std::fs::read(&weights).unwrap();
        assert!(before.bytes > bytes.len() as u64);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&weights, bytes).unwrap();
        assert_ne!(open(&folder.0).1.status().digest, before.digest, "{model}");
    }
}

#[test]
fn damaged_weights_are_refused_by_name() {
    if !runtime() {
        return;
    }
    for (model, encoder) in [
        ("vit-gpt2", "encoder_model.onnx"),
        ("florence2", "vision_encoder.onnx"),
        ("smolvlm", "vision_encoder.onnx"),
    ] {
        let refused = |damage: &dyn Fn(&Copy)| {
            let folder = moved_out(model, "damaged");
            damage(&folder);
            let error = load(&folder.0, &LoadOptions::default())
                .err()
                .expect("it does not load")
                .to_string();
            assert!(error.contains(&*folder.graph(encoder).to_string_lossy()), "{model}: {error}");
            error
        };
        let data = format!("{encoder}_data");
        for damage in [
            &|folder: &Copy| std::fs::remove_file(folder.graph(&data)).unwrap(),
            &|folder: &Copy| truncate(&folder.graph(&data)),
        ] as [&dyn Fn(&Copy); 2]
        {
            let error = refused(damage);
            assert!(error.contains(&data), "{model}: {error}");
        }
        // A location outside the folder is refused, even if the file exists.
        for outside in ["../secret_data", "/etc/passwd"] {
            refused(&|folder: &Copy| {
                std::fs::copy(
                    parity().join(model).join("onnx").join(encoder),
                    folder.graph(encoder),
                )
                .unwrap();
                graphs::change(&folder.graph(encoder), |graph| {
                    std::fs::write(folder.0.join("secret_data"), graphs::move_out(graph, outside))
                        .unwrap()
                });
            });
        }
    }
}
