//! Names and shapes; and, where the shared models are available, the agreement of all layouts of a
//! decoder with cross-attention entries.

use super::ports::kind;
use super::*;
use crate::cache::RowTensor;
use crate::folder::ModelFolder;
use crate::tensor::tensor;
use crate::{LoadOptions, testing};
use std::path::PathBuf;

#[test]
fn outputs_are_named_after_inputs() {
    assert_eq!(present("past_key_values.0.encoder.key"), "present.0.encoder.key");
    assert_eq!(present("past_conv.3"), "present_conv.3");
}

#[test]
fn entry_kinds_follow_names_and_shapes() {
    assert_eq!(kind("past_key_values.0.key", &[-1, 12, -1, 64]), EntryKind::Growing);
    assert_eq!(kind("past_conv.0", &[-1, 1024, 3]), EntryKind::Fixed);
    assert_eq!(kind("past_key_values.0.encoder.key", &[-1, 12, -1, 64]), EntryKind::Constant);
}

#[test]
fn an_empty_past_keeps_stated_dimensions() {
    assert_eq!(empty(&[-1, 12, -1, 64], 3), [3, 12, 0, 64]);
}

const HIDDEN: &str = "encoder_hidden_states";
const MASK: &str = "encoder_attention_mask";

/// The shared Florence-2 decoder; `None` and a message if it or the runtime is missing.
fn florence() -> Option<PathBuf> {
    let shared = std::env::var_os("PG_CAPTION_SHARED")
        .map_or_else(|| testing::workspace().join("../shared"), PathBuf::from);
    let folder = shared.join("parity/florence2");
    if !folder.exists() {
        println!("skipped: no {}", folder.display());
        return None;
    }
    testing::runtime().then_some(folder)
}

/// Repeatable random numbers from -1 to 1.
fn noise(seed: u64, shape: &[i64]) -> DynValue {
    let mut random = fastrand::Rng::with_seed(seed);
    let len = shape.iter().product::<i64>();
    tensor(shape.to_vec(), (0..len).map(|_| random.f32() * 2.0 - 1.0).collect()).unwrap()
}

/// Logits of four calls. Before the third call two rows change places; before the fourth the second
/// of three rows leaves.
fn run_all(decoder: &mut TextDecoder) -> Vec<Vec<f32>> {
    let (_, shape) = match &decoder.layout {
        Layout::Merged { graph, .. }
        | Layout::Alone { graph }
        | Layout::Pair { first: graph, .. } => graph.input("inputs_embeds").unwrap(),
    };
    let width = shape[2];
    let constants = vec![
        (HIDDEN, noise(1, &[3, 40, width])),
        (MASK, tensor(vec![3, 40], vec![1i64; 120]).unwrap()),
    ];
    let (first, mut cache) = decoder.prefill(noise(2, &[3, 1, width]), constants).unwrap();
    let mut all = vec![first];
    all.push(decoder.step(&mut cache, noise(3, &[3, 1, width])).unwrap());
    cache.rearrange(&[1, 0, 2]).unwrap();
    all.push(decoder.step(&mut cache, noise(4, &[3, 1, width])).unwrap());
    cache.rearrange(&[0, 2]).unwrap();
    all.push(decoder.step(&mut cache, noise(5, &[2, 1, width])).unwrap());
    assert_eq!((cache.rows(), cache.length), (2, 4));
    assert!(cache.bytes() > 0);
    all.iter().map(|logits| (0..3).flat_map(|row| logits.row(row).to_vec()).collect()).collect()
}

#[test]
fn sharing_constants_changes_no_logits() {
    let Some(shared) = florence() else { return };
    let opened = ModelFolder::open(&shared, &LoadOptions::default()).unwrap();
    let (mut decoder, _) = TextDecoder::open(&opened, "inputs_embeds", &[HIDDEN, MASK]).unwrap();
    let width = decoder.input_shape("inputs_embeds").unwrap()[2];
    let mut say = |sharing: ConstantSharing| {
        decoder.share(sharing);
        let constants = vec![
            (HIDDEN, noise(1, &[1, 577, width])),
            (MASK, tensor(vec![1, 577], vec![1i64; 577]).unwrap()),
        ];
        let (_, mut cache) = decoder.prefill(noise(2, &[1, 1, width]), constants).unwrap();
        let before: usize = constant_bytes(&cache);
        cache.rearrange(&[0, 0, 0]).unwrap();
        let logits = decoder.step(&mut cache, noise(3, &[3, 1, width])).unwrap();
        (
            (0..3).map(|row| logits.row(row).to_vec()).collect::<Vec<_>>(),
            constant_bytes(&cache) / before,
        )
    };
    let (each, copies) = say(ConstantSharing::None);
    assert_eq!(copies, 3);
    assert_ne!(each[0], each[1]);
    assert_eq!(say(ConstantSharing::OneCaption), (each, 1));
    let (decoder, _) = TextDecoder::open(&opened, "inputs_embeds", &[HIDDEN, MASK]).unwrap();
    assert_eq!(decoder.sharing, ConstantSharing::OneCaption, "found out when it is opened");
}

fn constant_bytes(cache: &DecoderCache<DynValue>) -> usize {
    cache
        .entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Constant)
        .map(|entry| entry.value.bytes())
        .sum()
}

#[test]
fn layouts_with_cross_attention_agree() {
    let Some(shared) = florence() else { return };
    let folder = std::env::temp_dir().join(format!("pg_caption-cross-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("onnx")).unwrap();
    std::fs::copy(shared.join("config.json"), folder.join("config.json")).unwrap();
    let mut expected: Option<Vec<Vec<f32>>> = None;
    let layouts: [&[&str]; 3] = [
        &["decoder_model_merged"],
        &["decoder_model", "decoder_with_past_model"],
        &["decoder_model"],
    ];
    for graphs in layouts {
        let _ = std::fs::remove_dir_all(folder.join("onnx"));
        std::fs::create_dir_all(folder.join("onnx")).unwrap();
        for graph in graphs {
            let file = format!("onnx/{graph}.onnx");
            std::fs::copy(shared.join(&file), folder.join(&file)).unwrap();
        }
        let opened = ModelFolder::open(&folder, &LoadOptions::default()).unwrap();
        let (mut decoder, files) =
            TextDecoder::open(&opened, "inputs_embeds", &[HIDDEN, MASK]).unwrap();
        assert_eq!(files.len(), graphs.len());
        assert!(decoder.vocabulary().is_some_and(|v| v > 100));
        let logits = run_all(&mut decoder);
        match &expected {
            None => expected = Some(logits),
            Some(expected) => {
                for (step, (a, b)) in expected.iter().zip(&logits).enumerate() {
                    assert_eq!(a.len(), b.len(), "{graphs:?} step {step}");
                    let furthest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(furthest < 1e-3, "{graphs:?} step {step}: logits differ by {furthest}");
                }
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}
