//! The calls in a target list: their arguments, and the conditions under which they are made.
//!
//! `CASE`, `COALESCE`, `AND` and `OR` evaluate only what they need. A call within one is requested
//! ahead only if the conditions that precede it are met. Where these depend on the result of
//! another call, the call is not requested ahead.

use crate::lookahead::functions::{self, PictureArgument};
use crate::lookahead::nodes::{self, append, items};
use crate::lookahead::reason::AloneReason;
use pgrx::pg_sys::{self, NodeTag};
use std::ptr::null_mut;

/// The value of a condition with which evaluation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardTest {
    True,
    NotTrue,
    NotFalse,
    Null,
}

impl GuardTest {
    const ALL: [GuardTest; 4] =
        [GuardTest::True, GuardTest::NotTrue, GuardTest::NotFalse, GuardTest::Null];

    /// Its number in a plan.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The test with this number.
    pub fn from_number(number: i32) -> GuardTest {
        GuardTest::ALL[number as usize]
    }

    /// Whether a value passes the test; `None` is NULL.
    pub fn passes(self, value: Option<pg_sys::Datum>) -> bool {
        let is_true = value.map(|value| value.value() as u8 != 0);
        match self {
            GuardTest::True => is_true == Some(true),
            GuardTest::NotTrue => is_true != Some(true),
            GuardTest::NotFalse => is_true != Some(false),
            GuardTest::Null => value.is_none(),
        }
    }
}

/// A condition of a call.
#[derive(Debug, Clone, Copy)]
pub struct CallGuard {
    pub condition: *mut pg_sys::Node,
    pub test: GuardTest,
}

/// A call that can be requested ahead.
#[derive(Debug, Clone)]
pub struct AheadCall {
    pub picture: PictureArgument,
    /// In the order of evaluation.
    pub guards: Vec<CallGuard>,
    /// Picture, style, limit of tokens, context.
    pub arguments: Vec<*mut pg_sys::Node>,
}

/// The calls in a target list that can be requested ahead.
///
/// # Errors
/// It has no call, or one that must be left alone.
///
/// # Safety
/// `targets` is the target list of a finished plan.
pub unsafe fn find(targets: *mut pg_sys::List) -> Result<Vec<AheadCall>, AloneReason> {
    let mut finder = CallFinder { calls: Vec::new(), guards: Vec::new() };
    // SAFETY: as promised by the caller.
    unsafe {
        for target in items::<pg_sys::TargetEntry>(targets) {
            finder.visit((*target).expr.cast())?;
        }
    }
    match finder.calls.is_empty() {
        true => Err(AloneReason::Expression),
        false => Ok(finder.calls),
    }
}

/// A walk over expressions.
struct CallFinder {
    calls: Vec<AheadCall>,
    /// The conditions of the current place.
    guards: Vec<CallGuard>,
}

impl CallFinder {
    /// # Safety
    /// `node` is an expression of a finished plan, or null.
    unsafe fn visit(&mut self, node: *mut pg_sys::Node) -> Result<(), AloneReason> {
        // SAFETY: the tag names the type of the node.
        unsafe {
            if !functions::is_called_in(node) {
                return Ok(());
            }
            if let Some((call, picture)) = functions::call(node) {
                return self.call(call, picture);
            }
            match (*node).type_ {
                NodeTag::T_CaseExpr => self.case(&*node.cast()),
                NodeTag::T_CoalesceExpr => {
                    let arguments = (*node.cast::<pg_sys::CoalesceExpr>()).args;
                    self.in_turn(arguments, GuardTest::Null)
                }
                NodeTag::T_BoolExpr => {
                    let expression = &*node.cast::<pg_sys::BoolExpr>();
                    let test = match expression.boolop {
                        pg_sys::BoolExprType::AND_EXPR => GuardTest::NotFalse,
                        pg_sys::BoolExprType::OR_EXPR => GuardTest::NotTrue,
                        _ => return self.all(expression.args),
                    };
                    self.in_turn(expression.args, test)
                }
                NodeTag::T_FuncExpr => self.all((*node.cast::<pg_sys::FuncExpr>()).args),
                NodeTag::T_OpExpr | NodeTag::T_DistinctExpr | NodeTag::T_NullIfExpr => {
                    self.all((*node.cast::<pg_sys::OpExpr>()).args)
                }
                NodeTag::T_ScalarArrayOpExpr => {
                    self.all((*node.cast::<pg_sys::ScalarArrayOpExpr>()).args)
                }
                NodeTag::T_MinMaxExpr => self.all((*node.cast::<pg_sys::MinMaxExpr>()).args),
                NodeTag::T_ArrayExpr => self.all((*node.cast::<pg_sys::ArrayExpr>()).elements),
                NodeTag::T_RowExpr => self.all((*node.cast::<pg_sys::RowExpr>()).args),
                NodeTag::T_NullTest => self.visit((*node.cast::<pg_sys::NullTest>()).arg.cast()),
                NodeTag::T_BooleanTest => {
                    self.visit((*node.cast::<pg_sys::BooleanTest>()).arg.cast())
                }
                NodeTag::T_RelabelType => {
                    self.visit((*node.cast::<pg_sys::RelabelType>()).arg.cast())
                }
                NodeTag::T_CoerceViaIO => {
                    self.visit((*node.cast::<pg_sys::CoerceViaIO>()).arg.cast())
                }
                NodeTag::T_CoerceToDomain => {
                    self.visit((*node.cast::<pg_sys::CoerceToDomain>()).arg.cast())
                }
                NodeTag::T_CollateExpr => {
                    self.visit((*node.cast::<pg_sys::CollateExpr>()).arg.cast())
                }
                _ => Err(AloneReason::Expression),
            }
        }
    }

    /// Expressions that are all evaluated.
    ///
    /// # Safety
    /// `list` is a list of expressions.
    unsafe fn all(&mut self, list: *mut pg_sys::List) -> Result<(), AloneReason> {
        // SAFETY: as promised by the caller.
        unsafe { items(list).try_for_each(|node| self.visit(node)) }
    }

    /// Expressions of which the next one is evaluated if the one before passes `test`.
    ///
    /// # Safety
    /// `list` is a list of expressions.
    unsafe fn in_turn(
        &mut self,
        list: *mut pg_sys::List,
        test: GuardTest,
    ) -> Result<(), AloneReason> {
        let outer = self.guards.len();
        // SAFETY: as promised by the caller.
        unsafe {
            let nodes: Vec<*mut pg_sys::Node> = items(list).collect();
            for (at, node) in nodes.iter().enumerate() {
                self.visit(*node)?;
                if functions::is_called_in(*node) {
                    // Whether the others are evaluated depends on the answer.
                    break;
                }
                if at + 1 < nodes.len() {
                    check_argument(*node)?;
                    self.guards.push(CallGuard { condition: *node, test });
                }
            }
        }
        self.guards.truncate(outer);
        Ok(())
    }

    /// # Safety
    /// The expression belongs to a finished plan.
    unsafe fn case(&mut self, case: &pg_sys::CaseExpr) -> Result<(), AloneReason> {
        let outer = self.guards.len();
        // SAFETY: as promised by the caller.
        unsafe {
            let argument = case.arg.cast();
            self.visit(argument)?;
            let mut is_known = !functions::is_called_in(argument);
            for when in items::<pg_sys::CaseWhen>(case.args) {
                if !is_known {
                    break;
                }
                self.visit((*when).expr.cast())?;
                if functions::is_called_in((*when).expr.cast()) {
                    is_known = false;
                    break;
                }
                let condition = when_condition(case, when);
                check_argument(condition)?;
                self.guards.push(CallGuard { condition, test: GuardTest::True });
                self.visit((*when).result.cast())?;
                self.guards.pop();
                self.guards.push(CallGuard { condition, test: GuardTest::NotTrue });
            }
            if is_known {
                self.visit(case.defresult.cast())?;
            }
        }
        self.guards.truncate(outer);
        Ok(())
    }

    /// # Safety
    /// The call belongs to a finished plan.
    unsafe fn call(
        &mut self,
        call: *mut pg_sys::FuncExpr,
        picture: PictureArgument,
    ) -> Result<(), AloneReason> {
        // SAFETY: as promised by the caller.
        unsafe {
            let arguments: Vec<*mut pg_sys::Node> = items((*call).args).collect();
            for argument in &arguments {
                if functions::is_called_in(*argument) {
                    // The picture, or the style, depends on an answer.
                    return self.all((*call).args);
                }
                check_argument(*argument)?;
            }
            // `on_error` concerns only the report of a failure. Arguments of another release would
            // be part of the request.
            let [picture_value, style, max_tokens, _, context, unknown @ ..] = &arguments[..]
            else {
                return Err(AloneReason::Argument);
            };
            if unknown.iter().any(|argument| !is_null(*argument)) {
                return Err(AloneReason::Argument);
            }
            let arguments = vec![*picture_value, *style, *max_tokens, *context];
            self.calls.push(AheadCall { picture, guards: self.guards.clone(), arguments });
        }
        Ok(())
    }
}

/// Whether an expression is the constant NULL.
///
/// # Safety
/// `node` is an expression.
unsafe fn is_null(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag names the type of the node.
    unsafe { nodes::tag(node) == NodeTag::T_Const && (*node.cast::<pg_sys::Const>()).constisnull }
}

/// The condition of one WHEN as an expression of its own. With `CASE x WHEN y`, it refers to `x`.
///
/// # Safety
/// Both belong to a finished plan.
unsafe fn when_condition(
    case: &pg_sys::CaseExpr,
    when: *mut pg_sys::CaseWhen,
) -> *mut pg_sys::Node {
    // SAFETY: as promised by the caller; the parts are copied before they are changed.
    unsafe {
        if case.arg.is_null() {
            return (*when).expr.cast();
        }
        let constant = |value| pg_sys::makeBoolConst(value, false);
        let mut own = *when;
        own.result = constant(true).cast();
        let mut test = *case;
        test.casetype = pg_sys::BOOLOID;
        test.casecollid = pg_sys::InvalidOid;
        test.args = append(null_mut(), pg_sys::copyObjectImpl((&raw const own).cast()));
        test.defresult = constant(false).cast();
        pg_sys::copyObjectImpl((&raw const test).cast()).cast()
    }
}

/// Checks that an expression can be evaluated once more, ahead of its row's turn: it has no effects
/// and runs no code of users. It may raise an error.
///
/// # Safety
/// `node` is an expression of a finished plan, or null.
pub unsafe fn check_argument(node: *mut pg_sys::Node) -> Result<(), AloneReason> {
    let mut reason = None;
    // SAFETY: as promised by the caller.
    unsafe {
        if pg_sys::contain_volatile_functions(node) {
            return Err(AloneReason::VolatileArgument);
        }
        nodes::walk(node, &mut |part| {
            reason = argument_problem(part);
            reason.is_some()
        });
    }
    reason.map_or(Ok(()), Err)
}

/// # Safety
/// `part` is an expression.
unsafe fn argument_problem(part: *mut pg_sys::Node) -> Option<AloneReason> {
    // SAFETY: the tag names the type of the node.
    unsafe {
        match (*part).type_ {
            NodeTag::T_Param => {
                let kind = (*part.cast::<pg_sys::Param>()).paramkind;
                (kind != pg_sys::ParamKind::PARAM_EXTERN).then_some(AloneReason::Argument)
            }
            NodeTag::T_CoerceToDomain => Some(AloneReason::UserArgument),
            NodeTag::T_List
            | NodeTag::T_TargetEntry
            | NodeTag::T_Var
            | NodeTag::T_Const
            | NodeTag::T_Aggref
            | NodeTag::T_BoolExpr
            | NodeTag::T_NullTest
            | NodeTag::T_BooleanTest
            | NodeTag::T_RelabelType
            | NodeTag::T_CollateExpr
            | NodeTag::T_CaseExpr
            | NodeTag::T_CaseWhen
            | NodeTag::T_CaseTestExpr
            | NodeTag::T_CoalesceExpr
            | NodeTag::T_MinMaxExpr
            | NodeTag::T_ArrayExpr
            | NodeTag::T_RowExpr
            | NodeTag::T_FieldSelect
            | NodeTag::T_SubscriptingRef
            | NodeTag::T_FuncExpr
            | NodeTag::T_OpExpr
            | NodeTag::T_DistinctExpr
            | NodeTag::T_NullIfExpr
            | NodeTag::T_ScalarArrayOpExpr
            | NodeTag::T_CoerceViaIO
            | NodeTag::T_SQLValueFunction => {
                let of_user =
                    nodes::calls_function(part, &mut |function| !nodes::is_builtin(function));
                of_user.then_some(AloneReason::UserArgument)
            }
            _ => Some(AloneReason::Argument),
        }
    }
}
