//! From a page of keys to jobs: which rows need a text and which are in progress already. Rows that
//! need nothing are acknowledged in the running transaction.

use crate::base_url::resolve_url;
use crate::store::{QueueStore, TableBusy};
use crate::{CurrentRow, InFlight, PageId, RowJob, RowKey, RowMatch, WatchedTable};
use std::collections::HashSet;

/// Everything needed to examine rows, within one transaction.
pub struct RowExaminer<'a, S> {
    /// Work in progress.
    pub in_flight: &'a mut InFlight,
    /// The watches.
    pub tables: &'a [WatchedTable],
    /// The database.
    pub store: &'a mut S,
}

impl<S: QueueStore> RowExaminer<'_, S> {
    /// Reads and examines the rows of a page.
    ///
    /// # Errors
    /// [`TableBusy`]: nothing was examined.
    pub fn page(
        &mut self,
        table: &WatchedTable,
        page: PageId,
        keys: &[String],
    ) -> Result<Vec<RowJob>, TableBusy> {
        let rows = self.store.rows(table, keys)?;
        Ok(self.examine(table, page, keys, rows))
    }

    /// Examines rows of a page that were read already.
    pub fn examine(
        &mut self,
        table: &WatchedTable,
        page: PageId,
        keys: &[String],
        rows: Vec<(String, CurrentRow)>,
    ) -> Vec<RowJob> {
        let history = self.store.history(table, keys);
        let (mut jobs, mut waiting) = (Vec::new(), 0);
        let is_from_queue = self.in_flight.is_from_queue(page);
        for (key, current) in rows {
            let mut past = history.get(&key).cloned().unwrap_or_default();
            if is_from_queue {
                // The URL may be a new one, which has no attempts yet.
                past.attempts = 0;
            }
            let (fills, rendered) = past.changed_texts(table, &current);
            let row = RowKey { relation: table.oid, key };
            let needs_nothing = fills.is_empty() && rendered.is_empty();
            if needs_nothing || current.matches == RowMatch::Excluded {
                continue;
            }
            let url = current.written_url().to_owned();
            if self.in_flight.claim(&row, page) {
                let mut job = past.job(row, page, (url, fills), (table, &current));
                job.rendered = rendered;
                job.refused = match current.matches {
                    RowMatch::Raised(failure) => Some(failure),
                    _ => current.refused,
                };
                if !table.completes_requests() {
                    job.resolved = table.base_url.as_ref().map(|base| resolve_url(base, &job.url));
                }
                jobs.push(job);
            } else {
                waiting += 1;
            }
        }
        // Deferred rows that no longer need a text or no longer exist.
        let needy: HashSet<&str> = jobs.iter().map(|job| job.row.key.as_str()).collect();
        for key in history.keys().filter(|key| !needy.contains(key.as_str())) {
            let row = RowKey { relation: table.oid, key: key.clone() };
            if !self.in_flight.has_row(&row) {
                self.store.undefer(&row);
            }
        }
        let done = keys.len().saturating_sub(jobs.len() + waiting);
        let acked = if done == 0 {
            self.in_flight.finish_empty(page)
        } else {
            self.in_flight.finish(std::iter::repeat_n(page, done))
        };
        self.store.acknowledge(&acked, self.tables);
        jobs
    }
}
