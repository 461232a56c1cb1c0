//! Spares a statement our UPDATE trigger where it cannot have anything to tell of: where the
//! statement changes none of the columns that the trigger's condition compares. Called by
//! PostgreSQL whenever a statement begins, in every backend.
//!
//! What it costs to have an AFTER UPDATE trigger is mostly the reading of each old row again, which
//! PostgreSQL does before it looks at conditions, and the preparation of a condition with each
//! statement. Which columns a statement changes is known when it begins (PostgreSQL relies on it
//! itself, for `UPDATE OF` and for row locks), unless BEFORE triggers change others: then nothing
//! is spared. What is switched off is the executor's own copy of the triggers, which ends with the
//! statement. The catalog knows nothing of it, nor does anybody else.

use super::functions::pg_caption_enqueue;
use crate::pg::triggers::TRIGGERS;
use pgrx::{PgTupleDesc, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::CStr;

/// Triggers whose columns are remembered: different ones, those of a table's partitions are mostly
/// alike. With more, all are forgotten.
const REMEMBERED: usize = 64;

/// What is known of a trigger that bears the name of ours.
struct Known {
    /// Its function and its condition, as the catalog has them: what follows is true of these.
    function: pg_sys::Oid,
    condition: Box<[u8]>,
    /// Set of the columns in the condition, as bits of PostgreSQL's `Bitmapset`; nothing if it is
    /// not ours to spare.
    columns: Option<Box<[pg_sys::bitmapword]>>,
}

thread_local! {
    /// Who was asked before us.
    static BEFORE: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
    /// The last one that was asked for comes first.
    static KNOWN: RefCell<Vec<Known>> = RefCell::default();
}

/// Puts us into the chain; in the postmaster, while preloading: backends inherit it.
pub fn init() {
    // SAFETY: a global that is changed while libraries are loaded, by one thread.
    unsafe {
        BEFORE.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(on_start);
    }
}

unsafe extern "C-unwind" {
    // executor/executor.h; not as in the generated bindings, for the reason below.
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
}

/// Not guarded, and nothing that it calls first is: what a statement raises when it begins passes
/// as it is. A guard would raise an error of its own in its place, with less in it.
unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: hands on what we were given; there is nothing here that an error which passes would
    // have to drop.
    unsafe {
        match BEFORE.get() {
            Some(before) => before(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
        // Most statements change nothing.
        let state = (*query).estate;
        if state.as_ref().is_some_and(|state| !state.es_opened_result_relations.is_null()) {
            look(state);
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look(state: *mut pg_sys::EState) {
    // SAFETY: the statement has begun; its state holds a list of the relations to be changed, which
    // lives as long.
    unsafe {
        let relations = &*(*state).es_opened_result_relations;
        for at in 0..relations.length as usize {
            spare((*relations.elements.add(at)).ptr_value.cast(), state);
        }
    }
}

/// # Safety
/// `relation` is to be changed by the statement with this state, and has been opened for it.
unsafe fn spare(relation: *mut pg_sys::ResultRelInfo, state: *mut pg_sys::EState) {
    // SAFETY: as promised by the caller; the description of the triggers is this statement's own
    // copy, nobody else looks at it while a statement begins.
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
        let Some(ours) = triggers.iter().position(|trigger| is_called(trigger, TRIGGERS[1])) else {
            return;
        };
        if !sees_a_change(&triggers[ours], relation, state) {
            triggers[ours].tgenabled = pg_sys::TRIGGER_DISABLED as std::ffi::c_char;
            description.trig_update_after_row = triggers
                .iter()
                .enumerate()
                .any(|(at, trigger)| at != ours && is_after_update(trigger));
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

/// Whether a trigger fires after the UPDATE of a row and for nothing else, under some condition,
/// and has this name.
///
/// # Safety
/// `trigger` is one of a relation's.
unsafe fn is_called(trigger: &pg_sys::Trigger, name: &str) -> bool {
    // SAFETY: a trigger's name is a C string; its condition is one, or null.
    trigger.tgtype as u32 == pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_UPDATE
        && !trigger.tgqual.is_null()
        && unsafe { CStr::from_ptr(trigger.tgname) }.to_bytes() == name.as_bytes()
}

/// Whether the statement changes a column that the condition of this trigger compares; true as well
/// if it is not ours, or if there is nothing to spare.
///
/// # Safety
/// As of [`spare`]; the trigger is one of the relation's and has a condition.
unsafe fn sees_a_change(
    trigger: &pg_sys::Trigger,
    relation: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
) -> bool {
    // SAFETY: as promised by the caller.
    unsafe {
        // Without the generated ones: to ask for these would have PostgreSQL prepare what they are
        // made of, with the rights that takes, also for a DELETE.
        let changed = words(pg_sys::ExecGetUpdatedCols(relation, state));
        if changed.is_empty() {
            return true;
        }
        let condition = CStr::from_ptr(trigger.tgqual);
        if !recall(trigger.tgfoid, condition) {
            let columns = is_ours(trigger.tgfoid).then(|| columns(condition)).flatten();
            KNOWN.with_borrow_mut(|all| {
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(
                    0,
                    Known {
                        function: trigger.tgfoid,
                        condition: condition.to_bytes().into(),
                        columns,
                    },
                );
            });
        }
        let description = (*(*relation).ri_RelationDesc).rd_att;
        KNOWN.with_borrow(|all| {
            let columns = all.first().and_then(|known| known.columns.as_deref());
            columns.is_none_or(|columns| {
                columns.iter().zip(changed).any(|(compared, changed)| compared & changed != 0)
                    || some_generated(description, columns)
            })
        })
    }
}

/// Puts what is known of such a trigger first; whether anything is.
fn recall(function: pg_sys::Oid, condition: &CStr) -> bool {
    KNOWN.with_borrow_mut(|all| {
        let at = all.iter().position(|known| {
            known.function == function && *known.condition == *condition.to_bytes()
        });
        at.inspect(|at| all.swap(0, *at)).is_some()
    })
}

/// Whether some of these columns are generated, from whatever others.
///
/// # Safety
/// `description` is that of an open relation that has these columns.
unsafe fn some_generated(description: pg_sys::TupleDesc, columns: &[pg_sys::bitmapword]) -> bool {
    // SAFETY: as promised by the caller; a relation without constraints of any kind has null for
    // them.
    let Some(constraints) = (unsafe { (*description).constr.as_ref() }) else { return false };
    let some = constraints.has_generated_stored;
    #[cfg(feature = "pg18")]
    let some = some || constraints.has_generated_virtual;
    // SAFETY: as promised by the caller.
    some && unsafe { PgTupleDesc::from_pg_unchecked(description) }.iter().any(|column| {
        let bit = (column.attnum as i32 - pg_sys::FirstLowInvalidHeapAttributeNumber) as usize;
        let word = columns.get(bit / pg_sys::bitmapword::BITS as usize).copied().unwrap_or(0);
        column.attgenerated != 0 && word >> (bit % pg_sys::bitmapword::BITS as usize) & 1 != 0
    })
}

/// # Safety
/// The function is in the catalog.
unsafe fn is_ours(function: pg_sys::Oid) -> bool {
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: fills `info`, which nothing is kept of.
    unsafe { pg_sys::fmgr_info(function, &mut info) };
    info.fn_addr.is_some_and(|address| {
        std::ptr::fn_addr_eq(address, pg_caption_enqueue as unsafe extern "C-unwind" fn(_) -> _)
    })
}

/// The columns of the old and the new row in a trigger's condition; nothing if there are none, or
/// if it looks at a row as a whole or at columns of the system.
///
/// # Safety
/// `condition` is one that PostgreSQL keeps in its catalog.
unsafe fn columns(condition: &CStr) -> Option<Box<[pg_sys::bitmapword]>> {
    // SAFETY: reads it back as PostgreSQL does; the memory is the statement's.
    let columns = unsafe {
        let node = pg_sys::stringToNode(condition.as_ptr()).cast();
        let mut columns = std::ptr::null_mut();
        for row in [pg_sys::PRS2_OLD_VARNO, pg_sys::PRS2_NEW_VARNO] {
            pg_sys::pull_varattnos(node, row, &mut columns);
        }
        words(columns)
    };
    // The bits up to that of attribute 0, which is the row.
    let no_columns = (1 << (1 - pg_sys::FirstLowInvalidHeapAttributeNumber)) - 1;
    columns.first().is_some_and(|first| first & no_columns == 0).then(|| columns.into())
}

/// # Safety
/// `set` is null or a set that lives as long as what is returned is used.
unsafe fn words<'a>(set: *mut pg_sys::Bitmapset) -> &'a [pg_sys::bitmapword] {
    // SAFETY: as promised by the caller; null is the empty set.
    unsafe { set.as_ref().map_or(&[], |set| set.words.as_slice(set.nwords as usize)) }
}
