//! The synchronous SQL functions: `caption_image`, `caption_images`, `caption_image_json`.
//!
//! Called by SQL. They wait for the engine, at most `pg_caption.timeout` for a picture, and serve
//! interrupts meanwhile.

use crate::api::context::CallContext;
use crate::engine::requests::{ImageRequest, TimeLimit, caption_all};
use crate::pg::call_reports;
use crate::pg::report::{self, refuse};
use crate::settings::{self, OnError};
use crate::{api::language, api::rule, api::style, api::value, lookahead, shared, worker};
use pg_caption_style::CaptionStyle;
use pg_caption_wire::{
    CaptionOutcome, CaptionOutput, ContextFacts, Failure, FailureClass, OutputSpec,
};
use pgrx::prelude::*;
use pgrx::{AnyElement, JsonB};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Bytes of an unknown value that an error shows.
const MAX_SHOWN: usize = 200;

fn output_spec(style: &str, max_tokens: i32, context: Option<ContextFacts>) -> OutputSpec {
    let max_tokens = style::max_tokens(max_tokens);
    let style = style::resolve(style);
    language::require(&style);
    spec_of(style, max_tokens, context)
}

/// What a call asks for. Requests ahead of a row's turn are compared with it.
pub fn spec_of(style: CaptionStyle, max_tokens: u32, context: Option<ContextFacts>) -> OutputSpec {
    OutputSpec { style, max_tokens, context, min_confidence: None }
}

/// Captions all images; raises failures that concern all of them.
fn outcomes(requests: &[ImageRequest<'_>], limit: TimeLimit) -> Vec<CaptionOutcome> {
    shared::require_ready();
    let outcomes = caption_all(requests, settings::min_confidence(), &rule::current(), limit);
    worker::announce_usage();
    outcomes.unwrap_or_else(|failure| report::raise(&failure))
}

fn single_outcome(url: Option<&str>, bytes: &[u8], outputs: &[OutputSpec]) -> CaptionOutcome {
    if let [output] = outputs
        && let Some(outcome) = lookahead::answer(url, bytes, output)
    {
        return outcome;
    }
    let limit = TimeLimit::Whole(settings::timeout());
    match outcomes(&[ImageRequest { url, bytes, outputs }], limit).pop() {
        Some(outcome) => outcome,
        None => pgrx::error!("one image gave no outcome; this is a bug"),
    }
}

/// The argument `on_error`; NULL: the setting.
fn on_error(argument: Option<&str>) -> OnError {
    argument.map_or_else(settings::on_error, |name| {
        OnError::named(name).unwrap_or_else(|| {
            let shown = &name[..name.floor_char_boundary(MAX_SHOWN)];
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("invalid value for on_error: \"{shown}\""),
                None,
                Some("Available values: error, null.".into()),
            )
        })
    })
}

/// Reports why a call returns NULL: a notice, a warning or an error, depending on the failure's
/// class and `on_error`.
fn report_failure(failure: &Failure, on_error: OnError) {
    match (failure.class, on_error) {
        (FailureClass::Uncertain, _) => call_reports::report(PgLogLevel::NOTICE, failure),
        (FailureClass::Engine, _) | (_, OnError::Error) => report::raise(failure),
        (_, OnError::Null) => call_reports::report(PgLogLevel::WARNING, failure),
    }
}

/// One caption of a URL or of bytes.
fn caption(
    url: Option<&str>,
    bytes: &[u8],
    style: Option<&str>,
    max_tokens: Option<i32>,
    on_error: OnError,
    context: &CallContext,
) -> Option<String> {
    let outputs = [output_spec(style?, max_tokens?, context.facts())];
    match single_outcome(url, bytes, &outputs) {
        CaptionOutcome::Done { outputs: captions, .. } => match captions.into_iter().next()? {
            CaptionOutput::Written(written) => {
                return Some(context.render(written.caption, &outputs[0].style));
            }
            CaptionOutput::Failed(failure) => report_failure(&failure, on_error),
        },
        CaptionOutcome::Failed(failure) => report_failure(&failure, on_error),
        CaptionOutcome::Unchanged => report_failure(&Failure::unexpected_304(), on_error),
    }
    None
}

/// `caption_image(url, style, max_tokens, on_error, context)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn caption_image_url(
    url: Option<&str>,
    style: Option<&str>,
    max_tokens: Option<i32>,
    on_error: Option<&str>,
    context: Option<AnyElement>,
) -> Option<String> {
    let (url, on_error) = (value::url(url?), self::on_error(on_error));
    let context = CallContext::read(context.as_ref());
    caption(Some(url?), &[], style, max_tokens, on_error, &context)
}

/// `caption_image(image, style, max_tokens, on_error, context)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
fn caption_image_bytes(
    image: Option<AnyElement>,
    style: Option<&str>,
    max_tokens: Option<i32>,
    on_error: Option<&str>,
    context: Option<AnyElement>,
) -> Option<String> {
    let (image, style, on_error) = (image?, style?, self::on_error(on_error));
    let context = CallContext::read(context.as_ref());
    let (bytes, limit) = (value::size(&image) as u64, settings::max_image_size());
    if bytes > limit {
        // The other arguments are checked first, as for any picture.
        output_spec(style, max_tokens?, None);
        report_failure(&Failure::too_large(bytes, limit), on_error);
        return None;
    }
    caption(None, value::read(&image)?, Some(style), max_tokens, on_error, &context)
}

/// The part of a row of `caption_images` that depends on the outcome.
#[derive(Default)]
struct ImageRow {
    caption: Option<String>,
    finish_reason: Option<String>,
    confidence: Option<f32>,
    error_class: Option<String>,
    error: Option<String>,
    error_code: Option<String>,
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
            error_code: Some(failure.code),
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

/// The argument `timeout_ms`; NULL: the setting.
fn timeout(argument: Option<i32>) -> Duration {
    match argument.map(u64::try_from) {
        None => settings::timeout(),
        Some(Ok(milliseconds @ 1..)) => Duration::from_millis(milliseconds),
        Some(_) => refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "timeout_ms must be positive",
            None,
            Some("It is in milliseconds; NULL means pg_caption.timeout.".into()),
        ),
    }
}

/// `caption_images(urls, style, max_tokens, timeout_ms)`.
#[pg_extern(sql = false, volatile, parallel_safe)]
#[allow(clippy::type_complexity)]
fn caption_images(
    urls: Option<Array<'_, &str>>,
    style: Option<&str>,
    max_tokens: Option<i32>,
    timeout_ms: Option<i32>,
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
        name!(error_code, Option<String>),
    ),
> {
    let (Some(urls), Some(style), Some(max_tokens)) = (urls, style, max_tokens) else {
        return TableIterator::new([]);
    };
    let limit = TimeLimit::Each(timeout(timeout_ms));
    let outputs = [output_spec(style, max_tokens, None)];
    let mut requests: Vec<ImageRequest<'_>> = report::reserved(urls.len());
    let given = urls.iter().flatten().filter_map(value::url);
    requests.extend(given.map(|url| ImageRequest {
        url: Some(url),
        bytes: &[],
        outputs: &outputs,
    }));
    let mut outcomes = outcomes(&requests, limit).into_iter();
    let mut rows = report::reserved(urls.len());
    rows.extend((1..).zip(urls.iter()).map(|(ord, url)| {
        // A NULL or blank made no request.
        let outcome = url.and_then(value::url).and_then(|_| outcomes.next());
        let row = outcome.map(ImageRow::from).unwrap_or_default();
        let ImageRow { caption, finish_reason, confidence, error_class, error, error_code } = row;
        let url = url.map(|url| value::bounded_url(url).to_owned());
        (ord, url, caption, finish_reason, confidence, error_class, error, error_code)
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
    let (url, styles, max_tokens) = (value::url(url?)?, styles?, max_tokens?);
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
    specs.extend(names.iter().map(|style| output_spec(style, max_tokens, None)));
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
    report_failure(&failure, settings::on_error());
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
