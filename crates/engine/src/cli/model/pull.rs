//! `model pull`: a published model into the models directory.

use super::{Pull, size};
use crate::cli::locate;
use indicatif::{ProgressBar, ProgressStyle};
use pg_caption_hub::{HubLocation, PullProgress, RetryLimits};
use pg_caption_models::GraphSelection;
use std::io::{self, IsTerminal};

/// A bar over all files; hidden where nobody watches.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        if !io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left  {msg}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Bar(ProgressBar::new(0).with_style(style))
    }
}

impl PullProgress for Bar {
    fn at(&mut self, file: &str, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
        }
        if self.0.message() != file {
            self.0.set_message(file.to_owned());
        }
        self.0.set_position(done);
    }
}

/// Runs it.
///
/// # Errors
/// Everything that kept the model away.
pub fn run(options: &Pull) -> Result<bool, String> {
    let order = pg_caption_hub::PullRequest {
        repo: options.repo.clone(),
        revision: options.revision.clone(),
        selection: GraphSelection::parse(&options.dtypes, options.unmerged)
            .map_err(|e| e.to_string())?,
        models: match &options.models {
            Some(models) => models.clone(),
            None => locate::models()?,
        },
        name: options.name.clone(),
        replace: options.replace,
        retries: RetryLimits::default(),
    };
    let place = HubLocation::from_env().map_err(|e| e.to_string())?;
    let mut bar = Bar::new();
    let pulled = pg_caption_hub::pull(&place, &order, &mut bar);
    bar.0.finish_and_clear();
    let pulled = pulled.map_err(|e| e.to_string())?;
    let done = if pulled.unchanged { "is there already" } else { "was installed" };
    println!(
        "{} ({}, {}, commit {}) {done}: {}",
        pulled.name,
        pulled.model_type,
        size(pulled.bytes),
        pulled.commit,
        pulled.folder.display()
    );
    for graph in &pulled.choice.graphs {
        println!("  {}: {}", graph.graph, graph.dtype);
    }
    println!("Check it:  pg_caption_engine model check {}", pulled.folder.display());
    println!("Use it:    SELECT caption.use_model('{}');", pulled.name);
    Ok(true)
}
