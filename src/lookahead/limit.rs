//! The limit above a node: it bounds how many rows are read ahead, and a sort below.
//!
//! PostgreSQL passes a limit down to a sort when the statement runs, but not through nodes of
//! extensions. So the node evaluates the same expressions.

use crate::lookahead::calls;
use crate::lookahead::reason::AloneReason;
use pgrx::pg_sys;

/// LIMIT and OFFSET of a plan node; null where it is not given.
#[derive(Debug, Clone, Copy)]
pub struct RowLimit {
    pub count: *mut pg_sys::Node,
    pub offset: *mut pg_sys::Node,
}

impl RowLimit {
    /// The limit of a node; `None`: its rows cannot be counted beforehand.
    ///
    /// # Safety
    /// `limit` is a finished plan.
    pub unsafe fn of(limit: *mut pg_sys::Limit) -> Option<RowLimit> {
        // SAFETY: as promised by the caller.
        unsafe {
            let is_counted = (*limit).limitOption == pg_sys::LimitOption::LIMIT_OPTION_COUNT
                && !(*limit).limitCount.is_null();
            is_counted
                .then(|| RowLimit { count: (*limit).limitCount, offset: (*limit).limitOffset })
        }
    }

    /// Checks that the node can evaluate both once more.
    ///
    /// # Safety
    /// The expressions belong to a finished plan.
    pub unsafe fn check(&self) -> Result<(), AloneReason> {
        // SAFETY: as promised by the caller.
        unsafe {
            for expression in [self.count, self.offset] {
                calls::check_argument(expression).map_err(|_| AloneReason::Limit)?;
            }
        }
        Ok(())
    }
}
