//! Rows whose table's own code ended a worker: it continued after a cancel, or the kernel killed
//! the process. `transaction` ends the worker at a second timeout, which no handler of PL/pgSQL
//! catches. This file keeps which row that was: in shared memory, and in a file (`write_mark`) for
//! a worker that was killed. The next worker records the row as failed instead of writing it, and
//! other rows continue.

use super::record;
use super::signals;
use super::write_mark;
use crate::shared;
use pg_caption_queue::RowKey;
use pg_caption_wire::{Failure, FailureClass};
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Codes of such a row in `caption.failed`.
const ENDLESS: &str = "write_endless";
const KILLED: &str = "write_killed";

thread_local! {
    /// The row that is being written. Not a field of [`RunawayRows`]: the exit callback of the
    /// process reads it.
    static WRITING: RefCell<Option<RowKey>> = const { RefCell::new(None) };
}

/// Marks a row as being written until it is dropped.
pub struct WriteMark(());

impl Drop for WriteMark {
    fn drop(&mut self) {
        write_mark::clear();
        WRITING.with(|writing| *writing.borrow_mut() = None);
    }
}

/// Rows that ended earlier workers of a database.
pub struct RunawayRows {
    database: u32,
    /// Rows that are recorded as failed in this transaction.
    recorded: Vec<u64>,
}

impl RunawayRows {
    /// Of one database; once in the life of a worker.
    pub fn new(database: u32) -> RunawayRows {
        match write_mark::open(database) {
            Ok(None) => {}
            Ok(Some(row)) => {
                pgrx::log!(
                    "pg_caption: a worker was killed while it wrote a row; the row will be \
                     recorded as failed"
                );
                shared::note_runaway(database, row, true);
            }
            Err(error) => {
                pgrx::log!("pg_caption: rows that kill a worker cannot be remembered: {error}");
            }
        }
        RunawayRows { database, recorded: Vec::new() }
    }

    /// Marks a row as being written.
    pub fn mark(&self, row: &RowKey) -> WriteMark {
        WRITING.with(|writing| *writing.borrow_mut() = Some(row.clone()));
        write_mark::set(number(row));
        WriteMark(())
    }

    /// The failure to record in this transaction, if an earlier worker ended during the write of
    /// this row.
    pub fn failure(&mut self, row: &RowKey) -> Option<Failure> {
        let number = number(row);
        let (known, database_has_some) = shared::is_runaway(self.database, number);
        if known.is_some() {
            self.recorded.push(number);
        }
        // A row that was recorded before another one ended the worker is queued again with its
        // page.
        let recorded = || {
            let mut codes = [(false, ENDLESS), (true, KILLED)].into_iter();
            codes.find(|(_, code)| record::has_failed_with(row, code)).map(|(killed, _)| killed)
        };
        let killed = known.or_else(|| database_has_some.then(recorded)?)?;
        Some(if killed {
            Failure::new(
                FailureClass::Reject,
                KILLED,
                "the worker was killed while the table's own code ran for this row",
            )
            .hint(
                "See the server log, correct the trigger or the condition, then call \
                 caption.retry().",
            )
        } else {
            Failure::new(
                FailureClass::Reject,
                ENDLESS,
                "the table's own code continued after it was cancelled \
                 (pg_caption.write_timeout) and ended a worker",
            )
            .hint("Correct the trigger or the condition, then call caption.retry().")
        })
    }

    /// The transaction has committed: its recorded rows may be tried again on request. Not earlier:
    /// another row could still end this worker and roll everything back.
    pub fn committed(&mut self) {
        for number in self.recorded.drain(..) {
            shared::forget_runaway(self.database, number);
        }
    }
}

/// At the exit of a worker: keeps the row whose write ended it. Returns whether there is one.
pub fn keep_at_exit(database: u32) -> bool {
    if !signals::ended_by_timeout() {
        return false;
    }
    let Some(row) = WRITING.with(|writing| writing.try_borrow().ok().and_then(|row| row.clone()))
    else {
        pgrx::log!(
            "pg_caption: reading a watched table took too long and could not be cancelled; \
             ending the worker"
        );
        return false;
    };
    pgrx::log!(
        "pg_caption: code of the table with OID {} continued after it was cancelled; ending the \
         worker, row {} will be recorded as failed",
        row.relation,
        record::shortened(&row.key)
    );
    shared::note_runaway(database, number(&row), false);
    true
}

/// The same in every process that loads this library.
fn number(row: &RowKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    row.hash(&mut hasher);
    hasher.finish()
}
