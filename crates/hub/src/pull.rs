//! From a repository's name to a folder with the needed files, and no others.

use crate::client::Client;
use crate::install::{ORIGIN, Origin, PartialFolder};
use crate::listing::{Listing, RemoteFile, refusal};
use crate::transfer::{Transfer, fetch};
use crate::{HubError, HubLocation, PullProgress, RetryLimits};
use pg_caption_models::{GraphChoice, GraphSelection, choose, family, model_type_of, model_types};
use pg_caption_onnx::external_locations;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// Largest `config.json`, bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// Which model to download, and where to install it.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// `OWNER/NAME`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Which graph files.
    pub selection: GraphSelection,
    /// The models directory; created if it does not exist.
    pub models: PathBuf,
    /// Name of the folder; `None`: the repository's name without its owner.
    pub name: Option<String>,
    /// Whether to replace an existing folder of that name.
    pub replace: bool,
    /// How often a broken transfer is resumed.
    pub retries: RetryLimits,
}

/// The downloaded model.
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
    /// The file of each graph.
    pub choice: GraphChoice,
    /// The same model was already installed.
    pub unchanged: bool,
}

/// Downloads a model. After an error the fetched files stay in a hidden folder for the next
/// attempt.
///
/// # Errors
/// [`HubError`]; no part of the model is visible then.
pub fn pull(
    location: &HubLocation,
    request: &PullRequest,
    progress: &mut dyn PullProgress,
) -> Result<PullReport, HubError> {
    let repo = request.repo.trim_matches('/');
    let name = request.name.as_deref().unwrap_or_else(|| repo.rsplit('/').next().unwrap_or(repo));
    if !is_repository(repo) || !is_part(name) {
        return Err(HubError::Name(if is_repository(repo) {
            name.into()
        } else {
            request.repo.clone()
        }));
    }
    if request.revision.is_empty() || !request.revision.split('/').all(is_part) {
        return Err(HubError::Name(request.revision.clone()));
    }
    let client = Client::new(location);
    let listing = Listing::read(&client, repo, &request.revision)?;
    let (model_type, choice) = choose_files(&client, repo, &listing, &request.selection)?;
    let files: Vec<&RemoteFile> = choice.files().filter_map(|path| listing.file(path)).collect();
    let origin = Origin {
        repo: repo.into(),
        revision: request.revision.clone(),
        commit: listing.commit.clone(),
        files: choice.files().map(Into::into).collect(),
    };
    let report = |folder, bytes, unchanged| PullReport {
        folder,
        name: name.into(),
        commit: listing.commit.clone(),
        model_type: model_type.clone(),
        bytes,
        choice: choice.clone(),
        unchanged,
    };
    let target = request.models.join(name);
    if let Some(found) = existing(&target) {
        match found {
            Some(there)
                if (&there.repo, &there.commit, &there.files)
                    == (&origin.repo, &origin.commit, &origin.files) =>
            {
                let bytes = total_size(&files)
                    .saturating_add(total_size(&additional(&target, repo, &listing, &choice)?));
                return Ok(report(target, bytes, true));
            }
            _ if request.replace => {}
            there => {
                let origin = there
                    .map(|o| format!("{} at {}", o.repo, o.commit.get(..8).unwrap_or(&o.commit)));
                return Err(HubError::Exists { path: target, origin });
            }
        }
    }
    let partial = PartialFolder::open(&request.models, name)?;
    let mut transfers = Transfers {
        client: &client,
        repo,
        listing: &listing,
        partial: &partial,
        retries: &request.retries,
        done: 0,
    };
    let named: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    // Weights under other names are known only after their graph has been fetched: those of an
    // earlier attempt stay until then.
    partial.retain(|path| {
        named.contains(&path) || (listing.file(path).is_some() && !path.ends_with(".onnx"))
    })?;
    transfers.fetch(&files, total_size(&files), progress)?;
    let additional = additional(partial.path(), repo, &listing, &choice)?;
    let bytes = total_size(&files).saturating_add(total_size(&additional));
    transfers.fetch(&additional, bytes, progress)?;
    partial.retain(|path| files.iter().chain(&additional).any(|file| file.path == path))?;
    Ok(report(partial.install(&origin)?, bytes, false))
}

/// Bytes of all files.
fn total_size(files: &[&RemoteFile]) -> u64 {
    files.iter().map(|file| file.size).fold(0, u64::saturating_add)
}

/// Transfers one file after the other.
struct Transfers<'a> {
    client: &'a Client<'a>,
    repo: &'a str,
    listing: &'a Listing,
    partial: &'a PartialFolder,
    retries: &'a RetryLimits,
    /// Bytes of the files that are complete.
    done: u64,
}

impl Transfers<'_> {
    /// `total`: bytes of these files and of the earlier ones.
    fn fetch(
        &mut self,
        files: &[&RemoteFile],
        total: u64,
        progress: &mut dyn PullProgress,
    ) -> Result<(), HubError> {
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        self.partial.check_space(total_size(files).saturating_sub(self.partial.bytes(&names)))?;
        for remote in files {
            let transfer = Transfer {
                repo: self.repo,
                commit: &self.listing.commit,
                remote,
                before: self.done,
                total,
            };
            let path = self.partial.file(&remote.path)?;
            fetch(self.client, &transfer, &path, self.retries, progress)?;
            self.done += remote.size;
        }
        Ok(())
    }
}

/// Files with weights that the graphs in a folder refer to and that are not named after them.
fn additional<'a>(
    folder: &Path,
    repo: &str,
    listing: &'a Listing,
    choice: &GraphChoice,
) -> Result<Vec<&'a RemoteFile>, HubError> {
    let mut additional: Vec<&RemoteFile> = Vec::new();
    for graph in &choice.graphs {
        // Loading the model reports graphs that cannot be read.
        for location in external_locations(&folder.join(&graph.file)).unwrap_or_default() {
            // ONNX Runtime does not read weights from above the graph's folder either.
            let Some(path) = relative_to(&graph.file, &location) else { continue };
            if choice
                .files()
                .chain(additional.iter().map(|file| file.path.as_str()))
                .any(|known| known == path)
            {
                continue;
            }
            let missing = || HubError::Unusable {
                repo: repo.into(),
                reason: pg_caption_models::ModelsError::Missing { file: path.clone() },
            };
            additional.push(listing.file(&path).ok_or_else(missing)?);
        }
    }
    Ok(additional)
}

/// The path in the repository of a location that is relative to the graph's folder.
fn relative_to(graph: &str, location: &str) -> Option<String> {
    let mut path: Vec<&str> = graph.split('/').collect();
    path.pop();
    for component in Path::new(location).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => path.push(part.to_str()?),
            _ => return None,
        }
    }
    Some(path.join("/"))
}

/// `Some` if `target` exists, with its origin if that is known.
fn existing(target: &Path) -> Option<Option<Origin>> {
    std::fs::symlink_metadata(target).is_ok().then(|| Origin::of(target))
}

/// Reads `config.json` before anything large is fetched, and chooses the files.
fn choose_files(
    client: &Client,
    repo: &str,
    listing: &Listing,
    selection: &GraphSelection,
) -> Result<(String, GraphChoice), HubError> {
    let unusable = |reason| HubError::Unusable { repo: repo.into(), reason };
    let path = "config.json";
    if listing.file(path).is_none() {
        return Err(unusable(pg_caption_models::ModelsError::Missing { file: path.into() }));
    }
    let mut response = client.get(&client.location.file(repo, &listing.commit, path), 0)?;
    if response.status().as_u16() != 200 {
        return Err(refusal(client, &response, repo, &listing.commit, path));
    }
    let bytes = response
        .body_mut()
        .with_config()
        .limit(MAX_CONFIG)
        .read_to_vec()
        .map_err(|e| client.network_error(e))?;
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
    Ok((model_type, choose(family, &names, selection).map_err(unusable)?))
}

fn is_repository(repo: &str) -> bool {
    let parts: Vec<&str> = repo.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(is_part)
}

/// Whether a part of a name is safe in an address and as a folder.
fn is_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with(['.', '-'])
        && part.len() <= 128
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
