//! How a worker stands: what it tells everybody, and what tests ask of it.

use super::Worker;
use crate::watched::active;
use std::collections::HashMap;

impl Worker {
    /// OIDs of the tables that are to be drained.
    pub fn active(&self) -> Vec<u32> {
        active(&self.tables)
    }

    /// Rows in flight by table.
    pub fn flights(&self) -> Vec<(u32, u32)> {
        let mut flights: HashMap<u32, u32> = HashMap::new();
        for job in self.flight.in_flight() {
            *flights.entry(job.row.relation).or_default() += 1;
        }
        flights.into_iter().collect()
    }

    /// How many rows are in flight, ready to be sent, and held back by locks.
    pub fn in_hand(&self) -> (usize, usize, usize) {
        (self.flight.in_flight().len(), self.flight.ready(), self.held.len())
    }

    /// Rows that were queued again while they were in hand, and are to be looked at anew.
    pub fn parked(&self) -> usize {
        self.board.parked() + self.recheck.len()
    }

    /// Everything that takes memory: jobs wherever they are, rows to be looked at again, pages of
    /// keys.
    pub fn size(&self) -> usize {
        let jobs = self.flight.in_flight().len()
            + self.flight.ready()
            + self.landed.len()
            + self.held.len();
        jobs + self.recheck.len() + self.board.pages()
    }
}
