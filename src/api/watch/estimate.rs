//! `caption.estimate`: how many rows a watch would fill, how long that takes, and what a model
//! server costs.
//!
//! Called by SQL. Counts rows with the rights of the caller; fetches nothing.

use super::dry_run::{DryArguments, DryFill, DryRun};
use super::pin_path;
use crate::engine::{client, model_status};
use crate::pg::report::spi;
use crate::{settings, shared};
use pg_caption_models::{CascadeSettings, FolderGuard, RemoteSettings, is_cascade, is_remote};
use pg_caption_queue::MAX_URL_CHARS;
use pg_caption_wire::EngineStatus;
use pgrx::AnyElement;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use std::path::Path;

/// Answers from which the speed of the engine is known.
const LEAST_ANSWERED: u64 = 5;
/// Pixels of a side that count as one token: common models cut pictures into patches of this size.
const PATCH: u64 = 28;
/// Characters of a token, roughly.
const CHARS_PER_TOKEN: u64 = 4;

/// Rows to fill, and different pictures in them.
struct RowCounts {
    rows: i64,
    pictures: i64,
}

/// What a model server is asked, and its price.
#[derive(Default)]
struct ServerUse {
    requests: i64,
    input_tokens: i64,
    output_tokens: i64,
    cost: Option<f64>,
    /// Shortest time that its limit of requests allows, minutes.
    minutes: f64,
}

/// `caption.estimate(relation, image, fills, condition)`.
#[pg_extern(sql = false, volatile)]
#[allow(clippy::type_complexity)]
fn estimate(
    relation: Option<pg_sys::Oid>,
    image: Option<&str>,
    fills: Option<AnyElement>,
    condition: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(rows, i64),
        name!(pictures, i64),
        name!(duration, Option<Interval>),
        name!(model, String),
        name!(requests, Option<i64>),
        name!(input_tokens, Option<i64>),
        name!(output_tokens, Option<i64>),
        name!(cost, Option<f64>),
    ),
> {
    shared::require_ready();
    let (pinned, caller_path) = pin_path();
    let arguments = DryArguments { relation, image, fills, condition, base_url: None };
    let run = DryRun::new(arguments, &caller_path);
    let counts = count(&run);
    drop(pinned);
    let folder = model_status::read().serving.unwrap_or_else(settings::model);
    let status = client::status().ok();
    let server = server_of(&folder).map(|server| server_use(&server, &run, &counts, &status));
    let duration = seconds(&counts, &status, server.as_ref());
    let duration = duration.and_then(|s| Interval::new(0, 0, (s * 1e6).round() as i64).ok());
    let model = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    TableIterator::once((
        counts.rows,
        counts.pictures,
        duration,
        model.unwrap_or_default(),
        server.as_ref().map(|server| server.requests),
        server.as_ref().map(|server| server.input_tokens),
        server.as_ref().map(|server| server.output_tokens),
        server.and_then(|server| server.cost),
    ))
}

fn count(run: &DryRun) -> RowCounts {
    let image = run.image();
    let picture = match run.holds_pictures {
        true => format!("sha256({image}::bytea)"),
        false => format!("left({image}::text, {MAX_URL_CHARS})"),
    };
    let statement = format!(
        "SELECT count(*), count(DISTINCT {picture}) FROM {} AND {}",
        run.rows(),
        run.has_empty()
    );
    spi(Spi::connect(|client| {
        let row = client.select(&statement, Some(1), &[])?.first();
        Ok::<_, pgrx::spi::Error>(RowCounts {
            rows: row.get(1)?.unwrap_or(0),
            pictures: row.get(2)?.unwrap_or(0),
        })
    }))
}

/// The server of a folder's model, or of the second model of a cascade.
fn server_of(folder: &Path) -> Option<RemoteSettings> {
    let models = settings::models_directory();
    let guard = || FolderGuard::new(folder, &models, None).ok();
    if is_cascade(folder) {
        let [first, second] = CascadeSettings::of_folder(&guard()?).ok()?.folders(&models).ok()?;
        return [second, first]
            .iter()
            .filter(|folder| is_remote(folder))
            .find_map(|f| server_of(f));
    }
    if !is_remote(folder) {
        return None;
    }
    RemoteSettings::of_folder(&guard()?).ok()
}

/// A request for each caption. The server sees no other picture of a row with another context.
fn server_use(
    server: &RemoteSettings,
    run: &DryRun,
    counts: &RowCounts,
    status: &Option<EngineStatus>,
) -> ServerUse {
    let has_context = server.send_context && !run.options.context.is_empty();
    let pictures = if has_context { counts.rows } else { counts.pictures };
    let mut asked: Vec<&DryFill> = Vec::new();
    for fill in &run.fills {
        let is_same =
            |other: &&DryFill| (&other.style, other.max_tokens) == (&fill.style, fill.max_tokens);
        if !asked.iter().any(is_same) {
            asked.push(fill);
        }
    }
    let mut of = ServerUse::default();
    for fill in asked {
        let (input, output) =
            measured(status, &fill.style.name).unwrap_or_else(|| guessed(server, fill));
        of.requests += pictures;
        of.input_tokens += (pictures as f64 * input).round() as i64;
        of.output_tokens += (pictures as f64 * output).round() as i64;
    }
    let price = &server.price;
    let cost = of.requests as f64 * price.per_request
        + of.input_tokens as f64 / 1e6 * price.input_per_million
        + of.output_tokens as f64 / 1e6 * price.output_per_million;
    let has_price = *price != pg_caption_models::RemotePrice::default();
    of.cost = has_price.then_some(cost);
    of.minutes =
        server.requests_per_minute.map_or(0.0, |most| of.requests as f64 / f64::from(most));
    of
}

/// Tokens of a request and of its answer, as the server counted them for this style.
fn measured(status: &Option<EngineStatus>, style: &str) -> Option<(f64, f64)> {
    let usage = &status.as_ref()?.model.as_ref()?.remote.as_ref()?.usage;
    let of_style = usage.iter().filter(|usage| usage.style == style);
    let (mut requests, mut input, mut output) = (0, 0, 0);
    for usage in of_style {
        requests += usage.requests;
        input += usage.input_tokens;
        output += usage.output_tokens;
    }
    let of = |tokens: u64| tokens as f64 / requests as f64;
    (requests > 0 && input > 0).then(|| (of(input), of(output)))
}

/// The same before anything was measured: a picture of the longest side, and a text of the greatest
/// length.
fn guessed(server: &RemoteSettings, fill: &DryFill) -> (f64, f64) {
    let side = u64::from(server.image.max_side) / PATCH;
    let input = side * side * 3 / 4 + fill.style.instruction.len() as u64 / CHARS_PER_TOKEN;
    let output = u64::from(fill.style.rules.max_chars) / CHARS_PER_TOKEN;
    (input as f64, output.min(u64::from(fill.max_tokens)) as f64)
}

/// At the speed that the engine has had so far; `None`: it has answered too little.
fn seconds(
    counts: &RowCounts,
    status: &Option<EngineStatus>,
    server: Option<&ServerUse>,
) -> Option<f64> {
    let status = status.as_ref()?;
    if status.answered < LEAST_ANSWERED || status.busy_ms <= 0.0 {
        return None;
    }
    let seconds = counts.pictures as f64 * status.busy_ms / 1000.0 / status.answered as f64;
    Some(seconds.max(server.map_or(0.0, |server| server.minutes * 60.0)))
}
