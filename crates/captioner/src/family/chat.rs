//! The chat template of a folder: how an instruction-following model is spoken to.
//!
//! Rendered by a Jinja engine with the settings the reference implementation renders with. A folder keeps it in
//! `chat_template.jinja`, `chat_template.json` or `tokenizer_config.json`; the first that is there counts.

use crate::Error;
use crate::folder::Folder;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Steps a template may take: thousands of times what one message needs.
const FUEL: u64 = 200_000;

const NAME: &str = "chat_template";

/// A template.
pub(super) struct Chat {
    environment: Environment<'static>,
    /// Where it was read from, for messages.
    path: PathBuf,
    bos: String,
    eos: String,
}

impl Chat {
    /// Reads and compiles the folder's template; `default` is what folders without one mean.
    pub fn open(folder: &Folder, default: &str) -> Result<Chat, Error> {
        let tokenizer = folder.optional_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let (path, source) = source(folder, &tokenizer)?.unwrap_or_else(|| (folder.file("config.json"), default.to_owned()));
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::config(&path, e))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        // Templates are written for Python and call its methods.
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.add_template_owned(NAME, source).map_err(|e| Error::config(&path, e))?;
        let word = |key: &str| {
            let token = tokenizer.get(key);
            let text = token.and_then(|t| t.as_str().or_else(|| t.get("content")?.as_str()));
            text.unwrap_or_default().to_owned()
        };
        let (bos, eos) = (word("bos_token"), word("eos_token"));
        Ok(Chat { environment, path, bos, eos })
    }

    /// The file the template is in.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// One turn of a user who shows a picture and says `text`, and the beginning of the answer.
    pub fn ask(&self, text: &str) -> Result<String, Error> {
        let content = json!([{ "type": "image" }, { "type": "text", "text": text }]);
        let messages = json!([{ "role": "user", "content": content }]);
        let values =
            context! { messages => minijinja::value::Serde(messages), add_generation_prompt => true, bos_token => &self.bos, eos_token => &self.eos };
        let template = self.environment.get_template(NAME).map_err(|e| Error::config(&self.path, e))?;
        template.render(values).map_err(|e| Error::config(&self.path, format!("the chat template does not render: {e}")))
    }
}

/// The template and the file it is in.
fn source(folder: &Folder, tokenizer: &Value) -> Result<Option<(PathBuf, String)>, Error> {
    let path = folder.file("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(Some((path, text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::File { path, source }),
    }
    for (name, value) in [("chat_template.json", folder.optional_json("chat_template.json")?), ("tokenizer_config.json", Some(tokenizer.clone()))] {
        match value.as_ref().and_then(|v| v.get("chat_template")) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => return Ok(Some((folder.file(name), text.clone()))),
            // A list of named templates; the one called "default" is for ordinary talk.
            Some(Value::Array(named)) => {
                let default = named.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
                let text = default.and_then(|t| t.get("template")).and_then(Value::as_str);
                let text = text.ok_or_else(|| Error::config(folder.file(name), "no chat template is called \"default\""))?;
                return Ok(Some((folder.file(name), text.to_owned())));
            }
            Some(_) => return Err(Error::config(folder.file(name), "\"chat_template\" is neither text nor a list of templates")),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(template: &str) -> Result<String, Error> {
        Chat::open(&Folder::of_config(json!({})), template)?.ask("What is this?")
    }

    #[test]
    fn templates_may_use_what_python_offers() {
        let template = "{%- for m in messages -%}\n{{ m['role'].upper() }}: {% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c['text'].strip() }}{% endif %}{% endfor %}{%- endfor %}\n{% if add_generation_prompt %}\nAssistant:{% endif %}";
        // Trimmed as the reference trims: a line with nothing but a block leaves nothing behind.
        assert_eq!(chat(template).unwrap(), "USER: <image>What is this?Assistant:");
    }

    #[test]
    fn a_template_that_is_none_never_ends_or_refuses_is_an_error_that_names_its_file() {
        for (template, word) in [
            ("{% for x in %}", "config.json"),
            ("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", "does not render"),
            ("{{ raise_exception('only text, please') }}", "only text, please"),
        ] {
            let message = chat(template).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
