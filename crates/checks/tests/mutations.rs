//! The fuzz targets' checks over the small corpus and thousands of its mutations, the same ones
//! each time. What a fuzzer found stands in the corpus.

use pg_caption_checks::{Outcome, address, picture, wire};
use std::fs;
use std::path::Path;

/// SplitMix64: its bits are good enough to choose places and bytes.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % n.max(1)
    }
}

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{} has seeds", folder.display());
    files
        .iter()
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect()
}

/// A few bytes changed, cut out, doubled, or replaced by the beginning of another seed.
fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    /// Values that lie at edges.
    const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'@', b'%'];
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = if random.below(2) == 0 {
            random.below(bytes.len().min(64))
        } else {
            random.below(bytes.len())
        };
        let length = (1 + random.below(8)).min(bytes.len().saturating_sub(at));
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] = EDGES[random.below(EDGES.len())],
            1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let doubled = bytes[at..at + length].to_vec();
                bytes.splice(at..at, doubled);
            }
            4 => bytes.truncate(at),
            _ => drop(bytes.splice(
                at..at + length,
                other[..random.below(other.len().min(32))].iter().copied(),
            )),
        }
    }
    bytes
}

fn all_hold(name: &str, check: fn(&[u8]) -> Outcome, mutations: usize) {
    let (seeds, mut random) = (corpus(name), Random(7));
    for (file, bytes) in &seeds {
        check(bytes).unwrap_or_else(|wrong| panic!("{file}: {wrong}"));
        for number in 0..mutations / seeds.len() {
            let other = &seeds[random.below(seeds.len())].1;
            let bytes = mutate(bytes, other, &mut random);
            check(&bytes)
                .unwrap_or_else(|wrong| panic!("{file}, mutation {number}: {wrong}\n{bytes:?}"));
        }
    }
}

#[test]
fn whatever_bytes_come_frames_are_read_the_same_however_they_are_cut() {
    all_hold("wire", wire, 20_000);
}

#[test]
fn whatever_url_comes_it_has_one_host_and_tells_no_secret_and_no_address_inside_is_let_through() {
    all_hold("address", address, 50_000);
}

#[test]
fn whatever_file_comes_it_is_the_picture_it_announced_or_refused() {
    all_hold("picture", picture, 6_000);
}
