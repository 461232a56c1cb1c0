use super::claims::{ClaimTable, FileOwner, Rank, Weights};
use super::*;
use std::collections::HashMap;

const TOTAL: u64 = 200;
const SPAN: Duration = Duration::from_secs(30);
/// Files that each simulated client fetches at the same time.
const WINDOW: usize = 8;
const WEIGHTS: Weights = Weights { span: SPAN, largest: 50 };

fn owner(connection: u64) -> FileOwner {
    FileOwner { connection, host: Some(format!("host{connection}:80")) }
}

fn table() -> ClaimTable {
    ClaimTable::new(TOTAL, WEIGHTS)
}

fn add(
    table: &mut ClaimTable,
    connection: u64,
    most: u64,
    now: Instant,
) -> (Rank, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    (table.add(owner(connection), most, Some(flag.clone()), now), flag)
}

fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

#[test]
fn small_files_pass_large_ones() {
    let (mut table, now) = (table(), Instant::now());
    let large: Vec<_> = (0..4).map(|connection| add(&mut table, connection, 50, now)).collect();
    for (rank, _) in &large {
        assert!(table.grow(*rank, 50));
    }
    let (small, _) = add(&mut table, 9, 5, now + Duration::from_secs(20));
    assert!(!table.grow(small, 5));
    assert_eq!(large.iter().filter(|(_, flag)| is_set(flag)).count(), 1, "one gives way");
    let (rank, _) = large.iter().find(|(_, flag)| is_set(flag)).unwrap();
    table.shrink(*rank, 0);
    assert!(table.grow(small, 5));
}

#[test]
fn a_large_file_grows_older_than_small_ones() {
    let (mut table, now) = (table(), Instant::now());
    let (large, flag) = add(&mut table, 1, 50, now);
    assert!(table.grow(large, 50));
    let later = now + WEIGHTS.latest();
    let small: Vec<_> = (2..22).map(|connection| add(&mut table, connection, 10, later)).collect();
    let grown = small.iter().filter(|(rank, _)| table.grow(*rank, 10)).count();
    assert_eq!(grown, 15);
    assert!(!is_set(&flag), "nothing newer displaces it");
}

#[test]
fn the_first_file_of_a_client_passes_later_ones() {
    let (mut table, now) = (table(), Instant::now());
    let greedy: Vec<_> = (0..4).map(|_| add(&mut table, 1, 50, now)).collect();
    greedy.iter().for_each(|(rank, _)| assert!(table.grow(*rank, 50)));
    let (other, _) = add(&mut table, 2, 50, now + Duration::from_secs(10));
    assert!(!table.grow(other, 50));
    let displaced: Vec<_> = greedy.iter().map(|(_, flag)| is_set(flag)).collect();
    assert_eq!(displaced, [false, false, false, true]);
}

#[test]
fn finished_files_and_uploads_are_never_displaced() {
    let (mut table, now) = (table(), Instant::now());
    let (finished, flag) = add(&mut table, 1, 50, now);
    assert!(table.grow(finished, 100));
    table.settle(finished);
    let upload = table.add(FileOwner { connection: 1, host: None }, 50, None, now);
    assert!(table.grow(upload, 100));
    let (other, _) = add(&mut table, 2, 1, now);
    assert!(!table.grow(other, 1));
    assert!(!is_set(&flag));
    table.remove(upload);
    assert!(table.grow(other, 1));
}

#[test]
fn later_files_do_not_take_what_an_earlier_one_awaits() {
    let (mut table, now) = (table(), Instant::now());
    let upload = table.add(FileOwner { connection: 7, host: None }, 50, None, now);
    assert!(table.grow(upload, 180));
    let (first, _) = add(&mut table, 1, 50, now);
    assert!(!table.grow(first, 50));
    let (second, _) = add(&mut table, 2, 50, now + SPAN);
    assert!(!table.grow(second, 10), "20 are free, and 50 are awaited");
    table.rest(first);
    assert!(table.grow(second, 10));
}

/// A simulated fetch.
struct Fetch {
    client: u64,
    size: u64,
    /// After so many bytes nothing more arrives: it holds its memory until the time limit.
    sent: u64,
    /// Bytes each second.
    rate: u64,
    rank: Option<Rank>,
    flag: Arc<AtomicBool>,
    arrived: u64,
    running: Option<Instant>,
    waited: u32,
    first_needed: Option<Instant>,
}

/// Plays random arrivals second by second, as `FileClaim` and the fetch threads use the table.
/// Returns the longest time from first need to the end, of honest fetches.
fn play(seed: u64) -> Duration {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut table, start) = (table(), Instant::now());
    let mut fetches: HashMap<u32, Fetch> = HashMap::new();
    let mut longest = Duration::ZERO;
    let mut next = 0;
    for second in 0.. {
        let now = start + Duration::from_secs(second);
        if second < 300 {
            for _ in 0..random.u32(0..4) {
                let client = random.u64(0..6);
                let open = fetches.values().filter(|fetch| fetch.client == client).count();
                if open >= WINDOW {
                    continue;
                }
                // Clients 0 and 1 are hostile: large files that never end by themselves.
                let (size, sent, rate) = match client {
                    0 | 1 => (50, random.u64(0..50), random.u64(1..50)),
                    _ => {
                        let size = random.u64(1..=50);
                        (size, size, random.u64(5..50))
                    }
                };
                fetches.insert(
                    next,
                    Fetch {
                        client,
                        size,
                        sent,
                        rate,
                        rank: None,
                        flag: Arc::default(),
                        arrived: 0,
                        running: Some(now),
                        waited: 0,
                        first_needed: None,
                    },
                );
                next += 1;
            }
        } else if fetches.is_empty() {
            break;
        }
        assert!(second < 3000, "seed {seed}: {} fetches never end", fetches.len());
        let mut ids: Vec<_> = fetches.keys().copied().collect();
        ids.sort_unstable();
        random.shuffle(&mut ids);
        for id in ids {
            let fetch = fetches.get_mut(&id).unwrap();
            let rank = *fetch.rank.get_or_insert_with(|| {
                fetch.first_needed = Some(now);
                table.add(owner(fetch.client), fetch.size, Some(fetch.flag.clone()), now)
            });
            let Some(began) = fetch.running else {
                // In the queue, outside the threads.
                fetch.flag.store(false, Ordering::Relaxed);
                if table.grow(rank, fetch.size) {
                    (fetch.running, fetch.arrived, fetch.waited) = (Some(now), 0, 0);
                }
                continue;
            };
            let to = (fetch.arrived + fetch.rate).min(fetch.sent);
            let grown = !is_set(&fetch.flag) && table.grow(rank, to);
            if grown {
                (fetch.arrived, fetch.waited) = (to, 0);
            } else {
                fetch.waited += 1;
            }
            let over = now - began >= SPAN;
            if over || fetch.arrived >= fetch.size {
                table.remove(rank);
                if fetch.client > 1 {
                    longest = longest.max(now - fetch.first_needed.unwrap());
                }
                fetches.remove(&id);
            } else if is_set(&fetch.flag) || fetch.waited > 1 {
                table.shrink(rank, 0);
                fetch.running = None;
            }
        }
        let held: u64 = fetches.values().filter_map(|f| f.rank).map(|rank| table.held(rank)).sum();
        assert_eq!(held + table.free(), TOTAL, "seed {seed}");
    }
    assert_eq!(table.free(), TOTAL);
    longest
}

#[test]
fn every_file_gets_its_memory() {
    for seed in 0..300 {
        let longest = play(seed);
        // Its own delay, and then one time limit for each four of the files that were due before.
        let before = (6 * WINDOW as u32).div_ceil((TOTAL / WEIGHTS.largest) as u32);
        assert!(longest <= WEIGHTS.latest() + before * SPAN, "seed {seed}: {longest:?}");
    }
}

fn memory() -> Arc<FileMemory> {
    let memory = FileMemory::new(400, 50, SPAN);
    memory.share_first(10);
    memory
}

#[test]
fn first_bytes_need_no_claim() {
    let memory = memory();
    assert!(!memory.needs_claim(10) && memory.needs_claim(11));
    let _all = memory.reserve(1, 300, Instant::now(), || false).unwrap();
    let mut claim = memory.claim(2, "host:80", 50, Arc::default()).unwrap();
    assert_eq!(claim.grow(10, 60, Instant::now(), || false), Ok(()));
    assert!(claim.grow(11, 60, Instant::now(), || false).is_err());
}

#[test]
fn a_thread_waits_a_second_for_memory() {
    let memory = memory();
    let all = memory.reserve(1, 300, Instant::now(), || false).unwrap();
    let mut claim = memory.claim(2, "host:80", 50, Arc::default()).unwrap();
    let late = Instant::now() + Duration::from_secs(3600);
    assert_eq!(claim.grow(50, 60, late, || false), Err(FileMemoryError::Displaced));
    assert!(!claim.try_whole());
    drop(all);
    assert!(claim.try_whole());
    claim.settle(30);
    drop(claim);
    assert_eq!(memory.claims.lock().free(), 300);
}

#[test]
fn hopeless_files_do_not_wait() {
    let memory = memory();
    let late = Instant::now() + Duration::from_secs(3600);
    let refused = memory.reserve(1, 301, late, || false).err();
    assert_eq!(refused, Some(ReserveError::TooLarge { total: 300 }));
    assert!(memory.claim(1, "host:80", 311, Arc::default()).is_err());
    let _all = memory.reserve(1, 300, late, || false).unwrap();
    assert_eq!(memory.reserve(1, 1, late, || true).err(), Some(ReserveError::Cancelled));
}

#[test]
fn an_upload_displaces_a_fetch() {
    let memory = memory();
    let flag: Arc<AtomicBool> = Arc::default();
    let fetched: Vec<_> = (0..6)
        .map(|_| {
            let mut claim = memory.claim(1, "host:80", 60, flag.clone()).unwrap();
            claim.grow(60, 60, Instant::now(), || false).unwrap();
            claim
        })
        .collect();
    let upload = std::thread::spawn({
        let memory = memory.clone();
        move || memory.reserve(2, 10, Instant::now() + SPAN, || false).is_ok()
    });
    while !is_set(&flag) {
        std::thread::yield_now();
    }
    fetched[5].release();
    assert!(upload.join().unwrap());
}
