//! The chat template of a folder: the prompt format of an instruction-following model.
//!
//! Rendered by a Jinja engine with the settings of the reference implementation. A folder has it in
//! `chat_template.json`, `chat_template.jinja`, `processor_config.json` or `tokenizer_config.json`;
//! the first that exists counts, in the reference's order.

use super::python;
use crate::ModelError;
use crate::folder::ModelFolder;
use crate::text::token_text;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use pg_caption_models::{MAX_CONFIG, if_exists, read_file};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Steps that a template may take: thousands of times the need of one message.
const FUEL: u64 = 200_000;

const NAME: &str = "chat_template";

/// The special tokens that the reference passes to a template, if the tokenizer has them.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// One turn of a chat, with its fields in the order in which Python shows them.
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

/// A compiled chat template.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// Its file, for error messages.
    path: PathBuf,
    /// The tokenizer's special tokens by name.
    special: BTreeMap<String, minijinja::Value>,
}

impl ChatTemplate {
    /// Reads and compiles the folder's template. Folders without one get `default`.
    pub fn open(folder: &ModelFolder, default: &str) -> Result<ChatTemplate, ModelError> {
        let tokenizer = folder.optional_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let (path, source) = source(folder, &tokenizer)?
            .unwrap_or_else(|| (folder.file("config.json"), default.to_owned()));
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| ModelError::config(&path, e))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        // Templates are written for Python and call its string methods.
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
        Ok(ChatTemplate { environment, path, special })
    }

    /// The template's file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Renders one user turn with a picture and `text`, and the start of the answer.
    pub fn render(&self, text: &str) -> Result<String, ModelError> {
        let content =
            [Content { kind: "image", text: None }, Content { kind: "text", text: Some(text) }];
        let messages =
            minijinja::Value::from(minijinja::value::Serde([Turn { role: "user", content }]));
        let messages =
            context! { messages, add_generation_prompt => true, tools => (), documents => () };
        let values = context! { ..messages, ..minijinja::Value::from_pairs(self.special.clone()) };
        let template =
            self.environment.get_template(NAME).map_err(|e| ModelError::config(&self.path, e))?;
        template.render(values).map_err(|e| {
            ModelError::config(&self.path, format!("the chat template does not render: {e}"))
        })
    }
}

/// The tokenizer's special tokens, those that only the older file names included.
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

/// The template and its file.
fn source(
    folder: &ModelFolder,
    tokenizer: &Value,
) -> Result<Option<(PathBuf, String)>, ModelError> {
    if let Some(found) =
        named(folder, "chat_template.json", folder.optional_json("chat_template.json")?.as_ref())?
    {
        return Ok(Some(found));
    }
    let path = folder.file("chat_template.jinja");
    if let Some(bytes) = if_exists(read_file(&path, MAX_CONFIG))? {
        let text = String::from_utf8(bytes).map_err(|e| ModelError::config(&path, e))?;
        return Ok(Some((path, text)));
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
    folder: &ModelFolder,
    file: &str,
    value: Option<&Value>,
) -> Result<Option<(PathBuf, String)>, ModelError> {
    let path = folder.file(file);
    match value.and_then(|v| v.get("chat_template")) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some((path, text.clone()))),
        // A list of named templates; the one named "default" is for chats.
        Some(Value::Array(named)) => {
            let default =
                named.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
            let text = default.and_then(|t| t.get("template")).and_then(Value::as_str);
            let text = text
                .ok_or_else(|| ModelError::config(&path, "no chat template named \"default\""))?;
            Ok(Some((path, text.to_owned())))
        }
        Some(_) => {
            Err(ModelError::config(path, "\"chat_template\" is neither a string nor a list"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(template: &str) -> Result<String, ModelError> {
        ChatTemplate::open(&ModelFolder::of_config(json!({})), template)?.render("What is this?")
    }

    #[test]
    fn templates_may_call_python_methods() {
        let template = concat!(
            "{%- for m in messages -%}\n{{ m['role'].upper() }}: ",
            "{% for c in m.content %}{% if c.type == 'image' %}<image>",
            "{% else %}{{ c['text'].strip() }}{% endif %}{% endfor %}{%- endfor %}\n",
            "{% if add_generation_prompt %}\nAssistant:{% endif %}"
        );
        // Whitespace is trimmed as in the reference: a line that holds only a block disappears.
        assert_eq!(chat(template).unwrap(), "USER: <image>What is this?Assistant:");
    }

    /// All expected texts were rendered by transformers 4.57.6 (`render_jinja_template`).
    #[test]
    fn templates_render_like_the_reference() {
        let text = "Wie grün <b>\"it's\"</b>\n\t\u{1}?";
        let render = |template: &str| {
            ChatTemplate::open(&ModelFolder::of_config(json!({})), template)
                .unwrap()
                .render(text)
                .unwrap()
        };
        let spaced = concat!(
            r#"[{"role": "user", "content": [{"type": "image"}, {"type": "text", "#,
            r#""text": "Wie grün <b>\"it's\"</b>\n\t\u0001?"}]}]"#
        );
        assert_eq!(render("{{ messages|tojson }}"), spaced);
        assert_eq!(
            render("{{ messages|tojson(ensure_ascii=true) }}"),
            spaced.replace('ü', "\\u00fc")
        );
        let dense = concat!(
            r#"[{"content":[{"type":"image"},{"text":"Wie grün <b>\"it's\"</b>\n\t\u0001?","#,
            r#""type":"text"}],"role":"user"}]"#
        );
        assert_eq!(render("{{ messages|tojson(separators=(',', ':'), sort_keys=true) }}"), dense);
        assert_eq!(
            render("{{ {'b': 1, 'a': [1.0, none, true, []], 'c': {}}|tojson }}"),
            r#"{"b": 1, "a": [1.0, null, true, []], "c": {}}"#
        );
        assert_eq!(
            render("{{ {'b': [], 'a': {}}|tojson(indent=4) }}"),
            "{\n    \"b\": [],\n    \"a\": {}\n}"
        );
        assert_eq!(render("{% for k in messages[0] %}{{k}} {% endfor %}"), "role content ");
        let tracked = concat!(
            "a\n{% generation %}\nb\n{% endgeneration %}\n",
            "c{%- generation -%} x {%- endgeneration %}d"
        );
        assert_eq!(render(tracked), "a\nb\ncxd");
        assert_eq!(
            render("{% set x = 1 %}{% generation %}{% set x = 2 %}{{x}}{% endgeneration %}{{x}}"),
            "21"
        );
        assert_eq!(render("{{ strftime_now('%Y')|length }}"), "4");
    }

    #[test]
    fn templates_see_existing_special_tokens() {
        let tokenizer = json!({
            "pad_token": { "content": "<pad>" }, "bos_token": null,
            "extra_special_tokens": { "image_token": "<image>" }
        });
        let map = json!({
            "pad_token": "<old>", "unk_token": "<unk>",
            "additional_special_tokens": ["<a>", { "content": "<b>" }]
        });
        let tokens = special(&tokenizer, &map);
        let names: Vec<&str> = tokens.keys().map(String::as_str).collect();
        assert_eq!(names, ["additional_special_tokens", "image_token", "pad_token", "unk_token"]);
        let mut chat = ChatTemplate::open(
            &ModelFolder::of_config(json!({})),
            "{{ pad_token }}{{ unk_token }}{{ bos_token is defined }}{{ image_token }}\
             {{ additional_special_tokens[1] }}",
        )
        .unwrap();
        chat.special = tokens;
        assert_eq!(chat.render("x").unwrap(), "<pad><unk>False<image><b>");
    }

    #[test]
    fn template_errors_name_their_file() {
        for (template, reason) in [
            ("{% for x in %}", "config.json"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
                "does not render",
            ),
            ("{{ raise_exception('only text, please') }}", "only text, please"),
        ] {
            let message = chat(template).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
    }
}
