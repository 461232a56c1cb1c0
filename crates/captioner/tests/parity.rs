//! The ids of the reference implementation, token for token: every sequence of `tests/parity/vit-gpt2/expected.json`.

mod support;

use pg_caption_captioner::{Features, Finished};
use pg_caption_wire::Finish;
use serde_json::Value;
use std::sync::Arc;
use support::*;

/// One expected sequence.
struct Case {
    image: String,
    mode: String,
    overrides: Value,
    max_new: u32,
    ids: Vec<i64>,
    /// Past this many tokens another order of floating-point operations may rightly differ.
    certain: usize,
    text: String,
}

/// Pictures we decode differently on purpose: transparency on white instead of dropped, 16-bit gray scaled instead of clipped.
const OURS: [&str; 4] = ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png"];

fn cases(expected: &Value) -> Vec<Case> {
    let mut cases = Vec::new();
    for (image, record) in expected["images"].as_object().unwrap() {
        if OURS.contains(&image.as_str()) {
            continue;
        }
        let outputs = record["prompts"].as_object().unwrap().values().next().unwrap()["outputs"].as_object().unwrap();
        for (name, output) in outputs {
            let (mode, max_new) = name.rsplit_once('_').unwrap();
            let ids: Vec<i64> = output["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
            let certain = output["close_steps"].as_array().and_then(|steps| steps.first()).and_then(Value::as_u64);
            cases.push(Case {
                image: image.clone(),
                mode: mode.into(),
                overrides: expected["modes"][mode]["overrides"].clone(),
                max_new: max_new.parse().unwrap(),
                certain: certain.map_or(ids.len(), |step| step as usize),
                text: output["text"].as_str().unwrap().into(),
                ids,
            });
        }
    }
    assert!(cases.len() == 12 * 7, "the parity file holds {} sequences", cases.len());
    cases
}

/// What the reference pads a beam's sequence with does not belong to it: the end token stays, what follows it goes.
fn trimmed(ids: &[i64]) -> &[i64] {
    match ids.iter().position(|id| *id == 0) {
        Some(end) => &ids[..=end],
        None => ids,
    }
}

fn assert_equal(case: &Case, finished: &Finished, how: &str) {
    let (want, got) = (trimmed(&case.ids), &finished.ids);
    let certain = case.certain.min(want.len());
    assert_eq!(&want[..certain], &got[..certain.min(got.len())], "{} {} {} {how}", case.image, case.mode, case.max_new);
    if certain == want.len() {
        assert_eq!(want.len(), got.len(), "{} {} {} {how}", case.image, case.mode, case.max_new);
        let stops = want.last() == Some(&0);
        assert_eq!(finished.finish == Finish::Stop, stops, "{} {} {how}", case.image, case.mode);
    }
    assert!((0.0..=1.0).contains(&finished.confidence));
}

#[test]
fn every_sequence_equals_the_references_alone_and_in_mixed_batches() {
    if !runtime() {
        return;
    }
    let (mut captioner, preparer) = open(&parity().join("vit-gpt2"));
    assert!(preparer.status().batch_invariant);
    let expected = expected();
    let cases = cases(&expected);
    let images: Vec<&str> = expected["images"].as_object().unwrap().keys().map(String::as_str).filter(|i| !OURS.contains(i)).collect();

    let pictures: Vec<_> = images.iter().map(|image| pixels(&preparer, image)).collect();
    for (image, picture) in images.iter().zip(&pictures) {
        assert_eq!(picture.sha256(), expected["images"][image]["pixel_values"]["sha256"], "pixels of {image}");
    }
    let together: Vec<Arc<Features>> = captioner.encode(&pictures).unwrap().into_iter().map(Arc::new).collect();
    let features_of = |image: &str| &together[images.iter().position(|i| *i == image).unwrap()];

    for case in &cases {
        let picture = pixels(&preparer, &case.image);
        let alone = Arc::new(captioner.encode(std::slice::from_ref(&picture)).unwrap().remove(0));
        let generation = preparer.generation(Some(&case.overrides)).unwrap();
        let finished = generate(&mut captioner, vec![sequence(&preparer, 1, &alone, &generation, case.max_new)]);
        assert_equal(case, &finished[&1], "alone");
        if case.certain == case.ids.len() {
            assert_eq!(preparer.text(&finished[&1].ids).unwrap(), case.text, "{} {}", case.image, case.mode);
        }
    }

    // All pictures of a mode in one batch, with different ceilings, so that rows leave at many different steps.
    let mut modes: Vec<&str> = cases.iter().map(|c| c.mode.as_str()).collect();
    modes.sort_unstable();
    modes.dedup();
    for mode in modes {
        let of_mode: Vec<&Case> = cases.iter().filter(|c| c.mode == mode).collect();
        let generation = preparer.generation(Some(&of_mode[0].overrides)).unwrap();
        let sequences = of_mode.iter().enumerate();
        let sequences = sequences.map(|(key, c)| sequence(&preparer, key as u64, features_of(&c.image), &generation, c.max_new));
        let finished = generate(&mut captioner, sequences.collect());
        for (key, case) in of_mode.iter().enumerate() {
            assert_equal(case, &finished[&(key as u64)], "in a batch");
        }
    }
}

#[test]
fn special_tokens_never_reach_a_caption() {
    if !runtime() {
        return;
    }
    let (_, preparer) = open(&parity().join("vit-gpt2"));
    let plain = preparer.text(&[336, 265, 397]).unwrap();
    assert!(!plain.is_empty());
    assert_eq!(preparer.text(&[0, 336, 0, 265, 397, 0]).unwrap(), plain);
    assert_eq!(preparer.text(&[]).unwrap(), "");
    assert!(preparer.text(&[-1]).is_err());
}
