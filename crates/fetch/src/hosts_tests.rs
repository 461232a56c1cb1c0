//! Promises about how hosts are treated, on a clock of the test's own.

use super::*;

const A: &str = "a.example:443";
const B: &str = "b.example:443";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn served() -> HostAnswer {
    HostAnswer::Served("http_200".into())
}

fn patience(wait: Option<u64>) -> HostAnswer {
    HostAnswer::Patience { code: "http_429".into(), wait: wait.map(seconds), certain: true }
}

fn unavailable() -> HostAnswer {
    HostAnswer::Patience { code: "http_503".into(), wait: None, certain: false }
}

/// One request to `host` that ends with `answer`.
fn one(hosts: &mut HostTable, host: &str, answer: HostAnswer, now: Instant) {
    assert_eq!(hosts.admit(host, now), HostDecision::Go);
    hosts.finish(host, answer, now);
}

#[test]
fn a_host_at_its_cap_is_busy_until_one_request_ends_and_others_go_on() {
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
fn a_host_that_names_its_patience_gets_exactly_that() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    one(&mut hosts, A, patience(Some(30)), now);
    assert_eq!(
        hosts.admit(A, now + seconds(29)),
        HostDecision::Cooling { until: now + seconds(30) }
    );
    assert_eq!(hosts.admit(B, now), HostDecision::Go, "others go on");
    assert_eq!(hosts.admit(A, now + seconds(30)), HostDecision::Go);
}

#[test]
fn without_a_named_patience_the_pauses_double_with_jitter_up_to_a_bound_and_end_with_an_answer() {
    let (mut hosts, mut now) = (HostTable::new(2, 7), Instant::now());
    for step in 0..14 {
        one(&mut hosts, A, patience(None), now);
        let pause = hosts.pause(A, now).unwrap();
        let full = seconds(1 << step).min(LONGEST_PAUSE);
        assert!(pause >= full / 2 && pause <= full, "step {step}: {pause:?}");
        now += pause;
    }
    one(&mut hosts, A, served(), now);
    one(&mut hosts, A, patience(None), now);
    assert!(hosts.pause(A, now).unwrap() <= FIRST_PAUSE);
}

#[test]
fn two_hosts_refused_at_one_moment_do_not_come_back_at_one_moment() {
    let (mut hosts, now) = (HostTable::new(2, 7), Instant::now());
    let pauses: std::collections::HashSet<_> = (0..20)
        .map(|n| {
            let host = format!("h{n}.example:80");
            one(&mut hosts, &host, patience(None), now);
            hosts.pause(&host, now).unwrap()
        })
        .collect();
    assert_eq!(pauses.len(), 20);
}

#[test]
fn requests_already_on_their_way_do_not_lengthen_the_pause() {
    let (mut hosts, now) = (HostTable::new(6, 7), Instant::now());
    (0..6).for_each(|_| assert_eq!(hosts.admit(A, now), HostDecision::Go));
    (0..6).for_each(|_| hosts.finish(A, patience(None), now));
    assert!(hosts.pause(A, now).unwrap() <= FIRST_PAUSE);
}

#[test]
fn a_single_url_that_is_unavailable_does_not_stop_its_host_but_two_in_a_row_do() {
    let (mut hosts, now) = (HostTable::new(6, 7), Instant::now());
    one(&mut hosts, A, unavailable(), now);
    one(&mut hosts, A, served(), now);
    one(&mut hosts, A, unavailable(), now);
    assert_eq!(hosts.pause(A, now), None);
    one(&mut hosts, A, unavailable(), now);
    assert!(hosts.pause(A, now).is_some());
}

#[test]
fn requests_that_ended_for_our_own_reasons_say_nothing_about_the_host() {
    let (mut hosts, mut now) = (HostTable::new(6, 7), Instant::now());
    one(&mut hosts, A, patience(None), now);
    now += seconds(1);
    one(&mut hosts, A, HostAnswer::Dropped, now);
    one(&mut hosts, A, patience(None), now);
    assert!(hosts.pause(A, now).unwrap() >= seconds(1), "the second refusal in a row");
}

#[test]
fn pauses_survive_an_engine_exchange() {
    let (mut old, now) = (HostTable::new(2, 1), Instant::now());
    one(&mut old, A, patience(Some(60)), now);
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
fn the_status_lists_hosts_in_flight_or_cooling_and_the_last_answer_of_those_asked_lately() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    one(&mut hosts, B, patience(Some(10)), now);
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
fn a_status_of_many_hosts_shows_those_that_matter_now() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    assert_eq!(hosts.admit(A, now), HostDecision::Go);
    one(&mut hosts, B, patience(Some(3600)), now);
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
fn what_is_handed_to_the_next_engine_fits_into_a_pipe() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    for n in 0..1000 {
        // as long as a name and its port can be
        one(&mut hosts, &format!("{n:0>253}:65535"), patience(Some(10 + n)), now);
    }
    let handed = pg_caption_wire::EngineControl::Cooling { hosts: hosts.cooldowns(now) };
    let line = serde_json::to_string(&handed).unwrap();
    assert!(line.len() < 64 << 10, "{} bytes", line.len());
    assert!(line.contains("999:65535"), "the longest pause is among them");
}

#[test]
fn a_catalogue_of_a_million_hosts_does_not_fill_the_memory() {
    let (mut hosts, now) = (HostTable::new(2, 1), Instant::now());
    assert_eq!(hosts.admit(A, now), HostDecision::Go);
    for n in 0..3 * MAX_HOSTS {
        one(&mut hosts, &format!("h{n}.example:80"), patience(Some(10 + n as u64)), now);
    }
    assert!(hosts.hosts.len() <= MAX_HOSTS);
    assert!(hosts.hosts.contains_key(A), "what is in flight is never forgotten");
    let longest = format!("h{}.example:80", 3 * MAX_HOSTS - 1);
    assert!(matches!(hosts.admit(&longest, now), HostDecision::Cooling { .. }));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens_no_host_is_over_its_cap_or_asked_while_it_rests(
        steps in proptest::collection::vec((0..3usize, 0..6u8, 0..40u64), 1..200),
        cap in 1..4u32,
    ) {
        let names = [A, B, "c.example:80"];
        let (mut hosts, mut now) = (HostTable::new(cap, 3), Instant::now());
        let (mut flying, mut rest) = ([0u32; 3], [now; 3]);
        for (host, act, n) in steps {
            match act {
                0..=2 => match hosts.admit(names[host], now) {
                    HostDecision::Go => {
                        flying[host] += 1;
                        proptest::prop_assert!(flying[host] <= cap && rest[host] <= now);
                    }
                    HostDecision::Busy => proptest::prop_assert_eq!(flying[host], cap),
                    HostDecision::Cooling { until } => proptest::prop_assert_eq!(until, rest[host]),
                },
                3 => now += Duration::from_millis(n * 250),
                _ if flying[host] == 0 => {}
                answer => {
                    flying[host] -= 1;
                    let answer = match (answer, n) {
                        (4, _) => served(),
                        (_, n @ 0..10) => patience(Some(n)),
                        (_, 10..20) => patience(None),
                        (_, 20..30) => unavailable(),
                        (_, 30..35) => HostAnswer::Failed("timeout".into()),
                        _ => HostAnswer::Dropped,
                    };
                    let named = match &answer {
                        HostAnswer::Patience { wait: Some(wait), .. } => now + *wait,
                        _ => now,
                    };
                    hosts.finish(names[host], answer, now);
                    let until = hosts.pause(names[host], now).map_or(now, |p| now + p);
                    proptest::prop_assert!(until >= named && until >= rest[host].max(now), "a pause is never cut short");
                    rest[host] = until;
                }
            }
        }
    }
}
