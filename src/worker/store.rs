//! The database of a worker as its loop sees it: reads keys and rows, writes what came of them.
//! What is read when, and what comes of it, is decided in `pg_caption_queue`; here is the SQL. All
//! within the transaction that `drain` has begun.

use super::examine;
use super::prune;
use super::tables;
use super::transaction::{Raised, attempt_in_time, spi};
use super::write;
use pg_caption_queue::{
    Busy, Chunk, Current, Job, Kept, Looked, Past, QueueRow, Row, Settled, Stand, Store, Struck,
    Unread, Watched,
};
use pg_caption_wire::{CaptionOutcome, Failure, FailureClass};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The tables of this database, over SPI.
pub struct Sql;

impl Store for Sql {
    fn now(&mut self) -> Instant {
        Instant::now()
    }

    fn queue(&mut self, after: i64, tables: &[u32], limit: usize) -> Vec<QueueRow> {
        spi(Spi::connect(|client| {
            let rows = client.select(
                // Table by table, by the index: what waits for a table that is paused or stopped is
                // not passed over with every read.
                "SELECT q.id, q.relation, ARRAY(SELECT k.v::text FROM jsonb_array_elements(q.keys::jsonb) AS k (v)) FROM unnest($2) AS t (relation) CROSS JOIN LATERAL \
                   (SELECT e.id, e.relation, e.keys FROM caption.queue e WHERE e.relation = t.relation AND e.id > $1 AND e.n > 0 ORDER BY e.id LIMIT $3) q \
                  ORDER BY q.id LIMIT $3",
                None,
                &[after.into(), oids(tables).into(), (limit as i64).into()],
            )?;
            rows.map(|row| {
                Ok::<_, pgrx::spi::Error>(QueueRow {
                    id: row.get(1)?.unwrap_or(0),
                    relation: row.get::<pg_sys::Oid>(2)?.map_or(0, |oid| oid.to_u32()),
                    keys: row.get(3)?.unwrap_or_default(),
                })
            })
            .collect()
        }))
    }

    fn due(&mut self, tables: &[u32], limit: usize) -> Vec<Row> {
        spi(Spi::connect(|client| {
            let rows = client.select(
                // now(), which is this short transaction's beginning, can be asked of the index.
                "SELECT t.relation, d.key::text FROM unnest($1) AS t (relation) CROSS JOIN LATERAL \
                   (SELECT e.key FROM caption.deferred e WHERE e.relation = t.relation AND e.due <= now() ORDER BY e.due LIMIT $2) d",
                None,
                &[oids(tables).into(), (limit as i64).into()],
            )?;
            rows.map(|row| {
                let relation = row.get::<pg_sys::Oid>(1)?.map_or(0, |oid| oid.to_u32());
                Ok::<_, pgrx::spi::Error>(Row { relation, key: row.get(2)?.unwrap_or_default() })
            })
            .collect()
        }))
    }

    fn chunk(
        &mut self,
        table: &Watched,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Chunk, Unread> {
        if !write::table_is_free(table, false) || !write::is_ours(table) {
            return Err(Unread::Busy);
        }
        let mut limit = limit as i64;
        loop {
            match attempt_in_time(|| examine::chunk(table, after, limit)) {
                Ok(rows) => {
                    // What kept the table from being read has been mended.
                    tables::set_problem(pg_sys::Oid::from(table.oid), None);
                    return Ok(Chunk { ended: (rows.len() as i64) < limit, rows });
                }
                Err(raised) if is_passing(&raised) => return Err(Unread::Busy),
                // Up to the row that raises, the others go on.
                Err(raised) if limit == 1 => {
                    stop_table(table, &raised);
                    return Err(Unread::Stopped);
                }
                Err(_) => limit = (limit / 4).max(1),
            }
        }
    }

    fn rows(&mut self, table: &Watched, keys: &[String]) -> Result<Vec<(String, Current)>, Busy> {
        if !write::is_ours(table) {
            return Err(Busy);
        }
        let mut rows = Vec::new();
        let mut unread: Vec<&[String]> = vec![keys];
        let mut raised_by = Vec::new();
        while let Some(part) = unread.pop() {
            if !write::table_is_free(table, false) {
                return Err(Busy);
            }
            match attempt_in_time(|| examine::rows(table, part)) {
                Ok(read) => rows.extend(read),
                Err(raised) if is_passing(&raised) => return Err(Busy),
                // The key no longer fits the table, or its owner's code refuses to be read: a
                // stated failure of that row alone.
                Err(raised) if part.len() == 1 => raised_by.push((part[0].clone(), raised)),
                Err(_) => {
                    let (left, right) = part.split_at(part.len() / 2);
                    unread.extend([left, right]);
                }
            }
        }
        for (key, raised) in raised_by {
            write::record_unreadable(Row { relation: table.oid, key }, &raised);
        }
        Ok(rows)
    }

    fn history(&mut self, table: &Watched, keys: &[String]) -> HashMap<String, Past> {
        examine::history(table, keys)
    }

    fn may_write(&mut self, table: &Watched) -> bool {
        write::table_is_free(table, true) && write::is_ours(table)
    }

    fn settle(
        &mut self,
        table: &Watched,
        job: &Job,
        outcome: &CaptionOutcome,
        jitter: f64,
    ) -> Settled {
        write::settle(table, job, outcome, jitter)
    }

    fn put_off(&mut self, row: &Row, attempts: i32, pause: Duration) {
        let failure = Failure::new(
            FailureClass::Retry,
            "row_locked",
            "an open transaction holds the row, or what its triggers want",
        );
        write::put_off(row, &failure, attempts, pause);
    }

    fn undefer(&mut self, row: &Row) {
        write::undefer(row);
    }

    fn strike(&mut self, struck: &Struck, tables: &[Watched]) {
        write::strike(struck, tables);
    }

    fn tally(&mut self, relation: u32, filled: i64, per_minute: f32) {
        write::tally(relation, filled, per_minute);
    }

    fn untidy(&mut self, tables: &[u32]) -> Vec<u32> {
        tidy::due(tables)
    }

    fn stand(&mut self, table: &Watched) -> Result<Stand, Busy> {
        tidy::stand(table)
    }

    fn kept(
        &mut self,
        table: &Watched,
        kept: Kept,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<String> {
        tidy::kept(table, kept, after, limit)
    }

    fn look(&mut self, table: &Watched, keys: &[String]) -> Result<Looked, Unread> {
        tidy::look(table, keys)
    }

    fn forget(&mut self, table: &Watched, kept: Kept, keys: &[String]) {
        tidy::forget(table, kept, keys);
    }

    fn stands(&mut self, table: &Watched, stand: Option<&Stand>) {
        tidy::stands(table, stand);
    }
}

/// As PostgreSQL has them.
pub fn oids(tables: &[u32]) -> Vec<pg_sys::Oid> {
    tables.iter().map(|oid| pg_sys::Oid::from(*oid)).collect()
}

/// Whether an error says that something else stands in the way for now, rather than that these rows
/// cannot be read.
pub fn is_passing(raised: &Raised) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        raised.code,
        ERRCODE_LOCK_NOT_AVAILABLE
            | ERRCODE_T_R_DEADLOCK_DETECTED
            | ERRCODE_T_R_SERIALIZATION_FAILURE
            | ERRCODE_OUT_OF_MEMORY
            | ERRCODE_DISK_FULL
            | ERRCODE_INSUFFICIENT_RESOURCES
    )
}

/// A table whose rows cannot even be read (row-level security forced on its owner, a privilege
/// taken away) waits for somebody to mend it.
fn stop_table(table: &Watched, raised: &Raised) {
    tables::stop(
        pg_sys::Oid::from(table.oid),
        &table.name,
        format!("its rows cannot be read: {}", raised.message),
    );
}

/// When the next deferred row of these tables is due, in milliseconds of the Unix epoch.
pub fn next_due_ms(tables: &[u32]) -> Option<i64> {
    spi(Spi::get_one_with_args::<i64>(
        "SELECT (extract(epoch FROM min(d.due)) * 1000)::int8 FROM unnest($1) AS t (relation) CROSS JOIN LATERAL \
           (SELECT e.due FROM caption.deferred e WHERE e.relation = t.relation ORDER BY e.due LIMIT 1) d",
        &[oids(tables).into()],
    ))
}
