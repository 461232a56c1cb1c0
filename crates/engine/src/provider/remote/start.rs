//! Starts the remote provider: reads the folder, and asks the server once where another model
//! still serves.

use super::line::RemoteLine;
use super::picture::RemotePicture;
use super::{RemoteModel, RemoteProvider};
use crate::failures;
use crate::metrics::EngineMetrics;
use crate::provider::{ProviderHost, caught, without_threads};
use crate::threads::spawn;
use parking_lot::{Condvar, Mutex};
use pg_caption_models::{FolderGuard, RemoteSettings};
use pg_caption_pixels::RgbPicture;
use pg_caption_remote::{
    CaptionExchange, CaptionQuestion, ExchangeStep, ModelServer, RemoteFault, ServerOptions,
};
use pg_caption_style::builtin;
use pg_caption_wire::EngineConfig;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

/// Largest file of certificate authorities, bytes. The system's have 200 kB.
const MAX_AUTHORITIES: u64 = 4 << 20;
/// Limit of the trial request.
const TRIAL: Duration = Duration::from_secs(30);
/// Side of the trial picture: small, but large enough for every encoder.
const TRIAL_SIDE: u32 = 224;

/// Starts the provider in the background. A [`crate::provider::ProviderStart`].
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    config: &EngineConfig,
    metrics: Arc<EngineMetrics>,
    host: Arc<dyn ProviderHost>,
) -> io::Result<()> {
    let config = config.clone();
    spawn("remote", move || {
        let model = match caught(|| load(&config, metrics)) {
            Ok(model) => Arc::new(model),
            Err(reason) => return host.failed(failures::no_model(&reason)),
        };
        for n in 0..model.settings.concurrency {
            let sender = model.clone();
            if let Err(error) = spawn(&format!("remote {n}"), move || sender.send_loop()) {
                return host.failed(without_threads(&error));
            }
        }
        if let Err(error) = host.ready(Arc::new(RemoteProvider(model))) {
            host.failed(without_threads(&error));
        }
    })
}

/// Reads the folder.
fn load(config: &EngineConfig, metrics: Arc<EngineMetrics>) -> Result<RemoteModel, String> {
    let text = |error: pg_caption_models::ModelsError| error.to_string();
    let guard = FolderGuard::new(&config.model, &config.models_directory, None).map_err(text)?;
    let settings = RemoteSettings::of_folder(&guard).map_err(text)?;
    // An invalid style file is reported here, where an administrator sees it.
    pg_caption_models::styles_of(guard.folder()).map_err(text)?;
    let authorities = settings.ca_file.as_ref().map(|name| guard.read(name, MAX_AUTHORITIES));
    let options = ServerOptions {
        authorities: authorities.transpose().map_err(text)?,
        connect_timeout: Some(Duration::from_millis(config.connect_timeout_ms)),
    };
    let model = RemoteModel {
        name: name(&config.model),
        server: ModelServer::new(&settings, options)?,
        line: Mutex::new(RemoteLine::new(&settings)),
        changed: Condvar::new(),
        key_is_stale: AtomicBool::new(true),
        metrics,
        served: AtomicU64::new(0),
        guard,
        settings,
    };
    for used in &config.daily_use {
        model.restore_use(used);
    }
    if model.read_key().is_ok() {
        let own = model.server.recognise();
        model.line.lock().quirks.recognise(own);
    }
    // A server that is away when the first engine starts must not need a restart later. But an
    // engine that replaces another one takes over only if its model answers.
    if config.wait_until_ready {
        model.try_once()?;
    }
    Ok(model)
}

fn name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| folder.display().to_string())
}

impl RemoteModel {
    /// Asks for the caption of a gray picture. A server that is busy, or cannot describe it, is a
    /// model server all the same.
    fn try_once(&self) -> Result<(), String> {
        let side = TRIAL_SIDE;
        let gray =
            RgbPicture { width: side, height: side, data: vec![128; (side * side * 3) as usize] };
        let file =
            RemotePicture::new(&gray, self.settings.image, false).ok_or("there is no picture")?;
        let style = builtin("concise").ok_or("there is no built-in style")?;
        let question = CaptionQuestion {
            image: &file.0,
            instruction: &style.instruction,
            style: &style.name,
            max_tokens: 8,
            whole: None,
        };
        let mut exchange = CaptionExchange::default();
        let deadline = Instant::now() + TRIAL;
        loop {
            let fault =
                match self.exchange_once(&mut exchange, &question, deadline, Box::new(|| false)) {
                    Ok(ExchangeStep::Again) => continue,
                    Ok(ExchangeStep::Done(_) | ExchangeStep::Smaller) => return Ok(()),
                    Ok(ExchangeStep::Failed(fault)) | Err(fault) => fault,
                };
            return match fault {
                RemoteFault::Key(_)
                | RemoteFault::Model(_)
                | RemoteFault::Credit(_)
                | RemoteFault::Refused(_)
                | RemoteFault::Down(_)
                | RemoteFault::Reset(_)
                | RemoteFault::Malformed(_) => {
                    let failure = self.failure(&fault);
                    let detail = failure.detail.unwrap_or_default();
                    Err(format!("{}: {}", failure.message, detail))
                }
                _ => Ok(()),
            };
        }
    }
}
