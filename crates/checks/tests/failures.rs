//! Every failure follows PostgreSQL's message style. One table for each crate.

use pg_caption_checks::{message_violations, style_violations};
use pg_caption_fetch::{CertificateFault, FetchError, FetchStage, UrlLocation, UrlOddity};
use pg_caption_hub::HubError;
use pg_caption_models::ModelsError;
use pg_caption_pixels::{PictureError, PictureFormat};
use pg_caption_style::{FolderError, StyleError, TextRefusal};
use pg_caption_wire::{Failure, FailureClass, UrlMistake};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

#[track_caller]
fn all_follow_the_style(failures: impl IntoIterator<Item = Failure>) {
    let found: Vec<String> = failures.into_iter().flat_map(|f| style_violations(&f)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[track_caller]
fn all_messages_follow_the_style(messages: impl IntoIterator<Item = String>) {
    let found: Vec<String> = messages.into_iter().flat_map(|m| message_violations(&m)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn shared_failures_follow_the_style() {
    all_follow_the_style([
        Failure::timeout(Some(500), "waiting for its turn"),
        Failure::timeout(None, "waiting for memory"),
        Failure::version_mismatch(("0.2.0", 1), ("0.3.0", 2)),
        Failure::engine_killer(3),
        Failure::unexpected_304(),
    ]);
}

#[test]
fn fetch_failures_follow_the_style() {
    use FetchError::*;
    let location =
        || UrlLocation { host: "cdn.example:443".into(), url: "https://cdn.example/a.jpg".into() };
    let (shown, reason) = (|| "a.jpg".to_string(), || "Connection refused (os error 111)".into());
    let second = Duration::from_secs(1);
    let mut errors = vec![
        BadUrl { shown: shown(), reason: "it names no host".into() },
        RelativeUrl { shown: shown() },
        Scheme { shown: shown(), scheme: "ftp".into() },
        Credentials { location: location() },
        ForbiddenHost { location: location() },
        ForbiddenAddress { location: location(), address: "10.0.0.1".into(), what: "private" },
        Dns { location: location(), reason: reason() },
        Connect { location: location(), reason: reason() },
        Tls { location: location(), reason: reason(), no_roots: true, fault: None },
        Tls { location: location(), reason: reason(), no_roots: false, fault: None },
        Reset { location: location(), reason: reason() },
        TooLarge { location: location(), limit: 10, declared: None },
        TooLarge { location: location(), limit: 10, declared: Some(11) },
        TooManyRedirects { location: location(), limit: 5 },
        RedirectLoop { location: location(), with_cookie: false },
        RedirectLoop { location: location(), with_cookie: true },
        InsecureRedirect { location: location() },
        BadRedirect {
            location: location(),
            cause: Box::new(Scheme { shown: shown(), scheme: "file".into() }),
        },
        NotHttp { location: location(), reason: reason() },
        HeadersTooLarge { location: location() },
        BadEncoding { location: location(), reason: "content encoding \"br\"".into() },
        Truncated { location: location() },
        Proxy { location: location(), reason: reason() },
        HostCooling { location: location(), wait: second, last: Some("http_429".into()) },
        HostCooling {
            location: UrlLocation { host: "a:80".into(), url: String::new() },
            wait: second,
            last: None,
        },
        HostBusy { location: location() },
        LookupBusy { location: location() },
        Displaced { location: location() },
        TooSlow { location: location(), bytes: 9, window: second },
        RedirectLoop { location: location(), with_cookie: true },
        Cancelled { location: location() },
        Memory(Box::new(Failure::timeout(None, "waiting for memory"))),
        Setting { setting: "pg_caption.proxy", reason: "it is not a URL".into() },
    ];
    for stage in [
        FetchStage::Resolve,
        FetchStage::Connect,
        FetchStage::Answer,
        FetchStage::Total,
        FetchStage::Caller,
    ] {
        errors.push(Timeout { location: location(), stage, limit: second });
    }
    for status in [301, 304, 401, 403, 404, 429, 503] {
        for retry_after in [None, Some(second)] {
            errors.push(Status { location: location(), status, retry_after, oddity: None });
        }
    }
    for oddity in [
        UrlOddity::Expired { parameter: "se".into(), at: SystemTime::UNIX_EPOCH },
        UrlOddity::Entity,
        UrlOddity::Invisible('\u{200b}'),
        UrlOddity::Separator,
    ] {
        let oddity = Some(oddity);
        errors.push(Status { location: location(), status: 403, retry_after: None, oddity });
    }
    for mistake in
        [UrlMistake::List, UrlMistake::Markup, UrlMistake::WindowsPath, UrlMistake::MissingScheme]
    {
        errors.push(NotOneUrl { shown: shown(), mistake });
    }
    for fault in [
        CertificateFault::Incomplete,
        CertificateFault::UnknownAuthority,
        CertificateFault::SelfSigned,
        CertificateFault::Expired,
        CertificateFault::NotYetValid,
        CertificateFault::OtherName,
        CertificateFault::Other,
    ] {
        let fault = Some(fault);
        errors.push(Tls { location: location(), reason: reason(), no_roots: false, fault });
    }
    all_follow_the_style(errors.iter().map(FetchError::failure));
}

#[test]
fn style_errors_follow_the_style() {
    let errors = [
        StyleError::Name("Bad Name".into()),
        StyleError::Instruction(0),
        StyleError::Prompt("florence2".into()),
        StyleError::Lengths { min: 2, max: 1 },
        StyleError::MaxChars(9),
        StyleError::Sentences,
    ];
    all_messages_follow_the_style(errors.iter().map(StyleError::to_string));
    all_messages_follow_the_style([
        FolderError::NoInstruction("poetic".into()).to_string(),
        FolderError::Style { name: "poetic".into(), error: errors[0].clone() }.to_string(),
    ]);
    let refusals = [
        TextRefusal::TooShort { chars: 2, min: 15 },
        TextRefusal::NoWords,
        TextRefusal::EchoesName,
        TextRefusal::Declined,
        TextRefusal::NoCaption,
        TextRefusal::WrongLanguage { expected: "de".into() },
        TextRefusal::BlockedWord { pattern: None },
    ];
    all_follow_the_style(refusals.iter().map(|refusal| {
        Failure::new(FailureClass::Uncertain, refusal.code(), refusal.to_string())
            .hint(refusal.hint())
    }));
}

#[test]
fn errors_about_texts_follow_the_style() {
    use pg_caption_language::TagError;
    use pg_caption_publish::{LintRule, TemplateError, lint};
    use pg_caption_rules::RuleError;
    all_messages_follow_the_style([
        TagError::Form("german".into()).to_string(),
        TagError::Unknown("qq".into()).to_string(),
        RuleError::Pattern.to_string(),
        RuleError::Replacement.to_string(),
        RuleError::TooMany(10_001).to_string(),
        TemplateError::Form.to_string(),
        TemplateError::Brace(3).to_string(),
        TemplateError::Unknown { name: "x".into(), known: "{title}".into() }.to_string(),
        TemplateError::TooMany.to_string(),
        TemplateError::Caption.to_string(),
        TemplateError::NoPlaceholder.to_string(),
    ]);
    let style = pg_caption_style::builtin("concise").unwrap();
    let long = "shirt, red, <b>sale</b>. Is it? ".repeat(20);
    let texts =
        [None, Some("ab"), Some("TODO"), Some("Image of it"), Some("Sure! A cup"), Some(&*long)];
    let found = texts.iter().flat_map(|text| lint(*text, &style, &["ab"]));
    let found: Vec<_> = found.collect();
    assert!(found.iter().any(|finding| finding.rule == LintRule::TextMarkup));
    all_messages_follow_the_style(found.into_iter().map(|finding| finding.message));
}

#[test]
fn hub_errors_follow_the_style() {
    let (host, file) = ("hub.example".to_string(), "config.json".to_string());
    let path = PathBuf::from("/models/x");
    let mut errors = vec![
        HubError::Name("a/b/c".into()),
        HubError::Setting {
            what: "HF_ENDPOINT",
            value: "x".into(),
            reason: "it is not an http or https address".into(),
        },
        HubError::NoRevision { repo: "a/b".into(), revision: "v7".into() },
        HubError::Network { host: host.clone(), reason: "the connection ended early".into() },
        HubError::Status { host: host.clone(), status: 500, file: file.clone() },
        HubError::Malformed { host, file: file.clone(), reason: "\"x\" is not a commit".into() },
        HubError::Unusable {
            repo: "a/b".into(),
            reason: ModelsError::Missing { file: "config.json".into() },
        },
        HubError::NoSpace { path: path.clone(), needed: 2, available: 1 },
        HubError::Checksum { file: file.clone(), expected: "00".into(), found: "01".into() },
        HubError::Size { file, expected: 1 },
        HubError::Busy { path: path.clone() },
        HubError::File { path: path.clone(), source: std::io::Error::other("it is full") },
    ];
    for token in [true, false] {
        errors.push(HubError::NoRepository { repo: "a/b".into(), token });
        errors.push(HubError::Gated { repo: "a/b".into(), token });
    }
    for origin in [None, Some("a/b at 01234567".to_string())] {
        errors.push(HubError::Exists { path: path.clone(), origin });
    }
    all_messages_follow_the_style(errors.iter().map(HubError::to_string));
}

#[test]
fn picture_failures_follow_the_style() {
    use PictureError::*;
    let format = PictureFormat::Png;
    let errors = [
        Empty,
        NotAnImage { seems: "a text" },
        UnsupportedFormat { name: "AVIF", code: "avif_unsupported" },
        UnsupportedFormat { name: "SVG", code: "svg_unsupported" },
        UnsupportedVariant { format, what: "an unknown filter method".into() },
        TooManyPixels { width: 9, height: 9, limit: 3 },
        SideTooLong { width: 1, height: 2_000_000, limit: 1_000_000 },
        TooMuchMemory { needed: 9, limit: 3 },
        TooManyScans { scans: 300, pixels: 9 },
        Truncated { format, share: None },
        Truncated { format, share: Some(45) },
        Damaged { format, why: "the header is not the first chunk".into() },
        Damaged { format, why: "Unexpected end.".into() },
        TimedOut,
        Panicked { format },
        Processor("no image_processor_type or feature_extractor_type".into()),
    ];
    all_follow_the_style(errors.iter().map(PictureError::failure));
}

#[test]
fn model_folder_errors_follow_the_style() {
    let text = || "encoder_model".to_string();
    let path = || PathBuf::from("config.json");
    let errors = [
        ModelsError::UnknownFamily { model_type: "poet".into(), supported: vec!["florence2"] },
        ModelsError::Missing { file: "tokenizer.json".into() },
        ModelsError::NoGraph { graph: text() },
        ModelsError::NoDtype { graph: text(), dtype: "q4".into(), published: vec!["fp16".into()] },
        ModelsError::UnknownGraph { graph: "x".into(), graphs: vec![text()] },
        ModelsError::BadDtype("q5".into()),
        ModelsError::File { path: path(), source: std::io::Error::other("it is full") },
        ModelsError::Content { path: path(), reason: "not a JSON object".into() },
    ];
    all_messages_follow_the_style(errors.iter().map(ModelsError::to_string));
}
