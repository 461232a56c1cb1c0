//! `pg_caption.fetch_headers_file`: request headers, which may be secrets. Read by `serve` once,
//! before the confinement, which grants no access to it. The file must be as a key file of the
//! server: owned by the server's user or root, and not readable by others.

use crate::confine::leave_no_core;
use pg_caption_fetch::{FetchError, RequestHeaders};
use rustix::process::geteuid;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Largest file, bytes.
const MAX_FILE: u64 = 1 << 20;
/// Bits of a file's mode: group and others.
const GROUP_AND_OTHERS: u32 = 0o077;
/// The same where root owns the file: the server's user may read it as a member of the group.
const ALL_BUT_GROUP_READ: u32 = 0o037;

/// Reads the file; an empty path gives no headers. Once a file is named, the process leaves no core
/// file, and other processes of its user cannot read its memory.
///
/// # Errors
/// [`FetchError::Setting`], without any part of the file and without its path, which is visible to
/// superusers only.
pub fn read(path: &Path) -> Result<RequestHeaders, FetchError> {
    if path.as_os_str().is_empty() {
        return Ok(RequestHeaders::default());
    }
    leave_no_core();
    contents(path)
        .and_then(|text| RequestHeaders::parse(&text))
        .map_err(|reason| FetchError::Setting { setting: "pg_caption.fetch_headers_file", reason })
}

/// A file that no user but root and the one of this process can read.
///
/// # Errors
/// The reason, without any part of the file.
pub fn contents(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("the file cannot be read: {error}");
    if !path.is_absolute() {
        return Err("the path is not absolute".into());
    }
    // The checks concern the open file. A pipe would otherwise wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(cannot)?;
    check(&file.metadata().map_err(cannot)?, geteuid().as_raw())?;
    read_bounded(&file).map_err(cannot)?.ok_or_else(too_large)
}

fn too_large() -> String {
    format!("the file is larger than {MAX_FILE} bytes")
}

/// As PostgreSQL checks its own key files.
fn check(file: &Metadata, user: u32) -> Result<(), String> {
    if !file.is_file() {
        return Err("it is not a regular file".into());
    }
    let open_to = match file.uid() {
        owner if owner == user => GROUP_AND_OTHERS,
        0 => ALL_BUT_GROUP_READ,
        _ => return Err("the file must be owned by the server's user or root".into()),
    };
    if file.mode() & open_to != 0 {
        return Err("the file must not be open to group or others \
                    (mode 0600, or 0640 if root owns it)"
            .into());
    }
    if file.len() > MAX_FILE {
        return Err(too_large());
    }
    Ok(())
}

/// `None`: it has grown.
fn read_bounded(file: &File) -> std::io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= MAX_FILE).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    const FILE: &str = r#"[{"url": "https://a.example/", "headers": {"Cookie": "s3cret"}}]"#;

    #[test]
    fn the_file_is_checked_like_a_key_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers.json");
        let with = |text: &str, mode: u32| {
            write(&path, text).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            contents(&path)
        };
        assert_eq!(with(FILE, 0o600), Ok(FILE.into()));
        assert_eq!(with(FILE, 0o400), Ok(FILE.into()));
        for mode in [0o604, 0o606, 0o620, 0o610, 0o644, 0o666] {
            assert!(with(FILE, mode).unwrap_err().contains("group or others"), "{mode:o}");
        }
        assert!(with(&" ".repeat(MAX_FILE as usize + 1), 0o600).unwrap_err().contains("larger"));
        with(FILE, 0o600).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(contents(&link), Ok(FILE.into()));
        for (other, why) in [
            (dir.path().to_owned(), "regular file"),
            ("/dev/null".into(), "regular file"),
            (dir.path().join("missing"), "cannot be read"),
            ("headers.json".into(), "not absolute"),
        ] {
            assert!(contents(&other).unwrap_err().contains(why), "{other:?}");
        }
        // The group may read a file of root, and no file of another user is accepted.
        let metadata = std::fs::metadata(&path).unwrap();
        let other_user = metadata.uid() + 1;
        if geteuid().is_root() {
            set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            assert_eq!(check(&std::fs::metadata(&path).unwrap(), other_user), Ok(()));
            chown(&path, Some(other_user), None).unwrap();
            set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(check(&std::fs::metadata(&path).unwrap(), 0).unwrap_err().contains("owned"));
        } else {
            assert!(check(&metadata, other_user).unwrap_err().contains("owned"));
        }
    }

    #[test]
    fn an_error_contains_neither_path_nor_contents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers.json");
        write(&path, FILE.replace("https", "s3cret")).unwrap();
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = read(&path).unwrap_err();
        let shown = format!("{error:?} {:?}", error.failure());
        assert!(shown.contains("pg_caption.fetch_headers_file"), "{shown}");
        assert!(!shown.contains("s3cret") && !shown.contains("headers.json"), "{shown}");
        assert!(read(Path::new("")).unwrap().is_empty());
    }
}
