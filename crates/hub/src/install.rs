//! The folder: filled under a name that nobody takes for a model, put in place in one step.

use crate::HubError;
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// What a pull leaves in a folder about itself.
pub(crate) const ORIGIN: &str = ".pull.json";

/// Where a folder came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) repo: String,
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

impl Origin {
    /// Of an installed folder.
    pub(crate) fn of(folder: &Path) -> Option<Origin> {
        serde_json::from_slice(&fs::read(folder.join(ORIGIN)).ok()?).ok()
    }
}

/// A folder being filled. What is in it stays for the next attempt unless it is put in place.
pub(crate) struct Partial {
    path: PathBuf,
    target: PathBuf,
    /// Held open: its lock keeps others out.
    folder: File,
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> HubError + '_ {
    move |source| HubError::File { path: path.into(), source }
}

impl Partial {
    /// Opens (or goes on with) the folder that will become `models/name`.
    pub(crate) fn open(models: &Path, name: &str) -> Result<Partial, HubError> {
        let (path, target) = (models.join(format!(".{name}.partial")), models.join(name));
        fs::create_dir_all(path.join("onnx")).map_err(file_error(&path))?;
        let folder = File::open(&path).map_err(file_error(&path))?;
        match folder.try_lock() {
            Ok(()) => Ok(Partial { path, target, folder }),
            Err(TryLockError::WouldBlock) => Err(HubError::Busy { path: target }),
            Err(TryLockError::Error(source)) => Err(HubError::File { path, source }),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it; the folders on the way to it are made.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf, HubError> {
        let path = self.path.join(name);
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).map_err(file_error(folder))?;
        Ok(path)
    }

    /// Bytes here of these files.
    pub(crate) fn bytes(&self, files: &[&str]) -> u64 {
        files
            .iter()
            .filter_map(|file| fs::metadata(self.path.join(file)).ok())
            .map(|m| m.len())
            .sum()
    }

    /// Removes every file whose path in here is not wanted.
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

    /// Refuses a download that will not fit.
    pub(crate) fn room_for(&self, needed: u64) -> Result<(), HubError> {
        let system = statvfs(&self.path).map_err(|e| file_error(&self.path)(e.into()))?;
        let available = system.f_bavail.saturating_mul(system.f_frsize);
        if needed > available {
            Err(HubError::NoSpace { path: self.target.clone(), needed, available })
        } else {
            Ok(())
        }
    }

    /// Makes it the model: with everything on the disk first, and in one step, so that no other
    /// process ever sees half of it.
    pub(crate) fn put_in_place(self, origin: &Origin) -> Result<PathBuf, HubError> {
        let (path, target) = (&self.path, &self.target);
        let text = serde_json::to_vec_pretty(origin).unwrap_or_default();
        fs::write(path.join(ORIGIN), text).map_err(file_error(path))?;
        for synced in [path.join(ORIGIN), path.join("onnx")] {
            File::open(&synced).and_then(|f| f.sync_all()).map_err(file_error(&synced))?;
        }
        // A model without graphs in it is none, so the folder is never empty; but one whose graphs
        // lie beside config.json has no use for it.
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

/// The new folder takes the old one's name and the old one the new one's.
fn exchange(new: &Path, old: &Path) -> std::io::Result<()> {
    if renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // A file system that cannot: for a moment there is none.
    let aside = old.with_file_name(format!(
        ".{}.replaced",
        old.file_name().unwrap_or_default().to_string_lossy()
    ));
    fs::rename(old, &aside)?;
    fs::rename(new, old)?;
    fs::rename(&aside, new)
}
