//! ONNX Runtime: the library, the one environment of the process, and sessions.
//!
//! An environment can be built once in a process's life, so it lives in a static and is never
//! dropped. Each session has a thread pool, since only there can the time be set for which threads
//! spin; calls take turns, so that no more than `threads` work at once.

use crate::ModelError;
use crate::digest::external_data;
use bytes::Bytes;
use memchr::memmem;
use once_cell::sync::OnceCell;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType};
use pg_caption_onnx::OnnxModel;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Smaller files are read as they are: there is little to gain, and somebody might write into them
/// while they are mapped.
const LARGE: u64 = 16 << 20;

/// A message of the format is smaller than this.
const LARGEST: u64 = 2 << 30;

/// Where ONNX Runtime looks for the weights of a model that comes from memory
/// (`kOrtSessionOptionsModelExternalInitializersFileFolderPath`).
const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// For how long a thread that has nothing to do looks for work before it sleeps, and how that is
/// said. An operator of a small graph takes less time than waking a thread: this much spinning
/// makes a step of the default model a third faster and takes a third less processor time than none
/// (`docs/speed.md`). The library's own choice, a million turns, would take milliseconds from the
/// database.
const SPINNING: (&str, &str) = ("session.intra_op.spin_duration_us", "50");

/// Whether threads spin at all (`kOrtSessionOptionsConfigAllowIntraOpSpinning`).
const MAY_SPIN: &str = "session.intra_op.allow_spinning";

struct Runtime {
    environment: Environment,
    library: PathBuf,
    threads: usize,
    spinning: (&'static str, &'static str),
}

static RUNTIME: OnceCell<Runtime> = OnceCell::new();

/// Loads the ONNX Runtime library and builds the process-wide environment; once in a process's
/// life. `threads` is how many work on one call of a session, the caller among them; 0 counts as 1.
///
/// `library` must be absolute. A second call with the same library changes nothing, not the threads
/// either; with another one it is an error.
pub fn init(library: &Path, threads: usize) -> Result<(), ModelError> {
    let failed = |reason: String| ModelError::Library { path: library.into(), reason };
    let runtime = RUNTIME.get_or_try_init(|| {
        // A relative path would be looked for beside the program and then along the loader's search
        // path.
        if !library.is_absolute() {
            return Err(failed("not an absolute path".into()));
        }
        // An older library does not know the word, passes over it and spins as it likes.
        let code = std::fs::read(library).map_err(|e| failed(e.to_string()))?;
        let spinning = if memmem::find(&code, SPINNING.0.as_bytes()).is_some() {
            SPINNING
        } else {
            (MAY_SPIN, "0")
        };
        drop(code);
        let builder = ort::init_from(library).map_err(|e| failed(e.to_string()))?;
        let environment = builder.with_name("pg_caption").with_telemetry(false).build();
        let environment = environment.map_err(|e| failed(e.to_string()))?;
        // Everything it would write to stderr also comes back as an error, which says more and goes
        // where it belongs.
        environment.set_log_level(LogLevel::Fatal);
        Ok(Runtime { environment, library: library.into(), threads: threads.max(1), spinning })
    })?;
    if runtime.library == library {
        Ok(())
    } else {
        Err(failed(format!("{} is already loaded", runtime.library.display())))
    }
}

/// One graph, ready to run.
pub(crate) struct Graph {
    path: PathBuf,
    session: Session,
}

impl Graph {
    /// Opens a graph. External data lies beside it and is found by ONNX Runtime itself. Weights
    /// inside a large file are left there, too: ONNX Runtime maps them, where it would keep a copy
    /// of what it read.
    pub fn open(path: &Path) -> Result<Graph, ModelError> {
        let large =
            std::fs::metadata(path).is_ok_and(|file| (LARGE..LARGEST).contains(&file.len()));
        if let Some(graph) = large.then(|| Graph::beside_weights(path)).flatten() {
            return Ok(graph);
        }
        let session = builder(path)?
            .commit_from_file(path)
            .map_err(|e| ModelError::graph(path, format!("{e}{}", weights_of(path))))?;
        Ok(Graph { path: path.into(), session })
    }

    /// Opens a graph whose weights stay in their file. `None` where that cannot be: opening the
    /// file itself says why, if anything is wrong.
    fn beside_weights(path: &Path) -> Option<Graph> {
        let model = {
            let file = Bytes::from(std::fs::read(path).ok()?);
            OnnxModel::read(file.clone()).ok()?.write_beside(&file, path.file_name()?.to_str()?)
        };
        Graph::of_bytes(path, &model).ok()
    }

    /// Opens a graph that was made from the one at `path`, for which it stands in every message,
    /// and in whose file its weights may lie.
    pub fn of_bytes(path: &Path, model: &[u8]) -> Result<Graph, ModelError> {
        let wrong = |reason: String| ModelError::graph(path, reason);
        let folder = std::path::absolute(path).map_err(|e| wrong(e.to_string()))?;
        let folder = folder
            .parent()
            .and_then(Path::to_str)
            .ok_or_else(|| wrong("its folder has no name".into()))?;
        let mut builder = builder(path)?
            .with_config_entry(WEIGHTS_FOLDER, folder)
            .map_err(|e| wrong(e.to_string()))?;
        let session = builder.commit_from_memory(model).map_err(|e| wrong(e.to_string()))?;
        Ok(Graph { path: path.into(), session })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the inputs, in the graph's order.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.session.inputs().iter().map(Outlet::name)
    }

    /// Names of the outputs, in the graph's order.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.session.outputs().iter().map(Outlet::name)
    }

    /// Does the graph ask for this input?
    pub fn wants(&self, input: &str) -> bool {
        self.inputs().any(|name| name == input)
    }

    /// Element type and dimensions (-1: any) of an input.
    pub fn input(&self, name: &str) -> Option<(TensorElementType, &[i64])> {
        port(self.session.inputs(), name)
    }

    /// Element type and dimensions (-1: any) of an output.
    pub fn output(&self, name: &str) -> Option<(TensorElementType, &[i64])> {
        port(self.session.outputs(), name)
    }

    /// One call. Values are borrowed, not copied; the outputs are the session's own memory.
    pub fn run(&mut self, feeds: &[(&str, &DynValue)]) -> Result<Outputs, ModelError> {
        let inputs: Vec<(Cow<str>, SessionInputValue)> = feeds
            .iter()
            .map(|(name, value)| (Cow::Borrowed(*name), SessionInputValue::from(*value)))
            .collect();
        match self.session.run(inputs) {
            Ok(outputs) => Ok(Outputs(
                outputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            )),
            Err(error) => Err(ModelError::run(self.path.display(), error)),
        }
    }
}

/// Where the weights of a graph lie that does not load, which ONNX Runtime does not always say;
/// nothing if they lie in it.
fn weights_of(path: &Path) -> String {
    let size = |file: &Path| {
        std::fs::metadata(file)
            .map_or_else(|e| e.to_string(), |file| format!("{} bytes", file.len()))
    };
    let files: Vec<String> = external_data(path)
        .iter()
        .map(|file| format!("{} ({})", file.display(), size(file)))
        .collect();
    if files.is_empty() {
        String::new()
    } else {
        format!("; weights beside it: {}", files.join(", "))
    }
}

/// What every session is opened with.
fn builder(path: &Path) -> Result<SessionBuilder, ModelError> {
    let runtime = RUNTIME.get().ok_or(ModelError::NotInitialised)?;
    let builder = || {
        let (word, value) = runtime.spinning;
        let builder = Session::builder(&runtime.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?;
        let builder = builder
            .with_intra_threads(runtime.threads)?
            .with_inter_threads(1)?
            .with_config_entry(word, value)?;
        // Batches and lengths vary from call to call; a plan made for one shape would only be
        // remade.
        Ok(builder.with_memory_pattern(false)?)
    };
    builder().map_err(|e: ort::Error| ModelError::graph(path, e.to_string()))
}

fn port<'a>(ports: &'a [Outlet], name: &str) -> Option<(TensorElementType, &'a [i64])> {
    let dtype = ports.iter().find(|port| port.name() == name)?.dtype();
    Some((dtype.tensor_type()?, dtype.tensor_shape()?))
}

/// What a call gave.
pub(crate) struct Outputs(Vec<(String, DynValue)>);

impl Outputs {
    /// Takes an output out.
    pub fn take(&mut self, name: &str) -> Option<DynValue> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tensor, testing};

    #[test]
    fn the_library_that_we_install_spins_for_as_long_as_we_say() {
        if testing::runtime() && std::env::var_os("PG_CAPTION_ORT").is_none() {
            assert_eq!(RUNTIME.get().unwrap().spinning, SPINNING);
        }
    }

    #[test]
    fn a_graph_whose_weights_stay_in_their_file_says_the_same() {
        let shared = std::env::var_os("PG_CAPTION_SHARED")
            .map_or_else(|| testing::workspace().join("../shared"), PathBuf::from);
        let path = shared.join("parity/vit-gpt2/onnx/encoder_model.onnx");
        if !path.exists() {
            println!("skipped: no {}", path.display());
            return;
        }
        if !testing::runtime() {
            return;
        }
        let pixels: Vec<f32> = (0..3 * 224 * 224).map(|i| (i % 255) as f32 / 255.0).collect();
        let pixels = tensor::tensor(vec![1, 3, 224, 224], pixels).unwrap();
        let say = |mut graph: Graph| {
            let hidden =
                graph.run(&[("pixel_values", &pixels)]).unwrap().take("last_hidden_state").unwrap();
            tensor::unstack(&hidden).unwrap()
        };
        let read = say(Graph::open(&path).unwrap());
        assert_eq!(say(Graph::beside_weights(&path).expect("they can stay")), read);

        // Of what is no graph nothing is said here: opening it says why.
        let folder =
            std::env::temp_dir().join(format!("pg_caption-weights-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("broken.onnx"), b"\xff\xff no graph").unwrap();
        assert!(Graph::beside_weights(&folder.join("broken.onnx")).is_none());
        assert!(Graph::beside_weights(&folder.join("missing.onnx")).is_none());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
