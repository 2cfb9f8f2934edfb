use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::name::{RepoName, is_commit};
use crate::weights::{read_index, read_limited};

// What a model folder must have, and the weights in either of two kinds.
pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// One repository in the Hugging Face cache.
///
/// Contents are in `blobs`, by their sums; `snapshots/<commit>` has links to them under their real names; `refs` says
/// which commit a branch was when it was last asked for; `.no_exist/<commit>` has empty files for those that the
/// repository is known not to have.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    /// The folder of this repository.
    pub(super) folder: PathBuf,
    /// The folder of its locks.
    #[cfg(feature = "hub")]
    pub(super) locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &RepoName) -> Self {
        let folder = format!("models--{}--{}", repo.owner, repo.name);
        Self {
            #[cfg(feature = "hub")]
            locks: cache.join(".locks").join(&folder),
            folder: cache.join(folder),
        }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    /// The marker that a commit has no such file.
    pub(super) fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// The folder of a revision that is completely here, or what is missing.
    pub(super) fn lookup(&self, revision: &str) -> Result<PathBuf, String> {
        const LONGEST: u64 = 256;
        if !self.folder.is_dir() {
            return Err("nothing of it is there".into());
        }
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => read_limited(&self.reference(revision), LONGEST)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .map(|commit| commit.trim().to_owned())
                .filter(|commit| is_commit(commit))
                .ok_or_else(|| format!("it lacks the revision {revision}"))?,
        };
        match self.missing(&commit) {
            Some(file) => Err(format!("it lacks {file} of commit {commit}")),
            None => Ok(self.snapshot(&commit)),
        }
    }

    /// A file that a model needs and a snapshot does not have; links count by what they point to.
    fn missing(&self, commit: &str) -> Option<String> {
        let snapshot = self.snapshot(commit);
        let lacks = |file: &str| !snapshot.join(file).is_file();
        if lacks(CONFIG) {
            return Some(CONFIG.into());
        }
        // Another program may have fetched the model without its tokenizer; some models have none to fetch.
        if lacks(TOKENIZER) && !self.absence(commit, TOKENIZER).is_file() {
            return Some(TOKENIZER.into());
        }
        if !lacks(WEIGHTS) {
            return None;
        }
        if lacks(INDEX) {
            return Some(WEIGHTS.into());
        }
        match read_index(&snapshot.join(INDEX)) {
            Ok(index) => index.into_values().collect::<BTreeSet<_>>().into_iter().find(|shard| lacks(shard)),
            Err(_) => Some(format!("a sound {INDEX}")),
        }
    }
}
