//! Requests a rescan of tables with rows that no trigger has enqueued: rows of an attached
//! partition, rows written while the triggers were disabled or the key could not be read.
//!
//! Called at commit. The request is a row without keys in the queue, which the worker handles when
//! it reads the watches (`worker/rescan`). The backfill state itself is never written at commit:
//! that could wait for the worker, and the worker for this session.

use super::queue::insert;
use pgrx::prelude::*;

/// Triggers that a transaction created or altered; some may have been dropped since.
#[derive(Default)]
pub struct ChangedTriggers {
    pub created: Vec<pg_sys::Oid>,
    pub altered: Vec<pg_sys::Oid>,
}

impl ChangedTriggers {
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.altered.is_empty()
    }
}

/// `$1`: created triggers, `$2`: altered ones.
const REQUEST_FOR_TRIGGERS: &str = "\
    INSERT INTO caption.queue (relation, keys, n) \
    SELECT m.relation, '[]'::pg_catalog.json, 0 \
      FROM (SELECT DISTINCT w.relation::pg_catalog.oid \
              FROM pg_catalog.pg_trigger t \
              JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid \
              JOIN caption.watch w \
                ON w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) c.oid \
                OR w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) ANY \
                   (SELECT a.relid::pg_catalog.oid \
                      FROM pg_catalog.pg_partition_ancestors(c.oid::pg_catalog.regclass) a) \
             WHERE t.tgfoid OPERATOR(pg_catalog.=) \
                   'caption.enqueue()'::pg_catalog.regprocedure::pg_catalog.oid \
               AND t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog.\"char\"[]) \
               AND (t.oid OPERATOR(pg_catalog.=) ANY ($2) \
                    OR t.oid OPERATOR(pg_catalog.=) ANY ($1) \
                       AND t.tgparentid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
                       AND (c.relkind OPERATOR(pg_catalog.=) 'f' \
                            OR c.relkind OPERATOR(pg_catalog.=) 'r' \
                               AND pg_catalog.pg_relation_size(c.oid::pg_catalog.regclass) \
                                   OPERATOR(pg_catalog.>) 0)) \
               AND NOT EXISTS \
                   (SELECT FROM pg_catalog.pg_trigger o \
                     WHERE o.tgrelid OPERATOR(pg_catalog.=) w.relation::pg_catalog.oid \
                       AND o.oid OPERATOR(pg_catalog.=) ANY ($1))) AS m (relation)";

/// Requests a rescan of watched tables by their changed triggers. Considered are the extension's
/// triggers that are enabled, and either altered or created on a partition with rows. A watch made
/// in the same transaction is skipped: its backfill is new.
pub fn request_for_triggers(triggers: &ChangedTriggers) {
    let arguments = [triggers.created.clone().into(), triggers.altered.clone().into()];
    insert(REQUEST_FOR_TRIGGERS, &arguments);
}

const REQUEST_FOR_TABLES: &str = "\
    INSERT INTO caption.queue (relation, keys, n) \
    SELECT m.relation, '[]'::pg_catalog.json, 0 FROM pg_catalog.unnest($1) AS m (relation)";

/// Requests a rescan of tables with rows whose key could not be written: a column of it is missing
/// or NULL.
pub fn request_for_tables(tables: Vec<pg_sys::Oid>) {
    insert(REQUEST_FOR_TABLES, &[tables.into()]);
}
