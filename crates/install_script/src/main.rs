//! `pg_caption_install_script LIBRARY CONTROL VERSION FOLDER`: writes the control file and the
//! install script of the extension into a folder. scripts/install.sh calls it after the build of
//! the library.
//!
//! `cargo pgrx package` does the same. It is not used for this because it takes longer to build
//! than the extension.

use object::{Object, ObjectSection};
use pgrx_sql_entity_graph::section::{decode_entities, is_schema_section_name};
use pgrx_sql_entity_graph::{ControlFile, PgrxSql, SqlGraphEntity};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

/// The name of the extension and of its library.
const NAME: &str = "pg_caption";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, control, version, folder] = arguments.as_slice() else {
        eprintln!("usage: pg_caption_install_script LIBRARY CONTROL VERSION FOLDER");
        return ExitCode::from(2);
    };
    match write(library.as_ref(), control.as_ref(), version, folder.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {library}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes both files.
///
/// # Errors
/// A file that cannot be read or written; a library without descriptions.
fn write(
    library: &Path,
    control: &Path,
    version: &str,
    folder: &Path,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let bytes = std::fs::read(library)?;
    let file = object::File::parse(bytes.as_slice())?;
    let section = file
        .sections()
        .find(|section| section.name().is_ok_and(is_schema_section_name))
        .ok_or("the library has no section with the descriptions of the SQL objects")?;
    let described = decode_entities(section.data()?)?;
    let root = ControlFile::from_path_with_cargo_version(control, version)?;
    let entities = std::iter::once(SqlGraphEntity::ExtensionRoot(root)).chain(described);
    let script = PgrxSql::build(entities, NAME.into(), false)?.to_sql()?;

    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(format!("{NAME}--{version}.sql")), script)?;
    let text = std::fs::read_to_string(control)?.replace("@CARGO_VERSION@", version);
    std::fs::write(folder.join(format!("{NAME}.control")), text)?;
    Ok(())
}
