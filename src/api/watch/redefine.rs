//! Keeps a watch in step with its table: columns that are dropped, renamed or get another type, a
//! table that takes the name of a watched one, a partition that is detached.
//!
//! Called by `hooks::utility` before and after ALTER TABLE, with the caller's rights and a pinned
//! `search_path`. All changes are part of the transaction that alters the table.

use super::arguments::{FillMap, WatchOptions};
use super::{condition, context, control, image_column, register};
use crate::hooks::enqueue;
use crate::pg::condition::{ConditionSource, RowCondition};
use crate::pg::latest_snapshot::LatestSnapshot;
use crate::pg::report::{notice, refuse, select_one, spi, warn};
use crate::pg::table::{self, TableDescription};
use crate::pg::triggers::{self, TriggerKey, TriggerSpec};
use crate::pg::{identity, sign_function, table_key};
use pg_caption_style::FillDefinition;
use pgrx::JsonB;
use pgrx::prelude::*;

/// A column that a statement drops.
pub struct DroppedColumn {
    pub name: String,
    /// With all that depends on it.
    pub cascade: bool,
}

/// A watch as it is recorded.
struct RecordedWatch {
    table: TableDescription,
    options: WatchOptions,
    keys: Vec<String>,
    /// Columns that the condition names.
    condition_columns: Vec<String>,
    /// Columns whose change is followed.
    followed: Vec<String>,
}

impl RecordedWatch {
    fn read(relation: pg_sys::Oid) -> Option<RecordedWatch> {
        let options = register::options(relation, false)?;
        let table = table::describe(relation);
        Some(RecordedWatch {
            followed: context::followed(&table, &options),
            options,
            table,
            keys: register::keys(relation),
            condition_columns: register::condition_columns(relation),
        })
    }

    fn has_fill(&self, column: &str) -> bool {
        self.options.fills.iter().any(|(fill, _)| fill == column)
    }

    /// Whether it reads the column: URL, key, condition or context.
    fn reads(&self, column: &str) -> bool {
        let others = self.keys.iter().chain(&self.condition_columns);
        let others = others.chain(&self.options.context).chain(&self.followed);
        std::iter::once(&self.options.image).chain(others).any(|name| name == column)
    }

    /// The fills whose templates name a column, with its new name.
    fn shown_with(&self, from: &str, to: &str) -> FillMap {
        let renamed = |template: &Option<String>| {
            template.as_deref().map(|text| pg_caption_publish::rename_column(text, from, to))
        };
        let fills = self.options.fills.iter().map(|(column, fill)| {
            let (template, fallback) = (renamed(&fill.template), renamed(&fill.fallback));
            (column.clone(), FillDefinition { template, fallback, ..fill.clone() })
        });
        fills
            .zip(&self.options.fills)
            .filter(|(new, old)| new != *old)
            .map(|(new, _)| new)
            .collect()
    }

    fn condition(&self, source: ConditionSource<'_>) -> Option<RowCondition> {
        let text = self.options.condition.as_deref()?;
        Some(condition::require(&self.table, text, source))
    }

    fn create_triggers(&self) {
        let trigger_key = |name: &String| {
            let column = table::column(&self.table, name);
            table_key::require_comparable(&self.table, &column);
            TriggerKey { name: column.name, base_type: column.base_type }
        };
        let keys: Vec<TriggerKey> = self.keys.iter().map(trigger_key).collect();
        let image = table::column(&self.table, &self.options.image);
        let condition = self.condition(ConditionSource::Stored);
        triggers::create(&TriggerSpec {
            table: &self.table.name,
            is_partitioned: self.table.kind == "p",
            image: &self.options.image,
            holds_pictures: image.base_type == pg_sys::BYTEAOID,
            fills: &self.options.fills,
            keys: &keys,
            overwrite: self.options.overwrite,
            on_replica: self.options.on_replica,
            condition: condition.as_ref(),
            followed: &self.followed,
            keeps_blank: self.options.keeps_blank,
            review: self.options.review,
        });
        let sign = self.options.sign.as_deref().and_then(sign_function::find);
        triggers::depend_on_code(self.table.oid, condition.as_ref(), sign);
        if let Some(condition) = &condition {
            // The types of its columns are part of the text.
            register::set_condition(self.table.oid, condition);
        }
    }
}

const WATCHES: &str = "\
    WITH RECURSIVE part AS ( \
           SELECT $1::oid AS oid \
            UNION \
           SELECT i.inhrelid FROM part p JOIN pg_inherits i ON i.inhparent = p.oid) \
    SELECT array_agg(w.relation::oid) \
      FROM caption.watch w JOIN part p ON p.oid = w.relation::oid";

/// The watches of a table and of its partitions and children. A backfill has no triggers, and
/// stops by itself.
fn watches(relation: pg_sys::Oid) -> Vec<RecordedWatch> {
    let _extension = identity::as_extension();
    let found: Option<Vec<pg_sys::Oid>> = select_one(WATCHES, &[relation.into()]);
    found.into_iter().flatten().filter_map(RecordedWatch::read).collect()
}

/// A column of a partition or child goes with its parent's, unless it was declared there, too.
const IS_DROPPED: &str = "\
    SELECT a.attrelid = $2 OR a.attinhcount = 1 AND NOT a.attislocal \
      FROM pg_attribute a \
     WHERE a.attrelid = $1 AND a.attname = $3::name AND a.attnum > 0 AND NOT a.attisdropped";

fn is_dropped(watch: &RecordedWatch, relation: pg_sys::Oid, column: &str) -> bool {
    let arguments = [watch.table.oid.into(), relation.into(), column.into()];
    select_one(IS_DROPPED, &arguments) == Some(true)
}

/// Before columns of a table are dropped: watches lose these fills, and their triggers no longer
/// depend on the columns. A watch without any fill ends. Raises for a column that the watch reads.
pub fn drop_columns(relation: pg_sys::Oid, columns: &[&DroppedColumn]) {
    if columns.is_empty() {
        return;
    }
    let _snapshot = LatestSnapshot::push();
    for mut watch in watches(relation) {
        if !may_alter(&watch.table) {
            // PostgreSQL refuses the statement.
            continue;
        }
        let dropped: Vec<&&DroppedColumn> =
            columns.iter().filter(|column| is_dropped(&watch, relation, &column.name)).collect();
        if let Some(column) = dropped.iter().find(|column| watch.reads(&column.name)) {
            match column.cascade {
                true => warn_of_stop(&watch, &column.name),
                false => refuse_to_drop(&watch, &column.name),
            }
            continue;
        }
        let is_filled = |column: &&&&DroppedColumn| watch.has_fill(&column.name);
        let fills: Vec<String> =
            dropped.iter().filter(is_filled).map(|column| column.name.clone()).collect();
        if !fills.is_empty() {
            lock(&[relation, watch.table.oid]);
            remove_fills(&mut watch, &fills);
        }
    }
}

/// Whether the caller may alter a table.
fn may_alter(table: &TableDescription) -> bool {
    // SAFETY: a catalog look-up of roles that exist in this transaction.
    unsafe { pg_sys::has_privs_of_role(identity::caller(), table.owner) }
}

/// Takes the lock that the statement needs, the named table first as it does.
fn lock(tables: &[pg_sys::Oid]) {
    for table in tables {
        // SAFETY: a lock request in a transaction.
        unsafe { pg_sys::LockRelationOid(*table, pg_sys::AccessExclusiveLock as i32) };
    }
}

fn call(function: &str, table: &TableDescription, arguments: &str) -> String {
    format!("SELECT caption.{function}('{}'{arguments})", table.name.replace('\'', "''"))
}

fn refuse_to_drop(watch: &RecordedWatch, column: &str) -> ! {
    let role = if watch.options.image == column {
        "the URLs"
    } else if watch.keys.iter().any(|key| key == column) {
        "the key"
    } else if watch.options.context.iter().any(|name| name == column) {
        "the context"
    } else if watch.followed.iter().any(|name| name == column) {
        "words of its templates"
    } else {
        refuse_to_break_condition(watch, column)
    };
    refuse(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("column \"{column}\" of table {} is needed by its watch", watch.table.name),
        Some(format!("The watch reads {role} from it.")),
        Some(format!(
            "To end the watch, first run: {}. With CASCADE the watch stops and keeps its ledger.",
            call("unwatch", &watch.table, "")
        )),
    )
}

fn refuse_to_break_condition(watch: &RecordedWatch, column: &str) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
        format!("column \"{column}\" of table {} is needed by its watch", watch.table.name),
        Some("The condition of the watch names it.".into()),
        Some(format!(
            "To remove the condition, first run: {}.",
            call("watch", &watch.table, ", condition => ''")
        )),
    )
}

fn warn_of_stop(watch: &RecordedWatch, column: &str) {
    let hint = if watch.options.image == column {
        let with_column = call("watch", &watch.table, ", image => '…'");
        format!("{with_column} continues it with another column.")
    } else if watch.condition_columns.iter().any(|name| name == column) {
        let without = call("watch", &watch.table, ", condition => ''");
        format!("{without} continues it without its condition.")
    } else if watch.options.context.iter().any(|name| name == column) {
        let with_others = call("watch", &watch.table, ", context => '{}'");
        format!("{with_others} continues it without its context.")
    } else if watch.followed.iter().any(|name| name == column) {
        let with_others = call("watch", &watch.table, ", fills => '…'");
        format!("{with_others} continues it with another template.")
    } else {
        format!("{} continues it with another key.", call("watch", &watch.table, ""))
    };
    warn(
        format!("the watch of table {} stops: column \"{column}\" is dropped", watch.table.name),
        None,
        Some(format!("{hint} {} ends it.", call("unwatch", &watch.table, ""))),
    );
    enqueue::announce_at_commit();
}

fn remove_fills(watch: &mut RecordedWatch, columns: &[String]) {
    let table = &watch.table;
    triggers::drop(table.oid, &table.name);
    watch.options.fills.retain(|(fill, _)| !columns.contains(fill));
    let names: Vec<String> = columns.iter().map(|name| format!("\"{name}\"")).collect();
    let names = names.join(", ");
    if watch.options.fills.is_empty() {
        control::remove(table.oid, true);
        pgrx::notice!("the watch of table {} ends: it filled {names} only", table.name);
    } else {
        watch.create_triggers();
        let _extension = identity::as_extension();
        control::lock_state(table.oid);
        spi(Spi::run_with_args(
            "UPDATE caption.watch SET fills = fills - $2::text[] WHERE relation = $1",
            &[table.oid.into(), columns.to_vec().into()],
        ));
        pgrx::notice!("the watch of table {} no longer fills {names}", table.name);
    }
    enqueue::announce_at_commit();
}

/// Before columns get another type: drops the triggers of the watches that depend on them. Returns
/// their tables, for [`resume`].
pub fn release(relation: pg_sys::Oid, columns: &[&str]) -> Vec<pg_sys::Oid> {
    if columns.is_empty() {
        return Vec::new();
    }
    let _snapshot = LatestSnapshot::push();
    let mut released = Vec::new();
    for watch in watches(relation) {
        let concerns = |column: &&&str| watch.reads(column) || watch.has_fill(column);
        if columns.iter().find(concerns).is_some() && may_alter(&watch.table) {
            lock(&[relation, watch.table.oid]);
            triggers::drop(watch.table.oid, &watch.table.name);
            released.push(watch.table.oid);
        }
    }
    released
}

/// After columns have another type: creates the triggers again. Raises if the watch cannot use it.
pub fn resume(table: pg_sys::Oid) {
    let _snapshot = LatestSnapshot::push();
    let Some(watch) = RecordedWatch::read(table) else { return };
    let image = table::column(&watch.table, &watch.options.image);
    image_column::require(&watch.table, &image, &watch.options);
    for (name, _) in &watch.options.fills {
        table::require_text(&watch.table, &table::column(&watch.table, name));
    }
    watch.create_triggers();
    enqueue::announce_at_commit();
}

const RENAME_COLUMN: &str = "\
    UPDATE caption.watch w \
       SET image = CASE w.image WHEN $2::name THEN $3::name ELSE w.image END, \
           keys = array_replace(w.keys, $2::name, $3::name), \
           context = array_replace(w.context, $2::name, $3::name), \
           followed = array_replace(w.followed, $2::name, $3::name), \
           fills = CASE WHEN w.fills ? $2 \
                        THEN (w.fills - $2) || jsonb_build_object($3, w.fills->$2) \
                        ELSE w.fills END \
     WHERE w.relation = $1";

const SET_FILL: &str = "\
    UPDATE caption.watch SET fills = fills || jsonb_build_object($2::text, $3) \
     WHERE relation = $1";

const RENAME_IN_LEDGER: &str = "\
    UPDATE caption.ledger l \
       SET outputs = (l.outputs - $2) || jsonb_build_object($3, l.outputs->$2) \
     WHERE l.relation = $1 AND l.outputs ? $2";

/// After a column was renamed: watches follow. The triggers do by themselves.
pub fn rename_column(relation: pg_sys::Oid, from: &str, to: &str) {
    let _snapshot = LatestSnapshot::push();
    for watch in watches(relation) {
        let table = &watch.table;
        let is_renamed = table::has_column(table.oid, to) && !table::has_column(table.oid, from);
        let shows = watch.shown_with(from, to);
        let concerns = watch.reads(from) || watch.has_fill(from) || !shows.is_empty();
        if !is_renamed || !concerns {
            continue;
        }
        {
            let _extension = identity::as_extension();
            control::lock_state(table.oid);
            let arguments = [table.oid.into(), from.into(), to.into()];
            spi(Spi::run_with_args(RENAME_COLUMN, &arguments));
            for (column, fill) in &shows {
                let column = if column == from { to } else { column };
                let fill = JsonB(fill.to_json());
                let arguments = [table.oid.into(), column.into(), fill.into()];
                spi(Spi::run_with_args(SET_FILL, &arguments));
            }
            if watch.has_fill(from) {
                spi(Spi::run_with_args(RENAME_IN_LEDGER, &arguments));
            }
        }
        let is_named = watch.condition_columns.iter().any(|name| name == from);
        if is_named && let Some(condition) = watch.condition(ConditionSource::Renamed { from, to })
        {
            register::set_condition(table.oid, &condition);
        }
        pgrx::notice!("the watch of table {} follows column \"{from}\" to \"{to}\"", table.name);
        enqueue::announce_at_commit();
    }
}

const SWAPPED: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname) \
      FROM caption.watch w \
      JOIN pg_class c ON c.oid = w.relation \
      JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE w.relation::oid <> $1 AND NOT w.backfill \
       AND w.named = (SELECT ARRAY[m.nspname, t.relname] \
                        FROM pg_class t JOIN pg_namespace m ON m.oid = t.relnamespace \
                       WHERE t.oid = $1) \
       AND NOT EXISTS (SELECT FROM caption.watch o WHERE o.relation = $1) \
     LIMIT 1";

/// The table, schema-qualified, that was watched under the name that another table has now.
pub fn swapped(relation: pg_sys::Oid) -> Option<String> {
    let _extension = identity::as_extension();
    select_one(SWAPPED, &[relation.into()])
}

/// The hint for a table that has taken the name of a watched one.
pub fn move_hint(from: &str, to: &str) -> String {
    let literal = |name: &str| name.replace('\'', "''");
    format!("SELECT caption.move_watch('{}', '{}') moves the watch.", literal(from), literal(to))
}

/// After a table was renamed: warns if a watch of that name stays with another table.
pub fn warn_of_swap(relation: pg_sys::Oid) {
    let _snapshot = LatestSnapshot::push();
    let Some(from) = swapped(relation) else { return };
    let to = table::describe(relation).name;
    warn(
        format!("table {to} is not watched: the watch of this name stays with {from}"),
        None,
        Some(move_hint(&from, &to)),
    );
}

const SUCCESSOR: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname) \
      FROM caption.watch w \
      JOIN pg_namespace n ON n.nspname = w.named[1] \
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.named[2] \
     WHERE w.relation = $1 AND NOT w.backfill \
       AND c.oid <> $1 \
       AND c.relkind IN ('r', 'p') \
       AND NOT EXISTS (SELECT FROM caption.watch o WHERE o.relation::oid = c.oid)";

/// Before a table is dropped: warns if another table has taken its name and not its watch.
pub fn warn_of_end(relation: pg_sys::Oid) {
    let _snapshot = LatestSnapshot::push();
    let successor: Option<String> = {
        let _extension = identity::as_extension();
        select_one(SUCCESSOR, &[relation.into()])
    };
    let Some(successor) = successor else { return };
    let table = table::describe(relation);
    if may_alter(&table) {
        warn(
            format!("the watch of table {} ends, and {successor} is not watched", table.name),
            Some("The ledger of machine-written texts ends with it.".into()),
            Some(format!("Before such a table is dropped, {}", move_hint(&table.name, &successor))),
        );
    }
}

const WATCHED_ABOVE: &str = "\
    SELECT w.relation::text \
      FROM caption.watch w \
      JOIN pg_partition_ancestors($1::oid::regclass) a ON a.relid = w.relation \
     LIMIT 1";

/// Before a partition is detached from a table: says that the watch does not go with it.
pub fn detach(relation: pg_sys::Oid, partition: pg_sys::Oid) {
    let _snapshot = LatestSnapshot::push();
    let watched: Option<String> = {
        let _extension = identity::as_extension();
        select_one(WATCHED_ABOVE, &[relation.into()])
    };
    let Some(watched) = watched else { return };
    let table = table::describe(partition);
    notice(
        format!("the watch of table {watched} no longer covers {}", table.name),
        Some("New rows of a detached partition are not filled.".into()),
        Some(format!("{} watches it by itself.", call("watch", &table, ", …"))),
    );
}
