//! `model check`: loads a folder as the server would, captions a built-in drawing in every style,
//! and describes the model.

use super::{CheckArgs, size};
use crate::answer::JobAnswer;
use crate::cli::locate;
use crate::engine::{Engine, EngineOptions};
use crate::job::Job;
use crate::metrics::resident_bytes;
use crate::provider::readiness::ProviderState;
use crate::provider::{Provider, local};
use crate::request::{JobExtras, JobSpec, PictureSource};
use pg_caption_pixels::{RgbPicture, encode_png};
use pg_caption_style::{CaptionStyle, DEFAULT_TOKENS, builtin, builtin_names};
use pg_caption_wire::{AnswerReuse, ClientRole, Failure, FailureClass, OutputSpec};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A large model on a small machine is slow.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs it. Returns whether the model is usable.
///
/// # Errors
/// The file that makes the model unusable, and why.
pub fn run(options: &CheckArgs) -> Result<bool, String> {
    let folder = locate::folder(&options.model)?;
    let own = pg_caption_models::styles_of(&folder).map_err(|e| e.to_string())?;
    let mut config = locate::config(folder.clone(), options.onnxruntime.as_deref())?;
    // Captions of the drawing are shown regardless of their confidence.
    config.min_confidence = Some(0.0);
    options.settings.apply(&mut config)?;
    let began = Instant::now();
    let engine = Engine::start(EngineOptions::new(config)).map_err(|e| e.to_string())?;
    let provider = match engine.readiness().wait() {
        ProviderState::Ready(provider) => provider,
        ProviderState::Failed(failure) => return Err(text(&failure)),
        ProviderState::Loading => return Err("the model neither loaded nor failed".into()),
    };
    let loaded = began.elapsed();
    let mut styles: Vec<CaptionStyle> = builtin_names()
        .into_iter()
        .filter(|name| !own.contains_key(*name))
        .filter_map(builtin)
        .collect();
    styles.extend(own.into_values());
    let captions = captions(&engine, &styles)?;
    let report = report(&folder, &*provider, loaded, &captions);
    if options.json {
        println!("{report}");
    } else {
        show(&report);
    }
    let failed = captions.iter().find_map(|(style, caption)| {
        let failure = caption.as_ref().err()?;
        (failure.class != FailureClass::Uncertain).then_some((style, failure))
    });
    match failed {
        Some((style, failure)) => {
            Err(format!("{}: style {style}: {}", folder.display(), text(failure)))
        }
        None => Ok(true),
    }
}

fn text(failure: &Failure) -> String {
    match &failure.detail {
        Some(detail) => format!("{}: {detail}", failure.message),
        None => failure.message.clone(),
    }
}

/// A caption and its confidence, or the failure, by style.
type StyleCaptions = Vec<(String, Result<(String, Option<f32>), Failure>)>;

fn captions(engine: &Arc<Engine>, styles: &[CaptionStyle]) -> Result<StyleCaptions, String> {
    let outputs = styles
        .iter()
        .map(|style| OutputSpec {
            style: style.clone(),
            max_tokens: DEFAULT_TOKENS,
            context: None,
            min_confidence: None,
        })
        .collect();
    let source = PictureSource::Bytes { sha256: None };
    let spec = JobSpec {
        connection: 0,
        role: ClientRole::Call,
        timeout: TIMEOUT,
        from_turn: false,
        source,
        outputs,
        min_confidence: None,
        rules: Arc::default(),
        extras: JobExtras { apart: true, ..JobExtras::default() },
        earlier: None,
        reuse: AnswerReuse::Nothing,
    };
    let (answers, arrived) = channel();
    // The receiver lives until the answer has arrived.
    let job = Arc::new(Job::new(spec, Instant::now(), move |answer| drop(answers.send(answer))));
    engine.submit(&job, Some((encode_png(&drawing()), None)), None);
    let outputs = match arrived.recv().map_err(|e| e.to_string())? {
        JobAnswer::Done { outputs, .. } => outputs,
        JobAnswer::Failed(failure) => vec![Err(failure); styles.len()],
        JobAnswer::Unchanged => return Err("the built-in picture was not captioned".into()),
    };
    let captions =
        outputs.into_iter().map(|output| output.and_then(|c| Ok((c.caption?, c.confidence))));
    Ok(styles.iter().map(|style| style.name.clone()).zip(captions).collect())
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

fn report(
    folder: &Path,
    provider: &dyn Provider,
    loaded: Duration,
    captions: &StyleCaptions,
) -> Value {
    let status = provider.status();
    let (width, height) = provider.target();
    let graph = |file: &str, dtype: &str| {
        let bytes = bytes_of(folder, file);
        json!({ "file": file, "dtype": dtype, "bytes": bytes })
    };
    let local = status.local.as_ref();
    let graphs: Vec<Value> = local
        .into_iter()
        .flat_map(|local| &local.graphs)
        .map(|g| graph(&g.file, &g.dtype))
        .collect();
    let captions: Vec<Value> = captions
        .iter()
        .map(|(style, caption)| match caption {
            Ok((caption, confidence)) => {
                json!({ "style": style, "caption": caption, "confidence": confidence })
            }
            Err(failure) => json!({
                "style": style,
                "caption": null,
                "error_class": failure.class.name(),
                "error": text(failure),
            }),
        })
        .collect();
    json!({
        "name": status.name,
        "path": folder,
        "family": status.family,
        "digest": status.digest,
        "bytes": status.bytes,
        "graphs": graphs,
        "remote": status.remote,
        "width": width,
        "height": height,
        "batch_invariant": local.map(|local| local.batch_invariant),
        "min_confidence": status.min_confidence,
        "skipped_graphs": status.skipped_graphs(),
        "suggested_batch": local::suggested_batch(provider),
        "load_seconds": loaded.as_secs_f64(),
        "memory": resident_bytes(),
        "captions": captions,
    })
}

/// Bytes of a graph's file and of its external weights.
fn bytes_of(folder: &Path, file: &str) -> u64 {
    let at =
        if folder.join("onnx").join(file).is_file() { folder.join("onnx") } else { folder.into() };
    let graph = at.join(file);
    let weights = local::external_data(&graph);
    std::iter::once(graph)
        .chain(weights)
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|m| m.len())
        .sum()
}

fn show(report: &Value) {
    let text = |key: &str| report[key].as_str().unwrap_or_default();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    println!(
        "{}: {}, {}, digest {}",
        text("name"),
        text("family"),
        size(number(&report["bytes"])),
        text("digest")
    );
    println!("  {}", text("path"));
    for graph in report["graphs"].as_array().into_iter().flatten() {
        println!(
            "  {} ({}, {})",
            graph["file"].as_str().unwrap_or_default(),
            graph["dtype"].as_str().unwrap_or_default(),
            size(number(&graph["bytes"]))
        );
    }
    for file in report["skipped_graphs"].as_array().into_iter().flatten() {
        println!("  skipped, unusable: {}", file.as_str().unwrap_or_default());
    }
    match report["remote"].is_null() {
        true => show_local(report),
        false => show_remote(&report["remote"]),
    }
    if let Some(confidence) = report["min_confidence"].as_f64() {
        println!("  minimum confidence {confidence:.2}");
    }
    println!("  captions of a drawing (a red ball on grass):");
    for caption in report["captions"].as_array().into_iter().flatten() {
        let style = caption["style"].as_str().unwrap_or_default();
        match (caption["caption"].as_str(), caption["confidence"].as_f64()) {
            (Some(text), Some(confidence)) => {
                println!("    {style}: {text} (confidence {confidence:.2})");
            }
            (Some(text), None) => println!("    {style}: {text}"),
            (None, _) => {
                println!("    {style}: none ({})", caption["error"].as_str().unwrap_or_default());
            }
        }
    }
}

fn show_local(report: &Value) {
    println!(
        "  input {} x {} pixels, {} pictures in a batch; loaded in {:.1} s, {} of memory",
        report["width"],
        report["height"],
        report["suggested_batch"],
        report["load_seconds"].as_f64().unwrap_or_default(),
        size(report["memory"].as_u64().unwrap_or_default())
    );
    println!(
        "  {}",
        match report["batch_invariant"] == true {
            true => "the same picture always gets the same caption",
            false => {
                "a caption may depend on the other pictures of its batch: a graph quantises with \
                 one scale for all of them (DynamicQuantizeLinear)"
            }
        }
    );
}

fn show_remote(remote: &Value) {
    let text = |key: &str| remote[key].as_str().unwrap_or_default();
    println!("  asks {} ({}) for captions of {}", text("server"), text("protocol"), text("model"));
    for lesson in remote["learned"].as_array().into_iter().flatten() {
        println!("  learned: {}", lesson.as_str().unwrap_or_default());
    }
}
