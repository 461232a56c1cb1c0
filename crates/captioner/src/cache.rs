//! The decoder's cache: named entries whose axis 0 is the row.
//!
//! Three kinds: *growing* (keys and values, one position longer after each step), *fixed*
//! (convolution or recurrent states) and *constant* (cross-attention keys and values, encoder
//! output; equal for all rows of a caption). Families fill and read entries by name; the batch only
//! moves rows. Generic over the value, so that tests need no ONNX Runtime.

use crate::ModelError;

/// A tensor whose axis 0 is the row.
pub(crate) trait RowTensor: Sized {
    /// Length of axis 0.
    fn rows(&self) -> usize;
    /// Bytes held.
    fn bytes(&self) -> usize;
    /// Row `i` of the result is row `rows[i]` of this tensor; rows may repeat. Every index is below
    /// [`RowTensor::rows`].
    fn select(&self, rows: &[usize]) -> Result<Self, ModelError>;
}

/// How an entry changes over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// Replaced by a longer one in every step.
    Growing,
    /// Replaced by one of equal shape in every step.
    Fixed,
    /// Unchanged after the prefill.
    Constant,
}

/// One entry of a cache.
pub(crate) struct CacheEntry<V> {
    /// Name of the graph's input that it is fed to.
    pub input: String,
    /// How it changes.
    pub kind: EntryKind,
    /// The tensor.
    pub value: V,
}

/// How many rows of the constant entries a family's step takes. The rows of one caption (its beams)
/// have equal constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConstantSharing {
    /// One for each row of the batch.
    None,
    /// A single row if all rows of the batch belong to one caption, else one for each row.
    OneCaption,
}

/// The cache of all rows of a batch.
pub(crate) struct DecoderCache<V> {
    /// In the family's order.
    pub entries: Vec<CacheEntry<V>>,
    /// Number of positions fed, prompt included.
    pub length: usize,
    /// The caption of each row, as its row in the prefill.
    owners: Vec<usize>,
    /// The caption of each row of the constant entries.
    held: Vec<usize>,
    sharing: ConstantSharing,
}

impl<V: RowTensor> DecoderCache<V> {
    /// A cache of `rows` captions with one row each, after `length` fed positions.
    pub fn new(
        entries: Vec<CacheEntry<V>>,
        rows: usize,
        length: usize,
        sharing: ConstantSharing,
    ) -> DecoderCache<V> {
        let owners: Vec<usize> = (0..rows).collect();
        DecoderCache { entries, length, held: owners.clone(), owners, sharing }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.owners.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|e| e.value.bytes()).sum()
    }

    /// Makes row `i` what row `rows[i]` was: rows leave, multiply and change places. Entries whose
    /// rows keep their places are not copied. Constant entries are copied only when captions move,
    /// not when rows within one caption do.
    pub fn rearrange(&mut self, rows: &[usize]) -> Result<(), ModelError> {
        let before = self.owners.len();
        if let Some(row) = rows.iter().find(|row| **row >= before) {
            return Err(ModelError::Batch(format!(
                "row {row} is outside a cache of {before} rows"
            )));
        }
        let owners: Vec<usize> = rows.iter().map(|row| self.owners[*row]).collect();
        let held = match (self.sharing, owners.first()) {
            (ConstantSharing::OneCaption, Some(first))
                if owners.iter().all(|owner| owner == first) =>
            {
                vec![*first]
            }
            _ => owners.clone(),
        };
        if !is_identity(rows, before) {
            self.select(rows, before, |kind| kind != EntryKind::Constant)?;
        }
        if held != self.held {
            let place = |owner: &usize| self.held.iter().position(|known| known == owner);
            let from: Option<Vec<usize>> = held.iter().map(place).collect();
            let from = from.ok_or_else(|| {
                ModelError::Batch("the constant entries of a caption are missing".into())
            })?;
            self.select(&from, self.held.len(), |kind| kind == EntryKind::Constant)?;
        }
        (self.owners, self.held) = (owners, held);
        Ok(())
    }

    fn select(
        &mut self,
        rows: &[usize],
        of: usize,
        moves: impl Fn(EntryKind) -> bool,
    ) -> Result<(), ModelError> {
        for entry in self.entries.iter_mut().filter(|e| moves(e.kind)) {
            if entry.value.rows() != of {
                return Err(ModelError::Batch(format!(
                    "{} has {} rows instead of {of}",
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
