//! The watched tables as a worker sees them, checked against the catalogs each time they are read.

use super::rescan;
use super::transaction::{attempt, spi};
use crate::{api::style, pg::table, pg::triggers};
use pg_caption_queue::{Fill, KeyColumn, Watched};
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use serde_json::Value;

/// Whether the extension is installed in this database.
pub fn installed() -> bool {
    // SAFETY: a catalog look-up in a transaction.
    unsafe { pg_sys::get_extension_oid(c"pg_caption".as_ptr(), true) != pg_sys::InvalidOid }
}

/// Removes what belongs to tables that exist no more, and failures beyond their retention. What
/// somebody else holds stays until the next time.
pub fn clean() {
    let minutes = crate::settings::retention_minutes();
    let mut statements: Vec<String> = ["watch", "watch_state", "queue", "deferred", "ledger", "failed"]
        .map(|of| {
            format!(
                "DELETE FROM caption.{of} x WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) x.relation::pg_catalog.oid)"
            )
        })
        .into();
    // Appended by a transaction that began before its table was unwatched.
    statements.push("DELETE FROM caption.queue q WHERE NOT EXISTS (SELECT FROM caption.watch w WHERE w.relation::oid = q.relation)".into());
    statements.push(format!("DELETE FROM caption.failed WHERE at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(mins => {minutes})"));
    for statement in statements {
        let Err(raised) = attempt(|| spi(Spi::run(&statement))) else { continue };
        // The extension has just been dropped: everything is gone with it.
        if raised.code == PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE {
            return;
        }
        if raised.code != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE {
            pgrx::log!(
                "pg_caption: what belongs to tables that are gone, or is too old, could not be removed: {}",
                raised.message
            );
        }
    }
}

/// The tables that are watched. In a database that is a copy of another one their walks begin anew:
/// whose transactions its rows are from, nobody knows.
pub fn begin() -> Vec<u32> {
    spi(Spi::run(
        "UPDATE caption.watch_state t SET database = d.oid, backfill_run = t.backfill_run + CASE WHEN t.database IS NULL THEN 0 ELSE 1 END, \
                backfilled = CASE WHEN t.database IS NULL THEN t.backfilled ELSE 0 END, backfill_after = CASE WHEN t.database IS NULL THEN t.backfill_after END, \
                backfill_done = t.backfill_done AND t.database IS NULL \
           FROM pg_catalog.pg_database d \
          WHERE d.datname = current_database() AND t.relation = ANY \
                (ARRAY(SELECT o.relation FROM caption.watch_state o WHERE o.database IS DISTINCT FROM d.oid FOR NO KEY UPDATE SKIP LOCKED))",
    ));
    rescan::obey();
    let watched = "SELECT w.relation::oid FROM caption.watch w";
    spi(Spi::connect(|client| {
        client
            .select(watched, None, &[])?
            .map(|row| Ok(row.get::<pg_sys::Oid>(1)?.map_or(0, |oid| oid.to_u32())))
            .collect()
    }))
}

/// All watches of this database. One whose columns have gone is left out, with the reason in its
/// tally.
pub fn load() -> Vec<Watched> {
    let rows: Vec<(pg_sys::Oid, Listed)> = spi(Spi::connect(|client| {
        let rows = client.select(
            "SELECT w.relation::oid, format('%s%I.%I', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, n.nspname, c.relname), c.relowner, w.image_url::text, w.fills, w.keys::text[], w.max_tokens, w.overwrite, \
                    w.paused, t.backfill_after::text, coalesce(t.backfill_done, false), coalesce(t.backfill_run, 0), to_jsonb(t)->>'recaption_before', \
                    coalesce((to_jsonb(w)->>'superuser')::boolean, true) \
               FROM caption.watch w JOIN pg_catalog.pg_class c ON c.oid = w.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               LEFT JOIN caption.watch_state t ON t.relation = w.relation",
            None,
            &[],
        )?;
        rows.map(|row| {
            let relation = row.get(1)?.unwrap_or(pg_sys::InvalidOid);
            let listed = Listed {
                url: row.get(4)?.unwrap_or_default(),
                fills: row.get::<pgrx::JsonB>(5)?.map(|json| json.0).unwrap_or_default(),
                keys: row.get(6)?.unwrap_or_default(),
                // In 0.1.0 nobody knows.
                by_superuser: row.get(14)?.unwrap_or(true),
                watched: Watched {
                    oid: relation.to_u32(),
                    name: row.get(2)?.unwrap_or_default(),
                    owner: row.get::<pg_sys::Oid>(3)?.unwrap_or(pg_sys::InvalidOid).to_u32(),
                    url: String::new(),
                    fills: Vec::new(),
                    keys: Vec::new(),
                    max_tokens: row.get::<i32>(7)?.unwrap_or(64) as u32,
                    overwrite: row.get(8)?.unwrap_or(false),
                    paused: row.get(9)?.unwrap_or(false),
                    backfill_after: row.get(10)?,
                    backfill_done: row.get(11)?.unwrap_or(false),
                    walk: row.get(12)?.unwrap_or(0),
                    // Through JSON: 0.1.0 has no such column.
                    recaption_before: row.get(13)?,
                },
            };
            Ok((relation, listed))
        })
        .collect::<Result<_, pgrx::spi::Error>>()
    }));
    let mut watched = Vec::new();
    for (oid, listed) in rows {
        // Somebody may be putting it there, or removing it, in a transaction that is still open:
        // that table waits for its end, the others do not.
        let added = attempt(|| {
            let missing = "INSERT INTO caption.watch_state (relation) SELECT $1 WHERE NOT EXISTS (SELECT FROM caption.watch_state WHERE relation = $1) ON CONFLICT DO NOTHING";
            spi(Spi::run_with_args(missing, &[oid.into()]));
        });
        if let Err(raised) = added {
            pgrx::debug1!("pg_caption: {} waits: {}", listed.watched.name, raised.message);
        }
        match check(oid, &listed) {
            Ok((fills, keys)) => {
                // That its rows cannot be read is true until they are, which the walk that stopped
                // will try first.
                if listed.watched.backfill_done {
                    set_problem(oid, None);
                }
                watched.push(Watched {
                    url: quote_identifier(&listed.url),
                    fills,
                    keys,
                    ..listed.watched
                });
            }
            Err(problem) => stop(oid, &listed.watched.name, problem),
        }
    }
    watched
}

/// Notes why a table is not being filled, and says so in the log if that is news.
pub fn stop(relation: pg_sys::Oid, name: &str, problem: String) {
    if set_problem(relation, Some(problem.clone())) {
        pgrx::log!(
            "pg_caption: table {} is not being filled: {problem}",
            name.trim_start_matches("ONLY ")
        );
    }
}

/// Notes why a table is not being filled; whether that is news. Who holds the row is changing the
/// watch, and wakes us at commit.
pub fn set_problem(relation: pg_sys::Oid, problem: Option<String>) -> bool {
    let set = "UPDATE caption.watch_state SET problem = $2 WHERE relation = \
        (SELECT t.relation FROM caption.watch_state t WHERE t.relation = $1 AND t.problem IS DISTINCT FROM $2 FOR NO KEY UPDATE SKIP LOCKED) RETURNING relation";
    spi(Spi::connect_mut(|client| {
        Ok::<_, pgrx::spi::Error>(
            client.update(set, None, &[relation.into(), problem.into()])?.len(),
        )
    })) > 0
}

/// A row of `caption.watch`, not yet checked against the table.
struct Listed {
    url: String,
    fills: Value,
    keys: Vec<String>,
    /// A superuser has watched it while it belonged to one.
    by_superuser: bool,
    watched: Watched,
}

fn check(relation: pg_sys::Oid, listed: &Listed) -> Result<(Vec<Fill>, Vec<KeyColumn>), String> {
    let Listed { url, fills, keys, by_superuser, watched } = listed;
    // Its owner's rights are all rights, and what runs with them was perhaps planted by the owner
    // before. SAFETY: a catalog look-up in a transaction.
    if !by_superuser && unsafe { pg_sys::superuser_arg(pg_sys::Oid::from(watched.owner)) } {
        return Err(
            "it belongs to a superuser now: look at its triggers, defaults and constraints, then call caption.watch() again as a superuser".into()
        );
    }
    if !has_triggers(relation) {
        return Err("its triggers are missing: a dump is still being restored, or they were dropped; then call caption.watch() again".into());
    }
    if let Some(how) = switched_off(relation) {
        return Err(format!(
            "its triggers are disabled; {how} goes on, also with the rows written meanwhile"
        ));
    }
    attribute(relation, url)?;
    let fills = fills.as_object().into_iter().flatten().map(|(column, name)| {
        let (_, length) = attribute(relation, column)?;
        let name = name.as_str().unwrap_or_default();
        let mut style = style::find(name)
            .ok_or_else(|| format!("there is no caption style \"{name}\" any more"))?;
        if let Some(length) = length {
            style.rules.max_chars = style.rules.max_chars.min(length);
            style.rules.min_chars = style.rules.min_chars.min(length);
        }
        Ok(Fill { column: column.clone(), style })
    });
    let fills = fills.collect::<Result<Vec<_>, String>>()?;
    let columns = keys.iter().map(|key| {
        Ok(KeyColumn { column: quote_identifier(key), kind: attribute(relation, key)?.0 })
    });
    let columns = columns.collect::<Result<Vec<_>, String>>()?;
    if !is_key(relation, keys) {
        return Err(format!(
            "({}) is no key of it any more: no unique index over NOT NULL columns; add one, or call caption.watch() again",
            keys.join(", ")
        ));
    }
    let watched: Vec<String> = std::iter::once(url)
        .chain(listed.fills.as_object().into_iter().flatten().map(|(column, _)| column))
        .chain(keys)
        .cloned()
        .collect();
    if let Some(column) = unheard_of(relation, &watched) {
        return Err(format!(
            "its triggers watch another column that was called \"{column}\" before; call caption.watch() again"
        ));
    }
    Ok((fills, columns))
}

/// Whether a key finds one row at most: some unique index, checked at once, is over these columns
/// or fewer of them, none of which may be NULL.
fn is_key(relation: pg_sys::Oid, keys: &[String]) -> bool {
    let found = "SELECT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL \
                    AND NOT EXISTS (SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k (attnum) WHERE NOT EXISTS \
                          (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum = k.attnum AND a.attname = ANY ($2::name[])))) \
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY ($2::name[]) AND NOT a.attnotnull)";
    spi(Spi::get_one_with_args::<bool>(found, &[relation.into(), keys.to_vec().into()]))
        == Some(true)
}

/// A column that none of the triggers' conditions names: it has taken the name of the one that they
/// do.
fn unheard_of(relation: pg_sys::Oid, columns: &[String]) -> Option<String> {
    let found = "SELECT min(a.attname::text) FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY ($2::name[]) \
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_trigger'::regclass AND d.objid = t.oid \
                          WHERE t.tgrelid = $1 AND t.tgfoid = 'caption.enqueue()'::regprocedure \
                            AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = a.attnum)";
    spi(Spi::get_one_with_args(found, &[relation.into(), columns.to_vec().into()]))
}

/// Whether the triggers are there that tell of new rows: what they do not tell of, the walk must
/// still find.
fn has_triggers(relation: pg_sys::Oid) -> bool {
    let count = "SELECT count(*) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgname = ANY ($2::name[]) \
                    AND t.tgfoid = 'caption.enqueue()'::regprocedure";
    let names: Vec<String> = triggers::TRIGGERS.map(String::from).into();
    spi(Spi::get_one_with_args::<i64>(count, &[relation.into(), names.into()]))
        == Some(triggers::TRIGGERS.len() as i64)
}

/// What switches the triggers on again, if those of the table or of a partition do not fire for
/// everybody who writes there.
fn switched_off(relation: pg_sys::Oid) -> Option<String> {
    // Not pg_partition_tree(), which waits for everybody who holds one of the partitions.
    let found = "WITH RECURSIVE part AS (SELECT w.relation::oid, w.on_replica FROM caption.watch w WHERE w.relation = $1 UNION ALL \
                   SELECT i.inhrelid, p.on_replica FROM part p JOIN pg_catalog.pg_inherits i ON i.inhparent = p.relation JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition) \
                 SELECT min(CASE WHEN p.on_replica THEN 'caption.watch()' ELSE format('ALTER TABLE %s ENABLE TRIGGER USER', p.relation::regclass) END) \
                   FROM part p JOIN pg_catalog.pg_trigger t ON t.tgrelid = p.relation \
                  WHERE t.tgfoid = 'caption.enqueue()'::regprocedure AND t.tgenabled <> 'A' AND (t.tgenabled <> 'O' OR p.on_replica)";
    spi(Spi::get_one_with_args(found, &[relation.into()]))
}

/// Type of a column, or what its domain is made of (whose checks say nothing of keys that are
/// there, and may refuse them if made NOT VALID), and its length where declared (varchar(n)).
fn attribute(relation: pg_sys::Oid, column: &str) -> Result<(String, Option<u32>), String> {
    let found = spi(Spi::connect(|client| {
        let rows = client.select(
            "SELECT a.atttypid, a.atttypmod FROM pg_catalog.pg_attribute a \
              WHERE a.attrelid = $1 AND a.attname = $2::name AND a.attnum > 0 AND NOT a.attisdropped",
            Some(1),
            &[relation.into(), column.into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Ok::<_, pgrx::spi::Error>(None) };
        Ok(Some((
            row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
            row.get::<i32>(2)?.unwrap_or(-1),
        )))
    }));
    let found = found.map(|(kind, modifier)| {
        let base = table::base_type(kind, modifier);
        // SAFETY: a type that exists; the text is PostgreSQL's, copied at once.
        let name =
            unsafe { std::ffi::CStr::from_ptr(pg_sys::format_type_with_typemod(base.0, base.1)) };
        (name.to_string_lossy().into_owned(), table::max_length(base))
    });
    found.ok_or_else(|| {
        format!("it has no column \"{column}\" any more; call caption.watch() again")
    })
}
