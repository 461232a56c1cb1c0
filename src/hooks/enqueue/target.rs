//! The target of a relation's rows: the watch that covers the relation, its key columns, and how a
//! row's key is written as text.
//!
//! Called by `enqueue`, in any session and with any `search_path`. Trusts `caption.watch` and the
//! catalogs only, and no object that a table's owner can create.

use super::MAX_KEY_BYTES;
use crate::pg::guc_scope::{GucScope, current};
use crate::pg::identity;
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};
use std::ffi::CStr;
use std::num::NonZeroUsize;

/// A key column, by attribute number and by how it becomes text.
enum KeyColumn {
    Int2(NonZeroUsize),
    Int4(NonZeroUsize),
    Int8(NonZeroUsize),
    /// Any other type, by its output function.
    Other {
        attribute: NonZeroUsize,
        output: pg_sys::Oid,
    },
}

impl KeyColumn {
    fn attribute(&self) -> NonZeroUsize {
        match self {
            Self::Int2(attribute) | Self::Int4(attribute) | Self::Int8(attribute) => *attribute,
            Self::Other { attribute, .. } => *attribute,
        }
    }
}

/// How rows of a relation are handled that the trigger fired on.
pub enum RelationTarget {
    /// Neither the relation nor a partitioned table above it is watched.
    Unwatched,
    /// The watch of this table covers the relation, but a column of the key is missing (renamed,
    /// dropped).
    Keyless(pg_sys::Oid),
    /// Rows are enqueued.
    Watched(WatchTarget),
}

/// Where and by which key the rows of a relation are enqueued.
pub struct WatchTarget {
    /// The watched table: the relation itself or a partitioned table above it.
    pub table: pg_sys::Oid,
    columns: Vec<KeyColumn>,
    /// The column of the image.
    image: NonZeroUsize,
    /// Columns whose change concerns the queue: image, key, those of the condition, and those whose
    /// change is followed.
    compared: Vec<NonZeroUsize>,
    /// The columns to fill, whose change concerns it, too, unless the worker has written them.
    fills: Vec<NonZeroUsize>,
    /// The settings that the text of a column depends on: a bit for each of [`PINNED`].
    pinned: u8,
}

/// A row before and after an UPDATE, and the columns that the statement sets.
#[derive(Clone, Copy)]
pub struct UpdatedRow {
    pub old: pg_sys::HeapTuple,
    pub new: pg_sys::HeapTuple,
    pub set: *const pg_sys::Bitmapset,
}

/// Whether an UPDATE concerns the queue: it sets the image, perhaps to what it was, or it changed
/// one of the compared columns. The trigger's condition alone also holds for a row with an empty
/// fill. Virtual columns have no values to compare: they count as changed.
///
/// # Safety
/// The rows are of the relation that `description` describes and `target` was made for.
pub unsafe fn is_concerned(
    target: &WatchTarget,
    row: UpdatedRow,
    description: pg_sys::TupleDesc,
) -> bool {
    let bit = target.image.get() as i32 - pg_sys::FirstLowInvalidHeapAttributeNumber;
    // SAFETY: as promised by the caller; the set is of the statement that fires the trigger.
    unsafe {
        if pg_sys::bms_is_member(bit, row.set) {
            return true;
        }
        let columns = pgrx::PgTupleDesc::from_pg_unchecked(description);
        let fills: &[NonZeroUsize] = if is_write_back() { &[] } else { &target.fills };
        target.compared.iter().chain(fills).any(|attribute| {
            let value = |tuple| pgrx::htup::heap_getattr_raw(tuple, *attribute, description);
            match (value(row.old), value(row.new), columns.get(attribute.get() - 1)) {
                (None, None, column) => column.is_some_and(|column| column.attgenerated != 0),
                (Some(old), Some(new), Some(column)) => {
                    let (by_value, length) = (column.attbyval, i32::from(column.attlen));
                    !pg_sys::ffi::pg_guard_ffi_boundary(|| {
                        datum_image_eq(old, new, by_value, length)
                    })
                }
                _ => true,
            }
        })
    }
}

/// Whether the trigger fires for the worker's own UPDATE, rather than for one of the table's own
/// triggers: that changes texts only, and the worker knows which of them were refused.
fn is_write_back() -> bool {
    // SAFETY: returns a counter and reads no argument.
    crate::worker::is_worker()
        && unsafe { pg_sys::pg_trigger_depth(std::ptr::null_mut()) }.value() == 1
}

unsafe extern "C-unwind" {
    // utils/datum.h, which the generated bindings leave out.
    fn datum_image_eq(
        one: pg_sys::Datum,
        other: pg_sys::Datum,
        by_value: bool,
        length: i32,
    ) -> bool;
}

/// What became of a row's key.
pub enum KeyText {
    /// It was written.
    Written,
    /// A part of it is NULL: the row has no key.
    Null,
    /// A part of it is longer than [`MAX_KEY_BYTES`].
    TooLong,
}

/// Writes a row's key as a JSON array of texts.
///
/// # Safety
/// `tuple` is a row of the relation that `description` describes and `target` was made for.
pub unsafe fn write_key(
    to: &mut String,
    target: &WatchTarget,
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
) -> KeyText {
    let mut digits = itoa::Buffer::new();
    let _scope = pin_settings(target.pinned);
    to.push('[');
    for (n, column) in target.columns.iter().enumerate() {
        if n > 0 {
            to.push(',');
        }
        // SAFETY: attribute numbers come from this description; the datum has the type that its
        // column was classified by.
        unsafe {
            let attribute = column.attribute();
            let Some(datum) = pgrx::htup::heap_getattr_raw(tuple, attribute, description) else {
                return KeyText::Null;
            };
            let number = match column {
                KeyColumn::Int2(_) => digits.format(datum.value() as i16),
                KeyColumn::Int4(_) => digits.format(datum.value() as i32),
                KeyColumn::Int8(_) => digits.format(datum.value() as i64),
                KeyColumn::Other { output, .. } => {
                    let text = pg_sys::OidOutputFunctionCall(*output, datum);
                    if CStr::from_ptr(text).count_bytes() > MAX_KEY_BYTES {
                        pg_sys::pfree(text.cast());
                        return KeyText::TooLong;
                    }
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
    KeyText::Written
}

/// Settings that the text of a key may depend on, with their values while a key is written. The
/// worker reads keys under all of them. Types whose text depends on other settings or on names are
/// not accepted as keys (`pg::table_key`).
pub const PINNED: [(&CStr, &CStr); 5] = [
    (c"datestyle", c"ISO, YMD"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"3"),
    (c"bytea_output", c"hex"),
];

/// The settings of [`PINNED`] that the text of a base type depends on, as bits; all for unknown
/// types.
fn pinned_by(base_type: pg_sys::Oid) -> u8 {
    match base_type {
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

/// Pins the given settings of [`PINNED`] in a new scope; `None` if the session has these values
/// already, which is checked for every row.
fn pin_settings(pinned: u8) -> Option<GucScope> {
    let wanted = || {
        PINNED.iter().enumerate().filter(|(bit, _)| pinned & 1 << bit != 0).map(|(_, pair)| pair)
    };
    let differing = || wanted().filter(|(name, value)| current(name, |text| text != *value));
    if pinned == 0 || differing().next().is_none() {
        return None;
    }
    let scope = GucScope::sealed();
    differing().for_each(|(name, value)| scope.set(name, value));
    Some(scope)
}

/// Looks up the target of a relation's rows.
pub fn find_target(oid: pg_sys::Oid, relation: &PgRelation) -> RelationTarget {
    let _extension = identity::as_extension();
    let Some(watch) = find_watch(oid) else { return RelationTarget::Unwatched };
    let WatchColumns { table, image, keys, fills, others } = watch;
    let description = relation.tuple_desc();
    let column = |name: &str| {
        description.iter().find(|column| !column.attisdropped && column.name() == name)
    };
    let number = |name: &str| NonZeroUsize::new(column(name)?.attnum as usize);
    let mut pinned = 0;
    let columns = keys
        .iter()
        .map(|key| {
            let (column, settings) = classify(column(key)?)?;
            pinned |= settings;
            Some(column)
        })
        .collect::<Option<Vec<_>>>();
    match (columns, number(&image)) {
        (Some(columns), Some(image)) => {
            let others = keys.iter().chain(&others).filter_map(|name| number(name));
            let compared = std::iter::once(image).chain(others).collect();
            let fills = fills.iter().filter_map(|name| number(name)).collect();
            RelationTarget::Watched(WatchTarget { table, columns, image, compared, fills, pinned })
        }
        _ => RelationTarget::Keyless(table),
    }
}

/// A watch, by the names of its columns.
struct WatchColumns {
    table: pg_sys::Oid,
    image: String,
    keys: Vec<String>,
    fills: Vec<String>,
    /// Columns that the condition names, and those whose change is followed.
    others: Vec<String>,
}

/// A key column, and the settings that its text depends on.
fn classify(attribute: &pg_sys::FormData_pg_attribute) -> Option<(KeyColumn, u8)> {
    let number = NonZeroUsize::new(attribute.attnum as usize)?;
    Some(match attribute.atttypid {
        pg_sys::INT2OID => (KeyColumn::Int2(number), 0),
        pg_sys::INT4OID => (KeyColumn::Int4(number), 0),
        pg_sys::INT8OID => (KeyColumn::Int8(number), 0),
        declared => {
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            // SAFETY: fills two plain values for an existing type.
            unsafe { pg_sys::getTypeOutputInfo(declared, &mut output, &mut is_varlena) };
            // SAFETY: a catalog look-up of an existing type.
            let base = unsafe { pg_sys::getBaseType(declared) };
            (KeyColumn::Other { attribute: number, output }, pinned_by(base))
        }
    })
}

/// In sessions with any `search_path`: every name is qualified.
const FIND_WATCH: &CStr = c"\
    SELECT w.relation::pg_catalog.oid::pg_catalog.text, \
           pg_catalog.to_json(w.keys)::pg_catalog.text, \
           w.image::pg_catalog.text, w.fills::pg_catalog.text, \
           pg_catalog.to_json(pg_catalog.array_cat(w.condition_columns, w.followed)) \
               ::pg_catalog.text \
      FROM caption.watch w \
     WHERE w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) $1 \
        OR w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) ANY \
           (SELECT a.relid::pg_catalog.oid \
              FROM pg_catalog.pg_partition_ancestors($1::pg_catalog.regclass) a) \
     LIMIT 1";

/// The watch that covers a relation. Read with the latest snapshot:
/// in a serializable transaction that began before the commit of `caption.watch()`, the trigger
/// already fires, and its rows must not be missed.
fn find_watch(oid: pg_sys::Oid) -> Option<WatchColumns> {
    Spi::connect(|_client| {
        // SAFETY: between SPI_connect and SPI_finish, which `Spi::connect` calls. The snapshot is
        // popped, or released with the transaction. The result is read before any other call.
        unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            let (mut types, mut values) = ([pg_sys::OIDOID], [pg_sys::Datum::from(oid)]);
            let status = pg_sys::SPI_execute_with_args(
                FIND_WATCH.as_ptr(),
                1,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                std::ptr::null(),
                true,
                1,
            );
            pg_sys::PopActiveSnapshot();
            if status != pg_sys::SPI_OK_SELECT as i32 || pg_sys::SPI_processed == 0 {
                return None;
            }
            let result = pg_sys::SPI_tuptable;
            let row = *(*result).vals;
            let text = |column| {
                let value = pg_sys::SPI_getvalue(row, (*result).tupdesc, column);
                (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
            };
            let table = text(1)?.parse::<u32>().ok()?;
            let fills: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&text(4)?).ok()?;
            Some(WatchColumns {
                table: pg_sys::Oid::from(table),
                image: text(3)?,
                keys: serde_json::from_str(&text(2)?).ok()?,
                fills: fills.into_iter().map(|(column, _)| column).collect(),
                others: text(5)
                    .and_then(|columns| serde_json::from_str(&columns).ok())
                    .unwrap_or_default(),
            })
        }
    })
}
