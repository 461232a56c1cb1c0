//! Python features of chat templates beyond string methods: its JSON, its dates, and the blocks by
//! which the reference tracks the assistant's text. Used by `chat.rs`; formats are those of
//! transformers 4.57.6.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io;
use time::OffsetDateTime;
use time::format_description::parse_strftime_owned;

fn invalid(reason: impl ToString) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

/// The separators of Python's `json.dumps`: between items, and between key and value.
struct Separated {
    items: String,
    key: String,
}

impl Formatter for Separated {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.items.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`. Escapes
/// nothing for HTML.
pub(super) fn tojson(value: Value, named: Kwargs) -> Result<String, Error> {
    if value.kind() == ValueKind::Undefined {
        return Err(invalid("tojson of an undefined value"));
    }
    let flag = |name: &str| Ok::<bool, Error>(named.get::<Option<bool>>(name)?.unwrap_or(false));
    let (ascii, sorted) = (flag("ensure_ascii")?, flag("sort_keys")?);
    let indent: Option<usize> = named.get("indent")?;
    let separators: Option<Vec<String>> = named.get("separators")?;
    named.assert_all_used()?;
    let text = match sorted {
        // These maps keep no insertion order, so their keys are sorted.
        true => {
            let mut value = serde_json::to_value(&value).map_err(invalid)?;
            value.sort_all_objects();
            written(&value, indent, separators)?
        }
        false => written(&value, indent, separators)?,
    };
    Ok(if ascii { in_ascii(&text) } else { text })
}

fn written(
    value: &impl Serialize,
    indent: Option<usize>,
    separators: Option<Vec<String>>,
) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let written = match (indent, separators.as_deref()) {
        (Some(indent), None) => {
            let spaces = vec![b' '; indent.min(64)];
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut bytes,
                PrettyFormatter::with_indent(&spaces),
            ))
        }
        (None, None) => value.serialize(&mut separated(&mut bytes, ", ", ": ")),
        (None, Some([items, key])) => value.serialize(&mut separated(&mut bytes, items, key)),
        _ => {
            return Err(invalid("tojson accepts two separators, and none together with an indent"));
        }
    };
    written.map_err(invalid)?;
    String::from_utf8(bytes).map_err(invalid)
}

fn separated<'a>(
    to: &'a mut Vec<u8>,
    items: &str,
    key: &str,
) -> serde_json::Serializer<&'a mut Vec<u8>, Separated> {
    serde_json::Serializer::with_formatter(to, Separated { items: items.into(), key: key.into() })
}

fn in_ascii(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            all.push(c);
        } else {
            c.encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| all.push_str(&format!("\\u{unit:04x}")));
        }
    }
    all
}

/// `strftime_now(format)`: the current time in UTC.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(OffsetDateTime::now_utc(), format)
}

fn strftime(at: OffsetDateTime, format: &str) -> Result<String, Error> {
    at.format(&parse_strftime_owned(format).map_err(invalid)?).map_err(invalid)
}

/// Replaces `{% generation %}` blocks by scopes. They mark the assistant's text for training and do
/// not change the output.
pub(super) fn without_tracking(template: &str) -> String {
    let (mut all, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        all.push_str(before);
        // Text within a tag may look like the start of another tag.
        rest = tag;
        let Some((inside, _)) = tag.split_once("%}") else { continue };
        let name = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let scope = match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        all.push_str(&inside.replace(name, scope));
        rest = &tag[inside.len()..];
    }
    all.push_str(rest);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_formatted_as_in_python() {
        let at = OffsetDateTime::from_unix_timestamp(1_795_424_583).unwrap();
        assert_eq!(
            strftime(at, "%d %b %Y, %A %H:%M:%S %j").unwrap(),
            "23 Nov 2026, Monday 09:03:03 327"
        );
        assert!(strftime(at, "%").is_err());
        assert!(strftime_now("%Y").unwrap().len() == 4);
    }

    #[test]
    fn only_tracking_blocks_become_scopes() {
        let plain = "{% if generation %}{{ generation }}{%{% generation";
        assert_eq!(without_tracking(plain), plain);
        assert_eq!(
            without_tracking("a{%- generation -%}b{% endgeneration +%}c"),
            "a{%- with -%}b{% endwith +%}c"
        );
    }
}
