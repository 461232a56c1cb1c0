//! The node of a plan: reads rows of its child ahead, and computes the target list for each when
//! its turn comes. Called by PostgreSQL's executor.
//!
//! The functions that call other nodes or compute a row are not guarded: their errors pass
//! unchanged. They hold no value that would have to be dropped.

use crate::lookahead::calls::GuardTest;
use crate::lookahead::functions::PictureArgument;
use crate::lookahead::nodes::items;
use crate::lookahead::rewrite;
use crate::lookahead::window::{CallState, RowWindow, value_of};
use crate::settings;
use pgrx::pg_sys::{self, NodeTag};
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

/// As EXPLAIN shows it.
const NAME: &CStr = c"Caption Lookahead";

/// The methods, whose addresses PostgreSQL keeps.
struct NodeMethods {
    plan: pg_sys::CustomScanMethods,
    state: pg_sys::CustomExecMethods,
}

// SAFETY: constants with pointers to static names and functions.
unsafe impl Sync for NodeMethods {}

static METHODS: NodeMethods = NodeMethods {
    plan: pg_sys::CustomScanMethods {
        CustomName: NAME.as_ptr(),
        CreateCustomScanState: Some(create),
    },
    state: pg_sys::CustomExecMethods {
        CustomName: NAME.as_ptr(),
        BeginCustomScan: Some(begin),
        ExecCustomScan: Some(execute),
        EndCustomScan: Some(end),
        ReScanCustomScan: Some(rescan),
        MarkPosCustomScan: None,
        RestrPosCustomScan: None,
        EstimateDSMCustomScan: None,
        InitializeDSMCustomScan: None,
        ReInitializeDSMCustomScan: None,
        InitializeWorkerCustomScan: None,
        // It is called after each FETCH of a few rows, too.
        ShutdownCustomScan: None,
        ExplainCustomScan: None,
    },
};

/// The methods of the node in a plan.
pub fn methods() -> *const pg_sys::CustomScanMethods {
    &raw const METHODS.plan
}

/// Registers the node, so that plans with it can be read from text; in the postmaster.
pub fn init() {
    // SAFETY: called once, while libraries are loaded.
    unsafe { pg_sys::RegisterCustomScanMethods(methods()) };
}

/// The node while a statement runs.
#[repr(C)]
struct LookaheadScan {
    base: pg_sys::CustomScanState,
    /// Null: rows pass without a look ahead.
    window: *mut RowWindow,
    /// LIMIT and OFFSET above; null where it is not given.
    limit: [*mut pg_sys::ExprState; 2],
    /// The limit was evaluated.
    is_limited: bool,
}

unsafe extern "C-unwind" {
    // executor/executor.h. The generated bindings are guarded, see above.
    fn ExecInitNode(
        plan: *mut pg_sys::Plan,
        state: *mut pg_sys::EState,
        flags: i32,
    ) -> *mut pg_sys::PlanState;
    fn ExecEndNode(node: *mut pg_sys::PlanState);
    fn ExecReScan(node: *mut pg_sys::PlanState);
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, number: i32);
    fn ExecStoreVirtualTuple(slot: *mut pg_sys::TupleTableSlot) -> *mut pg_sys::TupleTableSlot;
    fn ExecForceStoreMinimalTuple(
        tuple: pg_sys::MinimalTuple,
        slot: *mut pg_sys::TupleTableSlot,
        free: bool,
    );
}

unsafe extern "C-unwind" fn create(_: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: allocates a zeroed node, which is valid.
    unsafe {
        let scan = pg_sys::palloc0(size_of::<LookaheadScan>()).cast::<LookaheadScan>();
        (*scan).base.ss.ps.type_ = NodeTag::T_CustomScanState;
        (*scan).base.methods = &raw const METHODS.state;
        scan.cast()
    }
}

unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    state: *mut pg_sys::EState,
    flags: i32,
) {
    // SAFETY: called once for a node that `create` made, with the plan that `rewrite` made.
    unsafe {
        let child = (*(*node).ss.ps.plan).lefttree;
        // The node itself can neither be read backwards nor return to a mark.
        let ahead = pg_sys::EXEC_FLAG_BACKWARD | pg_sys::EXEC_FLAG_MARK;
        (*node).ss.ps.lefttree = ExecInitNode(child, state, flags & !(ahead as i32));
        let is_run = flags as u32 & pg_sys::EXEC_FLAG_EXPLAIN_ONLY == 0;
        // A recheck of one row passes through, and so does what the planner would leave alone now.
        if is_run
            && (*state).es_epq_active.is_null()
            && pg_sys::XactIsoLevel != pg_sys::XACT_SERIALIZABLE as i32
        {
            prepare(node.cast(), state);
        }
    }
}

/// Prepares the expressions and the window.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn prepare(scan: *mut LookaheadScan, state: *mut pg_sys::EState) {
    if settings::lookahead() == 0 {
        return;
    }
    // SAFETY: as of `begin`. The window is dropped with the memory of the statement, however that
    // ends.
    unsafe {
        let parent = &raw mut (*scan).base.ss.ps;
        let plan = (*parent).plan.cast::<pg_sys::CustomScan>();
        let mut numbers = rewrite::numbers((*plan).custom_private).into_iter();
        let mut expressions = items::<pg_sys::Expr>((*plan).custom_exprs)
            .map(|expression| pg_sys::ExecInitExpr(expression, parent));
        let mut expression = || expressions.next().unwrap_or(null_mut());
        for place in &mut (*scan).limit {
            if numbers.next() == Some(1) {
                *place = expression();
            }
        }
        let mut calls = Vec::new();
        while let Some(picture) = numbers.next() {
            let guards = numbers.next().unwrap_or_default();
            calls.push(CallState {
                picture: PictureArgument::from_number(picture),
                guards: numbers
                    .by_ref()
                    .take(guards as usize)
                    .map(|test| (expression(), GuardTest::from_number(test)))
                    .collect(),
                arguments: [expression(), expression(), expression(), expression()],
            });
        }
        let memory = pg_sys::AllocSetContextCreateInternal(
            (*state).es_query_cxt,
            NAME.as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let callback =
            pg_sys::MemoryContextAlloc(memory, size_of::<pg_sys::MemoryContextCallback>())
                .cast::<pg_sys::MemoryContextCallback>();
        // Other commands return nothing before their last row.
        let is_awaited = (*(*state).es_plannedstmt).commandType == pg_sys::CmdType::CMD_SELECT;
        (*scan).window = Box::into_raw(Box::new(RowWindow::new(memory, calls, is_awaited)));
        callback.write(pg_sys::MemoryContextCallback {
            func: Some(drop_window),
            arg: (*scan).window.cast(),
            next: null_mut(),
        });
        pg_sys::MemoryContextRegisterResetCallback(memory, callback);
    }
}

/// Called when the memory of the statement is released, also after an error.
unsafe extern "C-unwind" fn drop_window(window: *mut c_void) {
    // SAFETY: made by `prepare`; called once. Nothing in it raises.
    drop(unsafe { Box::from_raw(window.cast::<RowWindow>()) });
}

unsafe extern "C-unwind" fn execute(
    node: *mut pg_sys::CustomScanState,
) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the executor calls this for an initialised node. Slots and child are its own.
    unsafe {
        let scan = node.cast::<LookaheadScan>();
        let ps = &raw mut (*node).ss.ps;
        let slot = (*node).ss.ss_ScanTupleSlot;
        let window = (*scan).window;
        reset((*ps).ps_ExprContext);
        if window.is_null() {
            let row = fetch((*ps).lefttree);
            if row.is_null() {
                return clear((*(*ps).ps_ProjInfo).pi_state.resultslot);
            }
            refer(slot, row);
            return project(ps, slot);
        }
        if !(*scan).is_limited {
            limit(scan);
        }
        while wants_row(window) {
            let row = fetch((*ps).lefttree);
            push(scan, row);
        }
        let tuple = advance(window);
        if tuple.is_null() {
            clear(slot);
            return clear((*(*ps).ps_ProjInfo).pi_state.resultslot);
        }
        ExecForceStoreMinimalTuple(tuple, slot, false);
        let before = RowWindow::activate(window);
        let result = project(ps, slot);
        RowWindow::activate(before);
        result
    }
}

/// Evaluates the limit above, and passes it down to a sort.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn limit(scan: *mut LookaheadScan) {
    // SAFETY: an initialised node with a window.
    unsafe {
        (*scan).is_limited = true;
        let context = (*scan).base.ss.ps.ps_ExprContext;
        let [count, offset] = (*scan).limit.map(|expression| {
            let value = (!expression.is_null()).then(|| value_of(expression, context)).flatten();
            value.map(|value| value.value() as i64)
        });
        // Without a count, all rows are needed. Negative values are refused by the node above.
        let Some(count) = count.filter(|count| *count >= 0) else { return };
        let Some(rows) = count.checked_add(offset.unwrap_or(0).max(0)) else { return };
        (*(*scan).window).set_limit(rows as u64);
        pg_sys::ExecSetTupleBound(rows, (*scan).base.ss.ps.lefttree);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn wants_row(window: *mut RowWindow) -> bool {
    // SAFETY: the window of an initialised node.
    unsafe { (*window).wants_row() }
}

/// Takes a row of the child; null: there are no further rows.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn push(scan: *mut LookaheadScan, row: *mut pg_sys::TupleTableSlot) {
    // SAFETY: an initialised node with a window; the row is the child's.
    unsafe {
        let window = &mut *(*scan).window;
        if row.is_null() {
            window.complete();
            return;
        }
        let context = (*scan).base.ss.ps.ps_ExprContext;
        let slot = (*scan).base.ss.ss_ScanTupleSlot;
        (*context).ecxt_scantuple = slot;
        window.push(row, slot, context);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn advance(window: *mut RowWindow) -> pg_sys::MinimalTuple {
    // SAFETY: the window of an initialised node.
    unsafe { (*window).advance().unwrap_or(null_mut()) }
}

/// Cancels the requests of rows that are not needed further.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn restart(scan: *mut LookaheadScan) {
    // SAFETY: an initialised node.
    unsafe {
        if let Some(window) = (*scan).window.as_mut() {
            window.restart();
        }
        (*scan).is_limited = false;
    }
}

unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: the executor calls this once, for an initialised node.
    unsafe {
        restart(node.cast());
        ExecEndNode((*node).ss.ps.lefttree);
    }
}

unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    // SAFETY: the executor calls this for an initialised node.
    unsafe {
        clear((*node).ss.ss_ScanTupleSlot);
        restart(node.cast());
        let child = (*node).ss.ps.lefttree;
        // Otherwise its next row starts it again.
        if (*child).chgParam.is_null() {
            ExecReScan(child);
        }
    }
}

// What executor.h and tuptable.h define inline.

/// The next row of a node; null at the end.
unsafe fn fetch(node: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: an initialised node.
    unsafe {
        if !(*node).chgParam.is_null() {
            ExecReScan(node);
        }
        let Some(execute) = (*node).ExecProcNode else { return null_mut() };
        let row = execute(node);
        let is_empty = row.is_null() || u32::from((*row).tts_flags) & pg_sys::TTS_FLAG_EMPTY != 0;
        if is_empty { null_mut() } else { row }
    }
}

/// Empties a slot.
unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: an initialised slot.
    unsafe {
        if let Some(clear) = (*(*slot).tts_ops).clear {
            clear(slot);
        }
    }
    slot
}

/// Lets a virtual slot refer to the values of a row.
unsafe fn refer(slot: *mut pg_sys::TupleTableSlot, row: *mut pg_sys::TupleTableSlot) {
    // SAFETY: both have the same columns.
    unsafe {
        clear(slot);
        let columns = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*row).tts_nvalid) < columns {
            slot_getsomeattrs_int(row, columns);
        }
        let columns = columns as usize;
        (*slot).tts_values.copy_from_nonoverlapping((*row).tts_values, columns);
        (*slot).tts_isnull.copy_from_nonoverlapping((*row).tts_isnull, columns);
        ExecStoreVirtualTuple(slot);
    }
}

/// Releases the memory of the last row.
unsafe fn reset(context: *mut pg_sys::ExprContext) {
    // SAFETY: the context of an initialised node.
    unsafe { pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory) };
}

/// Computes the target list for the row in `slot`.
unsafe fn project(
    ps: *mut pg_sys::PlanState,
    slot: *mut pg_sys::TupleTableSlot,
) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: an initialised node; a target list with a call always has a projection.
    unsafe {
        let projection = (*ps).ps_ProjInfo;
        let context = (*projection).pi_exprContext;
        let state = &raw mut (*projection).pi_state;
        let result = (*state).resultslot;
        (*context).ecxt_scantuple = slot;
        clear(result);
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
        let mut is_null = false;
        if let Some(evaluate) = (*state).evalfunc {
            evaluate(state, context, &mut is_null);
        }
        pg_sys::CurrentMemoryContext = before;
        (*result).tts_flags &= !(pg_sys::TTS_FLAG_EMPTY as u16);
        (*result).tts_nvalid = (*(*result).tts_tupleDescriptor).natts as i16;
        result
    }
}
