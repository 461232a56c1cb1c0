//! Locks on a watched table and on its watch, taken without waiting and kept until the transaction
//! ends.

use super::definitions::{self, Definitions};
use super::transaction::spi;
use pg_caption_queue::WatchedTable;
use pgrx::prelude::*;

/// A watch that was paused after the watches were read is not locked, either: rows written since
/// must not be examined.
const LOCK_WATCH: &str = "SELECT FROM caption.watch_state t \
     WHERE t.relation = $1 AND EXISTS ( \
           SELECT FROM caption.watch w WHERE w.relation::oid = $1 AND NOT w.paused) \
       FOR NO KEY UPDATE OF t SKIP LOCKED";

/// Locks a table as its watch was read. `false`: another session holds or awaits a conflicting lock
/// on the table or a partition (ALTER TABLE, CREATE INDEX, TRUNCATE …), or the table was redefined.
/// Partitions are included since a statement would wait for them while it holds the table, which
/// could deadlock a session that locks them in another order.
pub fn lock_table(table: &WatchedTable, definitions: &Definitions, write: bool) -> bool {
    let mode = if write { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock };
    lock(pg_sys::Oid::from(table.oid), mode)
        && !definitions.has_changed(table.oid)
        && definitions::partitions(table).into_iter().all(|partition| lock(partition, mode))
}

/// Locks a table and its partitions, whether or not its watch is up to date.
pub fn try_lock(table: &WatchedTable, mode: u32) -> bool {
    let relations = std::iter::once(pg_sys::Oid::from(table.oid));
    let mut relations = relations.chain(definitions::partitions(table));
    relations.all(|relation| lock(relation, mode))
}

fn lock(relation: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: a lock request that does not wait, in a transaction.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, mode as i32) }
}

/// Locks the watch of a table, before any of its bookkeeping is read or written. `false`: an open
/// transaction has called `watch`, `unwatch`, `pause`, `resume` or `retry`, which lock it, too.
pub fn lock_watch(table: &WatchedTable) -> bool {
    spi(Spi::connect_mut(|client| {
        let rows = client.update(LOCK_WATCH, Some(1), &[pg_sys::Oid::from(table.oid).into()])?;
        Ok::<_, pgrx::spi::Error>(!rows.is_empty())
    }))
}
