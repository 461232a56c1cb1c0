//! Locations of the PostgreSQL under test, of models and pictures, and the server's user. Used by
//! the harness and by tests that read files of the project.

use pg_caption_checks::code_blocks;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The project's root folder.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the project")
}

/// Path (relative to the project) and text of every Rust file below `folders` of the project. With
/// `tests` false, files, folders and modules of tests and benches are left out.
///
/// # Panics
/// If a folder or file cannot be read.
pub fn rust_files(folders: &[&str], tests: bool) -> Vec<(PathBuf, String)> {
    let is_test = |name: &str| {
        ["tests", "benches", "examples", "tests.rs"].contains(&name) || name.ends_with("_tests.rs")
    };
    let (mut found, mut next) = (Vec::new(), Vec::from_iter(folders.iter().map(PathBuf::from)));
    while let Some(folder) = next.pop() {
        for entry in std::fs::read_dir(project().join(&folder)).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name);
            if name == "target" || !tests && is_test(&name) {
                continue;
            } else if entry.path().is_dir() {
                next.push(path);
            } else if name.ends_with(".rs") {
                let mut text = std::fs::read_to_string(entry.path()).expect("a source file");
                if !tests {
                    text.truncate(text.find("#[cfg(test)]").unwrap_or(text.len()));
                }
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// The blocks of SQL in a page of Markdown, in order.
pub fn sql_blocks(page: &str) -> impl Iterator<Item = &str> {
    code_blocks(page).filter(|block| block.language == "sql").map(|block| block.text)
}

/// The library of a module, where the PostgreSQL under test has it.
pub fn module_file(module: &str) -> PathBuf {
    pg_config("pkglibdir").join(format!("{module}.so"))
}

/// The output of `pg_config --ITEM` of the PostgreSQL under test: the one that PG_CONFIG names, or
/// else the private copy that `make test` creates.
///
/// # Panics
/// If that PostgreSQL does not exist.
pub(crate) fn pg_config(item: &str) -> PathBuf {
    let program = std::env::var_os("PG_CONFIG").filter(|name| !name.is_empty()).map_or_else(
        || {
            project()
                .join(".run/test-postgresql")
                .canonicalize()
                .expect("an installation; run `make test` once")
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

/// The folder of the PostgreSQL programs.
pub(crate) fn bindir() -> PathBuf {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| pg_config("bindir")).clone()
}

/// The folder of the programs of the older major version, if OLD_PG_CONFIG names its pg_config.
pub(crate) fn older_bindir() -> Option<PathBuf> {
    let program = std::env::var_os("OLD_PG_CONFIG").filter(|name| !name.is_empty())?;
    Some(Path::new(&program).parent().expect("a path").into())
}

/// User and group id for server processes: those of `postgres` if the tests run as root, because
/// PostgreSQL refuses to run as root. Otherwise `None`, the current user.
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

/// A folder of the optional files outside the project (`../shared`, or PG_CAPTION_SHARED), if it
/// exists.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("PG_CAPTION_SHARED")
        .map_or_else(|| project().join("../shared"), PathBuf::from);
    Some(shared.join(folder)).filter(|folder| folder.is_dir())
}

/// Installs the script of a release. Returns the version for `CREATE EXTENSION … VERSION`. That of
/// the current version, whose script is installed already, has another name, and an upgrade from
/// there that changes nothing.
///
/// # Panics
/// If `tests/released` has no such release.
pub(crate) fn install_release(version: &str) -> String {
    let saved = project().join(format!("tests/released/pg_caption--{version}.sql"));
    let sql = std::fs::read(saved).expect("the script of a release");
    if version != env!("CARGO_PKG_VERSION") {
        install_script(version, &sql);
        return version.into();
    }
    let installed = format!("{version}-released");
    install_script(&installed, &sql);
    install_script(&format!("{installed}--{version}"), b"");
    installed
}

/// Installs a script of the extension. Other tests may read the file at the same time: it is
/// written under another name, then renamed.
fn install_script(versions: &str, sql: &[u8]) {
    let name = format!("pg_caption--{versions}.sql");
    let folder = pg_config("sharedir").join("extension");
    let new =
        folder.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&new, sql)
        .and_then(|()| std::fs::rename(&new, folder.join(&name)))
        .expect("a writable installation");
}

/// The versions of all published releases, whose scripts are in `tests/released`, in order of their
/// names.
///
/// # Panics
/// If the folder cannot be read.
pub fn releases() -> Vec<String> {
    let folder = project().join("tests/released");
    let mut versions: Vec<String> = std::fs::read_dir(folder)
        .expect("tests/released")
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix("pg_caption--")?.strip_suffix(".sql")?.to_owned())
        })
        .collect();
    versions.sort();
    versions
}

/// The path of another program of this package, next to the test binaries
/// (`target/debug/deps/live-…`).
///
/// # Panics
/// If the path of the test binary is unknown.
pub fn test_program(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("the path of this program");
    here.ancestors().nth(2).expect("target/debug").join(name)
}

/// The folder of the demo's pictures.
pub fn demo_pictures() -> PathBuf {
    project().join("demo/images")
}

/// The absolute path of a model with known answers in `tests/parity`.
pub fn parity(model: &str) -> PathBuf {
    project().join("tests/parity").join(model)
}

/// The absolute path of the model under test: PG_CAPTION_TEST_MODEL, or else the default model, or
/// else the parity model.
///
/// # Panics
/// If none of them exists.
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
