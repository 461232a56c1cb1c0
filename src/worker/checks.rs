//! Checks a watch against the catalogs: columns, key, triggers, owner. Each failed check gives the
//! reason that `caption.progress` shows.

use super::foreign_code;
use super::transaction::spi;
use crate::api::{FillTemplates, language, style, watch};
use crate::{pg::table, pg::triggers};
use pg_caption_queue::{KeyColumn, WatchFill, WatchedTable};
use pg_caption_style::FillDefinition;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use serde_json::Value;

/// A valid, immediate unique index without condition or expressions covers only columns of the key,
/// none of which may be NULL.
const IS_KEY: &str = "SELECT EXISTS ( \
           SELECT FROM pg_catalog.pg_index i \
            WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate \
              AND i.indpred IS NULL AND i.indexprs IS NULL \
              AND NOT EXISTS ( \
                  SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k (attnum) \
                   WHERE NOT EXISTS ( \
                         SELECT FROM pg_catalog.pg_attribute a \
                          WHERE a.attrelid = $1 AND a.attnum = k.attnum \
                            AND a.attname = ANY ($2::name[])))) \
       AND NOT EXISTS ( \
           SELECT FROM pg_catalog.pg_attribute a \
            WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
              AND a.attname = ANY ($2::name[]) AND NOT a.attnotnull)";

const UNKNOWN_TO_TRIGGERS: &str = "SELECT min(a.attname::text) FROM pg_catalog.pg_attribute a \
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
       AND a.attname = ANY ($2::name[]) \
       AND NOT EXISTS ( \
           SELECT FROM pg_catalog.pg_trigger t \
             JOIN pg_catalog.pg_depend d \
               ON d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = t.oid \
            WHERE t.tgrelid = $1 AND t.tgfoid = 'caption.enqueue()'::regprocedure \
              AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = $1 \
              AND d.refobjsubid = a.attnum)";

const COUNT_TRIGGERS: &str = "SELECT count(*) FROM pg_catalog.pg_trigger t \
     WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgname = ANY ($2::name[]) \
       AND t.tgfoid = 'caption.enqueue()'::regprocedure";

/// Without `pg_partition_tree()`, which waits for locks on partitions.
const ENABLING_STATEMENT: &str = "WITH RECURSIVE part AS ( \
           SELECT w.relation::oid, w.on_replica FROM caption.watch w WHERE w.relation = $1 \
           UNION ALL \
           SELECT i.inhrelid, p.on_replica \
             FROM part p \
             JOIN pg_catalog.pg_inherits i ON i.inhparent = p.relation \
             JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition) \
    SELECT min(CASE WHEN p.on_replica THEN 'caption.watch()' \
                    ELSE format('ALTER TABLE %s ENABLE TRIGGER USER', p.relation::regclass) END) \
      FROM part p JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.relation \
     WHERE t.tgfoid = 'caption.enqueue()'::regprocedure \
       AND t.tgenabled <> 'A' AND (t.tgenabled <> 'O' OR p.on_replica)";

const ATTRIBUTE: &str = "SELECT a.atttypid, a.atttypmod FROM pg_catalog.pg_attribute a \
     WHERE a.attrelid = $1 AND a.attname = $2::name AND a.attnum > 0 AND NOT a.attisdropped";

/// A row of `caption.watch`, not checked against the table.
pub struct UncheckedWatch {
    pub url: String,
    /// Column to fill, as `FillDefinition` reads it.
    pub fills: Value,
    /// Upper bound of generated tokens of fills without their own.
    pub max_tokens: u32,
    pub keys: Vec<String>,
    /// When a superuser watched the table, which has belonged to superusers since: milliseconds of
    /// the Unix epoch.
    pub by_superuser: Option<i64>,
    /// The transaction that has written it, as text.
    pub version: Option<String>,
    pub watched: WatchedTable,
}

/// A watch that has passed the checks.
pub struct CheckedWatch {
    pub fills: Vec<WatchFill>,
    pub keys: Vec<KeyColumn>,
    pub holds_pictures: bool,
}

/// Columns of a watch, or why the table cannot be filled.
pub fn check(relation: pg_sys::Oid, watch: &UncheckedWatch) -> Result<CheckedWatch, String> {
    let UncheckedWatch { url, fills, max_tokens, keys, by_superuser, watched, .. } = watch;
    // Without its columns a table has no triggers either.
    for column in std::iter::once(url).chain(keys) {
        attribute(relation, column)?;
    }
    if watched.has_triggers && !has_triggers(relation) {
        return Err("its triggers are missing: a dump is still being restored, or they were \
                    dropped; then call caption.watch() again"
            .into());
    }
    if watched.has_triggers
        && let Some(statement) = enabling_statement(relation)
    {
        return Err(format!(
            "its triggers are disabled; {statement} resumes it, with the rows written meanwhile"
        ));
    }
    if is_superuser(watched.owner) {
        // Code of a superuser's table runs with a superuser's rights, and may be from an earlier
        // owner.
        if by_superuser.is_none() {
            return Err("it now belongs to a superuser: check its triggers, defaults and \
                        constraints, then call caption.watch() again as a superuser"
                .into());
        }
        if let Some(code) = foreign_code::find(relation) {
            return Err(foreign_problem(&code));
        }
    }
    let holds_pictures = attribute(relation, url)?.0 == "bytea";
    let columns: Vec<&String> =
        fills.as_object().into_iter().flatten().map(|(column, _)| column).collect();
    let names = table::column_names(relation);
    let fills = fills.as_object().into_iter().flatten().map(|(column, fill)| {
        let (_, length) = attribute(relation, column)?;
        let fill = FillDefinition::from_json(fill)
            .map_err(|error| format!("the fill of column \"{column}\" {error}"))?;
        let name = &fill.style;
        let mut style =
            style::find(name).ok_or_else(|| format!("caption style \"{name}\" does not exist"))?;
        let fill = fill.completed(&style);
        let wrong = |error: String| format!("the fill of column \"{column}\": {error}");
        let templates = FillTemplates::read(&fill, &names).map_err(|e| wrong(e.to_string()))?;
        let tag = fill.language.as_deref().map(language::canonical).transpose();
        style.language = tag.map_err(|e| wrong(e.to_string()))?;
        if let Some(problem) = language::problem(&style) {
            return Err(problem.sentence());
        }
        if let Some(length) = length {
            style.rules.max_chars = style.rules.max_chars.min(length);
            style.rules.min_chars = style.rules.min_chars.min(length);
        }
        Ok(WatchFill {
            column: column.clone(),
            style,
            max_tokens: fill.max_tokens.unwrap_or(*max_tokens),
            min_confidence: fill.min_confidence.map(|confidence| confidence as f32),
            template: templates.caption,
            fallback: templates.fallback,
        })
    });
    let fills = fills.collect::<Result<Vec<_>, String>>()?;
    let context = &watched.context;
    context.iter().try_for_each(|column| attribute(relation, column).map(drop))?;
    let followed = context.iter().filter(|_| watched.follow_context);
    let obstacle = |column: &&String| {
        watch::context::obstacle_to_blank(relation, column).map(|obstacle| {
            format!("blank => 'keep' needs a nullable column: \"{column}\" {obstacle}")
        })
    };
    if let Some(problem) = columns.iter().filter(|_| watched.keeps_blank).find_map(obstacle) {
        return Err(problem);
    }
    let key_columns = keys.iter().map(|key| {
        Ok(KeyColumn { column: quote_identifier(key), kind: attribute(relation, key)?.0 })
    });
    let key_columns = key_columns.collect::<Result<Vec<_>, String>>()?;
    if !is_key(relation, keys) {
        return Err(format!(
            "no unique index on ({}) remains: add one over NOT NULL columns, or call \
             caption.watch() again",
            keys.join(", ")
        ));
    }
    let named = std::iter::once(url).chain(columns).chain(keys).chain(followed);
    let named: Vec<String> = named.cloned().collect();
    if watched.has_triggers
        && let Some(column) = unknown_to_triggers(relation, &named)
    {
        return Err(format!(
            "its triggers use another column, formerly named \"{column}\"; call \
             caption.watch() again"
        ));
    }
    Ok(CheckedWatch { fills, keys: key_columns, holds_pictures })
}

/// Why a superuser's table with code of another role is not filled.
pub fn foreign_problem(code: &str) -> String {
    format!(
        "it belongs to a superuser, and its code does not: {code}; give the table to an ordinary \
         role, or the code to a superuser"
    )
}

/// Whether a role is a superuser now.
pub fn is_superuser(role: u32) -> bool {
    // SAFETY: a catalog look-up in a transaction.
    unsafe { pg_sys::superuser_arg(pg_sys::Oid::from(role)) }
}

/// Whether a key finds at most one row.
fn is_key(relation: pg_sys::Oid, keys: &[String]) -> bool {
    let arguments = [relation.into(), keys.to_vec().into()];
    spi(Spi::get_one_with_args::<bool>(IS_KEY, &arguments)) == Some(true)
}

/// A column that no trigger condition uses: it was renamed to the name of one that they use.
pub fn unknown_to_triggers(relation: pg_sys::Oid, columns: &[String]) -> Option<String> {
    let arguments = [relation.into(), columns.to_vec().into()];
    spi(Spi::get_one_with_args(UNKNOWN_TO_TRIGGERS, &arguments))
}

/// Whether the triggers exist that queue new rows; only the backfill would find other rows.
fn has_triggers(relation: pg_sys::Oid) -> bool {
    let names: Vec<String> = triggers::TRIGGERS.map(String::from).into();
    let count =
        spi(Spi::get_one_with_args::<i64>(COUNT_TRIGGERS, &[relation.into(), names.into()]));
    count == Some(triggers::TRIGGERS.len() as i64)
}

/// The statement that enables the triggers, if those of the table or of a partition do not fire for
/// all sessions.
fn enabling_statement(relation: pg_sys::Oid) -> Option<String> {
    spi(Spi::get_one_with_args(ENABLING_STATEMENT, &[relation.into()]))
}

/// Type of a column, or base type of its domain (whose constraints do not apply to existing keys
/// and may refuse them if NOT VALID), and its declared length (varchar(n)).
fn attribute(relation: pg_sys::Oid, column: &str) -> Result<(String, Option<u32>), String> {
    let found = spi(Spi::connect(|client| {
        let rows = client.select(ATTRIBUTE, Some(1), &[relation.into(), column.into()])?;
        let Some(row) = rows.into_iter().next() else { return Ok::<_, pgrx::spi::Error>(None) };
        Ok(Some((
            row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
            row.get::<i32>(2)?.unwrap_or(-1),
        )))
    }));
    let found = found.map(|(kind, modifier)| {
        let base = table::base_type(kind, modifier);
        // SAFETY: a type that exists; the text is PostgreSQL's and copied here.
        let name =
            unsafe { std::ffi::CStr::from_ptr(pg_sys::format_type_with_typemod(base.0, base.1)) };
        (name.to_string_lossy().into_owned(), table::max_length(base))
    });
    found.ok_or_else(|| format!("column \"{column}\" does not exist; call caption.watch() again"))
}
