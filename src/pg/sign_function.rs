//! The function of a watch that turns a value into a signed URL.
//!
//! Called by `api::watch` and the worker, with a pinned `search_path`. Never calls the function.

use crate::pg::report::select_one;
use pgrx::prelude::*;

/// What a function is called in a watch: `schema.name(text)`, quoted. `$1`: its OID. NULL unless it
/// takes one text and returns one.
const SIGNATURE: &str = "\
    SELECT format('%I.%I(text)', n.nspname, p.proname) \
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
     WHERE p.oid = $1 AND p.prokind = 'f' AND NOT p.proretset AND p.pronargs = 1 \
       AND p.proargtypes[0] = 'text'::pg_catalog.regtype \
       AND p.prorettype = 'text'::pg_catalog.regtype";

/// The signature of a function; `None`: it cannot sign.
pub fn signature(function: pg_sys::Oid) -> Option<String> {
    select_one(SIGNATURE, &[function.into()])
}

/// The function with this signature. A text that [`signature`] did not write is not accepted, so
/// that it can be part of a statement.
pub fn find(text: &str) -> Option<pg_sys::Oid> {
    let function: pg_sys::Oid =
        select_one("SELECT to_regprocedure($1)::pg_catalog.oid", &[text.into()])?;
    (signature(function)? == text).then_some(function)
}

/// A call of the function with this signature, as an expression over `$1`.
pub fn call(signature: &str) -> String {
    format!("{}($1)", signature.trim_end_matches("(text)"))
}

/// Whether a role may call a function.
pub fn may_call(role: pg_sys::Oid, function: pg_sys::Oid) -> bool {
    let statement = "SELECT has_function_privilege($1, $2, 'EXECUTE')";
    select_one(statement, &[role.into(), function.into()]) == Some(true)
}

/// Records in `pg_depend` that a trigger depends on the function.
pub fn record_dependency(depender: pg_sys::ObjectAddress, function: pg_sys::Oid) {
    let referenced = pg_sys::ObjectAddress {
        classId: pg_sys::ProcedureRelationId,
        objectId: function,
        objectSubId: 0,
    };
    // SAFETY: both objects exist in this transaction.
    unsafe {
        pg_sys::recordDependencyOn(
            &depender,
            &referenced,
            pg_sys::DependencyType::DEPENDENCY_NORMAL,
        );
    }
}
