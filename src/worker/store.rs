//! The database of a worker for its state machine: reads keys and rows, writes results. Here is the
//! SQL; `pg_caption_queue` decides what is read when, and what becomes of it. All within the
//! transaction that [`WorkerStore::transaction`] begins.

use super::conditions::{self, CheckedConditions, ConditionProblem, OwnerCode};
use super::definitions::Definitions;
use super::locks::{lock_table, lock_watch};
use super::owner_settings::OwnerSettings;
use super::planning::{LockTimeouts, SessionSettings};
use super::runaway::RunawayRows;
use super::transaction::{self, RaisedError, attempt_in_time, oids, spi};
use super::write::RowWriter;
use super::{completion, examine, lease, prune, record, tables};
use crate::api::rule;
use crate::engine::client::EngineClient;
use pg_caption_queue::{
    AckedPages, BackfillChunk, CurrentRow, PrunePage, PruneStep, QueueRow, QueueStore, ReadError,
    RowHistory, RowJob, RowKey, RowOutcome, RowResult, RowsRead, Settlement, TableBusy,
    WatchedTable,
};
use pg_caption_rules::BlockRule;
use pg_caption_wire::{CaptionOutcome, CaptionRequest};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::time::Instant;

/// Table by table, by the index: rows of paused or stopped tables are not scanned with every read.
const QUEUE_ROWS: &str = "SELECT q.id, q.relation, \
           ARRAY(SELECT k.v::text FROM jsonb_array_elements(q.keys::jsonb) AS k (v)) \
      FROM unnest($2) AS t (relation) CROSS JOIN LATERAL ( \
           SELECT e.id, e.relation, e.keys FROM caption.queue e \
            WHERE e.relation = t.relation AND e.id > $1 AND e.n > 0 \
            ORDER BY e.id LIMIT $3) q \
     ORDER BY q.id LIMIT $3";

/// `now()`, the start of this short transaction, can be compared by the index.
const DUE_ROWS: &str = "SELECT t.relation, d.key::text \
      FROM unnest($1) AS t (relation) CROSS JOIN LATERAL ( \
           SELECT e.key FROM caption.deferred e \
            WHERE e.relation = t.relation AND e.due <= now() ORDER BY e.due LIMIT $2) d";

const NEXT_DUE: &str = "SELECT (extract(epoch FROM min(d.due)) * 1000)::int8 \
      FROM unnest($1) AS t (relation) CROSS JOIN LATERAL ( \
           SELECT e.due FROM caption.deferred e \
            WHERE e.relation = t.relation ORDER BY e.due LIMIT 1) d";

/// Rows of a chunk of a table that holds pictures.
const MAX_PICTURES: usize = 50;

/// The tables of one database, and what its worker remembers about them.
pub struct WorkerStore {
    /// Planner settings of the session in the running transaction.
    session: SessionSettings,
    lock_timeouts: LockTimeouts,
    runaway: RunawayRows,
    owner_settings: OwnerSettings,
    conditions: CheckedConditions,
    pub definitions: Definitions,
    /// Rules for the words of captions, read with the watches.
    pub rules: Vec<BlockRule>,
}

impl WorkerStore {
    /// Of one database; once in the life of a worker.
    pub fn new(database: u32) -> WorkerStore {
        WorkerStore {
            session: SessionSettings::default(),
            lock_timeouts: LockTimeouts::default(),
            runaway: RunawayRows::new(database),
            owner_settings: OwnerSettings::default(),
            conditions: CheckedConditions::default(),
            definitions: Definitions::listen(),
            rules: Vec::new(),
        }
    }

    /// Runs `body` in a transaction.
    pub fn transaction<R>(&mut self, body: impl FnOnce(&mut WorkerStore) -> R) -> R {
        self.owner_settings.forget();
        let result = transaction::run(|session| {
            self.session = session;
            body(self)
        });
        self.runaway.committed();
        if !lease::renew() {
            pgrx::error!("pg_caption: another worker has taken the lease of this database");
        }
        result
    }

    /// Reads the watches and checks them; in a transaction.
    pub fn load_watches(&mut self) -> Vec<WatchedTable> {
        self.conditions.forget();
        self.rules = rule::current().to_vec();
        let WorkerStore { session, owner_settings, conditions, .. } = self;
        tables::load(conditions, &mut OwnerCode { session, owner_settings })
    }

    /// Completes the request of a row and passes it to the connection; in a transaction. Returns
    /// its id.
    ///
    /// # Errors
    /// The answer to the job, if nothing is requested.
    pub fn submit(
        &mut self,
        table: &WatchedTable,
        job: &RowJob,
        request: CaptionRequest,
        client: &mut EngineClient,
    ) -> Result<u64, CaptionOutcome> {
        if !lock_table(table, &self.definitions, false) || !self.has_usable_condition(table) {
            return Err(completion::busy());
        }
        let WorkerStore { session, owner_settings, .. } = self;
        let code = &mut OwnerCode { session, owner_settings };
        completion::submit(table, job, request, client, code)
    }

    /// Whether condition and signing function of a locked table may be used. Otherwise its watch is
    /// read again, and left out with the reason.
    fn has_usable_condition(&mut self, table: &WatchedTable) -> bool {
        let WorkerStore { session, owner_settings, conditions, definitions, .. } = self;
        match conditions.require(table, &mut OwnerCode { session, owner_settings }) {
            Ok(()) => true,
            Err(ConditionProblem::Passing) => false,
            Err(ConditionProblem::Final(_)) => {
                definitions.note_change(table.oid);
                false
            }
        }
    }

    /// Evaluates the condition of a locked table for rows that were read.
    fn judge(
        &mut self,
        table: &WatchedTable,
        rows: &mut [(String, CurrentRow)],
    ) -> Result<(), TableBusy> {
        if !self.has_usable_condition(table) {
            return Err(TableBusy);
        }
        let WorkerStore { session, owner_settings, definitions, .. } = self;
        let mut broken = false;
        let code = &mut OwnerCode { session, owner_settings };
        conditions::judge(table, rows, code, &mut broken).inspect_err(|_| {
            if broken {
                definitions.note_change(table.oid);
            }
        })
    }
}

impl QueueStore for WorkerStore {
    fn now(&mut self) -> Instant {
        Instant::now()
    }

    fn queue(&mut self, after: i64, tables: &[u32], limit: usize) -> Vec<QueueRow> {
        let arguments = [after.into(), oids(tables).into(), (limit as i64).into()];
        spi(Spi::connect(|client| {
            let rows = client.select(QUEUE_ROWS, None, &arguments)?;
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

    fn due(&mut self, tables: &[u32], limit: usize) -> Vec<RowKey> {
        let arguments = [oids(tables).into(), (limit as i64).into()];
        spi(Spi::connect(|client| {
            let rows = client.select(DUE_ROWS, None, &arguments)?;
            rows.map(|row| {
                let relation = row.get::<pg_sys::Oid>(1)?.map_or(0, |oid| oid.to_u32());
                Ok::<_, pgrx::spi::Error>(RowKey { relation, key: row.get(2)?.unwrap_or_default() })
            })
            .collect()
        }))
    }

    fn chunk(
        &mut self,
        table: &WatchedTable,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BackfillChunk, ReadError> {
        if !lock_table(table, &self.definitions, false) || !lock_watch(table) {
            return Err(ReadError::Busy);
        }
        // Each picture is hashed.
        let limit = if table.holds_pictures { limit.min(MAX_PICTURES) } else { limit };
        let mut limit = limit as i64;
        loop {
            match attempt_in_time(|| examine::chunk(table, after, limit)) {
                Ok(mut rows) => {
                    self.judge(table, &mut rows)?;
                    // The table can be read again.
                    tables::set_problem(pg_sys::Oid::from(table.oid), None);
                    return Ok(BackfillChunk { ended: (rows.len() as i64) < limit, rows });
                }
                Err(raised) if raised.is_passing() => return Err(ReadError::Busy),
                // The rows before the one that raises have been read.
                Err(raised) if limit == 1 => {
                    stop_table(table, &raised);
                    return Err(ReadError::Stopped);
                }
                Err(_) => limit = (limit / 4).max(1),
            }
        }
    }

    fn rows(
        &mut self,
        table: &WatchedTable,
        keys: &[String],
    ) -> Result<Vec<(String, CurrentRow)>, TableBusy> {
        if !lock_watch(table) {
            return Err(TableBusy);
        }
        let mut rows = Vec::new();
        let mut parts: Vec<&[String]> = vec![keys];
        let mut unreadable = Vec::new();
        while let Some(part) = parts.pop() {
            if !lock_table(table, &self.definitions, false) {
                return Err(TableBusy);
            }
            match attempt_in_time(|| examine::rows(table, part)) {
                Ok(read) => rows.extend(read),
                Err(raised) if raised.is_passing() => return Err(TableBusy),
                // The key no longer fits the table, or the owner's code raises: a failure of this
                // row alone.
                Err(raised) if part.len() == 1 => unreadable.push((part[0].clone(), raised)),
                Err(_) => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([left, right]);
                }
            }
        }
        self.judge(table, &mut rows)?;
        for (key, raised) in unreadable {
            record_unreadable(&RowKey { relation: table.oid, key }, raised);
        }
        Ok(rows)
    }

    fn history(&mut self, table: &WatchedTable, keys: &[String]) -> HashMap<String, RowHistory> {
        examine::history(table, keys)
    }

    fn may_write(&mut self, table: &WatchedTable) -> bool {
        lock_table(table, &self.definitions, true)
            && lock_watch(table)
            && self.has_usable_condition(table)
    }

    fn write(&mut self, settlement: &Settlement<'_>) -> RowResult {
        let WorkerStore { session, lock_timeouts, runaway, owner_settings, .. } = self;
        RowWriter { session, owner_settings, lock_timeouts, runaway }.write(settlement)
    }

    fn record(&mut self, job: &RowJob, outcome: &RowOutcome) {
        record::outcome(&job.row, outcome);
    }

    fn undefer(&mut self, row: &RowKey) {
        record::undefer(row);
    }

    fn acknowledge(&mut self, acked: &AckedPages, tables: &[WatchedTable]) {
        record::acknowledge(acked, tables);
    }

    fn count_filled(&mut self, relation: u32, filled: i64, per_minute: f32) {
        record::count_filled(relation, filled, per_minute);
    }

    fn prune_due(&mut self, tables: &[u32]) -> Vec<u32> {
        prune::due(tables)
    }

    fn prune_page(&mut self, table: &WatchedTable, limit: usize) -> Result<PrunePage, TableBusy> {
        if !lock_table(table, &self.definitions, false) || !lock_watch(table) {
            return Err(TableBusy);
        }
        Ok(prune::page(table, limit))
    }

    fn existing_rows(
        &mut self,
        table: &WatchedTable,
        keys: &[String],
    ) -> Result<RowsRead, ReadError> {
        let mut read = prune::existing_rows(table, keys)?;
        self.judge(table, &mut read.rows)?;
        Ok(read)
    }

    fn prune(&mut self, table: &WatchedTable, step: &PruneStep) {
        prune::prune(table, step);
    }
}

/// Stops a table whose rows cannot be read (row-level security forced on its owner, a revoked
/// privilege) until its owner fixes it.
fn stop_table(table: &WatchedTable, raised: &RaisedError) {
    tables::stop(
        pg_sys::Oid::from(table.oid),
        &table.name,
        format!("its rows cannot be read: {}", raised.message),
    );
}

fn record_unreadable(row: &RowKey, raised: RaisedError) {
    let failure = completion::unreadable(&raised);
    record::outcome(row, &RowOutcome::Failed { failure, attempts: 1 });
}

/// When the first deferred row of these tables is due, in milliseconds of the Unix epoch.
pub fn next_due_ms(tables: &[u32]) -> Option<i64> {
    spi(Spi::get_one_with_args::<i64>(NEXT_DUE, &[oids(tables).into()]))
}
