//! What identifies a model: a digest over everything that decides its captions, and whether
//! batching may change them.
//!
//! Read in one pass over the files that were loaded, external weight files included.

use crate::ModelError;
use crate::folder::Folder;
use pg_caption_onnx::outside;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Files besides the graphs that decide what a caption says.
const CONFIGURATION: [&str; 9] = [
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Operators that quantise activations with one scale for a whole tensor, so that a picture's
/// neighbours in a batch matter.
const BATCH_DEPENDENT: [&[u8]; 2] = [b"DynamicQuantizeLinear", b"DynamicQuantizeMatMul"];

/// What the files of a model amount to.
pub(crate) struct Identity {
    /// SHA-256 over names and contents, lower-case hex.
    pub digest: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// No graph holds an operator whose result for a row depends on the other rows.
    pub batch_invariant: bool,
}

/// Reads every file that decides the captions of a folder with these graphs loaded.
pub(crate) fn identify(folder: &Folder, graphs: &[PathBuf]) -> Result<Identity, ModelError> {
    let mut files: Vec<PathBuf> =
        CONFIGURATION.iter().map(|name| folder.file(name)).filter(|path| path.is_file()).collect();
    for graph in graphs {
        files.push(graph.clone());
        let places =
            outside(graph).map_err(|source| ModelError::File { path: graph.clone(), source })?;
        files.extend(places.iter().map(|place| beside(graph, place)));
    }
    files.sort();
    files.dedup();
    let mut all = Sha256::new();
    let mut identity = Identity { digest: String::new(), bytes: 0, batch_invariant: true };
    for path in files {
        let file = read(&path).map_err(|source| ModelError::File { path: path.clone(), source })?;
        let name = path.strip_prefix(&folder.path).unwrap_or(&path);
        all.update(name.to_string_lossy().as_bytes());
        all.update([0]);
        all.update(file.sha256);
        identity.bytes += file.bytes;
        identity.batch_invariant &= !(file.batch_dependent && graphs.contains(&path));
    }
    identity.digest = hex(&all.finalize());
    Ok(identity)
}

/// The file that a graph names as a place of weights; such names count from the graph's own folder.
fn beside(graph: &Path, place: &str) -> PathBuf {
    // As ONNX Runtime does: "./weights.bin" is "weights.bin".
    graph.parent().unwrap_or(Path::new("")).join(place).components().collect()
}

/// Where the weights of a graph lie: the files it names, or those that are called after it where it
/// cannot be read.
pub fn external_data(graph: &Path) -> Vec<PathBuf> {
    if let Ok(places) = outside(graph) {
        return places.iter().map(|place| beside(graph, place)).collect();
    }
    let (Some(folder), Some(name)) = (graph.parent(), graph.file_name().and_then(|n| n.to_str()))
    else {
        return Vec::new();
    };
    let prefixes = [format!("{name}_data"), format!("{name}.data")];
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|e| {
            e.file_name()
                .to_str()
                .is_some_and(|n| prefixes.iter().any(|prefix| n.starts_with(prefix)))
        })
        .map(|e| e.path())
        .collect()
}

struct Contents {
    sha256: [u8; 32],
    bytes: u64,
    batch_dependent: bool,
}

fn read(path: &Path) -> std::io::Result<Contents> {
    let mut file = File::open(path)?;
    let finders = BATCH_DEPENDENT.map(memchr::memmem::Finder::new);
    // A name may straddle two reads: the tail of one stands before the next.
    let overlap = BATCH_DEPENDENT.iter().map(|name| name.len() - 1).max().unwrap_or(0);
    let mut buffer = vec![0; overlap + (1 << 20)];
    let mut kept = 0;
    let mut hash = Sha256::new();
    let mut contents = Contents { sha256: [0; 32], bytes: 0, batch_dependent: false };
    loop {
        let n = file.read(&mut buffer[kept..])?;
        if n == 0 {
            contents.sha256 = hash.finalize().into();
            return Ok(contents);
        }
        hash.update(&buffer[kept..kept + n]);
        contents.bytes += n as u64;
        let seen = &buffer[..kept + n];
        contents.batch_dependent |= finders.iter().any(|f| f.find(seen).is_some());
        let tail = seen.len().saturating_sub(overlap);
        let end = seen.len();
        buffer.copy_within(tail..end, 0);
        kept = end - tail;
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_name_is_found_wherever_it_stands() {
        let dir = std::env::temp_dir().join(format!("pg_caption-digest-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (at, size) in
            [(0, 100), (50, 1 << 20), ((1 << 20) - 9, 2 << 20), ((1 << 20) + 7, 3 << 20)]
        {
            let mut bytes = vec![b'x'; size];
            let path = dir.join(format!("{at}.onnx"));
            std::fs::write(&path, &bytes).unwrap();
            let plain = read(&path).unwrap();
            assert!(!plain.batch_dependent);
            bytes[at..at + 21].copy_from_slice(BATCH_DEPENDENT[0]);
            std::fs::write(&path, &bytes).unwrap();
            let marked = read(&path).unwrap();
            assert!(marked.batch_dependent, "at {at} of {size}");
            assert_eq!(marked.bytes, size as u64);
            assert_ne!(marked.sha256, plain.sha256);
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
