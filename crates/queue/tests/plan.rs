//! Plans for rows, one rule per test.

use pg_caption_publish::TextTemplate;
use pg_caption_queue::{
    CurrentRow, FillText, LedgerChange, RefusalKind, RetryPolicy, RowHistory, RowJob, RowKey,
    RowMatch, RowOutcome, RowPlan, RowState, Settlement, StoredRow, WatchFill, WatchedTable,
};
use pg_caption_style::builtin;
use pg_caption_wire::{
    AnswerReuse, CaptionOutcome, CaptionOutput, CaptionRequest, Failure, FailureClass,
    FinishReason, ImageFacts, ModelRef, StageTimings, WrittenCaption,
};
use std::time::Duration;

const URL: &str = "https://host/1.jpg";
const RETRY: RetryPolicy = RetryPolicy { max_attempts: 3, jitter: 0.5 };

fn table() -> WatchedTable {
    let fill = |column: &str, style: &str| WatchFill {
        column: column.into(),
        style: builtin(style).expect("a built-in style"),
        max_tokens: 64,
        min_confidence: None,
        template: None,
        fallback: None,
    };
    WatchedTable {
        oid: 1,
        name: "ONLY public.picture".into(),
        owner: 10,
        url: "image_url".into(),
        holds_pictures: false,
        sign: None,
        base_url: None,
        condition: None,
        context: Vec::new(),
        follow_context: false,
        keeps_blank: false,
        fills: vec![fill("alt", "concise"), fill("seo", "seo")],
        keys: Vec::new(),
        overwrite: false,
        review: false,
        has_triggers: true,
        batch: None,
        paused: false,
        backfill_run: 1,
        backfill_after: None,
        backfill_done: true,
        recaption_before: None,
    }
}

/// A job whose ledger has a text for each fill: "old", written for `noted_url`.
fn job(noted_url: &str) -> RowJob {
    let settlement_of = |text: &str| {
        let empty = RowJob {
            row: RowKey { relation: 1, key: "[\"1\"]".into() },
            page: None,
            url: noted_url.into(),
            resolved: None,
            fills: vec![0, 1],
            rendered: Vec::new(),
            context: Vec::new(),
            ledger: Default::default(),
            recaption: false,
            validators: None,
            known: None,
            earlier: None,
            reuse: Default::default(),
            refused: None,
            attempts: 0,
            trial: Default::default(),
        };
        let (table, answer) = (table(), done(&[Ok(text), Ok(text)]));
        let settlement = Settlement::new(&table, &empty, &answer, RETRY);
        let current = row(noted_url, [None, None]);
        let RowPlan::Write(update, _) = settlement.plan(RowState::Current(&current)) else {
            panic!("no write")
        };
        let texts = vec![FillText::of(Some(text)), FillText::of(Some(text))];
        match update.ledger(&StoredRow { texts, url: None }) {
            LedgerChange::Put(entry) => (empty.clone(), entry.outputs),
            LedgerChange::Amend { .. } | LedgerChange::Remove(_) => panic!("no entry"),
        }
    };
    let (empty, ledger) = settlement_of("old");
    RowJob { url: URL.into(), ledger, ..empty }
}

fn row(url: &str, texts: [Option<&str>; 2]) -> CurrentRow {
    let texts = texts.map(FillText::of).into();
    CurrentRow {
        url: Some(url.into()),
        texts,
        words: Default::default(),
        followed: Default::default(),
        matches: RowMatch::Matching,
        refused: None,
    }
}

fn done(outputs: &[Result<&str, &str>]) -> CaptionOutcome {
    let output = |output: &Result<&str, &str>| match output {
        Ok(text) => CaptionOutput::Written(WrittenCaption {
            caption: (*text).into(),
            finish: FinishReason::Stop,
            tokens: 1,
            confidence: Some(1.0),
            draft: false,
            with_context: false,
            model: None,
        }),
        Err(code) => CaptionOutput::Failed(Failure::new(FailureClass::Uncertain, *code, "why")),
    };
    CaptionOutcome::Done {
        image: ImageFacts {
            format: "jpeg".into(),
            width: 1,
            height: 1,
            bytes: 1,
            sha256: "file".into(),
            etag: Some("tag".into()),
            last_modified: None,
        },
        outputs: outputs.iter().map(output).collect(),
        model: ModelRef { name: "model".into(), digest: "digest".into() },
        timings: StageTimings::default(),
    }
}

fn failed(class: FailureClass) -> CaptionOutcome {
    CaptionOutcome::Failed(Failure::new(class, "code", "why"))
}

/// The outcome of an answer that does not touch the row.
fn recorded(job: &RowJob, answer: &CaptionOutcome) -> RowOutcome {
    let table = table();
    let settlement = Settlement::new(&table, job, answer, RETRY);
    assert!(!settlement.needs_row());
    match settlement.plan(RowState::NotRead) {
        RowPlan::Record(outcome) => outcome,
        plan => panic!("{plan:?}"),
    }
}

#[test]
fn the_ledger_names_the_model_of_each_text() {
    let mut answer = done(&[Ok("A cup"), Ok("A red cup")]);
    let CaptionOutcome::Done { outputs, .. } = &mut answer else { panic!("not done") };
    let CaptionOutput::Written(second) = &mut outputs[1] else { panic!("not written") };
    second.model = Some(ModelRef { name: "large".into(), digest: "0123456789abcdef".into() });
    let (table, job) = (table(), job(URL));
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let current = row(URL, [None, None]);
    let RowPlan::Write(update, _) = settlement.plan(RowState::Current(&current)) else {
        panic!("no write")
    };
    let texts = vec![FillText::of(Some("A cup")), FillText::of(Some("A red cup"))];
    let LedgerChange::Put(entry) = update.ledger(&StoredRow { texts, url: None }) else {
        panic!("no entry")
    };
    let mut models: Vec<String> =
        entry.outputs.values().map(|output| output["model"].to_string()).collect();
    models.sort();
    assert_eq!(models, ["\"large@0123456789ab\"", "\"model@digest\""]);
    assert_eq!(entry.model, "digest", "the model that was asked");
}

/// The change of the ledger after an answer to a row with these texts.
fn ledger_after(
    table: &WatchedTable,
    job: &RowJob,
    answer: &CaptionOutcome,
    texts: [Option<&str>; 2],
) -> (Vec<(usize, String)>, Vec<usize>, LedgerChange) {
    let settlement = Settlement::new(table, job, answer, RETRY);
    let current = row(URL, texts);
    let RowPlan::Write(update, _) = settlement.plan(RowState::Current(&current)) else {
        panic!("no write")
    };
    let stored = update.texts.iter().map(|(_, text)| FillText::of(Some(text.as_str())));
    let change = update.ledger(&StoredRow { texts: stored.collect(), url: None });
    (update.texts.clone(), update.emptied.clone(), change)
}

#[test]
fn an_unsure_model_makes_a_draft() {
    let mut answer = done(&[Ok("A cup"), Ok("A red cup")]);
    let CaptionOutcome::Done { outputs, .. } = &mut answer else { panic!("not done") };
    let CaptionOutput::Written(second) = &mut outputs[1] else { panic!("not written") };
    second.draft = true;
    let (texts, _, change) = ledger_after(&table(), &job(URL), &answer, [None, None]);
    assert_eq!(texts, [(0, "A cup".to_string())]);
    let LedgerChange::Put(entry) = change else { panic!("no entry") };
    assert_eq!((entry.written, entry.drafted), (vec!["alt".into()], vec!["seo".into()]));
    assert_eq!(entry.outputs["seo"]["draft"]["written"], "A red cup");
    assert_eq!(entry.outputs["seo"].get("text"), None);
}

#[test]
fn a_text_stays_until_its_draft_is_approved() {
    let table = WatchedTable { review: true, ..table() };
    let answer = done(&[Ok("new"), Ok("new")]);
    let again = RowJob { recaption: true, ..job(URL) };
    let (texts, emptied, change) = ledger_after(&table, &again, &answer, [Some("old"); 2]);
    assert!(texts.is_empty() && emptied.is_empty(), "{texts:?} {emptied:?}");
    let LedgerChange::Put(entry) = change else { panic!("no entry") };
    assert_eq!(entry.outputs["alt"]["text"], again.ledger["alt"]["text"]);
    assert_eq!(entry.outputs["alt"]["draft"]["state"], "draft");
    // The text of another picture is taken away.
    let other = RowJob { url: URL.into(), ..job("https://host/0.jpg") };
    let (texts, emptied, change) = ledger_after(&table, &other, &answer, [Some("old"); 2]);
    assert_eq!((texts, emptied), (Vec::new(), vec![0, 1]));
    let LedgerChange::Put(entry) = change else { panic!("no entry") };
    assert_eq!(entry.outputs["alt"].get("text"), None);
    // Without a caption of the new picture, the draft of the old one goes as well.
    let drafted = RowJob { ledger: entry.outputs, url: URL.into(), ..job(URL) };
    let next = RowJob { url: "https://host/2.jpg".into(), ..drafted.clone() };
    let refused = failed(FailureClass::Reject);
    let settlement = Settlement::new(&table, &next, &refused, RETRY);
    let current = row("https://host/2.jpg", [None, None]);
    let RowPlan::Write(update, _) = settlement.plan(RowState::Current(&current)) else {
        panic!("no write")
    };
    assert_eq!(
        update.ledger(&StoredRow::default()),
        LedgerChange::Remove(vec!["alt".into(), "seo".into()])
    );
    // Nothing is asked for again while the draft waits.
    let settlement = Settlement::new(&table, &drafted, &answer, RETRY);
    let current = row(URL, [None, None]);
    assert!(matches!(settlement.plan(RowState::Current(&current)), RowPlan::Record(_)));
}

#[test]
fn failure_class_decides_about_the_next_attempt() {
    let first = job(URL);
    let last = RowJob { attempts: 2, ..first.clone() };
    let defers = |job: &RowJob, class| match recorded(job, &failed(class)) {
        RowOutcome::Deferred { attempts, pause, .. } => Some((attempts, pause.as_millis())),
        RowOutcome::Failed { attempts, .. } => {
            assert_eq!(attempts, job.attempts + 1);
            None
        }
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(defers(&first, FailureClass::Retry), Some((1, 5000)));
    assert_eq!(defers(&last, FailureClass::Retry), None, "the last attempt");
    assert_eq!(defers(&last, FailureClass::Host), Some((2, 31_500)), "not charged");
    assert_eq!(defers(&first, FailureClass::Reject), None);
    assert_eq!(recorded(&first, &CaptionOutcome::Unchanged), RowOutcome::Confirmed);
}

#[test]
fn texts_go_into_empty_and_machine_written_fills_only() {
    let (table, job) = (table(), job("https://host/0.jpg"));
    let answer = done(&[Ok("new"), Ok("new")]);
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let written = |current: CurrentRow| match settlement.plan(RowState::Current(&current)) {
        RowPlan::Write(update, RowOutcome::Done) => {
            update.texts.iter().map(|(fill, _)| *fill).collect()
        }
        RowPlan::Record(RowOutcome::Done) => Vec::new(),
        plan => panic!("{plan:?}"),
    };
    assert_eq!(written(row(URL, [None, Some("old")])), [0, 1]);
    assert_eq!(written(row(URL, [Some("edited"), Some("old")])), [1]);
    assert_eq!(written(row("https://host/2.jpg", [None, None])), [0; 0], "the URL has changed");
}

#[test]
fn rejected_picture_empties_texts_of_the_previous_one() {
    let (table, job) = (table(), job("https://host/0.jpg"));
    let answer = failed(FailureClass::Reject);
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    assert!(settlement.needs_row());
    let current = row(URL, [Some("edited"), Some("old")]);
    let RowPlan::Write(update, RowOutcome::Failed { .. }) =
        settlement.plan(RowState::Current(&current))
    else {
        panic!("no write")
    };
    assert_eq!((update.texts.len(), &update.emptied[..]), (0, &[1][..]));
    assert_eq!(update.ledger(&StoredRow::default()), LedgerChange::Remove(vec!["seo".into()]));
}

#[test]
fn row_without_url_loses_machine_written_texts_only() {
    let (table, job) = (table(), job("https://host/0.jpg"));
    let removal = RowJob { url: String::new(), fills: vec![0, 1], ..job };
    let settlement = Settlement::new(&table, &removal, &CaptionOutcome::Unchanged, RETRY);
    let current = |url: Option<&str>| CurrentRow {
        url: url.map(Into::into),
        ..row("", [Some("edited"), Some("old")])
    };
    for url in [None, Some("")] {
        let current = current(url);
        let RowPlan::Write(update, RowOutcome::Done) = settlement.plan(RowState::Current(&current))
        else {
            panic!("no write")
        };
        assert_eq!((update.texts.len(), &update.emptied[..]), (0, &[1][..]));
        assert_eq!(update.ledger(&StoredRow::default()), LedgerChange::Remove(vec!["seo".into()]));
    }
    let changed = current(Some(URL));
    let plan = settlement.plan(RowState::Current(&changed));
    assert!(matches!(plan, RowPlan::Record(RowOutcome::Done)), "{plan:?}");
}

#[test]
fn excluded_row_keeps_its_texts() {
    let (table, answer) = (table(), done(&[Ok("new"), Ok("new")]));
    for job in [job("https://host/0.jpg"), RowJob { url: String::new(), ..job(URL) }] {
        let settlement = Settlement::new(&table, &job, &answer, RETRY);
        let current =
            CurrentRow { matches: RowMatch::Excluded, ..row(&job.url, [Some("old"), Some("old")]) };
        let plan = settlement.plan(RowState::Current(&current));
        assert!(matches!(plan, RowPlan::Record(RowOutcome::Done)), "{plan:?}");
    }
}

#[test]
fn long_text_counts_as_user_edited() {
    let (table, job, answer) = (table(), job("https://host/0.jpg"), done(&[Ok("new"), Ok("new")]));
    let long = "x".repeat(100_000);
    let current = row(URL, [Some(&long), Some("old")]);
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let RowPlan::Write(update, _) = settlement.plan(RowState::Current(&current)) else {
        panic!("no write")
    };
    assert_eq!(update.texts, [(1, "new".to_owned())]);
}

#[test]
fn locked_row_is_rechecked() {
    let (table, job, answer) = (table(), job(URL), done(&[Ok("new"), Ok("new")]));
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    assert!(matches!(settlement.plan(RowState::Locked), RowPlan::Recheck { blocked: false }));
    assert!(matches!(settlement.plan(RowState::Blocked), RowPlan::Recheck { blocked: true }));
}

#[test]
fn refused_write_is_retried_only_if_it_may_pass() {
    let (table, job, answer) = (table(), job(URL), done(&[Ok("new"), Ok("new")]));
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let failure = Failure::new(FailureClass::Reject, "write_refused", "why");
    let charged = |kind| {
        let plan = settlement.plan(RowState::Refused { failure: &failure, kind });
        let RowPlan::Record(outcome) = plan else { panic!("{plan:?}") };
        match outcome {
            RowOutcome::Deferred { attempts, .. } => Some(attempts),
            RowOutcome::Failed { .. } => None,
            outcome => panic!("{outcome:?}"),
        }
    };
    assert_eq!(charged(RefusalKind::Transient), Some(1));
    assert_eq!(charged(RefusalKind::Resources), Some(0), "not the row's fault");
    assert_eq!(charged(RefusalKind::Final), None);
    let plan = settlement.plan(RowState::Runaway(&failure));
    assert!(matches!(plan, RowPlan::Record(RowOutcome::Failed { attempts: 1, .. })), "{plan:?}");
}

#[test]
fn failure_without_text_outlasts_a_refused_write() {
    let (table, job) = (table(), job("https://host/0.jpg"));
    let answer = failed(FailureClass::Reject);
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let refusal = Failure::new(FailureClass::Reject, "write_refused", "why");
    let plan =
        settlement.plan(RowState::Refused { failure: &refusal, kind: RefusalKind::Transient });
    let RowPlan::Record(RowOutcome::Failed { failure, .. }) = plan else { panic!("{plan:?}") };
    assert_eq!(failure.code, "code");
}

#[test]
fn ledger_keeps_validators_of_the_captioned_url_only() {
    let (table, job, answer) = (table(), job("https://host/0.jpg"), done(&[Ok("new"), Ok("new")]));
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let current = row(URL, [None, None]);
    let RowPlan::Write(update, _) = settlement.plan(RowState::Current(&current)) else {
        panic!("no write")
    };
    let etag = |url: Option<&str>| {
        let texts = vec![FillText::of(Some("new")), FillText::of(Some("new"))];
        match update.ledger(&StoredRow { texts, url: url.map(Into::into) }) {
            LedgerChange::Put(entry) => entry.etag,
            change => panic!("{change:?}"),
        }
    };
    assert_eq!(etag(None).as_deref(), Some("tag"));
    assert_eq!(etag(Some("https://host/changed-by-a-trigger.jpg")), None);
}

#[test]
fn host_pause_follows_the_host() {
    let mut failure = Failure::new(FailureClass::Host, "http_429", "why");
    failure.retry_after_ms = Some(120_000);
    let outcome = recorded(&job(URL), &CaptionOutcome::Failed(failure));
    let RowOutcome::Deferred { pause, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(pause, Duration::from_secs(126));
}

#[test]
fn refused_text_leaves_the_others() {
    let (table, job, answer) = (table(), job("https://host/0.jpg"), done(&[Ok("new"), Ok("new")]));
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let failure = Failure::new(FailureClass::Reject, "write_refused", "column seo");
    let others = settlement.without(&[1], failure);
    let current = row(URL, [Some("old"), Some("old")]);
    let RowPlan::Write(update, RowOutcome::Failed { failure, attempts: 1 }) =
        others.plan(RowState::Current(&current))
    else {
        panic!("no write")
    };
    let texts = [(0, "new".to_owned())];
    assert_eq!((&update.texts[..], failure.message.as_str()), (&texts[..], "column seo"));
    assert_eq!(settlement.only(1).fills().collect::<Vec<_>>(), [1]);
}

#[test]
fn picture_that_is_not_there_yet_gets_an_hour() {
    for code in ["http_404", "http_403", "http_423", "http_425", "http_420", "http_202", "http_204"]
    {
        let answer = CaptionOutcome::Failed(Failure::new(FailureClass::Reject, code, "why"));
        let mut waited = Duration::ZERO;
        for attempts in 0..5 {
            let outcome = recorded(&RowJob { attempts, ..job(URL) }, &answer);
            let RowOutcome::Deferred { pause, attempts: charged, .. } = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(charged, attempts + 1);
            assert!(attempts > 0 || pause < Duration::from_secs(12), "{pause:?}");
            waited += pause;
        }
        assert!(waited < Duration::from_secs(3600), "{waited:?}");
        let last = recorded(&RowJob { attempts: 5, ..job(URL) }, &answer);
        assert!(matches!(last, RowOutcome::Failed { attempts: 6, .. }), "{code}: {last:?}");
    }
    let gone = CaptionOutcome::Failed(Failure::new(FailureClass::Reject, "http_410", "why"));
    assert!(matches!(recorded(&job(URL), &gone), RowOutcome::Failed { .. }));
}

#[test]
fn templates_and_fallbacks_show_words_of_the_row() {
    let mut table = table();
    let template = TextTemplate::for_captions("{title}: {caption}", &["title"]);
    table.fills[0].template = Some(template.expect("a template"));
    let fallback = TextTemplate::for_fallbacks("{title}", &["title"]);
    table.fills[1].fallback = Some(fallback.expect("a fallback"));
    let job = RowJob { ledger: Default::default(), ..job(URL) };
    let words = [("title".to_owned(), "Navy T-shirt".to_owned())].into();
    let current = CurrentRow { words, ..row(URL, [None, None]) };
    let answer = done(&[Ok("Folded on a wooden floor"), Err("too_short")]);
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let RowPlan::Write(update, outcome) = settlement.plan(RowState::Current(&current)) else {
        panic!("no write")
    };
    assert_eq!(
        update.texts,
        [(0, "Navy T-shirt: Folded on a wooden floor".to_owned()), (1, "Navy T-shirt".to_owned())]
    );
    assert!(matches!(outcome, RowOutcome::Failed { .. }), "the failure stays visible");
    let texts = update.texts.iter().map(|(_, text)| FillText::of(Some(text))).collect();
    let LedgerChange::Put(entry) = update.ledger(&StoredRow { texts, url: None }) else {
        panic!("no entry")
    };
    assert_eq!(entry.outputs["alt"]["caption"], "Folded on a wooden floor");
    assert_eq!(entry.outputs["seo"]["source"], "fallback");
    // Nothing else is requested for this picture, and no picture gets no text.
    let full = CurrentRow {
        texts: ["Navy T-shirt: Folded on a wooden floor", "Navy T-shirt"]
            .map(|text| FillText::of(Some(text)))
            .into(),
        ..current
    };
    let failed = failed(FailureClass::Reject);
    let again = RowJob { ledger: entry.outputs, ..job };
    let settlement = Settlement::new(&table, &again, &failed, RETRY);
    assert!(matches!(settlement.plan(RowState::Current(&full)), RowPlan::Record(_)));
    // Without words the row stays empty.
    let empty = row(URL, [None, None]);
    let fresh = RowJob { ledger: Default::default(), ..again.clone() };
    let settlement = Settlement::new(&table, &fresh, &failed, RETRY);
    assert!(matches!(settlement.plan(RowState::Current(&empty)), RowPlan::Record(_)));
}

/// A watch that follows the title, a row of it, and the ledger of its texts.
fn followed(title: &str) -> (WatchedTable, CurrentRow) {
    let mut table = table();
    let template = TextTemplate::for_captions("{title}: {caption}", &["title"]);
    table.fills[0].template = Some(template.expect("a template"));
    let fallback = TextTemplate::for_fallbacks("{title}", &["title"]);
    table.fills[1].fallback = Some(fallback.expect("a fallback"));
    (table.context, table.follow_context) = (vec!["title".into()], true);
    let mut current = row(URL, [None, None]);
    current.words = [("title".to_owned(), title.to_owned())].into();
    current.followed.context = vec![("title".into(), title.into())];
    current.followed.digests =
        [("title".to_owned(), FillText::of(Some(title)).ledger_hash())].into();
    (table, current)
}

/// The update of a plan, and the change of the ledger after it.
fn written<'a>(
    settlement: &'a Settlement<'a>,
    current: &CurrentRow,
) -> (Vec<(usize, String)>, Vec<usize>, LedgerChange) {
    let RowPlan::Write(update, _) = settlement.plan(RowState::Current(current)) else {
        panic!("no write")
    };
    let texts = update.texts.iter().map(|(_, text)| FillText::of(Some(text))).collect();
    let change = update.ledger(&StoredRow { texts, url: None });
    (update.texts, update.emptied, change)
}

#[test]
fn changed_words_are_shown_without_a_request() {
    let (table, mut current) = followed("Navy cup");
    let first = RowJob { ledger: Default::default(), ..job(URL) };
    let answer = done(&[Ok("Folded on a wooden floor"), Err("too_short")]);
    let settlement = Settlement::new(&table, &first, &answer, RETRY);
    let (texts, _, LedgerChange::Put(entry)) = written(&settlement, &current) else {
        panic!("no entry")
    };
    assert_eq!(texts[0].1, "Navy cup: Folded on a wooden floor");
    current.texts = texts.iter().map(|(_, text)| FillText::of(Some(text))).collect();
    // The same words, at first; then another title for caption and fallback; then none.
    let history = RowHistory { ledger: entry.outputs.clone(), ..RowHistory::default() };
    assert_eq!(history.changed_texts(&table, &current), (vec![], vec![]));
    for (title, texts, emptied) in [
        ("Red mug", vec!["Red mug: Folded on a wooden floor", "Red mug"], vec![]),
        ("IMG_1.jpg", vec!["Folded on a wooden floor"], vec![1]),
    ] {
        let (_, other) = followed(title);
        let other = CurrentRow { texts: current.texts.clone(), ..other };
        assert_eq!(history.changed_texts(&table, &other), (vec![], vec![0, 1]));
        let again = RowJob {
            fills: vec![],
            rendered: vec![0, 1],
            ledger: entry.outputs.clone(),
            ..first.clone()
        };
        let nothing = again.immediate_answer().expect("no request");
        let settlement = Settlement::new(&table, &again, &nothing, RETRY);
        let (new, gone, change) = written(&settlement, &other);
        let shown: Vec<&str> = new.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!((shown, gone), (texts, emptied), "{title}");
        let LedgerChange::Amend { outputs, .. } = change else { panic!("{change:?}") };
        assert_eq!(outputs["alt"]["caption"], "Folded on a wooden floor");
        assert_eq!(outputs["alt"]["model"], entry.outputs["alt"]["model"]);
        assert_ne!(outputs["alt"]["words"], entry.outputs["alt"]["words"]);
    }
    // Not where the watch does not follow, for a text of a user, or for another template.
    let (_, other) = followed("Red mug");
    let other = CurrentRow { texts: current.texts.clone(), ..other };
    let still = WatchedTable { follow_context: false, ..table.clone() };
    assert_eq!(history.changed_texts(&still, &other), (vec![], vec![]));
    let edited = CurrentRow { texts: vec![FillText::of(Some("By hand")); 2], ..other.clone() };
    assert_eq!(history.changed_texts(&table, &edited), (vec![], vec![]));
    let mut redefined = table.clone();
    let template = TextTemplate::for_captions("{title} – {caption}", &["title"]);
    redefined.fills[0].template = Some(template.expect("a template"));
    assert_eq!(history.changed_texts(&redefined, &other), (vec![], vec![1]));
}

#[test]
fn a_prompt_that_held_the_context_is_asked_again() {
    let (mut table, current) = followed("Navy cup");
    table.fills[1].fallback = None;
    let mut answer = done(&[Ok("Navy cup on a table"), Ok("Cup")]);
    let CaptionOutcome::Done { outputs, .. } = &mut answer else { panic!("an answer") };
    for output in outputs {
        let CaptionOutput::Written(written) = output else { panic!("a caption") };
        written.with_context = true;
    }
    let context = current.followed.context.clone();
    let first = RowJob { ledger: Default::default(), context, ..job(URL) };
    let settlement = Settlement::new(&table, &first, &answer, RETRY);
    let (texts, _, LedgerChange::Put(entry)) = written(&settlement, &current) else {
        panic!("no entry")
    };
    let texts: Vec<FillText> = texts.iter().map(|(_, text)| FillText::of(Some(text))).collect();
    let history = RowHistory { ledger: entry.outputs, ..RowHistory::default() };
    let row = |title: &str| CurrentRow { texts: texts.clone(), ..followed(title).1 };
    assert_eq!(history.changed_texts(&table, &row("Navy cup")), (vec![], vec![]));
    assert_eq!(history.changed_texts(&table, &row("Red mug")), (vec![0, 1], vec![]));
}

#[test]
fn a_blank_text_that_is_kept_is_never_replaced() {
    let (mut table, job) = (table(), job("https://host/0.jpg"));
    (table.keeps_blank, table.overwrite) = (true, true);
    let blank = FillText::from_column(Some("-".into()));
    let current = CurrentRow { texts: vec![blank.clone(), FillText::Empty], ..row(URL, [None; 2]) };
    let history = RowHistory { ledger: job.ledger.clone(), ..RowHistory::default() };
    assert_eq!(history.changed_texts(&table, &current), (vec![1], vec![]));
    let answer = done(&[Ok("new"), Ok("new")]);
    let settlement = Settlement::new(&table, &job, &answer, RETRY);
    let (texts, emptied, _) = written(&settlement, &current);
    assert_eq!((texts, emptied), (vec![(1, "new".to_owned())], vec![]));
}

/// A request for the first fill, whose text is missing, from what the ledger has.
fn requested(table: &WatchedTable, change: impl FnOnce(&mut RowHistory)) -> CaptionRequest {
    let mut history = RowHistory {
        ledger: job(URL).ledger,
        sha256: Some("file".into()),
        model: "digest".into(),
        ..RowHistory::default()
    };
    change(&mut history);
    let row_key = RowKey { relation: 1, key: "[\"1\"]".into() };
    let current = row(URL, [None, Some("old")]);
    history.job(row_key, 1, (URL.into(), vec![0]), (table, &current)).request(table)
}

#[test]
fn the_ledgers_captions_go_with_a_request() {
    let table = table();
    let request = requested(&table, |_| {});
    let earlier = request.earlier.expect("the ledger's caption");
    assert_eq!((&*earlier.sha256, &*earlier.model), ("file", "digest"));
    assert_eq!(earlier.captions.len(), 1);
    assert_eq!(earlier.captions[0].caption, "old");
    assert_eq!(request.reuse, AnswerReuse::Any);
    let recaption = requested(&table, |past| past.recaption = true);
    assert!(recaption.earlier.is_some());
    assert_eq!(recaption.reuse, AnswerReuse::Picture);
    let forced = requested(&table, |past| (past.recaption, past.forced) = (true, true));
    assert_eq!((forced.earlier, forced.reuse), (None, AnswerReuse::Nothing));
    for unlike in [
        |past: &mut RowHistory| past.sha256 = None,
        |past: &mut RowHistory| past.model.clear(),
        |past: &mut RowHistory| past.sha256 = Some("the file of the other text".into()),
        |past: &mut RowHistory| past.model = "the model of the other text".into(),
        |past: &mut RowHistory| past.ledger["alt"]["source"] = "fallback".into(),
        |past: &mut RowHistory| past.ledger["alt"]["as"] = "another request".into(),
    ] {
        assert_eq!(requested(&table, unlike).earlier, None);
    }
    // Another limit, style or template is another wish.
    let mut other = table;
    let template = TextTemplate::for_captions("{title}: {caption}", &["title"]);
    other.fills[0].template = Some(template.expect("a template"));
    assert_eq!(requested(&other, |_| {}).earlier, None);
}

#[test]
fn a_failure_that_cannot_be_stored_has_a_plain_text() {
    let failure = Failure::new(FailureClass::Reject, "write_refused", "a text of the owner's code");
    let outcome = RowOutcome::Failed { failure, attempts: 2 };
    let Some(RowOutcome::Failed { failure, attempts }) = outcome.with_plain_failure() else {
        panic!("it stays a failure");
    };
    assert_eq!((failure.class, attempts), (FailureClass::Reject, 2));
    assert_eq!(failure.code, "unrecordable");
    assert_eq!(failure.message, "the reason of the failure cannot be stored");
    assert!(RowOutcome::Done.with_plain_failure().is_none());
}
