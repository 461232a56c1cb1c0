//! Counts of a worker's jobs, for `pg_stat_activity`, shared memory and tests.

use super::QueueWorker;
use crate::RowsAhead;
use crate::watched::active;
use std::collections::HashMap;

impl QueueWorker {
    /// OIDs of the tables that are not paused.
    pub fn active(&self) -> Vec<u32> {
        active(&self.tables)
    }

    /// Number of rows that the engine has, by table.
    pub fn in_flight(&self) -> Vec<(u32, u32)> {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for job in self.dispatcher.in_flight() {
            *counts.entry(job.row.relation).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    /// What was read and settled of each table beyond its recorded progress.
    pub fn ahead(&self) -> HashMap<u32, RowsAhead> {
        self.in_flight.ahead()
    }

    /// Number of rows that the engine has, that are ready to be sent, and that are locked.
    pub fn job_counts(&self) -> (usize, usize, usize) {
        (self.dispatcher.in_flight().len(), self.dispatcher.ready(), self.locked.len())
    }

    /// Number of rows that were queued again while a job had them.
    pub fn waiting(&self) -> usize {
        self.in_flight.waiting() + self.recheck.len()
    }

    /// Everything that uses memory: all jobs, rows to be examined again, pages of keys.
    pub fn size(&self) -> usize {
        let (sent, ready, locked) = self.job_counts();
        let jobs = sent + ready + self.completed.len() + locked;
        jobs + self.recheck.len() + self.in_flight.pages()
    }
}
