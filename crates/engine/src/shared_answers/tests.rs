//! Leaders, followers and successors of answers, without a provider at work.

use super::*;
use crate::answer::JobAnswer;
use crate::job::tests::job_with;
use crate::provider::Provider;
use crate::provider::fake::{FakeProvider, raw};
use pg_caption_style::builtin;
use std::sync::mpsc::Receiver as Answers;

fn output(min_confidence: f32) -> OutputSpec {
    OutputSpec {
        style: builtin("concise").unwrap(),
        max_tokens: 64,
        context: None,
        min_confidence: Some(min_confidence),
    }
}

/// A picture of a model, and what its jobs share.
struct Shared {
    answers: Arc<SharedAnswers>,
    successors: Receiver<CaptionTask>,
    encoded: Arc<EncodedPicture>,
    _provider: Arc<dyn Provider>,
}

fn shared() -> Shared {
    shared_by(true)
}

fn shared_by(repeats_answers: bool) -> Shared {
    let config = EngineConfig::default();
    let (answers, successors) = SharedAnswers::new(&config, Arc::default());
    let provider = FakeProvider::idle(|_| Ok(raw("a ball", None)));
    let mut terms = AnswerTerms::new(&provider, &config, Some(answers.clone()));
    terms.repeats_answers = repeats_answers;
    let encoded = EncodedPicture {
        encoding: Arc::new(()),
        confidence: None,
        facts: ImageFacts {
            format: "png".into(),
            width: 1,
            height: 1,
            bytes: 1,
            sha256: "0".repeat(64),
            etag: None,
            last_modified: None,
        },
        timings: StageTimings::default(),
        pixels_sha256: None,
        at: Instant::now(),
        terms: Arc::new(terms),
    };
    Shared { answers, successors, encoded: Arc::new(encoded), _provider: provider }
}

impl Shared {
    fn ask(&self, min_confidence: f32) -> (Option<CaptionTask>, Arc<Job>, Answers<JobAnswer>) {
        let (job, answers) = job_with(vec![output(min_confidence)]);
        let job = Arc::new(job);
        (CaptionTask::begin(job.clone(), self.encoded.clone(), None, None), job, answers)
    }
}

fn is_written(answers: &Answers<JobAnswer>) -> bool {
    let JobAnswer::Done { outputs, .. } = answers.try_recv().unwrap() else { panic!("not done") };
    outputs[0].as_ref().unwrap().caption.is_ok()
}

#[test]
fn followers_get_the_raw_answer_of_their_leader() {
    let shared = shared();
    let (leader, _job, first) = shared.ask(0.0);
    let (follower, _job, second) = shared.ask(0.9);
    assert!(follower.is_none());
    let mut leader = leader.unwrap();
    leader.finish(0, Ok(raw("a red ball", Some(0.5))), Default::default());
    leader.answer();
    assert!(is_written(&first));
    assert!(!is_written(&second), "each has its own threshold");
    let (none, _job, third) = shared.ask(0.0);
    assert!(none.is_none() && is_written(&third), "from the memo");
    assert!(shared.answers.memo_bytes() > 0);
}

#[test]
fn a_leader_that_leaves_has_a_successor() {
    let shared = shared();
    let (leader, job, _) = shared.ask(0.0);
    let ((_, gone, _), (_, _job, second)) = (shared.ask(0.0), shared.ask(0.0));
    gone.cancel();
    job.cancel();
    drop(leader);
    let mut successor = shared.successors.try_recv().unwrap();
    assert_eq!(successor.missing(), [0]);
    assert!(second.try_recv().is_err());
    successor.finish(0, Ok(raw("a red ball", None)), Default::default());
    successor.answer();
    assert!(is_written(&second));
    assert!(shared.successors.try_recv().is_err());
}

#[test]
fn a_failure_is_that_of_all_followers() {
    let shared = shared();
    let (leader, _job, first) = shared.ask(0.0);
    let (_, _job, second) = shared.ask(0.0);
    leader.unwrap().fail(crate::failures::model_error("broken"));
    for answers in [first, second] {
        let JobAnswer::Failed(failure) = answers.try_recv().unwrap() else { panic!("a text") };
        assert_eq!(failure.code, "model_error");
    }
    let (leader, ..) = shared.ask(0.0);
    assert!(leader.is_some(), "the next request is asked again");
}

// A server may answer better the second time; the same weights do not.
#[test]
fn a_useless_answer_is_asked_for_again() {
    for repeats in [true, false] {
        let shared = shared_by(repeats);
        let (leader, _job, _) = shared.ask(0.9);
        let mut leader = leader.unwrap();
        leader.finish(0, Ok(raw("a red ball", Some(0.5))), Default::default());
        leader.answer();
        let (again, _job, _) = shared.ask(0.9);
        assert_eq!(again.is_none(), repeats);
        let (other, _other, lenient) = shared.ask(0.0);
        assert!(other.is_none());
        assert_eq!(lenient.try_recv().is_ok(), repeats, "it follows the one that asks again");
        if let Some(mut again) = again {
            again.finish(0, Ok(raw("a blue ball", Some(0.95))), Default::default());
            again.answer();
            let (none, _job, third) = shared.ask(0.9);
            assert!(none.is_none() && is_written(&third), "the newer answer is kept");
        }
    }
}

#[test]
fn a_failure_is_never_of_a_remembered_url() {
    let shared = shared();
    let (leader, _job, _) = shared.ask(0.0);
    let mut leader = leader.unwrap();
    leader.finish(0, Ok(raw("a red ball", Some(0.5))), Default::default());
    leader.answer();
    let facts = &shared.encoded.facts;
    let file = FileIdentity { sha256: facts.sha256.clone(), etag: None, last_modified: None };
    let terms = &shared.encoded.terms;
    let job = |min_confidence| Arc::new(job_with(vec![output(min_confidence)]).0);
    assert!(!shared.answers.answer_remembered(&job(0.9), &file, terms));
    assert!(shared.answers.answer_known(&job(0.9), &file, terms), "the file was presented");
    assert!(shared.answers.answer_remembered(&job(0.1), &file, terms));
}

// The caller's time limit is no answer to the others.
#[test]
fn a_leader_out_of_time_has_a_successor() {
    let shared = shared();
    let (leader, _job, _) = shared.ask(0.0);
    let (_, _job, second) = shared.ask(0.0);
    leader.unwrap().fail(Failure::timeout(None, "with the model"));
    assert!(second.try_recv().is_err());
    assert!(shared.successors.try_recv().is_ok());
}

#[test]
fn equal_questions_have_equal_keys() {
    let key = |sha256: &str, model: &str, tiles: &str, change: &dyn Fn(&mut OutputSpec)| {
        let mut output = output(0.5);
        change(&mut output);
        AnswerKey::new(sha256, model, tiles, &output)
    };
    let own = key("1", "m", "Auto", &|_| {});
    let same: [&dyn Fn(&mut OutputSpec); 2] =
        [&|output| output.style.rules.max_chars = 9, &|output| output.min_confidence = None];
    for change in same {
        assert_eq!(key("1", "m", "Auto", change), own);
    }
    let other: [&dyn Fn(&mut OutputSpec); 3] = [
        &|output| output.max_tokens = 9,
        &|output| output.style.instruction.push('!'),
        &|output| output.style = builtin("seo").unwrap(),
    ];
    for change in other {
        assert_ne!(key("1", "m", "Auto", change), own);
    }
    for (sha256, model, tiles) in [("2", "m", "Auto"), ("1", "n", "Auto"), ("1", "m", "All")] {
        assert_ne!(key(sha256, model, tiles, &|_| {}), own);
    }
}
