//! Speed of a model folder; run by `benches/families.py` next to other implementations.
//!
//! `families FOLDER LIBRARY THREADS auto|one|all`: loads the folder and prints `{"ready": …}`. For
//! each input line with a batch size it prepares, encodes (with the engine's call size) and
//! captions that many pictures of 640 x 480 together, 20 tokens each, greedily, and prints the
//! time. Not a test: times are comparable only within one run.

use pg_caption_captioner::{CaptionSequence, LoadOptions, PictureOptions, PromptWords, init, load};
use pg_caption_pixels::RgbPicture;
use pg_caption_style::{StyleTask, builtin};
use pg_caption_wire::TileMode;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const TOKENS: u32 = 20;

/// A picture of soft shapes, different for each number.
fn photo(number: u32) -> RgbPicture {
    let (width, height) = (640, 480);
    let wave = |x: u32, y: u32, c: u32| {
        ((x * (3 + number % 5) / 7 + y * (c + 2) / 5 + number * 37) % 256) as u8
    };
    let data = (0..height)
        .flat_map(|y| {
            (0..width).flat_map(move |x| [wave(x, y, 0), wave(y, x, 1), wave(x + y, x, 2)])
        })
        .collect();
    RgbPicture { width, height, data }
}

/// Peak resident memory of this process, bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [folder, library, threads, tiles] = &arguments[..] else {
        println!("families FOLDER LIBRARY THREADS auto|one|all; run by benches/families.py");
        return Ok(());
    };
    let tiles = match tiles.as_str() {
        "one" => TileMode::One,
        "all" => TileMode::All,
        _ => TileMode::Auto,
    };
    init(&PathBuf::from(library).canonicalize()?, threads.parse()?)?;
    let dtype = std::env::var("DTYPE").unwrap_or_else(|_| "auto".into());
    let (mut captioner, preparer) = load(&PathBuf::from(folder), &LoadOptions { dtype })?;
    let settings = json!({
        "num_beams": 1, "no_repeat_ngram_size": 0, "eos_token_id": null,
        "forced_eos_token_id": null, "max_length": null
    });
    let generation = preparer.generation(Some(&settings))?;
    let mut style = builtin("concise").ok_or("no style")?;
    style.task = StyleTask::Concise;
    style.instruction = "Can you describe this image?".into();
    println!(
        "{}",
        json!({ "ready": preparer.status().family, "hoisted": preparer.graph_status().hoisted })
    );
    let words = PromptWords { tiles, ..PromptWords::default() };
    for line in std::io::stdin().lock().lines() {
        let count: u32 = line?.trim().parse()?;
        let rgb: Vec<RgbPicture> = (0..count).map(photo).collect();
        let mut stages = BTreeMap::new();
        let start = Instant::now();
        let views = preparer.views(tiles, [&style]);
        let pictures = rgb
            .iter()
            .map(|rgb| preparer.picture(rgb, &PictureOptions { views }))
            .collect::<Result<Vec<_>, _>>()?;
        stages.insert("preprocess", start.elapsed().as_secs_f64());
        let encode = Instant::now();
        let mut features = Vec::new();
        for call in pictures.chunks(preparer.suggested_batch().max(1)) {
            features.extend(captioner.encode(call)?.into_iter().map(Arc::new));
        }
        stages.insert("encode", encode.elapsed().as_secs_f64());
        let prefill = Instant::now();
        let sequence = |(key, features): (usize, &Arc<_>)| {
            let prompt = preparer.prompt(&style, words, features)?;
            Ok(CaptionSequence {
                key: key as u64,
                features: features.clone(),
                prompt,
                max_new_tokens: TOKENS,
                generation: generation.clone(),
            })
        };
        let sequences = features
            .iter()
            .enumerate()
            .map(sequence)
            .collect::<Result<Vec<_>, pg_caption_captioner::ModelError>>()?;
        let (mut batch, _) = captioner.begin(sequences)?;
        stages.insert("prefill", prefill.elapsed().as_secs_f64());
        let decode = Instant::now();
        let mut tokens = 0;
        while !batch.is_empty() {
            tokens = captioner
                .step(&mut batch)?
                .iter()
                .map(|finished| finished.ids.len())
                .max()
                .unwrap_or(tokens);
        }
        if tokens != TOKENS as usize {
            return Err(format!("{tokens} tokens instead of {TOKENS}").into());
        }
        stages.insert("decode", decode.elapsed().as_secs_f64() / f64::from(TOKENS - 1));
        println!(
            "{}",
            json!({
                "seconds": start.elapsed().as_secs_f64(), "stages": stages, "peak_bytes": peak()
            })
        );
        std::io::stdout().flush()?;
    }
    Ok(())
}
