//! `make bench-statements`: what a statement without `caption_image` pays for the extension.
//!
//! Two servers, of which one preloads the library. A session of each plans and runs `SELECT 1`
//! STATEMENTS=200000 times, in turns. The figure is the difference of their CPU time for each
//! statement: the median of ROUNDS=21 and the quartiles.

use pg_caption_tests::{TestCluster, TestSession};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// CPU time of a process so far, in nanoseconds, as the scheduler counts it.
fn cpu(pid: i64) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("a live process");
    stat.split(' ').next().and_then(|text| text.parse().ok()).expect("a number")
}

/// CPU nanoseconds for each statement.
fn cost(session: &mut TestSession, pid: i64, statements: usize) -> f64 {
    let before = cpu(pid);
    session.run(&format!(
        "DO $$ BEGIN FOR i IN 1..{statements} LOOP EXECUTE 'SELECT 1'; END LOOP; END $$"
    ));
    (cpu(pid) - before) / statements as f64
}

fn main() {
    let (statements, rounds) = (number("STATEMENTS", 200_000), number("ROUNDS", 21));
    let without = TestCluster::private(&[("shared_preload_libraries", "")]);
    let with = TestCluster::private(&[]);
    let mut sessions = [&without, &with].map(|cluster| cluster.session("postgres"));
    let pids = [0, 1].map(|at| sessions[at].number("SELECT pg_backend_pid()"));
    let mut differences: Vec<f64> = (0..rounds)
        .map(|round| {
            let mut costs = [0.0; 2];
            for turn in 0..2 {
                let at = (round + turn) % 2;
                costs[at] = cost(&mut sessions[at], pids[at], statements);
            }
            costs[1] - costs[0]
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let [low, median, high] = [1, 2, 3].map(|quarter| differences[quarter * rounds / 4] / 1000.0);
    println!("a statement pays {median:.3} µs ({low:.3} to {high:.3}; aim 0.1)");
}
