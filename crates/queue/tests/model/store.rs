//! The database as a worker's transaction sees it. Other people go on between its statements.

use crate::database::{At, By, Cell, Deferred, FILLS, Ledger};
use crate::engine::{MAX_ATTEMPTS, may_fail};
use crate::simulation::World;
use pg_caption_queue::outcome::{self, Verdict};
use pg_caption_queue::{
    Busy, Chunk, Current, Job, Kept, Looked, Past, QueueRow, Row, Settled, Stand, Store, Struck,
    Unread, Watched, entry, hash,
};
use pg_caption_wire::{CaptionOutcome, KnownPicture};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long after a pass the next one is due.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A transaction of the worker of one database.
pub struct Tx<'a> {
    pub world: &'a mut World,
    pub at: usize,
}

fn at(row: &Row) -> At {
    (row.relation, row.key.clone())
}

impl Tx<'_> {
    fn others(&mut self) {
        self.world.others_go_on(self.at);
    }

    fn db(&mut self) -> &mut crate::database::Database {
        &mut self.world.databases[self.at]
    }

    /// Whether the table is as its watch was read, and nobody has it or its watch.
    fn is_free(&mut self, table: &Watched) -> bool {
        let known = self.db().tables.get(&table.oid);
        known.is_some_and(|t| {
            t.locked.is_none()
                && !t.changed
                && t.tally.as_ref().is_some_and(|tally| tally.locked.is_none())
        })
    }

    fn current(&self, table: &Watched, key: &str) -> Option<Current> {
        Some(
            self.world.databases[self.at]
                .tables
                .get(&table.oid)?
                .rows
                .get(key)?
                .current(table.fills.len()),
        )
    }

    fn carry_out(&mut self, job: &Job, verdict: Verdict<'_>) {
        let row = at(&job.row);
        let now = self.world.now;
        match verdict {
            Verdict::Forgiven | Verdict::StillTrue => {
                if verdict == Verdict::StillTrue {
                    let clock = self.world.tick();
                    if let Some(ledger) = self.db().written.get_mut(&row) {
                        ledger.at = clock;
                    }
                }
                self.db().deferred.remove(&row);
                self.db().failed.remove(&row);
            }
            Verdict::Deferred(_, attempts, pause) => {
                self.db().deferred.insert(row, Deferred { due: now + pause, attempts });
            }
            Verdict::Failed(failure, _) => {
                let deaths = self.world.engine.alone.get(&job.url).copied().unwrap_or(0);
                let is_true = may_fail(&job.url, &failure.code)
                    || (failure.code == "engine_killer" && deaths >= 3);
                assert!(
                    is_true,
                    "{row:?} is said to have failed with {}: {} ({deaths} deaths)",
                    failure.code, job.url
                );
                self.db().deferred.remove(&row);
                self.db().failed.insert(row, failure.code.clone());
            }
        }
    }

    /// Writes texts into a row, and the ledger.
    fn write_row(
        &mut self,
        table: &Watched,
        job: &Job,
        texts: &[(usize, &str)],
        outdated: &[usize],
        etag: Option<&str>,
    ) -> Settled {
        let row = at(&job.row);
        let Some(record) = self.db().record(&row) else { return Settled::Done { filled: false } };
        if record.locked.is_some() {
            return Settled::Locked;
        }
        let current = record.current(table.fills.len());
        let Some(write) = outcome::write(table, job, &current, texts, outdated) else {
            return Settled::Done { filled: false };
        };
        let clock = self.world.tick();
        let mut outputs = job.ours.clone();
        let record = self.world.databases[self.at].record_mut(&row).expect("it was just there");
        for (cell, text) in &write.new {
            let cell_was = &mut record.cells[*cell];
            assert_ne!(
                cell_was.by,
                By::Person,
                "a person's text in {row:?} is overwritten: {:?} by {text}",
                cell_was.text
            );
            assert!(
                text.contains(record.url.as_deref().unwrap_or("no URL")),
                "{row:?} has {:?} and gets {text}",
                record.url
            );
            assert!(
                record.wishes[*cell] > 0,
                "{row:?} is written once more than it should be: {text}"
            );
            record.wishes[*cell] -= 1;
            cell_was.text = Some((*text).to_string());
            cell_was.by = By::Machine(job.url.clone());
            outputs.insert(FILLS[*cell].0.to_string(), entry(text, &job.url));
        }
        outputs.extend(write.there);
        for cell in &write.emptied {
            let cell_was = &mut record.cells[*cell];
            let is_old = matches!(&cell_was.by, By::Machine(of) if record.url.as_ref() != Some(of));
            assert!(is_old, "{row:?} loses a text that is not of an older URL: {cell_was:?}");
            *cell_was = Cell { text: None, by: By::Nobody };
            outputs.remove(FILLS[*cell].0);
        }
        if !write.emptied.is_empty() {
            // Our own triggers see a text that became empty, whoever emptied it.
            self.db().enqueue(vec![row.clone()]);
            self.world.announce(self.at, false);
        }
        if texts.is_empty() {
            if let Some(ledger) = self.db().written.get_mut(&row) {
                ledger.outputs = outputs;
            }
            return Settled::Done { filled: false };
        }
        let ledger = Ledger {
            url: hash(&job.url),
            outputs,
            at: clock,
            etag: etag.filter(|_| write.alone).map(str::to_string),
        };
        self.db().written.insert(row.clone(), ledger);
        self.db().held_by_worker.insert(row);
        Settled::Done { filled: !write.new.is_empty() }
    }
}

impl Store for Tx<'_> {
    fn now(&mut self) -> Instant {
        self.world.instant()
    }

    fn queue(&mut self, after: i64, tables: &[u32], limit: usize) -> Vec<QueueRow> {
        self.others();
        self.world.full_reads += usize::from(after == 0);
        let rows = self.db().queue.range(after + 1..).map(|(_, row)| row);
        rows.filter(|row| tables.contains(&row.relation)).take(limit).cloned().collect()
    }

    fn due(&mut self, tables: &[u32], limit: usize) -> Vec<Row> {
        self.others();
        let now = self.world.now;
        let mut due: Vec<(&At, &Deferred)> = self
            .db()
            .deferred
            .iter()
            .filter(|(at, deferred)| deferred.due <= now && tables.contains(&at.0))
            .collect();
        due.sort_by_key(|(_, deferred)| deferred.due);
        let of_each =
            tables.iter().flat_map(|table| due.iter().filter(|(at, _)| at.0 == *table).take(limit));
        of_each.map(|(at, _)| Row { relation: at.0, key: at.1.clone() }).collect()
    }

    fn chunk(
        &mut self,
        table: &Watched,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Chunk, Unread> {
        self.others();
        if !self.is_free(table) {
            return Err(Unread::Busy);
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
        Ok(Chunk { ended: rows.len() < limit, rows })
    }

    fn rows(&mut self, table: &Watched, keys: &[String]) -> Result<Vec<(String, Current)>, Busy> {
        self.others();
        // The owner's own code waited for a lock in vain, or memory was short.
        let failed =
            self.world.unreadable || (self.world.interludes && self.world.random.percent(4));
        if failed || !self.is_free(table) {
            return Err(Busy);
        }
        Ok(keys.iter().filter_map(|key| Some((key.clone(), self.current(table, key)?))).collect())
    }

    fn history(&mut self, table: &Watched, keys: &[String]) -> HashMap<String, Past> {
        self.others();
        let recaption: u64 =
            table.recaption_before.as_deref().map_or(0, |at| at.parse().expect("a number"));
        let db = self.db();
        let past = |key: &String| {
            let at = (table.oid, key.clone());
            let (ledger, deferred) = (db.written.get(&at), db.deferred.get(&at));
            if ledger.is_none() && deferred.is_none() {
                return None;
            }
            let seen = ledger.and_then(|ledger| ledger.etag.clone());
            Some((
                key.clone(),
                Past {
                    ours: ledger.map(|ledger| ledger.outputs.clone()).unwrap_or_default(),
                    again: ledger.is_some_and(|ledger| ledger.at < recaption),
                    url: ledger.map(|ledger| ledger.url.clone()).unwrap_or_default(),
                    seen: seen.map(|etag| KnownPicture {
                        etag: Some(etag),
                        last_modified: None,
                        model: "digest".into(),
                    }),
                    attempts: deferred.map_or(0, |deferred| deferred.attempts),
                },
            ))
        };
        keys.iter().filter_map(past).collect()
    }

    fn may_write(&mut self, table: &Watched) -> bool {
        self.others();
        self.is_free(table)
    }

    fn settle(
        &mut self,
        table: &Watched,
        job: &Job,
        outcome: &CaptionOutcome,
        jitter: f64,
    ) -> Settled {
        self.others();
        self.world.settled += 1;
        let trigger = if self.world.interludes && self.world.random.percent(3) {
            self.world.random.millis(1000)
        } else {
            self.world.trigger
        };
        if trigger > Duration::ZERO {
            let then = self.world.now + trigger;
            self.world.pass(then);
        }
        let (texts, verdict) = outcome::verdict(job, outcome, MAX_ATTEMPTS, jitter);
        let mut settled = Settled::Done { filled: false };
        let outdated = outcome::outdated(table, job, &texts, verdict);
        let etag = if let CaptionOutcome::Done { image, .. } = outcome {
            image.etag.as_deref()
        } else {
            None
        };
        if !texts.is_empty() || !outdated.is_empty() {
            if self.world.blocked || (self.world.interludes && self.world.random.percent(4)) {
                return Settled::Blocked;
            }
            settled = self.write_row(table, job, &texts, &outdated, etag);
            if settled == Settled::Locked {
                return settled;
            }
        }
        self.carry_out(job, verdict);
        settled
    }

    fn put_off(&mut self, row: &Row, attempts: i32, pause: Duration) {
        let due = self.world.now + pause;
        self.db().deferred.insert(at(row), Deferred { due, attempts });
    }

    fn undefer(&mut self, row: &Row) {
        self.db().deferred.remove(&at(row));
    }

    fn strike(&mut self, struck: &Struck, tables: &[Watched]) {
        for (relation, id) in &struck.queue {
            let row = self.db().queue.remove(id);
            assert!(
                row.is_none_or(|row| row.relation == *relation),
                "row {id} of the queue is not of table {relation}"
            );
        }
        for (relation, last, _) in &struck.walks {
            let walk = tables.iter().find(|table| table.oid == *relation).map(|table| table.walk);
            let tally = self.db().tables.get_mut(relation).and_then(|table| table.tally.as_mut());
            if let Some(tally) = tally.filter(|tally| Some(tally.walk) == walk) {
                tally.backfill_done = last.is_none();
                tally.backfill_after = last.clone().or(tally.backfill_after.take());
            }
        }
    }

    fn tally(&mut self, relation: u32, filled: i64, _per_minute: f32) {
        if let Some(tally) =
            self.db().tables.get_mut(&relation).and_then(|table| table.tally.as_mut())
        {
            tally.filled += filled;
        }
    }

    fn untidy(&mut self, tables: &[u32]) -> Vec<u32> {
        self.others();
        let now = self.world.now;
        let is_due = |oid: &u32| {
            let table = &self.world.databases[self.at].tables[oid];
            let tally = table.tally.as_ref().filter(|_| table.watch.is_some());
            tally.is_some_and(|tally| {
                let is_old = tally.tidied.is_none_or(|at| at + DAY <= now);
                is_old || tally.stand.is_some() || tally.tidied_file != table.file
            })
        };
        tables.iter().copied().filter(is_due).collect()
    }

    fn stand(&mut self, table: &Watched) -> Result<Stand, Busy> {
        self.others();
        if !self.is_free(table) {
            return Err(Busy);
        }
        self.world.batches += 1;
        let file = self.db().tables[&table.oid].file;
        let tally = self
            .db()
            .tables
            .get_mut(&table.oid)
            .and_then(|table| table.tally.as_mut())
            .expect("it was just there");
        Ok(tally.stand.clone().filter(|_| tally.tidied_file == file).unwrap_or_else(Stand::start))
    }

    fn kept(
        &mut self,
        table: &Watched,
        kept: Kept,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<String> {
        self.others();
        let of: Vec<&At> = match kept {
            Kept::Failed => self.db().failed.keys().collect(),
            Kept::Written => self.db().written.keys().collect(),
        };
        let beyond =
            |at: &&&At| at.0 == table.oid && after.is_none_or(|after| at.1.as_str() > after);
        of.iter().filter(beyond).take(limit).map(|at| at.1.clone()).collect()
    }

    fn look(&mut self, table: &Watched, keys: &[String]) -> Result<Looked, Unread> {
        self.others();
        if self.world.unreadable || (self.world.interludes && self.world.random.percent(4)) {
            return Err(Unread::Busy);
        }
        let mut looked = Looked::default();
        self.db().looked.clear();
        for key in keys {
            let at = (table.oid, key.clone());
            // The owner's own code refuses to be read.
            if self.world.interludes && self.world.random.percent(4) {
                looked.unread.push(key.clone());
                self.db().looked.insert(at, Some(true));
                continue;
            }
            let seen = self
                .db()
                .record(&at)
                .map(|record| (record.wants(table.fills.len()), record.current(table.fills.len())));
            self.db().looked.insert(at, seen.as_ref().map(|(wants, _)| *wants));
            looked.rows.extend(seen.map(|(_, current)| (key.clone(), current)));
        }
        Ok(looked)
    }

    fn forget(&mut self, table: &Watched, kept: Kept, keys: &[String]) {
        for key in keys {
            let at = (table.oid, key.clone());
            let seen = self.db().looked.get(&at).copied();
            match kept {
                Kept::Written => {
                    assert_eq!(
                        seen,
                        Some(None),
                        "the ledger's entry of {at:?} is forgotten, whose row was there or was not looked at"
                    );
                    self.db().written.remove(&at);
                }
                Kept::Failed => {
                    assert!(
                        matches!(seen, Some(None | Some(false))),
                        "the failure of {at:?} is forgotten, whose row wants a text or was not looked at"
                    );
                    self.db().failed.remove(&at);
                }
            }
        }
    }

    fn stands(&mut self, table: &Watched, stand: Option<&Stand>) {
        let now = self.world.now;
        if let Some(table) = self.db().tables.get_mut(&table.oid)
            && let Some(tally) = &mut table.tally
        {
            // As it comes back out of the database.
            tally.stand = stand.map(|stand| Stand::from_json(&stand.to_json()));
            assert_eq!(tally.stand.as_ref(), stand);
            tally.tidied_file = table.file;
            if stand.is_none() {
                tally.tidied = Some(now);
            }
        }
    }
}
