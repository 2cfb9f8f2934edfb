//! Resolves a model argument to a local folder: a folder, the Hugging Face cache, or a download.

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

use crate::gguf::is_gguf;
use cache::RepoCache;
pub use error::{CacheMiss, HubAction, HubAnswer, HubError};
use name::RepoName;
pub use name::{NameProblem, PartProblem};
pub use options::{HubOptions, HubToken};

/// The progress of [`resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubProgress {
    /// The hub is asked for the files of the repository.
    Listing,
    /// A file is being downloaded or verified, or another program is downloading it into the same cache.
    File {
        /// The path in the repository.
        name: String,
        /// The number of its bytes on the disk.
        done: u64,
        /// The size of the file in bytes.
        total: u64,
        /// The number of bytes of all files on the disk.
        all_done: u64,
        /// The size of all files in bytes. It grows once, when the index of a sharded model has been read.
        all_total: u64,
    },
}

/// Resolves a user's model argument to a local folder with the model.
///
/// `name` is interpreted as, in this order:
/// 1. A local folder or GGUF file, which is returned unchanged.
/// 2. A repository on the hub, `org/name` or `org/name@revision`, whose configuration, tokenizer and weights are in the
///    Hugging Face cache: its snapshot is returned, without network access.
/// 3. (feature `hub`) Such a repository, which is downloaded into that cache, in the layout of the Python libraries:
///    configuration, tokenizer, chat templates and safetensors weights, and no other files. The sizes of files, and the
///    SHA-256 hashes of large ones, are compared with the hub's listing. Files become visible only when they are
///    complete. An interrupted download of weights resumes.
///
/// `on_progress` is called several times a second during downloads, also while nothing arrives; [`ControlFlow::Break`]
/// cancels them. All settings of the environment are in `options`, see [`HubOptions::from_env`], except for the proxy
/// settings (`HTTPS_PROXY` and so on), which the HTTP client reads.
///
/// # Errors
/// See [`HubError`].
pub fn resolve(
    name: &str,
    options: &HubOptions,
    on_progress: impl FnMut(HubProgress) -> ControlFlow<()>,
) -> Result<PathBuf, HubError> {
    let folder = Path::new(name);
    // A GGUF file that does not exist is an error of reading it, not of a name on the hub.
    if folder.is_dir() || is_gguf(folder) {
        return Ok(folder.into());
    }
    let repo = RepoName::parse(name).map_err(|problem| HubError::Name { name: name.into(), problem })?;
    let cache = RepoCache::new(&options.cache, &repo);
    let missing = match cache.lookup(&repo.revision) {
        Ok(snapshot) => return Ok(snapshot),
        Err(missing) => Box::new(missing),
    };
    #[cfg(feature = "hub")]
    {
        if options.offline {
            let (repo, cache) = (repo.to_string(), options.cache.clone());
            return Err(HubError::Offline { repo, cache, missing });
        }
        download::download(repo, cache, options, missing, on_progress)
    }
    #[cfg(not(feature = "hub"))]
    {
        let _ = on_progress;
        Err(HubError::NotBuilt { repo: repo.to_string(), cache: options.cache.clone(), missing })
    }
}
