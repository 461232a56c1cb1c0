//! The condition of a watch: an expression over one row of a table.
//!
//! Called by `api::watch` with a new text and by the worker with a stored one. Only parses the text
//! and reads the catalogs; calls no function of the expression.

use crate::pg::guc_scope::GucScope;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::{PgTupleDesc, pg_sys};
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::ptr::null_mut;

/// The name of the row in a stored condition, and in the statements that evaluate it.
pub const ROW: &CStr = c"t";
/// Longest text of a condition, bytes.
const MAX_TEXT: usize = 8192;

/// An expression over one row, in the memory of the transaction that has parsed it.
pub struct RowCondition {
    /// As PostgreSQL's deparser writes it: all names qualified that are not in `pg_catalog`, the
    /// row called [`ROW`].
    pub text: String,
    /// The columns that it names.
    pub columns: Vec<String>,
    /// It reads the row as a whole.
    pub is_whole_row: bool,
    relation: pg_sys::Oid,
    expression: *mut pg_sys::Node,
}

/// Why a text is not a condition.
#[derive(Debug)]
pub struct ConditionError {
    pub code: PgSqlErrorCode,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl ConditionError {
    fn new(code: PgSqlErrorCode, message: &str) -> Self {
        ConditionError { code, message: message.into(), detail: None, hint: None }
    }
}

/// How a text was written.
pub enum ConditionSource<'a> {
    /// By a user: the row has the table's name, and other names are looked up in this path.
    User { search_path: &'a CStr },
    /// By the deparser.
    Stored,
    /// By the deparser, before a column was renamed.
    Renamed { from: &'a str, to: &'a str },
}

impl RowCondition {
    /// Parses a condition on a table that the caller has locked; under a pinned `search_path`.
    ///
    /// # Errors
    /// It is not one boolean expression, has a sub-select, an aggregate, a window, set-returning or
    /// volatile function, or names something that does not exist. After an error the
    /// (sub)transaction must be rolled back.
    pub fn parse(
        relation: pg_sys::Oid,
        text: &str,
        source: ConditionSource<'_>,
    ) -> Result<RowCondition, ConditionError> {
        if text.len() > MAX_TEXT {
            let code = PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED;
            return Err(ConditionError::new(code, &format!("it is longer than {MAX_TEXT} bytes")));
        }
        let text = CString::new(text).unwrap_or_default();
        PgTryBuilder::new(AssertUnwindSafe(|| {
            // SAFETY: the relation is locked, the text lives until the end of the call.
            unsafe { parse_locked(relation, &text, source) }
        }))
        .catch_others(|error| {
            let report = match &error {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
                CaughtError::RustPanic { ereport, .. } => ereport,
            };
            Err(ConditionError {
                code: report.sql_error_code(),
                message: report.message().into(),
                detail: report.detail().map(Into::into),
                hint: report.hint().map(Into::into),
            })
        })
        .execute()
    }

    /// Records in `pg_depend` that a trigger depends on all that the condition names.
    pub fn record_dependencies(&self, depender: pg_sys::ObjectAddress) {
        use pg_sys::DependencyType::DEPENDENCY_NORMAL;
        // SAFETY: the expression is of this transaction and of this relation only.
        unsafe {
            pg_sys::recordDependencyOnSingleRelExpr(
                &depender,
                self.expression,
                self.relation,
                DEPENDENCY_NORMAL,
                DEPENDENCY_NORMAL,
                false,
            );
        }
    }
}

/// # Safety
/// The relation is locked; the text outlives the call.
unsafe fn parse_locked(
    relation: pg_sys::Oid,
    text: &CStr,
    source: ConditionSource<'_>,
) -> Result<RowCondition, ConditionError> {
    let refused = |code, message| Err(ConditionError::new(code, message));
    // SAFETY: PostgreSQL's parser, in the memory of the transaction. The relation stays open for
    // the analysis only; the expression does not refer to it.
    unsafe {
        let parsed =
            pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR);
        let Some(expression) = single_expression(parsed) else {
            return refused(
                PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
                "it must be one expression over the row",
            );
        };
        let open = pg_sys::table_open(relation, pg_sys::AccessShareLock as i32);
        let (scope, name) = match source {
            ConditionSource::Renamed { from, to } => {
                let name = pg_sys::makeAlias(ROW.as_ptr(), old_names((*open).rd_att, from, to));
                (None, name)
            }
            ConditionSource::Stored => (None, pg_sys::makeAlias(ROW.as_ptr(), null_mut())),
            ConditionSource::User { search_path } => {
                let scope = GucScope::sealed();
                scope.set(c"search_path", search_path);
                (Some(scope), null_mut())
            }
        };
        let state = pg_sys::make_parsestate(null_mut());
        (*state).p_sourcetext = text.as_ptr();
        let lock = pg_sys::AccessShareLock as i32;
        let item = pg_sys::addRangeTableEntryForRelation(state, open, lock, name, false, true);
        pg_sys::addNSItemToQuery(state, item, true, true, true);
        let kind = pg_sys::ParseExprKind::EXPR_KIND_WHERE;
        let analysed = pg_sys::transformExpr(state, expression, kind);
        let analysed = pg_sys::coerce_to_boolean(state, analysed, c"condition".as_ptr());
        pg_sys::assign_expr_collations(state, analysed);
        drop(scope);
        if (*state).p_hasSubLinks {
            return refused(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "it has a sub-select, and concerns one row only",
            );
        }
        if pg_sys::contain_volatile_functions(analysed) {
            return refused(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "it calls a volatile function, whose result may change without an UPDATE",
            );
        }
        let named = named_columns(analysed, (*open).rd_att)?;
        let context = pg_sys::deparse_context_for(ROW.as_ptr(), relation);
        let written = pg_sys::deparse_expression(analysed, context, false, false);
        let text = CStr::from_ptr(written).to_string_lossy().into_owned();
        pg_sys::table_close(open, pg_sys::NoLock as i32);
        Ok(RowCondition {
            text,
            columns: named.columns,
            is_whole_row: named.is_whole_row,
            relation,
            expression: analysed,
        })
    }
}

/// The names of the columns as they were before one was renamed, for an alias: a list of strings
/// without dropped columns.
///
/// # Safety
/// The description is of an open relation.
unsafe fn old_names(description: pg_sys::TupleDesc, from: &str, to: &str) -> *mut pg_sys::List {
    // SAFETY: as promised by the caller; the strings are copied into the transaction's memory.
    unsafe {
        let columns = PgTupleDesc::from_pg_unchecked(description);
        let names = columns.iter().filter(|column| !column.attisdropped).map(|column| {
            let name = if column.name() == to { from } else { column.name() };
            let name = CString::new(name).unwrap_or_default();
            pg_sys::makeString(pg_sys::pstrdup(name.as_ptr()))
        });
        names.fold(null_mut(), |list, name| pg_sys::lappend(list, name.cast()))
    }
}

/// The only expression of a parsed text, if it has nothing else: no name, no further clause.
///
/// # Safety
/// `parsed` is a result of PostgreSQL's parser.
unsafe fn single_expression(parsed: *const pg_sys::List) -> Option<*mut pg_sys::Node> {
    // SAFETY: as promised by the caller; the node's type is checked before it is read.
    unsafe {
        let statement = single::<pg_sys::RawStmt>(parsed)?.stmt;
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_SelectStmt {
            return None;
        }
        let select = &*statement.cast::<pg_sys::SelectStmt>();
        let is_plain = select.distinctClause.is_null()
            && select.intoClause.is_null()
            && select.fromClause.is_null()
            && select.whereClause.is_null()
            && select.groupClause.is_null()
            && select.havingClause.is_null()
            && select.windowClause.is_null()
            && select.valuesLists.is_null()
            && select.sortClause.is_null()
            && select.limitOffset.is_null()
            && select.limitCount.is_null()
            && select.lockingClause.is_null()
            && select.withClause.is_null()
            && select.op == pg_sys::SetOperation::SETOP_NONE;
        let target = single::<pg_sys::ResTarget>(select.targetList).filter(|_| is_plain)?;
        (target.name.is_null() && target.indirection.is_null()).then_some(target.val)
    }
}

/// The only element of a list.
///
/// # Safety
/// The list is null or has elements of type `T`.
unsafe fn single<'a, T>(list: *const pg_sys::List) -> Option<&'a T> {
    // SAFETY: as promised by the caller.
    unsafe {
        let list = list.as_ref().filter(|list| list.length == 1)?;
        (*list.elements).ptr_value.cast::<T>().as_ref()
    }
}

/// The columns of an expression.
struct NamedColumns {
    columns: Vec<String>,
    is_whole_row: bool,
}

/// # Safety
/// The expression is over the relation with this description, as the first of its range table.
unsafe fn named_columns(
    expression: *mut pg_sys::Node,
    description: pg_sys::TupleDesc,
) -> Result<NamedColumns, ConditionError> {
    let mut named = NamedColumns { columns: Vec::new(), is_whole_row: false };
    // SAFETY: as promised by the caller; the set is read while it exists.
    unsafe {
        let mut set = null_mut();
        pg_sys::pull_varattnos(expression, 1, &mut set);
        let description = PgTupleDesc::from_pg_unchecked(description);
        let mut member = -1;
        loop {
            member = pg_sys::bms_next_member(set, member);
            if member < 0 {
                return Ok(named);
            }
            let number = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
            match usize::try_from(number) {
                Ok(0) => named.is_whole_row = true,
                Ok(number) => {
                    let column = description.get(number - 1);
                    named.columns.extend(column.map(|column| column.name().to_owned()));
                }
                // The partition that a row is in.
                Err(_) if number == pg_sys::TableOidAttributeNumber => {}
                Err(_) => {
                    return Err(ConditionError::new(
                        PgSqlErrorCode::ERRCODE_INVALID_COLUMN_REFERENCE,
                        "it names a system column",
                    ));
                }
            }
        }
    }
}
