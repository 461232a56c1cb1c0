//! `caption.preview`: captions of a random sample of rows, as a watch would write them.
//!
//! Called by SQL. Reads rows and fetches pictures for the caller, and writes nothing.

use super::arguments::require_value;
use super::dry_run::{DryArguments, DryFill, DryRun};
use super::{pin_path, register};
use crate::api::rule;
use crate::engine::requests::{ImageRequest, TimeLimit, caption_all};
use crate::pg::report::{self, refuse, select_one, spi};
use crate::pg::{sign_function, table_key};
use crate::{settings, shared};
use pg_caption_publish::{MAX_READ, cell_text};
use pg_caption_queue::{MAX_URL_CHARS, resolve_url};
use pg_caption_wire::{CaptionOutcome, CaptionOutput, ContextFacts, Failure, OutputSpec};
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};
use pgrx::{AnyElement, JsonB};
use std::collections::{BTreeMap, BTreeSet};

/// Most rows of a sample.
const MAX_SAMPLE: i32 = 1000;

/// A row of the sample.
struct SampleRow {
    key: JsonB,
    /// The value of the column, where it holds URLs.
    url: Option<String>,
    /// The picture; `None`: it is larger than permitted.
    picture: Option<Vec<u8>>,
    /// The size of the picture, bytes.
    size: i64,
    /// Words of the row by column.
    words: BTreeMap<String, String>,
}

/// A row of the result.
type PreviewRow =
    (JsonB, String, Option<String>, Option<String>, Option<f32>, Option<String>, Option<String>);

/// `caption.preview(relation, image, fills, sample, condition, base_url)`.
#[pg_extern(sql = false, volatile)]
#[allow(clippy::type_complexity)]
fn preview(
    relation: Option<pg_sys::Oid>,
    image: Option<&str>,
    fills: Option<AnyElement>,
    sample: Option<i32>,
    condition: Option<&str>,
    base_url: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(key, JsonB),
        name!(column_name, String),
        name!(text, Option<String>),
        name!(source, Option<String>),
        name!(confidence, Option<f32>),
        name!(code, Option<String>),
        name!(failure, Option<String>),
    ),
> {
    shared::require_ready();
    let (pinned, caller_path) = pin_path();
    let sample = require_sample(sample);
    let arguments = DryArguments { relation, image, fills, condition, base_url };
    let run = DryRun::new(arguments, &caller_path);
    let rows = match run.holds_pictures {
        // One picture at a time is in memory.
        true => read(&run, sample, 1, |rows| captioned(&run, rows)),
        false => read(&run, sample, i64::from(sample), |rows| captioned(&run, rows)),
    };
    drop(pinned);
    TableIterator::new(rows)
}

fn require_sample(sample: Option<i32>) -> i32 {
    let hint = format!("It is a number of rows, 1 to {MAX_SAMPLE}.");
    let sample = require_value(sample, "sample", &hint);
    if !(1..=MAX_SAMPLE).contains(&sample) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("sample {sample} is out of range"),
            None,
            Some(hint),
        );
    }
    sample
}

/// The columns whose words are needed: of the context, and of templates.
fn word_columns(run: &DryRun) -> Vec<String> {
    let templates = run.fills.iter().map(|fill| &fill.templates);
    let named = templates.flat_map(|templates| templates.columns()).map(String::from);
    let columns: BTreeSet<String> = named.chain(run.options.context.iter().cloned()).collect();
    columns.into_iter().collect()
}

/// Reads the sample and passes it on, some rows at a time.
fn read(
    run: &DryRun,
    sample: i32,
    at_a_time: i64,
    mut pass_on: impl FnMut(Vec<SampleRow>) -> Vec<PreviewRow>,
) -> Vec<PreviewRow> {
    let columns = word_columns(run);
    let statement = sample_statement(run, &columns);
    let mut found = Vec::new();
    spi(Spi::connect(|client| {
        let mut cursor = client.try_open_cursor(statement.as_str(), &[sample.into()])?;
        loop {
            let rows = cursor.fetch(at_a_time)?.map(|row| {
                let words: Vec<Option<String>> = row.get(5)?.unwrap_or_default();
                let words = columns.iter().cloned().zip(words);
                Ok(SampleRow {
                    key: row.get(1)?.unwrap_or(JsonB(serde_json::Value::Null)),
                    url: row.get(2)?,
                    picture: row.get(3)?,
                    size: row.get(4)?.unwrap_or(0),
                    words: words.filter_map(|(column, word)| Some((column, word?))).collect(),
                })
            });
            let rows = rows.collect::<Result<Vec<SampleRow>, pgrx::spi::Error>>()?;
            if rows.is_empty() {
                return Ok::<_, pgrx::spi::Error>(());
            }
            found.extend(pass_on(rows));
        }
    }));
    found
}

fn sample_statement(run: &DryRun, columns: &[String]) -> String {
    let recorded = register::keys(run.table.oid);
    let keys = if recorded.is_empty() { table_key::key(&run.table) } else { recorded };
    let key = |name: &String| format!("{}, t.{}", quote_literal(name), quote_identifier(name));
    let key: Vec<String> = keys.iter().map(key).collect();
    let word = |name: &String| format!("left(t.{}::text, {MAX_READ})", quote_identifier(name));
    let words: Vec<String> = columns.iter().map(word).collect();
    let image = run.image();
    let (url, picture, size) = match run.holds_pictures {
        true => (
            "NULL::text".into(),
            format!(
                "CASE WHEN octet_length({image}) <= {} THEN {image}::bytea END",
                settings::max_image_size()
            ),
            format!("octet_length({image})::bigint"),
        ),
        false => (
            format!("left({image}::text, {MAX_URL_CHARS})"),
            "NULL::bytea".into(),
            "0::bigint".into(),
        ),
    };
    // Drawn before pictures are read.
    format!(
        "SELECT jsonb_build_object({}), {url}, {picture}, {size}, ARRAY[{}]::text[] \
           FROM (SELECT * FROM {} ORDER BY random() LIMIT $1) AS t",
        key.join(", "),
        words.join(", "),
        run.rows()
    )
}

/// Captions some rows of the sample.
fn captioned(run: &DryRun, rows: Vec<SampleRow>) -> Vec<PreviewRow> {
    let urls: Vec<Option<String>> = rows.iter().map(|row| address(run, row)).collect();
    let outputs: Vec<Vec<OutputSpec>> = rows.iter().map(|row| outputs(run, row)).collect();
    let request = |at: usize| {
        let row = &rows[at];
        let bytes = row.picture.as_deref().unwrap_or_default();
        ImageRequest { url: urls[at].as_deref(), bytes, outputs: &outputs[at] }
    };
    // A signed URL may be NULL, and a picture too large: nothing is requested for these.
    let asked: Vec<usize> =
        (0..rows.len()).filter(|at| urls[*at].is_some() || rows[*at].picture.is_some()).collect();
    let requests: Vec<ImageRequest<'_>> = asked.iter().copied().map(request).collect();
    let limit = TimeLimit::Each(settings::timeout());
    let outcomes = caption_all(&requests, settings::min_confidence(), &rule::current(), limit)
        .unwrap_or_else(|failure| report::raise(&failure));
    let mut outcomes = outcomes.into_iter();
    let mut found = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let outcome = if asked.contains(&at) { outcomes.next() } else { None };
        for (number, fill) in run.fills.iter().enumerate() {
            found.push(preview_row(row, fill, result_of(run, row, outcome.as_ref(), number)));
        }
    }
    found
}

/// The address of a row's picture; `None`: the picture itself is in the column, or the signing
/// function returns none.
fn address(run: &DryRun, row: &SampleRow) -> Option<String> {
    let url = row.url.clone()?;
    let url = match &run.options.sign {
        None => url,
        Some(signature) => {
            sign_function::find(signature)?;
            let call = sign_function::call(signature);
            let statement = format!("SELECT left({call}, {MAX_URL_CHARS})");
            let signed: Option<String> = select_one(&statement, &[url.into()]);
            signed.filter(|signed| !signed.trim().is_empty())?
        }
    };
    Some(match &run.options.base_url {
        Some(base) => resolve_url(base, &url),
        None => url,
    })
}

fn outputs(run: &DryRun, row: &SampleRow) -> Vec<OutputSpec> {
    let context = run.options.context.iter();
    let facts = context.filter_map(|column| Some((column, cell_text(row.words.get(column)?))));
    let facts = ContextFacts::new(facts);
    let output = |fill: &DryFill| OutputSpec {
        style: fill.style.clone(),
        max_tokens: fill.max_tokens,
        context: facts.clone(),
        min_confidence: fill.min_confidence,
    };
    run.fills.iter().map(output).collect()
}

/// The caption of a fill, or why it has no caption.
fn result_of(
    run: &DryRun,
    row: &SampleRow,
    outcome: Option<&CaptionOutcome>,
    fill: usize,
) -> Result<(String, Option<f32>), Failure> {
    match outcome {
        Some(CaptionOutcome::Done { outputs, .. }) => match outputs.get(fill) {
            Some(CaptionOutput::Written(written)) => {
                Ok((written.caption.clone(), written.confidence))
            }
            Some(CaptionOutput::Failed(failure)) => Err(failure.clone()),
            None => Err(Failure::unexpected_304()),
        },
        Some(CaptionOutcome::Failed(failure)) => Err(failure.clone()),
        Some(CaptionOutcome::Unchanged) => Err(Failure::unexpected_304()),
        None if run.holds_pictures => {
            Err(Failure::too_large(row.size as u64, settings::max_image_size()))
        }
        None => Err(Failure::new(
            pg_caption_wire::FailureClass::Reject,
            "sign_failed",
            "the signing function returns no URL",
        )
        .hint("Correct the function or the value.")),
    }
}

fn preview_row(
    row: &SampleRow,
    fill: &DryFill,
    result: Result<(String, Option<f32>), Failure>,
) -> PreviewRow {
    let (key, column) = (JsonB(row.key.0.clone()), fill.column.clone());
    match result {
        Ok((caption, confidence)) => {
            let text = match &fill.templates.caption {
                Some(template) => template.render(&caption, &row.words, &fill.style.rules),
                None => caption,
            };
            (key, column, Some(text), Some("model".into()), confidence, None, None)
        }
        Err(failure) => {
            let fallback = fill.templates.fallback.as_ref();
            let text = fallback.and_then(|f| f.fallback(&row.words, &fill.style.rules));
            let source = text.as_ref().map(|_| "fallback".to_owned());
            (key, column, text, source, None, Some(failure.code), Some(failure.message))
        }
    }
}
