//! Promises about how hosts are treated, on a clock of the test's own.

use super::*;

const A: &str = "a.example:443";
const B: &str = "b.example:443";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn served() -> Answer {
    Answer::Served("http_200".into())
}

fn patience(wait: Option<u64>) -> Answer {
    Answer::Patience { code: "http_429".into(), wait: wait.map(seconds), certain: true }
}

fn unavailable() -> Answer {
    Answer::Patience { code: "http_503".into(), wait: None, certain: false }
}

/// One request to `host` that ends with `answer`.
fn one(hosts: &mut Hosts, host: &str, answer: Answer, now: Instant) {
    assert_eq!(hosts.admit(host, now), Decision::Go);
    hosts.finish(host, answer, now);
}

#[test]
fn a_host_at_its_cap_is_busy_until_one_request_ends_and_others_go_on() {
    let (mut hosts, now) = (Hosts::new(2, 1), Instant::now());
    assert_eq!([hosts.admit(A, now), hosts.admit(A, now), hosts.admit(A, now)], [Decision::Go, Decision::Go, Decision::Busy]);
    assert_eq!(hosts.admit(B, now), Decision::Go);
    hosts.finish(A, served(), now);
    assert_eq!([hosts.admit(A, now), hosts.admit(A, now)], [Decision::Go, Decision::Busy]);
}

#[test]
fn a_host_that_names_its_patience_gets_exactly_that() {
    let (mut hosts, now) = (Hosts::new(2, 1), Instant::now());
    one(&mut hosts, A, patience(Some(30)), now);
    assert_eq!(hosts.admit(A, now + seconds(29)), Decision::Cooling { until: now + seconds(30) });
    assert_eq!(hosts.admit(B, now), Decision::Go, "others go on");
    assert_eq!(hosts.admit(A, now + seconds(30)), Decision::Go);
}

#[test]
fn without_a_named_patience_the_pauses_double_with_jitter_up_to_a_bound_and_end_with_an_answer() {
    let (mut hosts, mut now) = (Hosts::new(2, 7), Instant::now());
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
    let (mut hosts, now) = (Hosts::new(2, 7), Instant::now());
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
    let (mut hosts, now) = (Hosts::new(6, 7), Instant::now());
    (0..6).for_each(|_| assert_eq!(hosts.admit(A, now), Decision::Go));
    (0..6).for_each(|_| hosts.finish(A, patience(None), now));
    assert!(hosts.pause(A, now).unwrap() <= FIRST_PAUSE);
}

#[test]
fn a_single_url_that_is_unavailable_does_not_stop_its_host_but_two_in_a_row_do() {
    let (mut hosts, now) = (Hosts::new(6, 7), Instant::now());
    one(&mut hosts, A, unavailable(), now);
    one(&mut hosts, A, served(), now);
    one(&mut hosts, A, unavailable(), now);
    assert_eq!(hosts.pause(A, now), None);
    one(&mut hosts, A, unavailable(), now);
    assert!(hosts.pause(A, now).is_some());
}

#[test]
fn requests_that_ended_for_our_own_reasons_say_nothing_about_the_host() {
    let (mut hosts, mut now) = (Hosts::new(6, 7), Instant::now());
    one(&mut hosts, A, patience(None), now);
    now += seconds(1);
    one(&mut hosts, A, Answer::Dropped, now);
    one(&mut hosts, A, patience(None), now);
    assert!(hosts.pause(A, now).unwrap() >= seconds(1), "the second refusal in a row");
}

#[test]
fn pauses_survive_an_engine_exchange() {
    let (mut old, now) = (Hosts::new(2, 1), Instant::now());
    one(&mut old, A, patience(Some(60)), now);
    one(&mut old, B, served(), now);
    let handed = old.cooldowns(now + seconds(20));
    assert_eq!(handed.len(), 1);
    let (mut new, later) = (Hosts::new(2, 2), now + seconds(500));
    new.restore(&handed, later);
    assert_eq!(new.admit(A, later + seconds(39)), Decision::Cooling { until: later + seconds(40) });
    assert_eq!(new.admit(A, later + seconds(40)), Decision::Go);
    assert_eq!(new.snapshot(later)[0].last.as_deref(), Some("http_429"));
}

#[test]
fn the_status_lists_hosts_in_flight_or_cooling_and_no_others() {
    let (mut hosts, now) = (Hosts::new(2, 1), Instant::now());
    one(&mut hosts, B, patience(Some(10)), now);
    one(&mut hosts, "c.example:80", served(), now);
    assert_eq!(hosts.admit(A, now), Decision::Go);
    let list = hosts.snapshot(now + seconds(4));
    assert_eq!(list.iter().map(|h| (h.host.as_str(), h.in_flight, h.cooling_ms)).collect::<Vec<_>>(), [(A, 1, None), (B, 0, Some(6000))]);
    assert!(hosts.snapshot(now + seconds(11)).iter().all(|h| h.host == A));
}

#[test]
fn a_catalogue_of_a_million_hosts_does_not_fill_the_memory() {
    let (mut hosts, now) = (Hosts::new(2, 1), Instant::now());
    assert_eq!(hosts.admit(A, now), Decision::Go);
    for n in 0..3 * MAX_HOSTS {
        one(&mut hosts, &format!("h{n}.example:80"), patience(Some(10 + n as u64)), now);
    }
    assert!(hosts.hosts.len() <= MAX_HOSTS);
    assert!(hosts.hosts.contains_key(A), "what is in flight is never forgotten");
    let longest = format!("h{}.example:80", 3 * MAX_HOSTS - 1);
    assert!(matches!(hosts.admit(&longest, now), Decision::Cooling { .. }));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens_no_host_is_over_its_cap_or_asked_while_it_rests(
        steps in proptest::collection::vec((0..3usize, 0..6u8, 0..40u64), 1..200),
        cap in 1..4u32,
    ) {
        let names = [A, B, "c.example:80"];
        let (mut hosts, mut now) = (Hosts::new(cap, 3), Instant::now());
        let (mut flying, mut rest) = ([0u32; 3], [now; 3]);
        for (host, act, n) in steps {
            match act {
                0..=2 => match hosts.admit(names[host], now) {
                    Decision::Go => {
                        flying[host] += 1;
                        proptest::prop_assert!(flying[host] <= cap && rest[host] <= now);
                    }
                    Decision::Busy => proptest::prop_assert_eq!(flying[host], cap),
                    Decision::Cooling { until } => proptest::prop_assert_eq!(until, rest[host]),
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
                        (_, 30..35) => Answer::Failed("timeout".into()),
                        _ => Answer::Dropped,
                    };
                    let named = match &answer {
                        Answer::Patience { wait: Some(wait), .. } => now + *wait,
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
