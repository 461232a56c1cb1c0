//! Who may have written the files of a remote model: only root and the server's user.
//!
//! A role that may choose the model by an absolute path must not be able to send a file of the
//! server to an address of its own. So `remote.json` counts only in a folder under the models
//! directory that other users cannot write, and a key only as a file inside of that folder.

use crate::ModelsError;
use rustix::fs::OFlags;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Largest key file, bytes.
pub const MAX_KEY: u64 = 64 << 10;

/// Write permission of group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A folder under the models directory that only root and the server's user can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderGuard {
    folder: PathBuf,
    user: u32,
}

impl FolderGuard {
    /// Checks a folder and the folders between it and the models directory, symbolic links
    /// resolved. `user` is the server's user, by default the user of this process.
    ///
    /// # Errors
    /// [`ModelsError::Content`]: the folder is elsewhere, or another user can write it.
    pub fn new(
        folder: &Path,
        models: &Path,
        user: Option<u32>,
    ) -> Result<FolderGuard, ModelsError> {
        let user = user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ModelsError::File { path, source }
        };
        let real = folder.canonicalize().map_err(failed(folder))?;
        let root = models.canonicalize().map_err(failed(models))?;
        if real == root || !real.starts_with(&root) {
            return Err(ModelsError::content(
                folder,
                format!("a remote model must be in a folder under {}", models.display()),
            ));
        }
        let guard = FolderGuard { folder: real.clone(), user };
        for path in real.ancestors().take_while(|path| path.starts_with(&root)) {
            let metadata = fs::metadata(path).map_err(failed(path))?;
            guard.check_writers(path, &metadata)?;
        }
        Ok(guard)
    }

    /// The folder, symbolic links resolved.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads a file of the folder that only root and the server's user can write.
    ///
    /// # Errors
    /// [`ModelsError::File`] or [`ModelsError::Content`].
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ModelsError> {
        let path = self.path(name)?;
        let (file, metadata) = open_regular(&path)?;
        self.check_writers(&path, &metadata)?;
        read_limited(file, &path, limit)
    }

    /// Reads a secret: as [`FolderGuard::read`], and other users must not be able to read it. A
    /// file of root may be readable by its group, as PostgreSQL's own key files.
    ///
    /// # Errors
    /// [`ModelsError::Content`] that never shows `name`, which may be a key by mistake.
    pub fn read_secret(&self, name: &str, option: &str) -> Result<Vec<u8>, ModelsError> {
        let (file, path) = self.open_secret(name, option)?;
        read_limited(file, &path, MAX_KEY).map_err(|error| self.nameless(option, &error))
    }

    /// Checks a secret without reading it.
    ///
    /// # Errors
    /// As [`FolderGuard::read_secret`].
    pub fn check_secret(&self, name: &str, option: &str) -> Result<(), ModelsError> {
        self.open_secret(name, option).map(drop)
    }

    fn open_secret(&self, name: &str, option: &str) -> Result<(File, PathBuf), ModelsError> {
        let open = || {
            let path = self.path(name)?;
            let (file, metadata) = open_regular(&path)?;
            self.check_writers(&path, &metadata)?;
            let private = if metadata.uid() == 0 { 0o007 } else { 0o077 };
            if metadata.mode() & private != 0 {
                return Err(ModelsError::content(
                    &path,
                    "other users can read it; run chmod 0600 on it",
                ));
            }
            if metadata.len() > MAX_KEY {
                return Err(ModelsError::content(&path, format!("larger than {MAX_KEY} bytes")));
            }
            Ok((file, path))
        };
        open().map_err(|error| self.nameless(option, &error))
    }

    /// The error about the file that an option of `remote.json` names, without that name.
    fn nameless(&self, option: &str, error: &ModelsError) -> ModelsError {
        let reason = match error {
            ModelsError::File { source, .. } => source.to_string(),
            ModelsError::Content { reason, .. } => reason.clone(),
            _ => "it cannot be used".into(),
        };
        ModelsError::content(
            &self.folder.join(super::REMOTE_FILE),
            format!("the file that \"{option}\" names: {reason}"),
        )
    }

    /// A file inside of the folder itself.
    fn path(&self, name: &str) -> Result<PathBuf, ModelsError> {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(only)), None) if only.len() == name.len() => {
                Ok(self.folder.join(name))
            }
            _ => Err(ModelsError::content(
                &self.folder,
                "not the name of a file inside of the model's folder",
            )),
        }
    }

    fn check_writers(&self, path: &Path, metadata: &Metadata) -> Result<(), ModelsError> {
        let owner = metadata.uid();
        if owner != 0 && owner != self.user {
            return Err(ModelsError::content(
                path,
                format!(
                    "its owner has the user id {owner}; a remote model counts only if root or \
                     the server's user (id {}) owns it",
                    self.user
                ),
            ));
        }
        if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(ModelsError::content(
                path,
                "other users can write it; a remote model needs chmod go-w",
            ));
        }
        Ok(())
    }
}

/// Opens a regular file, not through a symbolic link. Never waits, whatever the name is.
fn open_regular(path: &Path) -> Result<(File, Metadata), ModelsError> {
    let failed = |source| ModelsError::File { path: path.into(), source };
    if !fs::symlink_metadata(path).map_err(failed)?.is_file() {
        return Err(ModelsError::content(path, "not a regular file"));
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(failed)?;
    // Of the opened file: the name may be another file by now.
    let metadata = file.metadata().map_err(failed)?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(ModelsError::content(path, "not a regular file")),
    }
}

fn read_limited(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, ModelsError> {
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ModelsError::File { path: path.into(), source })?;
    match bytes.len() as u64 > limit {
        true => Err(ModelsError::content(path, format!("larger than {limit} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// A models directory with one folder, `far`, that has a key.
    fn models() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("far");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("key"), "sk-secret\n").unwrap();
        chmod(dir.path(), 0o755);
        chmod(&folder, 0o755);
        chmod(&folder.join("key"), 0o600);
        (dir, folder)
    }

    fn guard(folder: &Path, models: &Path) -> Result<FolderGuard, String> {
        FolderGuard::new(folder, models, None).map_err(|error| error.to_string())
    }

    #[test]
    fn only_folders_under_the_models_directory_count() {
        let (dir, folder) = models();
        assert!(guard(&folder, dir.path()).is_ok());
        let (_other, elsewhere) = models();
        for (path, why) in [(elsewhere.as_path(), "elsewhere"), (dir.path(), "the directory")] {
            let error = guard(path, dir.path()).unwrap_err();
            assert!(error.contains("must be in a folder under"), "{why}: {error}");
        }
        // A link that leaves the directory, and a path that does.
        symlink(&elsewhere, dir.path().join("link")).unwrap();
        assert!(guard(&dir.path().join("link"), dir.path()).is_err());
        assert!(guard(&folder.join("../.."), dir.path()).is_err());
        assert!(guard(&dir.path().join("absent"), dir.path()).unwrap_err().contains("absent"));
    }

    #[test]
    fn folders_that_others_can_write_do_not_count() {
        let (dir, folder) = models();
        for mode in [0o775, 0o757, 0o777] {
            chmod(&folder, mode);
            assert!(guard(&folder, dir.path()).unwrap_err().contains("can write"), "{mode:o}");
        }
        chmod(&folder, 0o755);
        chmod(dir.path(), 0o777);
        assert!(guard(&folder, dir.path()).is_err(), "the folder could be replaced");
        chmod(dir.path(), 0o755);
        // For another user than the owner's the folder is foreign, unless root owns it.
        let own = rustix::process::geteuid().as_raw();
        let other = FolderGuard::new(&folder, dir.path(), Some(own + 1));
        assert_eq!(other.is_ok(), own == 0, "{other:?}");
    }

    #[test]
    fn keys_are_private_files_of_the_folder() {
        let (dir, folder) = models();
        let guard = guard(&folder, dir.path()).unwrap();
        let read = |name: &str| guard.read_secret(name, "api_key_file").map_err(|e| e.to_string());
        assert_eq!(read("key").unwrap(), b"sk-secret\n");
        for mode in [0o604, 0o644, 0o622, 0o602] {
            chmod(&folder.join("key"), mode);
            assert!(read("key").is_err(), "{mode:o}");
            assert!(guard.check_secret("key", "api_key_file").is_err());
        }
        chmod(&folder.join("key"), 0o600);
        fs::write(dir.path().join("outside"), "x").unwrap();
        symlink(dir.path().join("outside"), folder.join("link")).unwrap();
        fs::create_dir(folder.join("folder")).unwrap();
        fs::write(folder.join("large"), vec![b'x'; MAX_KEY as usize + 1]).unwrap();
        chmod(&folder.join("large"), 0o600);
        let fifo = std::process::Command::new("mkfifo").arg(folder.join("fifo")).status();
        assert!(fifo.is_ok_and(|status| status.success()), "mkfifo");
        for name in ["link", "folder", "large", "fifo", "../outside", "/etc/passwd", "", ".", "a/b"]
        {
            assert!(read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_key_in_place_of_its_file_is_not_shown() {
        let (dir, folder) = models();
        let guard = guard(&folder, dir.path()).unwrap();
        for key in ["sk-proj-123456", "sk/proj/123456"] {
            let error = guard.read_secret(key, "api_key_file").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("123456"), "{error:?}");
            assert!(error.to_string().contains("\"api_key_file\""), "{error}");
        }
    }
}
