//! What is known of a watched relation: which watch covers it, its key columns, and how a row's key
//! is written.
//!
//! Trusts `caption.watch` and the catalogs, and nothing that the table's owner could plant.

use crate::pg::guc_scope::{Level, current};
use crate::pg::identity;
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};
use std::ffi::CStr;
use std::num::NonZeroUsize;

/// How a key column becomes text.
enum Column {
    Int2(NonZeroUsize),
    Int4(NonZeroUsize),
    Int8(NonZeroUsize),
    Other { at: NonZeroUsize, output: pg_sys::Oid },
}

/// What is known of a relation that the trigger fired on.
pub enum Known {
    /// Neither it nor a partitioned table above it is watched.
    Unwatched,
    /// It is covered by the watch of this table, but a column of the key is not there (renamed,
    /// dropped).
    Keyless(pg_sys::Oid),
    /// Its rows are enqueued.
    Watched(Target),
}

/// What a relation's rows are enqueued as.
pub struct Target {
    /// The watched table: the relation itself or a partitioned table above it.
    pub root: pg_sys::Oid,
    columns: Vec<Column>,
    /// The settings that some column's text depends on: a bit for each of [`PINNED`].
    pinned: u8,
}

/// Writes a row's key as a JSON array of texts; `false` where a part of it is NULL, which is no
/// key.
///
/// # Safety
/// `tuple` is a row of the relation that `description` describes and `target` was made for.
pub unsafe fn write_key(
    to: &mut String,
    target: &Target,
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
) -> bool {
    let mut digits = itoa::Buffer::new();
    let _level = pinned(target.pinned);
    to.push('[');
    for (n, column) in target.columns.iter().enumerate() {
        if n > 0 {
            to.push(',');
        }
        // SAFETY: attribute numbers come from this description; the datum's type is the one its
        // column was classified by.
        unsafe {
            let (Column::Int2(at) | Column::Int4(at) | Column::Int8(at) | Column::Other { at, .. }) =
                column;
            let Some(datum) = pgrx::htup::heap_getattr_raw(tuple, *at, description) else {
                return false;
            };
            let number = match column {
                Column::Int2(_) => digits.format(datum.value() as i16),
                Column::Int4(_) => digits.format(datum.value() as i32),
                Column::Int8(_) => digits.format(datum.value() as i64),
                Column::Other { output, .. } => {
                    let text = pg_sys::OidOutputFunctionCall(*output, datum);
                    let json = serde_json::to_string(&CStr::from_ptr(text).to_string_lossy());
                    to.push_str(&json.unwrap_or_else(|_| "null".into()));
                    pg_sys::pfree(text.cast());
                    continue;
                }
            };
            to.push('"');
            to.push_str(number);
            to.push('"');
        }
    }
    to.push(']');
    true
}

/// Settings that a key's text may depend on, as they are while it is written; the worker reads keys
/// under all of them. The types whose text depends on other settings or on names are no keys
/// (`table`).
pub const PINNED: [(&CStr, &CStr); 5] = [
    (c"datestyle", c"ISO, YMD"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"3"),
    (c"bytea_output", c"hex"),
];

/// Which of [`PINNED`] the text of a type depends on (domains: what they are made of); all, where
/// it is not known.
fn depends_on(kind: pg_sys::Oid) -> u8 {
    match kind {
        pg_sys::TEXTOID
        | pg_sys::VARCHAROID
        | pg_sys::BPCHAROID
        | pg_sys::UUIDOID
        | pg_sys::NAMEOID
        | pg_sys::OIDOID
        | pg_sys::NUMERICOID
        | pg_sys::BOOLOID
        | pg_sys::INETOID
        | pg_sys::CIDROID => 0,
        pg_sys::DATEOID | pg_sys::TIMESTAMPOID => 0b00001,
        pg_sys::INTERVALOID => 0b00010,
        pg_sys::TIMESTAMPTZOID => 0b00101,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => 0b01000,
        pg_sys::BYTEAOID => 0b10000,
        _ => 0b11111,
    }
}

/// Those of [`PINNED`], in a level of their own; nothing where the session has these settings
/// already: this is asked for every row.
fn pinned(settings: u8) -> Option<Level> {
    let wanted =
        || PINNED.iter().enumerate().filter(|(n, _)| settings & 1 << n != 0).map(|(_, pair)| pair);
    let differing = || wanted().filter(|(name, value)| current(name, |text| text != *value));
    if settings == 0 || differing().next().is_none() {
        return None;
    }
    let level = Level::sealed();
    differing().for_each(|(name, value)| level.set(name, value));
    Some(level)
}

/// Looks up how rows of a relation are enqueued.
pub fn look_at(oid: pg_sys::Oid, relation: &PgRelation) -> Known {
    let _extension = identity::as_extension();
    let Some((root, keys)) = look_up(oid) else { return Known::Unwatched };
    let description = relation.tuple_desc();
    let mut pinned = 0;
    let columns = keys
        .iter()
        .map(|key| {
            let attribute = description
                .iter()
                .find(|attribute| !attribute.attisdropped && attribute.name() == key)?;
            let at = NonZeroUsize::new(attribute.attnum as usize)?;
            Some(match attribute.atttypid {
                pg_sys::INT2OID => Column::Int2(at),
                pg_sys::INT4OID => Column::Int4(at),
                pg_sys::INT8OID => Column::Int8(at),
                other => {
                    // SAFETY: a catalog look-up of a type that exists.
                    pinned |= depends_on(unsafe { pg_sys::getBaseType(other) });
                    let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
                    // SAFETY: fills two plain values for a type that exists.
                    unsafe { pg_sys::getTypeOutputInfo(other, &mut output, &mut varlena) };
                    Column::Other { at, output }
                }
            })
        })
        .collect::<Option<Vec<_>>>();
    match columns {
        Some(columns) => Known::Watched(Target { root, columns, pinned }),
        None => Known::Keyless(root),
    }
}

/// The watch that covers a relation: watched table and key columns. Read with the newest snapshot:
/// in a serialisable transaction that began before `caption.watch()` was committed the trigger
/// fires already, and its rows must not be missed.
fn look_up(oid: pg_sys::Oid) -> Option<(pg_sys::Oid, Vec<String>)> {
    Spi::connect(|_client| {
        // SAFETY: between SPI_connect and SPI_finish, which `Spi::connect` sees to; the snapshot is
        // popped, or falls with the transaction; the result is looked at before anything else runs.
        unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            let (mut kinds, mut values) = ([pg_sys::OIDOID], [pg_sys::Datum::from(oid)]);
            let status = pg_sys::SPI_execute_with_args(
                c"SELECT w.relation::pg_catalog.oid::pg_catalog.text, pg_catalog.to_json(w.keys)::pg_catalog.text FROM caption.watch w \
                   WHERE w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) $1 OR w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) ANY \
                         (SELECT a.relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.regclass) a) LIMIT 1"
                    .as_ptr(),
                1,
                kinds.as_mut_ptr(),
                values.as_mut_ptr(),
                std::ptr::null(),
                true,
                1,
            );
            pg_sys::PopActiveSnapshot();
            if status != pg_sys::SPI_OK_SELECT as i32 || pg_sys::SPI_processed == 0 {
                return None;
            }
            let table = pg_sys::SPI_tuptable;
            let row = *(*table).vals;
            let text = |column| {
                let value = pg_sys::SPI_getvalue(row, (*table).tupdesc, column);
                if value.is_null() {
                    None
                } else {
                    Some(CStr::from_ptr(value).to_string_lossy().into_owned())
                }
            };
            let root = text(1)?.parse::<u32>().ok()?;
            Some((pg_sys::Oid::from(root), serde_json::from_str(&text(2)?).ok()?))
        }
    })
}
