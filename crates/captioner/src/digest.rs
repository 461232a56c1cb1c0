//! The identity of a model: a digest over every file that decides its captions, and whether a batch
//! may change them.
//!
//! Reads each loaded file once, external weights included.

use crate::ModelError;
use crate::folder::ModelFolder;
use crate::weights::weights_file;
use pg_caption_models::CONFIG_FILES;
use pg_caption_onnx::external_locations;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Operators that quantise activations with one scale for a whole tensor, so that a caption may
/// depend on its neighbours in a batch.
const BATCH_DEPENDENT: [&[u8]; 2] = [b"DynamicQuantizeLinear", b"DynamicQuantizeMatMul"];

/// The identity of a model.
pub(crate) struct ModelIdentity {
    /// SHA-256 over names and contents, lower-case hexadecimal.
    pub digest: String,
    /// Size of all files, bytes.
    pub bytes: u64,
    /// No graph has an operator whose result for a row depends on other rows.
    pub batch_invariant: bool,
}

/// Reads every file that decides the captions of a folder whose `graphs` are loaded.
pub(crate) fn identify(
    folder: &ModelFolder,
    graphs: &[PathBuf],
) -> Result<ModelIdentity, ModelError> {
    let mut files: Vec<PathBuf> = CONFIG_FILES
        .iter()
        .filter(|file| file.digested)
        .map(|file| folder.file(file.name))
        .filter(|path| path.is_file())
        .collect();
    for graph in graphs {
        files.push(graph.clone());
        let locations = external_locations(graph)
            .map_err(|source| ModelError::File { path: graph.clone(), source })?;
        files.extend(locations.iter().map(|location| weights_file(graph, location)));
    }
    files.sort();
    files.dedup();
    let mut all = Sha256::new();
    let mut identity = ModelIdentity { digest: String::new(), bytes: 0, batch_invariant: true };
    for path in files {
        let file = read(&path).map_err(|source| ModelError::File { path: path.clone(), source })?;
        let name = path.strip_prefix(&folder.path).unwrap_or(&path);
        all.update(name.to_string_lossy().as_bytes());
        all.update([0]);
        all.update(file.sha256);
        identity.bytes += file.bytes;
        identity.batch_invariant &= !(file.batch_dependent && graphs.contains(&path));
    }
    identity.digest = format!("{:x}", all.finalize());
    Ok(identity)
}

struct Contents {
    sha256: [u8; 32],
    bytes: u64,
    batch_dependent: bool,
}

fn read(path: &Path) -> std::io::Result<Contents> {
    let mut file = File::open(path)?;
    let finders = BATCH_DEPENDENT.map(memchr::memmem::Finder::new);
    // A name may be split between two reads: keep the tail of one before the next.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operator_names_are_found_at_any_offset() {
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
