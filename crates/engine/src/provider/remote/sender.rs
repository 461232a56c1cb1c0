//! The sender threads: each takes the next caption from the line, asks the server, and deals with
//! the answer.

use super::RemoteModel;
use super::line::{LineCaption, NextStep};
use super::picture::SentPicture;
use crate::catch_panic::catch_panic;
use crate::confine::leave_no_core;
use crate::failures;
use crate::provider::prompt;
use crate::provider::values::RawCaption;
use pg_caption_models::REMOTE_FAMILY;
use pg_caption_remote::{
    ApiKey, CaptionExchange, CaptionQuestion, ExchangeStep, PaceOutcome, RemoteCaption,
    RemoteFault, TokenUse,
};
use pg_caption_wire::{FailureClass, OutputSpec};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Lone trials in which the server must end the connection before a picture is the cause.
const LOST_TRIALS: u32 = 3;
/// Longest wait of an idle thread. A new caption wakes it; the limit only bounds what a missed
/// change of the pace could cost.
const IDLE: Duration = Duration::from_millis(500);

impl RemoteModel {
    /// The thread: never returns.
    pub(super) fn send_loop(&self) {
        loop {
            match self.next() {
                NextStep::Accept(file, work) => {
                    let began = Instant::now();
                    let picture = SentPicture::new(file, work.facts.sha256.clone());
                    self.metrics.encoded.fetch_add(1, Ordering::Relaxed);
                    for task in work.encoded(Arc::new(picture), None, Duration::ZERO) {
                        self.add_task(task);
                    }
                    self.release(began, PaceOutcome::Unknown);
                }
                NextStep::Send(caption) => {
                    let began = Instant::now();
                    if let Err(panic) = catch_panic(|| self.send(&caption)) {
                        self.release(began, PaceOutcome::Unknown);
                        let failure = failures::step_panicked("the code that asks", &panic);
                        caption.open.finish(caption.at, Err(failure), began.elapsed());
                    }
                }
                NextStep::Refuse(caption, fault) => {
                    let failure = self.failure(&fault);
                    caption.open.finish(caption.at, Err(failure), Duration::ZERO);
                }
                NextStep::RefusePicture(work, fault) => work.fail(self.failure(&fault)),
                NextStep::Wait(_) => {}
            }
        }
    }

    fn next(&self) -> NextStep {
        let mut line = self.line.lock();
        loop {
            let now = Instant::now();
            match line.next(now) {
                NextStep::Wait(until) => {
                    let longest = now + IDLE;
                    let until = until.map_or(longest, |until| until.min(longest));
                    self.changed.wait_until(&mut line, until);
                }
                step => {
                    // The ceiling may have grown: each thread wakes the next one.
                    self.changed.notify_one();
                    return step;
                }
            }
        }
    }

    /// Gives a slot back.
    fn release(&self, sent: Instant, outcome: PaceOutcome) {
        let mut line = self.line.lock();
        line.pace.finished(sent, Instant::now(), outcome, fastrand::f64());
        drop(line);
        self.changed.notify_one();
    }

    /// Sends one caption until it has a result, or is back in the line.
    fn send(&self, caption: &LineCaption) {
        let LineCaption { open, at, alone, .. } = caption;
        let output = &open.job.outputs[*at];
        let began = Instant::now();
        let (result, sent) = self.ask(open.job.clone(), &open.picture, output);
        let now = Instant::now();
        let mut is_again = false;
        let result = {
            let mut line = self.line.lock();
            let result = match result {
                Err(RemoteFault::Server(text))
                    if line.suspects.failed(&open.picture.sha256, *alone, 1) =>
                {
                    Err(RemoteFault::Suspect(text))
                }
                Err(RemoteFault::Reset(text)) => {
                    match line.suspects.failed(&open.picture.sha256, *alone, LOST_TRIALS) {
                        true => Err(RemoteFault::Suspect(text)),
                        false => Err(RemoteFault::Reset(text)),
                    }
                }
                result => result,
            };
            let outcome = match &result {
                Ok(_) => PaceOutcome::Served,
                Err(RemoteFault::Busy { wait, .. }) => PaceOutcome::Busy(*wait),
                Err(RemoteFault::Down(_) | RemoteFault::Reset(_)) => PaceOutcome::Down,
                Err(RemoteFault::Slow(_)) => PaceOutcome::Busy(None),
                Err(RemoteFault::Cancelled | RemoteFault::Budget { .. }) => PaceOutcome::Unknown,
                Err(_) => PaceOutcome::Served,
            };
            line.pace.finished(sent, now, outcome, fastrand::f64());
            match &result {
                Ok(_) => {
                    line.suspects.served(&open.picture.sha256);
                    line.trouble = None;
                    line.paused_by = None;
                }
                Err(fault) => {
                    if fault.is_of_server() {
                        line.paused_by = Some(fault.clone());
                    }
                    let failure = self.failure(fault);
                    if matches!(failure.class, FailureClass::Engine | FailureClass::Host) {
                        line.trouble = Some(failure);
                    }
                    // The server is to blame: the caption keeps its place until its deadline.
                    is_again = fault.is_of_server() && open.job.is_open();
                }
            }
            if is_again {
                line.add(LineCaption { is_repeated: true, ..caption.clone() });
            }
            result
        };
        self.changed.notify_one();
        if is_again {
            return;
        }
        match result {
            Err(RemoteFault::Cancelled) if !open.job.is_open() => {
                open.finish(*at, Err(failures::lost()), began.elapsed());
            }
            Err(fault) => {
                if matches!(fault, RemoteFault::Key(_)) {
                    self.key_is_stale.store(true, Ordering::Relaxed);
                }
                open.finish(*at, Err(self.failure(&fault)), began.elapsed());
            }
            Ok(answer) => {
                self.metrics.generated.fetch_add(1, Ordering::Relaxed);
                open.finish(*at, Ok(raw(answer)), began.elapsed());
            }
        }
    }

    /// One caption: all requests that it takes. Also returns when the last one was sent.
    fn ask(
        &self,
        job: Arc<crate::job::Job>,
        picture: &SentPicture,
        output: &OutputSpec,
    ) -> (Result<RemoteCaption, RemoteFault>, Instant) {
        let instruction = self.instruction(&job, output);
        let whole = self.whole(&job, output);
        let (mut exchange, mut file) = (CaptionExchange::default(), picture.file());
        let mut sent = Instant::now();
        if job.extras.generation.is_some() {
            let why = "it takes no generation settings of the command line";
            return (Err(RemoteFault::Refused(why.into())), sent);
        }
        loop {
            let question = CaptionQuestion {
                image: &file,
                instruction: &instruction,
                style: &output.style.name,
                max_tokens: output.max_tokens,
                whole: Some(&whole),
            };
            let watched = job.clone();
            let is_left = Box::new(move || !watched.is_open());
            sent = Instant::now();
            let answer = self.exchange_once(&mut exchange, &question, job.deadline(), is_left);
            let step = match answer {
                Ok(step) => step,
                // The caller's time has ended, not the server's.
                Err(RemoteFault::Slow(_)) if job.deadline() <= Instant::now() => {
                    return (Err(RemoteFault::Cancelled), sent);
                }
                Err(fault) => return (Err(fault), sent),
            };
            match step {
                ExchangeStep::Again => {}
                ExchangeStep::Smaller => match picture.smaller(&file, self.settings.image) {
                    Some(smaller) => file = smaller,
                    None => {
                        let why = "it is too large for the server".into();
                        return (Err(RemoteFault::Picture(why)), sent);
                    }
                },
                ExchangeStep::Done(caption) => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                    return (Ok(caption), sent);
                }
                ExchangeStep::Failed(fault) => return (Err(fault), sent),
            }
            self.line.lock().pace.repeated(Instant::now());
        }
    }

    /// One request and its answer.
    pub(super) fn exchange_once(
        &self,
        exchange: &mut CaptionExchange,
        question: &CaptionQuestion<'_>,
        deadline: Instant,
        is_left: Box<dyn Fn() -> bool>,
    ) -> Result<ExchangeStep, RemoteFault> {
        self.read_key()?;
        let quirks = {
            let mut line = self.line.lock();
            line.budget.take(SystemTime::now())?;
            line.quirks
        };
        let body = exchange.body(&self.settings, quirks, question);
        let answer = self.server.post(&body, deadline, is_left);
        let before = exchange.spent();
        let has_served = self.served.load(Ordering::Relaxed) > 0;
        let mut line = self.line.lock();
        let step = answer
            .map(|answer| exchange.answered(&self.settings, &mut line.quirks, &answer, has_served));
        let tokens = match &step {
            Ok(ExchangeStep::Done(caption)) => caption.tokens,
            _ => TokenUse {
                input: exchange.spent().input - before.input,
                output: exchange.spent().output - before.output,
            },
        };
        let served = matches!(step, Ok(ExchangeStep::Done(_)));
        line.budget.add(tokens);
        line.usage.count(SystemTime::now(), question.style, tokens, served);
        step
    }

    /// Reads the key if it is not known, or was refused: it may have been replaced.
    pub(super) fn read_key(&self) -> Result<(), RemoteFault> {
        let Some(name) = &self.settings.api_key_file else { return Ok(()) };
        if !self.key_is_stale.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        leave_no_core();
        let key = self
            .guard
            .read_secret(name, "api_key_file")
            .map_err(|error| error.to_string())
            .and_then(|content| {
                ApiKey::new(&content, &self.settings.base_url).map_err(|error| error.to_string())
            });
        match key {
            Ok(key) => {
                self.server.set_key(Some(key));
                Ok(())
            }
            Err(reason) => {
                self.key_is_stale.store(true, Ordering::Relaxed);
                Err(RemoteFault::Key(reason))
            }
        }
    }

    /// What a server of pg_caption is also sent: its model chooses the prompt.
    fn whole(&self, job: &crate::job::Job, output: &OutputSpec) -> serde_json::Value {
        let mut style = output.style.clone();
        if let Some(own) = &job.extras.prompt {
            style.instruction.clone_from(own);
            style.prompts.clear();
        }
        serde_json::json!({
            "style": style,
            "context": output.context.as_ref().filter(|_| self.settings.send_context),
            "role": job.role,
        })
    }

    fn instruction(&self, job: &crate::job::Job, output: &OutputSpec) -> String {
        let style = &output.style;
        let own = job.extras.prompt.as_deref().or_else(|| style.prompt_for(&[REMOTE_FAMILY]));
        let mut instruction = prompt::instruction(style, own);
        if let Some(facts) = prompt::facts(output).filter(|_| self.settings.send_context) {
            instruction += "\n";
            instruction += &facts;
        }
        instruction
    }
}

fn raw(caption: RemoteCaption) -> RawCaption {
    RawCaption {
        text: caption.text,
        finish: caption.finish,
        confidence: caption.confidence,
        tokens: caption.tokens.output as u32,
        ids: caption.ids,
        prompt_ids: caption.prompt_ids,
    }
}
