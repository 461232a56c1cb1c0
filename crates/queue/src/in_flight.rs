//! Work in progress: pages of keys, the rows claimed for their jobs, and when a page can be
//! acknowledged. Pure bookkeeping.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// Number of a page in [`InFlight`].
pub type PageId = u64;

/// Identifies a row: the watched table's OID and the key as canonical JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// OID of the watched table.
    pub relation: u32,
    /// JSON array of texts.
    pub key: String,
}

/// Where a page of keys was read, and so how it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageOrigin {
    /// A row of `caption.queue` with this id: delete it.
    Queue(i64),
    /// A chunk of a backfill: advance the backfill.
    Backfill {
        /// Last key of the chunk; `None`: the table ends here.
        last: Option<String>,
        /// Rows of the chunk.
        rows: i64,
    },
    /// Due rows of `caption.deferred`: each is removed when it is settled.
    Deferred,
}

/// Keys that are acknowledged together.
#[derive(Debug)]
struct KeyPage {
    relation: u32,
    origin: PageOrigin,
    /// Jobs that are not done.
    open: usize,
    /// Jobs of the whole page.
    jobs: usize,
}

/// Rows of a table's pages that are not acknowledged yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RowsAhead {
    /// Rows that the backfill has read.
    pub read: usize,
    /// Rows, also of the queue, that are settled.
    pub completed: usize,
}

/// Pages, claimed rows and rows that wait for another page's job.
#[derive(Debug, Default)]
pub struct InFlight {
    next: PageId,
    pages: BTreeMap<PageId, KeyPage>,
    claimed: HashSet<RowKey>,
    /// Locked rows whose pages are acknowledged; another page may claim them.
    postponed: HashSet<RowKey>,
    /// Pages that must examine a row again once it is released.
    waiting: HashMap<RowKey, Vec<PageId>>,
    backfills: HashMap<u32, VecDeque<PageId>>,
}

/// What to acknowledge in the transaction that finishes the last jobs of some pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AckedPages {
    /// Queue rows to delete: table and id, in order.
    pub queue: Vec<(u32, i64)>,
    /// Progress of backfills: table, last key (`None`: the end), rows since the last progress.
    pub backfills: Vec<(u32, Option<String>, i64)>,
}

impl InFlight {
    /// Adds a page with one job for each of `open` keys.
    pub fn add(&mut self, relation: u32, origin: PageOrigin, open: usize) -> PageId {
        let id = self.next;
        self.next += 1;
        if matches!(origin, PageOrigin::Backfill { .. }) {
            self.backfills.entry(relation).or_default().push_back(id);
        }
        self.pages.insert(id, KeyPage { relation, origin, open, jobs: open });
        id
    }

    /// Finishes a row's job on its page although the row is not settled: `caption.deferred` has
    /// it. Also returns the pages that wait for the row.
    pub fn postpone(&mut self, row: &RowKey, page: PageId) -> (AckedPages, Vec<PageId>) {
        let waiting = self.release(row);
        self.postponed.insert(row.clone());
        (self.finish([page]), waiting)
    }

    /// Claims a row for a page's job; a postponed row starts over. `false`: another job has the
    /// row; the page waits for it and is returned by [`InFlight::release`].
    pub fn claim(&mut self, row: &RowKey, page: PageId) -> bool {
        if self.claimed.insert(row.clone()) {
            self.postponed.remove(row);
            return true;
        }
        self.waiting.entry(row.clone()).or_default().push(page);
        false
    }

    /// Releases a row. Returns the pages that must examine it again.
    pub fn release(&mut self, row: &RowKey) -> Vec<PageId> {
        self.claimed.remove(row);
        self.postponed.remove(row);
        self.waiting.remove(row).unwrap_or_default()
    }

    /// Whether a queue row is in progress.
    pub fn has_queue_row(&self, id: i64) -> bool {
        self.pages.values().any(|page| page.origin == PageOrigin::Queue(id))
    }

    /// Whether a row is claimed or postponed.
    pub fn has_row(&self, row: &RowKey) -> bool {
        self.claimed.contains(row) || self.postponed.contains(row)
    }

    /// Number of claimed rows that were queued again.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Whether a page comes from the queue: its rows have just been written by a client.
    pub fn is_from_queue(&self, page: PageId) -> bool {
        self.pages.get(&page).is_some_and(|page| matches!(page.origin, PageOrigin::Queue(_)))
    }

    /// What the pages of each table hold beyond the recorded progress.
    pub fn ahead(&self) -> HashMap<u32, RowsAhead> {
        let mut tables: HashMap<u32, RowsAhead> = HashMap::new();
        for KeyPage { relation, origin, open, jobs } in self.pages.values() {
            let ahead = tables.entry(*relation).or_default();
            match origin {
                PageOrigin::Backfill { rows, .. } => {
                    let rows = usize::try_from(*rows).unwrap_or(0);
                    ahead.read += rows;
                    ahead.completed += rows.saturating_sub(*open);
                }
                PageOrigin::Queue(_) => ahead.completed += jobs - open,
                PageOrigin::Deferred => {}
            }
        }
        tables
    }

    /// Number of unfinished chunks of a table's backfill.
    pub fn backfill_pages(&self, relation: u32) -> usize {
        self.backfills.get(&relation).map_or(0, VecDeque::len)
    }

    /// Removes an unfinished page; its origin is read again later. Only before any of its keys is
    /// claimed, and never for a chunk of a backfill.
    pub fn withdraw(&mut self, page: PageId) {
        self.pages.remove(&page);
    }

    /// Finishes one job for each id in `done` and acknowledges complete pages. A backfill advances
    /// only up to its first unfinished chunk.
    pub fn finish(&mut self, done: impl IntoIterator<Item = PageId>) -> AckedPages {
        let mut touched = BTreeSet::new();
        for id in done {
            if let Some(page) = self.pages.get_mut(&id) {
                page.open = page.open.saturating_sub(1);
            }
            touched.insert(id);
        }
        self.acknowledge(touched)
    }

    /// Acknowledges a page without jobs.
    pub fn finish_empty(&mut self, id: PageId) -> AckedPages {
        self.acknowledge(BTreeSet::from([id]))
    }

    fn acknowledge(&mut self, touched: BTreeSet<PageId>) -> AckedPages {
        let mut acked = AckedPages::default();
        let mut advanced = BTreeSet::new();
        for id in touched {
            let Some(page) = self.pages.get(&id) else { continue };
            if page.open > 0 {
                continue;
            }
            match page.origin {
                PageOrigin::Queue(row) => acked.queue.push((page.relation, row)),
                PageOrigin::Deferred => {}
                PageOrigin::Backfill { .. } => {
                    advanced.insert(page.relation);
                    // Stays until every chunk before it is complete.
                    continue;
                }
            }
            self.pages.remove(&id);
        }
        for relation in advanced {
            let Some(chunks) = self.backfills.get_mut(&relation) else { continue };
            let mut progress: Option<(Option<String>, i64)> = None;
            while let Some(first) = chunks.front()
                && self.pages.get(first).is_some_and(|page| page.open == 0)
            {
                let page = chunks.pop_front().and_then(|first| self.pages.remove(&first));
                if let Some(KeyPage { origin: PageOrigin::Backfill { last, rows }, .. }) = page {
                    let before = progress.take().map_or(0, |(_, rows)| rows);
                    progress = Some((last, before + rows));
                }
            }
            if let Some((last, rows)) = progress {
                acked.backfills.push((relation, last, rows));
            }
        }
        acked.queue.sort_unstable();
        acked
    }

    /// Forgets everything about a table.
    pub fn forget(&mut self, relation: u32) {
        self.pages.retain(|_, page| page.relation != relation);
        self.claimed.retain(|row| row.relation != relation);
        self.postponed.retain(|row| row.relation != relation);
        self.waiting.retain(|row, _| row.relation != relation);
        self.backfills.remove(&relation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(key: u32) -> RowKey {
        RowKey { relation: 1, key: format!("[\"{key}\"]") }
    }

    #[test]
    fn queue_row_is_deleted_with_its_last_key() {
        let mut in_flight = InFlight::default();
        let page = in_flight.add(1, PageOrigin::Queue(7), 3);
        assert!(in_flight.has_queue_row(7));
        assert_eq!(in_flight.finish([page, page]), AckedPages::default());
        assert_eq!(in_flight.finish([page]).queue, [(1, 7)]);
        assert!(!in_flight.has_queue_row(7));
    }

    #[test]
    fn backfill_advances_over_complete_chunks_only() {
        let mut in_flight = InFlight::default();
        let chunk = |last: &str| PageOrigin::Backfill { last: Some(last.into()), rows: 10 };
        let (first, second) = (in_flight.add(1, chunk("a"), 1), in_flight.add(1, chunk("b"), 1));
        assert_eq!(in_flight.finish([second]), AckedPages::default());
        let end = in_flight.add(1, PageOrigin::Backfill { last: None, rows: 4 }, 1);
        assert_eq!(in_flight.finish([first]).backfills, [(1, Some("b".into()), 20)]);
        assert_eq!(in_flight.finish([end]).backfills, [(1, None, 4)]);
        let empty = in_flight.add(1, PageOrigin::Backfill { last: None, rows: 0 }, 0);
        assert_eq!(in_flight.finish_empty(empty).backfills, [(1, None, 0)]);
        assert_eq!(in_flight.backfill_pages(1), 0);
    }

    #[test]
    fn claimed_row_makes_other_pages_wait() {
        let mut in_flight = InFlight::default();
        let (first, second) =
            (in_flight.add(1, PageOrigin::Queue(1), 1), in_flight.add(1, PageOrigin::Queue(2), 1));
        assert!(in_flight.claim(&row(1), first));
        assert!(!in_flight.claim(&row(1), second));
        assert_eq!(in_flight.release(&row(1)), [second]);
        assert!(in_flight.claim(&row(1), second));
    }

    #[test]
    fn rows_ahead_count_one_by_one() {
        let mut in_flight = InFlight::default();
        let last = Some(String::from("[\"9\"]"));
        let backfill = in_flight.add(1, PageOrigin::Backfill { last, rows: 5 }, 5);
        let queue = in_flight.add(1, PageOrigin::Queue(7), 3);
        assert_eq!(in_flight.ahead()[&1], RowsAhead { read: 5, completed: 0 });
        in_flight.finish([backfill, backfill, queue]);
        assert_eq!(in_flight.ahead()[&1], RowsAhead { read: 5, completed: 3 });
        in_flight.finish([queue, queue]);
        assert_eq!(in_flight.ahead()[&1], RowsAhead { read: 5, completed: 2 }, "acknowledged");
        in_flight.finish([backfill; 3]);
        assert!(in_flight.ahead().is_empty());
    }

    #[test]
    fn unwatched_table_leaves_no_state() {
        let mut in_flight = InFlight::default();
        let page = in_flight.add(1, PageOrigin::Backfill { last: None, rows: 1 }, 1);
        in_flight.claim(&row(1), page);
        in_flight.forget(1);
        assert!(!in_flight.has_row(&row(1)));
        assert_eq!(in_flight.finish([page]), AckedPages::default());
        assert_eq!(in_flight.backfill_pages(1), 0);
    }

    proptest! {
        /// For every order of completion: each queue row is acknowledged exactly once, and a
        /// backfill never skips a chunk.
        #[test]
        fn each_page_is_acknowledged_exactly_once(
            sizes in prop::collection::vec(1usize..4, 1..8),
            seed in any::<u64>(),
        ) {
            let mut in_flight = InFlight::default();
            let mut jobs = Vec::new();
            for (at, size) in sizes.iter().enumerate() {
                let chunk =
                    PageOrigin::Backfill { last: Some(at.to_string()), rows: *size as i64 };
                let queue = in_flight.add(1, PageOrigin::Queue(at as i64), *size);
                let backfill = in_flight.add(2, chunk, *size);
                jobs.extend(std::iter::repeat_n(queue, *size));
                jobs.extend(std::iter::repeat_n(backfill, *size));
            }
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut queue, mut rows, mut reached) = (Vec::new(), 0, None::<usize>);
            while !jobs.is_empty() {
                let job = jobs.swap_remove(random.usize(..jobs.len()));
                let acked = in_flight.finish([job]);
                queue.extend(acked.queue);
                for (_, last, more) in acked.backfills {
                    rows += more;
                    let last = last.expect("every chunk here has a last key");
                    let last: usize = last.parse().expect("a number");
                    prop_assert!(reached.is_none_or(|before| last > before));
                    reached = Some(last);
                }
            }
            queue.sort_unstable();
            let all: Vec<(u32, i64)> = (0..sizes.len() as i64).map(|row| (1, row)).collect();
            prop_assert_eq!(queue, all);
            prop_assert_eq!(rows, sizes.iter().sum::<usize>() as i64);
            prop_assert_eq!(reached, Some(sizes.len() - 1));
        }
    }
}
