//! A watched table as a worker sees it. Read and checked against the catalogs by the extension.

use pg_caption_style::CaptionStyle;

/// A column to fill.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// Its name, unquoted.
    pub column: String,
    /// Its style; `max_chars` respects the column's declared length.
    pub style: CaptionStyle,
}

/// A key column.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyColumn {
    /// Quoted.
    pub column: String,
    /// Its type, as `format_type` gives it.
    pub kind: String,
}

/// A watched table.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its OID.
    pub oid: u32,
    /// Schema-qualified and quoted; `ONLY` before it for a table that is not partitioned: rows of
    /// its inheritance children are not its own.
    pub name: String,
    /// OID of the role whose rights its rows are read and written with.
    pub owner: u32,
    /// Quoted column of the URL.
    pub url: String,
    /// Columns to fill.
    pub fills: Vec<Fill>,
    /// Key columns.
    pub keys: Vec<KeyColumn>,
    /// Ceiling of generated tokens.
    pub max_tokens: u32,
    /// A person's text is replaced, too.
    pub overwrite: bool,
    /// Nothing is to be done for now.
    pub paused: bool,
    /// Number of the walk: `caption.watch()` begins a new one.
    pub walk: i32,
    /// Last key that the walk has passed, as JSON text.
    pub backfill_after: Option<String>,
    /// The walk has come to the end.
    pub backfill_done: bool,
    /// What was captioned before that time is captioned again: a timestamptz as text.
    pub recaption_before: Option<String>,
}

impl Watched {
    /// Whether jobs made for `self` can be finished under `other`.
    pub fn is_like(&self, other: &Watched) -> bool {
        (&self.name, self.owner, &self.url, &self.fills, &self.keys)
            == (&other.name, other.owner, &other.url, &other.fills, &other.keys)
            && (self.max_tokens, self.overwrite, self.paused, self.walk)
                == (other.max_tokens, other.overwrite, other.paused, other.walk)
    }
}

/// OIDs of the tables that are to be drained.
pub fn active(tables: &[Watched]) -> Vec<u32> {
    tables.iter().filter(|table| !table.paused).map(|table| table.oid).collect()
}
