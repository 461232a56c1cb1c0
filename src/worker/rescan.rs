//! Begins the walks anew that somebody has marked in the queue (`enqueue::missed`): those tables
//! have rows that no trigger told of.

use super::transaction::spi;
use pgrx::prelude::*;

/// In the transaction in which the watches are read, before they are.
pub fn obey() {
    wait_for_their_ends();
    // Without a row in the tally no walk has begun yet.
    spi(Spi::run(
        "DELETE FROM caption.queue q WHERE q.n = 0 AND NOT EXISTS (SELECT FROM caption.watch_state t WHERE t.relation = q.relation)",
    ));
    // Who holds a row of the tally is changing that watch, and wakes us at commit.
    spi(Spi::run(
        "WITH free AS MATERIALIZED (SELECT t.relation FROM caption.watch_state t WHERE t.relation IN (SELECT q.relation FROM caption.queue q WHERE q.n = 0) FOR NO KEY UPDATE SKIP LOCKED), \
              obeyed AS (DELETE FROM caption.queue q USING free f WHERE q.relation = f.relation AND q.n = 0) \
         UPDATE caption.watch_state t SET backfill_run = t.backfill_run + 1, backfill_after = NULL, backfill_done = false, backfilled = 0 FROM free f WHERE t.relation = f.relation",
    ));
}

/// A transaction's rows are seen a moment before it tells of the definitions that it changed: a
/// walk that began in between would not know of the partition that was attached. It tells before it
/// lets go of its locks, and the moment is as short as the end of any commit.
fn wait_for_their_ends() {
    let marking: Option<Vec<String>> = spi(Spi::get_one(
        "SELECT array_agg(DISTINCT q.xmin::text) FROM caption.queue q WHERE q.n = 0",
    ));
    for xid in marking.into_iter().flatten().filter_map(|xid| xid.parse::<u32>().ok()) {
        // SAFETY: waits for a transaction that has committed, in a transaction of ours; without a
        // table or a row to name in the wait's description.
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
