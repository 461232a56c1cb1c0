//! The argument `context` of a call: what is known about a picture, for the prompt of a model that
//! follows instructions and for the template of a style.

use crate::api::value;
use crate::pg::report::refuse;
use pg_caption_publish::{TextTemplate, cell_text};
use pg_caption_style::CaptionStyle;
use pg_caption_wire::ContextFacts;
use pgrx::prelude::*;
use pgrx::{AnyElement, FromDatum, JsonB};
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest context, bytes. Far less of it is used.
const MAX_BYTES: usize = 1 << 20;

/// The context of a call.
#[derive(Default)]
pub struct CallContext(BTreeMap<String, String>);

impl CallContext {
    /// Reads the argument; NULL has no facts. Raises for what is no object of plain values.
    pub fn read(argument: Option<&AnyElement>) -> CallContext {
        // SAFETY: the argument is of type jsonb by the declaration of the functions.
        unsafe { CallContext::of_datum(argument.map(AnyElement::datum)) }
    }

    /// The same of a bare value.
    ///
    /// # Safety
    /// The value is of type jsonb.
    pub unsafe fn of_datum(value: Option<pg_sys::Datum>) -> CallContext {
        let Some(value) = value else { return CallContext::default() };
        // SAFETY: as promised by the caller.
        if unsafe { value::datum_size(value) } > MAX_BYTES {
            refuse_context("is too large", None);
        }
        // SAFETY: as promised by the caller.
        let Some(JsonB(Value::Object(object))) = (unsafe { JsonB::from_datum(value, false) })
        else {
            refuse_context("must be a JSON object", None)
        };
        let facts = object.into_iter().filter_map(|(name, value)| match plain(&value) {
            Ok(text) => Some((name, text?)),
            Err(()) => refuse_context("must have plain values", Some(&name)),
        });
        CallContext(facts.collect())
    }

    /// What a model may know, without HTML.
    pub fn facts(&self) -> Option<ContextFacts> {
        ContextFacts::new(self.0.iter().map(|(name, text)| (name, cell_text(text))))
    }

    /// A caption in the template of its style; alone where the template names what is not in the
    /// context.
    pub fn render(&self, caption: String, style: &CaptionStyle) -> String {
        let Some(template) = &style.template else { return caption };
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        match TextTemplate::for_captions(template, &names) {
            Ok(template) => template.render(&caption, &self.0, &style.rules),
            Err(_) => caption,
        }
    }
}

/// A value as text; `None` for null.
fn plain(value: &Value) -> Result<Option<String>, ()> {
    Ok(match value {
        Value::Null => None,
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items = items.iter().map(|item| match item {
                Value::Array(_) => Err(()),
                item => plain(item),
            });
            let items = items.collect::<Result<Vec<_>, ()>>()?;
            Some(items.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        Value::Object(_) => return Err(()),
    })
}

fn refuse_context(problem: &str, name: Option<&str>) -> ! {
    refuse(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        format!("context {problem}"),
        name.map(|name| {
            let name: String = name.chars().take(63).collect();
            format!("The value of \"{name}\" is an object, or a list with lists.")
        }),
        Some("It is like '{\"title\": \"Navy T-shirt\", \"brand\": \"Acme\"}'.".into()),
    )
}
