//! Tests of the batch and the searches with a family of plain arrays: no ONNX Runtime, no model.
//!
//! The family has what the built-in ones lack: sparse layers, a fixed convolution state, and
//! positions `[3, rows, length]`. Its logits depend on the picture and on every token fed to a row,
//! read back from the cache. A misplaced row therefore changes its text.

use super::*;
use crate::cache::{CacheEntry, ConstantSharing, EntryKind};
use crate::features::{FeatureState, PictureFeatures};
use crate::{GenerationSettings, TokenPrompt};
use pg_caption_wire::FinishReason;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const VOCABULARY: usize = 12;
const END: i64 = 3;

/// A tensor in plain memory that counts its copies.
struct Plain {
    shape: Vec<usize>,
    data: Vec<f32>,
    copies: Arc<AtomicUsize>,
}

impl Plain {
    fn row(&self, row: usize) -> &[f32] {
        let size = self.data.len() / self.shape[0];
        &self.data[row * size..(row + 1) * size]
    }
}

impl RowTensor for Plain {
    fn rows(&self) -> usize {
        self.shape[0]
    }

    fn bytes(&self) -> usize {
        self.data.len() * 4
    }

    fn select(&self, rows: &[usize]) -> Result<Self, ModelError> {
        self.copies.fetch_add(1, Ordering::Relaxed);
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        Ok(Plain {
            shape,
            data: rows.iter().flat_map(|row| self.row(*row)).copied().collect(),
            copies: self.copies.clone(),
        })
    }
}

/// The features of a picture: one number.
struct Picture(f32);

impl FeatureState for Picture {
    fn bucket(&self) -> u64 {
        7
    }

    fn bytes(&self) -> usize {
        4
    }
}

/// Repeatable random scores after `sequence` for a picture.
fn scores(picture: f32, sequence: &[f32]) -> Vec<f32> {
    let mut seed = picture as u64;
    for token in sequence {
        seed = fastrand::Rng::with_seed(seed ^ *token as u64).u64(..);
    }
    let mut random = fastrand::Rng::with_seed(seed);
    (0..VOCABULARY).map(|_| random.u32(0..10_000) as f32 / 2500.0).collect()
}

/// Entries: keys of layer 2 only (growing, `[rows, 1, length, 1]`), a convolution state of layer 0
/// (fixed, the last three tokens), and the picture (constant).
struct Sparse {
    sharing: ConstantSharing,
    keys_copied: Arc<AtomicUsize>,
    constants_copied: Arc<AtomicUsize>,
    rows_of_steps: Vec<usize>,
    /// The first score of every call, if set.
    poison: Option<f32>,
}

impl Default for Sparse {
    fn default() -> Sparse {
        let (keys_copied, constants_copied) = Default::default();
        Sparse {
            sharing: ConstantSharing::None,
            keys_copied,
            constants_copied,
            rows_of_steps: Vec::new(),
            poison: None,
        }
    }
}

impl Sparse {
    fn sharing() -> Sparse {
        Sparse { sharing: ConstantSharing::OneCaption, ..Sparse::default() }
    }

    /// `[3, rows, length]`: temporal, vertical and horizontal positions.
    fn positions(rows: usize, before: usize, new: usize) -> Vec<i64> {
        (0..3 * rows).flat_map(|_| (before..before + new).map(|p| p as i64)).collect()
    }

    fn feed(&mut self, cache: &mut DecoderCache<Plain>, tokens: &[Vec<f32>]) -> LogitRows {
        let (rows, new) = (cache.rows(), tokens[0].len());
        assert_eq!(rows, tokens.len());
        let positions = Self::positions(rows, cache.length, new);
        assert_eq!(positions.len(), 3 * rows * new);
        let [keys, state, picture] = &mut cache.entries[..] else { panic!("three entries") };
        let mut logits = Vec::new();
        let (mut all_keys, mut all_states) = (Vec::new(), Vec::new());
        for (row, fed) in tokens.iter().enumerate() {
            let mut sequence =
                if cache.length == 0 { Vec::new() } else { keys.value.row(row).to_vec() };
            assert_eq!(sequence.len(), cache.length, "growing entries are as long as what was fed");
            let mut recent = state.value.row(row).to_vec();
            for (i, token) in fed.iter().enumerate() {
                sequence.push(*token);
                recent.rotate_left(1);
                recent[2] = *token;
                assert_eq!(positions[row * new + i] as usize + 1, sequence.len());
            }
            let tail: Vec<f32> = sequence.iter().rev().take(3).rev().copied().collect();
            assert_eq!(recent[3 - tail.len()..], tail, "fixed states travel with their rows");
            let shown = if self.sharing == ConstantSharing::OneCaption && picture.value.rows() == 1
            {
                0
            } else {
                row
            };
            logits.extend(scores(picture.value.row(shown)[0], &sequence));
            all_keys.extend(sequence);
            all_states.extend(recent);
        }
        cache.length += new;
        keys.value = Plain {
            shape: vec![rows, 1, cache.length, 1],
            data: all_keys,
            copies: self.keys_copied.clone(),
        };
        state.value =
            Plain { shape: vec![rows, 1, 3], data: all_states, copies: self.keys_copied.clone() };
        if let Some(poison) = self.poison {
            logits[0] = poison;
        }
        LogitRows::new(logits, VOCABULARY, "mock.onnx")
    }
}

impl FamilyRunner for Sparse {
    type Value = Plain;

    fn encode(&mut self, _: &[&crate::PixelValues]) -> Result<Vec<PictureFeatures>, ModelError> {
        Ok(Vec::new())
    }

    fn prefill(
        &mut self,
        captions: &[(&PictureFeatures, &TokenPrompt)],
    ) -> Result<(LogitRows, DecoderCache<Plain>), ModelError> {
        let rows = captions.len();
        let keys = Plain {
            shape: vec![rows, 1, 0, 1],
            data: Vec::new(),
            copies: self.keys_copied.clone(),
        };
        let state = Plain {
            shape: vec![rows, 1, 3],
            data: vec![0.0; rows * 3],
            copies: self.keys_copied.clone(),
        };
        let pictures = captions
            .iter()
            .map(|(f, _)| f.state::<Picture>().map(|p| p.0))
            .collect::<Result<Vec<_>, _>>()?;
        let picture =
            Plain { shape: vec![rows, 1], data: pictures, copies: self.constants_copied.clone() };
        let entry = |input: &str, kind, value| CacheEntry { input: input.into(), kind, value };
        let entries = vec![
            entry("past_key_values.2.key", EntryKind::Growing, keys),
            entry("past_conv.0", EntryKind::Fixed, state),
            entry("image_features", EntryKind::Constant, picture),
        ];
        let mut cache = DecoderCache::new(entries, rows, 0, self.sharing);
        let tokens: Vec<Vec<f32>> =
            captions.iter().map(|(_, p)| p.ids.iter().map(|id| *id as f32).collect()).collect();
        let logits = self.feed(&mut cache, &tokens);
        Ok((logits, cache))
    }

    fn step(
        &mut self,
        cache: &mut DecoderCache<Plain>,
        tokens: &[i64],
    ) -> Result<LogitRows, ModelError> {
        self.rows_of_steps.push(tokens.len());
        let tokens: Vec<Vec<f32>> = tokens.iter().map(|t| vec![*t as f32]).collect();
        Ok(self.feed(cache, &tokens))
    }
}

fn settings(overrides: Value) -> Arc<GenerationSettings> {
    let base = GenerationSettings::default().overridden(&json!({ "eos_token_id": END })).unwrap();
    Arc::new(base.overridden(&overrides).unwrap())
}

fn sequence(
    key: u64,
    generation: &Arc<GenerationSettings>,
    max_new_tokens: u32,
) -> CaptionSequence {
    CaptionSequence {
        key,
        features: Arc::new(PictureFeatures::new(Picture(key as f32), None)),
        prompt: TokenPrompt { ids: vec![0, 5], read: Vec::new(), bucket: 2, alone: false },
        max_new_tokens,
        generation: generation.clone(),
    }
}

/// Runs a batch to its end.
fn run(family: &mut Sparse, sequences: &[CaptionSequence]) -> BTreeMap<u64, FinishedCaption> {
    let (mut running, finished) = RunningBatch::begin(family, sequences).unwrap();
    let mut all: BTreeMap<u64, FinishedCaption> =
        finished.into_iter().map(|f| (f.key, f)).collect();
    while running.len() > 0 {
        for f in running.step(family).unwrap() {
            assert!(all.insert(f.key, f).is_none(), "a caption ends once");
        }
    }
    assert_eq!(running.bytes(), 0, "an empty batch holds nothing");
    all
}

/// The same search without batch and cache: the sequence of every row is written out.
fn without_batch(sequence: &CaptionSequence) -> FinishedCaption {
    let picture = sequence.features.state::<Picture>().unwrap().0;
    let mut search = CaptionSearch::new(
        sequence.generation.clone(),
        &sequence.prompt.ids,
        sequence.max_new_tokens,
    );
    let mut rows = vec![sequence.prompt.ids.iter().map(|id| *id as f32).collect::<Vec<f32>>()];
    loop {
        let logits: Vec<Vec<f32>> = rows.iter().map(|row| scores(picture, row)).collect();
        match search.advance(&logits.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap() {
            SearchAdvance::Done(o) => {
                return FinishedCaption {
                    key: sequence.key,
                    ids: o.ids,
                    finish: o.finish,
                    confidence: o.confidence,
                };
            }
            SearchAdvance::Continue(next) => {
                let continued = next.iter().map(|(source, token)| {
                    rows[*source].iter().copied().chain([*token as f32]).collect()
                });
                rows = continued.collect();
            }
        }
    }
}

const MODES: [&str; 4] = [
    r#"{}"#,
    r#"{"num_beams": 2}"#,
    r#"{"num_beams": 3, "no_repeat_ngram_size": 2, "early_stopping": true, "length_penalty": 0.6}"#,
    concat!(
        r#"{"num_beams": 4, "early_stopping": "never", "repetition_penalty": 1.3, "#,
        r#""min_new_tokens": 4}"#
    ),
];

#[test]
fn captions_do_not_depend_on_their_batch() {
    let mut lengths = std::collections::BTreeSet::new();
    for mode in MODES {
        let generation = settings(serde_json::from_str(mode).unwrap());
        let sequences: Vec<CaptionSequence> =
            (0..25).map(|key| sequence(key, &generation, 1 + (key as u32 * 7) % 30)).collect();
        let together = run(&mut Sparse::default(), &sequences);
        assert_eq!(together.len(), sequences.len());
        assert_eq!(
            run(&mut Sparse::sharing(), &sequences),
            together,
            "{mode}, beams sharing after others left"
        );
        for one in &sequences {
            let expected = without_batch(one);
            assert_eq!(together[&one.key], expected, "{mode} in a batch");
            assert_eq!(
                run(&mut Sparse::default(), std::slice::from_ref(one))[&one.key],
                expected,
                "{mode} alone"
            );
            assert_eq!(
                run(&mut Sparse::sharing(), std::slice::from_ref(one))[&one.key],
                expected,
                "{mode} alone, beams sharing"
            );
            lengths.insert(expected.ids.len());
        }
    }
    assert!(lengths.len() > 5, "captions must end at different steps: {lengths:?}");
}

#[test]
fn rows_leave_when_their_caption_ends() {
    let generation = settings(json!({ "num_beams": 2, "min_new_tokens": 9 }));
    let mut family = Sparse::default();
    run(
        &mut family,
        &[sequence(1, &generation, 2), sequence(2, &generation, 4), sequence(3, &generation, 6)],
    );
    assert_eq!(
        family.rows_of_steps,
        [6, 4, 4, 2, 2],
        "the first step of each ceiling is the prefill's"
    );
}

#[test]
fn a_cancelled_caption_leaves_before_the_next_step() {
    let generation = settings(json!({ "num_beams": 3, "min_new_tokens": 10 }));
    let sequences: Vec<CaptionSequence> =
        (0..4).map(|key| sequence(key, &generation, 20)).collect();
    let mut family = Sparse::default();
    let (mut running, finished) = RunningBatch::begin(&mut family, &sequences).unwrap();
    assert!(finished.is_empty());
    running.step(&mut family).unwrap();
    running.cancel(&[1, 3, 99]);
    assert_eq!((running.len(), running.keys()), (2, vec![0, 2]));
    let mut all = BTreeMap::new();
    while running.len() > 0 {
        all.extend(running.step(&mut family).unwrap().into_iter().map(|f| (f.key, f)));
    }
    assert_eq!(family.rows_of_steps[..3], [12, 6, 6]);
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), [0, 2]);
    assert!(all.iter().all(|(key, f)| *f == without_batch(&sequences[*key as usize])));
}

#[test]
fn cancelling_everything_frees_the_cache() {
    let generation = settings(json!({ "min_new_tokens": 10 }));
    let mut family = Sparse::default();
    let (mut running, _) =
        RunningBatch::begin(&mut family, &[sequence(1, &generation, 20)]).unwrap();
    assert!(running.bytes() > 0);
    running.cancel(&[1]);
    assert_eq!((running.len(), running.bytes()), (0, 0));
    assert!(running.step(&mut family).unwrap().is_empty());
    assert!(family.rows_of_steps.is_empty());
}

#[test]
fn greedy_steps_copy_no_cache() {
    let generation = settings(json!({ "min_new_tokens": 15 }));
    let mut family = Sparse::default();
    let (mut running, _) = RunningBatch::begin(
        &mut family,
        &[sequence(1, &generation, 15), sequence(2, &generation, 15)],
    )
    .unwrap();
    while running.len() > 0 {
        running.step(&mut family).unwrap();
    }
    assert_eq!(family.rows_of_steps.len(), 14);
    assert_eq!(
        family.keys_copied.load(Ordering::Relaxed)
            + family.constants_copied.load(Ordering::Relaxed),
        0
    );
}

#[test]
fn moving_beams_copies_no_constants() {
    let generation = settings(json!({ "num_beams": 3, "min_new_tokens": 15 }));
    let mut family = Sparse::default();
    run(&mut family, &[sequence(1, &generation, 15), sequence(2, &generation, 15)]);
    assert_eq!(
        family.constants_copied.load(Ordering::Relaxed),
        1,
        "once, when the beams leave the prefill's rows"
    );
    assert!(family.keys_copied.load(Ordering::Relaxed) > 4);
}

#[test]
fn beams_of_one_caption_share_constants() {
    let generation = settings(json!({ "num_beams": 3, "min_new_tokens": 15 }));
    let mut family = Sparse::sharing();
    run(&mut family, &[sequence(1, &generation, 15)]);
    assert_eq!(family.constants_copied.load(Ordering::Relaxed), 0, "the prefill's row is kept");
    let mut family = Sparse::sharing();
    run(&mut family, &[sequence(1, &generation, 15), sequence(2, &generation, 8)]);
    assert_eq!(
        family.constants_copied.load(Ordering::Relaxed),
        2,
        "a row for each beam, then a single one when the second caption left"
    );
}

#[test]
fn prefill_reports_captions_that_end_there() {
    let generation = settings(json!({}));
    let (running, finished) =
        RunningBatch::begin(&mut Sparse::default(), &[sequence(4, &generation, 1)]).unwrap();
    assert_eq!((running.len(), running.bytes()), (0, 0));
    assert_eq!(finished.len(), 1);
    assert_eq!((finished[0].key, finished[0].ids.len()), (4, 1));
    assert_eq!(finished[0].finish == FinishReason::Stop, finished[0].ids == [END]);
}

#[test]
fn incompatible_sequences_are_refused() {
    let generation = settings(json!({}));
    let begin = |second: CaptionSequence| {
        let refused =
            RunningBatch::begin(&mut Sparse::default(), &[sequence(1, &generation, 8), second])
                .err();
        refused.expect("refused").to_string()
    };
    let mut features = sequence(2, &generation, 8);
    let mut other = PictureFeatures::new(Picture(1.0), None);
    other.bucket += 1;
    features.features = Arc::new(other);
    assert!(begin(features).contains("features"));
    let mut prompt = sequence(2, &generation, 8);
    prompt.prompt.bucket = 3;
    assert!(begin(prompt).contains("prompts"));
    assert!(begin(sequence(2, &settings(json!({ "num_beams": 2 })), 8)).contains("generation"));
    assert!(begin(sequence(1, &generation, 8)).contains("key 1"));
    assert!(
        RunningBatch::begin(&mut Sparse::default(), &[])
            .is_ok_and(|(running, finished)| running.len() == 0 && finished.is_empty())
    );
}

#[test]
fn non_finite_logits_are_an_error() {
    let generation = settings(json!({ "min_new_tokens": 5 }));
    let mut family = Sparse::default();
    let (mut running, _) =
        RunningBatch::begin(&mut family, &[sequence(1, &generation, 9)]).unwrap();
    family.poison = Some(f32::NAN);
    let error = running.step(&mut family).unwrap_err().to_string();
    assert!(error.starts_with("mock.onnx: ") && error.contains("not finite"), "{error}");
}
