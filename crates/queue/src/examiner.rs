//! From a page of keys to jobs: which of its rows need something, and which are in hand already.
//! What needs nothing is counted off at once.

use crate::job::needs;
use crate::store::{Busy, Store};
use crate::{Board, Current, Job, PageId, Row, Watched};
use std::collections::HashSet;

/// What examining needs; within one transaction.
pub struct Examiner<'a, S> {
    /// What is in hand.
    pub board: &'a mut Board,
    /// The watches.
    pub tables: &'a [Watched],
    /// The database.
    pub store: &'a mut S,
}

impl<S: Store> Examiner<'_, S> {
    /// Examines the rows of a page's keys; what needs nothing is counted off at once, in the
    /// running transaction.
    ///
    /// # Errors
    /// [`Busy`]: nothing was examined.
    pub fn page(
        &mut self,
        table: &Watched,
        page: PageId,
        keys: &[String],
    ) -> Result<Vec<Job>, Busy> {
        let rows = self.store.rows(table, keys)?;
        Ok(self.sift(table, page, keys, rows))
    }

    /// The same with rows that were read already.
    pub fn sift(
        &mut self,
        table: &Watched,
        page: PageId,
        keys: &[String],
        rows: Vec<(String, Current)>,
    ) -> Vec<Job> {
        let history = self.store.history(table, keys);
        let (mut jobs, mut parked) = (Vec::new(), 0);
        let is_news = self.board.is_news(page);
        for (key, current) in rows {
            let mut past = history.get(&key).cloned().unwrap_or_default();
            if is_news {
                // Another URL, perhaps: what the one before was charged is not its debt.
                past.attempts = 0;
            }
            let cells = needs(table, &current, &past.ours, past.again);
            let row = Row { relation: table.oid, key };
            let Some(url) = current.url.filter(|_| !cells.is_empty()) else { continue };
            if self.board.claim(&row, page) {
                jobs.push(past.job(row, page, url, cells, &current.texts));
            } else {
                parked += 1;
            }
        }
        // Deferred rows that need nothing any more, and rows that are gone.
        let wanted: HashSet<&str> = jobs.iter().map(|job| job.row.key.as_str()).collect();
        for key in history.keys().filter(|key| !wanted.contains(key.as_str())) {
            let row = Row { relation: table.oid, key: key.clone() };
            if !self.board.is_busy(&row) {
                self.store.undefer(&row);
            }
        }
        let idle = keys.len().saturating_sub(jobs.len() + parked);
        let struck = if idle == 0 {
            self.board.finish_empty(page)
        } else {
            self.board.finish(std::iter::repeat_n(page, idle))
        };
        self.store.strike(&struck, self.tables);
        jobs
    }
}
