//! Reading the small files of a folder, none of them beyond a bound.

use crate::ModelsError;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Largest configuration file that is read, bytes; published ones have a few kilobytes.
pub const MAX_CONFIG: u64 = 4 << 20;
/// Largest `tokenizer.json` that is read, bytes; a vocabulary of 262,144 tokens takes 33 MB.
pub const MAX_TOKENIZER: u64 = 128 << 20;

/// How a Git LFS pointer begins; it has about 130 bytes.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// Largest file that may be a pointer, bytes.
const MAX_POINTER: u64 = 1024;

/// Refuses a Git LFS pointer in place of a file of any kind. Reads only a file that is small enough
/// to be one; what cannot be read is left to its reader.
///
/// # Errors
/// [`ModelsError::LfsPointer`].
pub fn refuse_pointer(path: &Path) -> Result<(), ModelsError> {
    let small = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= MAX_POINTER);
    match small.then(|| fs::read(path)) {
        Some(Ok(bytes)) if bytes.starts_with(LFS_POINTER) => {
            Err(ModelsError::LfsPointer { path: path.into() })
        }
        _ => Ok(()),
    }
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// [`ModelsError::File`] if it cannot be read, [`ModelsError::Content`] if it is too large,
/// [`ModelsError::LfsPointer`] if it is a pointer to the file.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, ModelsError> {
    let failed = |source| ModelsError::File { path: path.into(), source };
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(failed)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.starts_with(LFS_POINTER) {
        return Err(ModelsError::LfsPointer { path: path.into() });
    }
    match bytes.len() as u64 > limit {
        true => Err(ModelsError::content(path, format!("larger than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// Parses JSON; the error names the field that is wrong.
///
/// # Errors
/// The reason, as text.
pub(crate) fn parse_named<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        match error.path().iter().next() {
            Some(_) => error.to_string(),
            None => error.inner().to_string(),
        }
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Reads a configuration file: a JSON object of at most [`MAX_CONFIG`] bytes.
///
/// # Errors
/// [`ModelsError::File`] or [`ModelsError::Content`].
pub fn read_json(path: &Path) -> Result<Value, ModelsError> {
    let value: Value = serde_json::from_slice(&read_file(path, MAX_CONFIG)?)
        .map_err(|e| ModelsError::content(path, e))?;
    if value.is_object() { Ok(value) } else { Err(ModelsError::content(path, "not a JSON object")) }
}

/// What a reader returned, or `None` where the file does not exist.
///
/// # Errors
/// Every other error of the reader.
pub fn if_exists<T>(read: Result<T, ModelsError>) -> Result<Option<T>, ModelsError> {
    match read {
        Err(ModelsError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// `model_type` of a `config.json`.
///
/// # Errors
/// [`ModelsError::Content`] if it states none.
pub fn model_type_of(config: &Value, path: &Path) -> Result<String, ModelsError> {
    let named = config.get("model_type").and_then(Value::as_str);
    named.map(Into::into).ok_or_else(|| ModelsError::content(path, "no \"model_type\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beyond_the_bound_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, "{\"a\": 1}").unwrap();
        assert_eq!(read_file(&path, 8).unwrap().len(), 8);
        let error = read_file(&path, 7).unwrap_err().to_string();
        assert!(error.ends_with("config.json: larger than 7 bytes"), "{error}");
        assert_eq!(read_json(&path).unwrap()["a"], 1);
        fs::write(&path, "[]").unwrap();
        assert!(read_json(&path).unwrap_err().to_string().ends_with(": not a JSON object"));
        assert!(if_exists(read_json(&dir.path().join("other.json"))).unwrap().is_none());
    }
}
