//! A prune pass of a table: removes ledger entries of deleted rows, and failures of
//! rows that need no caption. It works in small batches by key, one transaction each. Its position
//! is in the database, so any worker can continue it. When a pass runs is decided in
//! `worker/pruning.rs`.
//!
//! Never removes anything of a row that exists but cannot be read, nor of a table that cannot be
//! read.

use crate::job::needed_fills;
use crate::ledger::has_fallback;
use crate::store::{QueueStore, ReadError};
use crate::{CurrentRow, RowMatch, WatchedTable};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The tables of bookkeeping, in the order in which a pass visits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneTarget {
    /// `caption.failed`.
    Failures,
    /// `caption.ledger`.
    Ledger,
}

impl PruneTarget {
    /// The table's name in the schema `caption`.
    pub fn name(self) -> &'static str {
        match self {
            PruneTarget::Failures => "failed",
            PruneTarget::Ledger => "ledger",
        }
    }
}

/// Position of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneCursor {
    /// The table it is in.
    pub target: PruneTarget,
    /// The last key examined, as JSON text; `None`: none yet.
    pub after: Option<String>,
}

impl PruneCursor {
    /// Before the first key.
    pub fn start() -> Self {
        PruneCursor { target: PruneTarget::Failures, after: None }
    }

    /// The value of `caption.watch_state.prune_after`: an object of the table's name and the key,
    /// e.g. `{"ledger": ["42"]}`.
    pub fn to_json(&self) -> Value {
        let after = self
            .after
            .as_deref()
            .and_then(|key| serde_json::from_str(key).ok())
            .unwrap_or(Value::Null);
        Value::Object([(self.target.name().to_string(), after)].into_iter().collect())
    }

    /// The inverse of [`PruneCursor::to_json`]; the start for any other value.
    pub fn from_json(json: &Value) -> Self {
        let of = |target: PruneTarget| {
            let key = json.get(target.name())?;
            Some(PruneCursor { target, after: (!key.is_null()).then(|| key.to_string()) })
        };
        of(PruneTarget::Failures)
            .or_else(|| of(PruneTarget::Ledger))
            .unwrap_or_else(PruneCursor::start)
    }
}

/// The next keys of a pass.
#[derive(Debug)]
pub struct PrunePage {
    /// The table they are in.
    pub target: PruneTarget,
    /// In an order that does not change; fewer than requested: the last ones of their table.
    pub keys: Vec<String>,
}

/// The result of one batch.
#[derive(Debug)]
pub struct PruneStep {
    /// The table that was examined.
    pub target: PruneTarget,
    /// Keys whose bookkeeping is removed.
    pub obsolete: Vec<String>,
    /// Where the next batch starts; `None`: the pass has ended.
    pub next: Option<PruneCursor>,
}

/// Rows as they are now.
#[derive(Debug, Default)]
pub struct RowsRead {
    /// Key and row.
    pub rows: Vec<(String, CurrentRow)>,
    /// Keys of unreadable rows, which may exist.
    pub unreadable: Vec<String>,
}

/// Runs one batch of at most `limit` keys in a transaction. Returns whether the pass has ended.
///
/// # Errors
/// See [`ReadError`]: nothing was removed, and the pass stays where it is.
pub fn batch<S: QueueStore>(
    table: &WatchedTable,
    limit: usize,
    store: &mut S,
) -> Result<bool, ReadError> {
    let PrunePage { target, keys } = store.prune_page(table, limit)?;
    let read = store.existing_rows(table, &keys)?;
    let rows: HashMap<&str, &CurrentRow> =
        read.rows.iter().map(|(key, current)| (key.as_str(), current)).collect();
    let unreadable: HashSet<&str> = read.unreadable.iter().map(String::as_str).collect();
    let history = match target {
        PruneTarget::Failures => store.history(table, &keys),
        PruneTarget::Ledger => HashMap::new(),
    };
    let is_obsolete = |key: &&String| match rows.get(key.as_str()) {
        None => !unreadable.contains(key.as_str()),
        Some(current) => {
            let past = history.get(*key).cloned().unwrap_or_default();
            target == PruneTarget::Failures
                && (current.matches == RowMatch::Excluded
                    || needed_fills(table, current, &past.ledger, past.recaption).is_empty()
                        && !has_fallback(table, current, &past.ledger))
        }
    };
    let obsolete: Vec<String> = keys.iter().filter(is_obsolete).cloned().collect();
    let next = match (keys.len() < limit, target) {
        (false, _) => Some(PruneCursor { target, after: keys.last().cloned() }),
        (true, PruneTarget::Failures) => {
            Some(PruneCursor { target: PruneTarget::Ledger, after: None })
        }
        (true, PruneTarget::Ledger) => None,
    };
    let ended = next.is_none();
    store.prune(table, &PruneStep { target, obsolete, next });
    Ok(ended)
}
