use super::*;
use pg_caption_wire::ClientRole;

const THREADS: usize = 8;

fn client(connection: u64) -> FetchClient {
    FetchClient { connection, role: ClientRole::Call }
}

/// A line whose zone `dead.example.com` is slow for client 1.
fn with_slow_zone(now: Instant) -> LookupLine {
    let mut line = LookupLine::new(THREADS);
    for n in 0..SLOW_NAMES {
        let name = format!("{n}.dead.example.com");
        assert_eq!(line.ask(&name, client(1), now), LineDecision::Queued);
        assert_eq!(line.start().as_deref(), Some(&*name));
        line.leave(&name, true, now);
        line.finish(&name, false, now);
    }
    line
}

#[test]
fn dead_names_leave_threads_to_other_clients() {
    let (mut line, now) = (LookupLine::new(THREADS), Instant::now());
    for n in 0..2000 {
        line.ask(&format!("dead{n}.example"), client(1), now);
    }
    let mut running = 0;
    while line.start().is_some() {
        running += 1;
    }
    assert!(running > 1 && running < THREADS - 1, "{running}");
    line.ask("live.example", client(2), now);
    assert_eq!(line.start().as_deref(), Some("live.example"), "it passes 2,000 waiting names");
}

#[test]
fn an_abandoned_lookup_keeps_its_client_s_place() {
    let (mut line, now) = (LookupLine::new(THREADS), Instant::now());
    let mut running = Vec::new();
    for n in 0..20 {
        line.ask(&format!("dead{n}.example"), client(1), now);
        running.extend(line.start());
    }
    for name in &running {
        line.leave(name, true, now);
    }
    assert_eq!(line.start(), None, "the threads are still in use");
    line.finish(&running[0], false, now);
    assert!(line.start().is_some());
}

#[test]
fn a_slow_zone_leaves_threads_to_other_names() {
    let now = Instant::now();
    let mut line = with_slow_zone(now);
    let asked = (0..100).map(|n| line.ask(&format!("x{n}.dead.example.com"), client(1), now));
    let asked: Vec<_> = asked.collect();
    let queued = |decision: &&LineDecision| **decision == LineDecision::Queued;
    assert_eq!(asked.iter().filter(queued).count(), SLOW_LOOKUPS);
    assert_eq!(line.ask("live.example.org", client(1), now), LineDecision::Queued);
    assert_eq!(line.ask("example.com", client(1), now), LineDecision::Queued, "the zone above");
}

// The names are in no common zone. One client has rows of these and of living hosts.
#[test]
fn a_thousand_dead_names_leave_threads_to_known_ones() {
    let (mut line, now) = (LookupLine::new(THREADS), Instant::now());
    line.ask("cdn.example", client(1), now);
    line.start();
    line.finish("cdn.example", true, now);
    let (mut queued, mut running) = (0, Vec::new());
    for n in 0..1000 {
        let name = format!("dead{n}.example");
        if line.ask(&name, client(1), now) == LineDecision::Queued {
            queued += 1;
            running.extend(line.start());
        }
        // Each look-up that began ends without an answer, but for the last two.
        if queued <= MANY_SLOW_NAMES as usize
            && let Some(name) = running.pop()
        {
            line.leave(&name, true, now);
            line.finish(&name, false, now);
        }
    }
    assert_eq!(queued, MANY_SLOW_NAMES as usize + SLOW_LOOKUPS, "the others are deferred");
    assert_eq!(line.ask("cdn.example", client(1), now), LineDecision::Queued);
    assert_eq!(line.start().as_deref(), Some("cdn.example"));
    assert_eq!(line.ask("new.example", client(2), now), LineDecision::Queued, "another client");
    assert_eq!(line.ask("new2.example", client(1), now + SLOW_ZONE), LineDecision::Queued);
    // Before that, answers of new names count.
    for (n, name) in running.iter().enumerate() {
        line.finish(name, true, now);
        assert_eq!(line.ask(&format!("n{n}.example"), client(1), now), LineDecision::Queued);
    }
}

#[test]
fn known_names_go_first() {
    let (mut line, now) = (LookupLine::new(1), Instant::now());
    line.ask("known.example", client(1), now);
    line.start();
    line.finish("known.example", true, now);
    line.ask("new.example", client(1), now);
    line.ask("known.example", client(1), now);
    assert_eq!(line.start().as_deref(), Some("known.example"));
}

#[test]
fn a_zone_is_slow_only_for_who_asked() {
    let now = Instant::now();
    let mut line = with_slow_zone(now);
    for n in 0..5 {
        let name = format!("y{n}.dead.example.com");
        assert_eq!(line.ask(&name, client(2), now), LineDecision::Queued);
    }
}

#[test]
fn a_slow_zone_recovers() {
    let now = Instant::now();
    let busy = |line: &mut LookupLine, now| {
        (0..4).any(|n| {
            line.ask(&format!("z{n}.dead.example.com"), client(1), now) == LineDecision::Busy
        })
    };
    let mut line = with_slow_zone(now);
    assert!(!busy(&mut line, now + SLOW_ZONE), "by time");
    let mut line = with_slow_zone(now);
    line.ask("answers.dead.example.com", client(1), now);
    line.start();
    line.finish("answers.dead.example.com", true, now);
    assert!(!busy(&mut line, now), "by an answer");
}

#[test]
fn top_level_domains_are_no_zones() {
    assert_eq!(zone("shop.com"), None);
    assert_eq!(zone("localhost"), None);
    assert_eq!(zone("cdn.shop.com"), Some("shop.com"));
    assert_eq!(zone("a.cdn.shop.com."), Some("cdn.shop.com"));
}

#[test]
fn an_unanswered_name_rests_for_seconds() {
    let (mut line, now) = (LookupLine::new(THREADS), Instant::now());
    line.ask("dead.example", client(1), now);
    line.start();
    line.finish("dead.example", false, now);
    assert_eq!(line.ask("dead.example", client(2), now), LineDecision::Slow);
    assert_eq!(line.ask("dead.example", client(2), now + SLOW_NAME), LineDecision::Queued);
}

#[test]
fn a_name_that_no_caller_wants_leaves_the_line() {
    let (mut line, now) = (LookupLine::new(THREADS), Instant::now());
    line.ask("a.example", client(1), now);
    line.ask("a.example", client(2), now);
    assert!(!line.leave("a.example", true, now));
    assert!(line.leave("a.example", true, now));
    assert_eq!(line.start(), None);
}

#[test]
fn a_second_client_moves_a_name_forward() {
    let (mut line, now) = (LookupLine::new(THREADS), Instant::now());
    for n in 0..50 {
        line.ask(&format!("dead{n}.example"), client(1), now);
    }
    while line.start().is_some() {}
    line.ask("dead49.example", client(2), now);
    assert_eq!(line.start().as_deref(), Some("dead49.example"));
}

#[test]
fn memory_of_slow_names_is_bounded() {
    let (mut line, now) = (LookupLine::new(THREADS), Instant::now());
    for n in 0..2 * MOST_REMEMBERED {
        let name = format!("dead.{n}.example.com");
        line.ask(&name, client(n as u64), now);
        line.start();
        line.leave(&name, true, now);
        line.finish(&name, false, now);
    }
    assert!(line.slow_names.len() <= MOST_REMEMBERED && line.slow_zones.len() <= MOST_REMEMBERED);
}
