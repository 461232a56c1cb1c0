//! `model check`: loads a folder as the server would, captions a picture drawn here in every style,
//! and says what it found.

use super::{Check, size};
use crate::cli::locate;
use crate::engine::Engine;
use crate::job::{Answer, Extras, Job, Order, Source, Want};
use crate::readiness::State;
use pg_caption_captioner::InputPreparer;
use pg_caption_pixels::{RgbPicture, encode_png};
use pg_caption_style::{CaptionStyle, DEFAULT_TOKENS, builtin, builtin_names};
use pg_caption_wire::{ClientRole, EngineConfig, Failure, FailureClass};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A large model on a small machine takes its time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Runs it.
///
/// # Errors
/// Which file keeps the model from working, and why.
pub fn run(options: &Check) -> Result<bool, String> {
    let folder = folder(&options.model)?;
    let own = pg_caption_models::styles_of(&folder).map_err(|e| e.to_string())?;
    let mut config = EngineConfig {
        model: folder.clone(),
        onnxruntime: match &options.onnxruntime {
            Some(path) => path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?,
            None => locate::library()?,
        },
        // What it thinks of a drawing is no reason for silence.
        min_confidence: Some(0.0),
        ..EngineConfig::default()
    };
    options.settings.apply(&mut config)?;
    let began = Instant::now();
    let engine = Engine::start(config, Vec::new()).map_err(|e| e.to_string())?;
    let preparer = match engine.readiness().wait() {
        State::Ready(preparer) => preparer,
        State::Failed(failure) => return Err(words(&failure)),
        State::Loading => return Err("the model neither loaded nor failed".into()),
    };
    let loaded = began.elapsed();
    let mut styles: Vec<CaptionStyle> = builtin_names()
        .into_iter()
        .filter(|name| !own.contains_key(*name))
        .filter_map(builtin)
        .collect();
    styles.extend(own.into_values());
    let captions = captions(&engine, &styles)?;
    let found = found(&folder, &preparer, loaded, &captions);
    if options.json {
        println!("{found}");
    } else {
        show(&found);
    }
    match captions.iter().find_map(|(style, said)| {
        Some((style, said.as_ref().err().filter(|f| f.class != FailureClass::Uncertain)?))
    }) {
        Some((style, failure)) => {
            Err(format!("{}: style {style}: {}", folder.display(), words(failure)))
        }
        None => Ok(true),
    }
}

/// A folder, or a name in the models directory.
fn folder(model: &Path) -> Result<PathBuf, String> {
    let named = model.components().count() == 1 && !model.exists();
    let path = match named.then(locate::models) {
        Some(Ok(models)) if models.join(model).is_dir() => models.join(model),
        _ => model.into(),
    };
    path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))
}

fn words(failure: &Failure) -> String {
    match &failure.detail {
        Some(detail) => format!("{}: {detail}", failure.message),
        None => failure.message.clone(),
    }
}

/// What it says of the drawing, by style.
type Said = Vec<(String, Result<(String, f32), Failure>)>;

fn captions(engine: &Arc<Engine>, styles: &[CaptionStyle]) -> Result<Said, String> {
    let wants = styles
        .iter()
        .map(|style| Want { style: style.clone(), max_tokens: DEFAULT_TOKENS, context: None })
        .collect();
    let source = Source::Bytes { sha256: None };
    let order = Order {
        connection: 0,
        role: ClientRole::Call,
        patience: PATIENCE,
        source,
        wants,
        min_confidence: None,
        extras: Extras::default(),
    };
    let (answers, arrived) = channel();
    // Sending fails only if nobody waits any more.
    let job = Arc::new(Job::new(order, Instant::now(), move |answer| drop(answers.send(answer))));
    engine.submit(&job, Some((encode_png(&drawing()), None)), None);
    let outputs = match arrived.recv().map_err(|e| e.to_string())? {
        Answer::Done { outputs, .. } => outputs,
        Answer::Failed(failure) => vec![Err(failure); styles.len()],
        Answer::Unchanged => return Err("the built-in picture was not looked at".into()),
    };
    let said =
        outputs.into_iter().map(|output| output.and_then(|c| Ok((c.caption?, c.confidence))));
    Ok(styles.iter().map(|style| style.name.clone()).zip(said).collect())
}

/// A red ball on grass below a sky.
fn drawing() -> RgbPicture {
    let (width, height) = (320u32, 240u32);
    let mut data = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let (dx, dy) = (x as i32 - 160, y as i32 - 150);
            let shade = (y / 2) as u8;
            data.extend(match (dx * dx + dy * dy < 50 * 50, y < 140) {
                (true, _) => [200, 30 + (dx.unsigned_abs() / 4) as u8, 30],
                (false, true) => [90 + shade, 150 + shade, 230],
                (false, false) => [40, 170 - shade, 40 + (x % 7) as u8 * 4],
            });
        }
    }
    RgbPicture { width, height, data }
}

fn found(folder: &Path, preparer: &InputPreparer, loaded: Duration, captions: &Said) -> Value {
    let status = preparer.status();
    let (width, height) = preparer.target();
    let graphs: Vec<Value> =
        status.graphs.iter().map(|graph| json!({ "file": graph.file, "dtype": graph.dtype, "bytes": bytes_of(folder, &graph.file) })).collect();
    let said: Vec<Value> = captions
        .iter()
        .map(|(style, said)| match said {
            Ok((caption, confidence)) => json!({ "style": style, "caption": caption, "confidence": confidence }),
            Err(failure) => json!({ "style": style, "caption": null, "error_class": failure.class.name(), "error": words(failure) }),
        })
        .collect();
    json!({
        "name": status.name, "path": folder, "family": status.family, "digest": status.digest, "bytes": status.bytes, "graphs": graphs,
        "width": width, "height": height, "batch_invariant": status.batch_invariant, "min_confidence": status.min_confidence,
        "passed_over": status.passed_over, "suggested_batch": preparer.suggested_batch(), "load_seconds": loaded.as_secs_f64(), "memory": crate::metrics::resident_bytes(), "captions": said,
    })
}

/// Of a graph's file and the files that hold its weights.
fn bytes_of(folder: &Path, file: &str) -> u64 {
    let at =
        if folder.join("onnx").join(file).is_file() { folder.join("onnx") } else { folder.into() };
    let graph = at.join(file);
    let weights = pg_caption_captioner::external_data(&graph);
    std::iter::once(graph)
        .chain(weights)
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|m| m.len())
        .sum()
}

fn show(found: &Value) {
    let text = |key: &str| found[key].as_str().unwrap_or_default();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    println!(
        "{}: {}, {}, digest {}",
        text("name"),
        text("family"),
        size(number(&found["bytes"])),
        text("digest")
    );
    println!("  {}", text("path"));
    for graph in found["graphs"].as_array().into_iter().flatten() {
        println!(
            "  {} ({}, {})",
            graph["file"].as_str().unwrap_or_default(),
            graph["dtype"].as_str().unwrap_or_default(),
            size(number(&graph["bytes"]))
        );
    }
    for file in found["passed_over"].as_array().into_iter().flatten() {
        println!("  passed over, of no use: {}", file.as_str().unwrap_or_default());
    }
    println!(
        "  looks at {} x {} pixels, {} pictures at once; loaded in {:.1} s, {} of memory",
        found["width"],
        found["height"],
        found["suggested_batch"],
        found["load_seconds"].as_f64().unwrap_or_default(),
        size(number(&found["memory"]))
    );
    println!(
        "  {}",
        match found["batch_invariant"] == true {
            true => "the same picture always gets the same caption",
            false =>
                "a caption may depend on which pictures share its batch: a graph quantises with one scale for all of them (DynamicQuantizeLinear)",
        }
    );
    if let Some(confidence) = found["min_confidence"].as_f64() {
        println!("  writes from a confidence of {confidence:.2} on");
    }
    println!("  of a drawing (a red ball on grass) it says:");
    for said in found["captions"].as_array().into_iter().flatten() {
        let style = said["style"].as_str().unwrap_or_default();
        match said["caption"].as_str() {
            Some(caption) => println!(
                "    {style}: {caption} (confidence {:.2})",
                said["confidence"].as_f64().unwrap_or_default()
            ),
            None => {
                println!("    {style}: nothing ({})", said["error"].as_str().unwrap_or_default())
            }
        }
    }
}
