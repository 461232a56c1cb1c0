//! A table as the catalogs describe it, and whether it can be watched: whose it is, what its
//! columns are, which of them are its key.
//!
//! Called by `watch`, in the caller's session and with the caller's rights; changes nothing.

use crate::pg::identity;
use crate::pg::report::{optional, refuse, spi};
use pgrx::prelude::*;

/// A table as the catalogs describe it.
pub struct Table {
    pub oid: pg_sys::Oid,
    /// Schema-qualified and quoted.
    pub name: String,
    pub owner: pg_sys::Oid,
    pub owner_name: String,
    pub kind: String,
    pub persistent: bool,
    pub ours: bool,
}

pub struct Column {
    pub name: String,
    pub base_type: String,
    pub base_kind: pg_sys::Oid,
    pub generated: bool,
    /// Characters that it holds at most, where that is declared.
    pub length: Option<u32>,
}

pub fn describe(relation: pg_sys::Oid) -> Table {
    spi(Spi::connect(|client| {
        let rows = client.select(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner, c.relowner::pg_catalog.regrole::pg_catalog.text, \
                    c.relkind::pg_catalog.text, c.relpersistence OPERATOR(pg_catalog.<>) 't', n.nspname OPERATOR(pg_catalog.=) 'caption' \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
              WHERE c.oid OPERATOR(pg_catalog.=) $1",
            Some(1),
            &[relation.into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        Ok(Some(Table {
            oid: relation,
            name: row.get::<String>(1)?.unwrap_or_default(),
            owner: row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::InvalidOid),
            owner_name: row.get::<String>(3)?.unwrap_or_default(),
            kind: row.get::<String>(4)?.unwrap_or_default(),
            persistent: row.get::<bool>(5)?.unwrap_or(true),
            ours: row.get::<bool>(6)?.unwrap_or(false),
        }))
    }))
    .unwrap_or_else(|| refuse(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, format!("there is no table with OID {}", relation.to_u32()), None, None))
}

/// Raises unless the caller has the rights of the table's owner, and is a superuser where the owner
/// is one.
pub fn require_ownership(table: &Table) {
    let caller = identity::caller();
    // SAFETY: plain catalog look-ups of roles that exist in this transaction.
    let (member, owner_super, caller_super) = unsafe {
        (
            pg_sys::has_privs_of_role(caller, table.owner),
            pg_sys::superuser_arg(table.owner),
            pg_sys::superuser_arg(caller),
        )
    };
    if !member {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of table {}", table.name),
            Some(format!("It belongs to {}.", table.owner_name)),
            Some("Captions are written with the rights of the table's owner, so only its owner may watch it.".into()),
        );
    }
    if owner_super && !caller_super {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be superuser to watch table {}", table.name),
            Some(format!("It belongs to the superuser {}.", table.owner_name)),
            Some("Give the table to an ordinary role: ALTER TABLE … OWNER TO …".into()),
        );
    }
}

/// What a domain over a domain … is made of, and its modifier; any other type is itself.
pub fn base(kind: pg_sys::Oid, modifier: i32) -> (pg_sys::Oid, i32) {
    let mut modifier = modifier;
    // SAFETY: catalog look-ups of a type that exists; writes one number.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(kind, &mut modifier) };
    (base, modifier)
}

/// Characters that a column holds whose type is [`base`]'s: a varchar(n).
pub fn length((base, modifier): (pg_sys::Oid, i32)) -> Option<u32> {
    // The modifier counts a header of four bytes, too.
    (base == pg_sys::VARCHAROID && modifier >= 4).then(|| (modifier as u32 - 4).max(1))
}

pub fn column(table: &Table, name: &str) -> Column {
    let found = spi(Spi::connect(|client| {
        let rows = client.select(
            "SELECT pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated OPERATOR(pg_catalog.<>) '', a.atttypid, a.atttypmod \
               FROM pg_catalog.pg_attribute a \
              WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped",
            Some(1),
            &[table.oid.into(), name.into()],
        )?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let base = base(row.get(3)?.unwrap_or(pg_sys::InvalidOid), row.get(4)?.unwrap_or(-1));
        Ok(Some(Column {
            name: name.into(),
            base_type: row.get::<String>(1)?.unwrap_or_default(),
            base_kind: base.0,
            generated: row.get::<bool>(2)?.unwrap_or(false),
            length: length(base),
        }))
    }));
    found.unwrap_or_else(|| {
        let columns: Option<String> = spi(Spi::get_one_with_args(
            "SELECT pg_catalog.string_agg(attname, ', ' ORDER BY attnum) FROM pg_catalog.pg_attribute WHERE attrelid OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT attisdropped",
            &[table.oid.into()],
        ));
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{name}\" of table {} does not exist", table.name),
            columns.map(|columns| format!("Its columns are: {columns}.")),
            Some("Name the column of the URLs with image_url => '…', the columns to fill with fills => '{\"alt\": \"concise\"}'.".into()),
        )
    })
}

/// Raises unless a column holds text: text, varchar, citext, or a domain of them.
pub fn require_text(table: &Table, column: &Column) {
    let is_citext = || {
        spi(Spi::get_one_with_args::<bool>(
            "SELECT typname OPERATOR(pg_catalog.=) 'citext' FROM pg_catalog.pg_type WHERE oid OPERATOR(pg_catalog.=) $1",
            &[column.base_kind.into()],
        ))
        .unwrap_or(false)
    };
    if !matches!(column.base_kind, pg_sys::TEXTOID | pg_sys::VARCHAROID) && !is_citext() {
        refuse(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("column \"{}\" of table {} is of type {}", column.name, table.name, column.base_type),
            None,
            Some("URLs and captions need a column of type text, varchar, citext, or a domain of one of them.".into()),
        );
    }
}

/// Raises for a key whose comparison operators are not PostgreSQL's own (they could not be named
/// safely, and their order is not text's order), and for one whose text changes although the value
/// does not.
pub fn require_comparable(table: &Table, column: &Column) {
    let known = optional(Spi::get_one_with_args::<bool>(
        "SELECT t.typnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid OR t.typtype OPERATOR(pg_catalog.=) ANY ('{e,r}'::pg_catalog.\"char\"[]) \
           FROM pg_catalog.pg_type t WHERE t.oid OPERATOR(pg_catalog.=) $1",
        &[column.base_kind.into()],
    ));
    if known != Some(true) {
        refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("key column \"{}\" of table {} is of type {}", column.name, table.name, column.base_type),
            None,
            Some(
                "Keys of PostgreSQL's own types, their domains, enums and ranges are supported; a unique index over such NOT NULL columns will do."
                    .into(),
            ),
        );
    }
    let fickle: Option<String> = optional(Spi::get_one_with_args(
        "WITH RECURSIVE part AS (SELECT $1::pg_catalog.oid AS oid UNION SELECT x.oid FROM part p JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.oid CROSS JOIN LATERAL \
             (VALUES (t.typbasetype), (CASE WHEN t.typcategory OPERATOR(pg_catalog.=) 'A' THEN t.typelem END), \
                     ((SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid OPERATOR(pg_catalog.=) t.oid OR r.rngmultitypid OPERATOR(pg_catalog.=) t.oid))) AS x (oid) \
             WHERE x.oid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid) \
         SELECT t.typname::pg_catalog.text FROM part p JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.oid \
          WHERE t.typnamespace OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace::pg_catalog.oid \
            AND (t.typname OPERATOR(pg_catalog.=) 'money' OR t.typname::pg_catalog.text OPERATOR(pg_catalog.~~) 'reg%') LIMIT 1",
        &[column.base_kind.into()],
    ));
    if let Some(fickle) = fickle {
        refuse(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "key column \"{}\" of table {} is of type {}",
                column.name, table.name, column.base_type
            ),
            Some(if fickle == "money" {
                "Rows are found again by the text of their key, and that of money is another one in another locale.".into()
            } else {
                format!(
                    "Rows are found again by the text of their key, and that of {fickle} changes with names and the search_path."
                )
            }),
            Some(format!(
                "Use {} instead, or add a unique index over other NOT NULL columns.",
                if fickle == "money" { "numeric" } else { "oid" }
            )),
        );
    }
}

/// Columns of the primary key, else of the narrowest valid unique index over NOT NULL columns.
pub fn key(table: &Table) -> Vec<String> {
    if let Some(columns) = unique(table, true) {
        return columns;
    }
    match unique(table, false) {
        Some(columns) => refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the key of table {} is deferrable and cannot be used", table.name),
            Some(format!(
                "It is ({}). Within a transaction two rows may have the same one, and a caption could be written into the wrong row.",
                columns.join(", ")
            )),
            Some("Make the constraint NOT DEFERRABLE (drop it and add it again), or add a unique index over NOT NULL columns.".into()),
        ),
        None => refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} has no key", table.name),
            Some("Rows are found again by their key when the caption is written.".into()),
            Some("Add a primary key, or a unique index over NOT NULL columns.".into()),
        ),
    }
}

/// The columns of the best key whose uniqueness is checked at once, or of one where that may wait
/// for the end of the transaction.
fn unique(table: &Table, immediate: bool) -> Option<Vec<String>> {
    let found: Option<Vec<String>> = optional(Spi::get_one_with_args(
        "SELECT ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY k (attnum, ord) \
                        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid AND a.attnum OPERATOR(pg_catalog.=) k.attnum \
                       WHERE k.ord OPERATOR(pg_catalog.<=) i.indnkeyatts ORDER BY k.ord) \
           FROM pg_catalog.pg_index i \
          WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND i.indisunique AND i.indisvalid AND i.indimmediate OPERATOR(pg_catalog.=) $2 AND i.indpred IS NULL AND i.indexprs IS NULL \
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) i.indrelid \
                               AND a.attnum OPERATOR(pg_catalog.=) ANY ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts OPERATOR(pg_catalog.-) 1]) AND NOT a.attnotnull) \
          ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1",
        &[table.oid.into(), immediate.into()],
    ));
    found.filter(|columns| !columns.is_empty())
}

/// Raises where a partitioned table above this one is watched, or a partition of it: triggers of
/// both would meet.
pub fn require_no_other_watch(table: &Table) {
    let other = |select: &str| -> Option<String> {
        optional(Spi::get_one_with_args(select, &[table.oid.into()]))
    };
    let above = other(
        "SELECT w.relation::pg_catalog.text FROM caption.watch w JOIN pg_catalog.pg_partition_ancestors($1::pg_catalog.oid::pg_catalog.regclass) a ON a.relid OPERATOR(pg_catalog.=) w.relation \
          WHERE w.relation::pg_catalog.oid OPERATOR(pg_catalog.<>) $1 LIMIT 1",
    );
    if let Some(above) = above {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} is a partition of {above}, which is watched", table.name),
            Some("Its rows are filled by that watch.".into()),
            Some(format!(
                "To watch partitions one by one, first: SELECT caption.unwatch('{}')",
                above.replace('\'', "''")
            )),
        );
    }
    let below = other(
        "SELECT w.relation::pg_catalog.text FROM caption.watch w \
          WHERE w.relation::pg_catalog.oid OPERATOR(pg_catalog.<>) $1 AND EXISTS \
                (SELECT FROM pg_catalog.pg_partition_ancestors(w.relation) a WHERE a.relid::pg_catalog.oid OPERATOR(pg_catalog.=) $1) LIMIT 1",
    );
    if let Some(below) = below {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("{below}, a partition of table {}, is watched by itself", table.name),
            None,
            Some(format!(
                "To watch all partitions at once, first: SELECT caption.unwatch('{}')",
                below.replace('\'', "''")
            )),
        );
    }
}
