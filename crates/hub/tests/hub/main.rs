//! Promises of a pull, against a hub of our own on loopback.

mod server;

use pg_caption_hub::{
    HubError, HubLocation, PullProgress, PullReport, PullRequest, RetryLimits, pull,
};
use pg_caption_models::{GraphSelection, InstalledModel, scan};
use server::{COMMIT, Fault, Hub};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const REPO: &str = "owner/Captioner-base";

/// A model by its names; the graphs are bytes without a pattern, larger than one read.
fn model(graphs: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::from([
        ("config.json".to_string(), br#"{"model_type": "florence2"}"#.to_vec()),
        ("generation_config.json".into(), b"{}".to_vec()),
        ("preprocessor_config.json".into(), b"{}".to_vec()),
        ("tokenizer.json".into(), b"{}".to_vec()),
        ("README.md".into(), b"not needed".to_vec()),
        ("model.safetensors".into(), vec![0; 1000]),
        ("onnx/../../evil.onnx".into(), b"not needed either".to_vec()),
    ]);
    for (at, graph) in graphs.iter().enumerate() {
        let bytes = (0..600_000u32 + at as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        files.insert(format!("onnx/{graph}"), bytes);
    }
    files
}

const WHOLE: [&str; 4] =
    ["vision_encoder.onnx", "embed_tokens.onnx", "encoder_model.onnx", "decoder_model_merged.onnx"];

fn hub() -> Hub {
    Hub::start(REPO, model(&WHOLE))
}

fn order(models: &Path) -> PullRequest {
    PullRequest {
        repo: REPO.into(),
        revision: "main".into(),
        wish: GraphSelection::default(),
        models: models.into(),
        name: None,
        replace: false,
        patience: RetryLimits { attempts: 4, pause: Duration::ZERO },
    }
}

fn pulled(hub: &Hub, order: &PullRequest) -> Result<PullReport, HubError> {
    pull(&HubLocation::new(Some(hub.endpoint()), None).unwrap(), order, &mut ())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in ["", "onnx/"] {
        for entry in std::fs::read_dir(folder.join(prefix))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().is_file())
        {
            names.push(format!("{prefix}{}", entry.file_name().to_str().unwrap()));
        }
    }
    names.sort();
    names
}

/// Nothing that anybody could take for a model is there.
fn nothing_is_visible(models: &Path) {
    assert!(scan(models).unwrap_or_default().is_empty());
    assert!(!models.join("Captioner-base").exists());
}

#[test]
fn what_is_needed_comes_and_no_more() {
    let mut graphs = WHOLE.to_vec();
    graphs.extend([
        "decoder_model_merged.onnx_data",
        "decoder_model.onnx",
        "vision_encoder_fp16.onnx",
        "vision_encoder_fp16.onnx_data",
    ]);
    let (hub, dir) = (Hub::start(REPO, model(&graphs)), tempfile::tempdir().unwrap());
    let done = pulled(&hub, &order(dir.path())).unwrap();
    assert_eq!(done.folder, dir.path().join("Captioner-base"));
    assert_eq!(
        (done.commit.as_str(), done.model_type.as_str(), done.unchanged),
        (COMMIT, "florence2", false)
    );
    let expected = [
        ".pull.json",
        "config.json",
        "generation_config.json",
        "onnx/decoder_model_merged.onnx",
        "onnx/decoder_model_merged.onnx_data",
        "onnx/embed_tokens.onnx",
        "onnx/encoder_model.onnx",
        "onnx/vision_encoder.onnx",
        "preprocessor_config.json",
        "tokenizer.json",
    ];
    assert_eq!(names(&done.folder), expected);
    for file in &expected[1..] {
        assert!(std::fs::read(done.folder.join(file)).unwrap() == hub.file(file), "{file}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(InstalledModel::at(&done.folder).problem, None);
}

/// A graph (ONNX protobuf: model.graph.initializer.external_data) whose weights lie in these files.
fn graph_with_weights_in(places: &[&str]) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    };
    let tensor = |place: &&str| {
        field(5, &field(13, &[field(1, b"location"), field(2, place.as_bytes())].concat()))
    };
    field(7, &places.iter().map(tensor).collect::<Vec<_>>().concat())
}

#[test]
fn weights_come_under_whatever_name_their_graph_has_for_them() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.put(
        "onnx/encoder_model.onnx",
        &graph_with_weights_in(&[
            "weights.bin",
            "./parts/second.bin",
            "../config.json",
            "/etc/passwd",
        ]),
    );
    hub.put("onnx/weights.bin", &[7; 400_000]);
    hub.put("onnx/parts/second.bin", &[8; 300_000]);
    hub.put("onnx/other.bin", &[9; 10]);
    hub.fail(
        "onnx/weights.bin",
        &[Fault::Drop(100_000), Fault::Drop(0), Fault::Drop(0), Fault::Drop(0)],
    );
    assert!(matches!(pulled(&hub, &order(dir.path())), Err(HubError::Network { .. })));
    nothing_is_visible(dir.path());
    // What an attempt for another precision left is not kept.
    std::fs::write(dir.path().join(".Captioner-base.partial/onnx/other.bin"), [9; 10]).unwrap();
    let before = hub.fetched().len();
    let done = pulled(&hub, &order(dir.path())).unwrap();
    let again = hub.fetched().split_off(before);
    // In the order of their places, so that the other part was here.
    assert_eq!(again, [("onnx/weights.bin".to_string(), Some("bytes=100000-".to_string()))]);
    assert_eq!(std::fs::read(done.folder.join("onnx/weights.bin")).unwrap(), [7; 400_000]);
    assert_eq!(std::fs::read(done.folder.join("onnx/parts/second.bin")).unwrap(), [8; 300_000]);
    assert!(!done.folder.join("onnx/other.bin").exists());
    assert_eq!(
        done.bytes,
        done.choice.files().map(|file| hub.file(file).len() as u64).sum::<u64>() + 700_000
    );
    let again = pulled(&hub, &order(dir.path())).unwrap();
    assert_eq!((again.unchanged, again.bytes), (true, done.bytes));
}

#[test]
fn weights_that_a_graph_names_and_nobody_published_are_named() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.put("onnx/encoder_model.onnx", &graph_with_weights_in(&["weights.bin"]));
    let error = pulled(&hub, &order(dir.path())).unwrap_err();
    assert!(
        matches!(error, HubError::Unusable { .. })
            && error.to_string().contains("onnx/weights.bin"),
        "{error}"
    );
    nothing_is_visible(dir.path());
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(
        graph,
        &[Fault::Drop(300_000), Fault::Drop(0), Fault::Status(503, None), Fault::Drop(100_000)],
    );
    let done = pulled(&hub, &order(dir.path())).unwrap();
    assert!(std::fs::read(done.folder.join(graph)).unwrap() == hub.file(graph));
    let ranges: Vec<_> = hub
        .fetched()
        .into_iter()
        .filter(|(file, _)| file == graph)
        .map(|(_, range)| range.unwrap_or_default())
        .collect();
    assert_eq!(ranges, ["", "bytes=300000-", "bytes=300000-", "bytes=300000-", "bytes=400000-"]);
}

#[test]
fn a_pull_that_was_given_up_goes_on_with_what_it_has() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(graph, &[Fault::Drop(300_000), Fault::Drop(0), Fault::Drop(0), Fault::Drop(0)]);
    assert!(matches!(pulled(&hub, &order(dir.path())), Err(HubError::Network { .. })));
    nothing_is_visible(dir.path());
    let before = hub.fetched().len();
    pulled(&hub, &order(dir.path())).unwrap();
    let again = hub.fetched().split_off(before);
    assert_eq!(
        again,
        [
            (graph.to_string(), Some("bytes=300000-".to_string())),
            ("onnx/decoder_model_merged.onnx".into(), None)
        ]
    );
}

#[test]
fn what_an_earlier_version_left_is_noticed_and_fetched_anew() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(graph, &[Fault::Drop(300_000), Fault::Status(404, Some("EntryNotFound"))]);
    assert!(matches!(pulled(&hub, &order(dir.path())), Err(HubError::Status { status: 404, .. })));
    let mut other = hub.file(graph);
    other[5] ^= 1;
    hub.put(graph, &other);
    let done = pulled(&hub, &order(dir.path())).unwrap();
    assert!(std::fs::read(done.folder.join(graph)).unwrap() == other);
}

#[test]
fn a_server_without_ranges_costs_time_but_never_a_wrong_file() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let graph = "onnx/encoder_model.onnx";
    hub.fail(graph, &[Fault::Drop(300_000), Fault::NoRange]);
    let done = pulled(&hub, &order(dir.path())).unwrap();
    assert!(std::fs::read(done.folder.join(graph)).unwrap() == hub.file(graph));
}

#[test]
fn wrong_bytes_are_never_installed() {
    for (fault, file) in [
        (Fault::Wrong, "onnx/encoder_model.onnx"),
        (Fault::Long, "onnx/encoder_model.onnx"),
        (Fault::Wrong, "tokenizer.json"),
    ] {
        let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
        hub.fail(file, std::slice::from_ref(&fault));
        let error = pulled(&hub, &order(dir.path())).unwrap_err();
        assert!(matches!(error, HubError::Checksum { .. } | HubError::Size { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");
        nothing_is_visible(dir.path());
        pulled(&hub, &order(dir.path())).unwrap();
    }
}

#[test]
fn names_that_lead_elsewhere_are_not_fetched() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.put("onnx/encoder_model.onnx_data/../../../evil", b"evil");
    hub.put("../evil", b"evil");
    pulled(&hub, &order(&dir.path().join("deep/models"))).unwrap();
    assert!(hub.seen().iter().all(|seen| !seen.path.contains("evil")));
    for (repo, name) in [
        ("../x", None),
        ("a/b/c", None),
        ("", None),
        ("a/b?c", None),
        (REPO, Some("../up")),
        (REPO, Some(".hidden")),
    ] {
        let order =
            PullRequest { repo: repo.into(), name: name.map(Into::into), ..order(dir.path()) };
        assert!(matches!(pulled(&hub, &order), Err(HubError::Name(_))), "{repo} {name:?}");
    }
}

#[test]
fn what_is_not_there_or_not_open_is_said_with_what_to_do() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let missing = PullRequest { repo: "owner/nothing".into(), ..order(dir.path()) };
    let error = pulled(&hub, &missing).unwrap_err().to_string();
    assert!(error.contains("owner/nothing") && error.contains("HF_TOKEN"), "{error}");
    let error =
        pulled(&hub, &PullRequest { revision: "v7".into(), ..order(dir.path()) }).unwrap_err();
    assert!(
        matches!(error, HubError::NoRevision { .. }) && error.to_string().contains("v7"),
        "{error}"
    );
    hub.gate("hf_secret");
    let error = pulled(&hub, &order(dir.path())).unwrap_err();
    assert!(
        matches!(error, HubError::Gated { token: false, .. })
            && error.to_string().contains("HF_TOKEN"),
        "{error}"
    );
    let wrong = HubLocation::new(Some(hub.endpoint()), Some("hf_wrong".into())).unwrap();
    let error = pull(&wrong, &order(dir.path()), &mut ()).unwrap_err();
    assert!(matches!(error, HubError::Gated { token: true, .. }), "{error}");
    assert!(!error.to_string().contains("hf_wrong") && !format!("{wrong:?}").contains("hf_wrong"));
    nothing_is_visible(dir.path());
}

#[test]
fn the_token_opens_the_hub_and_goes_nowhere_else() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.gate("hf_secret");
    let place = HubLocation::new(Some(hub.endpoint()), Some("hf_secret".into())).unwrap();
    pull(&place, &order(dir.path()), &mut ()).unwrap();
    let (elsewhere, at_the_hub): (Vec<_>, Vec<_>) =
        hub.seen().into_iter().partition(|seen| seen.host.starts_with("localhost"));
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|seen| seen.authorization.is_none()));
    assert!(
        at_the_hub.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret"))
    );
}

#[test]
fn a_model_of_no_use_is_refused_before_anything_large_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let strange = |change: &dyn Fn(&Hub), dtypes: &[&str]| {
        let hub = hub();
        change(&hub);
        let order = PullRequest {
            wish: GraphSelection::parse(dtypes, false).unwrap(),
            ..order(dir.path())
        };
        let error = pulled(&hub, &order).unwrap_err().to_string();
        assert_eq!(hub.fetched(), []);
        nothing_is_visible(dir.path());
        error
    };
    let error = strange(&|hub| hub.put("config.json", br#"{"model_type": "poet"}"#), &[]);
    assert!(error.contains("poet") && error.contains("vision-encoder-decoder"), "{error}");
    let error = strange(&|hub| hub.put("config.json", b"<html>"), &[]);
    assert!(error.contains("config.json"), "{error}");
    let error = strange(&|hub| hub.put("onnx/vision_encoder_q4.onnx", b"x"), &["q4"]);
    assert!(
        error.contains("embed_tokens") && error.contains("q4") && error.contains("fp32"),
        "{error}"
    );
    let error = strange(
        &|hub| hub.put("config.json", br#"{"model_type": "idefics3"}"#),
        &["encoder_model=q4"],
    );
    assert!(error.contains("decoder_model_merged"), "{error}");
    let hub = Hub::start(REPO, model(&[]));
    let error = pulled(&hub, &order(dir.path())).unwrap_err().to_string();
    assert!(error.contains("vision_encoder") && error.contains("ONNX"), "{error}");
}

#[test]
fn a_model_that_does_not_fit_on_the_disk_is_refused_at_once() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    hub.tell_size("onnx/encoder_model.onnx", 1 << 60);
    let error = pulled(&hub, &order(dir.path())).unwrap_err();
    assert!(matches!(error, HubError::NoSpace { needed, .. } if needed > 1 << 59), "{error}");
    assert_eq!(hub.fetched(), []);
    nothing_is_visible(dir.path());
}

#[test]
fn a_hub_that_cannot_be_reached_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = HubLocation::new(Some(format!("http://{closed}/")), None).unwrap();
    let error = pull(&place, &order(dir.path()), &mut ()).unwrap_err();
    assert!(
        matches!(error, HubError::Network { .. }) && error.to_string().contains("127.0.0.1"),
        "{error}"
    );
    for endpoint in ["nonsense", "ftp://example.org"] {
        assert!(
            matches!(HubLocation::new(Some(endpoint.into()), None), Err(HubError::Setting { .. })),
            "{endpoint}"
        );
    }
}

#[test]
fn a_second_pull_changes_nothing_unless_told_to() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    pulled(&hub, &order(dir.path())).unwrap();
    let before = hub.fetched().len();
    assert!(pulled(&hub, &order(dir.path())).unwrap().unchanged);
    assert_eq!(hub.fetched().len(), before);
    hub.put("onnx/embed_tokens_q4.onnx", b"four bits");
    let other = PullRequest {
        wish: GraphSelection::parse(&["embed_tokens=q4"], false).unwrap(),
        ..order(dir.path())
    };
    let error = pulled(&hub, &other).unwrap_err();
    assert!(
        matches!(error, HubError::Exists { .. }) && error.to_string().contains(REPO),
        "{error}"
    );
    let done = pulled(&hub, &PullRequest { replace: true, ..other.clone() }).unwrap();
    assert_eq!(std::fs::read(done.folder.join("onnx/embed_tokens_q4.onnx")).unwrap(), b"four bits");
    assert!(!done.folder.join("onnx/embed_tokens.onnx").exists());
    let second = pulled(&hub, &PullRequest { name: Some("second".into()), ..other }).unwrap();
    assert_eq!(second.folder, dir.path().join("second"));
    let found: Vec<_> = scan(dir.path()).unwrap().into_iter().map(|i| i.name).collect();
    assert_eq!(found, ["Captioner-base", "second"]);
}

#[test]
fn two_pulls_of_one_model_do_not_mix() {
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    /// Tries a second pull in the middle of the first.
    struct Second<'a>(&'a Hub, &'a Path, Option<HubError>);
    impl PullProgress for Second<'_> {
        fn at(&mut self, _: &str, done: u64, total: u64) {
            assert!(done <= total);
            if self.2.is_none() {
                self.2 = pulled(self.0, &order(self.1)).err();
            }
        }
    }
    let mut second = Second(&hub, dir.path(), None);
    pull(&HubLocation::new(Some(hub.endpoint()), None).unwrap(), &order(dir.path()), &mut second)
        .unwrap();
    assert!(matches!(second.2, Some(HubError::Busy { .. })), "{:?}", second.2);
}

#[test]
fn progress_ends_at_the_whole() {
    #[derive(Default)]
    struct Last(u64, u64);
    impl PullProgress for Last {
        fn at(&mut self, _: &str, done: u64, total: u64) {
            (self.0, self.1) = (done, total);
        }
    }
    let (hub, dir) = (hub(), tempfile::tempdir().unwrap());
    let mut last = Last::default();
    let done =
        pull(&HubLocation::new(Some(hub.endpoint()), None).unwrap(), &order(dir.path()), &mut last)
            .unwrap();
    assert_eq!((last.0, last.1), (done.bytes, done.bytes));
    assert_eq!(
        done.bytes,
        done.choice.files().map(|file| hub.file(file).len() as u64).sum::<u64>()
    );
}
