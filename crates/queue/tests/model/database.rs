//! A database of the model: watched tables with counted writes, and the tables of the extension.
//! What is committed, nothing else: what a transaction of somebody else has not committed yet is in
//! [`Open`].

use pg_caption_queue::{Current, Fill, KeyColumn, QueueRow, Stand, Watched};
use pg_caption_style::builtin;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A watched table's OID and a key.
pub type At = (u32, String);

/// Who wrote a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    Nobody,
    Person,
    /// The engine, for this URL.
    Machine(String),
}

#[derive(Debug, Clone)]
pub struct Cell {
    pub text: Option<String>,
    pub by: By,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub url: Option<String>,
    pub cells: Vec<Cell>,
    /// Captions that may still be written for the URL that it has, cell by cell: what is written
    /// beyond is written twice.
    pub wishes: Vec<usize>,
    /// The transaction that holds it.
    pub locked: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub walk: i32,
    pub backfill_after: Option<String>,
    pub backfill_done: bool,
    pub filled: i64,
    pub recaption_before: Option<u64>,
    pub locked: Option<u64>,
    /// When the last pass over what is kept of rows ended; `None`: one is asked for.
    pub tidied: Option<Duration>,
    /// How far a pass has come that was begun.
    pub stand: Option<Stand>,
    /// The file of the table that the last pass is of.
    pub tidied_file: usize,
}

#[derive(Debug, Clone, Default)]
pub struct Watch {
    pub styles: usize,
    pub paused: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Table {
    pub rows: BTreeMap<String, Record>,
    pub watch: Option<Watch>,
    pub tally: Option<Tally>,
    pub renamed: usize,
    /// Another one after each TRUNCATE.
    pub file: usize,
    /// Held as a whole.
    pub locked: Option<u64>,
    /// Redefined since the worker of this database read it.
    pub changed: bool,
}

#[derive(Debug, Clone)]
pub struct Deferred {
    pub due: Duration,
    pub attempts: i32,
}

#[derive(Debug, Clone)]
pub struct Ledger {
    pub url: String,
    pub outputs: Map<String, Value>,
    /// Number of the write, in the order of all.
    pub at: u64,
    pub etag: Option<String>,
}

/// What a transaction does when it commits.
#[derive(Debug, Clone)]
pub enum Change {
    Insert(u32, String, Option<String>),
    Url(u32, String, Option<String>),
    Text(u32, String, usize, Option<String>),
    Delete(u32, String),
    Watch(u32, usize),
    Unwatch(u32),
    /// `unwatch` and `watch` in one transaction.
    WatchAnew(u32, usize),
    Pause(u32, bool),
    Retry(u32),
    Recaption(u32),
    Rename(u32),
    Truncate(u32),
    /// `caption.prune`.
    Tidy(u32),
    /// Told of to everybody who has the table open, as if it had been redefined.
    Analyze(u32),
}

/// A transaction that is open, or prepared.
#[derive(Debug)]
pub struct Open {
    pub id: u64,
    pub ends: Duration,
    pub commits: bool,
    pub prepared: bool,
    pub changes: Vec<Change>,
    /// Rows of the queue whose ids it took before others did.
    pub queued: Vec<QueueRow>,
    pub announces: bool,
}

/// Everything that survives a crash.
#[derive(Debug, Default)]
pub struct Database {
    pub tables: BTreeMap<u32, Table>,
    pub queue: BTreeMap<i64, QueueRow>,
    pub next_id: i64,
    pub deferred: BTreeMap<At, Deferred>,
    pub failed: BTreeMap<At, String>,
    pub written: BTreeMap<At, Ledger>,
    pub open: Vec<Open>,
    /// Rows that the worker's transaction has written or locked, and tables that it has.
    pub held_by_worker: BTreeSet<At>,
    /// What a pass saw last of each key: nothing, or whether its row still wants a text.
    pub looked: BTreeMap<At, Option<bool>>,
}

pub const FILLS: [(&str, &str); 2] = [("alt", "concise"), ("seo", "seo")];

impl Database {
    pub fn watched(&self) -> Vec<Watched> {
        let listed = self.tables.iter().filter_map(|(oid, table)| {
            Some((oid, table, table.watch.as_ref()?, table.tally.as_ref()?))
        });
        listed
            .map(|(oid, table, watch, tally)| Watched {
                oid: *oid,
                name: format!("table_{oid}_{}", table.renamed),
                owner: 10,
                url: "image_url".into(),
                fills: FILLS[..watch.styles]
                    .iter()
                    .map(|(column, style)| Fill {
                        column: (*column).into(),
                        style: builtin(style).expect("a built-in style"),
                    })
                    .collect(),
                keys: vec![KeyColumn { column: "id".into(), kind: "text".into() }],
                max_tokens: 64,
                overwrite: false,
                paused: watch.paused,
                walk: tally.walk,
                backfill_after: tally.backfill_after.clone(),
                backfill_done: tally.backfill_done,
                recaption_before: tally.recaption_before.map(|at| at.to_string()),
            })
            .collect()
    }

    pub fn record(&self, at: &At) -> Option<&Record> {
        self.tables.get(&at.0)?.rows.get(&at.1)
    }

    pub fn record_mut(&mut self, at: &At) -> Option<&mut Record> {
        self.tables.get_mut(&at.0)?.rows.get_mut(&at.1)
    }

    pub fn new_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    /// Does what a transaction does that commits. Keys for the queue, as the triggers gather them.
    pub fn change(&mut self, change: &Change, clock: u64) -> Vec<At> {
        match change {
            Change::Insert(oid, key, url) => {
                let Some(table) = self.tables.get_mut(oid) else { return Vec::new() };
                let cell = Cell { text: None, by: By::Nobody };
                let record = Record {
                    url: url.clone(),
                    cells: vec![cell.clone(), cell],
                    wishes: vec![1; 2],
                    locked: None,
                };
                table.rows.insert(key.clone(), record);
                self.triggered(oid, key)
            }
            Change::Url(oid, key, url) => {
                let Some(record) = self.record_mut(&(*oid, key.clone())) else { return Vec::new() };
                if record.url == *url {
                    return Vec::new();
                }
                record.url.clone_from(url);
                record.wishes = vec![1; 2];
                self.triggered(oid, key)
            }
            Change::Text(oid, key, cell, text) => {
                let Some(record) = self.record_mut(&(*oid, key.clone())) else { return Vec::new() };
                let was_empty = record.cells[*cell].text.is_none();
                record.cells[*cell] = Cell {
                    text: text.clone(),
                    by: if text.is_some() { By::Person } else { By::Nobody },
                };
                if text.is_some() || was_empty {
                    return Vec::new();
                }
                record.wishes[*cell] += 1;
                self.triggered(oid, key)
            }
            Change::Delete(oid, key) => {
                if let Some(table) = self.tables.get_mut(oid) {
                    table.rows.remove(key);
                }
                Vec::new()
            }
            Change::Watch(oid, styles) => {
                self.watch(*oid, *styles, clock);
                Vec::new()
            }
            Change::Unwatch(oid) => {
                self.unwatch(*oid);
                Vec::new()
            }
            Change::WatchAnew(oid, styles) => {
                self.unwatch(*oid);
                self.watch(*oid, *styles, clock);
                Vec::new()
            }
            Change::Pause(oid, paused) => {
                if let Some(watch) = self.tables.get_mut(oid).and_then(|table| table.watch.as_mut())
                {
                    watch.paused = *paused;
                }
                Vec::new()
            }
            Change::Retry(oid) => {
                let is_its = |at: &At| at.0 == *oid;
                let mut keys: BTreeSet<At> =
                    self.failed.keys().filter(|at| is_its(at)).cloned().collect();
                keys.extend(self.deferred.keys().filter(|at| is_its(at)).cloned());
                self.failed.retain(|at, _| !is_its(at));
                self.deferred.retain(|at, _| !is_its(at));
                keys.into_iter().collect()
            }
            Change::Recaption(oid) => {
                if let Some(table) = self.tables.get_mut(oid)
                    && let Some(tally) = &mut table.tally
                {
                    tally.walk += 1;
                    tally.backfill_after = None;
                    tally.backfill_done = false;
                    tally.recaption_before = Some(clock);
                    table.rows.values_mut().for_each(|record| {
                        record.wishes.iter_mut().for_each(|wishes| *wishes += 1)
                    });
                }
                Vec::new()
            }
            Change::Analyze(oid) => {
                if let Some(table) = self.tables.get_mut(oid) {
                    table.changed = true;
                }
                Vec::new()
            }
            Change::Truncate(oid) => {
                if let Some(table) = self.tables.get_mut(oid) {
                    table.rows.clear();
                    table.file += 1;
                    table.changed = true;
                }
                Vec::new()
            }
            Change::Tidy(oid) => {
                if let Some(tally) = self.tables.get_mut(oid).and_then(|table| table.tally.as_mut())
                {
                    (tally.tidied, tally.stand) = (None, None);
                }
                Vec::new()
            }
            Change::Rename(oid) => {
                if let Some(table) = self.tables.get_mut(oid) {
                    table.renamed += 1;
                    table.changed = true;
                }
                Vec::new()
            }
        }
    }

    fn watch(&mut self, oid: u32, styles: usize, clock: u64) {
        let table = self.tables.entry(oid).or_default();
        table.watch = Some(Watch { styles, paused: false });
        table.changed = true;
        match &mut table.tally {
            Some(tally) => {
                tally.walk += 1;
                tally.backfill_after = None;
                tally.backfill_done = false;
            }
            None => {
                let walk = crate::first_walk(clock);
                table.tally = Some(Tally { walk, ..Tally::default() });
            }
        }
    }

    fn unwatch(&mut self, oid: u32) {
        if let Some(table) = self.tables.get_mut(&oid) {
            table.watch = None;
            table.tally = None;
            table.changed = true;
            // Without a ledger a text of ours is like anybody's.
            for cell in table.rows.values_mut().flat_map(|record| record.cells.iter_mut()) {
                if cell.text.is_some() {
                    cell.by = By::Person;
                }
            }
        }
        self.queue.retain(|_, row| row.relation != oid);
        self.deferred.retain(|at, _| at.0 != oid);
        self.failed.retain(|at, _| at.0 != oid);
        self.written.retain(|at, _| at.0 != oid);
    }

    fn triggered(&self, oid: &u32, key: &str) -> Vec<At> {
        let Some(table) = self.tables.get(oid) else { return Vec::new() };
        let Some(record) = table.rows.get(key) else { return Vec::new() };
        if table.watch.is_some() && record.url.is_some() {
            vec![(*oid, key.to_string())]
        } else {
            Vec::new()
        }
    }

    /// Rows of the queue for some keys, some of which may be there twice.
    pub fn enqueue(&mut self, keys: Vec<At>) {
        for row in self.pages(keys) {
            self.queue.insert(row.id, row);
        }
    }

    pub fn pages(&mut self, keys: Vec<At>) -> Vec<QueueRow> {
        let mut tables: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (oid, key) in keys {
            tables.entry(oid).or_default().push(key);
        }
        tables
            .into_iter()
            .map(|(relation, keys)| QueueRow { id: self.new_id(), relation, keys })
            .collect()
    }

    /// What `caption.clean` does.
    pub fn clean(&mut self) {
        let tables = &self.tables;
        self.queue
            .retain(|_, row| tables.get(&row.relation).is_some_and(|table| table.watch.is_some()));
    }

    /// Lets go of what a transaction holds.
    pub fn release(&mut self, id: u64) {
        for table in self.tables.values_mut() {
            if table.locked == Some(id) {
                table.locked = None;
            }
            if let Some(tally) = table.tally.as_mut().filter(|tally| tally.locked == Some(id)) {
                tally.locked = None;
            }
            for record in table.rows.values_mut().filter(|record| record.locked == Some(id)) {
                record.locked = None;
            }
        }
    }
}

impl Record {
    /// Whether one of its first cells wants a text for the URL that it has, whatever the ledger
    /// says.
    pub fn wants(&self, styles: usize) -> bool {
        let is_missing = |cell: &Cell, url: &String| match &cell.by {
            By::Nobody => true,
            By::Person => false,
            By::Machine(of) => of != url,
        };
        self.url
            .as_ref()
            .is_some_and(|url| self.cells[..styles].iter().any(|cell| is_missing(cell, url)))
    }

    pub fn current(&self, fills: usize) -> Current {
        Current {
            url: self.url.clone(),
            texts: self.cells[..fills].iter().map(|cell| cell.text.clone()).collect(),
        }
    }
}
