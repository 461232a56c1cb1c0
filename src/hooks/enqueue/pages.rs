//! Keys of enqueued rows in memory, grouped into pages as they will be stored in the queue.

use pgrx::pg_sys;

/// Keys in one row of the queue: the worker reads and completes them together.
const PAGE_KEYS: usize = 200;
/// Bytes of a typical key: a bigint as a JSON array of one text.
const TYPICAL_KEY: usize = 14;

/// Up to [`PAGE_KEYS`] keys.
pub struct KeyPage {
    /// A JSON array without its closing bracket.
    text: String,
    pub count: i32,
}

impl KeyPage {
    /// The keys as a JSON array.
    pub fn into_json(self) -> String {
        self.text + "]"
    }

    fn is_full(&self) -> bool {
        self.count as usize >= PAGE_KEYS
    }

    fn push(&mut self, key: &str) {
        self.text.push(if self.count == 0 { '[' } else { ',' });
        self.text.push_str(key);
        self.count += 1;
    }
}

/// The pages of one watched table.
pub struct TablePages {
    pub table: pg_sys::Oid,
    pub pages: Vec<KeyPage>,
}

impl TablePages {
    /// Adds a key to the last page, or to a new one.
    fn push(&mut self, key: &str) {
        if self.pages.last().is_none_or(KeyPage::is_full) {
            // As long as the previous page, so that the text does not grow.
            let capacity =
                self.pages.last().map_or(PAGE_KEYS * TYPICAL_KEY, |page| page.text.len() + 16);
            self.pages.push(KeyPage { text: String::with_capacity(capacity), count: 0 });
        }
        let last = self.pages.len() - 1;
        self.pages[last].push(key);
    }
}

/// All keys that a transaction has gathered.
#[derive(Default)]
pub struct GatheredKeys {
    /// Few tables, searched from the end: consecutive rows mostly belong to the same table.
    tables: Vec<TablePages>,
    bytes: usize,
}

impl GatheredKeys {
    /// Adds the key of a row of a watched table.
    pub fn push(&mut self, table: pg_sys::Oid, key: &str) {
        let at = self.tables.iter().rposition(|pages| pages.table == table).unwrap_or_else(|| {
            self.tables.push(TablePages { table, pages: Vec::new() });
            self.tables.len() - 1
        });
        self.tables[at].push(key);
        self.bytes += key.len() + 1;
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn take(&mut self) -> Vec<TablePages> {
        self.bytes = 0;
        std::mem::take(&mut self.tables)
    }
}
