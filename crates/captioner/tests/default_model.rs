//! The default model: one start token per style, a confidence per picture, a cache that starts
//! empty.

mod support;

use pg_caption_captioner::{
    CaptionSequence, PictureFeatures, PictureOptions, PromptWords, TileViews,
};
use pg_caption_pixels::DecodeOptions;
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

/// The shop photos with the nouns that are right for each.
fn catalogue() -> Option<Vec<(PathBuf, Vec<String>)>> {
    let folder = std::env::var_os("PG_CAPTION_CATALOGUE")
        .map_or_else(|| workspace().join("../shared/catalogue"), PathBuf::from);
    let lines = std::fs::read_to_string(folder.join("truth.jsonl"));
    let Ok(lines) = lines else {
        println!("skipped: no catalogue at {}", folder.display());
        return None;
    };
    let photo = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let nouns = line["nouns"].as_array().unwrap().iter();
        let nouns = nouns.map(|noun| noun.as_str().unwrap().to_owned()).collect();
        (folder.join("images").join(line["file"].as_str().unwrap()), nouns)
    };
    Some(lines.lines().map(photo).collect())
}

/// The figures of the model card are of full decoding.
#[test]
fn reduced_decoding_changes_no_figure_by_half_a_point() {
    let Some(folder) = folder().filter(|_| runtime()) else { return };
    let Some(photos) = catalogue() else { return };
    let (mut captioner, preparer) = open(&folder);
    assert!(preparer.reduces_all());
    let least = preparer.status().min_confidence.unwrap();
    let generation = preparer.generation(None).unwrap();
    let style = builtin("concise").unwrap();
    let (mut reduced, mut said) = (0, [Vec::new(), Vec::new()]);
    for (file, nouns) in &photos {
        let bytes = std::fs::read(file).unwrap();
        let mut sizes = Vec::new();
        for (reduce_all, said) in [false, true].into_iter().zip(&mut said) {
            let target = Some(preparer.target());
            let options = DecodeOptions { target, reduce_all, ..DecodeOptions::default() };
            let decoded = pg_caption_pixels::decode(&bytes, &options).unwrap();
            sizes.push(decoded.rgb.width);
            let views = PictureOptions { views: TileViews::WHOLE };
            let pixels = preparer.picture(&decoded.rgb, &views).unwrap();
            let features = Arc::new(captioner.encode(&[pixels]).unwrap().remove(0));
            let confidence = features.confidence.unwrap();
            let prompt = preparer.prompt(&style, PromptWords::default(), &features).unwrap();
            let (max_new_tokens, generation) = (64, generation.clone());
            let one = CaptionSequence { key: 0, features, prompt, max_new_tokens, generation };
            let ids = generate(&mut captioner, vec![one]).remove(&0).unwrap().ids;
            let text = preparer.text(&ids).unwrap().to_lowercase();
            let is_right = nouns.iter().any(|noun| text.contains(&noun.to_lowercase()));
            said.push((confidence >= least, is_right, text));
        }
        reduced += usize::from(sizes[0] != sizes[1]);
    }
    let figures = said.each_ref().map(|said| {
        let written = said.iter().filter(|(written, ..)| *written).count() as f64;
        let right = said.iter().filter(|(written, right, _)| *written && *right).count() as f64;
        (written / said.len() as f64, right / written)
    });
    let equal = said[0].iter().zip(&said[1]).filter(|(full, reduced)| full.2 == reduced.2).count();
    println!("{reduced} of {} reduced, {equal} texts equal: {figures:?}", photos.len());
    assert!(reduced > photos.len() / 10, "{reduced}");
    let [full, reduced] = figures;
    assert!((full.0 - reduced.0).abs() <= 0.005, "written: {figures:?}");
    assert!((full.1 - reduced.1).abs() <= 0.005, "right: {figures:?}");
}
