//! Each failure of docs/errors.md as a client meets it: its code and class, the SQLSTATE of the
//! error, and a message that follows the style guide and says what to do. Codes that need more than
//! a statement are listed with the test that provokes them.

mod documented;
mod engines;
mod hosts;
mod model_servers;
mod picture_files;

use documented::Documented;
use pg_caption_tests::{TestSession, message_problem, project, quote_literal, sentence_problem};
use std::collections::BTreeSet;

/// Codes that need more than a statement: a test that has them, and what that file names them.
const TESTED_ELSEWHERE: [(&str, &str, &str); 30] = [
    ("bad_request", "crates/engine/tests/captions.rs", "\"bad_request\""),
    ("bad_style", "crates/engine/tests/captions.rs", "\"bad_style\""),
    ("blocked_word", "tests/tests/live/rules.rs", "blocked_word"),
    ("cancelled", "crates/fetch/tests/limits.rs", "\"cancelled\""),
    ("condition_failed", "tests/tests/live/conditions.rs", "condition_failed"),
    ("condition_timeout", "tests/tests/live/conditions.rs", "condition_timeout"),
    ("decode_timeout", "crates/pixels/tests/refusals.rs", "\"decode_timeout\""),
    ("dns", "crates/fetch/tests/addresses.rs", "\"dns\""),
    ("engine_killer", "tests/tests/live/engine_losses.rs", "engine_killer"),
    ("host_busy", "tests/tests/live/hosts.rs", "host_busy"),
    ("insecure_redirect", "crates/fetch/tests/tls.rs", "\"insecure_redirect\""),
    ("lookup_busy", "crates/fetch/tests/addresses.rs", "\"lookup_busy\""),
    ("lost", "crates/engine/src/serve/tests.rs", "\"lost\""),
    ("model_error", "crates/engine/tests/captions.rs", "\"model_error\""),
    ("model_server_killer", "crates/engine/tests/remote.rs", "\"model_server_killer\""),
    ("no_confidence", "crates/engine/tests/remote.rs", "\"no_confidence\""),
    ("protocol", "crates/engine/tests/captions.rs", "\"protocol\""),
    ("proxy", "crates/fetch/tests/addresses.rs", "\"proxy\""),
    ("row_locked", "tests/tests/live/row_errors.rs", "row_locked"),
    ("sign_failed", "tests/tests/live/private_images.rs", "sign_failed"),
    ("sign_timeout", "tests/tests/live/private_images.rs", "sign_timeout"),
    ("table_locked", "tests/tests/live/other_sessions.rs", "table_locked"),
    ("too_much_memory", "crates/engine/tests/memory.rs", "\"too_much_memory\""),
    ("too_many_connections", "tests/tests/live/capacity.rs", "has no free connection"),
    ("unrecordable", "crates/queue/tests/plan.rs", "\"unrecordable\""),
    ("version_mismatch", "crates/engine/tests/serve.rs", "\"version_mismatch\""),
    ("write_endless", "tests/tests/live/row_errors.rs", "write_endless"),
    ("write_killed", "tests/tests/live/crashes.rs", "write_killed"),
    ("write_refused", "tests/tests/live/row_errors.rs", "write_refused"),
    ("wrong_language", "tests/tests/live/languages.rs", "wrong_language"),
];

/// Codes that no test provokes as a client meets them, and why. Unit tests have their messages.
const NOT_PROVOKED: [(&str, &str); 5] = [
    ("decoder_panic", "no file is known that makes a decoder panic"),
    ("out_of_memory", "it needs a machine without memory"),
    ("unreadable", "it needs a table whose rows cannot be read"),
    ("unreadable_file", "command line only"),
    ("loading", "the time of loading is not under the control of a test"),
];

/// Messages of failures of the engine, which have no code in SQL.
const ENGINE_MESSAGES: [(&str, &str); 8] = [
    ("bad_setting", "pg_caption.fetch_headers_file cannot be used"),
    ("daily_limit", "the daily limit of the model server is reached"),
    ("engine_absent", "the caption engine did not answer in time"),
    ("model_server_credit", "the account at the model server has no credit"),
    ("model_server_key", "the model server refuses the key"),
    ("model_server_model", "the model server has no such model"),
    ("model_server_refused", "the model server cannot be used"),
    ("no_model", "the engine has no usable model"),
];

/// A code, and the URLs that fail with it: for `caption_images`, and for `caption_image`.
struct Trial {
    code: &'static str,
    urls: [String; 2],
}

impl Trial {
    /// The same URL for both.
    fn new(code: &'static str, url: impl Into<String>) -> Trial {
        let url = url.into();
        Trial { code, urls: [url.clone(), url] }
    }
}

/// What has been tried, and how it differed from the documentation.
struct Trials {
    documented: Documented,
    tried: BTreeSet<&'static str>,
    found: Vec<String>,
}

impl Trials {
    /// Calls for each URL in this session.
    fn run(&mut self, session: &mut TestSession, trials: &[Trial]) {
        for Trial { code, urls } in trials {
            self.tried.insert(code);
            let urls = urls.each_ref().map(|url| quote_literal(url));
            let differences = self.differences(session, code, &urls);
            self.found.extend(differences.into_iter().map(|what| format!("{code}: {what}")));
        }
    }

    fn differences(
        &self,
        session: &mut TestSession,
        code: &str,
        urls: &[String; 2],
    ) -> Vec<String> {
        let class = self.documented.class(code);
        let mut found = Vec::new();
        // A failure of the engine is an error here, too.
        if class != "engine" {
            let rows = session.rows(&format!(
                "SELECT error_code, error_class FROM caption_images(ARRAY[{}])",
                urls[0]
            ));
            if rows != [[Some(code.to_owned()), Some(class.to_owned())]] {
                found.push(format!("{rows:?} instead of class {class}"));
            }
        }
        session.notices();
        let message = match session.try_rows(&format!("SELECT caption_image({})", urls[1])) {
            Ok(rows) if class == "uncertain" && rows == [[None]] => session.notices().pop(),
            Ok(rows) => return vec![format!("no failure, but {rows:?}")],
            Err(error) => error.as_db_error().cloned(),
        };
        let Some(message) = message else { return vec!["there is no message".into()] };
        let state = message.code().code();
        if class != "uncertain" && state != self.documented.state(class) {
            found.push(format!("SQLSTATE {state}"));
        }
        if let Some((_, expected)) = ENGINE_MESSAGES.iter().find(|(of, _)| *of == code)
            && !message.message().starts_with(expected)
        {
            found.push(format!("{:?} instead of {expected:?}", message.message()));
        }
        found.extend(message_problem(message.message()));
        let sentences = [message.detail(), message.hint()];
        found.extend(sentences.into_iter().flatten().filter_map(sentence_problem));
        if message.hint().is_none() {
            found.push(format!("no hint: {} {:?}", message.message(), message.detail()));
        }
        found
    }
}

#[test]
fn each_failure_is_as_documented() {
    let mut trials = Trials { documented: Documented::read(), tried: [].into(), found: vec![] };
    hosts::run(&mut trials);
    picture_files::run(&mut trials);
    model_servers::run(&mut trials);
    engines::run(&mut trials);
    assert!(trials.found.is_empty(), "\n{}", trials.found.join("\n"));

    let listed = TESTED_ELSEWHERE.map(|(code, file, name)| {
        let text = std::fs::read_to_string(project().join(file)).expect(file);
        assert!(text.contains(name), "{file} has no {name} for {code}");
        code
    });
    let known: BTreeSet<&str> = trials
        .tried
        .iter()
        .copied()
        .chain(listed)
        .chain(NOT_PROVOKED.map(|(code, _)| code))
        .collect();
    let missing: Vec<_> =
        trials.documented.codes().filter(|code| !known.contains(code.as_str())).collect();
    assert!(missing.is_empty(), "no trial provokes {missing:?}");
    let twice: Vec<_> = listed.iter().filter(|code| trials.tried.contains(*code)).collect();
    assert!(twice.is_empty(), "these are tried here, too: {twice:?}");
}
