use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::CacheMiss;
use super::name::{RepoName, is_commit};
use crate::folder::read_limited;
use crate::weights::read_index;

// The required files of a model folder, and the two forms of weights.
pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// One repository in the Hugging Face cache.
///
/// Contents are in `blobs`, by their hashes; `snapshots/<commit>` contains links to them under their file names; `refs`
/// contains the commit of a branch when it was last requested; `.no_exist/<commit>` contains empty files for files that
/// the repository is known not to have.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    /// The folder of the repository.
    pub(super) folder: PathBuf,
    /// The folder of the repository's locks.
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

    /// The marker that a commit does not contain a file.
    pub(super) fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// The folder of a revision that is complete, or a description of what is missing.
    pub(super) fn lookup(&self, revision: &str) -> Result<PathBuf, CacheMiss> {
        const LONGEST: u64 = 256;
        if !self.folder.is_dir() {
            return Err(CacheMiss::Model);
        }
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => read_limited(&self.reference(revision), LONGEST)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .map(|commit| commit.trim().to_owned())
                .filter(|commit| is_commit(commit))
                .ok_or_else(|| CacheMiss::Revision { revision: revision.to_owned() })?,
        };
        match self.missing(&commit) {
            Some(missing) => Err(missing),
            None => Ok(self.snapshot(&commit)),
        }
    }

    /// A required file that a snapshot does not contain; links count if their target exists.
    fn missing(&self, commit: &str) -> Option<CacheMiss> {
        let absent = |file: &str| Some(CacheMiss::File { file: file.to_owned(), commit: commit.to_owned() });
        let snapshot = self.snapshot(commit);
        let lacks = |file: &str| !snapshot.join(file).is_file();
        if lacks(CONFIG) {
            return absent(CONFIG);
        }
        // Another program may have downloaded the model without its tokenizer; some models have none.
        if lacks(TOKENIZER) && !self.absence(commit, TOKENIZER).is_file() {
            return absent(TOKENIZER);
        }
        if !lacks(WEIGHTS) {
            return None;
        }
        if lacks(INDEX) {
            return absent(WEIGHTS);
        }
        match read_index(&snapshot.join(INDEX)) {
            Ok(index) => {
                let shards: BTreeSet<String> = index.into_values().collect();
                shards.into_iter().find(|shard| lacks(shard)).and_then(|shard| absent(&shard))
            }
            Err(_) => Some(CacheMiss::Index { file: INDEX, commit: commit.to_owned() }),
        }
    }
}
