//! Starts a cascade: both models, each as if it were alone.

use super::{Cascade, CascadeModel, CascadeProvider};
use crate::budget::MemoryPool;
use crate::failures;
use crate::metrics::EngineMetrics;
use crate::provider::readiness::{ProviderReadiness, ProviderState};
use crate::provider::values::AnswerTerms;
use crate::provider::{Provider, ProviderHost, caught, start_plain, without_threads};
use crate::shared_answers::SharedAnswers;
use crate::threads::spawn;
use pg_caption_models::{CascadeSettings, FolderGuard};
use pg_caption_wire::{EngineConfig, Failure};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Receives the state of one model.
struct StepHost {
    readiness: Arc<ProviderReadiness>,
    outer: Arc<dyn ProviderHost>,
}

impl ProviderHost for StepHost {
    fn ready(&self, provider: Arc<dyn Provider>) -> io::Result<()> {
        self.readiness.set(ProviderState::Ready(provider));
        Ok(())
    }

    fn failed(&self, failure: Failure) {
        self.readiness.set(ProviderState::Failed(failure));
    }

    fn broken(&self, failure: Failure) {
        self.outer.broken(failure);
    }

    fn answers(&self) -> Option<Arc<SharedAnswers>> {
        self.outer.answers()
    }
}

/// Starts both models in the background. A [`crate::provider::ProviderStart`].
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    config: &EngineConfig,
    metrics: Arc<EngineMetrics>,
    host: Arc<dyn ProviderHost>,
) -> io::Result<()> {
    let config = config.clone();
    spawn("cascade", move || match caught(|| load(&config, &metrics, &host)) {
        Ok(cascade) => {
            let provider = Arc::new(CascadeProvider(Arc::new(cascade)));
            if let Err(error) = host.ready(provider) {
                host.failed(without_threads(&error));
            }
        }
        Err(reason) => host.failed(failures::no_model(&reason)),
    })
}

fn load(
    config: &EngineConfig,
    metrics: &Arc<EngineMetrics>,
    host: &Arc<dyn ProviderHost>,
) -> Result<Cascade, String> {
    let guard = FolderGuard::new(&config.model, &config.models_directory, None)
        .map_err(|error| error.to_string())?;
    let settings = CascadeSettings::of_folder(&guard).map_err(|error| error.to_string())?;
    let folders = settings.folders(&config.models_directory).map_err(|error| error.to_string())?;
    // One after the other: loading needs the most memory.
    let [first, second] = folders.map(|folder| model(config, &folder, metrics, host));
    Ok(Cascade {
        name: config.model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        first: first?,
        second: second?,
        below: settings.below,
        meanwhile: settings.meanwhile,
        unbounded: MemoryPool::new(u64::MAX),
    })
}

/// Loads one model and waits for it.
fn model(
    config: &EngineConfig,
    folder: &Path,
    metrics: &Arc<EngineMetrics>,
    host: &Arc<dyn ProviderHost>,
) -> Result<CascadeModel, String> {
    // Each has half of the memory for features and caches.
    let memory = config.memory / 2;
    let config = EngineConfig { model: folder.into(), memory, ..config.clone() };
    let readiness = Arc::<ProviderReadiness>::default();
    let step = StepHost { readiness: readiness.clone(), outer: host.clone() };
    start_plain(&config, metrics.clone(), Arc::new(step)).map_err(|error| error.to_string())?;
    match readiness.wait() {
        ProviderState::Ready(provider) => {
            let terms = Arc::new(AnswerTerms::new(&provider, &config, host.answers()));
            let is_remote = pg_caption_models::is_remote(folder);
            Ok(CascadeModel { provider, terms, is_remote })
        }
        ProviderState::Failed(failure) => Err(format!(
            "{}: {}",
            folder.display(),
            failure.detail.as_deref().unwrap_or(&failure.message)
        )),
        ProviderState::Loading => Err("the model neither loaded nor failed".into()),
    }
}
