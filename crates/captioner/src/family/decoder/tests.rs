//! Names and shapes; and, where the shared models are at hand, that all layouts of a decoder with
//! cross-attention entries agree.

use super::*;
use crate::cache::Rows;
use crate::tensor::tensor;
use crate::{LoadOptions, testing};
use std::path::PathBuf;

#[test]
fn outputs_are_found_by_the_names_of_the_inputs_they_become() {
    assert_eq!(present("past_key_values.0.encoder.key"), "present.0.encoder.key");
    assert_eq!(present("past_conv.3"), "present_conv.3");
}

#[test]
fn entries_without_an_unstated_length_are_fixed_states_and_cross_attention_is_constant() {
    assert_eq!(kind("past_key_values.0.key", &[-1, 12, -1, 64]), Kind::Growing);
    assert_eq!(kind("past_conv.0", &[-1, 1024, 3]), Kind::Fixed);
    assert_eq!(kind("past_key_values.0.encoder.key", &[-1, 12, -1, 64]), Kind::Constant);
}

#[test]
fn an_empty_past_keeps_stated_dimensions() {
    assert_eq!(empty(&[-1, 12, -1, 64], 3), [3, 12, 0, 64]);
}

const HIDDEN: &str = "encoder_hidden_states";
const MASK: &str = "encoder_attention_mask";

/// The shared Florence-2 decoder; `None`, said plainly, where it or the runtime is missing.
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

/// Repeatable noise in -1..1.
fn noise(seed: u64, shape: &[i64]) -> DynValue {
    let mut state = seed * 2 + 1;
    let value = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % 2000) as f32 / 1000.0 - 1.0
    };
    let len = shape.iter().product::<i64>();
    tensor(shape.to_vec(), (0..len).map(value).collect()).unwrap()
}

/// Logits of four calls; before the third two rows trade places, before the fourth the middle one
/// of three leaves.
fn run_all(decoder: &mut Decoder) -> Vec<Vec<f32>> {
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
fn beams_share_the_pictures_keys_and_values_and_say_what_each_would_say_with_its_own() {
    let Some(shared) = florence() else { return };
    let opened = Folder::open(&shared, &LoadOptions::default()).unwrap();
    let (mut decoder, _) = Decoder::open(&opened, "inputs_embeds", &[HIDDEN, MASK]).unwrap();
    let width = decoder.input_shape("inputs_embeds").unwrap()[2];
    let mut say = |sharing: Sharing| {
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
    let (each, copies) = say(Sharing::None);
    assert_eq!(copies, 3);
    assert_ne!(each[0], each[1]);
    assert_eq!(say(Sharing::OneCaption), (each, 1));
    let (decoder, _) = Decoder::open(&opened, "inputs_embeds", &[HIDDEN, MASK]).unwrap();
    assert_eq!(decoder.sharing, Sharing::OneCaption, "found out when it is opened");
}

fn constant_bytes(cache: &Cache<DynValue>) -> usize {
    cache
        .entries
        .iter()
        .filter(|entry| entry.kind == Kind::Constant)
        .map(|entry| entry.value.bytes())
        .sum()
}

#[test]
fn all_layouts_of_a_decoder_with_cross_attention_entries_agree() {
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
        let opened = Folder::open(&folder, &LoadOptions::default()).unwrap();
        let (mut decoder, files) =
            Decoder::open(&opened, "inputs_embeds", &[HIDDEN, MASK]).unwrap();
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
