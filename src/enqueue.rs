//! The trigger of watched tables: gathers keys in memory and appends them to the queue at pre-commit, many keys a row.
//!
//! Trusts the relation it fires on and nothing else: which table is watched and by which key comes from `caption.watch`.

use crate::{identity, shared};
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::num::NonZeroUsize;

/// Keys in one queue row: the worker reads and finishes them together.
const PAGE: usize = 200;
/// Gathered bytes at which the keys are appended before the transaction ends.
const GATHER: usize = 4 << 20;

/// How a key column becomes text.
enum Column {
    Int2(NonZeroUsize),
    Int4(NonZeroUsize),
    Int8(NonZeroUsize),
    Other { at: NonZeroUsize, output: pg_sys::Oid },
}

/// What a relation's rows are enqueued as.
struct Target {
    /// The watched table: the relation itself or a partitioned table above it.
    root: pg_sys::Oid,
    columns: Vec<Column>,
    /// Some column's text depends on settings that must be pinned.
    pinned: bool,
}

#[derive(Default)]
struct Gathered {
    registered: bool,
    /// Of the catalogs, when `targets` were looked up.
    epoch: u64,
    targets: HashMap<pg_sys::Oid, Option<Target>>,
    pages: HashMap<pg_sys::Oid, Vec<(String, i32)>>,
    bytes: usize,
    /// Something was appended (or a watch changed): the worker is told at commit.
    dirty: bool,
    /// Databases that this transaction created.
    created: Vec<u32>,
}

thread_local! {
    static GATHERED: RefCell<Gathered> = RefCell::default();
    /// Raised by every change of a table's definition that this process hears of, its own included. A cell of its own: it may be raised while `GATHERED` is in use.
    static EPOCH: Cell<u64> = const { Cell::new(0) };
}

#[pg_guard]
unsafe extern "C-unwind" fn on_definition_change(_argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    EPOCH.with(|epoch| epoch.set(epoch.get() + 1));
}

/// Tells the worker at commit that there may be something to do.
pub fn announce_at_commit() {
    register();
    GATHERED.with(|gathered| gathered.borrow_mut().dirty = true);
}

/// Tells the launcher at commit to look into a database that is being created.
pub fn announce_database_at_commit(database: u32) {
    register();
    GATHERED.with(|gathered| gathered.borrow_mut().created.push(database));
}

fn register() {
    GATHERED.with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        if !gathered.registered {
            // SAFETY: registers a function that lives as long as the library, once per process.
            unsafe {
                pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
                pg_sys::CacheRegisterRelcacheCallback(Some(on_definition_change), pg_sys::Datum::from(0));
            }
            gathered.registered = true;
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => append(),
        XACT_EVENT_COMMIT => finish(Some(false)),
        XACT_EVENT_PREPARE => finish(Some(true)),
        XACT_EVENT_ABORT => finish(None),
        _ => {}
    }
}

/// `announce`: whether the transaction is only prepared, or nothing if it was aborted.
fn finish(announce: Option<bool>) {
    let (dirty, created) = GATHERED.with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        gathered.targets.clear();
        gathered.pages.clear();
        gathered.bytes = 0;
        (std::mem::take(&mut gathered.dirty), std::mem::take(&mut gathered.created))
    });
    let Some(prepared) = announce.filter(|_| shared::preloaded()) else { return };
    if dirty {
        // SAFETY: reads a global.
        shared::announce_work(unsafe { pg_sys::MyDatabaseId }.to_u32(), prepared);
    }
    for database in created {
        shared::announce_work(database, false);
    }
}

/// Appends what was gathered to the queue, as the extension's owner.
fn append() {
    let pages = GATHERED.with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        gathered.bytes = 0;
        std::mem::take(&mut gathered.pages)
    });
    // SAFETY: a catalog look-up in a transaction. Without the extension (dropped by this very transaction) there is no queue.
    if pages.is_empty() || unsafe { pg_sys::get_extension_oid(c"pg_caption".as_ptr(), true) } == pg_sys::InvalidOid {
        return;
    }
    // SAFETY: a flag of this backend's transaction, restored below; it says that the *user's* statements must not write from now on.
    let read_only = unsafe {
        let before = pg_sys::XactReadOnly;
        pg_sys::XactReadOnly = false;
        before
    };
    // SAFETY: at pre-commit no snapshot is active any more; this one is popped below, or with the transaction if an error ends it.
    let pushed = unsafe {
        let needed = !pg_sys::ActiveSnapshotSet();
        if needed {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        needed
    };
    {
        let _extension = identity::as_extension();
        for (root, pages) in pages {
            let (texts, counts): (Vec<String>, Vec<i32>) = pages.into_iter().map(|(text, n)| (text + "]", n)).unzip();
            Spi::run_with_args(
                "INSERT INTO caption.queue (relation, keys, n) \
                 SELECT $1, p.keys::pg_catalog.jsonb, p.n FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS p (keys, n)",
                &[root.into(), texts.into(), counts.into()],
            )
            .unwrap_or_else(|error| pgrx::error!("pg_caption cannot append to its queue: {error}"));
        }
    }
    GATHERED.with(|gathered| gathered.borrow_mut().dirty = true);
    // SAFETY: the flag saved and the snapshot pushed above.
    unsafe {
        pg_sys::XactReadOnly = read_only;
        if pushed {
            pg_sys::PopActiveSnapshot();
        }
    }
}

/// `caption.announce()`.
///
/// # Safety
/// Called by PostgreSQL as a trigger function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pg_caption_announce(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    announce_at_commit();
    pg_sys::Datum::from(0)
}

/// `caption.keep_local()`: fires only where rows are applied from elsewhere (or `session_replication_role` says so), and keeps what we write ourselves there.
///
/// # Safety
/// Called by PostgreSQL as a trigger function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pg_caption_keep_local(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as in `pg_caption_enqueue`.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            pgrx::error!("caption.keep_local() can only be called as a trigger");
        }
        let data = context.cast::<pg_sys::TriggerData>();
        let tuple = if (*data).tg_newtuple.is_null() { (*data).tg_trigtuple } else { (*data).tg_newtuple };
        // Nothing: the row is skipped.
        if identity::is_extension() { pg_sys::Datum::from(tuple) } else { pg_sys::Datum::from(0) }
    }
}

/// `caption.enqueue()`.
///
/// # Safety
/// Called by PostgreSQL as a trigger function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pg_caption_enqueue(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: `context` of a function call is null or a node; for trigger calls it is a TriggerData whose parts live as long as the call.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            pgrx::error!("caption.enqueue() can only be called as a trigger");
        }
        let data = context.cast::<pg_sys::TriggerData>();
        let (event, updated) = ((*data).tg_event, !(*data).tg_newtuple.is_null());
        let tuple = if updated { (*data).tg_newtuple } else { (*data).tg_trigtuple };
        let after_row = event & pg_sys::TRIGGER_EVENT_ROW != 0 && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
        if !after_row || event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_DELETE || tuple.is_null() {
            pgrx::error!("caption.enqueue() can only be called by a row-level AFTER INSERT OR UPDATE trigger; see caption.watch()");
        }
        gather((*data).tg_relation, tuple);
    }
    pg_sys::Datum::from(0)
}

/// # Safety
/// `relation` is open and `tuple` is one of its rows.
unsafe fn gather(relation: pg_sys::Relation, tuple: pg_sys::HeapTuple) {
    // SAFETY: as promised by the caller.
    let (oid, description) = unsafe { ((*relation).rd_id, (*relation).rd_att) };
    register();
    let epoch = EPOCH.with(Cell::get);
    let known = GATHERED.with(|gathered| {
        let gathered = &mut *gathered.borrow_mut();
        if gathered.epoch != epoch {
            gathered.epoch = epoch;
            gathered.targets.clear();
        }
        gathered.targets.contains_key(&oid)
    });
    if !known {
        // SAFETY: as promised by the caller.
        let target = target(oid, &unsafe { PgRelation::from_pg(relation) });
        GATHERED.with(|gathered| gathered.borrow_mut().targets.insert(oid, target));
    }
    let full = GATHERED.with(|gathered| {
        let gathered = &mut *gathered.borrow_mut();
        let Some(Some(target)) = gathered.targets.get(&oid) else { return false };
        // Apart first: where a type's output function raises, no half-written key must stay.
        let mut key = String::new();
        // SAFETY: the columns were looked up in this relation's description.
        unsafe { write_key(&mut key, target, tuple, description) };
        let pages = gathered.pages.entry(target.root).or_default();
        if pages.last().is_none_or(|(_, n)| *n as usize >= PAGE) {
            pages.push((String::new(), 0));
        }
        let Some((page, n)) = pages.last_mut() else { return false };
        page.push(if *n == 0 { '[' } else { ',' });
        page.push_str(&key);
        *n += 1;
        gathered.bytes += key.len() + 1;
        gathered.bytes >= GATHER
    });
    // Not inside a subtransaction: its rollback would take keys along that were gathered before it.
    // SAFETY: reads the transaction's state.
    if full && unsafe { pg_sys::GetCurrentTransactionNestLevel() } == 1 {
        append();
    }
}

/// Writes a row's key as a JSON array of texts.
///
/// # Safety
/// `tuple` is a row of the relation that `description` describes and `target` was made for.
unsafe fn write_key(to: &mut String, target: &Target, tuple: pg_sys::HeapTuple, description: pg_sys::TupleDesc) {
    use std::fmt::Write;
    let _pin = target.pinned.then(Pin::new);
    to.push('[');
    for (n, column) in target.columns.iter().enumerate() {
        if n > 0 {
            to.push(',');
        }
        // SAFETY: attribute numbers come from this description; key columns are NOT NULL; the datum's type is the one its column was classified by.
        unsafe {
            let get = |at: NonZeroUsize| pgrx::htup::heap_getattr_raw(tuple, at, description);
            // Writing to a String cannot fail.
            let _ = match column {
                Column::Int2(at) => write!(to, "\"{}\"", get(*at).map_or(0, |datum| datum.value() as i16)),
                Column::Int4(at) => write!(to, "\"{}\"", get(*at).map_or(0, |datum| datum.value() as i32)),
                Column::Int8(at) => write!(to, "\"{}\"", get(*at).map_or(0, |datum| datum.value() as i64)),
                Column::Other { at, output } => {
                    if let Some(datum) = get(*at) {
                        let text = pg_sys::OidOutputFunctionCall(*output, datum);
                        let json = serde_json::to_string(&CStr::from_ptr(text).to_string_lossy());
                        to.push_str(&json.unwrap_or_else(|_| "null".into()));
                        pg_sys::pfree(text.cast());
                    } else {
                        to.push_str("null");
                    }
                    Ok(())
                }
            };
        }
    }
    to.push(']');
}

/// The settings that a key's text may depend on, pinned while it is written. The worker reads keys under the same ones.
struct Pin(i32);

/// Setting and value, as in [`Pin`].
pub const PINNED: [(&CStr, &CStr); 4] =
    [(c"datestyle", c"ISO, YMD"), (c"intervalstyle", c"postgres"), (c"timezone", c"UTC"), (c"extra_float_digits", c"3")];

impl Pin {
    fn new() -> Self {
        // SAFETY: a nesting level of settings that Drop closes, or the end of the (sub)transaction.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in PINNED {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Pin(level)
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: closes the level opened in `new`.
            unsafe { pg_sys::AtEOXact_GUC(false, self.0) };
        }
    }
}

/// Looks up how rows of a relation are enqueued; `None` where neither it nor a partitioned table above it is watched.
fn target(oid: pg_sys::Oid, relation: &PgRelation) -> Option<Target> {
    let _extension = identity::as_extension();
    let (root, keys) = look_up(oid)?;
    let description = relation.tuple_desc();
    let mut pinned = false;
    let columns = keys
        .iter()
        .map(|key| {
            let attribute = description.iter().find(|attribute| !attribute.attisdropped && attribute.name() == key)?;
            let at = NonZeroUsize::new(attribute.attnum as usize)?;
            Some(match attribute.atttypid {
                pg_sys::INT2OID => Column::Int2(at),
                pg_sys::INT4OID => Column::Int4(at),
                pg_sys::INT8OID => Column::Int8(at),
                other => {
                    pinned |= !matches!(other, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::UUIDOID | pg_sys::BPCHAROID);
                    let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
                    // SAFETY: fills two plain values for a type that exists.
                    unsafe { pg_sys::getTypeOutputInfo(other, &mut output, &mut varlena) };
                    Column::Other { at, output }
                }
            })
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Target { root, columns, pinned })
}

/// The watch that covers a relation: watched table and key columns. Read with the newest snapshot: in a serialisable transaction that began before
/// `caption.watch()` was committed the trigger fires already, and its rows must not be missed.
fn look_up(oid: pg_sys::Oid) -> Option<(pg_sys::Oid, Vec<String>)> {
    Spi::connect(|_client| {
        // SAFETY: between SPI_connect and SPI_finish, which `Spi::connect` sees to; the snapshot is popped, or falls with the transaction; the result is looked at
        // before anything else runs.
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
                if value.is_null() { None } else { Some(CStr::from_ptr(value).to_string_lossy().into_owned()) }
            };
            let root = text(1)?.parse::<u32>().ok()?;
            Some((pg_sys::Oid::from(root), serde_json::from_str(&text(2)?).ok()?))
        }
    })
}

/// Version-1 calling convention of the trigger functions.
static V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };

/// Calling convention of `pg_caption_enqueue`.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pg_caption_enqueue() -> &'static pg_sys::Pg_finfo_record {
    &V1
}

/// Calling convention of `pg_caption_keep_local`.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pg_caption_keep_local() -> &'static pg_sys::Pg_finfo_record {
    &V1
}

/// Calling convention of `pg_caption_announce`.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pg_caption_announce() -> &'static pg_sys::Pg_finfo_record {
    &V1
}
