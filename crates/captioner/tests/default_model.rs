//! The default model: one start token per style, a confidence per picture, a cache that starts
//! empty.

mod support;

use pg_caption_captioner::{CaptionSequence, PictureFeatures, PromptWords};
use pg_caption_style::{builtin, builtin_names};
use std::path::PathBuf;
use std::sync::Arc;
use support::*;

/// `models/default`, or the folder that PG_CAPTION_DEFAULT_MODEL names.
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("PG_CAPTION_DEFAULT_MODEL")
        .map_or_else(|| workspace().join("models/default"), PathBuf::from);
    let there = folder.join("config.json").exists();
    if !there {
        println!("skipped: no default model at {}", folder.display());
    }
    there.then_some(folder)
}

#[test]
fn styles_share_batches_and_differ_in_text() {
    let Some(folder) = folder().filter(|_| runtime()) else { return };
    let (mut captioner, preparer) = open(&folder);
    assert!(preparer.status().min_confidence.is_some_and(|c| c > 0.0 && c < 1.0));
    assert!(preparer.graph_status().batch_invariant);
    assert!(preparer.status().bytes < 40_000_000, "at most 40 MB");

    let images = ["02_shapes.png", "10_exif6.jpg", "12_photo.jpg"];
    let pictures: Vec<_> = images.iter().map(|image| pixels(&preparer, image)).collect();
    let features: Vec<Arc<PictureFeatures>> =
        captioner.encode(&pictures).unwrap().into_iter().map(Arc::new).collect();
    for f in &features {
        assert!(f.confidence.is_some_and(|c| (0.0..=1.0).contains(&c)), "{:?}", f.confidence);
    }

    let generation = preparer.generation(None).unwrap();
    let make = |key: u64| {
        let style = builtin(builtin_names()[key as usize % 3]).unwrap();
        let prompt =
            preparer.prompt(&style, PromptWords::default(), &features[key as usize / 3]).unwrap();
        let features = features[key as usize / 3].clone();
        CaptionSequence {
            key,
            features,
            prompt,
            max_new_tokens: 256,
            generation: generation.clone(),
        }
    };
    let together = generate(&mut captioner, (0..9).map(make).collect());
    for key in 0..9 {
        let alone = generate(&mut captioner, vec![make(key)]).remove(&key).unwrap();
        assert_eq!(alone.ids, together[&key].ids, "caption {key} alone and in a batch");
        let text = preparer.text(&alone.ids).unwrap();
        assert!(text.len() > 5 && !text.contains("<|"), "{text:?}");
        println!(
            "{} {} {:.2}: {text}",
            images[key as usize / 3],
            builtin_names()[key as usize % 3],
            alone.confidence
        );
    }
    let prompts: Vec<Vec<i64>> = (0..3).map(|key| make(key).prompt.ids).collect();
    assert!(prompts[0] != prompts[1] && prompts[1] != prompts[2], "{prompts:?}");
}
