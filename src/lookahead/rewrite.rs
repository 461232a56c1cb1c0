//! Puts the node into a plan: above the plan node that computed the calls, which then returns what
//! its target list is made of.

use crate::lookahead::calls::AheadCall;
use crate::lookahead::limit::RowLimit;
use crate::lookahead::nodes::{self, append, items};
use crate::lookahead::scan;
use pgrx::pg_sys::{self, NodeTag};
use std::ptr::null_mut;

/// Replaces the plan in `place`. `number` is the new node's number in the statement.
///
/// # Safety
/// `place` holds a finished plan whose target list can be computed above it; `calls` and `limit`
/// belong to it.
pub unsafe fn insert(
    place: *mut *mut pg_sys::Plan,
    calls: &[AheadCall],
    limit: Option<RowLimit>,
    number: i32,
) {
    // SAFETY: as promised by the caller. All nodes are made in the planner's memory.
    unsafe {
        let child = *place;
        let mut parts = TargetParts { parts: Vec::new() };
        let targets = parts.replace((*child).targetlist.cast()).cast::<pg_sys::List>();
        let (expressions, private) = describe(&mut parts, calls, limit);

        let node = pg_sys::palloc0(size_of::<pg_sys::CustomScan>()).cast::<pg_sys::CustomScan>();
        let plan = &mut (*node).scan.plan;
        plan.type_ = NodeTag::T_CustomScan;
        plan.startup_cost = (*child).startup_cost;
        plan.total_cost = (*child).total_cost;
        plan.plan_rows = (*child).plan_rows;
        plan.plan_width = (*child).plan_width;
        plan.plan_node_id = number;
        plan.targetlist = targets;
        plan.lefttree = child;
        plan.extParam = pg_sys::bms_copy((*child).extParam);
        plan.allParam = pg_sys::bms_copy((*child).allParam);
        (*node).custom_exprs = expressions;
        (*node).custom_private = private;
        (*node).custom_scan_tlist = parts.scan_targets();
        (*node).methods = scan::methods();
        (*child).targetlist = parts.child_targets();
        *place = node.cast();
    }
}

/// What target lists are made of: columns and aggregates of the child.
struct TargetParts {
    parts: Vec<*mut pg_sys::Node>,
}

impl TargetParts {
    /// A copy of an expression that refers to the columns of the node.
    ///
    /// # Safety
    /// `node` is an expression of a finished plan, or a list.
    unsafe fn replace(&mut self, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
        // SAFETY: as promised by the caller.
        unsafe {
            nodes::replace(node, &mut |part| match (*part).type_ {
                NodeTag::T_Var | NodeTag::T_Aggref | NodeTag::T_GroupingFunc => {
                    let at = self.position(part);
                    Some(variable(pg_sys::INDEX_VAR, at, part).cast())
                }
                _ => None,
            })
        }
    }

    /// The position of a part from 0; a new part is added.
    ///
    /// # Safety
    /// As of [`TargetParts::replace`].
    unsafe fn position(&mut self, part: *mut pg_sys::Node) -> usize {
        // SAFETY: as promised by the caller.
        let is_part =
            |known: &*mut pg_sys::Node| unsafe { pg_sys::equal((*known).cast(), part.cast()) };
        self.parts.iter().position(is_part).unwrap_or_else(|| {
            self.parts.push(part);
            self.parts.len() - 1
        })
    }

    /// The target list of the child.
    unsafe fn child_targets(&self) -> *mut pg_sys::List {
        // SAFETY: the parts are expressions of the child.
        unsafe { self.targets(|_, part| part) }
    }

    /// The node's columns as the child's.
    unsafe fn scan_targets(&self) -> *mut pg_sys::List {
        // SAFETY: the parts are expressions of the child.
        unsafe { self.targets(|at, part| variable(pg_sys::OUTER_VAR, at, part).cast()) }
    }

    unsafe fn targets(
        &self,
        expression: impl Fn(usize, *mut pg_sys::Node) -> *mut pg_sys::Node,
    ) -> *mut pg_sys::List {
        self.parts.iter().enumerate().fold(null_mut(), |list, (at, part)| {
            // SAFETY: makes nodes in the planner's memory.
            unsafe {
                let expression = expression(at, *part).cast();
                let number = at as i16 + 1;
                append(list, pg_sys::makeTargetEntry(expression, number, null_mut(), false))
            }
        })
    }
}

/// A column at a position from 0, of the type of an expression.
///
/// # Safety
/// `part` is an expression.
unsafe fn variable(source: i32, at: usize, part: *mut pg_sys::Node) -> *mut pg_sys::Var {
    // SAFETY: as promised by the caller.
    unsafe {
        pg_sys::makeVar(
            source,
            at as i16 + 1,
            pg_sys::exprType(part),
            pg_sys::exprTypmod(part),
            pg_sys::exprCollation(part),
            0,
        )
    }
}

/// The calls and the limit as lists that can be copied with the plan: all expressions, and numbers
/// that say what they are. The numbers: whether there is a limit, and an offset; then for each
/// call what its picture is, and the tests of its conditions in front of its arguments.
///
/// # Safety
/// Calls and limit belong to a finished plan.
unsafe fn describe(
    parts: &mut TargetParts,
    calls: &[AheadCall],
    limit: Option<RowLimit>,
) -> (*mut pg_sys::List, *mut pg_sys::List) {
    let mut expressions = null_mut();
    let mut numbers = null_mut();
    // SAFETY: as promised by the caller.
    unsafe {
        for expression in [limit.map(|limit| limit.count), limit.map(|limit| limit.offset)] {
            let expression = expression.filter(|expression| !expression.is_null());
            numbers = pg_sys::lappend_int(numbers, i32::from(expression.is_some()));
            if let Some(expression) = expression {
                let copy = pg_sys::copyObjectImpl(expression.cast());
                expressions = append(expressions, copy);
            }
        }
        for call in calls {
            numbers = pg_sys::lappend_int(numbers, call.picture as i32);
            numbers = pg_sys::lappend_int(numbers, call.guards.len() as i32);
            for guard in &call.guards {
                numbers = pg_sys::lappend_int(numbers, guard.test.number());
                expressions = append(expressions, parts.replace(guard.condition));
            }
            for argument in &call.arguments {
                expressions = append(expressions, parts.replace(*argument));
            }
        }
        (expressions, append(null_mut(), numbers))
    }
}

/// The numbers that a node was made with.
///
/// # Safety
/// `private` is the private list of such a node.
pub unsafe fn numbers(private: *mut pg_sys::List) -> Vec<i32> {
    // SAFETY: as promised by the caller.
    unsafe {
        items::<pg_sys::List>(private)
            .flat_map(|list| {
                let length = list.as_ref().map_or(0, |list| list.length as usize);
                (0..length).map(move |at| (*(*list).elements.add(at)).int_value)
            })
            .collect()
    }
}
