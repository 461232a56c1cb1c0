//! The key that clients of the HTTP server must have: read from a file, compared in constant time.

use crate::headers_file;
use std::path::Path;
use subtle::ConstantTimeEq;

/// Largest file, bytes.
const MAX_FILE: usize = 64 << 10;

/// A key. It is shown nowhere.
pub struct ServerKey(Vec<u8>);

impl ServerKey {
    /// Reads a file that only root and the user of this process can read.
    ///
    /// # Errors
    /// The reason, without any part of the file.
    pub fn read(path: &Path) -> Result<ServerKey, String> {
        let wrong = |reason: &str| format!("--key-file {}: {reason}", path.display());
        let absolute = std::path::absolute(path).map_err(|error| wrong(&error.to_string()))?;
        let content = headers_file::contents(&absolute).map_err(|reason| wrong(&reason))?;
        if content.len() > MAX_FILE {
            return Err(wrong("the file is larger than 64 kB"));
        }
        let key = content.trim_ascii();
        if key.is_empty() || !key.iter().all(u8::is_ascii_graphic) {
            return Err(wrong("it must contain one line of visible ASCII characters"));
        }
        Ok(ServerKey(key.into()))
    }

    /// Whether a value of the header `Authorization` has the key. Takes the same time for each
    /// wrong key of a length.
    pub fn opens(&self, authorization: &[u8]) -> bool {
        let Some((scheme, sent)) = authorization.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(sent.trim_ascii().ct_eq(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn read(content: &[u8], mode: u32) -> Result<ServerKey, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        ServerKey::read(&path)
    }

    #[test]
    fn only_the_whole_key_opens() {
        let key = read(b"sk-123\n", 0o600).unwrap();
        assert!(key.opens(b"Bearer sk-123") && key.opens(b"bearer  sk-123"));
        for wrong in ["", "Bearer ", "Bearer sk-12", "Bearer sk-1234", "Basic sk-123", "sk-123"] {
            assert!(!key.opens(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn a_key_file_is_private_and_has_one_line() {
        for (content, mode, cause) in [
            (&b"sk-123"[..], 0o644, "0600"),
            (b"sk-123", 0o602, "0600"),
            (b"", 0o600, "one line"),
            (b"sk-1\nsk-2", 0o600, "one line"),
            (b"sk-\xff", 0o600, "one line"),
        ] {
            let error = read(content, mode).err().unwrap();
            assert!(error.contains(cause) && !error.contains("sk-"), "{error}");
        }
        assert!(read(&vec![b'k'; 65 << 10], 0o600).is_err());
        assert!(ServerKey::read(Path::new("/nonexistent")).is_err());
        assert!(ServerKey::read(Path::new("/")).is_err());
    }
}
