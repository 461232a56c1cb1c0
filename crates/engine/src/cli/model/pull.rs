//! `model pull`: downloads a published model into the models directory.

use super::{PullArgs, size};
use crate::cli::locate;
use indicatif::{ProgressBar, ProgressStyle};
use pg_caption_hub::{HubLocation, PullProgress, RetryLimits};
use pg_caption_models::GraphSelection;
use std::io::{self, IsTerminal};

/// A progress bar over all files; hidden unless standard error is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Bar {
        if !io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes} \
                        {decimal_bytes_per_sec}, {eta} left  {msg}";
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
/// Why the model was not installed.
pub fn run(options: &PullArgs) -> Result<bool, String> {
    let request = pg_caption_hub::PullRequest {
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
    let location = HubLocation::from_env().map_err(|e| e.to_string())?;
    let mut bar = Bar::new();
    let pulled = pg_caption_hub::pull(&location, &request, &mut bar);
    bar.0.finish_and_clear();
    let pulled = pulled.map_err(|e| e.to_string())?;
    let done = if pulled.unchanged { "is already installed" } else { "was installed" };
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
