//! Which expressions can be evaluated ahead of a row's turn without an error.
//!
//! Called by `stream`, for expressions by which rows are read. Unknown expressions may raise one.

use crate::lookahead::nodes;
use crate::lookahead::reason::AloneReason;
use pgrx::pg_sys::{self, NodeTag};

/// Functions without errors that PostgreSQL does not mark as leakproof.
const QUIET: &[u32] = &[
    pg_sys::F_NOW,
    pg_sys::F_LOWER_TEXT,
    pg_sys::F_UPPER_TEXT,
    pg_sys::F_BTRIM_TEXT,
    pg_sys::F_BTRIM_TEXT_TEXT,
    pg_sys::F_LENGTH_TEXT,
    pg_sys::F_OCTET_LENGTH_TEXT,
    pg_sys::F_LENGTH_BYTEA,
    pg_sys::F_STARTS_WITH,
    pg_sys::F_STRPOS,
    pg_sys::F_POSITION_TEXT_TEXT,
    pg_sys::F_LEFT,
    pg_sys::F_TEXTCAT,
    pg_sys::F_MD5_TEXT,
    pg_sys::F_NUMERIC_EQ,
    pg_sys::F_NUMERIC_NE,
    pg_sys::F_NUMERIC_LT,
    pg_sys::F_NUMERIC_LE,
    pg_sys::F_NUMERIC_GT,
    pg_sys::F_NUMERIC_GE,
    pg_sys::F_JSONB_OBJECT_FIELD_TEXT,
    pg_sys::F_JSONB_OBJECT_FIELD,
    pg_sys::F_JSONB_EXISTS,
    pg_sys::F_JSONB_CONTAINS,
];

/// Functions that raise an error for some second arguments only: those that are no constants.
const QUIET_WITH_CONSTANT: &[u32] = &[
    pg_sys::F_INT2MOD,
    pg_sys::F_INT4MOD,
    pg_sys::F_INT8MOD,
    pg_sys::F_TEXTLIKE,
    pg_sys::F_TEXTNLIKE,
    pg_sys::F_TEXTICLIKE,
    pg_sys::F_TEXTICNLIKE,
];

/// Checks that an expression calls only functions of PostgreSQL that always return the same, and
/// that no part of it can raise an error. `is_known` says whether the plan itself sets a parameter.
///
/// # Safety
/// As of [`nodes::walk`].
pub unsafe fn check(
    node: *mut pg_sys::Node,
    is_known: &dyn Fn(i32) -> bool,
) -> Result<(), AloneReason> {
    let mut reason = None;
    // SAFETY: as promised by the caller.
    unsafe {
        nodes::walk(node, &mut |part| {
            reason = problem(part, is_known);
            reason.is_some()
        });
    }
    reason.map_or(Ok(()), Err)
}

/// # Safety
/// `part` is an expression.
unsafe fn problem(part: *mut pg_sys::Node, is_known: &dyn Fn(i32) -> bool) -> Option<AloneReason> {
    // SAFETY: the tag names the type of the node.
    unsafe {
        match (*part).type_ {
            NodeTag::T_List
            | NodeTag::T_TargetEntry
            | NodeTag::T_Var
            | NodeTag::T_Const
            | NodeTag::T_BoolExpr
            | NodeTag::T_NullTest
            | NodeTag::T_BooleanTest
            | NodeTag::T_RelabelType
            | NodeTag::T_CaseExpr
            | NodeTag::T_CaseWhen
            | NodeTag::T_CaseTestExpr
            | NodeTag::T_CoalesceExpr
            | NodeTag::T_ArrayExpr
            | NodeTag::T_FieldSelect => None,
            NodeTag::T_Param => {
                let param = &*part.cast::<pg_sys::Param>();
                let is_set =
                    param.paramkind == pg_sys::ParamKind::PARAM_EXTERN || is_known(param.paramid);
                (!is_set).then_some(AloneReason::SourceError)
            }
            // Aggregates are computed before the first row of their group.
            NodeTag::T_Aggref => {
                let is_builtin = nodes::is_builtin((*part.cast::<pg_sys::Aggref>()).aggfnoid);
                (!is_builtin).then_some(AloneReason::SourceFunction)
            }
            NodeTag::T_FuncExpr => {
                let call = &*part.cast::<pg_sys::FuncExpr>();
                function_problem(call.funcid, call.args)
            }
            NodeTag::T_OpExpr | NodeTag::T_DistinctExpr | NodeTag::T_NullIfExpr => {
                let call = &*part.cast::<pg_sys::OpExpr>();
                pg_sys::set_opfuncid(part.cast());
                function_problem(call.opfuncid, call.args)
            }
            NodeTag::T_ScalarArrayOpExpr => {
                let call = &*part.cast::<pg_sys::ScalarArrayOpExpr>();
                pg_sys::set_sa_opfuncid(part.cast());
                function_problem(call.opfuncid, std::ptr::null_mut())
            }
            _ => Some(AloneReason::SourceError),
        }
    }
}

/// # Safety
/// `arguments` is the list of arguments of a call, or null.
unsafe fn function_problem(
    function: pg_sys::Oid,
    arguments: *mut pg_sys::List,
) -> Option<AloneReason> {
    // SAFETY: reads the catalog; the arguments are as promised by the caller.
    unsafe {
        if !nodes::is_builtin(function)
            || pg_sys::func_volatile(function) as u8 == pg_sys::PROVOLATILE_VOLATILE
        {
            return Some(AloneReason::SourceFunction);
        }
        let number = function.to_u32();
        let is_quiet = pg_sys::get_func_leakproof(function)
            || QUIET.contains(&number)
            || QUIET_WITH_CONSTANT.contains(&number)
                && nodes::items(arguments).nth(1).is_some_and(|second| is_harmless(second));
        (!is_quiet).then_some(AloneReason::SourceError)
    }
}

/// Whether a second argument is a constant with which no error is possible: a divisor that is not
/// zero, or a pattern that does not end within an escape.
///
/// # Safety
/// `argument` is an expression.
unsafe fn is_harmless(argument: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag names the type of the node; the type that of the value.
    unsafe {
        if nodes::tag(argument) != NodeTag::T_Const {
            return false;
        }
        let value = &*argument.cast::<pg_sys::Const>();
        if value.constisnull {
            return true;
        }
        match value.consttype {
            pg_sys::INT2OID => value.constvalue.value() as i16 != 0,
            pg_sys::INT4OID => value.constvalue.value() as i32 != 0,
            pg_sys::INT8OID => value.constvalue.value() as i64 != 0,
            pg_sys::TEXTOID => {
                let pattern = pg_sys::pg_detoast_datum_packed(value.constvalue.cast_mut_ptr());
                let pattern = pgrx::varlena::varlena_to_byte_slice(pattern);
                !pattern.contains(&b'\\')
            }
            _ => false,
        }
    }
}
