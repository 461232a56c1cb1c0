//! `pg_caption_engine caption`: files and URLs through the same stages as the server's requests,
//! answers in the order given.

use super::{Caption, inspect, locate};
use crate::engine::Engine;
use crate::job::{Answer, Captioned, Extras, Job, Order, Source, Want};
use crate::readiness::State;
use indicatif::{ProgressBar, ProgressStyle};
use pg_caption_style::{CaptionStyle, builtin, builtin_names};
use pg_caption_wire::{
    ClientRole, EngineConfig, Failure, ImageFacts, ModelRef, StageTimings, TileMode,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Pictures in flight: enough to fill batches, few enough to hold their files in memory.
const IN_FLIGHT: usize = 64;
/// The command line waits as long as it takes; each fetch has its own limit.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// From so many pictures on a progress bar is worth its line.
const MANY: usize = 3;

/// Runs it; whether every picture got every caption.
///
/// # Errors
/// Options that contradict each other, no model, output that cannot be written.
pub fn run(options: &Caption) -> Result<bool, String> {
    let extras = Extras {
        exact: options.exact,
        prompt: options.prompt.clone(),
        generation: generation(options)?,
        pixels_sha256: options.json,
        file_name: None,
    };
    let mut config = EngineConfig {
        model: match &options.model {
            Some(dir) => absolute(dir)?,
            None => locate::model()?,
        },
        onnxruntime: match &options.onnxruntime {
            Some(path) => absolute(path)?,
            None => locate::library()?,
        },
        // The reference implementation follows the model's folder.
        tiles: if options.exact { TileMode::All } else { TileMode::Auto },
        ..EngineConfig::default()
    };
    options.settings.apply(&mut config)?;
    let styles = options
        .styles
        .iter()
        .map(|name| style(name, &config.model))
        .collect::<Result<Vec<_>, _>>()?;
    let engine = Engine::start(config, Vec::new()).map_err(|e| e.to_string())?;
    match engine.readiness().wait() {
        State::Failed(failure) => {
            return Err(format!("{}: {}", failure.message, failure.detail.unwrap_or_default()));
        }
        State::Ready(preparer) => preparer
            .status()
            .passed_over
            .iter()
            .for_each(|file| crate::log::line(format_args!("warning: passed over: {file}"))),
        State::Loading => return Err("the model neither loaded nor failed".into()),
    }
    let wants: Vec<Want> = styles
        .into_iter()
        .map(|style| Want {
            style,
            max_tokens: options.max_tokens,
            context: options.context.clone(),
        })
        .collect();
    let bar = bar(options.pictures.len());
    let mut printer = Printer { json: options.json, styles: &options.styles, bar: &bar, all: true };

    let (answers, arrived) = channel();
    let mut waiting: BTreeMap<usize, Answer> = BTreeMap::new();
    let (mut submitted, mut printed) = (0, 0);
    while printed < options.pictures.len() {
        // Read ahead of the printer by a window, so that one slow URL does not gather every answer
        // behind it.
        while submitted < options.pictures.len() && submitted < printed + IN_FLIGHT {
            submit(&engine, &options.pictures[submitted], &wants, &extras, submitted, &answers);
            submitted += 1;
        }
        let (at, answer) = arrived.recv().map_err(|e| e.to_string())?;
        waiting.insert(at, answer);
        while let Some(answer) = waiting.remove(&printed) {
            printer.print(&options.pictures[printed], answer).map_err(|e| e.to_string())?;
            bar.inc(1);
            printed += 1;
        }
    }
    bar.finish_and_clear();
    Ok(printer.all)
}

/// A style of the folder, else a built-in one.
fn style(name: &str, folder: &Path) -> Result<CaptionStyle, String> {
    let (mut own, broken) = match pg_caption_models::styles_of(folder) {
        Ok(own) => (own, None),
        // With a built-in style it is refused when it is loaded, like every folder that cannot be
        // read.
        Err(error) => (Default::default(), Some(error.to_string())),
    };
    let known = own.remove(name).or_else(|| builtin(name));
    known.ok_or_else(|| {
        if let Some(broken) = broken {
            return broken;
        }
        let all: Vec<&str> =
            builtin_names().into_iter().chain(own.keys().map(String::as_str)).collect();
        format!("unknown style \"{name}\": use {}", all.join(", "))
    })
}

fn generation(options: &Caption) -> Result<Option<Value>, String> {
    let mut overrides = match &options.generation {
        None => serde_json::Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|e| format!("--generation is not a JSON object: {e}"))?,
    };
    if options.greedy {
        overrides.insert("num_beams".into(), 1.into());
        overrides.insert("do_sample".into(), false.into());
    }
    Ok((!overrides.is_empty()).then_some(Value::Object(overrides)))
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, String> {
    path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))
}

/// Schemes are written in any case, and what is copied comes with blanks.
fn is_url(picture: &str) -> bool {
    let scheme =
        picture.trim_start().split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

fn submit(
    engine: &Arc<Engine>,
    picture: &str,
    wants: &[Want],
    extras: &Extras,
    at: usize,
    answers: &Sender<(usize, Answer)>,
) {
    let url = is_url(picture);
    let picture = if url { picture.trim() } else { picture };
    let bytes = if url {
        Ok(None)
    } else {
        inspect::read(Path::new(picture)).map(|bytes| Some((bytes, None)))
    };
    let source = match url {
        true => Source::Url { url: picture.into(), known: None },
        false => Source::Bytes { sha256: None },
    };
    let order = Order {
        connection: 0,
        role: ClientRole::Call,
        patience: PATIENCE,
        source,
        wants: wants.to_vec(),
        min_confidence: None,
        extras: Extras { file_name: (!url).then(|| picture.to_string()), ..extras.clone() },
    };
    let (counted, answers) = (engine.count_in(), answers.clone());
    let job = Arc::new(Job::new(order, Instant::now(), move |answer| {
        counted.answered();
        // The receiver lives until every answer is in.
        let _ = answers.send((at, answer));
    }));
    match bytes {
        Ok(bytes) => engine.submit(&job, bytes, None),
        Err(failure) => {
            job.answer(Answer::Failed(failure));
        }
    }
}

fn bar(pictures: usize) -> ProgressBar {
    if pictures < MANY || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} pictures, {per_sec}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(pictures as u64).with_style(style)
}

struct Printer<'a> {
    json: bool,
    styles: &'a [String],
    bar: &'a ProgressBar,
    all: bool,
}

impl Printer<'_> {
    fn print(&mut self, picture: &str, answer: Answer) -> io::Result<()> {
        let (facts, outputs) = match answer {
            Answer::Done { image, outputs, model, timings, pixels_sha256 } => {
                (Some(Facts { image, model, timings, pixels_sha256 }), outputs)
            }
            Answer::Failed(failure) => (None, vec![Err(failure); self.styles.len()]),
            Answer::Unchanged => (None, Vec::new()),
        };
        for (style, output) in self.styles.iter().zip(outputs) {
            let (text, written) = if self.json {
                as_json(picture, style, facts.as_ref(), output)
            } else {
                as_text(picture, style, output, self.styles.len() > 1)
            };
            self.all &= written;
            self.bar.suspend(|| writeln!(io::stdout(), "{text}"))?;
        }
        Ok(())
    }
}

struct Facts {
    image: ImageFacts,
    model: ModelRef,
    timings: StageTimings,
    pixels_sha256: Option<String>,
}

fn as_text(
    picture: &str,
    style: &str,
    output: Result<Captioned, Failure>,
    named: bool,
) -> (String, bool) {
    let label = if named { format!("{picture} [{style}]") } else { picture.to_string() };
    match output.and_then(|c| c.caption) {
        Ok(caption) => (format!("{label}: {caption}"), true),
        Err(failure) => {
            let detail = failure.detail.map(|d| format!(" ({d})")).unwrap_or_default();
            (format!("{label}: {}: {}{detail}", failure.class.name(), failure.message), false)
        }
    }
}

fn as_json(
    picture: &str,
    style: &str,
    facts: Option<&Facts>,
    output: Result<Captioned, Failure>,
) -> (String, bool) {
    let mut object = json!({ "file": picture, "style": style });
    let mut add =
        |key: &str, value: Value| drop(object.as_object_mut().map(|o| o.insert(key.into(), value)));
    if let Some(facts) = facts {
        add("image", json!(facts.image));
        add("model", json!(facts.model));
        add("ms", json!(facts.timings));
        add("pixels_sha256", json!(facts.pixels_sha256));
    }
    let failure = match output {
        Err(failure) => Some(failure),
        Ok(c) => {
            add("text_raw", json!(c.text_raw));
            add("ids", json!(c.ids));
            add("prompt_ids", json!(c.prompt_ids));
            add("finish_reason", json!(c.finish.name()));
            add("confidence", json!(c.confidence));
            match c.caption {
                Ok(caption) => {
                    add("caption", json!(caption));
                    None
                }
                Err(failure) => Some(failure),
            }
        }
    };
    if let Some(failure) = &failure {
        add("caption", Value::Null);
        add("error_class", json!(failure.class.name()));
        add("error_code", json!(failure.code));
        add("error", json!(failure.message));
        add("detail", json!(failure.detail));
        add("hint", json!(failure.hint));
    }
    (object.to_string(), failure.is_none())
}
