//! Models directories for tests that choose, damage and exchange models.

use crate::{Cluster, place};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A models directory of its own, removed at the end of the test.
pub struct Models(PathBuf);

impl Models {
    /// Copies of the tested model under these names; each differs from the others by a setting that
    /// decides its digest.
    ///
    /// # Panics
    /// If they cannot be made.
    pub fn of(names: &[&str]) -> Models {
        let models = Models::empty();
        for name in names {
            models.copy(&place::model(), name);
        }
        models
    }

    /// A copy of the model in `tests/parity` of that name.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn of_parity(name: &str) -> Models {
        let models = Models::empty();
        models.copy(&place::parity(name), name);
        models
    }

    fn empty() -> Models {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Models(
            format!(
                "/tmp/pgc-models-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            )
            .into(),
        )
    }

    fn copy(&self, from: &Path, name: &str) {
        let to = self.0.join(name);
        for prefix in ["", "onnx"] {
            fs::create_dir_all(to.join(prefix)).unwrap();
            for file in
                fs::read_dir(from.join(prefix)).unwrap().flatten().filter(|e| e.path().is_file())
            {
                fs::copy(file.path(), to.join(prefix).join(file.file_name())).unwrap();
            }
        }
        self.edit(name, "config.json", |config| config["pg_caption_test"] = name.into());
    }

    /// Changes a JSON file of one.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn edit(&self, name: &str, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.0.join(name).join(file);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// The folder of one.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// A server whose models they are, `name` in use and ready.
    ///
    /// # Panics
    /// As [`Cluster::private`].
    pub fn cluster(&self, name: &str) -> Cluster {
        self.cluster_with(name, &[])
    }

    /// The same with more settings.
    ///
    /// # Panics
    /// As [`Cluster::private`].
    pub fn cluster_with(&self, name: &str, settings: &[(&str, &str)]) -> Cluster {
        for folder in walk(&self.0) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let own =
            [("pg_caption.models_directory", self.0.to_str().unwrap()), ("pg_caption.model", name)];
        let cluster = Cluster::private(&[&own[..], settings].concat());
        let db = cluster.database();
        db.eventually("(SELECT state = 'ready' FROM caption.engine_status())");
        drop(db);
        cluster
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_path_buf()];
    for entry in fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_dir()) {
        all.extend(walk(&entry.path()));
    }
    all
}
