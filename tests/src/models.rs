//! Models directories for tests that choose, damage and swap models.

use crate::{TestCluster, locations};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A models directory for one test, removed at the end of the test.
pub struct ModelsDirectory(PathBuf);

impl ModelsDirectory {
    /// Copies the model under test under these names. The copies differ in a setting that is part
    /// of the digest.
    ///
    /// # Panics
    /// If copying fails.
    pub fn of(names: &[&str]) -> ModelsDirectory {
        let models = ModelsDirectory::empty();
        for name in names {
            models.copy(&locations::model(), name);
        }
        models
    }

    /// Copies the model of that name in `tests/parity`.
    ///
    /// # Panics
    /// If copying fails.
    pub fn of_parity(name: &str) -> ModelsDirectory {
        let models = ModelsDirectory::empty();
        models.copy(&locations::parity(name), name);
        models
    }

    fn empty() -> ModelsDirectory {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ModelsDirectory(
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

    /// Changes a JSON file of a model.
    ///
    /// # Panics
    /// If the file does not exist.
    pub fn edit(&self, name: &str, file: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.0.join(name).join(file);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// Writes a JSON file into the folder of a model, which it creates.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, file: &str, content: &serde_json::Value) {
        fs::create_dir_all(self.0.join(name)).unwrap();
        fs::write(self.0.join(name).join(file), content.to_string()).unwrap();
    }

    /// Writes a file of a model, as the server's user if the test runs as root; the folder is made
    /// if it is not there.
    ///
    /// # Panics
    /// If writing fails.
    pub fn put(&self, name: &str, file: &str, content: &str, mode: u32) {
        let path = self.0.join(name).join(file);
        fs::create_dir_all(self.0.join(name)).unwrap();
        // A file that is replaced is another one: the server never reads half of it.
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        crate::cluster::give_to_server_user(&new);
        fs::rename(&new, &path).unwrap();
    }

    /// The folder of a model.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The path of the models directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Starts a cluster with this models directory and waits until `name` is ready.
    ///
    /// # Panics
    /// Like [`TestCluster::private`].
    pub fn cluster(&self, name: &str) -> TestCluster {
        self.cluster_with(name, &[])
    }

    /// Like [`ModelsDirectory::cluster`], with additional settings.
    ///
    /// # Panics
    /// Like [`TestCluster::private`].
    pub fn cluster_with(&self, name: &str, settings: &[(&str, &str)]) -> TestCluster {
        for folder in folders(&self.0) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let own =
            [("pg_caption.models_directory", self.0.to_str().unwrap()), ("pg_caption.model", name)];
        let cluster = TestCluster::private(&[&own[..], settings].concat());
        let db = cluster.database();
        db.eventually("(SELECT state = 'ready' FROM caption.engine_status())");
        drop(db);
        cluster
    }
}

impl Drop for ModelsDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A folder and all folders below it.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_path_buf()];
    for entry in fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_dir()) {
        all.extend(folders(&entry.path()));
    }
    all
}
