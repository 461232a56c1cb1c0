//! A table as the catalogs describe it: owner, kind and columns.
//!
//! Called by `api::watch` and the worker. The SQL runs in the caller's session, with the caller's
//! rights and a pinned `search_path`. Changes nothing.

use crate::pg::identity;
use crate::pg::report::{optional, refuse, select_one, spi};
use pgrx::prelude::*;

/// Tables of the schema `caption` with rows of one watched table, by the column `relation`.
pub const BOOKKEEPING: [&str; 6] = ["watch", "watch_state", "queue", "deferred", LEDGER, "failed"];
/// The one of them that outlives a watch.
pub const LEDGER: &str = "ledger";

/// A table as the catalogs describe it.
pub struct TableDescription {
    pub oid: pg_sys::Oid,
    /// Schema-qualified and quoted.
    pub name: String,
    pub owner: pg_sys::Oid,
    pub owner_name: String,
    /// `pg_class.relkind`.
    pub kind: String,
    pub is_temporary: bool,
    /// Whether it is in the schema of the extension.
    pub is_extension_table: bool,
}

impl TableDescription {
    /// The table in a `FROM` clause, without inheritance children; those of a partitioned table
    /// have all its rows.
    pub fn only(&self) -> String {
        let only = if self.kind == "p" { "" } else { "ONLY " };
        format!("{only}{}", self.name)
    }
}

/// A column of a table.
pub struct ColumnDescription {
    pub name: String,
    /// The declared type, for messages.
    pub type_name: String,
    /// The type, or the base type of a domain.
    pub base_type: pg_sys::Oid,
    pub is_generated: bool,
    /// The declared limit in characters, of a varchar(n).
    pub max_length: Option<u32>,
}

const DESCRIBE_TABLE: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname), c.relowner, c.relowner::regrole::text, \
           c.relkind::text, c.relpersistence = 't', n.nspname = 'caption' \
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid = $1";

/// Reads a table's description; raises if the table does not exist.
pub fn describe(relation: pg_sys::Oid) -> TableDescription {
    let found = spi(Spi::connect(|client| {
        let rows = client.select(DESCRIBE_TABLE, Some(1), &[relation.into()])?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        Ok(Some(TableDescription {
            oid: relation,
            name: row.get::<String>(1)?.unwrap_or_default(),
            owner: row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::InvalidOid),
            owner_name: row.get::<String>(3)?.unwrap_or_default(),
            kind: row.get::<String>(4)?.unwrap_or_default(),
            is_temporary: row.get::<bool>(5)?.unwrap_or(false),
            is_extension_table: row.get::<bool>(6)?.unwrap_or(false),
        }))
    }));
    found.unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", relation.to_u32()),
            None,
            None,
        )
    })
}

/// Locks a table as CREATE TRIGGER does, by OID: a table that is renamed meanwhile stays the same
/// one. Raises before it waits if the caller may not watch the table.
pub fn lock(relation: pg_sys::Oid) {
    require_ownership(&describe(relation));
    // SAFETY: a lock request in a transaction. A relation that was dropped meanwhile is not found
    // by the next look-up.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::ShareRowExclusiveLock as i32) };
}

/// Raises unless the caller has the rights of the table's owner, and is a superuser if the owner is
/// one.
pub fn require_ownership(table: &TableDescription) {
    let caller = identity::caller();
    // SAFETY: plain catalog look-ups of roles that exist in this transaction.
    let (is_member, owner_is_superuser, caller_is_superuser) = unsafe {
        (
            pg_sys::has_privs_of_role(caller, table.owner),
            pg_sys::superuser_arg(table.owner),
            pg_sys::superuser_arg(caller),
        )
    };
    if !is_member {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of table {}", table.name),
            Some(format!(
                "It belongs to {}, and captions are written with the rights of this role.",
                table.owner_name
            )),
            Some(format!("Call the function as {}, or as a member of it.", table.owner_name)),
        );
    }
    if owner_is_superuser && !caller_is_superuser {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be superuser to watch table {}", table.name),
            Some(format!("It belongs to the superuser {}.", table.owner_name)),
            Some("Give the table to an ordinary role with ALTER TABLE … OWNER TO ….".into()),
        );
    }
}

/// The base type of a domain and its modifier. Any other type is its own base type.
pub fn base_type(declared: pg_sys::Oid, mut modifier: i32) -> (pg_sys::Oid, i32) {
    // SAFETY: a catalog look-up of an existing type; writes one number.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(declared, &mut modifier) };
    (base, modifier)
}

/// The limit in characters of a [`base_type`]: that of a varchar(n).
pub fn max_length((base, modifier): (pg_sys::Oid, i32)) -> Option<u32> {
    // The modifier includes a header of four bytes.
    (base == pg_sys::VARCHAROID && modifier >= 4).then(|| (modifier as u32 - 4).max(1))
}

const DESCRIBE_COLUMN: &str = "\
    SELECT format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', a.atttypid, a.atttypmod \
      FROM pg_attribute a \
     WHERE a.attrelid = $1 AND a.attname = $2::name AND a.attnum > 0 AND NOT a.attisdropped";

/// The columns of a table, in their order.
pub fn column_names(relation: pg_sys::Oid) -> Vec<String> {
    let names = "SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a \
                  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";
    select_one(names, &[relation.into()]).unwrap_or_default()
}

/// Whether a table has a column.
pub fn has_column(relation: pg_sys::Oid, name: &str) -> bool {
    let found: Option<bool> = select_one(
        "SELECT true FROM pg_attribute a \
          WHERE a.attrelid = $1 AND a.attname = $2::name AND a.attnum > 0 AND NOT a.attisdropped",
        &[relation.into(), name.into()],
    );
    found == Some(true)
}

const IS_SUBSCRIBED: &str = "\
    SELECT EXISTS ( \
           SELECT FROM pg_subscription_rel s \
            WHERE s.srrelid = $1 \
               OR s.srrelid IN (SELECT t.relid FROM pg_partition_tree($1::oid::regclass) t))";

/// Whether a subscription applies rows to a table or to a partition of it.
pub fn is_subscribed(relation: pg_sys::Oid) -> bool {
    select_one(IS_SUBSCRIBED, &[relation.into()]) == Some(true)
}

const HAS_TRIGGERS: &str = "\
    SELECT EXISTS (SELECT FROM pg_trigger t \
                    WHERE t.tgrelid = $1 AND t.tgfoid = 'caption.enqueue()'::regprocedure)";

/// Whether a table has triggers of the extension.
pub fn has_triggers(relation: pg_sys::Oid) -> bool {
    select_one(HAS_TRIGGERS, &[relation.into()]) == Some(true)
}

const CHILDREN: &str = "\
    SELECT string_agg(i.inhrelid::regclass::text, ', ') \
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent \
     WHERE i.inhparent = $1 AND c.relkind = 'r'";

/// Raises if other tables inherit from this one: its watch would leave out their rows.
pub fn require_no_children(table: &TableDescription) {
    let Some(children) = select_one::<String>(CHILDREN, &[table.oid.into()]) else { return };
    refuse(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("table {} has inheritance children", table.name),
        Some(format!("Their rows would not be filled: {children}.")),
        Some("Watch each child, or use partitions.".into()),
    );
}

/// Reads a column's description; raises if the column does not exist.
pub fn column(table: &TableDescription, name: &str) -> ColumnDescription {
    let found = spi(Spi::connect(|client| {
        let arguments = &[table.oid.into(), name.into()];
        let rows = client.select(DESCRIBE_COLUMN, Some(1), arguments)?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let declared = row.get(3)?.unwrap_or(pg_sys::InvalidOid);
        let base = base_type(declared, row.get(4)?.unwrap_or(-1));
        Ok(Some(ColumnDescription {
            name: name.into(),
            type_name: row.get::<String>(1)?.unwrap_or_default(),
            base_type: base.0,
            is_generated: row.get::<bool>(2)?.unwrap_or(false),
            max_length: max_length(base),
        }))
    }));
    found.unwrap_or_else(|| refuse_unknown_column(table, name))
}

const COLUMN_NAMES: &str = "\
    SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute \
     WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";

fn refuse_unknown_column(table: &TableDescription, name: &str) -> ! {
    let columns: Option<String> = spi(Spi::get_one_with_args(COLUMN_NAMES, &[table.oid.into()]));
    refuse(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("column \"{name}\" of table {} does not exist", table.name),
        columns.map(|columns| format!("Its columns are: {columns}.")),
        Some(
            "Name the column of the URLs with image_url => '…', \
             the columns to fill with fills => '{\"alt\": \"concise\"}'."
                .into(),
        ),
    )
}

/// Raises unless a column holds text: text, varchar, citext, or a domain of them.
pub fn require_text(table: &TableDescription, column: &ColumnDescription) {
    if matches!(column.base_type, pg_sys::TEXTOID | pg_sys::VARCHAROID) {
        return;
    }
    let is_citext: Option<bool> = optional(Spi::get_one_with_args(
        "SELECT typname = 'citext' FROM pg_type WHERE oid = $1",
        &[column.base_type.into()],
    ));
    if is_citext != Some(true) {
        refuse(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!(
                "column \"{}\" of table {} is of type {}",
                column.name, table.name, column.type_name
            ),
            None,
            Some(
                "URLs and captions need a column of type text, varchar, citext, \
                 or a domain of one of them."
                    .into(),
            ),
        );
    }
}

const WATCHED_ANCESTOR: &str = "\
    SELECT w.relation::text \
      FROM caption.watch w \
      JOIN pg_partition_ancestors($1::oid::regclass) a ON a.relid = w.relation \
     WHERE w.relation::oid <> $1 LIMIT 1";

const WATCHED_PARTITION: &str = "\
    SELECT w.relation::text \
      FROM caption.watch w \
     WHERE w.relation::oid <> $1 \
       AND EXISTS (SELECT FROM pg_partition_ancestors(w.relation) a WHERE a.relid::oid = $1) \
     LIMIT 1";

/// Raises if a partitioned table above this one is watched, or a partition of it: rows would meet
/// the triggers of both.
pub fn require_no_other_watch(table: &TableDescription) {
    let find = |statement: &str| -> Option<String> {
        optional(Spi::get_one_with_args(statement, &[table.oid.into()]))
    };
    if let Some(ancestor) = find(WATCHED_ANCESTOR) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} is a partition of {ancestor}, which is watched", table.name),
            Some("Its rows are filled by that watch.".into()),
            Some(format!(
                "To watch partitions one by one, first run: SELECT caption.unwatch('{}').",
                ancestor.replace('\'', "''")
            )),
        );
    }
    if let Some(partition) = find(WATCHED_PARTITION) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{partition}, a partition of table {}, is watched by itself", table.name),
            None,
            Some(format!(
                "To watch all partitions together, first run: SELECT caption.unwatch('{}').",
                partition.replace('\'', "''")
            )),
        );
    }
}
