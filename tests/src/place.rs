//! Where things are: the PostgreSQL under test, the user its server runs as, the model.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The project's root.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project")
}

/// What `pg_config --ITEM` of the PostgreSQL under test says: the one of PG_CONFIG, else the
/// private copy that `make test` installs into.
///
/// # Panics
/// If there is none.
pub(crate) fn pg_config(item: &str) -> PathBuf {
    let program = std::env::var_os("PG_CONFIG").filter(|name| !name.is_empty()).map_or_else(
        || {
            project()
                .join(".run/test-postgresql")
                .canonicalize()
                .expect("run `make test` once: it installs what is tested")
                .join("pg_config")
        },
        PathBuf::from,
    );
    let output = Command::new(&program)
        .arg(format!("--{item}"))
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    PathBuf::from(String::from_utf8(output.stdout).expect("UTF-8").trim())
}

/// Where the programs of that PostgreSQL are.
pub(crate) fn bindir() -> PathBuf {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| pg_config("bindir")).clone()
}

/// Where the programs of the older major are whose pg_config OLD_PG_CONFIG names, if it does.
pub(crate) fn older_bindir() -> Option<PathBuf> {
    let program = std::env::var_os("OLD_PG_CONFIG").filter(|name| !name.is_empty())?;
    Some(Path::new(&program).parent().expect("a path").into())
}

/// Whom server processes must belong to: user and group of `postgres` if we are root (PostgreSQL
/// refuses to run as root), else nobody else.
pub(crate) fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("as root, the tests need the system user postgres");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().expect("a number"));
    Some((fields.next().expect("uid"), fields.next().expect("gid")))
}

/// A folder of the files that are not part of the project (`../shared`, or PG_CAPTION_SHARED), if
/// it is there.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("PG_CAPTION_SHARED")
        .map_or_else(|| project().join("../shared"), PathBuf::from);
    Some(shared.join(folder)).filter(|folder| folder.is_dir())
}

/// Puts the SQL objects of an earlier release beside those of this one, where `CREATE EXTENSION …
/// VERSION` finds them.
///
/// # Panics
/// If there was no such release.
pub(crate) fn install_release(version: &str) {
    let name = format!("pg_caption--{version}.sql");
    let sql = std::fs::read(project().join("tests/released").join(&name))
        .expect("a release that there was");
    let folder = pg_config("sharedir").join("extension");
    // Other tests may be reading it: written under another name, and renamed.
    let new =
        folder.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&new, sql)
        .and_then(|()| std::fs::rename(&new, folder.join(&name)))
        .expect("an installation that may be written to");
}

/// The pictures that the project has drawn for its demo.
pub fn demo_pictures() -> PathBuf {
    project().join("demo/images")
}

/// A model whose answers are known (`tests/parity`); absolute.
pub fn parity(model: &str) -> PathBuf {
    project().join("tests/parity").join(model)
}

/// The model folder that is tested with: PG_CAPTION_TEST_MODEL, else the default model, else the
/// parity model; absolute.
///
/// # Panics
/// If there is none of them.
pub fn model() -> PathBuf {
    let candidates = [
        std::env::var_os("PG_CAPTION_TEST_MODEL").map(PathBuf::from),
        Some(pg_config("sharedir").join("pg_caption/models/default")),
        Some(project().join("tests/parity/vit-gpt2")),
        shared("parity/vit-gpt2"),
    ];
    let found = candidates.into_iter().flatten().find(|folder| folder.join("config.json").exists());
    found.expect("a model folder").canonicalize().expect("a model folder")
}
