//! The chat template of a folder: how an instruction-following model is spoken to.
//!
//! Rendered by a Jinja engine with the settings the reference implementation renders with. A folder
//! keeps it in `chat_template.json`, `chat_template.jinja`, `processor_config.json` or
//! `tokenizer_config.json`; the first that is there counts, in the reference's order.

use super::python;
use crate::ModelError;
use crate::folder::Folder;
use crate::text::token_text;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Steps a template may take: thousands of times what one message needs.
const FUEL: u64 = 200_000;

const NAME: &str = "chat_template";

/// The special tokens that the reference hands to a template, those that the tokenizer has.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A turn, with its fields in the order in which Python would show them.
#[derive(serde::Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: [Content<'a>; 2],
}

#[derive(serde::Serialize)]
struct Content<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

/// A template.
pub(super) struct Chat {
    environment: Environment<'static>,
    /// Where it was read from, for messages.
    path: PathBuf,
    /// The tokenizer's special tokens by the names that it gives them.
    special: BTreeMap<String, minijinja::Value>,
}

impl Chat {
    /// Reads and compiles the folder's template; `default` is what folders without one mean.
    pub fn open(folder: &Folder, default: &str) -> Result<Chat, ModelError> {
        let tokenizer = folder.optional_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let (path, source) = source(folder, &tokenizer)?
            .unwrap_or_else(|| (folder.file("config.json"), default.to_owned()));
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| ModelError::config(&path, e))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        // Templates are written for Python and call its methods.
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |reason: String| -> Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
            },
        );
        environment.add_filter("tojson", python::tojson);
        environment.add_function("strftime_now", python::strftime_now);
        environment
            .add_template_owned(NAME, python::without_tracking(&source))
            .map_err(|e| ModelError::config(&path, e))?;
        let special = special(
            &tokenizer,
            &folder.optional_json("special_tokens_map.json")?.unwrap_or(Value::Null),
        );
        Ok(Chat { environment, path, special })
    }

    /// The file the template is in.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// One turn of a user who shows a picture and says `text`, and the beginning of the answer.
    pub fn ask(&self, text: &str) -> Result<String, ModelError> {
        let content =
            [Content { kind: "image", text: None }, Content { kind: "text", text: Some(text) }];
        let messages =
            minijinja::Value::from(minijinja::value::Serde([Turn { role: "user", content }]));
        let asked =
            context! { messages, add_generation_prompt => true, tools => (), documents => () };
        let values = context! { ..asked, ..minijinja::Value::from_pairs(self.special.clone()) };
        let template =
            self.environment.get_template(NAME).map_err(|e| ModelError::config(&self.path, e))?;
        template.render(values).map_err(|e| {
            ModelError::config(&self.path, format!("the chat template does not render: {e}"))
        })
    }
}

/// A tokenizer's special tokens; what only the older file names counts as well.
fn special(tokenizer: &Value, map: &Value) -> BTreeMap<String, minijinja::Value> {
    let text = |token: &Value| token_text(token).filter(|text| !text.is_empty()).map(str::to_owned);
    let mut special = BTreeMap::new();
    for file in [map, tokenizer] {
        let own = file.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
        let own = own.map(|(name, token)| (name.as_str(), token));
        for (name, token) in
            ROLES.iter().filter_map(|role| Some((*role, file.get(role)?))).chain(own)
        {
            special.extend(text(token).map(|token| (name.to_owned(), token.into())));
        }
        let several =
            file.get("additional_special_tokens").and_then(Value::as_array).into_iter().flatten();
        let several: Vec<String> = several.filter_map(text).collect();
        if !several.is_empty() {
            special.insert("additional_special_tokens".into(), several.into());
        }
    }
    special
}

/// The template and the file it is in.
fn source(folder: &Folder, tokenizer: &Value) -> Result<Option<(PathBuf, String)>, ModelError> {
    if let Some(found) =
        named(folder, "chat_template.json", folder.optional_json("chat_template.json")?.as_ref())?
    {
        return Ok(Some(found));
    }
    let path = folder.file("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(Some((path, text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(ModelError::File { path, source }),
    }
    match named(
        folder,
        "processor_config.json",
        folder.optional_json("processor_config.json")?.as_ref(),
    )? {
        None => named(folder, "tokenizer_config.json", Some(tokenizer)),
        found => Ok(found),
    }
}

/// The template in a JSON file.
fn named(
    folder: &Folder,
    file: &str,
    value: Option<&Value>,
) -> Result<Option<(PathBuf, String)>, ModelError> {
    let path = folder.file(file);
    match value.and_then(|v| v.get("chat_template")) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some((path, text.clone()))),
        // A list of named templates; the one called "default" is for ordinary talk.
        Some(Value::Array(named)) => {
            let default =
                named.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
            let text = default.and_then(|t| t.get("template")).and_then(Value::as_str);
            let text = text.ok_or_else(|| {
                ModelError::config(&path, "no chat template is called \"default\"")
            })?;
            Ok(Some((path, text.to_owned())))
        }
        Some(_) => Err(ModelError::config(
            path,
            "\"chat_template\" is neither text nor a list of templates",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(template: &str) -> Result<String, ModelError> {
        Chat::open(&Folder::of_config(json!({})), template)?.ask("What is this?")
    }

    #[test]
    fn templates_may_use_what_python_offers() {
        let template = "{%- for m in messages -%}\n{{ m['role'].upper() }}: {% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c['text'].strip() }}{% endif %}{% endfor %}{%- endfor %}\n{% if add_generation_prompt %}\nAssistant:{% endif %}";
        // Trimmed as the reference trims: a line with nothing but a block leaves nothing behind.
        assert_eq!(chat(template).unwrap(), "USER: <image>What is this?Assistant:");
    }

    /// Each of these was rendered by transformers 4.57.6 (`render_jinja_template`).
    #[test]
    fn templates_may_write_json_and_mark_what_an_assistant_says_as_the_reference_lets_them() {
        let text = "Wie grün <b>\"it's\"</b>\n\t\u{1}?";
        let said = |template: &str| {
            Chat::open(&Folder::of_config(json!({})), template).unwrap().ask(text).unwrap()
        };
        let spaced = r#"[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Wie grün <b>\"it's\"</b>\n\t\u0001?"}]}]"#;
        assert_eq!(said("{{ messages|tojson }}"), spaced);
        assert_eq!(
            said("{{ messages|tojson(ensure_ascii=true) }}"),
            spaced.replace('ü', "\\u00fc")
        );
        let dense = r#"[{"content":[{"type":"image"},{"text":"Wie grün <b>\"it's\"</b>\n\t\u0001?","type":"text"}],"role":"user"}]"#;
        assert_eq!(said("{{ messages|tojson(separators=(',', ':'), sort_keys=true) }}"), dense);
        assert_eq!(
            said("{{ {'b': 1, 'a': [1.0, none, true, []], 'c': {}}|tojson }}"),
            r#"{"b": 1, "a": [1.0, null, true, []], "c": {}}"#
        );
        assert_eq!(
            said("{{ {'b': [], 'a': {}}|tojson(indent=4) }}"),
            "{\n    \"b\": [],\n    \"a\": {}\n}"
        );
        assert_eq!(said("{% for k in messages[0] %}{{k}} {% endfor %}"), "role content ");
        let tracked = "a\n{% generation %}\nb\n{% endgeneration %}\nc{%- generation -%} x {%- endgeneration %}d";
        assert_eq!(said(tracked), "a\nb\ncxd");
        assert_eq!(
            said("{% set x = 1 %}{% generation %}{% set x = 2 %}{{x}}{% endgeneration %}{{x}}"),
            "21"
        );
        assert_eq!(said("{{ strftime_now('%Y')|length }}"), "4");
    }

    #[test]
    fn a_template_sees_the_special_tokens_that_there_are_and_no_others() {
        let tokenizer = json!({ "pad_token": { "content": "<pad>" }, "bos_token": null, "extra_special_tokens": { "image_token": "<image>" } });
        let map = json!({ "pad_token": "<old>", "unk_token": "<unk>", "additional_special_tokens": ["<a>", { "content": "<b>" }] });
        let tokens = special(&tokenizer, &map);
        let names: Vec<&str> = tokens.keys().map(String::as_str).collect();
        assert_eq!(names, ["additional_special_tokens", "image_token", "pad_token", "unk_token"]);
        let mut chat = Chat::open(
            &Folder::of_config(json!({})),
            "{{ pad_token }}{{ unk_token }}{{ bos_token is defined }}{{ image_token }}{{ additional_special_tokens[1] }}",
        )
        .unwrap();
        chat.special = tokens;
        assert_eq!(chat.ask("x").unwrap(), "<pad><unk>False<image><b>");
    }

    #[test]
    fn a_template_that_is_none_never_ends_or_refuses_is_an_error_that_names_its_file() {
        for (template, word) in [
            ("{% for x in %}", "config.json"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
                "does not render",
            ),
            ("{{ raise_exception('only text, please') }}", "only text, please"),
        ] {
            let message = chat(template).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
