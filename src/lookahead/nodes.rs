//! Lists and expressions of PostgreSQL as iterators and closures.
//!
//! Called while a plan is made, in the planner's memory. Raises what PostgreSQL raises.

use pgrx::pg_sys;
use std::ffi::c_void;

/// The tag of a node.
///
/// # Safety
/// `node` is a node or null.
pub unsafe fn tag(node: *mut pg_sys::Node) -> pg_sys::NodeTag {
    // SAFETY: as promised by the caller.
    unsafe { node.as_ref() }.map_or(pg_sys::NodeTag::T_Invalid, |node| node.type_)
}

/// The elements of a list of pointers.
///
/// # Safety
/// `list` is null or a list of pointers to `T` that is not changed while the iterator is in use.
pub unsafe fn items<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: as promised by the caller; the empty list is null.
    let length = unsafe { list.as_ref() }.map_or(0, |list| list.length as usize);
    // SAFETY: within the length of the list.
    (0..length).map(move |at| unsafe { (*(*list).elements.add(at)).ptr_value.cast() })
}

/// A list with another element at its end; `list` must not be used further.
///
/// # Safety
/// `list` is null or a list of pointers.
pub unsafe fn append<T>(list: *mut pg_sys::List, item: *mut T) -> *mut pg_sys::List {
    // SAFETY: as promised by the caller.
    unsafe { pg_sys::lappend(list, item.cast()) }
}

type Visitor<'a> = &'a mut dyn FnMut(*mut pg_sys::Node) -> bool;

/// Passes an expression and its parts to `visit`, until it returns true. Returns whether it did.
///
/// # Safety
/// `node` is null, an expression, or a list of expressions or target entries.
pub unsafe fn walk(node: *mut pg_sys::Node, mut visit: Visitor<'_>) -> bool {
    // SAFETY: the context is used during this call only.
    unsafe { step(node, (&raw mut visit).cast()) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn step(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: `walk` passes its visitor.
    unsafe {
        (*context.cast::<Visitor<'_>>())(node)
            || pg_sys::expression_tree_walker(node, Some(step), context)
    }
}

type Replacement<'a> = &'a mut dyn FnMut(*mut pg_sys::Node) -> Option<*mut pg_sys::Node>;

/// A copy of an expression, in which every part for which `replace` returns one is replaced.
///
/// # Safety
/// As of [`walk`].
pub unsafe fn replace(
    node: *mut pg_sys::Node,
    mut replacement: Replacement<'_>,
) -> *mut pg_sys::Node {
    // SAFETY: the context is used during this call only.
    unsafe { copy(node, (&raw mut replacement).cast()) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn copy(
    node: *mut pg_sys::Node,
    context: *mut c_void,
) -> *mut pg_sys::Node {
    if node.is_null() {
        return node;
    }
    // SAFETY: `replace` passes its closure.
    unsafe {
        if let Some(other) = (*context.cast::<Replacement<'_>>())(node) {
            return other;
        }
        #[cfg(feature = "pg15")]
        {
            // The declaration of PostgreSQL 15 leaves the arguments of the callback open.
            type Mutator = unsafe extern "C-unwind" fn() -> *mut pg_sys::Node;
            type Copier =
                unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> *mut pg_sys::Node;
            let mutator = std::mem::transmute::<Copier, Mutator>(copy);
            pg_sys::expression_tree_mutator(node, Some(mutator), context)
        }
        #[cfg(not(feature = "pg15"))]
        pg_sys::expression_tree_mutator_impl(node, Some(copy), context)
    }
}

/// Whether `test` holds for a function that the node itself calls, its parts excluded.
///
/// # Safety
/// `node` is an expression.
pub unsafe fn calls_function(
    node: *mut pg_sys::Node,
    mut test: &mut dyn FnMut(pg_sys::Oid) -> bool,
) -> bool {
    #[pgrx::pg_guard]
    unsafe extern "C-unwind" fn check(function: pg_sys::Oid, context: *mut c_void) -> bool {
        // SAFETY: the context is the closure below.
        unsafe { (*context.cast::<&mut dyn FnMut(pg_sys::Oid) -> bool>())(function) }
    }
    // SAFETY: as promised by the caller; the context is used during this call only.
    unsafe { pg_sys::check_functions_in_node(node, Some(check), (&raw mut test).cast()) }
}

/// Whether a function is PostgreSQL's own, rather than of a user or an extension.
pub fn is_builtin(function: pg_sys::Oid) -> bool {
    function.to_u32() < pg_sys::FirstNormalObjectId
}

/// The plans directly below a plan.
///
/// # Safety
/// `plan` is a finished plan.
pub unsafe fn children(plan: *mut pg_sys::Plan) -> Vec<*mut pg_sys::Plan> {
    use pg_sys::NodeTag;
    // SAFETY: the tag names the type of the node.
    unsafe {
        let mut below = vec![(*plan).lefttree, (*plan).righttree];
        match (*plan).type_ {
            NodeTag::T_Append => below.extend(items((*plan.cast::<pg_sys::Append>()).appendplans)),
            NodeTag::T_MergeAppend => {
                below.extend(items((*plan.cast::<pg_sys::MergeAppend>()).mergeplans))
            }
            NodeTag::T_BitmapAnd => {
                below.extend(items((*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans))
            }
            NodeTag::T_BitmapOr => {
                below.extend(items((*plan.cast::<pg_sys::BitmapOr>()).bitmapplans))
            }
            NodeTag::T_SubqueryScan => below.push((*plan.cast::<pg_sys::SubqueryScan>()).subplan),
            NodeTag::T_CustomScan => {
                below.extend(items((*plan.cast::<pg_sys::CustomScan>()).custom_plans))
            }
            _ => {}
        }
        below.retain(|plan| !plan.is_null());
        below
    }
}
