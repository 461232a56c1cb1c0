//! What chat templates expect of Python beyond its methods: its JSON, its dates, and the blocks in
//! which the reference tracks what an assistant said. Used by `chat.rs`; the spellings are those of
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

/// Python's `json.dumps` between two parts and between key and value.
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

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`: nothing
/// is escaped for HTML.
pub(super) fn tojson(value: Value, named: Kwargs) -> Result<String, Error> {
    if value.kind() == ValueKind::Undefined {
        return Err(invalid("tojson of a value that is not there"));
    }
    let flag = |name: &str| Ok::<bool, Error>(named.get::<Option<bool>>(name)?.unwrap_or(false));
    let (ascii, sorted) = (flag("ensure_ascii")?, flag("sort_keys")?);
    let indent: Option<usize> = named.get("indent")?;
    let separators: Option<Vec<String>> = named.get("separators")?;
    named.assert_all_used()?;
    let text = match sorted {
        // Without an order of their own, these maps are in that of their keys.
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
            return Err(invalid(
                "tojson takes two separators, and none of its own beside an indent",
            ));
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

/// `strftime_now(format)`: now, in UTC.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(OffsetDateTime::now_utc(), format)
}

fn strftime(at: OffsetDateTime, format: &str) -> Result<String, Error> {
    at.format(&parse_strftime_owned(format).map_err(invalid)?).map_err(invalid)
}

/// A template with scopes in place of `{% generation %}` blocks: those mark what an assistant said
/// for training, and change no text.
pub(super) fn without_tracking(template: &str) -> String {
    let (mut all, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        all.push_str(before);
        // What looks like a tag within one begins right behind it.
        rest = tag;
        let Some((inside, _)) = tag.split_once("%}") else { continue };
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let scope = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        all.push_str(&inside.replace(word, scope));
        rest = &tag[inside.len()..];
    }
    all.push_str(rest);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_python_writes_it() {
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
