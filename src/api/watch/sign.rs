//! Checks the signing function of a watch in the session that gives it.
//!
//! Called by `plan`, with the caller's rights.

use crate::pg::report::refuse;
use crate::pg::sign_function;
use crate::pg::table::TableDescription;
use pgrx::prelude::*;

/// The signature of an argument; raises if the function cannot sign.
pub fn require_signature(function: pg_sys::Oid) -> String {
    sign_function::signature(function).unwrap_or_else(|| {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "sign must be a function from text to text",
            None,
            Some(
                "It gets the value of the image column and returns a URL, such as \
                 sign => 'shop.signed_url(text)'. sign => '-' takes it away."
                    .into(),
            ),
        )
    })
}

/// The function; raises if it does not exist, or if the table's owner may not call it.
pub fn require(table: &TableDescription, signature: &str) -> pg_sys::Oid {
    let Some(oid) = sign_function::find(signature) else {
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            format!("the function {signature}, which signs URLs of the watch, does not exist"),
            None,
            Some("Name another one with sign => '…', or none with sign => '-'.".into()),
        )
    };
    if !sign_function::may_call(table.owner, oid) {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("role {} may not call function {signature}", table.owner_name),
            Some("URLs are signed with the rights of the table's owner.".into()),
            Some(format!("GRANT EXECUTE ON FUNCTION {signature} TO {}.", table.owner_name)),
        );
    }
    oid
}
