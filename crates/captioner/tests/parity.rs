//! Token ids of the reference implementation, token for token: every sequence of every
//! `tests/parity/*/expected.json`.

mod support;

use pg_caption_captioner::{
    CaptionSequence, Captioner, FinishedCaption, InputPreparer, PictureFeatures, PromptWords,
    TileViews, TokenPrompt,
};
use pg_caption_style::builtin;
use pg_caption_wire::{FinishReason, TileMode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use support::*;

/// One expected sequence.
struct Case {
    image: String,
    /// The prompt's text; empty for a model that reads no text.
    text: String,
    /// The ids of the prompt's text, if the reference states them.
    prompt_ids: Option<Vec<i64>>,
    mode: String,
    overrides: Value,
    max_new: u32,
    ids: Vec<i64>,
    /// After this many tokens, another order of floating-point operations may give other ids.
    certain: usize,
    caption: String,
    views: TileViews,
}

impl Case {
    fn name(&self, how: &str) -> String {
        format!("{} {:?} {} {} {how}", self.image, self.text, self.mode, self.max_new)
    }

    fn prompt(&self, preparer: &InputPreparer, features: &PictureFeatures) -> TokenPrompt {
        let text = (!self.text.is_empty()).then_some(self.text.as_str());
        let tiles = if self.views == TileViews::TILED { TileMode::All } else { TileMode::One };
        let words = PromptWords { text, context: None, tiles };
        preparer.prompt(&builtin("concise").unwrap(), words, features).unwrap()
    }

    fn sequence(
        &self,
        key: u64,
        preparer: &InputPreparer,
        features: &Arc<PictureFeatures>,
    ) -> CaptionSequence {
        let generation = preparer.generation(Some(&self.overrides)).unwrap();
        let prompt = self.prompt(preparer, features);
        CaptionSequence {
            key,
            features: features.clone(),
            prompt,
            max_new_tokens: self.max_new,
            generation,
        }
    }
}

/// Pictures decoded differently from the reference on purpose: transparency on white instead of
/// dropped, 16-bit gray scaled instead of clipped.
const DIFFERENT_ON_PURPOSE: [&str; 4] =
    ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png"];

fn ids(value: &Value) -> Option<Vec<i64>> {
    value.as_array().map(|ids| ids.iter().map(|id| id.as_i64().unwrap()).collect())
}

fn cases(expected: &Value, views: TileViews) -> Vec<Case> {
    let mut cases = Vec::new();
    let images = expected["images"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(image, _)| !DIFFERENT_ON_PURPOSE.contains(&image.as_str()));
    for (image, record) in images {
        for (text, prompt) in record["prompts"].as_object().unwrap() {
            for (name, output) in prompt["outputs"].as_object().unwrap() {
                let (mode, max_new) = name.rsplit_once('_').unwrap();
                let ids = ids(&output["ids"]).unwrap();
                let certain = output["close_steps"]
                    .as_array()
                    .and_then(|steps| steps.first())
                    .and_then(Value::as_u64);
                cases.push(Case {
                    image: image.clone(),
                    text: text.clone(),
                    prompt_ids: self::ids(&prompt["input_ids"]),
                    mode: mode.into(),
                    overrides: expected["modes"][mode]["overrides"].clone(),
                    max_new: max_new.parse().unwrap(),
                    certain: certain.map_or(ids.len(), |step| step as usize),
                    caption: output["text"].as_str().unwrap().into(),
                    views,
                    ids,
                });
            }
        }
    }
    cases
}

/// Removes the reference's padding of a beam: keeps the first end token and drops what follows.
fn trimmed<'a>(ids: &'a [i64], end: &[i64]) -> &'a [i64] {
    match ids.iter().position(|id| end.contains(id)) {
        Some(at) => &ids[..=at],
        None => ids,
    }
}

fn assert_equal(case: &Case, finished: &FinishedCaption, preparer: &InputPreparer, how: &str) {
    let settings = preparer.generation(Some(&case.overrides)).unwrap();
    let end = &settings.eos_token_id;
    let (want, got) = (trimmed(&case.ids, end), &finished.ids);
    let certain = case.certain.min(want.len());
    assert_eq!(&want[..certain], &got[..certain.min(got.len())], "{}", case.name(how));
    if certain == want.len() {
        assert_eq!(want.len(), got.len(), "{}", case.name(how));
        // A last token forced by the limit is not a stop.
        let forced =
            !settings.forced_eos_token_id.is_empty() && want.len() == case.max_new as usize;
        let stops = want.last().is_some_and(|last| end.contains(last)) && !forced;
        assert_eq!(finished.finish == FinishReason::Stop, stops, "{}", case.name(how));
    }
    assert!((0.0..=1.0).contains(&finished.confidence));
}

/// Compares every sequence of a model: each alone, then all of a mode in as few batches as
/// possible.
fn every_sequence(model: &str, views: TileViews, sequences: usize) {
    if !runtime() {
        return;
    }
    let (mut captioner, preparer) = open(&parity().join(model));
    assert!(preparer.graph_status().batch_invariant);
    let expected = expected(model, views);
    let cases = cases(&expected, views);
    assert_eq!(cases.len(), sequences, "the parity file holds other sequences than it did");
    let images: Vec<&str> = expected["images"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .filter(|i| !DIFFERENT_ON_PURPOSE.contains(i))
        .collect();
    let pictures: Vec<_> = images.iter().map(|image| pixels_in(&preparer, image, views)).collect();
    for (image, picture) in images.iter().zip(&pictures) {
        assert_eq!(
            picture.sha256(),
            expected["images"][image]["pixel_values"]["sha256"],
            "pixels of {image}"
        );
    }

    let alone: Vec<Arc<PictureFeatures>> = pictures
        .iter()
        .map(|picture| Arc::new(captioner.encode_refs(&[picture]).unwrap().remove(0)))
        .collect();
    let at = |case: &Case| images.iter().position(|image| *image == case.image).unwrap();
    for case in &cases {
        let sequence = case.sequence(1, &preparer, &alone[at(case)]);
        if let Some(ids) = &case.prompt_ids {
            assert_eq!(sequence.prompt.words(), &ids[..], "prompt of {}", case.name(""));
        }
        let finished = generate(&mut captioner, vec![sequence]);
        assert_equal(case, &finished[&1], &preparer, "alone");
        if case.certain == case.ids.len() {
            assert_eq!(
                preparer.text(&finished[&1].ids).unwrap(),
                case.caption,
                "{}",
                case.name("alone")
            );
        }
    }

    let together = encode_together(&mut captioner, &pictures);
    let mut batches: BTreeMap<(String, u64, u64), Vec<&Case>> = BTreeMap::new();
    for case in &cases {
        let features = &together[at(case)];
        batches
            .entry((case.mode.clone(), features.bucket, case.prompt(&preparer, features).bucket))
            .or_default()
            .push(case);
    }
    assert!(batches.values().any(|batch| batch.len() > images.len()), "no batch mixes pictures");
    for batch in batches.values() {
        // Different limits, so that rows leave at many different steps.
        let sequences = batch
            .iter()
            .enumerate()
            .map(|(key, case)| case.sequence(key as u64, &preparer, &together[at(case)]));
        let finished = generate(&mut captioner, sequences.collect());
        for (key, case) in batch.iter().enumerate() {
            assert_equal(case, &finished[&(key as u64)], &preparer, "in a batch");
        }
    }
}

/// Encodes as many pictures per call as may share one.
fn encode_together(
    captioner: &mut Captioner,
    pictures: &[pg_caption_captioner::PixelValues],
) -> Vec<Arc<PictureFeatures>> {
    let mut together: Vec<Option<Arc<PictureFeatures>>> = vec![None; pictures.len()];
    let mut buckets: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, picture) in pictures.iter().enumerate() {
        buckets.entry(picture.bucket).or_default().push(at);
    }
    for same in buckets.into_values() {
        let features = captioner
            .encode_refs(&same.iter().map(|at| &pictures[*at]).collect::<Vec<_>>())
            .unwrap();
        for (at, features) in same.into_iter().zip(features) {
            together[at] = Some(Arc::new(features));
        }
    }
    together.into_iter().map(Option::unwrap).collect()
}

#[test]
fn vit_gpt2_matches_the_reference() {
    every_sequence("vit-gpt2", TileViews::TILED, 12 * 7);
}

#[test]
fn florence_2_matches_the_reference() {
    every_sequence("florence2", TileViews::TILED, 12 * 11);
}

#[test]
fn smolvlm_matches_the_reference() {
    every_sequence("smolvlm", TileViews::TILED, 12 * 8);
}

#[test]
fn smolvlm_in_one_tile_matches_the_reference() {
    every_sequence("smolvlm", TileViews::WHOLE, 12 * 8);
}

#[test]
fn both_views_caption_like_each_alone() {
    if !runtime() {
        return;
    }
    let (mut captioner, preparer) = open(&parity().join("smolvlm"));
    let generation = preparer.generation(None).unwrap();
    for image in ["02_shapes.png", "05_3x500.png", "03_noise224.png"] {
        let mut ids_by_style = BTreeMap::new();
        let both = TileViews::WHOLE.and(TileViews::TILED);
        for views in [TileViews::WHOLE, TileViews::TILED, both] {
            let features = Arc::new(
                captioner.encode(&[pixels_in(&preparer, image, views)]).unwrap().remove(0),
            );
            for (key, style) in ["concise", "detailed"]
                .iter()
                .enumerate()
                .filter(|(key, _)| views == both || (*key == 1) == views.tiled())
            {
                let prompt = preparer
                    .prompt(&builtin(style).unwrap(), PromptWords::default(), &features)
                    .unwrap();
                let sequence = CaptionSequence {
                    key: 0,
                    features: features.clone(),
                    prompt,
                    max_new_tokens: 24,
                    generation: generation.clone(),
                };
                let ids = generate(&mut captioner, vec![sequence]).remove(&0).unwrap().ids;
                assert_eq!(
                    ids_by_style.entry(key).or_insert_with(|| ids.clone()),
                    &ids,
                    "{image} {style}"
                );
            }
        }
        assert_ne!(ids_by_style[&0], ids_by_style[&1], "{image}: one tile and many look different");
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
