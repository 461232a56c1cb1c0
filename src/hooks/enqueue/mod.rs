//! The triggers of watched tables: they gather keys in memory and append them to the queue at
//! pre-commit, many keys a row.
//!
//! Called by PostgreSQL in every backend. Trusts the relation that a trigger fires on and nothing
//! else: the watched table and its key come from `caption.watch` (`target`).

mod functions;
mod owners;
mod pages;
mod queue;
mod rescan;
mod target;
pub mod trigger_skip;

use crate::pg::report::warn;
use crate::shared;
use pages::{GatheredKeys, KeyPage, TablePages};
use pgrx::datum::JsonString;
use pgrx::prelude::*;
use pgrx::{PgRelation, pg_sys};
use std::cell::{Cell, RefCell};
pub use target::PINNED;
use target::{KeyText, RelationTarget, UpdatedRow, find_target, is_concerned, write_key};

/// Longest part of a key, bytes. Rows with a longer one get no caption: queue and worker keep many
/// keys in memory.
pub const MAX_KEY_BYTES: usize = 8192;
/// Gathered bytes at which the keys are appended before the transaction ends.
const MAX_GATHERED: usize = 4 << 20;

/// What the current transaction has to do at its end.
#[derive(Default)]
struct TransactionState {
    /// The callbacks are registered, once per process.
    is_registered: bool,
    /// The value of `EPOCH` when `targets` were looked up.
    epoch: u64,
    /// Relations that the trigger fired on. Few, searched from the end: consecutive rows mostly
    /// belong to the same relation.
    targets: Vec<(pg_sys::Oid, RelationTarget)>,
    keys: GatheredKeys,
    /// Watched tables with rows whose key cannot be written. Their backfill restarts when they can
    /// be read.
    keyless: Vec<pg_sys::Oid>,
    /// Buffer of the key being written.
    key: String,
    /// Rows were enqueued or a watch was changed: the worker is notified at commit.
    is_dirty: bool,
    /// Databases that this transaction created.
    created: Vec<u32>,
    /// Triggers that this transaction created or altered, on any table.
    triggers: rescan::ChangedTriggers,
    owners: owners::OwnerChanges,
}

thread_local! {
    static STATE: RefCell<TransactionState> = RefCell::default();
    /// Raised by every change of a table's definition that this process learns of, its own
    /// included. A separate cell: the change may occur while `STATE` is borrowed.
    static EPOCH: Cell<u64> = const { Cell::new(0) };
}

fn with_state<T>(body: impl FnOnce(&mut TransactionState) -> T) -> T {
    STATE.with(|state| body(&mut state.borrow_mut()))
}

#[pg_guard]
unsafe extern "C-unwind" fn on_definition_change(_argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    EPOCH.set(EPOCH.get() + 1);
}

/// Notifies the worker at commit that there may be work.
pub fn announce_at_commit() {
    register();
    with_state(|state| state.is_dirty = true);
}

/// Notifies the launcher at commit of a database that is being created.
pub fn announce_database_at_commit(database: u32) {
    register();
    with_state(|state| state.created.push(database));
}

/// Notifies the worker at commit of an altered relation, and checks whether it still belongs to a
/// superuser.
pub fn check_owner_at_commit(relation: pg_sys::Oid) {
    announce_at_commit();
    with_state(|state| state.owners.relations.push(relation));
}

/// Checks at commit whether a superuser has become an ordinary role.
pub fn check_role_at_commit(role: pg_sys::Oid) {
    register();
    with_state(|state| state.owners.superusers.push(role));
}

/// Checks at commit whether a trigger is one of the extension's, on a table with rows that no
/// trigger has enqueued.
pub fn check_trigger_at_commit(trigger: pg_sys::Oid, is_created: bool) {
    announce_at_commit();
    with_state(|state| {
        let triggers = &mut state.triggers;
        if is_created { triggers.created.push(trigger) } else { triggers.altered.push(trigger) }
    });
}

fn register() {
    with_state(|state| {
        if state.is_registered {
            return;
        }
        // SAFETY: registers functions that live as long as the library, once per process.
        unsafe {
            pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
            pg_sys::CacheRegisterRelcacheCallback(
                Some(on_definition_change),
                pg_sys::Datum::from(0),
            );
        }
        state.is_registered = true;
    });
}

/// How a transaction ended.
enum TransactionEnd {
    Committed,
    Prepared,
    Aborted,
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
            let triggers = with_state(|state| std::mem::take(&mut state.triggers));
            if !triggers.is_empty() {
                queue::with_queue(|| rescan::request_for_triggers(&triggers));
            }
            let relations = with_state(|state| state.owners.before_commit());
            if !relations.is_empty() {
                queue::with_queue(|| owners::forget_superusers(&relations));
            }
        }
        XACT_EVENT_COMMIT => finish(TransactionEnd::Committed),
        XACT_EVENT_PREPARE => finish(TransactionEnd::Prepared),
        XACT_EVENT_ABORT => finish(TransactionEnd::Aborted),
        _ => {}
    }
}

/// Resets the state and notifies the worker and the launcher.
fn finish(end: TransactionEnd) {
    let (is_dirty, created, demoted) = with_state(|state| {
        state.targets.clear();
        state.keys.take();
        state.keyless.clear();
        state.triggers = rescan::ChangedTriggers::default();
        let demoted = std::mem::take(&mut state.owners).demoted;
        (std::mem::take(&mut state.is_dirty), std::mem::take(&mut state.created), demoted)
    });
    let is_prepared = match end {
        TransactionEnd::Aborted => return,
        TransactionEnd::Prepared => true,
        TransactionEnd::Committed => false,
    };
    if !shared::preloaded() {
        return;
    }
    if is_dirty {
        // SAFETY: reads a global.
        shared::announce_work(unsafe { pg_sys::MyDatabaseId }.to_u32(), is_prepared);
    }
    for database in created {
        shared::announce_work(database, false);
    }
    for role in demoted {
        shared::note_demoted(role.to_u32());
    }
}

/// In sessions with any `search_path`: every name is qualified.
const APPEND_KEYS: &str = "\
    INSERT INTO caption.queue (relation, keys, n) \
    SELECT $1, pg_catalog.unnest($2), pg_catalog.unnest($3)";

/// Appends the gathered keys to the queue.
fn append() {
    let (tables, keyless) =
        with_state(|state| (state.keys.take(), std::mem::take(&mut state.keyless)));
    if tables.is_empty() && keyless.is_empty() {
        return;
    }
    queue::with_queue(|| {
        if !keyless.is_empty() {
            rescan::request_for_tables(keyless);
        }
        tables.into_iter().for_each(append_table);
    });
    with_state(|state| state.is_dirty = true);
}

fn append_table(TablePages { table, pages }: TablePages) {
    let counts: Vec<i32> = pages.iter().map(|page| page.count).collect();
    // As json, which PostgreSQL does not convert: a conversion would cost a writer more than all
    // other work on a key.
    let texts = pages.into_iter().map(KeyPage::into_json).map(JsonString);
    let texts: Vec<JsonString> = texts.collect();
    queue::insert(APPEND_KEYS, &[table.into(), texts.into(), counts.into()]);
}

/// Result of gathering one row.
enum Gathering {
    /// The relation must be looked up first.
    UnknownRelation,
    Done,
    /// The gathered keys must be appended to the queue.
    Full,
    /// The key is too long for the queue.
    TooLong,
}

/// Gathers a row's key if its relation is known.
///
/// # Safety
/// `tuple` is a row of the relation with this oid and description.
unsafe fn gather(
    epoch: u64,
    oid: pg_sys::Oid,
    (tuple, updated): (pg_sys::HeapTuple, Option<UpdatedRow>),
    description: pg_sys::TupleDesc,
) -> Gathering {
    with_state(|state| {
        if state.epoch != epoch || !state.is_registered {
            state.epoch = epoch;
            state.targets.clear();
            return Gathering::UnknownRelation;
        }
        let target = match state.targets.iter().rfind(|(known, _)| *known == oid) {
            Some((_, target)) => target,
            None => return Gathering::UnknownRelation,
        };
        // A separate buffer: an error of a type's output function must leave no partial key.
        state.key.clear();
        let (table, key) = match target {
            RelationTarget::Watched(target) => {
                // SAFETY: the columns were looked up in this relation's description.
                if updated.is_some_and(|row| unsafe { !is_concerned(target, row, description) }) {
                    return Gathering::Done;
                }
                // SAFETY: as above.
                let key = unsafe { write_key(&mut state.key, target, tuple, description) };
                (target.table, key)
            }
            RelationTarget::Keyless(table) => (*table, KeyText::Null),
            RelationTarget::Unwatched => return Gathering::Done,
        };
        match key {
            KeyText::Written => {}
            KeyText::TooLong => return Gathering::TooLong,
            KeyText::Null => {
                if !state.keyless.contains(&table) {
                    state.keyless.push(table);
                }
                return Gathering::Done;
            }
        }
        state.keys.push(table, &state.key);
        let is_full = state.keys.bytes() >= MAX_GATHERED;
        if is_full { Gathering::Full } else { Gathering::Done }
    })
}

/// Gathers a row's key, and appends all keys if they are many.
///
/// # Safety
/// `relation` is open and `tuple` is one of its rows; `updated` has it as `new`.
unsafe fn enqueue_row(
    relation: pg_sys::Relation,
    tuple: pg_sys::HeapTuple,
    updated: Option<UpdatedRow>,
) {
    // SAFETY: as promised by the caller.
    let (oid, description) = unsafe { ((*relation).rd_id, (*relation).rd_att) };
    // Read once for both attempts: a change during the look-up counts from the next row on.
    let epoch = EPOCH.get();
    // SAFETY: as promised by the caller.
    let mut gathering = unsafe { gather(epoch, oid, (tuple, updated), description) };
    if matches!(gathering, Gathering::UnknownRelation) {
        register();
        // SAFETY: as promised by the caller.
        let target = find_target(oid, &unsafe { PgRelation::from_pg(relation) });
        with_state(|state| state.targets.push((oid, target)));
        // SAFETY: as promised by the caller.
        gathering = unsafe { gather(epoch, oid, (tuple, updated), description) };
    }
    if matches!(gathering, Gathering::TooLong) {
        warn(
            format!("a key is longer than {MAX_KEY_BYTES} bytes"),
            Some("The row gets no caption.".into()),
            None,
        );
    }
    // Not in a subtransaction: its rollback would remove keys that were gathered before it.
    // SAFETY: reads the transaction's state.
    let is_top_level = || unsafe { pg_sys::GetCurrentTransactionNestLevel() } == 1;
    if matches!(gathering, Gathering::Full) && is_top_level() {
        append();
    }
}
