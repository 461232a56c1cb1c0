//! SQL expressions over a row `t`: its key and the digest of a text, as the ledger has them. Every
//! name is qualified, for any `search_path`.
//!
//! Called by `api::watch` and the worker.

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
