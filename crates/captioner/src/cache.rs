//! What a decoder remembers between steps, as named entries whose axis 0 is the row.
//!
//! Three kinds: *growing* (keys and values: one position longer after each step), *fixed-state* (convolution or recurrent states)
//! and *constant* (cross-attention keys and values, encoder output: the same for every row of a caption). Families fill and read
//! entries by name; the batch moves rows and knows nothing else. Generic over the value, so that a family of plain arrays can be
//! driven without ONNX Runtime.

use crate::Error;

/// A tensor whose axis 0 is the row.
pub(crate) trait Rows: Sized {
    /// Length of axis 0.
    fn rows(&self) -> usize;
    /// Bytes held.
    fn bytes(&self) -> usize;
    /// Row `i` of the result is row `rows[i]` of this; rows may repeat. Every index is below [`Rows::rows`].
    fn select(&self, rows: &[usize]) -> Result<Self, Error>;
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

/// All entries of the rows of a batch.
pub(crate) struct Cache<V> {
    /// In the family's order.
    pub entries: Vec<Entry<V>>,
    /// Positions fed so far, prompt included.
    pub length: usize,
    rows: usize,
}

impl<V: Rows> Cache<V> {
    /// A cache of `rows` rows that have been fed `length` positions.
    pub fn new(entries: Vec<Entry<V>>, rows: usize, length: usize) -> Cache<V> {
        Cache { entries, length, rows }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|e| e.value.bytes()).sum()
    }

    /// Rows trade places within their captions (beams): constant entries are the same for all of a caption's rows and stay.
    pub fn reorder(&mut self, rows: &[usize]) -> Result<(), Error> {
        debug_assert_eq!(rows.len(), self.rows);
        if is_identity(rows, self.rows) {
            return Ok(());
        }
        self.take(rows, |kind| kind != Kind::Constant)
    }

    /// Rows leave or multiply: every entry follows.
    pub fn rearrange(&mut self, rows: &[usize]) -> Result<(), Error> {
        if is_identity(rows, self.rows) {
            return Ok(());
        }
        self.take(rows, |_| true)?;
        self.rows = rows.len();
        Ok(())
    }

    fn take(&mut self, rows: &[usize], moves: impl Fn(Kind) -> bool) -> Result<(), Error> {
        if let Some(row) = rows.iter().find(|row| **row >= self.rows) {
            return Err(Error::Batch(format!("row {row} of a cache of {}", self.rows)));
        }
        for entry in self.entries.iter_mut().filter(|e| moves(e.kind)) {
            if entry.value.rows() != self.rows {
                return Err(Error::Batch(format!("{} has {} rows in a batch of {}", entry.input, entry.value.rows(), self.rows)));
            }
            entry.value = entry.value.select(rows)?;
        }
        Ok(())
    }
}

fn is_identity(rows: &[usize], of: usize) -> bool {
    rows.len() == of && rows.iter().enumerate().all(|(i, row)| i == *row)
}
