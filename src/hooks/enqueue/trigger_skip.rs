//! Executor hook: skips the extension's UPDATE trigger for statements that change none of the
//! columns in the trigger's condition. Called by PostgreSQL when a statement starts, in every
//! backend.
//!
//! An AFTER UPDATE trigger is expensive mostly because PostgreSQL fetches each old row again before
//! it evaluates conditions, and prepares the condition for each statement. The columns that a
//! statement changes are known when it starts (PostgreSQL relies on them for `UPDATE OF` and row
//! locks), unless BEFORE triggers change others: then nothing is skipped. The hook disables the
//! trigger in the executor's copy, which ends with the statement; the catalog stays unchanged.

use super::functions::pg_caption_enqueue;
use crate::pg::triggers::TRIGGERS;
use pgrx::{PgTupleDesc, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::CStr;

/// Distinct conditions that are cached. The triggers of a table's partitions mostly share one. A
/// full cache is cleared.
const CACHED_CONDITIONS: usize = 64;

/// The columns in the condition of a trigger with the name of the extension's.
struct ConditionColumns {
    /// Function and condition of the trigger, as in the catalog: the key of the cache.
    function: pg_sys::Oid,
    condition: Box<[u8]>,
    /// The columns, as bits of PostgreSQL's `Bitmapset`; `None`: the trigger must not be skipped.
    columns: Option<Box<[pg_sys::bitmapword]>>,
}

thread_local! {
    /// The hook that was installed before this one.
    static PREVIOUS: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
    /// The entry used last is the first.
    static CACHE: RefCell<Vec<ConditionColumns>> = RefCell::default();
}

/// Installs the hook; in the postmaster, while preloading: backends inherit it.
pub fn init() {
    // SAFETY: a global that is changed while libraries are loaded, by one thread.
    unsafe {
        PREVIOUS.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(on_start);
    }
}

unsafe extern "C-unwind" {
    // executor/executor.h. The generated binding is guarded, see below.
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
}

/// Not guarded, nor is its first call: errors at the start of a statement pass unchanged. A guard
/// would replace them by an error with less information.
unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: passes the arguments on; no value here would have to be dropped by a passing error.
    unsafe {
        match PREVIOUS.get() {
            Some(previous) => previous(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
        // Most statements change no relation.
        let state = (*query).estate;
        if state.as_ref().is_some_and(|state| !state.es_opened_result_relations.is_null()) {
            skip_triggers(state);
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn skip_triggers(state: *mut pg_sys::EState) {
    // SAFETY: the statement has started; its state has a list of the relations to change, which
    // lives as long as the state.
    unsafe {
        let relations = &*(*state).es_opened_result_relations;
        for at in 0..relations.length as usize {
            skip_trigger((*relations.elements.add(at)).ptr_value.cast(), state);
        }
    }
}

/// # Safety
/// `relation` is opened to be changed by the statement with this state.
unsafe fn skip_trigger(relation: *mut pg_sys::ResultRelInfo, state: *mut pg_sys::EState) {
    // SAFETY: as promised by the caller; the trigger description is this statement's copy, and no
    // other code uses it while the statement starts.
    unsafe {
        let Some(description) = (*relation).ri_TrigDesc.as_mut() else { return };
        if !description.trig_update_after_row
            || description.trig_update_before_row
            || !(*relation).ri_FdwRoutine.is_null()
        {
            return;
        }
        let triggers =
            std::slice::from_raw_parts_mut(description.triggers, description.numtriggers as usize);
        let Some(own) = triggers.iter().position(|trigger| is_update_trigger(trigger)) else {
            return;
        };
        if !may_fire(&triggers[own], relation, state) {
            triggers[own].tgenabled = pg_sys::TRIGGER_DISABLED as std::ffi::c_char;
            let mut others = triggers.iter().enumerate().filter(|(at, _)| *at != own);
            description.trig_update_after_row = others.any(|(_, trigger)| is_after_update(trigger));
        }
    }
}

fn is_after_update(trigger: &pg_sys::Trigger) -> bool {
    use pg_sys::{
        TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_INSTEAD, TRIGGER_TYPE_ROW, TRIGGER_TYPE_UPDATE,
    };
    let kind = TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSTEAD | TRIGGER_TYPE_UPDATE;
    trigger.tgtype as u32 & kind == TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE
}

/// Whether a trigger has the name of the extension's UPDATE trigger, fires after the UPDATE of a
/// row only, and has a condition.
///
/// # Safety
/// `trigger` belongs to an open relation.
unsafe fn is_update_trigger(trigger: &pg_sys::Trigger) -> bool {
    // SAFETY: a trigger's name is a C string.
    let has_name =
        || unsafe { CStr::from_ptr(trigger.tgname) }.to_bytes() == TRIGGERS[1].as_bytes();
    trigger.tgtype as u32 == pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_UPDATE
        && !trigger.tgqual.is_null()
        && has_name()
}

/// Whether the statement changes a column in the trigger's condition. Also true for a trigger of
/// another function and for a statement that updates no column.
///
/// # Safety
/// As of [`skip_trigger`]; the trigger belongs to the relation and has a condition.
unsafe fn may_fire(
    trigger: &pg_sys::Trigger,
    relation: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
) -> bool {
    // SAFETY: as promised by the caller.
    unsafe {
        // Without generated columns: for them PostgreSQL would prepare their expressions and check
        // the rights that these need, also for a DELETE.
        let changed = words(pg_sys::ExecGetUpdatedCols(relation, state));
        if changed.is_empty() {
            return true;
        }
        cache_columns(trigger);
        let description = (*(*relation).ri_RelationDesc).rd_att;
        CACHE.with_borrow(|cache| {
            let columns = cache.first().and_then(|entry| entry.columns.as_deref());
            columns.is_none_or(|columns| {
                columns.iter().zip(changed).any(|(compared, changed)| compared & changed != 0)
                    || has_generated(description, columns)
            })
        })
    }
}

/// Makes the columns of a trigger's condition the first entry of the cache.
///
/// # Safety
/// The trigger belongs to an open relation and has a condition.
unsafe fn cache_columns(trigger: &pg_sys::Trigger) {
    // SAFETY: as promised by the caller.
    let condition = unsafe { CStr::from_ptr(trigger.tgqual) };
    if move_to_front(trigger.tgfoid, condition) {
        return;
    }
    // SAFETY: the function of a trigger is in the catalog, and so is its condition.
    let columns =
        unsafe { is_enqueue(trigger.tgfoid).then(|| condition_columns(condition)).flatten() };
    CACHE.with_borrow_mut(|cache| {
        if cache.len() >= CACHED_CONDITIONS {
            cache.clear();
        }
        let condition = condition.to_bytes().into();
        cache.insert(0, ConditionColumns { function: trigger.tgfoid, condition, columns });
    });
}

/// Moves an entry to the front of the cache; `false`: not cached.
fn move_to_front(function: pg_sys::Oid, condition: &CStr) -> bool {
    CACHE.with_borrow_mut(|cache| {
        let at = cache.iter().position(|entry| {
            entry.function == function && *entry.condition == *condition.to_bytes()
        });
        at.inspect(|at| cache.swap(0, *at)).is_some()
    })
}

/// Whether one of these columns is generated, from any other columns.
///
/// # Safety
/// `description` belongs to an open relation that has these columns.
unsafe fn has_generated(description: pg_sys::TupleDesc, columns: &[pg_sys::bitmapword]) -> bool {
    // SAFETY: as promised by the caller; null stands for a relation without any constraints.
    let Some(constraints) = (unsafe { (*description).constr.as_ref() }) else { return false };
    let has_any = constraints.has_generated_stored;
    #[cfg(feature = "pg18")]
    let has_any = has_any || constraints.has_generated_virtual;
    // SAFETY: as promised by the caller.
    has_any
        && unsafe { PgTupleDesc::from_pg_unchecked(description) }.iter().any(|column| {
            let bit = (column.attnum as i32 - pg_sys::FirstLowInvalidHeapAttributeNumber) as usize;
            let word = columns.get(bit / pg_sys::bitmapword::BITS as usize).copied().unwrap_or(0);
            column.attgenerated != 0 && word >> (bit % pg_sys::bitmapword::BITS as usize) & 1 != 0
        })
}

/// Whether a function is `caption.enqueue()`.
///
/// # Safety
/// The function is in the catalog.
unsafe fn is_enqueue(function: pg_sys::Oid) -> bool {
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: fills `info`, which is dropped on return.
    unsafe { pg_sys::fmgr_info(function, &mut info) };
    info.fn_addr.is_some_and(|address| {
        std::ptr::fn_addr_eq(address, pg_caption_enqueue as unsafe extern "C-unwind" fn(_) -> _)
    })
}

/// The columns of the old and the new row in a trigger's condition; `None` if it has none, or reads
/// whole rows or system columns.
///
/// # Safety
/// `condition` is the text of a node tree in PostgreSQL's catalog.
unsafe fn condition_columns(condition: &CStr) -> Option<Box<[pg_sys::bitmapword]>> {
    // SAFETY: parses the text as PostgreSQL does, in the memory of the statement.
    let columns = unsafe {
        let node = pg_sys::stringToNode(condition.as_ptr()).cast();
        let mut columns = std::ptr::null_mut();
        for row in [pg_sys::PRS2_OLD_VARNO, pg_sys::PRS2_NEW_VARNO] {
            pg_sys::pull_varattnos(node, row, &mut columns);
        }
        words(columns)
    };
    // The bits up to the one of attribute 0, which is the whole row.
    let no_columns = (1 << (1 - pg_sys::FirstLowInvalidHeapAttributeNumber)) - 1;
    columns.first().is_some_and(|first| first & no_columns == 0).then(|| columns.into())
}

/// The words of a set.
///
/// # Safety
/// `set` is null or lives as long as the returned slice is used.
unsafe fn words<'a>(set: *mut pg_sys::Bitmapset) -> &'a [pg_sys::bitmapword] {
    // SAFETY: as promised by the caller; null is the empty set.
    unsafe { set.as_ref().map_or(&[], |set| set.words.as_slice(set.nwords as usize)) }
}
