//! What a request lacks until it is sent: the signed URL, or the picture itself. Both are read in
//! the transaction that passes the request on, and kept no longer: signatures expire, and pictures
//! are large.

use super::conditions::OwnerCode;
use super::transaction::{RaisedError, attempt_in_time, spi};
use super::{examine, record};
use crate::engine::client::EngineClient;
use crate::pg::{identity, sign_function};
use crate::settings;
use pg_caption_queue::{MAX_URL_CHARS, RowJob, WatchedTable};
use pg_caption_wire::{CaptionOutcome, CaptionRequest, Failure, FailureClass};
use pgrx::prelude::*;

/// Completes the request for a row of a locked table, and passes it to the connection. Returns its
/// id.
///
/// # Errors
/// The answer to the job, if nothing can be requested.
pub fn submit(
    table: &WatchedTable,
    job: &RowJob,
    mut request: CaptionRequest,
    client: &mut EngineClient,
    code: &mut OwnerCode<'_>,
) -> Result<u64, CaptionOutcome> {
    if table.holds_pictures {
        let sent =
            attempt_in_time(|| with_picture(table, job, |picture| client.submit(request, picture)));
        return match sent {
            // It was changed or deleted since; its new key is in the queue.
            Ok(None) => Err(CaptionOutcome::Unchanged),
            Ok(Some(sent)) => sent.map_err(CaptionOutcome::Failed),
            Err(raised) => Err(CaptionOutcome::Failed(failure(&raised, "unreadable", ""))),
        };
    }
    let Some(signature) = &table.sign else { return Err(CaptionOutcome::Unchanged) };
    match attempt_in_time(|| signed(table, signature, &job.url, code)) {
        // No picture: the row keeps what it has.
        Ok(None) => Err(CaptionOutcome::Unchanged),
        Ok(Some(url)) => {
            request.image = job.signed_source(table, &url);
            client.submit(request, &[]).map_err(CaptionOutcome::Failed)
        }
        Err(raised) => {
            let what = format!("the URL cannot be signed by {signature}: ");
            Err(CaptionOutcome::Failed(failure(&raised, "sign_failed", &what)))
        }
    }
}

/// The answer to a job whose table is locked.
pub fn busy() -> CaptionOutcome {
    CaptionOutcome::Failed(table_locked())
}

/// The row is tried again soon, and nothing is charged.
fn table_locked() -> Failure {
    let mut failure =
        Failure::new(FailureClass::Host, "table_locked", "another session locks the table")
            .hint("No action is needed. The row is tried again when the lock is released.");
    failure.retry_after_ms = Some(1000);
    failure
}

fn failure(raised: &RaisedError, code: &str, what: &str) -> Failure {
    if raised.is_passing() {
        return table_locked();
    }
    if raised.code == PgSqlErrorCode::ERRCODE_QUERY_CANCELED {
        let message = format!("{what}it takes too long");
        return Failure::new(FailureClass::Retry, "sign_timeout", message)
            .hint("See \"pg_caption.write_timeout\".");
    }
    if code != "sign_failed" {
        return unreadable(raised);
    }
    let mut failure =
        Failure::new(FailureClass::Reject, "sign_failed", format!("{what}{}", raised.message))
            .hint("Correct the function or the value, then call caption.retry().");
    failure.detail = raised.detail.clone();
    failure
}

/// The failure of a row that cannot be read with its owner's rights.
pub fn unreadable(raised: &RaisedError) -> Failure {
    let mut failure = Failure::new(FailureClass::Reject, "unreadable", raised.message.clone())
        .hint("Remove the cause of the error, then call caption.retry().");
    failure.detail = raised.detail.clone();
    failure
}

/// The URL that the owner's function makes of a value; `None`: it returns NULL or an empty text.
fn signed(
    table: &WatchedTable,
    signature: &str,
    value: &str,
    code: &mut OwnerCode<'_>,
) -> Option<String> {
    let call = sign_function::call(signature);
    let statement = format!("SELECT pg_catalog.\"left\"({call}, {MAX_URL_CHARS})");
    let _owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    let url: Option<String> = spi(Spi::connect_mut(|client| {
        let mut cursor = client.try_open_cursor_mut(statement.as_str(), &[value.into()])?;
        let _session = code.session.scope();
        let _settings = code.owner_settings.scope(table.owner);
        match cursor.fetch(1)?.next() {
            Some(row) => row.get(1),
            None => Ok::<_, pgrx::spi::Error>(None),
        }
    }));
    url.filter(|url| !url.trim().is_empty())
}

/// Passes the picture of a row on, if it is still the one that the job was made for.
fn with_picture<R>(
    table: &WatchedTable,
    job: &RowJob,
    pass_on: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    let (column, identity) = (&table.url, examine::url(table));
    let statement = format!(
        "SELECT t.{column}::pg_catalog.bytea FROM {} t \
          WHERE {} AND pg_catalog.octet_length(t.{column}) OPERATOR(pg_catalog.<=) {} \
            AND {identity} OPERATOR(pg_catalog.=) $2",
        table.name,
        examine::by_key(table, "$1"),
        settings::max_image_size(),
    );
    let _owner = identity::as_owner(pg_sys::Oid::from(table.owner));
    spi(Spi::connect_mut(|client| {
        let arguments = [record::key(&job.row).into(), job.url.as_str().into()];
        let rows = client.update(&statement, Some(1), &arguments)?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        Ok::<_, pgrx::spi::Error>(row.get::<&[u8]>(1)?.map(pass_on))
    }))
}
