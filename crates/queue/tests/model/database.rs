//! A database of the model: watched tables with counted writes, and the tables of the extension.
//! Committed state only; changes of open transactions are in [`Open`].

use pg_caption_queue::{
    CurrentRow, FillText, KeyColumn, PruneCursor, QueueRow, RowMatch, WatchFill, WatchedTable,
};
use pg_caption_style::builtin;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A row: the watched table's OID and the key.
pub type KeyOf = (u32, String);

/// The author of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writer {
    None,
    User,
    /// The engine, for this URL.
    Engine(String),
}

#[derive(Debug, Clone)]
pub struct Cell {
    pub text: Option<String>,
    pub writer: Writer,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub url: Option<String>,
    pub cells: Vec<Cell>,
    /// How many captions may still be written for its URL, by cell. One more is a duplicate.
    pub allowed: Vec<usize>,
    /// The transaction that locks it.
    pub locked: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct WatchState {
    pub backfill_run: i32,
    pub backfill_after: Option<String>,
    pub backfill_done: bool,
    pub filled: i64,
    pub recaption_before: Option<u64>,
    pub locked: Option<u64>,
    /// When the last prune pass ended; `None`: one is requested.
    pub pruned_at: Option<Duration>,
    /// Position of an unfinished pass.
    pub cursor: Option<PruneCursor>,
    /// The table's file during the last pass.
    pub pruned_file: usize,
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
    pub state: Option<WatchState>,
    pub renamed: usize,
    /// A new number after each TRUNCATE.
    pub file: usize,
    /// The transaction that locks the table.
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
pub struct LedgerRow {
    pub url: String,
    pub outputs: Map<String, Value>,
    /// Number of the write.
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
    Rewatch(u32, usize),
    Pause(u32, bool),
    Retry(u32),
    Recaption(u32),
    Rename(u32),
    Truncate(u32),
    /// `caption.prune`.
    Prune(u32),
    /// Invalidates the table's definition without changing it.
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
    /// Its queue rows, whose ids are assigned already.
    pub queued: Vec<QueueRow>,
    pub announces: bool,
}

/// Everything that survives a crash.
#[derive(Debug, Default)]
pub struct Database {
    pub tables: BTreeMap<u32, Table>,
    pub queue: BTreeMap<i64, QueueRow>,
    pub next_id: i64,
    pub deferred: BTreeMap<KeyOf, Deferred>,
    pub failed: BTreeMap<KeyOf, String>,
    pub ledger: BTreeMap<KeyOf, LedgerRow>,
    pub open: Vec<Open>,
    /// Rows that the worker's transaction has written.
    pub locked_by_worker: BTreeSet<KeyOf>,
    /// What the last prune batch saw of each key: no row, or whether its row needs a text.
    pub pruned_rows: BTreeMap<KeyOf, Option<bool>>,
}

pub const FILLS: [(&str, &str); 2] = [("alt", "concise"), ("seo", "seo")];

impl Database {
    pub fn watched(&self) -> Vec<WatchedTable> {
        let listed = self.tables.iter().filter_map(|(oid, table)| {
            Some((oid, table, table.watch.as_ref()?, table.state.as_ref()?))
        });
        listed
            .map(|(oid, table, watch, state)| WatchedTable {
                oid: *oid,
                name: format!("table_{oid}_{}", table.renamed),
                owner: 10,
                url: "image_url".into(),
                holds_pictures: false,
                sign: None,
                base_url: None,
                condition: None,
                context: Vec::new(),
                follow_context: false,
                keeps_blank: false,
                fills: FILLS[..watch.styles]
                    .iter()
                    .map(|(column, style)| WatchFill {
                        column: (*column).into(),
                        style: builtin(style).expect("a built-in style"),
                        max_tokens: 64,
                        min_confidence: None,
                        template: None,
                        fallback: None,
                    })
                    .collect(),
                keys: vec![KeyColumn { column: "id".into(), kind: "text".into() }],
                overwrite: false,
                review: false,
                has_triggers: true,
                batch: None,
                paused: watch.paused,
                backfill_run: state.backfill_run,
                backfill_after: state.backfill_after.clone(),
                backfill_done: state.backfill_done,
                recaption_before: state.recaption_before.map(|at| at.to_string()),
            })
            .collect()
    }

    pub fn record(&self, at: &KeyOf) -> Option<&Record> {
        self.tables.get(&at.0)?.rows.get(&at.1)
    }

    pub fn record_mut(&mut self, at: &KeyOf) -> Option<&mut Record> {
        self.tables.get_mut(&at.0)?.rows.get_mut(&at.1)
    }

    pub fn new_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    /// Applies one change of a committing transaction. Returns the keys that the triggers collect.
    pub fn change(&mut self, change: &Change, clock: u64) -> Vec<KeyOf> {
        match change {
            Change::Insert(oid, key, url) => {
                let Some(table) = self.tables.get_mut(oid) else { return Vec::new() };
                let cell = Cell { text: None, writer: Writer::None };
                let record = Record {
                    url: url.clone(),
                    cells: vec![cell.clone(), cell],
                    allowed: vec![1; 2],
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
                record.allowed = vec![1; 2];
                self.triggered(oid, key)
            }
            Change::Text(oid, key, cell, text) => {
                let Some(record) = self.record_mut(&(*oid, key.clone())) else { return Vec::new() };
                let was_empty = record.cells[*cell].text.is_none();
                record.cells[*cell] = Cell {
                    text: text.clone(),
                    writer: if text.is_some() { Writer::User } else { Writer::None },
                };
                if text.is_some() || was_empty {
                    return Vec::new();
                }
                record.allowed[*cell] += 1;
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
            Change::Rewatch(oid, styles) => {
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
                let is_its = |at: &KeyOf| at.0 == *oid;
                let mut keys: BTreeSet<KeyOf> =
                    self.failed.keys().filter(|at| is_its(at)).cloned().collect();
                keys.extend(self.deferred.keys().filter(|at| is_its(at)).cloned());
                self.failed.retain(|at, _| !is_its(at));
                self.deferred.retain(|at, _| !is_its(at));
                keys.into_iter().collect()
            }
            Change::Recaption(oid) => {
                if let Some(table) = self.tables.get_mut(oid)
                    && let Some(state) = &mut table.state
                {
                    state.backfill_run += 1;
                    state.backfill_after = None;
                    state.backfill_done = false;
                    state.recaption_before = Some(clock);
                    table.rows.values_mut().for_each(|record| {
                        record.allowed.iter_mut().for_each(|allowed| *allowed += 1)
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
            Change::Prune(oid) => {
                if let Some(state) = self.tables.get_mut(oid).and_then(|table| table.state.as_mut())
                {
                    (state.pruned_at, state.cursor) = (None, None);
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
        match &mut table.state {
            Some(state) => {
                state.backfill_run += 1;
                state.backfill_after = None;
                state.backfill_done = false;
            }
            None => {
                let backfill_run = crate::first_backfill_run(clock);
                table.state = Some(WatchState { backfill_run, ..WatchState::default() });
            }
        }
    }

    fn unwatch(&mut self, oid: u32) {
        if let Some(table) = self.tables.get_mut(&oid) {
            table.watch = None;
            table.state = None;
            table.changed = true;
            // Without a ledger entry a machine-written text counts as user-edited.
            for cell in table.rows.values_mut().flat_map(|record| record.cells.iter_mut()) {
                if cell.text.is_some() {
                    cell.writer = Writer::User;
                }
            }
        }
        self.queue.retain(|_, row| row.relation != oid);
        self.deferred.retain(|at, _| at.0 != oid);
        self.failed.retain(|at, _| at.0 != oid);
        self.ledger.retain(|at, _| at.0 != oid);
    }

    fn triggered(&self, oid: &u32, key: &str) -> Vec<KeyOf> {
        let Some(table) = self.tables.get(oid) else { return Vec::new() };
        let Some(record) = table.rows.get(key) else { return Vec::new() };
        // A row that lost its URL is queued if it has a text, which may be machine-written.
        let has_text = record.cells.iter().any(|cell| cell.text.is_some());
        if table.watch.is_some() && (record.url.is_some() || has_text) {
            vec![(*oid, key.to_string())]
        } else {
            Vec::new()
        }
    }

    /// Queues some keys, which may contain duplicates.
    pub fn enqueue(&mut self, keys: Vec<KeyOf>) {
        for row in self.pages(keys) {
            self.queue.insert(row.id, row);
        }
    }

    pub fn pages(&mut self, keys: Vec<KeyOf>) -> Vec<QueueRow> {
        let mut tables: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (oid, key) in keys {
            tables.entry(oid).or_default().push(key);
        }
        tables
            .into_iter()
            .map(|(relation, keys)| QueueRow { id: self.new_id(), relation, keys })
            .collect()
    }

    /// Removes queue rows of unwatched tables.
    pub fn clean(&mut self) {
        let tables = &self.tables;
        self.queue
            .retain(|_, row| tables.get(&row.relation).is_some_and(|table| table.watch.is_some()));
    }

    /// Releases the locks of a transaction.
    pub fn release(&mut self, id: u64) {
        for table in self.tables.values_mut() {
            if table.locked == Some(id) {
                table.locked = None;
            }
            if let Some(state) = table.state.as_mut().filter(|state| state.locked == Some(id)) {
                state.locked = None;
            }
            for record in table.rows.values_mut().filter(|record| record.locked == Some(id)) {
                record.locked = None;
            }
        }
    }
}

impl Record {
    /// Whether one of its first cells needs a text for the current URL, regardless of the ledger.
    pub fn needs_text(&self, styles: usize) -> bool {
        let is_missing = |cell: &Cell, url: &String| match &cell.writer {
            Writer::None => true,
            Writer::User => false,
            Writer::Engine(of) => of != url,
        };
        match &self.url {
            Some(url) => self.cells[..styles].iter().any(|cell| is_missing(cell, url)),
            None => self.cells[..styles].iter().any(|c| matches!(c.writer, Writer::Engine(_))),
        }
    }

    pub fn current(&self, fills: usize) -> CurrentRow {
        CurrentRow {
            url: self.url.clone(),
            texts: self.cells[..fills]
                .iter()
                .map(|cell| FillText::of(cell.text.as_deref()))
                .collect(),
            words: Default::default(),
            followed: Default::default(),
            matches: RowMatch::Matching,
            refused: None,
        }
    }
}
