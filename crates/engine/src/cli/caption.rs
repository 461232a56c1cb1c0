//! `pg_caption_engine caption`: files and URLs through the same stages as the server's requests,
//! answers in the order given.

use super::{CaptionArgs, CaptionCommand, inspect, locate};
use crate::answer::{GeneratedCaption, JobAnswer};
use crate::engine::{Engine, EngineOptions};
use crate::job::Job;
use crate::provider::readiness::ProviderState;
use crate::request::{JobExtras, JobSpec, PictureSource};
use indicatif::{ProgressBar, ProgressStyle};
use pg_caption_style::{CaptionStyle, builtin, builtin_names};
use pg_caption_wire::{
    AnswerReuse, ClientRole, ContextFacts, Failure, ImageFacts, ModelRef, OutputSpec, StageTimings,
    TileMode,
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
/// Practically no time limit; each fetch has its own.
const TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Number of pictures from which a progress bar is shown.
const BAR_FROM: usize = 3;

/// Runs it. Returns whether every picture has every caption.
///
/// # Errors
/// Options that contradict each other, no model, output that cannot be written.
pub fn run(options: &CaptionCommand) -> Result<bool, String> {
    let CaptionCommand { of, json } = options;
    let bar = bar(of.pictures.len());
    let mut printer = Printer { json: *json, styles: &of.styles, bar: &bar, all: true };
    each_answer(of, *json, &mut |picture, answer| {
        printer.print(picture, answer).map_err(|e| e.to_string())?;
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(printer.all)
}

/// Captions the pictures and passes each with its answer to `take`, in the order given.
/// `pixels_sha256`: with the hash of each prepared picture.
///
/// # Errors
/// As [`run`], and what `take` returns.
pub fn each_answer(
    options: &CaptionArgs,
    pixels_sha256: bool,
    take: &mut dyn FnMut(&str, JobAnswer) -> Result<(), String>,
) -> Result<(), String> {
    let extras = JobExtras {
        exact: options.exact,
        prompt: options.prompt.clone(),
        generation: generation(options)?,
        pixels_sha256,
        file_name: None,
        apart: true,
    };
    let model = locate::folder_or_default(options.model.as_deref())?;
    let mut config = locate::config(model, options.onnxruntime.as_deref())?;
    // The reference implementation follows the model's folder.
    config.tiles = if options.exact { TileMode::All } else { TileMode::Auto };
    options.settings.apply(&mut config)?;
    let styles = options
        .styles
        .iter()
        .map(|name| {
            let mut style = style(name, &config.model)?;
            if let Some(language) = &options.language {
                style.language = Some(language.as_str().into());
            }
            Ok(style)
        })
        .collect::<Result<Vec<_>, String>>()?;
    let engine = Engine::start(EngineOptions::new(config)).map_err(|e| e.to_string())?;
    match engine.readiness().wait() {
        ProviderState::Failed(failure) => {
            return Err(format!("{}: {}", failure.message, failure.detail.unwrap_or_default()));
        }
        ProviderState::Ready(provider) => {
            for file in provider.status().skipped_graphs() {
                crate::log::line(format_args!("warning: skipped: {file}"));
            }
        }
        ProviderState::Loading => return Err("the model neither loaded nor failed".into()),
    }
    let outputs: Vec<OutputSpec> = styles
        .into_iter()
        .map(|style| OutputSpec {
            style,
            max_tokens: options.max_tokens,
            context: options.context.iter().find_map(|text| ContextFacts::new([("", text)])),
            min_confidence: None,
        })
        .collect();
    let (answers, arrived) = channel();
    let mut waiting: BTreeMap<usize, JobAnswer> = BTreeMap::new();
    let (mut submitted, mut printed) = (0, 0);
    while printed < options.pictures.len() {
        // Submit a window ahead of the printer, so that answers do not pile up behind one slow URL.
        while submitted < options.pictures.len() && submitted < printed + IN_FLIGHT {
            submit(&engine, &options.pictures[submitted], &outputs, &extras, submitted, &answers);
            submitted += 1;
        }
        let (at, answer) = arrived.recv().map_err(|e| e.to_string())?;
        waiting.insert(at, answer);
        while let Some(answer) = waiting.remove(&printed) {
            take(&options.pictures[printed], answer)?;
            printed += 1;
        }
    }
    Ok(())
}

/// A style of the folder, else a built-in one.
fn style(name: &str, folder: &Path) -> Result<CaptionStyle, String> {
    let (mut own, error) = match pg_caption_models::styles_of(folder) {
        Ok(own) => (own, None),
        // With a built-in style the folder is refused when it is loaded.
        Err(error) => (Default::default(), Some(error.to_string())),
    };
    let known = own.remove(name).or_else(|| builtin(name));
    known.ok_or_else(|| {
        if let Some(error) = error {
            return error;
        }
        let all: Vec<&str> =
            builtin_names().into_iter().chain(own.keys().map(String::as_str)).collect();
        format!("unknown style \"{name}\": use {}", all.join(", "))
    })
}

fn generation(options: &CaptionArgs) -> Result<Option<Value>, String> {
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

/// Schemes are case-insensitive, and copied URLs may have spaces around them.
pub fn is_url(picture: &str) -> bool {
    let scheme =
        picture.trim_start().split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

fn submit(
    engine: &Arc<Engine>,
    picture: &str,
    outputs: &[OutputSpec],
    extras: &JobExtras,
    at: usize,
    answers: &Sender<(usize, JobAnswer)>,
) {
    let url = is_url(picture);
    let picture = if url { picture.trim() } else { picture };
    let bytes = if url {
        Ok(None)
    } else {
        inspect::read(Path::new(picture)).map(|bytes| Some((bytes, None)))
    };
    let source = match url {
        true => PictureSource::Url { url: picture.into(), known: None, shown: None },
        false => PictureSource::Bytes { sha256: None },
    };
    let spec = JobSpec {
        connection: 0,
        role: ClientRole::Call,
        timeout: TIMEOUT,
        from_turn: false,
        source,
        outputs: outputs.to_vec(),
        min_confidence: None,
        rules: Arc::default(),
        extras: JobExtras { file_name: (!url).then(|| picture.to_string()), ..extras.clone() },
        earlier: None,
        reuse: AnswerReuse::Nothing,
    };
    let (counted, answers) = (engine.metrics().count_in(), answers.clone());
    let job = Arc::new(Job::new(spec, Instant::now(), move |answer| {
        counted.answered();
        // The receiver lives until every answer has arrived.
        let _ = answers.send((at, answer));
    }));
    match bytes {
        Ok(bytes) => engine.submit(&job, bytes, None),
        Err(failure) => {
            job.answer(JobAnswer::Failed(failure));
        }
    }
}

fn bar(pictures: usize) -> ProgressBar {
    if pictures < BAR_FROM || !io::stderr().is_terminal() {
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
    fn print(&mut self, picture: &str, answer: JobAnswer) -> io::Result<()> {
        let (facts, outputs) = match answer {
            JobAnswer::Done { image, outputs, model, timings, pixels_sha256 } => {
                (Some(Facts { image, model, timings, pixels_sha256 }), outputs)
            }
            JobAnswer::Failed(failure) => (None, vec![Err(failure); self.styles.len()]),
            JobAnswer::Unchanged => (None, Vec::new()),
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
    output: Result<GeneratedCaption, Failure>,
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
    output: Result<GeneratedCaption, Failure>,
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
            if let Some(model) = &c.model {
                add("model", json!(model));
            }
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
