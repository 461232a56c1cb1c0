//! The planner's hook: finds where a finished plan computes calls for rows that can be read ahead.

use crate::lookahead::limit::RowLimit;
use crate::lookahead::nodes::{self, items};
use crate::lookahead::reason::AloneReason;
use crate::lookahead::{calls, functions, rewrite, stream};
use crate::settings;
use pgrx::pg_sys::{self, NodeTag};
use std::cell::Cell;
use std::ffi::c_char;

thread_local! {
    /// The hook that was installed before this one.
    static PREVIOUS: Cell<pg_sys::planner_hook_type> = const { Cell::new(None) };
}

/// Installs the hook; in the postmaster, while preloading.
pub fn init() {
    // SAFETY: a global that is changed while libraries are loaded, by one thread.
    unsafe {
        PREVIOUS.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
    }
}

unsafe extern "C-unwind" {
    // optimizer/optimizer.h. The generated binding is guarded, see below.
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: i32,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

/// Not guarded, nor is its first call: errors of the planner pass unchanged. A guard would replace
/// them by an error with less information.
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: i32,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: passes the arguments on; no value here would have to be dropped by a passing error.
    unsafe {
        let planned = match PREVIOUS.get() {
            Some(previous) => previous(query, text, options, parameters),
            None => standard_planner(query, text, options, parameters),
        };
        // Most statements call functions of PostgreSQL only.
        if !(*planned).invalItems.is_null() {
            look_ahead(planned, options);
        }
        planned
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn look_ahead(planned: *mut pg_sys::PlannedStmt, options: i32) {
    // SAFETY: the plan is finished, and not yet used.
    unsafe {
        if !functions::is_mentioned(planned) {
            return;
        }
        let mut search = PlaceSearch { planned, placed: 0, reason: None };
        match obstacle(planned, options) {
            Some(reason) => search.leave(reason),
            None => search.descend(&raw mut (*planned).planTree, None),
        }
        if let Some(reason) = search.reason {
            report(reason);
        } else if search.placed == 0 {
            report(AloneReason::Elsewhere);
        }
    }
}

fn report(reason: AloneReason) {
    pgrx::debug1!("pg_caption does not look ahead: {}", reason.text());
}

/// Why the whole statement is left alone.
///
/// # Safety
/// `planned` is a finished plan.
unsafe fn obstacle(planned: *mut pg_sys::PlannedStmt, options: i32) -> Option<AloneReason> {
    // All cursors that a user declares have the first option.
    let cursor = pg_sys::CURSOR_OPT_FAST_PLAN | pg_sys::CURSOR_OPT_SCROLL;
    // SAFETY: as promised by the caller; reads globals.
    unsafe {
        if settings::lookahead() == 0 {
            Some(AloneReason::Off)
        } else if options as u32 & cursor != 0 {
            Some(AloneReason::Cursor)
        } else if (*planned).parallelModeNeeded {
            Some(AloneReason::Parallel)
        } else if (*planned).commandType == pg_sys::CmdType::CMD_MERGE {
            Some(AloneReason::Merge)
        } else if pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 {
            Some(AloneReason::Serializable)
        } else {
            None
        }
    }
}

/// The search for places in one plan.
struct PlaceSearch {
    planned: *mut pg_sys::PlannedStmt,
    /// Nodes that were put in.
    placed: i32,
    /// Why a call was left alone.
    reason: Option<AloneReason>,
}

impl PlaceSearch {
    fn leave(&mut self, reason: AloneReason) {
        self.reason.get_or_insert(reason);
    }

    /// Looks at a plan and at those below it whose rows are read at most once. `limit` bounds the
    /// rows of this plan.
    ///
    /// # Safety
    /// `place` holds a part of the plan.
    unsafe fn descend(&mut self, place: *mut *mut pg_sys::Plan, limit: Option<RowLimit>) {
        // SAFETY: the tag names the type of each node.
        unsafe {
            let plan = *place;
            if plan.is_null() {
                return;
            }
            // A plan that changes a table has the list of RETURNING, which is computed afterwards.
            if (*plan).type_ != NodeTag::T_ModifyTable
                && functions::is_called_in((*plan).targetlist.cast())
            {
                match self.examine(plan, limit) {
                    Ok(calls) => {
                        let number = self.unused_number();
                        rewrite::insert(place, &calls, limit, number);
                        self.placed += 1;
                        return;
                    }
                    Err(reason) => self.leave(reason),
                }
            }
            match (*plan).type_ {
                NodeTag::T_Limit => {
                    let limit = RowLimit::of(plan.cast());
                    self.descend(&raw mut (*plan).lefttree, limit);
                }
                NodeTag::T_Result => {
                    let limit = limit.filter(|_| (*plan).qual.is_null());
                    self.descend(&raw mut (*plan).lefttree, limit);
                }
                NodeTag::T_SubqueryScan => {
                    let limit = limit.filter(|_| (*plan).qual.is_null());
                    let scan = plan.cast::<pg_sys::SubqueryScan>();
                    self.descend(&raw mut (*scan).subplan, limit);
                }
                NodeTag::T_Append => {
                    self.descend_all((*plan.cast::<pg_sys::Append>()).appendplans, limit);
                }
                NodeTag::T_MergeAppend => {
                    self.descend_all((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, limit);
                }
                NodeTag::T_ModifyTable
                | NodeTag::T_Sort
                | NodeTag::T_IncrementalSort
                | NodeTag::T_Unique
                | NodeTag::T_Material
                | NodeTag::T_Agg
                | NodeTag::T_Group
                | NodeTag::T_WindowAgg
                | NodeTag::T_SetOp
                | NodeTag::T_LockRows
                | NodeTag::T_ProjectSet
                | NodeTag::T_Hash
                // The inner sides of these joins are read again and again, or marked.
                | NodeTag::T_NestLoop
                | NodeTag::T_MergeJoin => self.descend(&raw mut (*plan).lefttree, None),
                NodeTag::T_HashJoin => {
                    self.descend(&raw mut (*plan).lefttree, None);
                    self.descend(&raw mut (*plan).righttree, None);
                }
                _ => {}
            }
        }
    }

    /// # Safety
    /// `list` is a list of plans, or null.
    unsafe fn descend_all(&mut self, list: *mut pg_sys::List, limit: Option<RowLimit>) {
        // SAFETY: as promised by the caller; a cell of the list holds a pointer.
        unsafe {
            for at in 0..list.as_ref().map_or(0, |list| list.length as usize) {
                self.descend((*list).elements.add(at).cast(), limit);
            }
        }
    }

    /// The calls of a plan that can be requested ahead.
    ///
    /// # Safety
    /// `plan` is a part of the plan.
    unsafe fn examine(
        &self,
        plan: *mut pg_sys::Plan,
        limit: Option<RowLimit>,
    ) -> Result<Vec<calls::AheadCall>, AloneReason> {
        // SAFETY: as promised by the caller.
        unsafe {
            match (*plan).type_ {
                NodeTag::T_Result if (*plan).lefttree.is_null() => {
                    return Err(AloneReason::OneRow);
                }
                NodeTag::T_ProjectSet => return Err(AloneReason::Elsewhere),
                // Its conditions refer to its target list.
                NodeTag::T_WindowAgg => return Err(AloneReason::Source),
                _ => {}
            }
            if let Some(limit) = limit {
                limit.check()?;
            }
            let calls = calls::find((*plan).targetlist)?;
            stream::check(plan, self.planned)?;
            Ok(calls)
        }
    }

    /// A number that no node of the statement has.
    unsafe fn unused_number(&self) -> i32 {
        // SAFETY: all plans belong to the statement.
        unsafe {
            let mut plans: Vec<*mut pg_sys::Plan> = items((*self.planned).subplans)
                .filter(|plan: &*mut pg_sys::Plan| !plan.is_null())
                .collect();
            plans.push((*self.planned).planTree);
            let mut largest = 0;
            while let Some(plan) = plans.pop() {
                largest = largest.max((*plan).plan_node_id);
                plans.extend(nodes::children(plan));
            }
            largest + 1
        }
    }
}
