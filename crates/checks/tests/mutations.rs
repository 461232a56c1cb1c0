//! The checks of the fuzz targets over the corpus and thousands of its mutations, which are the
//! same in every run. Inputs that a fuzzer found are part of the corpus.

use fastrand::Rng;
use pg_caption_checks::{CheckResult, address, picture, wire};
use std::fs;
use std::path::Path;

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

/// Changes, removes or duplicates a few bytes, or replaces them with the start of another seed.
fn mutate(seed: &[u8], other: &[u8], random: &mut Rng) -> Vec<u8> {
    /// Values at boundaries.
    const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'@', b'%'];
    let mut below = |n: usize| random.usize(..n.max(1));
    let mut bytes = seed.to_vec();
    for _ in 0..=below(4) {
        let at = if below(2) == 0 { below(bytes.len().min(64)) } else { below(bytes.len()) };
        let length = (1 + below(8)).min(bytes.len().saturating_sub(at));
        match below(6) {
            0 if !bytes.is_empty() => bytes[at] = EDGES[below(EDGES.len())],
            1 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let doubled = bytes[at..at + length].to_vec();
                bytes.splice(at..at, doubled);
            }
            4 => bytes.truncate(at),
            _ => drop(
                bytes.splice(at..at + length, other[..below(other.len().min(32))].iter().copied()),
            ),
        }
    }
    bytes
}

fn all_hold(name: &str, check: fn(&[u8]) -> CheckResult, mutations: usize) {
    let (seeds, mut random) = (corpus(name), Rng::with_seed(7));
    for (file, bytes) in &seeds {
        check(bytes).unwrap_or_else(|violation| panic!("{file}: {violation}"));
        for number in 0..mutations / seeds.len() {
            let other = &seeds[random.usize(..seeds.len())].1;
            let bytes = mutate(bytes, other, &mut random);
            check(&bytes).unwrap_or_else(|violation| {
                panic!("{file}, mutation {number}: {violation}\n{bytes:?}")
            });
        }
    }
}

#[test]
fn frames_do_not_depend_on_fragmentation() {
    all_hold("wire", wire, 20_000);
}

#[test]
fn urls_have_one_host_and_show_no_secret() {
    all_hold("address", address, 50_000);
}

#[test]
fn files_match_their_header_or_are_refused() {
    all_hold("picture", picture, 6_000);
}
