//! A pass over what is kept of a table's rows: entries of the ledger whose row is gone, and
//! failures that are none any more, are forgotten. In small batches by key, each a transaction; how
//! far it has come is kept in the database, so that whoever goes on, goes on from there. When a
//! pass is made is decided in `worker/tidying.rs`.
//!
//! Never forgets anything of a row that is there but cannot be read, nor of a table that cannot be
//! read.

use crate::job::needs;
use crate::store::{Store, Unread};
use crate::{Current, Watched};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// What is kept of rows, in the order in which a pass goes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Why they got no caption: `caption.failed`.
    Failed,
    /// What was written into them: `caption.ledger`.
    Written,
}

impl Kept {
    /// The name of its table, in the schema `caption`.
    pub fn name(self) -> &'static str {
        match self {
            Kept::Failed => "failed",
            Kept::Written => "written",
        }
    }
}

/// How far a pass has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// Over what it goes.
    pub kept: Kept,
    /// The last key looked at, as JSON text; `None`: none yet.
    pub after: Option<String>,
}

impl Stand {
    /// Before the first key.
    pub fn start() -> Self {
        Stand { kept: Kept::Failed, after: None }
    }

    /// As it is kept in `caption.watch_state`: an object of the table's name and the key, `{"written":
    /// ["42"]}`.
    pub fn to_json(&self) -> Value {
        let after = self
            .after
            .as_deref()
            .and_then(|key| serde_json::from_str(key).ok())
            .unwrap_or(Value::Null);
        Value::Object([(self.kept.name().to_string(), after)].into_iter().collect())
    }

    /// What [`Stand::to_json`] gave; the start for anything else.
    pub fn from_json(json: &Value) -> Self {
        let of = |kept: Kept| {
            Some(Stand {
                kept,
                after: json
                    .get(kept.name())
                    .map(|key| (!key.is_null()).then(|| key.to_string()))?,
            })
        };
        of(Kept::Failed).or_else(|| of(Kept::Written)).unwrap_or_else(Stand::start)
    }
}

/// Rows as they are now, whatever is kept of them.
#[derive(Debug, Default)]
pub struct Looked {
    /// Key and row.
    pub rows: Vec<(String, Current)>,
    /// Keys of rows that cannot be read: they may be there.
    pub unread: Vec<String>,
}

/// One batch of a pass, of `limit` keys at most, in a transaction; whether the pass has come to its
/// end.
///
/// # Errors
/// See [`Unread`]: nothing was forgotten, and the pass stands where it stood.
pub fn batch<S: Store>(table: &Watched, limit: usize, store: &mut S) -> Result<bool, Unread> {
    let Stand { kept, after } = store.stand(table)?;
    let keys = store.kept(table, kept, after.as_deref(), limit);
    let looked = store.look(table, &keys)?;
    let rows: HashMap<&str, &Current> =
        looked.rows.iter().map(|(key, current)| (key.as_str(), current)).collect();
    let unread: HashSet<&str> = looked.unread.iter().map(String::as_str).collect();
    let history = if kept == Kept::Failed { store.history(table, &keys) } else { HashMap::new() };
    let is_over = |key: &&String| match rows.get(key.as_str()) {
        None => !unread.contains(key.as_str()),
        Some(current) => {
            let past = history.get(*key).cloned().unwrap_or_default();
            kept == Kept::Failed && needs(table, current, &past.ours, past.again).is_empty()
        }
    };
    let over: Vec<String> = keys.iter().filter(is_over).cloned().collect();
    if !over.is_empty() {
        store.forget(table, kept, &over);
    }
    let next = match (keys.len() < limit, kept) {
        (false, _) => Some(Stand { kept, after: keys.last().cloned() }),
        (true, Kept::Failed) => Some(Stand { kept: Kept::Written, after: None }),
        (true, Kept::Written) => None,
    };
    store.stands(table, next.as_ref());
    Ok(next.is_none())
}
