//! From a request to its response.

use super::admission::HttpAdmission;
use super::chat::ChatQuestion;
use super::key::ServerKey;
use super::prometheus;
use super::reply::{Refused, completion};
use crate::answer::JobAnswer;
use crate::engine::Engine;
use crate::failures;
use crate::job::Job;
use crate::picture::sha256_hex;
use crate::provider::readiness::ProviderState;
use crate::request::{JobExtras, JobSpec, PictureSource};
use crate::shared_pictures::SharedPictures;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use pg_caption_remote::OWN_HEADER;
use pg_caption_wire::AnswerReuse;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Limit for the arrival of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for the rest of a body that is not used.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of a request within the engine. Clients usually have a shorter one, and leave.
const JOB_TIMEOUT: Duration = Duration::from_secs(300);

/// What all connections share.
pub struct HttpShared {
    pub engine: Arc<Engine>,
    pub admission: HttpAdmission,
    pub key: Option<ServerKey>,
    /// Largest body, bytes.
    pub largest: u64,
    pub is_draining: AtomicBool,
    /// Requests sent away because the server was full.
    pub refused: AtomicU64,
    /// Equal pictures of several requests are encoded once.
    pub pictures: Arc<SharedPictures>,
}

/// A response with its body.
pub type HttpResponse = Response<Full<Bytes>>;

impl HttpShared {
    /// Answers a request of a connection. Never fails.
    pub async fn answer(
        self: Arc<Self>,
        connection: u64,
        request: Request<Incoming>,
    ) -> HttpResponse {
        let (head, mut body) = request.into_parts();
        let known = match (&head.method, head.uri.path().trim_end_matches('/')) {
            // Load balancers have no key.
            (&Method::GET | &Method::HEAD, "/health") => return self.health(),
            _ if !self.has_key(&head.headers) => Err(Refused::key()),
            (&Method::GET, "/metrics") => Ok(self.metrics()),
            (&Method::GET, "/v1/models") => Ok(self.models()),
            (&Method::POST, "/v1/chat/completions") => self.chat(connection, &mut body).await,
            _ => Err(Refused::nothing_here()),
        };
        let mut response = match known {
            Ok(response) => response,
            Err(refused) => {
                self.discard(body).await;
                refusal(&refused)
            }
        };
        if let Some(own) = self.own_header() {
            response.headers_mut().insert(OWN_HEADER, own);
        }
        response
    }

    /// Reads what is left of a body, within limits: a client that still writes would lose the
    /// refusal with the connection.
    async fn discard(&self, mut body: Incoming) {
        let mut left = 4 * self.largest;
        let rest = async {
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                left = left.saturating_sub(length);
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(DISCARD_TIMEOUT, rest).await;
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.key else { return true };
        headers.get(AUTHORIZATION).is_some_and(|sent| key.opens(sent.as_bytes()))
    }

    /// By it pg_caption's clients recognise the server. It has the size that the model needs, so
    /// that they decode pictures as the model's own engine does.
    fn own_header(&self) -> Option<HeaderValue> {
        let ProviderState::Ready(provider) = self.engine.readiness().now() else { return None };
        let (width, height) = provider.target();
        HeaderValue::from_str(&format!("{width}x{height}")).ok()
    }

    fn health(&self) -> HttpResponse {
        let state = match self.engine.readiness().now() {
            _ if self.is_draining.load(Ordering::Relaxed) => "draining",
            ProviderState::Ready(provider) if provider.refusal().is_some() => "failed",
            state => state.name(),
        };
        let status = match state {
            "ready" => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        with_json(status, &json!({ "status": state }))
    }

    fn metrics(&self) -> HttpResponse {
        let refused = self.refused.load(Ordering::Relaxed);
        let text = prometheus::text(&self.engine.status(), self.admission.in_flight(), refused);
        let mut response = Response::new(Full::new(Bytes::from(text)));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    fn models(&self) -> HttpResponse {
        let model = self.engine.status().model;
        let models: Vec<Value> = model
            .iter()
            .map(|model| {
                json!({ "id": model.name, "object": "model", "owned_by": "pg_caption",
                        "digest": model.digest, "family": model.family })
            })
            .collect();
        with_json(StatusCode::OK, &json!({ "object": "list", "data": models }))
    }

    async fn chat(&self, connection: u64, body: &mut Incoming) -> Result<HttpResponse, Refused> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err(Refused::draining());
        }
        let ProviderState::Ready(provider) = self.engine.readiness().now() else {
            return Err(Refused::of_failure(&failures::loading()));
        };
        let announced = body.size_hint().exact();
        if announced.is_some_and(|length| length > self.largest) {
            return Err(Refused::too_large(self.largest));
        }
        let Some(place) = self.admission.enter(announced).await else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::full());
        };
        let body = Limited::new(body, self.largest as usize).collect();
        let body = match timeout(BODY_TIMEOUT, body).await {
            Err(_) => return Err(Refused::slow()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(Refused::too_large(self.largest));
            }
            Ok(Err(error)) => return Err(Refused::bad(format!("the body ended: {error}"))),
            Ok(Ok(body)) => body.to_bytes(),
        };
        let name = provider.status().name;
        // Large bodies: not on the threads that serve the network.
        let question = tokio::task::spawn_blocking(move || ChatQuestion::read(&body, &name)).await;
        let question = question.map_err(|_| Refused::bad("the body cannot be read".into()))??;
        let (is_whole, logprobs) = (question.is_whole, question.logprobs);
        let answer = self.caption(connection, question).await;
        drop(place);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let body = completion(answer, is_whole, logprobs, since.as_secs())?;
        Ok(with_json(StatusCode::OK, &body))
    }

    /// One caption. If the client leaves, this future is dropped, and the job is cancelled.
    async fn caption(&self, connection: u64, question: ChatQuestion) -> JobAnswer {
        let ChatQuestion { picture, output, role, .. } = question;
        let spec = JobSpec {
            connection,
            role,
            timeout: JOB_TIMEOUT,
            from_turn: false,
            source: PictureSource::Bytes { sha256: Some(sha256_hex(&picture)) },
            outputs: vec![output],
            min_confidence: None,
            rules: Arc::default(),
            extras: JobExtras::default(),
            earlier: None,
            // The machine that asks has a memo, and may want another answer.
            reuse: AnswerReuse::Nothing,
        };
        let (send, answered) = oneshot::channel();
        let counted = self.engine.metrics().count_in();
        let job = Arc::new(Job::new(spec, Instant::now(), move |answer| {
            counted.answered();
            // The client may have left.
            let _ = send.send(answer);
        }));
        let guard = CancelGuard(job.clone());
        self.engine.submit(&job, Some((picture, None)), Some((0, &self.pictures)));
        let answer = answered.await.unwrap_or_else(|_| JobAnswer::Failed(failures::lost()));
        drop(guard);
        answer
    }
}

fn refusal(refused: &Refused) -> HttpResponse {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = with_json(status, &refused.body());
    if let Some(seconds) = refused.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Cancels a job whose client has left.
struct CancelGuard(Arc<Job>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn with_json(status: StatusCode, body: &Value) -> HttpResponse {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
