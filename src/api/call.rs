//! The synchronous SQL functions: `caption_image`, `caption_images`, `caption_image_json`.
//!
//! Called by SQL. They wait for the engine, at most `pg_caption.timeout`, and serve interrupts
//! meanwhile.

use crate::engine::requests::{ImageRequest, caption_all};
use crate::pg::report::{self, refuse};
use crate::settings::{self, OnError};
use crate::{api::style, api::value, shared};
use pg_caption_wire::{CaptionOutcome, CaptionOutput, Failure, FailureClass, OutputSpec};
use pgrx::prelude::*;
use pgrx::{AnyElement, JsonB};
use serde_json::{Map, Value, json};
use std::time::Instant;

fn output_spec(style: &str, max_tokens: i32) -> OutputSpec {
    OutputSpec {
        max_tokens: style::max_tokens(max_tokens),
        style: style::resolve(style),
        context: None,
        min_confidence: None,
    }
}

/// Captions all images; raises failures that concern all of them.
fn outcomes(requests: &[ImageRequest<'_>]) -> Vec<CaptionOutcome> {
    shared::require_ready();
    let deadline = Instant::now() + settings::timeout();
    caption_all(requests, settings::min_confidence(), deadline)
        .unwrap_or_else(|failure| report::raise(&failure))
}

fn single_outcome(url: Option<&str>, bytes: &[u8], outputs: &[OutputSpec]) -> CaptionOutcome {
    match outcomes(&[ImageRequest { url, bytes, outputs }]).pop() {
        Some(outcome) => outcome,
        None => pgrx::error!("one image gave no outcome; this is a bug"),
    }
}

/// Reports why a call returns NULL: a notice, a warning or an error, depending on the failure's
/// class and `pg_caption.on_error`.
fn report_failure(failure: &Failure) {
    match (failure.class, settings::on_error()) {
        (FailureClass::Uncertain, _) => report::failure(PgLogLevel::NOTICE, failure),
        (FailureClass::Engine, _) | (_, OnError::Error) => report::raise(failure),
        (_, OnError::Null) => report::failure(PgLogLevel::WARNING, failure),
    }
}

/// One caption of a URL or of bytes.
fn caption(
    url: Option<&str>,
    bytes: &[u8],
    style: Option<&str>,
    max_tokens: Option<i32>,
) -> Option<String> {
    let outputs = [output_spec(style?, max_tokens?)];
    match single_outcome(url, bytes, &outputs) {
        CaptionOutcome::Done { outputs, .. } => match outputs.into_iter().next()? {
            CaptionOutput::Written(written) => return Some(written.caption),
            CaptionOutput::Failed(failure) => report_failure(&failure),
        },
        CaptionOutcome::Failed(failure) => report_failure(&failure),
        CaptionOutcome::Unchanged => report_failure(&Failure::unexpected_304()),
    }
    None
}

/// `caption_image(url, style, max_tokens)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn caption_image_url(
    url: Option<&str>,
    style: Option<&str>,
    max_tokens: Option<i32>,
) -> Option<String> {
    caption(Some(value::bounded_url(url?)), &[], style, max_tokens)
}

/// `caption_image(image, style, max_tokens)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn caption_image_bytes(
    image: Option<AnyElement>,
    style: Option<&str>,
    max_tokens: Option<i32>,
) -> Option<String> {
    let (image, style) = (image?, style?);
    let (bytes, limit) = (value::size(&image) as u64, settings::max_image_size());
    if bytes > limit {
        // The other arguments are checked first, as for any picture.
        output_spec(style, max_tokens?);
        report_failure(&Failure::too_large(bytes, limit));
        return None;
    }
    caption(None, value::read(&image)?, Some(style), max_tokens)
}

/// The part of a row of `caption_images` that depends on the outcome.
#[derive(Default)]
struct ImageRow {
    caption: Option<String>,
    finish_reason: Option<String>,
    confidence: Option<f32>,
    error_class: Option<String>,
    error: Option<String>,
}

impl From<Failure> for ImageRow {
    fn from(failure: Failure) -> Self {
        let error = match failure.detail {
            Some(detail) => format!("{} ({detail})", failure.message),
            None => failure.message,
        };
        ImageRow {
            error_class: Some(failure.class.name().into()),
            error: Some(error),
            ..ImageRow::default()
        }
    }
}

impl From<CaptionOutput> for ImageRow {
    fn from(output: CaptionOutput) -> Self {
        match output {
            CaptionOutput::Written(written) => ImageRow {
                caption: Some(written.caption),
                finish_reason: Some(written.finish.name().into()),
                confidence: written.confidence,
                ..ImageRow::default()
            },
            CaptionOutput::Failed(failure) => failure.into(),
        }
    }
}

impl From<CaptionOutcome> for ImageRow {
    fn from(outcome: CaptionOutcome) -> Self {
        match outcome {
            CaptionOutcome::Done { outputs, .. } => {
                outputs.into_iter().next().map(ImageRow::from).unwrap_or_default()
            }
            CaptionOutcome::Failed(failure) => failure.into(),
            CaptionOutcome::Unchanged => Failure::unexpected_304().into(),
        }
    }
}

/// `caption_images(urls, style, max_tokens)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
#[allow(clippy::type_complexity)]
fn caption_images(
    urls: Array<'_, &str>,
    style: &str,
    max_tokens: i32,
) -> TableIterator<
    'static,
    (
        name!(ord, i32),
        name!(url, Option<String>),
        name!(caption, Option<String>),
        name!(finish_reason, Option<String>),
        name!(confidence, Option<f32>),
        name!(error_class, Option<String>),
        name!(error, Option<String>),
    ),
> {
    let outputs = [output_spec(style, max_tokens)];
    let mut requests: Vec<ImageRequest<'_>> = report::reserved(urls.len());
    let given = urls.iter().flatten().map(value::bounded_url);
    requests.extend(given.map(|url| ImageRequest {
        url: Some(url),
        bytes: &[],
        outputs: &outputs,
    }));
    let mut outcomes = outcomes(&requests).into_iter();
    let mut rows = report::reserved(urls.len());
    rows.extend((1..).zip(urls.iter()).map(|(ord, url)| {
        // A NULL made no request.
        let outcome = url.and_then(|_| outcomes.next());
        let row = outcome.map(ImageRow::from).unwrap_or_default();
        let ImageRow { caption, finish_reason, confidence, error_class, error } = row;
        let url = url.map(|url| value::bounded_url(url).to_owned());
        (ord, url, caption, finish_reason, confidence, error_class, error)
    }));
    TableIterator::new(rows)
}

/// `caption_image_json(url, styles, max_tokens)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn caption_image_json(
    url: Option<&str>,
    styles: Option<Array<'_, &str>>,
    max_tokens: Option<i32>,
) -> Option<JsonB> {
    let (url, styles, max_tokens) = (value::bounded_url(url?), styles?, max_tokens?);
    let mut names: Vec<&str> = report::reserved(styles.len());
    names.extend(styles.iter().flatten());
    if names.is_empty() {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "no caption style given",
            Some("The array styles must name at least one style.".into()),
            None,
        );
    }
    let mut specs = report::reserved(names.len());
    specs.extend(names.iter().map(|style| output_spec(style, max_tokens)));
    let failure = match single_outcome(Some(url), &[], &specs) {
        CaptionOutcome::Done { image, outputs, model, timings } => {
            let outputs = outputs.iter().map(output_json);
            let names = names.into_iter().map(str::to_owned);
            let captions: Map<String, Value> = names.zip(outputs).collect();
            return Some(JsonB(json!({
                "captions": captions,
                "image": image,
                "model": model,
                "milliseconds": timings,
            })));
        }
        CaptionOutcome::Failed(failure) => failure,
        CaptionOutcome::Unchanged => Failure::unexpected_304(),
    };
    report_failure(&failure);
    None
}

fn output_json(output: &CaptionOutput) -> Value {
    match output {
        CaptionOutput::Written(written) => json!({
            "caption": written.caption,
            "finish_reason": written.finish.name(),
            "tokens": written.tokens,
            "confidence": written.confidence,
        }),
        CaptionOutput::Failed(failure) => json!({
            "caption": null,
            "error_class": failure.class.name(),
            "error_code": failure.code,
            "error": failure.message,
            "detail": failure.detail,
        }),
    }
}
