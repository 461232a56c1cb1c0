//! Spares a statement our UPDATE trigger where it cannot have anything to tell of: where the statement changes none of the columns that the trigger's condition compares. Called by PostgreSQL
//! whenever a statement begins, in every backend.
//!
//! What it costs to have an AFTER UPDATE trigger is mostly the reading of each old row again, which PostgreSQL does before it looks at conditions, and the preparation of a condition with
//! each statement. Which columns a statement changes is known when it begins (PostgreSQL relies on it itself, for `UPDATE OF` and for row locks), unless BEFORE triggers change others: then
//! nothing is spared. What is switched off is the executor's own copy of the triggers, which ends with the statement. The catalog knows nothing of it, nor does anybody else.

use super::functions::pg_caption_enqueue;
use crate::triggers::TRIGGERS;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString};

/// Triggers whose columns are remembered; with more, all are forgotten.
const REMEMBERED: usize = 1000;

/// What is known of a trigger that bears the name of ours.
struct Known {
    /// Its function and its condition, as the catalog has them: what follows is true of these.
    function: pg_sys::Oid,
    condition: CString,
    /// Set of the columns in the condition, as bits of PostgreSQL's `Bitmapset`; nothing if its function is not ours, or its condition names none.
    columns: Option<Vec<pg_sys::bitmapword>>,
}

thread_local! {
    /// Who was asked before us.
    static BEFORE: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
    static KNOWN: RefCell<HashMap<pg_sys::Oid, Known>> = RefCell::default();
}

/// Puts us into the chain; in the postmaster, while preloading: backends inherit it.
pub fn init() {
    // SAFETY: a global that is changed while libraries are loaded, by one thread.
    unsafe {
        BEFORE.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(on_start);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: hands on what we were given; what is raised crosses no frame of ours. The state that comes of it holds a list of the relations to be changed, which lives as long.
    unsafe {
        match BEFORE.get() {
            Some(before) => pg_sys::ffi::pg_guard_ffi_boundary(|| before(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
        let state = (*query).estate;
        let Some(relations) = state.as_ref().and_then(|state| state.es_opened_result_relations.as_ref()) else { return };
        for at in 0..relations.length as usize {
            spare((*relations.elements.add(at)).ptr_value.cast(), state);
        }
    }
}

/// # Safety
/// `relation` is to be changed by the statement with this state, and has been opened for it.
unsafe fn spare(relation: *mut pg_sys::ResultRelInfo, state: *mut pg_sys::EState) {
    // SAFETY: as promised by the caller; the description of the triggers is this statement's own copy, nobody else looks at it while a statement begins.
    unsafe {
        let Some(description) = (*relation).ri_TrigDesc.as_mut() else { return };
        if !description.trig_update_after_row || description.trig_update_before_row || !(*relation).ri_FdwRoutine.is_null() {
            return;
        }
        let triggers = std::slice::from_raw_parts_mut(description.triggers, description.numtriggers as usize);
        let Some(ours) = triggers.iter().position(|trigger| is_called(trigger, TRIGGERS[1])) else { return };
        if !sees_a_change(&triggers[ours], relation, state) {
            triggers[ours].tgenabled = pg_sys::TRIGGER_DISABLED as std::ffi::c_char;
            description.trig_update_after_row = triggers.iter().enumerate().any(|(at, trigger)| at != ours && is_after_update(trigger));
        }
    }
}

fn is_after_update(trigger: &pg_sys::Trigger) -> bool {
    use pg_sys::{TRIGGER_TYPE_BEFORE, TRIGGER_TYPE_INSTEAD, TRIGGER_TYPE_ROW, TRIGGER_TYPE_UPDATE};
    let kind = TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSTEAD | TRIGGER_TYPE_UPDATE;
    trigger.tgtype as u32 & kind == TRIGGER_TYPE_ROW | TRIGGER_TYPE_UPDATE
}

/// # Safety
/// `trigger` is one of a relation's.
unsafe fn is_called(trigger: &pg_sys::Trigger, name: &str) -> bool {
    // SAFETY: a trigger's name is a C string; its condition is one, or null.
    is_after_update(trigger) && !trigger.tgqual.is_null() && unsafe { CStr::from_ptr(trigger.tgname) }.to_bytes() == name.as_bytes()
}

/// Whether the statement changes a column that the condition of this trigger compares; true as well if it is not ours.
///
/// # Safety
/// As of [`spare`]; the trigger is one of the relation's and has a condition.
unsafe fn sees_a_change(trigger: &pg_sys::Trigger, relation: *mut pg_sys::ResultRelInfo, state: *mut pg_sys::EState) -> bool {
    // SAFETY: as promised by the caller.
    unsafe {
        let condition = CStr::from_ptr(trigger.tgqual);
        let is_known = |known: &Known| known.function == trigger.tgfoid && known.condition.as_c_str() == condition;
        if !KNOWN.with_borrow(|all| all.get(&trigger.tgoid).is_some_and(is_known)) {
            let columns = is_ours(trigger.tgfoid).then(|| columns(condition)).filter(|columns| !columns.is_empty());
            KNOWN.with_borrow_mut(|all| {
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(trigger.tgoid, Known { function: trigger.tgfoid, condition: condition.to_owned(), columns });
            });
        }
        let changed = words(pg_sys::ExecGetAllUpdatedCols(relation, state));
        KNOWN.with_borrow(|all| {
            let columns = all.get(&trigger.tgoid).and_then(|known| known.columns.as_ref());
            columns.is_none_or(|columns| columns.iter().zip(changed).any(|(compared, changed)| compared & changed != 0))
        })
    }
}

/// # Safety
/// The function is in the catalog.
unsafe fn is_ours(function: pg_sys::Oid) -> bool {
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: fills `info`, which nothing is kept of.
    unsafe { pg_sys::fmgr_info(function, &mut info) };
    info.fn_addr.is_some_and(|address| std::ptr::fn_addr_eq(address, pg_caption_enqueue as unsafe extern "C-unwind" fn(_) -> _))
}

/// The columns of the old and the new row in a trigger's condition; all of them if it looks at a row as a whole.
///
/// # Safety
/// `condition` is one that PostgreSQL keeps in its catalog.
unsafe fn columns(condition: &CStr) -> Vec<pg_sys::bitmapword> {
    // SAFETY: reads it back as PostgreSQL does; the memory is the statement's.
    unsafe {
        let node = pg_sys::stringToNode(condition.as_ptr()).cast();
        let mut columns = std::ptr::null_mut();
        for row in [pg_sys::PRS2_OLD_VARNO, pg_sys::PRS2_NEW_VARNO] {
            pg_sys::pull_varattnos(node, row, &mut columns);
        }
        let whole_row = -pg_sys::FirstLowInvalidHeapAttributeNumber;
        if pg_sys::bms_is_member(whole_row, columns) { vec![pg_sys::bitmapword::MAX; 32] } else { words(columns).to_vec() }
    }
}

/// # Safety
/// `set` is null or a set that lives as long as what is returned is used.
unsafe fn words<'a>(set: *mut pg_sys::Bitmapset) -> &'a [pg_sys::bitmapword] {
    // SAFETY: as promised by the caller; null is the empty set.
    unsafe { set.as_ref().map_or(&[], |set| set.words.as_slice(set.nwords as usize)) }
}
