//! The database in a worker's transaction. Other transactions commit between its statements.

use crate::chance::Chance;
use crate::database::{Cell, Deferred, KeyOf, LedgerRow, Writer};
use crate::engine::may_fail;
use crate::simulation::Simulation;
use pg_caption_queue::{
    AckedPages, BackfillChunk, CurrentRow, FillText, LedgerChange, PruneCursor, PrunePage,
    PruneStep, PruneTarget, QueueRow, QueueStore, ReadError, RowHistory, RowJob, RowKey,
    RowOutcome, RowPlan, RowResult, RowState, RowUpdate, RowsRead, Settlement, StoredRow,
    TableBusy, WatchedTable,
};
use pg_caption_wire::KnownPicture;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// When the next prune pass is due after the last one.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A transaction of the worker of one database.
pub struct Tx<'a> {
    pub sim: &'a mut Simulation,
    pub at: usize,
}

fn at(row: &RowKey) -> KeyOf {
    (row.relation, row.key.clone())
}

impl Tx<'_> {
    fn interleave(&mut self) {
        self.sim.interleave(self.at);
    }

    fn db(&mut self) -> &mut crate::database::Database {
        &mut self.sim.databases[self.at]
    }

    /// Whether the table is as its watch was read, and neither it nor its watch is locked.
    fn is_free(&mut self, table: &WatchedTable) -> bool {
        let known = self.db().tables.get(&table.oid);
        known.is_some_and(|t| {
            t.locked.is_none()
                && !t.changed
                && t.state.as_ref().is_some_and(|state| state.locked.is_none())
        })
    }

    fn current(&self, table: &WatchedTable, key: &str) -> Option<CurrentRow> {
        Some(
            self.sim.databases[self.at]
                .tables
                .get(&table.oid)?
                .rows
                .get(key)?
                .current(table.fills.len()),
        )
    }

    /// Writes texts into a row and updates the ledger.
    fn update(&mut self, settlement: &Settlement<'_>, update: &RowUpdate<'_>) {
        let job = settlement.job();
        let row = at(&job.row);
        let record = self.sim.databases[self.at].record_mut(&row).expect("the row was just read");
        for (cell, text) in &update.texts {
            let cell_was = &mut record.cells[*cell];
            assert_ne!(
                cell_was.writer,
                Writer::User,
                "a user's text in {row:?} is overwritten: {:?} by {text}",
                cell_was.text
            );
            assert!(
                text.contains(record.url.as_deref().unwrap_or("no URL")),
                "{row:?} has {:?} and gets {text}",
                record.url
            );
            assert!(record.allowed[*cell] > 0, "{row:?} is written once too often: {text}");
            record.allowed[*cell] -= 1;
            cell_was.text = Some((*text).to_string());
            cell_was.writer = Writer::Engine(job.url.clone());
        }
        for cell in &update.emptied {
            let cell_was = &mut record.cells[*cell];
            let is_old =
                matches!(&cell_was.writer, Writer::Engine(of) if record.url.as_ref() != Some(of));
            assert!(is_old, "{row:?} loses a text that is not of an older URL: {cell_was:?}");
            *cell_was = Cell { text: None, writer: Writer::None };
        }
        if !update.emptied.is_empty() {
            // The extension's triggers also see texts that the worker empties.
            self.db().enqueue(vec![row.clone()]);
            self.sim.announce(self.at, false);
        }
        let texts = update.texts.iter().map(|(_, text)| FillText::of(Some(text))).collect();
        let clock = self.sim.tick();
        match update.ledger(&StoredRow { texts, url: None }) {
            LedgerChange::Amend { .. } => panic!("no watch follows words"),
            LedgerChange::Put(entry) => {
                let ledger = LedgerRow {
                    url: entry.url,
                    outputs: entry.outputs,
                    at: clock,
                    etag: entry.etag,
                };
                self.db().ledger.insert(row.clone(), ledger);
                self.db().locked_by_worker.insert(row);
            }
            LedgerChange::Remove(columns) => {
                if let Some(ledger) = self.db().ledger.get_mut(&row) {
                    ledger.outputs.retain(|column, _| !columns.contains(column));
                }
            }
        }
    }
}

impl QueueStore for Tx<'_> {
    fn now(&mut self) -> Instant {
        self.sim.instant()
    }

    fn queue(&mut self, after: i64, tables: &[u32], limit: usize) -> Vec<QueueRow> {
        self.interleave();
        self.sim.full_reads += usize::from(after == 0);
        let rows = self.db().queue.range(after + 1..).map(|(_, row)| row);
        rows.filter(|row| tables.contains(&row.relation)).take(limit).cloned().collect()
    }

    fn due(&mut self, tables: &[u32], limit: usize) -> Vec<RowKey> {
        self.interleave();
        let now = self.sim.now;
        let mut due: Vec<(&KeyOf, &Deferred)> = self
            .db()
            .deferred
            .iter()
            .filter(|(at, deferred)| deferred.due <= now && tables.contains(&at.0))
            .collect();
        due.sort_by_key(|(_, deferred)| deferred.due);
        let of_each =
            tables.iter().flat_map(|table| due.iter().filter(|(at, _)| at.0 == *table).take(limit));
        of_each.map(|(at, _)| RowKey { relation: at.0, key: at.1.clone() }).collect()
    }

    fn chunk(
        &mut self,
        table: &WatchedTable,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BackfillChunk, ReadError> {
        self.interleave();
        if !self.is_free(table) {
            return Err(ReadError::Busy);
        }
        let from = after.map_or(std::ops::Bound::Unbounded, |after| {
            std::ops::Bound::Excluded(after.to_string())
        });
        let rows = self.db().tables[&table.oid]
            .rows
            .range::<String, _>((from, std::ops::Bound::Unbounded));
        let rows: Vec<_> = rows
            .take(limit)
            .map(|(key, record)| (key.clone(), record.current(table.fills.len())))
            .collect();
        Ok(BackfillChunk { ended: rows.len() < limit, rows })
    }

    fn rows(
        &mut self,
        table: &WatchedTable,
        keys: &[String],
    ) -> Result<Vec<(String, CurrentRow)>, TableBusy> {
        self.interleave();
        // The owner's own code could not get a lock, or memory was short.
        let failed = self.sim.unreadable || (self.sim.concurrency && self.sim.random.percent(4));
        if failed || !self.is_free(table) {
            return Err(TableBusy);
        }
        Ok(keys.iter().filter_map(|key| Some((key.clone(), self.current(table, key)?))).collect())
    }

    fn history(&mut self, table: &WatchedTable, keys: &[String]) -> HashMap<String, RowHistory> {
        self.interleave();
        let recaption: u64 =
            table.recaption_before.as_deref().map_or(0, |at| at.parse().expect("a number"));
        let db = self.db();
        let past = |key: &String| {
            let at = (table.oid, key.clone());
            let (ledger, deferred) = (db.ledger.get(&at), db.deferred.get(&at));
            if ledger.is_none() && deferred.is_none() {
                return None;
            }
            let etag = ledger.and_then(|ledger| ledger.etag.clone());
            Some((
                key.clone(),
                RowHistory {
                    ledger: ledger.map(|ledger| ledger.outputs.clone()).unwrap_or_default(),
                    recaption: ledger.is_some_and(|ledger| ledger.at < recaption),
                    forced: false,
                    url: ledger.map(|ledger| ledger.url.clone()).unwrap_or_default(),
                    validators: etag.map(|etag| KnownPicture {
                        etag: Some(etag),
                        last_modified: None,
                        model: "digest".into(),
                    }),
                    sha256: None,
                    model: String::new(),
                    attempts: deferred.map_or(0, |deferred| deferred.attempts),
                },
            ))
        };
        keys.iter().filter_map(past).collect()
    }

    fn may_write(&mut self, table: &WatchedTable) -> bool {
        self.interleave();
        self.is_free(table)
    }

    fn write(&mut self, settlement: &Settlement<'_>) -> RowResult {
        self.interleave();
        self.sim.settled += 1;
        let trigger = if self.sim.concurrency && self.sim.random.percent(3) {
            self.sim.random.millis(1000)
        } else {
            self.sim.trigger
        };
        if trigger > Duration::ZERO {
            let then = self.sim.now + trigger;
            self.sim.pass(then);
        }
        if self.sim.blocked || (self.sim.concurrency && self.sim.random.percent(4)) {
            return settlement.plan(RowState::Blocked).result();
        }
        let row = at(&settlement.job().row);
        let Some(record) = self.db().record(&row) else {
            return settlement.plan(RowState::Gone).result();
        };
        if record.locked.is_some() {
            return settlement.plan(RowState::Locked).result();
        }
        let current = record.current(settlement.table().fills.len());
        let plan = settlement.plan(RowState::Current(&current));
        if let RowPlan::Write(update, _) = &plan {
            self.update(settlement, update);
        }
        plan.result()
    }

    fn record(&mut self, job: &RowJob, outcome: &RowOutcome) {
        let row = at(&job.row);
        let now = self.sim.now;
        match outcome {
            RowOutcome::Kept => {}
            RowOutcome::Done | RowOutcome::Confirmed => {
                if *outcome == RowOutcome::Confirmed {
                    let clock = self.sim.tick();
                    if let Some(ledger) = self.db().ledger.get_mut(&row) {
                        ledger.at = clock;
                    }
                }
                self.db().deferred.remove(&row);
                self.db().failed.remove(&row);
            }
            RowOutcome::Deferred { attempts, pause, .. } => {
                let deferred = Deferred { due: now + *pause, attempts: *attempts };
                self.db().deferred.insert(row, deferred);
            }
            RowOutcome::Failed { failure, .. } => {
                let deaths = self.sim.engine.alone.get(&job.url).copied().unwrap_or(0);
                let is_true = may_fail(&job.url, &failure.code)
                    || (failure.code == "engine_killer" && deaths >= 3);
                assert!(
                    is_true,
                    "{row:?} is recorded with {}: {} ({deaths} deaths)",
                    failure.code, job.url
                );
                self.db().deferred.remove(&row);
                self.db().failed.insert(row, failure.code.clone());
            }
        }
    }

    fn undefer(&mut self, row: &RowKey) {
        self.db().deferred.remove(&at(row));
    }

    fn acknowledge(&mut self, acked: &AckedPages, tables: &[WatchedTable]) {
        for (relation, id) in &acked.queue {
            let row = self.db().queue.remove(id);
            assert!(
                row.is_none_or(|row| row.relation == *relation),
                "row {id} of the queue is not of table {relation}"
            );
        }
        for (relation, last, _) in &acked.backfills {
            let run = tables.iter().find(|table| table.oid == *relation).map(|t| t.backfill_run);
            let state = self.db().tables.get_mut(relation).and_then(|table| table.state.as_mut());
            if let Some(state) = state.filter(|state| Some(state.backfill_run) == run) {
                state.backfill_done = last.is_none();
                state.backfill_after = last.clone().or(state.backfill_after.take());
            }
        }
    }

    fn count_filled(&mut self, relation: u32, filled: i64, _per_minute: f32) {
        if let Some(state) =
            self.db().tables.get_mut(&relation).and_then(|table| table.state.as_mut())
        {
            state.filled += filled;
        }
    }

    fn prune_due(&mut self, tables: &[u32]) -> Vec<u32> {
        self.interleave();
        let now = self.sim.now;
        let is_due = |oid: &u32| {
            let table = &self.sim.databases[self.at].tables[oid];
            let state = table.state.as_ref().filter(|_| table.watch.is_some());
            state.is_some_and(|state| {
                let is_old = state.pruned_at.is_none_or(|at| at + DAY <= now);
                is_old || state.cursor.is_some() || state.pruned_file != table.file
            })
        };
        tables.iter().copied().filter(is_due).collect()
    }

    fn prune_page(&mut self, table: &WatchedTable, limit: usize) -> Result<PrunePage, TableBusy> {
        self.interleave();
        if !self.is_free(table) {
            return Err(TableBusy);
        }
        self.sim.batches += 1;
        let watched = &self.db().tables[&table.oid];
        let state = watched.state.as_ref().expect("a watched table has a state");
        let PruneCursor { target, after } = state
            .cursor
            .clone()
            .filter(|_| state.pruned_file == watched.file)
            .unwrap_or_else(PruneCursor::start);
        let keys: Vec<&KeyOf> = match target {
            PruneTarget::Failures => self.db().failed.keys().collect(),
            PruneTarget::Ledger => self.db().ledger.keys().collect(),
        };
        let is_next =
            |at: &&&KeyOf| at.0 == table.oid && after.as_ref().is_none_or(|after| at.1 > *after);
        let keys = keys.iter().filter(is_next).take(limit).map(|at| at.1.clone()).collect();
        Ok(PrunePage { target, keys })
    }

    fn existing_rows(
        &mut self,
        table: &WatchedTable,
        keys: &[String],
    ) -> Result<RowsRead, ReadError> {
        self.interleave();
        if self.sim.unreadable || (self.sim.concurrency && self.sim.random.percent(4)) {
            return Err(ReadError::Busy);
        }
        let mut read = RowsRead::default();
        self.db().pruned_rows.clear();
        for key in keys {
            let at = (table.oid, key.clone());
            // The owner's own code raises an error.
            if self.sim.concurrency && self.sim.random.percent(4) {
                read.unreadable.push(key.clone());
                self.db().pruned_rows.insert(at, Some(true));
                continue;
            }
            let seen = self.db().record(&at).map(|record| {
                (record.needs_text(table.fills.len()), record.current(table.fills.len()))
            });
            self.db().pruned_rows.insert(at, seen.as_ref().map(|(needs, _)| *needs));
            read.rows.extend(seen.map(|(_, current)| (key.clone(), current)));
        }
        Ok(read)
    }

    fn prune(&mut self, table: &WatchedTable, step: &PruneStep) {
        for key in &step.obsolete {
            let at = (table.oid, key.clone());
            let seen = self.db().pruned_rows.get(&at).copied();
            match step.target {
                PruneTarget::Ledger => {
                    let is_deleted = seen == Some(None);
                    assert!(is_deleted, "{at:?} loses its ledger entry, but may exist: {seen:?}");
                    self.db().ledger.remove(&at);
                }
                PruneTarget::Failures => {
                    let is_obsolete = matches!(seen, Some(None | Some(false)));
                    assert!(is_obsolete, "{at:?} loses its failure, but may need a text: {seen:?}");
                    self.db().failed.remove(&at);
                }
            }
        }
        let now = self.sim.now;
        if let Some(table) = self.db().tables.get_mut(&table.oid)
            && let Some(state) = &mut table.state
        {
            // As the database returns it.
            let json = step.next.as_ref().map(PruneCursor::to_json);
            state.cursor = json.as_ref().map(PruneCursor::from_json);
            assert_eq!(state.cursor, step.next);
            state.pruned_file = table.file;
            if step.next.is_none() {
                state.pruned_at = Some(now);
            }
        }
    }
}
