//! From a model argument to a local folder: a folder, the Hugging Face cache, or a download.

mod cache;
#[cfg(feature = "hub")]
mod download;
mod error;
#[cfg(feature = "hub")]
mod fetch;
mod name;
mod options;
#[cfg(all(test, feature = "hub"))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::Result;
use cache::RepoCache;
pub use error::HubError;
use name::RepoName;
pub use options::{HubOptions, HubToken};

/// What [`resolve`] is waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubProgress {
    /// The hub is asked what the repository holds.
    Listing,
    /// A file is being downloaded, checked or waited for (while another program downloads it into the same cache).
    File {
        /// Its path in the repository.
        name: String,
        /// How many of its bytes are here.
        done: u64,
        /// How many it has.
        total: u64,
        /// How many bytes of all files are here.
        all_done: u64,
        /// How many all files have; grows once, when the index of a sharded model has been read.
        all_total: u64,
    },
}

/// Turns what a user typed for a model into a local folder that holds it.
///
/// `name` is taken for, in this order:
/// 1. a local folder, which is returned as it is;
/// 2. a repository on the hub, `org/name` or `org/name@revision`, that the Hugging Face cache has with its
///    configuration, tokenizer and weights: its snapshot there is returned, and the network is not used;
/// 3. (feature `hub`) such a repository to download into that cache, in the layout that the Python libraries share:
///    configuration, tokenizer, chat templates and safetensors weights, nothing else. Files are checked against the
///    sizes and SHA-256 sums that the hub lists, and become visible only whole. A download of weights that was broken
///    off goes on where it stopped.
///
/// `on_progress` hears of downloads several times a second, also when nothing moves; [`ControlFlow::Break`] ends them.
/// Everything that comes from the environment is in `options`, see [`HubOptions::from_env`], but for the proxy settings
/// (`HTTPS_PROXY` and its kin) that the HTTP client reads.
///
/// # Errors
/// [`HubError`] in [`Error::Hub`](crate::Error::Hub), or another error about a damaged weights index.
pub fn resolve(
    name: &str,
    options: &HubOptions,
    on_progress: impl FnMut(HubProgress) -> ControlFlow<()>,
) -> Result<PathBuf> {
    let folder = Path::new(name);
    if folder.is_dir() {
        return Ok(folder.into());
    }
    let repo = RepoName::parse(name).map_err(|reason| HubError::Name { name: name.into(), reason })?;
    let cache = RepoCache::new(&options.cache, &repo);
    let missing = match cache.lookup(&repo.revision) {
        Ok(snapshot) => return Ok(snapshot),
        Err(missing) => missing,
    };
    #[cfg(feature = "hub")]
    {
        if options.offline {
            let (repo, cache) = (repo.to_string(), options.cache.clone());
            return Err(HubError::Offline { repo, cache, missing }.into());
        }
        download::download(repo, cache, options, missing, on_progress)
    }
    #[cfg(not(feature = "hub"))]
    {
        let _ = on_progress;
        Err(HubError::NotBuilt { repo: repo.to_string(), cache: options.cache.clone(), missing }.into())
    }
}
