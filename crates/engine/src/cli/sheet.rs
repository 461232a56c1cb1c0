//! `pg_caption_engine sheet`: the page of `caption.contact_sheet()` for files and URLs.

use super::{SheetCommand, caption};
use crate::answer::JobAnswer;
use pg_caption_sheet::{SheetCard, SheetPage, SheetText};
use pg_caption_wire::Failure;
use serde_json::json;
use std::io::{self, Write};
use std::path::{self, Path, PathBuf};

/// Runs it. Returns whether every picture has every caption.
///
/// # Errors
/// As `caption`; the page could not be written.
pub fn run(options: &SheetCommand) -> Result<bool, String> {
    let SheetCommand { of, out } = options;
    let folder = match out.as_deref().and_then(Path::parent) {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let folder = path::absolute(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let (mut cards, mut without) = (Vec::new(), 0);
    caption::each_answer(of, false, &mut |picture, answer| {
        let texts = texts(&of.styles, answer);
        without += usize::from(texts.iter().any(|text| text.text.is_empty()));
        cards.push(SheetCard {
            key: json!({ "file": picture }).to_string(),
            label: picture.to_owned(),
            picture: link(picture, &folder),
            texts,
        });
        Ok(())
    })?;
    let page = SheetPage {
        title: "Captions of files".into(),
        summary: format!("{} pictures.", cards.len()),
        cards,
        import: None,
    };
    match out {
        Some(file) => std::fs::write(file, page.html()),
        None => io::stdout().write_all(page.html().as_bytes()),
    }
    .map_err(|e| format!("the page could not be written: {e}"))?;
    if without > 0 {
        let of = options.of.pictures.len();
        crate::log::line(format_args!("{without} of {of} pictures lack a text; the page says why"));
    }
    Ok(without == 0)
}

fn texts(styles: &[String], answer: JobAnswer) -> Vec<SheetText> {
    let (model, outputs) = match answer {
        JobAnswer::Done { model, outputs, .. } => (Some(model.name), outputs),
        JobAnswer::Failed(failure) => (None, vec![Err(failure); styles.len()]),
        JobAnswer::Unchanged => (None, Vec::new()),
    };
    let text = |(style, output): (&String, Result<_, Failure>)| {
        let (text, confidence, failure) = match output {
            Ok(crate::answer::GeneratedCaption { caption: Ok(text), confidence, .. }) => {
                (text, confidence, None)
            }
            Ok(generated) => (String::new(), generated.confidence, generated.caption.err()),
            Err(failure) => (String::new(), None, Some(failure)),
        };
        SheetText {
            column: style.clone(),
            text,
            confidence,
            model: model.clone(),
            reason: failure.map(|failure| failure.message),
            // The file that the page saves is for the reviewer alone.
            version: Some(String::new()),
            ..SheetText::default()
        }
    };
    styles.iter().zip(outputs).map(text).collect()
}

/// The address of a picture in a page of a folder: a URL as it is, a file by its relative path.
fn link(picture: &str, folder: &Path) -> Option<String> {
    if caption::is_url(picture) {
        return Some(picture.to_owned());
    }
    let file = path::absolute(picture).ok()?;
    let relative = pathdiff::diff_paths(file, folder)?;
    let encode = |part: path::Component<'_>| {
        let part = part.as_os_str().as_encoded_bytes();
        percent_encoding::percent_encode(part, percent_encoding::NON_ALPHANUMERIC)
            .to_string()
            .replace("%2E", ".")
    };
    Some(relative.components().map(encode).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_linked_by_relative_paths() {
        let link = |picture| link(picture, Path::new("/pages/of")).expect("a link");
        assert_eq!(link("/pages/of/a b?.jpg"), "a%20b%3F.jpg");
        assert_eq!(link("/pages/ä:b/1.jpg"), "../%C3%A4%3Ab/1.jpg");
        assert_eq!(link("https://a.example/1.jpg"), "https://a.example/1.jpg");
    }
}
