//! Rows that no trigger told of: those of a partition that is attached with its rows, those written
//! while the triggers were switched off or the key could not be read. The walk over the table must
//! begin anew; that is asked for with a mark in the queue, a row without keys, which the worker
//! obeys when it reads the watches (`worker/tables`). Nobody touches the walk itself at commit:
//! that could wait for the worker, and the worker for us.

use super::insert;
use pgrx::prelude::*;

/// Triggers that a transaction created or altered; some may be gone again.
#[derive(Default)]
pub struct Triggers {
    pub created: Vec<pg_sys::Oid>,
    pub altered: Vec<pg_sys::Oid>,
}

impl Triggers {
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.altered.is_empty()
    }
}

/// Marks the watched tables that these triggers say have unseen rows: ours alone, switched on, and
/// either altered or put on a partition that has rows already. Not where the watch itself was made
/// in this transaction, whose walk is new anyway.
pub fn mark(triggers: &Triggers) {
    insert(
        "INSERT INTO caption.queue (relation, keys, n) SELECT m.relation, '[]'::pg_catalog.json, 0 FROM (SELECT DISTINCT w.relation::pg_catalog.oid \
           FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid \
           JOIN caption.watch w ON w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) c.oid \
             OR w.relation::pg_catalog.oid OPERATOR(pg_catalog.=) ANY (SELECT a.relid::pg_catalog.oid FROM pg_catalog.pg_partition_ancestors(c.oid::pg_catalog.regclass) a) \
          WHERE t.tgfoid OPERATOR(pg_catalog.=) 'caption.enqueue()'::pg_catalog.regprocedure::pg_catalog.oid AND t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog.\"char\"[]) \
            AND (t.oid OPERATOR(pg_catalog.=) ANY ($2) OR t.oid OPERATOR(pg_catalog.=) ANY ($1) AND t.tgparentid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
                 AND (c.relkind OPERATOR(pg_catalog.=) 'f' OR c.relkind OPERATOR(pg_catalog.=) 'r' AND pg_catalog.pg_relation_size(c.oid::pg_catalog.regclass) OPERATOR(pg_catalog.>) 0)) \
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger o WHERE o.tgrelid OPERATOR(pg_catalog.=) w.relation::pg_catalog.oid AND o.oid OPERATOR(pg_catalog.=) ANY ($1))) AS m (relation)",
        &[triggers.created.clone().into(), triggers.altered.clone().into()],
    );
}

/// Marks tables that have rows whose key could not be written: a column of it is not there, or
/// NULL.
pub fn mark_tables(tables: Vec<pg_sys::Oid>) {
    let marks = "INSERT INTO caption.queue (relation, keys, n) SELECT m.relation, '[]'::pg_catalog.json, 0 FROM pg_catalog.unnest($1) AS m (relation)";
    insert(marks, &[tables.into()]);
}
