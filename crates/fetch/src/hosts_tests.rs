//! Promises about limits and pauses of hosts, with a simulated clock.

use super::*;

const A: &str = "a.example:443";
const B: &str = "b.example:443";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn served() -> HostAnswer {
    HostAnswer::Served("http_200".into())
}

fn refused(wait: Option<u64>) -> HostAnswer {
    HostAnswer::PauseRequest { code: "http_429".into(), wait: wait.map(seconds), always: true }
}

fn unavailable() -> HostAnswer {
    HostAnswer::PauseRequest { code: "http_503".into(), wait: None, always: false }
}

/// One request to `host` that ends with `answer`.
fn one(hosts: &mut HostTable, host: &str, answer: HostAnswer, now: Instant) {
    assert_eq!(hosts.admit(host, now), HostDecision::Go);
    hosts.finish(host, answer, now);
}

#[test]
fn a_host_at_its_limit_is_busy() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    assert_eq!(
        [hosts.admit(A, now), hosts.admit(A, now), hosts.admit(A, now)],
        [HostDecision::Go, HostDecision::Go, HostDecision::Busy]
    );
    assert_eq!(hosts.admit(B, now), HostDecision::Go);
    hosts.finish(A, served(), now);
    assert_eq!([hosts.admit(A, now), hosts.admit(A, now)], [HostDecision::Go, HostDecision::Busy]);
}

#[test]
fn a_stated_pause_is_kept_exactly() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    one(&mut hosts, A, refused(Some(30)), now);
    assert_eq!(
        hosts.admit(A, now + seconds(29)),
        HostDecision::Cooling { until: now + seconds(30) }
    );
    assert_eq!(hosts.admit(B, now), HostDecision::Go, "other hosts are not affected");
    assert_eq!(hosts.admit(A, now + seconds(30)), HostDecision::Go);
}

#[test]
fn unstated_pauses_double_until_an_answer() {
    let (mut hosts, mut now) = (HostTable::new(2, 7), Instant::now());
    for step in 0..14 {
        one(&mut hosts, A, refused(None), now);
        let pause = hosts.pause(A, now).unwrap();
        let full = seconds(1 << step).min(LONGEST_PAUSE);
        assert!(pause >= full / 2 && pause <= full, "step {step}: {pause:?}");
        now += pause;
    }
    one(&mut hosts, A, served(), now);
    one(&mut hosts, A, refused(None), now);
    assert!(hosts.pause(A, now).unwrap() <= FIRST_PAUSE);
}

#[test]
fn pauses_of_hosts_end_at_different_times() {
    let (mut hosts, now) = (HostTable::new(2, 7), Instant::now());
    let pauses: std::collections::HashSet<_> = (0..20)
        .map(|n| {
            let host = format!("h{n}.example:80");
            one(&mut hosts, &host, refused(None), now);
            hosts.pause(&host, now).unwrap()
        })
        .collect();
    assert_eq!(pauses.len(), 20);
}

#[test]
fn requests_in_flight_do_not_lengthen_a_pause() {
    let (mut hosts, now) = (HostTable::new(6, 7), Instant::now());
    (0..6).for_each(|_| assert_eq!(hosts.admit(A, now), HostDecision::Go));
    (0..6).for_each(|_| hosts.finish(A, refused(None), now));
    assert!(hosts.pause(A, now).unwrap() <= FIRST_PAUSE);
}

#[test]
fn only_repeated_503_pauses_a_host() {
    let (mut hosts, now) = (HostTable::new(6, 7), Instant::now());
    one(&mut hosts, A, unavailable(), now);
    one(&mut hosts, A, served(), now);
    one(&mut hosts, A, unavailable(), now);
    assert_eq!(hosts.pause(A, now), None);
    one(&mut hosts, A, unavailable(), now);
    assert!(hosts.pause(A, now).is_some());
}

#[test]
fn dropped_requests_do_not_change_the_host() {
    let (mut hosts, mut now) = (HostTable::new(6, 7), Instant::now());
    one(&mut hosts, A, refused(None), now);
    now += seconds(1);
    one(&mut hosts, A, HostAnswer::Dropped, now);
    one(&mut hosts, A, refused(None), now);
    assert!(hosts.pause(A, now).unwrap() >= seconds(1), "the second refusal in a row");
}

#[test]
fn pauses_survive_an_engine_handover() {
    let (mut old, now) = (HostTable::new(2, 1), Instant::now());
    one(&mut old, A, refused(Some(60)), now);
    one(&mut old, B, served(), now);
    let handed = old.cooldowns(now + seconds(20));
    assert_eq!(handed.len(), 1);
    let (mut new, later) = (HostTable::new(2, 2), now + seconds(500));
    new.restore(&handed, later);
    assert_eq!(
        new.admit(A, later + seconds(39)),
        HostDecision::Cooling { until: later + seconds(40) }
    );
    assert_eq!(new.admit(A, later + seconds(40)), HostDecision::Go);
    assert_eq!(new.snapshot(later)[0].last.as_deref(), Some("http_429"));
}

#[test]
fn the_status_lists_active_and_recent_hosts() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    one(&mut hosts, B, refused(Some(10)), now);
    one(&mut hosts, "c.example:80", HostAnswer::Failed("tls".into()), now + seconds(1));
    assert_eq!(hosts.admit(A, now), HostDecision::Go);
    let list = |hosts: &HostTable, now| -> Vec<_> {
        hosts
            .snapshot(now)
            .into_iter()
            .map(|h| (h.host, h.in_flight, h.cooling_ms, h.last, h.last_ms_ago))
            .collect()
    };
    let (b, c) = (Some("http_429".to_owned()), Some("tls".to_owned()));
    let (a, rest) =
        ((A.to_owned(), 1, None, None, None), ("c.example:80".to_owned(), 0, None, c, Some(3000)));
    assert_eq!(
        list(&hosts, now + seconds(4)),
        [a, (B.to_owned(), 0, Some(6000), b.clone(), Some(4000)), rest]
    );
    assert_eq!(
        list(&hosts, now + seconds(11))[1],
        (B.to_owned(), 0, None, b, Some(11_000)),
        "its pause is over, its answer is not forgotten"
    );
}

#[test]
fn a_status_of_many_hosts_prefers_active_ones() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    assert_eq!(hosts.admit(A, now), HostDecision::Go);
    one(&mut hosts, B, refused(Some(3600)), now);
    for n in 0..1000 {
        one(&mut hosts, &format!("h{n}.example:80"), served(), now + seconds(n));
    }
    let shown: Vec<_> = hosts.snapshot(now + seconds(1000)).into_iter().map(|h| h.host).collect();
    assert_eq!(shown.len(), MAX_SHOWN);
    for host in [A, B, "h999.example:80", "h802.example:80"] {
        assert!(shown.iter().any(|h| h == host), "{host}");
    }
}

#[test]
fn cooldowns_fit_into_a_pipe() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    for n in 0..1000 {
        // The longest possible name and port.
        one(&mut hosts, &format!("{n:0>253}:65535"), refused(Some(10 + n)), now);
    }
    let handed = pg_caption_wire::EngineControl::Cooling { hosts: hosts.cooldowns(now) };
    let line = serde_json::to_string(&handed).unwrap();
    assert!(line.len() < 64 << 10, "{} bytes", line.len());
    assert!(line.contains("999:65535"), "the longest pause is among them");
}

#[test]
fn any_number_of_hosts_takes_bounded_memory() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    assert_eq!(hosts.admit(A, now), HostDecision::Go);
    for n in 0..3 * MAX_HOSTS {
        one(&mut hosts, &format!("h{n}.example:80"), refused(Some(10 + n as u64)), now);
    }
    assert!(hosts.hosts.len() <= MAX_HOSTS);
    assert!(hosts.hosts.contains_key(A), "hosts with requests in flight stay");
    let longest = format!("h{}.example:80", 3 * MAX_HOSTS - 1);
    assert!(matches!(hosts.admit(&longest, now), HostDecision::Cooling { .. }));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn limits_and_pauses_hold_for_every_sequence(
        steps in proptest::collection::vec((0..3usize, 0..6u8, 0..40u64), 1..200),
        limit in 1..4u32,
    ) {
        let names = [A, B, "c.example:80"];
        let (mut hosts, mut now) = (HostTable::new(limit, 3), Instant::now());
        let (mut in_flight, mut rest) = ([0u32; 3], [now; 3]);
        for (host, act, n) in steps {
            match act {
                0..=2 => match hosts.admit(names[host], now) {
                    HostDecision::Go => {
                        in_flight[host] += 1;
                        proptest::prop_assert!(in_flight[host] <= limit && rest[host] <= now);
                    }
                    HostDecision::Busy => proptest::prop_assert_eq!(in_flight[host], limit),
                    HostDecision::Cooling { until } => proptest::prop_assert_eq!(until, rest[host]),
                },
                3 => now += Duration::from_millis(n * 250),
                _ if in_flight[host] == 0 => {}
                answer => {
                    in_flight[host] -= 1;
                    let answer = match (answer, n) {
                        (4, _) => served(),
                        (_, n @ 0..10) => refused(Some(n)),
                        (_, 10..20) => refused(None),
                        (_, 20..30) => unavailable(),
                        (_, 30..35) => HostAnswer::Failed("timeout".into()),
                        _ => HostAnswer::Dropped,
                    };
                    let named = match &answer {
                        HostAnswer::PauseRequest { wait: Some(wait), .. } => now + *wait,
                        _ => now,
                    };
                    hosts.finish(names[host], answer, now);
                    let until = hosts.pause(names[host], now).map_or(now, |p| now + p);
                    proptest::prop_assert!(
                        until >= named && until >= rest[host].max(now),
                        "a pause is never shortened"
                    );
                    rest[host] = until;
                }
            }
        }
    }
}
