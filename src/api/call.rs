//! The synchronous SQL functions: `caption_image`, `caption_images`, `caption_image_json`.

use crate::engine::requests::{Ask, ask};
use crate::pg::report::{self, refuse};
use crate::settings::{self, OnError};
use crate::{api::style, shared};
use pg_caption_wire::{CaptionOutcome, CaptionOutput, Failure, FailureClass, OutputSpec};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Value, json};
use std::time::Instant;

fn spec(style: &str, max_tokens: i32) -> OutputSpec {
    OutputSpec {
        max_tokens: style::tokens(max_tokens),
        style: style::resolve(style),
        context: None,
    }
}

/// Asks for everything, raising what concerns all of it.
fn outcomes(asks: &[Ask<'_>]) -> Vec<CaptionOutcome> {
    shared::require_ready();
    let deadline = Instant::now() + settings::timeout();
    ask(asks, settings::min_confidence(), deadline)
        .unwrap_or_else(|failure| report::raise(&failure))
}

fn only(url: Option<&str>, bytes: &[u8], outputs: &[OutputSpec]) -> CaptionOutcome {
    match outcomes(&[Ask { url, bytes, outputs }]).pop() {
        Some(outcome) => outcome,
        None => pgrx::error!("one image gave no outcome; this is a bug"),
    }
}

/// NULL with a notice, NULL with a warning, or an error, by class and "pg_caption.on_error".
fn no_caption(failure: &Failure) {
    match (failure.class, settings::on_error()) {
        (FailureClass::Uncertain, _) => report::failure(PgLogLevel::NOTICE, failure),
        (FailureClass::Engine, _) | (_, OnError::Error) => report::raise(failure),
        (_, OnError::Null) => report::failure(PgLogLevel::WARNING, failure),
    }
}

fn caption(
    url: Option<&str>,
    bytes: &[u8],
    style: Option<&str>,
    max_tokens: Option<i32>,
) -> Option<String> {
    let outputs = [spec(style?, max_tokens?)];
    match only(url, bytes, &outputs) {
        CaptionOutcome::Done { outputs, .. } => match outputs.into_iter().next()? {
            CaptionOutput::Written(written) => return Some(written.caption),
            CaptionOutput::Failed(failure) => no_caption(&failure),
        },
        CaptionOutcome::Failed(failure) => no_caption(&failure),
        CaptionOutcome::Unchanged => no_caption(&Failure::unexpected_304()),
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
    let url = url?;
    caption(Some(url), &[], style, max_tokens)
}

/// `caption_image(image, style, max_tokens)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn caption_image_bytes(
    image: Option<&[u8]>,
    style: Option<&str>,
    max_tokens: Option<i32>,
) -> Option<String> {
    let image = image?;
    caption(None, image, style, max_tokens)
}

/// `caption_images(urls, style, max_tokens)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
#[allow(clippy::type_complexity)]
fn caption_images(
    urls: Vec<Option<String>>,
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
    let outputs = [spec(style, max_tokens)];
    let asks: Vec<Ask<'_>> = urls
        .iter()
        .flatten()
        .map(|url| Ask { url: Some(url), bytes: &[], outputs: &outputs })
        .collect();
    let mut answers = outcomes(&asks).into_iter();
    let rows: Vec<_> = urls
        .iter()
        .enumerate()
        .map(|(at, url)| {
            let (mut text, mut finish, mut confidence, mut class, mut error) =
                (None, None, None, None, None);
            let mut failed = |failure: Failure| {
                class = Some(failure.class.name().to_string());
                error = Some(match failure.detail {
                    Some(detail) => format!("{} ({detail})", failure.message),
                    None => failure.message,
                });
            };
            match url.as_ref().and_then(|_| answers.next()) {
                None => {}
                Some(CaptionOutcome::Done { outputs, .. }) => match outputs.into_iter().next() {
                    Some(CaptionOutput::Written(written)) => {
                        text = Some(written.caption);
                        finish = Some(written.finish.name().to_string());
                        confidence = Some(written.confidence);
                    }
                    Some(CaptionOutput::Failed(failure)) => failed(failure),
                    None => {}
                },
                Some(CaptionOutcome::Failed(failure)) => failed(failure),
                Some(CaptionOutcome::Unchanged) => failed(Failure::unexpected_304()),
            }
            (at as i32 + 1, url.clone(), text, finish, confidence, class, error)
        })
        .collect();
    TableIterator::new(rows)
}

/// `caption_image_json(url, styles, max_tokens)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn caption_image_json(
    url: Option<&str>,
    styles: Option<Vec<Option<String>>>,
    max_tokens: Option<i32>,
) -> Option<JsonB> {
    let (url, styles, max_tokens) = (url?, styles?, max_tokens?);
    let styles: Vec<String> = styles.into_iter().flatten().collect();
    if styles.is_empty() {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "no caption style given",
            Some("styles must name at least one style.".into()),
            None,
        );
    }
    let specs: Vec<OutputSpec> = styles.iter().map(|style| spec(style, max_tokens)).collect();
    match only(Some(url), &[], &specs) {
        CaptionOutcome::Done { image, outputs, model, timings } => {
            let captions: serde_json::Map<String, Value> = styles
                .iter()
                .zip(outputs)
                .map(|(style, output)| (style.clone(), output_json(&output)))
                .collect();
            Some(JsonB(
                json!({ "captions": captions, "image": image, "model": model, "milliseconds": timings }),
            ))
        }
        CaptionOutcome::Failed(failure) => {
            no_caption(&failure);
            None
        }
        CaptionOutcome::Unchanged => {
            no_caption(&Failure::unexpected_304());
            None
        }
    }
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
