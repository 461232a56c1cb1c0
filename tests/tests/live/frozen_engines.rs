//! A frozen engine ends with its server. `faults` shows it for a fast stop.

use pg_caption_tests::{Signal, StopMode, TestCluster, signal};

#[test]
fn a_killed_postmaster_leaves_no_frozen_engine() {
    let cluster = TestCluster::private(&[]);
    let db = cluster.database();
    signal(db.engine_pid(), Signal::STOP);
    // Waits for every process of the server, including the engine.
    cluster.restart(StopMode::Kill);
    db.engine_pid();
}
