//! What a decoder remembers between steps, as named entries whose axis 0 is the row.
//!
//! Three kinds: *growing* (keys and values: one position longer after each step), *fixed-state*
//! (convolution or recurrent states) and *constant* (cross-attention keys and values, encoder
//! output: the same for every row of a caption). Families fill and read entries by name; the batch
//! moves rows and knows nothing else. Generic over the value, so that a family of plain arrays can
//! be driven without ONNX Runtime.

use crate::ModelError;

/// A tensor whose axis 0 is the row.
pub(crate) trait Rows: Sized {
    /// Length of axis 0.
    fn rows(&self) -> usize;
    /// Bytes held.
    fn bytes(&self) -> usize;
    /// Row `i` of the result is row `rows[i]` of this; rows may repeat. Every index is below
    /// [`Rows::rows`].
    fn select(&self, rows: &[usize]) -> Result<Self, ModelError>;
}

/// How an entry behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Replaced by a longer one in every step.
    Growing,
    /// Replaced by one of equal shape in every step.
    Fixed,
    /// Kept from the prefill on.
    Constant,
}

/// One entry.
pub(crate) struct Entry<V> {
    /// Name of the graph's input it is fed to.
    pub input: String,
    /// How it behaves.
    pub kind: Kind,
    /// The tensor.
    pub value: V,
}

/// How few rows of the constant entries a family's step takes. They are the same for all rows of a
/// caption (its beams).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// One for each row of the batch.
    None,
    /// A single one, where all rows of the batch belong to one caption; else one for each row.
    OneCaption,
}

/// All entries of the rows of a batch.
pub(crate) struct Cache<V> {
    /// In the family's order.
    pub entries: Vec<Entry<V>>,
    /// Positions fed so far, prompt included.
    pub length: usize,
    /// For each row the caption it belongs to: its row in the prefill.
    owners: Vec<usize>,
    /// For each row of the constant entries the caption it belongs to.
    held: Vec<usize>,
    sharing: Sharing,
}

impl<V: Rows> Cache<V> {
    /// A cache of `rows` captions of one row each that have been fed `length` positions.
    pub fn new(entries: Vec<Entry<V>>, rows: usize, length: usize, sharing: Sharing) -> Cache<V> {
        let owners: Vec<usize> = (0..rows).collect();
        Cache { entries, length, held: owners.clone(), owners, sharing }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.owners.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|e| e.value.bytes()).sum()
    }

    /// Row `i` becomes what row `rows[i]` was: rows leave, multiply and trade places. Nothing that
    /// stays where it is gets copied; constant entries follow only where captions move, not where
    /// rows of one caption do.
    pub fn rearrange(&mut self, rows: &[usize]) -> Result<(), ModelError> {
        let before = self.owners.len();
        if let Some(row) = rows.iter().find(|row| **row >= before) {
            return Err(ModelError::Batch(format!("row {row} of a cache of {before}")));
        }
        let owners: Vec<usize> = rows.iter().map(|row| self.owners[*row]).collect();
        let held = match (self.sharing, owners.first()) {
            (Sharing::OneCaption, Some(first)) if owners.iter().all(|owner| owner == first) => {
                vec![*first]
            }
            _ => owners.clone(),
        };
        if !is_identity(rows, before) {
            self.select(rows, before, |kind| kind != Kind::Constant)?;
        }
        if held != self.held {
            let place = |owner: &usize| self.held.iter().position(|known| known == owner);
            let from: Option<Vec<usize>> = held.iter().map(place).collect();
            let from = from.ok_or_else(|| {
                ModelError::Batch("a caption whose constant entries are gone".into())
            })?;
            self.select(&from, self.held.len(), |kind| kind == Kind::Constant)?;
        }
        (self.owners, self.held) = (owners, held);
        Ok(())
    }

    fn select(
        &mut self,
        rows: &[usize],
        of: usize,
        moves: impl Fn(Kind) -> bool,
    ) -> Result<(), ModelError> {
        for entry in self.entries.iter_mut().filter(|e| moves(e.kind)) {
            if entry.value.rows() != of {
                return Err(ModelError::Batch(format!(
                    "{} has {} rows where {of} belong",
                    entry.input,
                    entry.value.rows()
                )));
            }
            entry.value = entry.value.select(rows)?;
        }
        Ok(())
    }
}

fn is_identity(rows: &[usize], of: usize) -> bool {
    rows.len() == of && rows.iter().enumerate().all(|(i, row)| i == *row)
}
