//! From a style's name to its definition: the built-in ones, then the users' own in `caption.style`.

use crate::report::refuse;
use pg_caption_register::{MAX_TOKENS, MIN_TOKENS, Rules, Style, Task, builtin, builtin_names};
use pgrx::prelude::*;

/// The definition of a style, if there is one of that name.
pub fn find(name: &str) -> Option<Style> {
    builtin(name).or_else(|| users_own(name))
}

/// The definition of a style, or an error that lists what there is.
pub fn resolve(name: &str) -> Style {
    match find(name) {
        Some(style) => style,
        None => {
            let own: Vec<String> = Spi::connect(|client| {
                let rows = client.select("SELECT name::text FROM caption.style ORDER BY name", None, &[])?;
                rows.map(|row| row.get::<String>(1).map(Option::unwrap_or_default)).collect::<Result<_, _>>()
            })
            .unwrap_or_else(|error: pgrx::spi::Error| pgrx::error!("{error}"));
            let all: Vec<&str> = builtin_names().into_iter().chain(own.iter().map(String::as_str)).collect();
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("unknown caption style \"{name}\""),
                Some(format!("Styles are: {}.", all.join(", "))),
                Some("Users' own styles are rows of caption.style.".into()),
            )
        }
    }
}

fn users_own(name: &str) -> Option<Style> {
    Spi::connect(|client| {
        let mut rows = client.select(
            "SELECT instruction, task, min_chars, max_chars, max_sentences, strip_final_stop FROM caption.style WHERE name = $1",
            Some(1),
            &[name.into()],
        )?;
        let Some(row) = rows.next() else { return Ok(None) };
        Ok::<_, pgrx::spi::Error>(Some(Style {
            name: name.into(),
            instruction: row.get::<String>(1)?.unwrap_or_default(),
            task: match row.get::<String>(2)?.as_deref() {
                Some("concise") => Task::Concise,
                Some("seo") => Task::Seo,
                _ => Task::Detailed,
            },
            rules: Rules {
                min_chars: row.get::<i32>(3)?.unwrap_or(1).max(0) as u32,
                max_chars: row.get::<i32>(4)?.unwrap_or(1000).max(1) as u32,
                max_sentences: row.get::<i32>(5)?.map(|n| n.max(1) as u32),
                strip_final_stop: row.get::<bool>(6)?.unwrap_or(false),
            },
        }))
    })
    .unwrap_or_else(|error| pgrx::error!("{error}"))
}

/// `max_tokens` as the engine takes it, or an error that says what is allowed.
pub fn tokens(max_tokens: i32) -> u32 {
    match u32::try_from(max_tokens) {
        Ok(tokens) if (MIN_TOKENS..=MAX_TOKENS).contains(&tokens) => tokens,
        _ => refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("max_tokens {max_tokens} is out of range"),
            Some(format!("It must be {MIN_TOKENS} to {MAX_TOKENS}.")),
            None,
        ),
    }
}
