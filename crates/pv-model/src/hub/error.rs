use std::path::PathBuf;

/// Why a model argument could not be turned into a local folder. No message holds the access token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A model argument that is neither a local folder nor a name that the hub could have.
    #[error(
        "there is no model folder {name:?}, and no model on the hub (org/name or org/name@revision) can have that \
         name: {reason}"
    )]
    Name {
        /// The argument.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The model would have to be downloaded, but that was not built in.
    #[error(
        "{repo} is neither a local folder nor in the cache {} ({missing}); to download it takes the feature `hub` of \
         pv-model, which this program was built without", cache.display()
    )]
    NotBuilt {
        /// The model.
        repo: String,
        /// The cache folder.
        cache: PathBuf,
        /// What the cache lacks.
        missing: String,
    },
    /// The model would have to be downloaded, but that is switched off.
    #[error(
        "{repo} is neither a local folder nor in the cache {} ({missing}), and nothing is downloaded while offline \
         (HF_HUB_OFFLINE)", cache.display()
    )]
    Offline {
        /// The model.
        repo: String,
        /// The cache folder.
        cache: PathBuf,
        /// What the cache lacks.
        missing: String,
    },
    /// The model would have to be downloaded, but the hub does not answer.
    #[error(
        "{repo} is neither a local folder nor in the cache {} ({missing}), and {endpoint} cannot be reached",
        cache.display()
    )]
    Unreachable {
        /// The model.
        repo: String,
        /// The cache folder.
        cache: PathBuf,
        /// What the cache lacks.
        missing: String,
        /// The hub's address.
        endpoint: String,
        /// What the HTTP client said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The hub does not have what was asked for.
    #[error("{endpoint} has no {wanted}")]
    NotFound {
        /// The hub's address.
        endpoint: String,
        /// The repository, revision or file.
        wanted: String,
    },
    /// The hub does not hand the model out to this user.
    #[error("{endpoint} refuses {repo}: {reason}")]
    Refused {
        /// The hub's address.
        endpoint: String,
        /// The model.
        repo: String,
        /// Why that may be, and what to do about it.
        reason: String,
    },
    /// The repository lacks the files of a model.
    #[error("{repo} on the hub has no {wanted}; it has: {}", crate::weights::listed(found))]
    NotAModel {
        /// The repository.
        repo: String,
        /// The file that should be there.
        wanted: String,
        /// The files that are.
        found: Vec<String>,
    },
    /// A request failed after the hub had been reached, or its answer made no sense.
    #[error("{repo}: {doing} failed")]
    Failed {
        /// The model.
        repo: String,
        /// What was being done.
        doing: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A downloaded file is not the one that the hub lists. What was downloaded of it has been deleted.
    #[error("{repo}: {file} came with {found} instead of {expected}")]
    Corrupt {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// The size or sum that the hub lists.
        expected: String,
        /// The size or sum that it has.
        found: String,
    },
    /// The cache cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The caller ended the download. What is there of the weights is kept for the next one.
    #[error("the download of {repo} was broken off")]
    BrokenOff {
        /// The model.
        repo: String,
    },
}
