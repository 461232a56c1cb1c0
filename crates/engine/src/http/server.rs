//! Starts the HTTP server: key and address before the confinement, then the engine, then hyper.

use super::admission::HttpAdmission;
use super::key::ServerKey;
use super::route::HttpShared;
use crate::confine::{confine, leave_no_core};
use crate::engine::{Engine, EngineOptions};
use crate::provider::readiness::ProviderState;
use crate::test_hook::DecodeHook;
use crate::threads::spawn;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pg_caption_wire::EngineConfig;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

/// Limit for the head of a request, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest head of a request, bytes.
const MAX_HEAD: usize = 32 << 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// How long a server that is stopped lets its requests end.
const DRAIN: Duration = Duration::from_secs(60);
/// How long an accepting thread waits after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the server runs.
#[derive(Debug)]
pub struct HttpOptions {
    /// Where it listens.
    pub address: SocketAddr,
    /// File with the key that clients must have.
    pub key_file: Option<PathBuf>,
    /// Most requests in flight; further ones are sent away with 503.
    pub queue: usize,
    /// Most connections; further ones wait to be accepted.
    pub connections: usize,
    /// Largest body of a request, bytes.
    pub largest: u64,
}

/// Serves until it gets SIGTERM, then lets its requests end. Returns only if it could not start.
///
/// # Errors
/// The address or the key cannot be used, or there is no model.
pub fn run(options: &HttpOptions, config: EngineConfig, hook: DecodeHook) -> Result<(), String> {
    let HttpOptions { address, key_file, queue, connections, largest } = options;
    if key_file.is_none() && !address.ip().is_loopback() {
        return Err(format!(
            "{address} is no loopback address: give --key-file, so that only clients with the key \
             are served"
        ));
    }
    let key = key_file.as_deref().map(|path| {
        leave_no_core();
        ServerKey::read(path)
    });
    let key = key.transpose()?;
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let bound = listener.local_addr().map_err(|error| error.to_string())?;
    let confinement = confine(&config);

    // Threads exist from here on.
    let (stop, stopped) = watch::channel(false);
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])
        .map_err(|error| error.to_string())?;
    // A second signal does not wait.
    spawn("signals", move || {
        for _ in signals.forever() {
            if stop.send_replace(true) {
                exit(0)
            }
        }
    })
    .map_err(|error| error.to_string())?;
    let start = EngineOptions { confinement, hook, ..EngineOptions::new(config) };
    let engine = Engine::start(start).map_err(|error| error.to_string())?;
    engine.when_broken(|failure| {
        crate::log::line(format_args!("error: {}", failure.message));
        exit(70)
    });
    let shared = Arc::new(HttpShared {
        engine: engine.clone(),
        admission: HttpAdmission::new(*queue, *largest),
        key,
        largest: *largest,
        is_draining: AtomicBool::new(false),
        refused: AtomicU64::new(0),
        pictures: Arc::default(),
    });
    let known = engine.clone();
    spawn("readiness", move || match known.readiness().wait() {
        ProviderState::Ready(provider) => {
            let model = provider.status().name;
            crate::log::line(format_args!("model {model} is ready on http://{bound}/v1"));
        }
        ProviderState::Failed(failure) => {
            crate::log::line(format_args!(
                "error: {}: {}",
                failure.message,
                failure.detail.unwrap_or_default()
            ));
            exit(1)
        }
        ProviderState::Loading => unreachable!("waited for"),
    })
    .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(serve(listener, shared, *connections, stopped)).map_err(|e| e.to_string())?;
    exit(0)
}

/// `_exit`, because destructors of ONNX Runtime must not run while its threads do.
fn exit(status: i32) -> ! {
    signal_hook::low_level::exit(status)
}

async fn serve(
    listener: TcpListener,
    shared: Arc<HttpShared>,
    connections: usize,
    mut stopped: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(connections));
    let mut number = 0u64;
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopped.changed() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        number += 1;
        let (shared, stopped) = (shared.clone(), stopped.clone());
        tokio::spawn(async move {
            serve_connection(stream, number, shared, stopped).await;
            drop(place);
        });
    }
    shared.is_draining.store(true, Ordering::Relaxed);
    crate::log::line(format_args!("stopping: requests in flight end first"));
    // Nothing is accepted any longer; a load balancer tries another server.
    drop(listener);
    let all = places.acquire_many(connections as u32);
    let _ = tokio::time::timeout(DRAIN, all).await;
    Ok(())
}

async fn serve_connection(
    stream: TcpStream,
    number: u64,
    shared: Arc<HttpShared>,
    mut stopped: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.answer(number, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // An error concerns this connection alone: its client sent no HTTP, or left.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
