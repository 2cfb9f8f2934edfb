use std::fmt;
use std::path::PathBuf;

use super::name::NameProblem;
use crate::listed::listed;
use crate::weights::WeightsError;

/// An error while resolving a model argument to a local folder. No message contains the access token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A model argument that is neither a local folder nor a valid name on the hub.
    #[error(
        "model folder {name:?} not found, and it is not a valid name on the hub (org/name or org/name@revision): \
         {problem}"
    )]
    Name {
        /// The argument.
        name: String,
        /// Why it is not a valid name.
        problem: NameProblem,
    },
    /// The model must be downloaded, but the feature is not built in.
    #[error(
        "{repo} is neither a local folder nor in the cache {} ({missing}); downloading it needs the feature `hub` of \
         pv-model, which is not built into this program", cache.display()
    )]
    NotBuilt {
        /// The model.
        repo: String,
        /// The cache folder.
        cache: PathBuf,
        /// What the cache lacks.
        missing: Box<CacheMiss>,
    },
    /// The model must be downloaded, but downloads are disabled.
    #[error(
        "{repo} is neither a local folder nor in the cache {} ({missing}), and downloads are disabled \
         in offline mode (HF_HUB_OFFLINE)", cache.display()
    )]
    Offline {
        /// The model.
        repo: String,
        /// The cache folder.
        cache: PathBuf,
        /// What the cache lacks.
        missing: Box<CacheMiss>,
    },
    /// The model must be downloaded, but the hub cannot be reached.
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
        missing: Box<CacheMiss>,
        /// The hub's address.
        endpoint: String,
        /// The error of the HTTP client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The hub does not have the model.
    #[error("{endpoint} has no model {repo} (or this user may not access it)")]
    NotFound {
        /// The hub's address.
        endpoint: String,
        /// The model.
        repo: String,
    },
    /// The model does not have the revision.
    #[error("{endpoint} has no revision {revision} of {repo}")]
    RevisionNotFound {
        /// The hub's address.
        endpoint: String,
        /// The model, without the revision.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// The hub denies access to the model.
    #[error("{endpoint} denies access to {repo}: {}", refusal(endpoint, repo, *gated, *with_token))]
    Refused {
        /// The hub's address.
        endpoint: String,
        /// The model, without the revision.
        repo: String,
        /// Whether access must be requested on the model's page.
        gated: bool,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The repository lacks a required file of a model.
    #[error("{repo} on the hub has no {wanted}; found: {}", listed(found))]
    NotAModel {
        /// The repository.
        repo: String,
        /// The expected file.
        wanted: String,
        /// The files found.
        found: Vec<String>,
    },
    /// A request failed after the hub had been reached, or its answer was invalid.
    #[error("{repo}: {doing} failed")]
    Failed {
        /// The model.
        repo: String,
        /// The action that failed.
        doing: HubAction,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A downloaded file does not match the hub's listing. The downloaded part has been deleted.
    #[error("{repo}: {file}: expected {expected}, found {found}")]
    Corrupt {
        /// The model.
        repo: String,
        /// The file.
        file: String,
        /// The size or hash in the hub's listing.
        expected: String,
        /// The size or hash of the download.
        found: String,
    },
    /// The downloaded index of the weights is damaged.
    #[error(transparent)]
    Index(#[from] WeightsError),
    /// The cache cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The caller cancelled the download. The downloaded part of the weights is kept for the next attempt.
    #[error("the download of {repo} was cancelled")]
    Cancelled {
        /// The model.
        repo: String,
    },
}

/// What the cache lacks of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheMiss {
    /// The model.
    Model,
    /// The revision.
    Revision {
        /// The branch or tag.
        revision: String,
    },
    /// A file.
    File {
        /// Its name.
        file: String,
        /// The commit.
        commit: String,
    },
    /// A valid index of the weights.
    Index {
        /// The index.
        file: &'static str,
        /// The commit.
        commit: String,
    },
}

impl fmt::Display for CacheMiss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => out.write_str("not in the cache"),
            Self::Revision { revision } => write!(out, "revision {revision} is missing"),
            Self::File { file, commit } => write!(out, "{file} of commit {commit} is missing"),
            Self::Index { file, commit } => write!(out, "{file} of commit {commit} is not valid"),
        }
    }
}

/// A step of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubAction {
    /// Starting the thread of the download.
    Start,
    /// Setting up the HTTP client.
    SetUp,
    /// Requesting the commit of the revision.
    Request {
        /// The hub's address.
        endpoint: String,
    },
    /// Listing the files.
    List,
    /// Downloading a file.
    Download {
        /// The path in the repository.
        file: String,
    },
}

impl fmt::Display for HubAction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => out.write_str("starting the download"),
            Self::SetUp => out.write_str("setting up the HTTP client"),
            Self::Request { endpoint } => write!(out, "requesting it from {endpoint}"),
            Self::List => out.write_str("listing its files"),
            Self::Download { file } => write!(out, "downloading {file}"),
        }
    }
}

/// An answer of the hub that the download cannot continue with: a cause of [`HubError::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HubAnswer {
    /// The revision's commit is not a commit.
    #[error("{found:?} is not a commit")]
    Commit {
        /// The answer.
        found: String,
    },
    /// A listed file does not exist.
    #[error("the hub does not have the file")]
    NoFile,
    /// An HTTP status of an error.
    #[error("the hub answered with HTTP status {status}")]
    Status {
        /// The status.
        status: u16,
    },
}

/// The possible reasons of a refusal, and what to do about them.
fn refusal(endpoint: &str, repo: &str, gated: bool, with_token: bool) -> String {
    match (gated, with_token) {
        (true, false) => {
            format!("it is gated; request access at {endpoint}/{repo}, then set HF_TOKEN to a token of that account")
        }
        (true, true) => {
            format!("it is gated, and the token's account has no access; request it at {endpoint}/{repo}")
        }
        (false, false) => "it does not exist, is private or is gated; check the name, or set HF_TOKEN to a token that \
                           may read it"
            .to_owned(),
        (false, true) => "it does not exist, or the token is not valid or may not read it".to_owned(),
    }
}
