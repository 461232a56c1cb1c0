//! ONNX Runtime: the library, the environment of the process, and sessions.
//!
//! A process can create the environment only once, so it is a static and never dropped. Each
//! session has its own thread pool, because the spinning time can be set only there. Calls are
//! serialised, so that no more than `threads` threads work at a time.

use crate::ModelError;
use crate::weights::external_data;
use bytes::Bytes;
use memchr::memmem;
use once_cell::sync::OnceCell;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType};
use pg_caption_models::refuse_pointer;
use pg_caption_onnx::OnnxModel;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Smaller files are read into memory: mapping them gains little, and another process might write
/// to them meanwhile.
const LARGE: u64 = 16 << 20;

/// Upper limit of a protobuf message.
const LARGEST: u64 = 2 << 30;

/// Where ONNX Runtime looks for the external weights of a model loaded from memory
/// (`kOrtSessionOptionsModelExternalInitializersFileFolderPath`).
const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// How long an idle thread spins before it sleeps: the option and its value. An operator of a small
/// graph takes less time than waking a thread. Compared with no spinning, this value makes a step
/// of the default model a third faster and saves a third of the CPU time (`docs/speed.md`). The
/// library's default of a million iterations would take milliseconds from the database.
const SPINNING: (&str, &str) = ("session.intra_op.spin_duration_us", "50");

/// Whether threads spin (`kOrtSessionOptionsConfigAllowIntraOpSpinning`).
const MAY_SPIN: &str = "session.intra_op.allow_spinning";

struct Runtime {
    environment: Environment,
    library: PathBuf,
    threads: usize,
    spinning: (&'static str, &'static str),
}

static RUNTIME: OnceCell<Runtime> = OnceCell::new();

/// Loads the ONNX Runtime library and creates the environment, once per process. `threads` is the
/// number of threads in one session call, the caller included; 0 counts as 1.
///
/// `library` must be absolute. Another call with the same library has no effect, not even on the
/// threads.
///
/// # Errors
/// [`ModelError::Library`] if it does not load, or if another library is already loaded.
pub fn init(library: &Path, threads: usize) -> Result<(), ModelError> {
    let failed = |reason: String| ModelError::Library { path: library.into(), reason };
    let runtime = RUNTIME.get_or_try_init(|| {
        // A relative path would be resolved against the program's folder and the loader's search
        // path.
        if !library.is_absolute() {
            return Err(failed("not an absolute path".into()));
        }
        // An older library ignores the unknown option and spins with its default.
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
        // Every message for stderr is also returned as an error, with more detail.
        environment.set_log_level(LogLevel::Fatal);
        Ok(Runtime { environment, library: library.into(), threads: threads.max(1), spinning })
    })?;
    if runtime.library == library {
        Ok(())
    } else {
        Err(failed(format!("{} is already loaded", runtime.library.display())))
    }
}

/// A graph that is ready to run.
pub(crate) struct GraphSession {
    path: PathBuf,
    session: Session,
}

impl GraphSession {
    /// Opens a graph. ONNX Runtime finds external weights itself. The weights of a large file are
    /// also treated as external: ONNX Runtime then maps them instead of keeping a copy.
    pub fn open(path: &Path) -> Result<GraphSession, ModelError> {
        refuse_pointer(path)?;
        let large =
            std::fs::metadata(path).is_ok_and(|file| (LARGE..LARGEST).contains(&file.len()));
        if let Some(graph) = large.then(|| GraphSession::with_mapped_weights(path)).flatten() {
            return Ok(graph);
        }
        let session = builder(path)?.commit_from_file(path).map_err(|e| {
            match external_data(path).iter().find_map(|file| refuse_pointer(file).err()) {
                Some(pointer) => pointer.into(),
                None => ModelError::graph(path, format!("{e}{}", weights_of(path))),
            }
        })?;
        Ok(GraphSession { path: path.into(), session })
    }

    /// Opens a graph whose weights stay in their file. `None` if that is impossible; opening the
    /// file itself gives the reason.
    fn with_mapped_weights(path: &Path) -> Option<GraphSession> {
        let model = {
            let file = Bytes::from(std::fs::read(path).ok()?);
            OnnxModel::read(file.clone()).ok()?.write_mapped(&file, path.file_name()?.to_str()?)
        };
        GraphSession::of_bytes(path, &model).ok()
    }

    /// Opens a graph derived from the one at `path`. Errors name that file, and its weights may be
    /// in it.
    pub fn of_bytes(path: &Path, model: &[u8]) -> Result<GraphSession, ModelError> {
        let wrong = |reason: String| ModelError::graph(path, reason);
        let folder = std::path::absolute(path).map_err(|e| wrong(e.to_string()))?;
        let folder = folder
            .parent()
            .and_then(Path::to_str)
            .ok_or_else(|| wrong("its folder's path is not valid UTF-8".into()))?;
        let mut builder = builder(path)?
            .with_config_entry(WEIGHTS_FOLDER, folder)
            .map_err(|e| wrong(e.to_string()))?;
        let session = builder.commit_from_memory(model).map_err(|e| wrong(e.to_string()))?;
        Ok(GraphSession { path: path.into(), session })
    }

    /// The graph's file.
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

    /// Whether the graph has this input.
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

    /// Runs the graph once. Inputs are borrowed, not copied; the outputs are memory of the session.
    pub fn run(&mut self, feeds: &[(&str, &DynValue)]) -> Result<GraphOutputs, ModelError> {
        let inputs: Vec<(Cow<str>, SessionInputValue)> = feeds
            .iter()
            .map(|(name, value)| (Cow::Borrowed(*name), SessionInputValue::from(*value)))
            .collect();
        match self.session.run(inputs) {
            Ok(outputs) => Ok(GraphOutputs(
                outputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            )),
            Err(error) => Err(ModelError::run(self.path.display(), error)),
        }
    }
}

/// Lists the external weights of a graph that does not load, which ONNX Runtime does not always do;
/// empty if it has no external weights.
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
        format!("; external weights: {}", files.join(", "))
    }
}

/// The options of every session.
fn builder(path: &Path) -> Result<SessionBuilder, ModelError> {
    let runtime = RUNTIME.get().ok_or(ModelError::NotInitialised)?;
    let builder = || {
        let (option, value) = runtime.spinning;
        let builder = Session::builder(&runtime.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?;
        let builder = builder
            .with_intra_threads(runtime.threads)?
            .with_inter_threads(1)?
            .with_config_entry(option, value)?;
        // Batches and lengths change with every call, so a memory plan for one shape would be
        // discarded.
        Ok(builder.with_memory_pattern(false)?)
    };
    builder().map_err(|e: ort::Error| ModelError::graph(path, e.to_string()))
}

fn port<'a>(ports: &'a [Outlet], name: &str) -> Option<(TensorElementType, &'a [i64])> {
    let dtype = ports.iter().find(|port| port.name() == name)?.dtype();
    Some((dtype.tensor_type()?, dtype.tensor_shape()?))
}

/// The outputs of a call.
pub(crate) struct GraphOutputs(Vec<(String, DynValue)>);

impl GraphOutputs {
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
    fn the_installed_library_accepts_the_spin_time() {
        if testing::runtime() && std::env::var_os("PG_CAPTION_ORT").is_none() {
            assert_eq!(RUNTIME.get().unwrap().spinning, SPINNING);
        }
    }

    #[test]
    fn mapped_weights_change_no_output() {
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
        let output_of = |mut graph: GraphSession| {
            let hidden =
                graph.run(&[("pixel_values", &pixels)]).unwrap().take("last_hidden_state").unwrap();
            tensor::unstack(&hidden).unwrap()
        };
        let read = output_of(GraphSession::open(&path).unwrap());
        assert_eq!(
            output_of(
                GraphSession::with_mapped_weights(&path).expect("weights can stay in the file")
            ),
            read
        );

        // An invalid graph returns `None`; opening it gives the reason.
        let folder =
            std::env::temp_dir().join(format!("pg_caption-weights-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("broken.onnx"), b"\xff\xff no graph").unwrap();
        assert!(GraphSession::with_mapped_weights(&folder.join("broken.onnx")).is_none());
        assert!(GraphSession::with_mapped_weights(&folder.join("missing.onnx")).is_none());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
