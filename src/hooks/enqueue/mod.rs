//! The trigger of watched tables: gathers keys in memory and appends them to the queue at
//! pre-commit, many keys a row.
//!
//! Trusts the relation it fires on and nothing else: which table is watched and by which key comes
//! from `caption.watch` (`target`).

mod functions;
mod rescan;
mod target;
pub mod trigger_skip;

use crate::{pg::identity, shared};
use pgrx::datum::JsonString;
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};
use std::cell::{Cell, RefCell};
pub use target::PINNED;
use target::{Known, Target, look_at, write_key};

/// Keys in one queue row: the worker reads and finishes them together.
const PAGE: usize = 200;
/// Gathered bytes at which the keys are appended before the transaction ends.
const GATHER: usize = 4 << 20;

/// Keys of one watched table, as they will stand in the queue.
struct Pages {
    root: pg_sys::Oid,
    /// JSON arrays without their last bracket, and how many keys each has.
    pages: Vec<(String, i32)>,
}

#[derive(Default)]
struct Gathered {
    registered: bool,
    /// Of the catalogs, when `targets` were looked up.
    epoch: u64,
    /// Relations that the trigger fired on. Few, and nearly always the same one again: searched
    /// from the end.
    targets: Vec<(pg_sys::Oid, Known)>,
    pages: Vec<Pages>,
    /// Watched tables that have rows whose key cannot be written: their walks begin anew, once they
    /// can be read.
    keyless: Vec<pg_sys::Oid>,
    bytes: usize,
    /// The key being written.
    key: String,
    /// Something was appended (or a watch changed): the worker is told at commit.
    dirty: bool,
    /// Databases that this transaction created.
    created: Vec<u32>,
    /// Triggers that this transaction created or altered, of whatever table.
    triggers: rescan::Triggers,
}

impl Gathered {
    /// The last page of a watched table that has room for another key.
    fn page(&mut self, root: pg_sys::Oid) -> &mut (String, i32) {
        let at = self.pages.iter().rposition(|pages| pages.root == root).unwrap_or_else(|| {
            self.pages.push(Pages { root, pages: Vec::new() });
            self.pages.len() - 1
        });
        let pages = &mut self.pages[at].pages;
        if pages.last().is_none_or(|(_, n)| *n as usize >= PAGE) {
            // As long as the one before, or as 200 keys of a bigint: no growing in between.
            let length = pages.last().map_or(PAGE * 14, |(text, _)| text.len() + 16);
            pages.push((String::with_capacity(length), 0));
        }
        let last = pages.len() - 1;
        &mut pages[last]
    }
}

thread_local! {
    static GATHERED: RefCell<Gathered> = RefCell::default();
    /// Raised by every change of a table's definition that this process hears of, its own included.
    /// A cell of its own: it may be raised while `GATHERED` is in use.
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

/// Looks at commit whether a trigger is one of ours, on a table whose rows nobody has told of until
/// now.
pub fn look_at_trigger_at_commit(trigger: pg_sys::Oid, created: bool) {
    announce_at_commit();
    GATHERED.with(|gathered| {
        let triggers = &mut gathered.borrow_mut().triggers;
        if created { triggers.created.push(trigger) } else { triggers.altered.push(trigger) }
    });
}

fn register() {
    GATHERED.with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        if !gathered.registered {
            // SAFETY: registers a function that lives as long as the library, once per process.
            unsafe {
                pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
                pg_sys::CacheRegisterRelcacheCallback(
                    Some(on_definition_change),
                    pg_sys::Datum::from(0),
                );
            }
            gathered.registered = true;
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(
    event: pg_sys::XactEvent::Type,
    _argument: *mut core::ffi::c_void,
) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => {
            append();
            let triggers =
                GATHERED.with(|gathered| std::mem::take(&mut gathered.borrow_mut().triggers));
            if !triggers.is_empty() {
                on_queue(|| rescan::mark(&triggers));
            }
        }
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
        gathered.keyless.clear();
        gathered.bytes = 0;
        gathered.triggers = rescan::Triggers::default();
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

/// Appends what was gathered to the queue.
fn append() {
    let (pages, keyless) = GATHERED.with(|gathered| {
        let mut gathered = gathered.borrow_mut();
        gathered.bytes = 0;
        (std::mem::take(&mut gathered.pages), std::mem::take(&mut gathered.keyless))
    });
    if pages.is_empty() && keyless.is_empty() {
        return;
    }
    on_queue(|| {
        if !keyless.is_empty() {
            rescan::mark_tables(keyless);
        }
        for Pages { root, pages } in pages {
            // As json, which is not parsed again: that would cost a writer more than all else that
            // is done with a key.
            let (texts, counts): (Vec<JsonString>, Vec<i32>) =
                pages.into_iter().map(|(text, n)| (JsonString(text + "]"), n)).unzip();
            insert(
                // In 0.1.0 the column was jsonb, which json is assigned to as well.
                "INSERT INTO caption.queue (relation, keys, n) \
                 SELECT $1, pg_catalog.unnest($2), pg_catalog.unnest($3)",
                &[root.into(), texts.into(), counts.into()],
            );
        }
    });
    GATHERED.with(|gathered| gathered.borrow_mut().dirty = true);
}

/// Adds to the queue, within [`on_queue`].
fn insert(statement: &str, arguments: &[pgrx::datum::DatumWithOid<'_>]) {
    Spi::run_with_args(statement, arguments)
        .unwrap_or_else(|error| pgrx::error!("pg_caption cannot append to its queue: {error}"));
}

/// Does something to the queue as the extension's owner, also at pre-commit and where the user's
/// transaction is read-only by now.
fn on_queue(body: impl FnOnce()) {
    // SAFETY: a catalog look-up in a transaction. Without the extension (dropped by this very
    // transaction) there is no queue.
    if unsafe { pg_sys::get_extension_oid(c"pg_caption".as_ptr(), true) } == pg_sys::InvalidOid {
        return;
    }
    // SAFETY: a flag of this backend's transaction, restored below; it says that the *user's*
    // statements must not write from now on.
    let read_only = unsafe {
        let before = pg_sys::XactReadOnly;
        pg_sys::XactReadOnly = false;
        before
    };
    // SAFETY: at pre-commit no snapshot is active any more; this one is popped below, or with the
    // transaction if an error ends it.
    let pushed = unsafe {
        let needed = !pg_sys::ActiveSnapshotSet();
        if needed {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        needed
    };
    {
        let _extension = identity::as_extension();
        body();
    }
    // SAFETY: the flag saved and the snapshot pushed above.
    unsafe {
        pg_sys::XactReadOnly = read_only;
        if pushed {
            pg_sys::PopActiveSnapshot();
        }
    }
}

/// Gathers a row's key; whether so much is gathered that it is to be appended. Nothing where the
/// relation is to be looked up first.
///
/// # Safety
/// `tuple` is a row of the relation with this oid and description.
unsafe fn gather_known(
    epoch: u64,
    oid: pg_sys::Oid,
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
) -> Option<bool> {
    GATHERED.with(|gathered| {
        let gathered = &mut *gathered.borrow_mut();
        if gathered.epoch != epoch || !gathered.registered {
            gathered.epoch = epoch;
            gathered.targets.clear();
            return None;
        }
        // Apart first: where a type's output function raises, no half-written key must stay.
        gathered.key.clear();
        let root = match &gathered.targets.iter().rfind(|(known, _)| *known == oid)?.1 {
            // SAFETY: the columns were looked up in this relation's description.
            Known::Watched(target)
                if unsafe { write_key(&mut gathered.key, target, tuple, description) } =>
            {
                target.root
            }
            Known::Watched(Target { root, .. }) | Known::Keyless(root) => {
                let root = *root;
                if !gathered.keyless.contains(&root) {
                    gathered.keyless.push(root);
                }
                return Some(false);
            }
            Known::Unwatched => return Some(false),
        };
        let key = std::mem::take(&mut gathered.key);
        let (page, n) = gathered.page(root);
        page.push(if *n == 0 { '[' } else { ',' });
        page.push_str(&key);
        *n += 1;
        gathered.bytes += key.len() + 1;
        gathered.key = key;
        Some(gathered.bytes >= GATHER)
    })
}

/// # Safety
/// `relation` is open and `tuple` is one of its rows.
unsafe fn gather(relation: pg_sys::Relation, tuple: pg_sys::HeapTuple) {
    // SAFETY: as promised by the caller.
    let (oid, description) = unsafe { ((*relation).rd_id, (*relation).rd_att) };
    // The same for both attempts: what is changed while a relation is looked up counts from the
    // next row on.
    let epoch = EPOCH.with(Cell::get);
    // SAFETY: as promised by the caller.
    let full = match unsafe { gather_known(epoch, oid, tuple, description) } {
        Some(full) => full,
        None => {
            register();
            // SAFETY: as promised by the caller.
            let found = look_at(oid, &unsafe { PgRelation::from_pg(relation) });
            GATHERED.with(|gathered| gathered.borrow_mut().targets.push((oid, found)));
            // SAFETY: as promised by the caller.
            unsafe { gather_known(epoch, oid, tuple, description) }.unwrap_or(false)
        }
    };
    // Not inside a subtransaction: its rollback would take keys along that were gathered before it.
    // SAFETY: reads the transaction's state.
    if full && unsafe { pg_sys::GetCurrentTransactionNestLevel() } == 1 {
        append();
    }
}
