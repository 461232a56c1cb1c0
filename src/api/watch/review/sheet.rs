//! `caption.contact_sheet`: a page of pictures and texts.
//!
//! Called by SQL. Rows are read with the caller's rights; those with drafts come first.

use super::super::pin_path;
use super::drafts::{ReviewedTable, pending};
use crate::pg::report::{refuse, spi};
use pg_caption_queue::{DRAFT, FillText, WITHDRAWN, draft_version, resolve_url};
use pg_caption_sheet::{SheetCard, SheetPage, SheetText};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Map, Value};

/// The most pictures of a page.
const MAX_CARDS: i32 = 5000;
/// Characters of a text that are shown.
const MAX_TEXT: usize = 10_000;

/// `caption.contact_sheet(relation, condition, limit)`.
#[pg_extern(sql = false, volatile)]
fn contact_sheet(
    relation: Option<pg_sys::Oid>,
    condition: Option<&str>,
    limit: Option<i32>,
) -> String {
    let (pinned, caller_path) = pin_path();
    let limit = limit.unwrap_or(200);
    if !(1..=MAX_CARDS).contains(&limit) {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("limit must be between 1 and {MAX_CARDS}"),
            None,
            Some("A condition selects the rows of further pages.".into()),
        );
    }
    let of = ReviewedTable::open(relation, caller_path, false);
    let selection = of.selection(None, condition);
    let statement = format!(
        "SELECT caption.key_object($2, w.key), {picture}, ARRAY[{texts}]::text[], {digests}, \
                w.entries, count(*) OVER () \
           FROM (SELECT w.key, jsonb_object_agg(w.column_name, w.entry) AS entries, \
                        bool_or(w.entry#>>'{{draft,state}}' = 'draft') AS has_draft \
                   FROM caption.written_text AS w \
                  WHERE w.relation = $2::oid::regclass AND w.entry <> '{{}}' GROUP BY w.key) AS w \
           JOIN {table} ON w.key = {key} \
          WHERE true{conditions} \
          ORDER BY coalesce(w.has_draft, false) DESC, {order} LIMIT $3",
        picture = if of.holds_pictures { "NULL::text".into() } else { of.url() },
        texts = of
            .quoted_columns()
            .map(|column| format!("left(t.{column}::text, {MAX_TEXT})"))
            .collect::<Vec<_>>()
            .join(", "),
        digests = of.text_digests(of.quoted_columns()),
        table = selection.table(),
        key = selection.key(),
        conditions = selection.conditions(),
        order = selection.key_columns().join(", "),
    );
    let (mut cards, mut rows) = (Vec::new(), 0);
    spi(Spi::connect_mut(|client| {
        let arguments = [selection.listed().into(), of.table.oid.into(), limit.into()];
        for row in client.update(&*statement, None, &arguments)? {
            let key = row.get::<JsonB>(1)?.map_or(Value::Null, |key| key.0);
            let texts: Vec<Option<String>> = row.get(3)?.unwrap_or_default();
            let digests: Vec<Option<String>> = row.get(4)?.unwrap_or_default();
            let entries = row.get::<JsonB>(5)?.and_then(|entries| entries.0.as_object().cloned());
            let entries = entries.unwrap_or_default();
            rows = row.get::<i64>(6)?.unwrap_or_default();
            let texts =
                of.columns.iter().zip(texts).zip(digests).map(|((column, text), digest)| {
                    sheet_text(column, text.unwrap_or_default(), digest, entries.get(column))
                });
            cards.push(SheetCard {
                label: label(&key),
                key: key.to_string(),
                picture: row.get::<String>(2)?.map(|url| match &of.base_url {
                    Some(base) => resolve_url(base, &url),
                    None => url,
                }),
                texts: texts.collect(),
            });
        }
        Ok::<_, pgrx::spi::Error>(())
    }));
    drop(pinned);
    let shown = cards.len();
    SheetPage {
        summary: format!("{shown} of {rows} rows with texts of pg_caption."),
        import: Some(format!("SELECT * FROM caption.import_review('{}', '…')", of.table.name)),
        title: of.table.name,
        cards,
    }
    .html()
}

/// `id 3`, or `shop a, id 3`.
fn label(key: &Value) -> String {
    let part = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name} {text}"),
        value => format!("{name} {value}"),
    };
    let parts: Vec<String> = key.as_object().into_iter().flatten().map(part).collect();
    parts.join(", ")
}

/// The draft of a column, else its text.
fn sheet_text(
    column: &str,
    text: String,
    digest: Option<String>,
    entry: Option<&Value>,
) -> SheetText {
    let nothing = Map::new();
    let written = entry.and_then(Value::as_object).unwrap_or(&nothing);
    let draft = written.get(DRAFT).and_then(Value::as_object);
    let about = draft.unwrap_or(written);
    let of = |name: &str| about.get(name).and_then(Value::as_str).map(str::to_owned);
    let state = match (draft, written.get("text").and_then(Value::as_str)) {
        (Some(_), _) => of("state"),
        (None, None) => None,
        (None, Some(_)) if of("state").as_deref() == Some(WITHDRAWN) && text.is_empty() => {
            Some(WITHDRAWN.into())
        }
        (None, Some(hash)) if FillText::from_column(digest).ledger_hash() == hash => {
            of("state").or(Some("written".into()))
        }
        (None, Some(_)) => Some("edited".into()),
    };
    let shown = SheetText {
        column: column.to_owned(),
        confidence: about.get("confidence").and_then(Value::as_f64).map(|value| value as f32),
        source: of("source"),
        model: of("model"),
        language: of("language"),
        reason: of("reason"),
        version: entry.and_then(pending).map(|draft| draft_version(&draft)),
        state,
        ..SheetText::default()
    };
    match draft {
        Some(_) => SheetText {
            text: of("written").unwrap_or_default(),
            current: Some(text).filter(|text| !text.is_empty()),
            ..shown
        },
        None => SheetText { text, ..shown },
    }
}
