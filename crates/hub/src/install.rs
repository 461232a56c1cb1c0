//! The model folder: filled under a hidden name, which no scan takes for a model, and installed
//! atomically.

use crate::HubError;
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// The file in which a pull records the origin of a folder.
pub(crate) const ORIGIN: &str = ".pull.json";

/// The origin of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) repo: String,
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

impl Origin {
    /// Reads the origin of an installed folder.
    pub(crate) fn of(folder: &Path) -> Option<Origin> {
        serde_json::from_slice(&fs::read(folder.join(ORIGIN)).ok()?).ok()
    }
}

/// A folder being filled. Unless it is installed, its files stay for the next attempt.
pub(crate) struct PartialFolder {
    path: PathBuf,
    target: PathBuf,
    /// Open for its lock, which excludes other processes.
    folder: File,
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> HubError + '_ {
    move |source| HubError::File { path: path.into(), source }
}

impl PartialFolder {
    /// Creates or reopens the folder that becomes `models/name`.
    pub(crate) fn open(models: &Path, name: &str) -> Result<PartialFolder, HubError> {
        let (path, target) = (models.join(format!(".{name}.partial")), models.join(name));
        fs::create_dir_all(path.join("onnx")).map_err(file_error(&path))?;
        let folder = File::open(&path).map_err(file_error(&path))?;
        match folder.try_lock() {
            Ok(()) => Ok(PartialFolder { path, target, folder }),
            Err(TryLockError::WouldBlock) => Err(HubError::Busy { path: target }),
            Err(TryLockError::Error(source)) => Err(HubError::File { path, source }),
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Path of a file in it; creates the file's folder.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf, HubError> {
        let path = self.path.join(name);
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(file_error(folder))?;
        Ok(path)
    }

    /// Bytes that exist of these files.
    pub(crate) fn bytes(&self, files: &[&str]) -> u64 {
        files
            .iter()
            .filter_map(|file| fs::metadata(self.path.join(file)).ok())
            .map(|m| m.len())
            .sum()
    }

    /// Removes every file whose relative path is not wanted.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) -> Result<(), HubError> {
        self.retain_in("", &wanted)
    }

    fn retain_in(&self, prefix: &str, wanted: &dyn Fn(&str) -> bool) -> Result<(), HubError> {
        let folder = self.path.join(prefix);
        for entry in fs::read_dir(&folder).map_err(file_error(&folder))?.flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.file_type().map_err(file_error(&entry.path()))?.is_dir() {
                true => self.retain_in(&format!("{name}/"), wanted)?,
                false if wanted(&name) => {}
                false => fs::remove_file(entry.path()).map_err(file_error(&entry.path()))?,
            }
        }
        Ok(())
    }

    /// Refuses a download that does not fit.
    pub(crate) fn check_space(&self, needed: u64) -> Result<(), HubError> {
        let system = statvfs(&self.path).map_err(|e| file_error(&self.path)(e.into()))?;
        let available = system.f_bavail.saturating_mul(system.f_frsize);
        if needed > available {
            Err(HubError::NoSpace { path: self.target.clone(), needed, available })
        } else {
            Ok(())
        }
    }

    /// Installs it as the model: flushes everything to disk, then renames the folder, so that no
    /// other process sees a part of it.
    pub(crate) fn install(self, origin: &Origin) -> Result<PathBuf, HubError> {
        let (path, target) = (&self.path, &self.target);
        let text = serde_json::to_vec_pretty(origin).unwrap_or_default();
        fs::write(path.join(ORIGIN), text).map_err(file_error(path))?;
        for synced in [path.join(ORIGIN), path.join("onnx")] {
            File::open(&synced).and_then(|f| f.sync_all()).map_err(file_error(&synced))?;
        }
        // Fails unless the folder is empty, as for models whose graphs are next to config.json.
        let _ = fs::remove_dir(path.join("onnx"));
        self.folder.sync_all().map_err(file_error(path))?;
        if fs::symlink_metadata(target).is_ok() {
            exchange(path, target).map_err(file_error(target))?;
            fs::remove_dir_all(path).map_err(file_error(path))?;
        } else {
            fs::rename(path, target).map_err(file_error(target))?;
        }
        if let Some(models) = target.parent() {
            File::open(models).and_then(|f| f.sync_all()).map_err(file_error(models))?;
        }
        Ok(self.target)
    }
}

/// Exchanges the names of two folders.
fn exchange(new: &Path, old: &Path) -> std::io::Result<()> {
    if renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // A file system without the atomic exchange: for a moment there is no folder.
    let replaced = old.with_file_name(format!(
        ".{}.replaced",
        old.file_name().unwrap_or_default().to_string_lossy()
    ));
    fs::rename(old, &replaced)?;
    fs::rename(new, old)?;
    fs::rename(&replaced, new)
}
