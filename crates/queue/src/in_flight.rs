//! What is in hand: pages of keys, the jobs made of them, and when a page may be struck off. Pure
//! bookkeeping.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// Number of a page on the board.
pub type PageId = u64;

/// A row: the watched table's OID and its key as canonical JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    /// OID of the watched table.
    pub relation: u32,
    /// JSON array of texts.
    pub key: String,
}

/// Where a page of keys came from, and so what striking it off means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A row of `caption.queue`: delete it.
    Queue(i64),
    /// A chunk of the walk that ends at this key and has this many rows: the walk has come so far.
    Walk {
        /// Last key of the chunk; `None`: the table ended.
        last: Option<String>,
        /// Rows of the chunk.
        rows: i64,
    },
    /// Due rows of `caption.deferred`: each removes itself when it is done.
    Deferred,
}

/// Keys that are struck off together.
#[derive(Debug)]
pub struct Page {
    /// OID of the watched table.
    pub relation: u32,
    /// Where it came from.
    pub origin: Origin,
    open: usize,
}

/// Everything in hand.
#[derive(Debug, Default)]
pub struct Board {
    next: PageId,
    pages: BTreeMap<PageId, Page>,
    busy: HashSet<Row>,
    /// Counted off their pages, since somebody holds them: another page may claim them.
    aside: HashSet<Row>,
    parked: HashMap<Row, Vec<PageId>>,
    walks: HashMap<u32, VecDeque<PageId>>,
}

/// Pages that are complete once these jobs are: what to do about each in the transaction that
/// finishes them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// Queue rows to delete, each after the table that it is of, in order.
    pub queue: Vec<(u32, i64)>,
    /// How far each walk has come: table, last key (`None`: the end), rows walked since.
    pub walks: Vec<(u32, Option<String>, i64)>,
}

impl Board {
    /// Puts a page on the board with one job to come for each of `open` keys.
    pub fn add(&mut self, relation: u32, origin: Origin, open: usize) -> PageId {
        let id = self.next;
        self.next += 1;
        if matches!(origin, Origin::Walk { .. }) {
            self.walks.entry(relation).or_default().push_back(id);
        }
        self.pages.insert(id, Page { relation, origin, open });
        id
    }

    /// Counts a row's job off its page although it is not done: it was noted elsewhere that it is
    /// not. The pages that wait to look at the row again.
    pub fn put_aside(&mut self, row: &Row, page: PageId) -> (Struck, Vec<PageId>) {
        let parked = self.release(row);
        self.aside.insert(row.clone());
        (self.finish([page]), parked)
    }

    /// Claims a row for a page's job; one that was put aside begins anew. `false`: the row is in
    /// hand already; the page's key is parked and comes back from [`Board::release`].
    pub fn claim(&mut self, row: &Row, page: PageId) -> bool {
        if self.busy.insert(row.clone()) {
            self.aside.remove(row);
            return true;
        }
        self.parked.entry(row.clone()).or_default().push(page);
        false
    }

    /// Gives a row back; the pages that wait to look at it again.
    pub fn release(&mut self, row: &Row) -> Vec<PageId> {
        self.busy.remove(row);
        self.aside.remove(row);
        self.parked.remove(row).unwrap_or_default()
    }

    /// Whether a queue row is in hand.
    pub fn holds_queue_row(&self, id: i64) -> bool {
        self.pages.values().any(|page| page.origin == Origin::Queue(id))
    }

    /// Whether a row is in hand, or was put aside.
    pub fn is_busy(&self, row: &Row) -> bool {
        self.busy.contains(row) || self.aside.contains(row)
    }

    /// Rows in hand that somebody queued again.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Pages in hand.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Whether a page is of the queue: somebody has just written these rows.
    pub fn is_news(&self, page: PageId) -> bool {
        self.pages.get(&page).is_some_and(|page| matches!(page.origin, Origin::Queue(_)))
    }

    /// Walk chunks of a table in hand.
    pub fn walk_pages(&self, relation: u32) -> usize {
        self.walks.get(&relation).map_or(0, VecDeque::len)
    }

    /// Takes a page off the board unfinished: what it came from is read again later. Only before
    /// any of its keys was claimed, and never a walk's chunk.
    pub fn withdraw(&mut self, page: PageId) {
        self.pages.remove(&page);
    }

    /// Counts `done` jobs off their pages and strikes complete pages off. A walk comes only as far
    /// as all its chunks up to there are complete.
    pub fn finish(&mut self, done: impl IntoIterator<Item = PageId>) -> Struck {
        let mut struck = Struck::default();
        let mut touched = BTreeSet::new();
        for id in done {
            if let Some(page) = self.pages.get_mut(&id) {
                page.open = page.open.saturating_sub(1);
            }
            touched.insert(id);
        }
        self.strike(touched, &mut struck);
        struck
    }

    /// Strikes a page off that turned out to hold no job at all.
    pub fn finish_empty(&mut self, id: PageId) -> Struck {
        let mut struck = Struck::default();
        self.strike(BTreeSet::from([id]), &mut struck);
        struck
    }

    fn strike(&mut self, touched: BTreeSet<PageId>, struck: &mut Struck) {
        let mut walked = BTreeSet::new();
        for id in touched {
            let Some(page) = self.pages.get(&id) else { continue };
            if page.open > 0 {
                continue;
            }
            match page.origin {
                Origin::Queue(row) => struck.queue.push((page.relation, row)),
                Origin::Deferred => {}
                Origin::Walk { .. } => {
                    walked.insert(page.relation);
                    // Stays until every chunk before it is complete.
                    continue;
                }
            }
            self.pages.remove(&id);
        }
        for relation in walked {
            let Some(chunks) = self.walks.get_mut(&relation) else { continue };
            let mut came: Option<(Option<String>, i64)> = None;
            while let Some(first) = chunks.front()
                && self.pages.get(first).is_some_and(|page| page.open == 0)
            {
                let page = chunks.pop_front().and_then(|first| self.pages.remove(&first));
                if let Some(Page { origin: Origin::Walk { last, rows }, .. }) = page {
                    let before = came.take().map_or(0, |(_, rows)| rows);
                    came = Some((last, before + rows));
                }
            }
            if let Some((last, rows)) = came {
                struck.walks.push((relation, last, rows));
            }
        }
        struck.queue.sort_unstable();
    }

    /// Forgets everything of a table that is no longer watched.
    pub fn forget(&mut self, relation: u32) {
        self.pages.retain(|_, page| page.relation != relation);
        self.busy.retain(|row| row.relation != relation);
        self.aside.retain(|row| row.relation != relation);
        self.parked.retain(|row, _| row.relation != relation);
        self.walks.remove(&relation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(key: u32) -> Row {
        Row { relation: 1, key: format!("[\"{key}\"]") }
    }

    #[test]
    fn a_queue_row_is_deleted_with_its_last_key_and_not_before() {
        let mut board = Board::default();
        let page = board.add(1, Origin::Queue(7), 3);
        assert!(board.holds_queue_row(7));
        assert_eq!(board.finish([page, page]), Struck::default());
        assert_eq!(board.finish([page]).queue, [(1, 7)]);
        assert!(!board.holds_queue_row(7));
    }

    #[test]
    fn a_walk_comes_only_as_far_as_all_its_chunks_are_complete() {
        let mut board = Board::default();
        let chunk = |last: &str| Origin::Walk { last: Some(last.into()), rows: 10 };
        let (first, second) = (board.add(1, chunk("a"), 1), board.add(1, chunk("b"), 1));
        assert_eq!(board.finish([second]), Struck::default());
        let end = board.add(1, Origin::Walk { last: None, rows: 4 }, 1);
        assert_eq!(board.finish([first]).walks, [(1, Some("b".into()), 20)]);
        assert_eq!(board.finish([end]).walks, [(1, None, 4)]);
        let empty = board.add(1, Origin::Walk { last: None, rows: 0 }, 0);
        assert_eq!(board.finish_empty(empty).walks, [(1, None, 0)]);
        assert_eq!(board.walk_pages(1), 0);
    }

    #[test]
    fn a_row_in_hand_is_given_to_nobody_else_and_its_page_looks_again() {
        let mut board = Board::default();
        let (first, second) =
            (board.add(1, Origin::Queue(1), 1), board.add(1, Origin::Queue(2), 1));
        assert!(board.claim(&row(1), first));
        assert!(!board.claim(&row(1), second));
        assert_eq!(board.release(&row(1)), [second]);
        assert!(board.claim(&row(1), second));
    }

    #[test]
    fn an_unwatched_table_leaves_nothing_behind() {
        let mut board = Board::default();
        let page = board.add(1, Origin::Walk { last: None, rows: 1 }, 1);
        board.claim(&row(1), page);
        board.forget(1);
        assert!(!board.is_busy(&row(1)));
        assert_eq!(board.finish([page]), Struck::default());
        assert_eq!(board.walk_pages(1), 0);
    }

    proptest! {
        /// Whatever order jobs finish in: every queue row is struck off exactly once, and a walk
        /// never skips a chunk.
        #[test]
        fn every_page_is_struck_off_exactly_once(sizes in prop::collection::vec(1usize..4, 1..8), order in any::<prop::sample::Index>(), seed in any::<u64>()) {
            let mut board = Board::default();
            let mut jobs = Vec::new();
            for (at, size) in sizes.iter().enumerate() {
                let queue = board.add(1, Origin::Queue(at as i64), *size);
                let walk = board.add(2, Origin::Walk { last: Some(at.to_string()), rows: *size as i64 }, *size);
                jobs.extend(std::iter::repeat_n(queue, *size));
                jobs.extend(std::iter::repeat_n(walk, *size));
            }
            let mut random = seed | order.index(usize::MAX - 1) as u64;
            let (mut queue, mut walked, mut come) = (Vec::new(), 0, None::<usize>);
            while !jobs.is_empty() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let job = jobs.swap_remove((random >> 33) as usize % jobs.len());
                let struck = board.finish([job]);
                queue.extend(struck.queue);
                for (_, last, rows) in struck.walks {
                    walked += rows;
                    let last: usize = last.expect("every chunk here has a last key").parse().expect("a number");
                    prop_assert!(come.is_none_or(|before| last > before));
                    come = Some(last);
                }
            }
            queue.sort_unstable();
            prop_assert_eq!(queue, (0..sizes.len() as i64).map(|row| (1, row)).collect::<Vec<_>>());
            prop_assert_eq!(walked, sizes.iter().sum::<usize>() as i64);
            prop_assert_eq!(come, Some(sizes.len() - 1));
        }
    }
}
