//! The trigger functions as PostgreSQL calls them: what each is called with, and nothing of what
//! comes of it.

use super::{announce_at_commit, gather};
use crate::pg::identity;
use pgrx::pg_sys;
use pgrx::prelude::*;

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

/// What a trigger function is called with; an error for a call by hand.
///
/// # Safety
/// `fcinfo` is what PostgreSQL called a function with.
unsafe fn trigger_data(
    fcinfo: pg_sys::FunctionCallInfo,
    function: &str,
) -> *mut pg_sys::TriggerData {
    // SAFETY: `context` of a function call is null or a node; for trigger calls it is a
    // TriggerData.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            pgrx::error!("{function} can only be called as a trigger");
        }
        context.cast()
    }
}

/// `caption.keep_local()`: fires only where rows are applied from elsewhere (or
/// `session_replication_role` says so), and keeps what we write ourselves there.
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
pub unsafe extern "C-unwind" fn pg_caption_enqueue(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: as promised by the caller; the parts of a TriggerData live as long as the call.
    unsafe {
        let data = trigger_data(fcinfo, "caption.enqueue()");
        let (event, updated) = ((*data).tg_event, !(*data).tg_newtuple.is_null());
        let tuple = if updated { (*data).tg_newtuple } else { (*data).tg_trigtuple };
        let after_row = event & pg_sys::TRIGGER_EVENT_ROW != 0
            && event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
        if !after_row
            || event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_DELETE
            || tuple.is_null()
        {
            pgrx::error!(
                "caption.enqueue() can only be called by a row-level AFTER INSERT OR UPDATE trigger; see caption.watch()"
            );
        }
        gather((*data).tg_relation, tuple);
    }
    pg_sys::Datum::from(0)
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
