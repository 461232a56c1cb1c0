//! The trigger functions in PostgreSQL's calling convention: they check how they are called and
//! pass the row on.

use super::target::UpdatedRow;
use super::{announce_at_commit, enqueue_row};
use crate::pg::identity;
use crate::pg::report::refuse;
use crate::pg::triggers::SET_OR_CHANGED;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// `caption.announce()`.
///
/// # Safety
/// Called by PostgreSQL as a trigger function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pg_caption_announce(
    _fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    announce_at_commit();
    pg_sys::Datum::from(0)
}

/// The trigger data of a call; raises for a direct call.
///
/// # Safety
/// `fcinfo` is the argument of a function call by PostgreSQL.
unsafe fn trigger_data(
    fcinfo: pg_sys::FunctionCallInfo,
    function: &str,
) -> *mut pg_sys::TriggerData {
    // SAFETY: `context` of a function call is null or a node; for trigger calls it is a
    // TriggerData.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            refuse(
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                format!("{function} can only be called as a trigger"),
                None,
                Some("See caption.watch(), which creates its triggers.".into()),
            );
        }
        context.cast()
    }
}

/// Whether a trigger has this argument.
///
/// # Safety
/// `trigger` is the trigger of a call by PostgreSQL.
unsafe fn has_argument(trigger: *const pg_sys::Trigger, argument: &str) -> bool {
    // SAFETY: as promised by the caller; a trigger has `tgnargs` arguments, which are C strings.
    unsafe {
        let (first, count) = ((*trigger).tgargs, (*trigger).tgnargs as usize);
        (0..count).any(|at| CStr::from_ptr(*first.add(at)).to_bytes() == argument.as_bytes())
    }
}

/// `caption.keep_local()`: a REPLICA trigger, fired for rows that logical replication applies or
/// with `session_replication_role` set. Skips all rows but those that the extension writes.
///
/// # Safety
/// Called by PostgreSQL as a trigger function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pg_caption_keep_local(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as promised by the caller; the parts of a TriggerData live as long as the call.
    unsafe {
        let data = trigger_data(fcinfo, "caption.keep_local()");
        let tuple =
            if (*data).tg_newtuple.is_null() { (*data).tg_trigtuple } else { (*data).tg_newtuple };
        // A null tuple skips the row.
        if identity::is_extension() { pg_sys::Datum::from(tuple) } else { pg_sys::Datum::from(0) }
    }
}

/// `caption.enqueue()`.
///
/// # Safety
/// Called by PostgreSQL as a trigger function.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pg_caption_enqueue(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as promised by the caller; the parts of a TriggerData live as long as the call.
    unsafe {
        let data = trigger_data(fcinfo, "caption.enqueue()");
        let (event, is_update) = ((*data).tg_event, !(*data).tg_newtuple.is_null());
        let tuple = if is_update { (*data).tg_newtuple } else { (*data).tg_trigtuple };
        let is_after_row = event & pg_sys::TRIGGER_EVENT_ROW != 0
            && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
        let is_delete = event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_DELETE;
        if !is_after_row || is_delete || tuple.is_null() {
            refuse(
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                "caption.enqueue() can only be called by a row-level \
                 AFTER INSERT OR UPDATE trigger",
                None,
                Some("See caption.watch(), which creates such triggers.".into()),
            );
        }
        let is_limited = is_update && has_argument((*data).tg_trigger, SET_OR_CHANGED);
        let updated = is_limited.then(|| UpdatedRow {
            old: (*data).tg_trigtuple,
            new: (*data).tg_newtuple,
            set: (*data).tg_updatedcols,
        });
        enqueue_row((*data).tg_relation, tuple, updated);
    }
    pg_sys::Datum::from(0)
}

/// Version 1 of the calling convention.
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
