//! Restarts the backfills of tables that are marked in the queue (`hooks::enqueue::rescan`): they
//! have rows that no trigger has queued.

use super::transaction::spi;
use pgrx::prelude::*;

/// A mark without a watch state needs no restart: no backfill has begun.
const DELETE_NEEDLESS: &str = "DELETE FROM caption.queue q WHERE q.n = 0 \
    AND NOT EXISTS (SELECT FROM caption.watch_state t WHERE t.relation = q.relation)";

/// A transaction that locks a watch state changes its watch, and wakes the worker at commit.
const RESTART: &str = "WITH free AS MATERIALIZED ( \
        SELECT t.relation FROM caption.watch_state t \
         WHERE t.relation IN (SELECT q.relation FROM caption.queue q WHERE q.n = 0) \
           FOR NO KEY UPDATE SKIP LOCKED), \
      restarted AS ( \
        DELETE FROM caption.queue q USING free f WHERE q.relation = f.relation AND q.n = 0) \
    UPDATE caption.watch_state t \
       SET backfill_run = t.backfill_run + 1, backfill_after = NULL, backfill_done = false, \
           backfilled = 0 \
      FROM free f WHERE t.relation = f.relation";

const MARKING: &str = "SELECT array_agg(DISTINCT q.xmin::text) FROM caption.queue q WHERE q.n = 0";

/// In the transaction that reads the watches, before they are read.
pub fn restart_backfills() {
    wait_for_marking_transactions();
    spi(Spi::run(DELETE_NEEDLESS));
    spi(Spi::run(RESTART));
}

/// A commit makes rows visible shortly before it sends invalidations: a backfill that starts in
/// between would miss a partition that was attached. Invalidations are sent before locks are
/// released, so the wait is as short as the end of a commit.
fn wait_for_marking_transactions() {
    let marking: Option<Vec<String>> = spi(Spi::get_one(MARKING));
    for xid in marking.into_iter().flatten().filter_map(|xid| xid.parse::<u32>().ok()) {
        // SAFETY: waits for a transaction that has committed, in a transaction of this worker;
        // without a table or a row to name in the wait's description.
        unsafe {
            pg_sys::XactLockTableWait(
                xid.into(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                pg_sys::XLTW_Oper::XLTW_None,
            )
        };
    }
}
