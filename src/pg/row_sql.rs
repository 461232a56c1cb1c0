//! SQL expressions over a row `t`: its key, its URL and digests of its texts, as the ledger has
//! them. Every name is qualified, for any `search_path`.
//!
//! Called by `api::watch` and the worker.

use crate::settings;
use pg_caption_queue::{BLANK, MAX_HASHED_BYTES, MAX_URL_CHARS};

/// What precedes the size of a picture that is too large to be captioned.
pub const PICTURE_SIZE: &str = "bytes:";
/// What precedes the hash of a picture.
const PICTURE_HASH: &str = "sha256:";

/// The key as canonical JSON, the same text as the trigger writes. `columns` are quoted.
pub fn key(columns: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let texts: Vec<String> =
        columns.map(|column| format!("pg_catalog.format('%s', t.{column})")).collect();
    format!("pg_catalog.jsonb_build_array({})", texts.join(", "))
}

/// The digest of a text that is not NULL, itself an expression: `pg_caption_queue` has the same as
/// `FillText`.
pub fn digest(text: &str) -> String {
    format!(
        "pg_catalog.\"left\"(pg_catalog.encode(pg_catalog.sha256( \
             pg_catalog.convert_to({text}, 'UTF8')), 'hex'), 32)"
    )
}

/// The URL. Only the part is read that decides whether it is valid. For a picture, what identifies
/// it: its hash, or its size if it is too large to be captioned. PostgreSQL holds one picture at a
/// time for it. `column` is quoted.
pub fn url(column: &str, holds_pictures: bool) -> String {
    if !holds_pictures {
        return format!("pg_catalog.\"left\"(t.{column}::pg_catalog.text, {MAX_URL_CHARS})");
    }
    let size = format!("pg_catalog.octet_length(t.{column})");
    format!(
        "CASE WHEN {size} OPERATOR(pg_catalog.=) 0 THEN '' \
              WHEN {size} OPERATOR(pg_catalog.>) {} \
              THEN pg_catalog.concat('{PICTURE_SIZE}', {size}) \
              ELSE '{PICTURE_HASH}' OPERATOR(pg_catalog.||) pg_catalog.encode( \
                   pg_catalog.sha256(t.{column}::pg_catalog.bytea), 'hex') END",
        settings::max_image_size(),
    )
}

/// Digests of texts as an array: NULL for an empty one (with `keeps_blank` only for NULL), '' for
/// one that is too long for the ledger. `columns` are quoted.
pub fn text_digests(columns: impl Iterator<Item = String>, keeps_blank: bool) -> String {
    let blank = if keeps_blank { format!("'{BLANK}'") } else { "NULL".into() };
    let digests: Vec<String> = columns
        .map(|column| {
            let text = format!("t.{column}::pg_catalog.text");
            format!(
                "CASE WHEN {text} IS NULL THEN NULL \
                      WHEN pg_catalog.octet_length({text}) \
                           OPERATOR(pg_catalog.=) 0 THEN {blank} \
                      WHEN pg_catalog.octet_length({text}) \
                           OPERATOR(pg_catalog.>) {MAX_HASHED_BYTES} THEN '' \
                      ELSE {} END",
                digest(&text)
            )
        })
        .collect();
    format!("ARRAY[{}]::pg_catalog.text[]", digests.join(", "))
}
