//! From a repository's name to a folder: what is needed of it, and no more.

use crate::client::Client;
use crate::install::{ORIGIN, Origin, Partial};
use crate::listing::{Listing, Remote, refusal};
use crate::transfer::{Order, fetch};
use crate::{HubError, HubLocation, PullProgress, RetryLimits};
use pg_caption_models::{GraphChoice, GraphSelection, choose, family, model_type_of, model_types};
use pg_caption_onnx::outside;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// Largest `config.json`, bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// What to pull, and where to.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// `OWNER/NAME`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Which graph files.
    pub wish: GraphSelection,
    /// The models directory; made if it is not there.
    pub models: PathBuf,
    /// Folder in it; `None`: the repository's name without its owner.
    pub name: Option<String>,
    /// Put it in the place of a folder of that name.
    pub replace: bool,
    /// With a network that breaks.
    pub patience: RetryLimits,
}

/// What was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullReport {
    /// The folder.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
    /// The commit.
    pub commit: String,
    /// `model_type`.
    pub model_type: String,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Which file of each graph.
    pub choice: GraphChoice,
    /// It was there already, the same.
    pub unchanged: bool,
}

/// Pulls a model. What was fetched before an error stays for the next attempt, out of sight.
///
/// # Errors
/// [`HubError`]; nothing of the model is visible then.
pub fn pull(
    place: &HubLocation,
    order: &PullRequest,
    progress: &mut dyn PullProgress,
) -> Result<PullReport, HubError> {
    let repo = order.repo.trim_matches('/');
    let name = order.name.as_deref().unwrap_or_else(|| repo.rsplit('/').next().unwrap_or(repo));
    if !is_repository(repo) || !is_part(name) {
        return Err(HubError::Name(if is_repository(repo) {
            name.into()
        } else {
            order.repo.clone()
        }));
    }
    if order.revision.is_empty() || !order.revision.split('/').all(is_part) {
        return Err(HubError::Name(order.revision.clone()));
    }
    let client = Client::new(place);
    let listing = Listing::read(&client, repo, &order.revision)?;
    let (model_type, choice) = chosen(&client, repo, &listing, &order.wish)?;
    let files: Vec<&Remote> = choice.files().filter_map(|path| listing.file(path)).collect();
    let origin = Origin {
        repo: repo.into(),
        revision: order.revision.clone(),
        commit: listing.commit.clone(),
        files: choice.files().map(Into::into).collect(),
    };
    let pulled = |folder, bytes, unchanged| PullReport {
        folder,
        name: name.into(),
        commit: listing.commit.clone(),
        model_type: model_type.clone(),
        bytes,
        choice: choice.clone(),
        unchanged,
    };
    let target = order.models.join(name);
    if let Some(found) = existing(&target) {
        match found {
            Some(there)
                if (&there.repo, &there.commit, &there.files)
                    == (&origin.repo, &origin.commit, &origin.files) =>
            {
                let bytes =
                    size(&files).saturating_add(size(&further(&target, repo, &listing, &choice)?));
                return Ok(pulled(target, bytes, true));
            }
            _ if order.replace => {}
            there => {
                let origin = there
                    .map(|o| format!("{} at {}", o.repo, o.commit.get(..8).unwrap_or(&o.commit)));
                return Err(HubError::Exists { path: target, origin });
            }
        }
    }
    let partial = Partial::open(&order.models, name)?;
    let mut pulling = Pulling {
        client: &client,
        repo,
        listing: &listing,
        partial: &partial,
        patience: &order.patience,
        done: 0,
    };
    let named: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    // Weights under names of their own are known only when their graph is here: those of an attempt
    // before stay until then.
    partial.retain(|path| {
        named.contains(&path) || (listing.file(path).is_some() && !path.ends_with(".onnx"))
    })?;
    pulling.fetch(&files, size(&files), progress)?;
    let further = further(partial.path(), repo, &listing, &choice)?;
    let bytes = size(&files).saturating_add(size(&further));
    pulling.fetch(&further, bytes, progress)?;
    partial.retain(|path| files.iter().chain(&further).any(|file| file.path == path))?;
    Ok(pulled(partial.put_in_place(&origin)?, bytes, false))
}

/// Bytes of all of them.
fn size(files: &[&Remote]) -> u64 {
    files.iter().map(|file| file.size).fold(0, u64::saturating_add)
}

/// The transfer of one file after the other.
struct Pulling<'a> {
    client: &'a Client<'a>,
    repo: &'a str,
    listing: &'a Listing,
    partial: &'a Partial,
    patience: &'a RetryLimits,
    /// Bytes of the files that are here.
    done: u64,
}

impl Pulling<'_> {
    /// `total`: bytes of these and of those before.
    fn fetch(
        &mut self,
        files: &[&Remote],
        total: u64,
        progress: &mut dyn PullProgress,
    ) -> Result<(), HubError> {
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        self.partial.room_for(size(files).saturating_sub(self.partial.bytes(&names)))?;
        for remote in files {
            let order = Order {
                repo: self.repo,
                commit: &self.listing.commit,
                remote,
                before: self.done,
                total,
            };
            fetch(self.client, &order, &self.partial.file(&remote.path)?, self.patience, progress)?;
            self.done += remote.size;
        }
        Ok(())
    }
}

/// Files with weights that the graphs in a folder name and that are not called after them.
fn further<'a>(
    folder: &Path,
    repo: &str,
    listing: &'a Listing,
    choice: &GraphChoice,
) -> Result<Vec<&'a Remote>, HubError> {
    let mut further: Vec<&Remote> = Vec::new();
    for graph in &choice.graphs {
        // A graph that cannot be read is named when the model is loaded, with what is wrong with
        // it.
        for place in outside(&folder.join(&graph.file)).unwrap_or_default() {
            // ONNX Runtime reads no weights from above the graph's folder either.
            let Some(path) = beside(&graph.file, &place) else { continue };
            if choice
                .files()
                .chain(further.iter().map(|file| file.path.as_str()))
                .any(|known| known == path)
            {
                continue;
            }
            let missing = || HubError::Unusable {
                repo: repo.into(),
                reason: pg_caption_models::ModelsError::Missing { file: path.clone() },
            };
            further.push(listing.file(&path).ok_or_else(missing)?);
        }
    }
    Ok(further)
}

/// A place that a graph names, counted from its folder, as a path of the repository.
fn beside(graph: &str, place: &str) -> Option<String> {
    let mut path: Vec<&str> = graph.split('/').collect();
    path.pop();
    for component in Path::new(place).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part.to_str()?),
            _ => return None,
        }
    }
    Some(path.join("/"))
}

/// `Some` if something is there, with where it came from if that is known.
fn existing(target: &Path) -> Option<Option<Origin>> {
    std::fs::symlink_metadata(target).is_ok().then(|| Origin::of(target))
}

/// Reads `config.json` before anything large is fetched, and chooses.
fn chosen(
    client: &Client,
    repo: &str,
    listing: &Listing,
    wish: &GraphSelection,
) -> Result<(String, GraphChoice), HubError> {
    let unusable = |reason| HubError::Unusable { repo: repo.into(), reason };
    let path = "config.json";
    if listing.file(path).is_none() {
        return Err(unusable(pg_caption_models::ModelsError::Missing { file: path.into() }));
    }
    let mut response = client.get(&client.place.file(repo, &listing.commit, path), 0)?;
    if response.status().as_u16() != 200 {
        return Err(refusal(client, &response, repo, &listing.commit, path));
    }
    let bytes = response
        .body_mut()
        .with_config()
        .limit(MAX_CONFIG)
        .read_to_vec()
        .map_err(|e| client.broken(e))?;
    let malformed = |e: serde_json::Error| pg_caption_models::ModelsError::Content {
        path: path.into(),
        reason: e.to_string(),
    };
    let config: Value = serde_json::from_slice(&bytes).map_err(malformed).map_err(unusable)?;
    let model_type = model_type_of(&config, Path::new(path)).map_err(unusable)?;
    let Some(family) = family(&model_type) else {
        return Err(unusable(pg_caption_models::ModelsError::UnknownFamily {
            model_type,
            supported: model_types(),
        }));
    };
    let names: Vec<&str> = listing
        .files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| *path != ORIGIN)
        .collect();
    Ok((model_type, choose(family, &names, wish).map_err(unusable)?))
}

fn is_repository(repo: &str) -> bool {
    let parts: Vec<&str> = repo.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(is_part)
}

/// A part of a name that is safe in an address and as a folder.
fn is_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with(['.', '-'])
        && part.len() <= 128
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
