//! Whether rows of a plan can be read ahead of their turn.
//!
//! Reading ahead must change nothing but time: no function with effects may run earlier or more
//! often, and no error may be raised before the rows that precede it were returned. What a plan
//! does before it returns its first row happens at the same moment in any case: its nodes are not
//! checked further. Unknown nodes are left alone.

use crate::lookahead::nodes::{self, items};
use crate::lookahead::quiet;
use crate::lookahead::reason::AloneReason;
use pgrx::pg_sys::{self, NodeTag};

/// When the rows of a node are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadTime {
    /// All of them before the first row of the whole plan is returned.
    First,
    /// While the plan returns rows.
    Streaming,
    /// Again and again, while the plan returns rows: even what comes before a first row.
    Repeated,
}

/// The check of one plan.
struct StreamCheck {
    /// Plans of subqueries, by number.
    subplans: *mut pg_sys::List,
    /// Numbers of the parameters that joins of this plan set.
    parameters: Vec<i32>,
}

/// Checks that the rows of `plan` can be read ahead. Its own target list is not checked.
///
/// # Safety
/// `plan` is part of the finished plan `statement`.
pub unsafe fn check(
    plan: *mut pg_sys::Plan,
    statement: *mut pg_sys::PlannedStmt,
) -> Result<(), AloneReason> {
    // SAFETY: as promised by the caller.
    unsafe {
        let subplans = (*statement).subplans;
        let mut check = StreamCheck { subplans, parameters: Vec::new() };
        check.node(plan, ReadTime::Streaming, false)
    }
}

impl StreamCheck {
    /// # Safety
    /// `plan` is a finished plan.
    unsafe fn node(
        &mut self,
        plan: *mut pg_sys::Plan,
        time: ReadTime,
        with_targets: bool,
    ) -> Result<(), AloneReason> {
        // SAFETY: the tag names the type of the node.
        unsafe {
            if time != ReadTime::First {
                if !(*plan).initPlan.is_null() {
                    return Err(AloneReason::Source);
                }
                self.quiet((*plan).qual)?;
                if with_targets {
                    self.quiet((*plan).targetlist)?;
                }
                for list in own_expressions(plan) {
                    self.quiet(list)?;
                }
            }
            let below = |time: ReadTime| match time {
                ReadTime::Streaming => ReadTime::First,
                other => other,
            };
            match (*plan).type_ {
                NodeTag::T_SeqScan
                | NodeTag::T_IndexScan
                | NodeTag::T_IndexOnlyScan
                | NodeTag::T_BitmapIndexScan
                | NodeTag::T_TidScan
                | NodeTag::T_TidRangeScan
                | NodeTag::T_ValuesScan
                | NodeTag::T_Result
                | NodeTag::T_BitmapHeapScan
                | NodeTag::T_BitmapAnd
                | NodeTag::T_BitmapOr
                | NodeTag::T_SubqueryScan
                | NodeTag::T_MergeAppend
                | NodeTag::T_MergeJoin
                | NodeTag::T_Material
                | NodeTag::T_Memoize
                | NodeTag::T_IncrementalSort
                | NodeTag::T_Group
                | NodeTag::T_Unique
                | NodeTag::T_Limit => self.children(plan, time),
                // Later parts are read when earlier ones have ended.
                NodeTag::T_Append => {
                    let time = if time == ReadTime::First { time } else { ReadTime::Repeated };
                    self.children(plan, time)
                }
                NodeTag::T_FunctionScan => match time {
                    ReadTime::Repeated => self.functions(plan),
                    // The function returns all rows before the first one is used.
                    ReadTime::First | ReadTime::Streaming => Ok(()),
                },
                NodeTag::T_Sort | NodeTag::T_Hash => self.children(plan, below(time)),
                NodeTag::T_Agg => {
                    let agg = &*plan.cast::<pg_sys::Agg>();
                    let is_first = matches!(
                        agg.aggstrategy,
                        pg_sys::AggStrategy::AGG_PLAIN | pg_sys::AggStrategy::AGG_HASHED
                    );
                    match (is_first, time) {
                        (true, _) => self.children(plan, below(time)),
                        (false, ReadTime::First) => self.children(plan, time),
                        (false, _) => Err(AloneReason::Source),
                    }
                }
                NodeTag::T_HashJoin => {
                    self.node((*plan).lefttree, time, true)?;
                    self.node((*plan).righttree, time, true)
                }
                NodeTag::T_NestLoop => {
                    let parameters = (*plan.cast::<pg_sys::NestLoop>()).nestParams;
                    for parameter in items::<pg_sys::NestLoopParam>(parameters) {
                        self.parameters.push((*parameter).paramno);
                    }
                    self.node((*plan).lefttree, time, true)?;
                    let inner = if time == ReadTime::First { time } else { ReadTime::Repeated };
                    self.node((*plan).righttree, inner, true)
                }
                NodeTag::T_CteScan => {
                    let number = (*plan.cast::<pg_sys::CteScan>()).ctePlanId as usize;
                    match items(self.subplans).nth(number.saturating_sub(1)) {
                        Some(query) => self.node(query, time, true),
                        None => Err(AloneReason::Source),
                    }
                }
                NodeTag::T_WindowAgg if time == ReadTime::First => self.children(plan, time),
                _ => Err(AloneReason::Source),
            }
        }
    }

    /// # Safety
    /// As of [`StreamCheck::node`].
    unsafe fn children(
        &mut self,
        plan: *mut pg_sys::Plan,
        time: ReadTime,
    ) -> Result<(), AloneReason> {
        // SAFETY: as promised by the caller.
        unsafe {
            nodes::children(plan).into_iter().try_for_each(|child| self.node(child, time, true))
        }
    }

    /// Checks the functions of a scan of functions.
    ///
    /// # Safety
    /// `plan` is such a scan.
    unsafe fn functions(&self, plan: *mut pg_sys::Plan) -> Result<(), AloneReason> {
        // SAFETY: as promised by the caller.
        unsafe {
            items::<pg_sys::RangeTblFunction>((*plan.cast::<pg_sys::FunctionScan>()).functions)
                .try_for_each(|function| {
                    quiet::check((*function).funcexpr, &|number| self.parameters.contains(&number))
                })
        }
    }

    /// # Safety
    /// `list` is a list of expressions or target entries, or null.
    unsafe fn quiet(&self, list: *mut pg_sys::List) -> Result<(), AloneReason> {
        // SAFETY: as promised by the caller.
        unsafe { quiet::check(list.cast(), &|number| self.parameters.contains(&number)) }
    }
}

/// The lists of expressions that a node evaluates for its rows, except condition and targets.
///
/// # Safety
/// `plan` is a finished plan.
unsafe fn own_expressions(plan: *mut pg_sys::Plan) -> [*mut pg_sys::List; 2] {
    let none = std::ptr::null_mut();
    // SAFETY: the tag names the type of the node.
    unsafe {
        match (*plan).type_ {
            NodeTag::T_IndexScan => {
                let scan = &*plan.cast::<pg_sys::IndexScan>();
                [scan.indexqualorig, scan.indexorderbyorig]
            }
            NodeTag::T_IndexOnlyScan => {
                let scan = &*plan.cast::<pg_sys::IndexOnlyScan>();
                [scan.indexqual, scan.indexorderby]
            }
            NodeTag::T_BitmapIndexScan => {
                [(*plan.cast::<pg_sys::BitmapIndexScan>()).indexqualorig, none]
            }
            NodeTag::T_BitmapHeapScan => {
                [(*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig, none]
            }
            NodeTag::T_TidScan => [(*plan.cast::<pg_sys::TidScan>()).tidquals, none],
            NodeTag::T_TidRangeScan => [(*plan.cast::<pg_sys::TidRangeScan>()).tidrangequals, none],
            NodeTag::T_ValuesScan => [(*plan.cast::<pg_sys::ValuesScan>()).values_lists, none],
            NodeTag::T_NestLoop => [(*plan.cast::<pg_sys::NestLoop>()).join.joinqual, none],
            NodeTag::T_HashJoin => {
                let join = &*plan.cast::<pg_sys::HashJoin>();
                [join.join.joinqual, join.hashclauses]
            }
            NodeTag::T_MergeJoin => {
                let join = &*plan.cast::<pg_sys::MergeJoin>();
                [join.join.joinqual, join.mergeclauses]
            }
            NodeTag::T_Limit => {
                // A list or an expression: both are nodes.
                let limit = &*plan.cast::<pg_sys::Limit>();
                [limit.limitCount.cast(), limit.limitOffset.cast()]
            }
            NodeTag::T_Result => [(*plan.cast::<pg_sys::Result>()).resconstantqual.cast(), none],
            _ => [none, none],
        }
    }
}
