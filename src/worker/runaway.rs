//! Rows whose table's own code can be ended by nothing but the end of the process: a trigger that
//! catches the cancel and goes on. `transaction` ends the worker at a second deadline then, which
//! no handler of PL/pgSQL catches; here it is kept, beyond the worker's end, which row that was.
//! The next worker records it as failed instead of writing it, and the others go on.

use super::die;
use crate::shared;
use pg_caption_queue::Row;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

/// Such a row's code in `caption.failed`.
pub const CODE: &str = "write_endless";

/// The second deadline has passed: this process is ending.
static PASSED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The row that is being written.
    static WRITING: RefCell<Option<Row>> = const { RefCell::new(None) };
    /// Rows that are being recorded as failed in this transaction.
    static RECORDED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// A row is being written, until this is dropped.
pub struct Writing(());

impl Writing {
    /// From now on.
    pub fn new(row: &Row) -> Writing {
        WRITING.with(|writing| *writing.borrow_mut() = Some(row.clone()));
        Writing(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.with(|writing| *writing.borrow_mut() = None);
    }
}

/// Ends this process as SIGTERM does: at its next check for interrupts.
///
/// # Safety
/// The handler of a timeout: runs within a signal's handler.
pub unsafe extern "C-unwind" fn end_process() {
    PASSED.store(true, Ordering::Relaxed);
    // SAFETY: PostgreSQL's own signal handler, which only sets flags and the latch of this process.
    unsafe { die(libc::SIGTERM) };
}

/// At the end of a worker: keeps the row that it ended over, if it did; whether it did.
pub fn note(database: u32) -> bool {
    if !PASSED.load(Ordering::Relaxed) {
        return false;
    }
    let Some(row) = WRITING.with(|writing| writing.try_borrow().ok().and_then(|row| row.clone()))
    else {
        pgrx::log!(
            "pg_caption: reading a watched table took too long and could not be cancelled: the worker ends"
        );
        return false;
    };
    pgrx::log!(
        "pg_caption: the code of the table with OID {} went on after it was cancelled: the worker ends, and row {} will be recorded as failed",
        row.relation,
        super::write::shortened(&row.key)
    );
    shared::note_runaway(database, number(&row));
    true
}

/// Whether an earlier worker ended over this row, which is to be recorded then, in this
/// transaction.
pub fn is_known(database: u32, row: &Row) -> bool {
    let number = number(row);
    let (is_known, others_are) = shared::is_runaway(database, number);
    if is_known {
        RECORDED.with(|recorded| recorded.borrow_mut().push(number));
    }
    // Recorded before another row ended the worker, it comes again with the rest of its page.
    is_known || (others_are && super::write::has_failed_with(row, CODE))
}

/// The transaction has committed: the rows that it recorded may be tried again when somebody asks
/// for them. Not before: should this worker end over another row of the same transaction, nothing
/// of it stays.
pub fn recorded(database: u32) {
    RECORDED.with(|recorded| {
        recorded.borrow_mut().drain(..).for_each(|number| shared::forget_runaway(database, number))
    });
}

/// The same in every process of one library.
fn number(row: &Row) -> u64 {
    let mut hasher = DefaultHasher::new();
    row.hash(&mut hasher);
    hasher.finish()
}
