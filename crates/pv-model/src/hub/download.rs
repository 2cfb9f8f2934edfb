use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel};
use tokio::sync::oneshot;

use super::cache::{CONFIG, INDEX, RepoCache, TOKENIZER, WEIGHTS};
use super::fetch::{Fetcher, Remote};
use super::name::{RepoName, is_commit, is_hex};
use super::{CacheMiss, HubAction, HubAnswer, HubError, HubOptions, HubProgress};
use crate::weights::read_index;

/// Small files that are downloaded if they exist.
const SMALL: [&str; 6] =
    [CONFIG, "generation_config.json", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", JINJA];
const JINJA: &str = "chat_template.jinja";
const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
/// The folder of additional chat templates.
const TEMPLATES: &str = "additional_chat_templates";

/// Downloads the files of a repository that the cache lacks, and returns its snapshot.
pub(super) fn download(
    repo: RepoName,
    cache: RepoCache,
    options: &HubOptions,
    missing: Box<CacheMiss>,
    mut on_progress: impl FnMut(HubProgress) -> ControlFlow<()>,
) -> Result<PathBuf, HubError> {
    // The client is asynchronous. A thread of its own supports callers inside another runtime, keeps the callback on
    // the caller's thread, and lets the callback run while the network is silent.
    thread::scope(|scope| {
        let (progress, reports) = channel();
        let (stop, stopped) = oneshot::channel();
        let failed = {
            let repo = repo.to_string();
            move |source| HubError::Failed { repo, doing: HubAction::Start, source: Box::new(source) }
        };
        let job = Job { repo, cache, options, missing, progress };
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|source| job.failed(HubAction::Start, source))?;
            let outcome = runtime.block_on(async {
                match select(pin!(job.run()), stopped).await {
                    Either::Left((outcome, _)) => outcome,
                    Either::Right(_) => Err(HubError::Cancelled { repo: job.repo.to_string() }),
                }
            });
            // A name server that does not answer must not delay the return.
            runtime.shutdown_background();
            outcome
        };
        let worker = thread::Builder::new().name("hub-download".into()).spawn_scoped(scope, work).map_err(failed)?;
        if watch(&reports, &mut on_progress).is_break() {
            // Fails only if the work ended by itself.
            let _ = stop.send(());
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Forwards progress reports until the reporter is gone, and repeats the last one in between.
fn watch(
    reports: &Receiver<HubProgress>,
    on_progress: &mut impl FnMut(HubProgress) -> ControlFlow<()>,
) -> ControlFlow<()> {
    const BEAT: Duration = Duration::from_millis(100);
    let mut last = HubProgress::Listing;
    loop {
        on_progress(last.clone())?;
        match reports.recv_timeout(BEAT) {
            Ok(report) => last = report,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return ControlFlow::Continue(()),
        }
    }
}

/// One download.
pub(super) struct Job<'a> {
    pub(super) repo: RepoName,
    pub(super) cache: RepoCache,
    options: &'a HubOptions,
    missing: Box<CacheMiss>,
    progress: Sender<HubProgress>,
}

impl Job<'_> {
    async fn run(&self) -> Result<PathBuf, HubError> {
        let http = self.http()?;
        // Whether the hub can be reached must be known immediately.
        let model = self.model(http.clone(), 0)?;
        let asking = || HubAction::Request { endpoint: self.options.endpoint.clone() };
        // Without a list of properties, the hub returns everything.
        let info = model.info().revision(self.repo.revision.as_str()).expand(vec!["sha".into()]).send().await;
        let commit = info.map_err(|error| self.explain(error, asking()))?.sha.unwrap_or_default();
        if !is_commit(&commit) {
            return Err(self.failed(asking(), HubAnswer::Commit { found: commit }));
        }
        let model = self.model(http, 3)?;
        let mut found = self.list(&model, &commit, None).await?;
        let mut found_files = files(&found);
        if found.iter().any(|entry| matches!(entry, RepoTreeEntry::Directory { path, .. } if path == TEMPLATES)) {
            found = self.list(&model, &commit, Some(TEMPLATES)).await?;
            found_files.extend(files(&found).into_iter().filter(|file| is_template(&file.path)));
        }
        self.fetch(&model, &commit, found_files).await?;
        if self.repo.revision != commit {
            self.cache.write(&self.cache.reference(&self.repo.revision), commit.as_bytes())?;
        }
        Ok(self.cache.snapshot(&commit))
    }

    /// Downloads a commit's files, the weights last: they make a snapshot complete.
    async fn fetch(
        &self,
        model: &HFRepository<RepoTypeModel>,
        commit: &str,
        found: Vec<Remote>,
    ) -> Result<(), HubError> {
        let take = |name: &str| {
            found.iter().find(|file| file.path == name).cloned().ok_or_else(|| HubError::NotAModel {
                repo: self.repo.to_string(),
                wanted: name.into(),
                found: found.iter().map(|file| file.path.clone()).collect(),
            })
        };
        let weights = take(WEIGHTS).or_else(|missing| take(INDEX).map_err(|_| missing))?;
        take(CONFIG)?;
        let mut wanted = SMALL.iter().filter_map(|name| take(name).ok()).collect::<Vec<_>>();
        wanted.extend(found.iter().filter(|file| is_template(&file.path)).cloned());
        let mut fetcher = Fetcher::new(self, model, commit, &self.progress);
        if weights.path == INDEX {
            fetcher.expect(std::slice::from_ref(&weights));
            fetcher.fetch(&weights).await?;
            let mut shards = read_index(&self.cache.snapshot(commit).join(INDEX))?.into_values().collect::<Vec<_>>();
            shards.sort();
            shards.dedup();
            for shard in shards {
                wanted.push(take(&shard)?);
            }
        } else {
            wanted.push(weights);
        }
        fetcher.expect(&wanted);
        for file in &wanted {
            fetcher.fetch(file).await?;
        }
        if take(TOKENIZER).is_err() {
            self.cache.write(&self.cache.absence(commit, TOKENIZER), b"")?;
        }
        Ok(())
    }

    fn http(&self) -> Result<reqwest::Client, HubError> {
        let HubOptions { connect_timeout, stall_timeout, .. } = *self.options;
        let client = reqwest::Client::builder().user_agent(AGENT);
        let client = client.connect_timeout(connect_timeout).read_timeout(stall_timeout).build();
        client.map_err(|error| self.explain(error.into(), HubAction::SetUp))
    }

    /// The repository, with a client that retries a failed request this many times.
    fn model(&self, http: reqwest::Client, retries: usize) -> Result<HFRepository<RepoTypeModel>, HubError> {
        // All settings are given, since the builder reads missing ones from the environment. It does so for the token
        // too; an invalid token prevents that and is not sent.
        let token = self.options.token.as_ref().map_or("\0", |token| token.secret());
        let client = HFClient::builder()
            .client(http)
            .endpoint(&self.options.endpoint)
            .token(token)
            .user_agent(AGENT)
            .cache_dir(&self.options.cache)
            .cache_enabled(false)
            .retry_max_attempts(retries)
            .build();
        let client = client.map_err(|error| self.explain(error, HubAction::SetUp))?;
        Ok(client.model(&self.repo.owner, &self.repo.name))
    }

    async fn list(
        &self,
        model: &HFRepository<RepoTypeModel>,
        commit: &str,
        folder: Option<&str>,
    ) -> Result<Vec<RepoTreeEntry>, HubError> {
        let failed = |error| self.explain(error, HubAction::List);
        let entries = model.list_tree().revision(commit).maybe_path_in_repo(folder).send().map_err(failed)?;
        let mut entries = pin!(entries);
        let mut found = Vec::new();
        while let Some(entry) = entries.next().await {
            found.push(entry.map_err(failed)?);
        }
        Ok(found)
    }

    pub(super) fn failed(
        &self,
        doing: HubAction,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> HubError {
        HubError::Failed { repo: self.repo.to_string(), doing, source: source.into() }
    }

    /// Explains a failed request to the user. URLs are omitted: those of file servers are signed.
    pub(super) fn explain(&self, error: HFError, doing: HubAction) -> HubError {
        let entry = matches!(error, HFError::EntryNotFound { .. });
        let (status, code) = match error {
            HFError::Request { source, .. } if source.is_connect() || source.is_timeout() => {
                return HubError::Unreachable {
                    repo: self.repo.to_string(),
                    cache: self.options.cache.clone(),
                    missing: self.missing.clone(),
                    endpoint: self.options.endpoint.clone(),
                    source: Box::new(source.without_url()),
                };
            }
            HFError::Request { source, .. } => return self.failed(doing, source.without_url()),
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::RateLimited { context, .. }
            | HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => (context.status, context.error_code),
            other => return self.failed(doing, other),
        };
        let (repo, endpoint) = (self.repo.to_string(), self.options.endpoint.clone());
        match (status.as_u16(), code.as_deref()) {
            (401 | 403, code) => HubError::Refused {
                endpoint,
                repo: self.repo.id(),
                gated: code == Some("GatedRepo"),
                with_token: self.options.token.is_some(),
            },
            (404, Some("RevisionNotFound")) => {
                HubError::RevisionNotFound { endpoint, repo: self.repo.id(), revision: self.repo.revision.clone() }
            }
            (404, code) if code == Some("EntryNotFound") || entry && code.is_none() => {
                self.failed(doing, HubAnswer::NoFile)
            }
            (404, _) => HubError::NotFound { endpoint, repo },
            (status, _) => self.failed(doing, HubAnswer::Status { status }),
        }
    }
}

/// The files of a listing whose ids are valid; ids become file names.
fn files(entries: &[RepoTreeEntry]) -> Vec<Remote> {
    entries.iter().filter_map(Remote::new).filter(|file| is_hex(&file.blob)).collect()
}

/// Whether a path is that of an additional chat template, directly in its folder.
fn is_template(path: &str) -> bool {
    let name = path.strip_prefix(TEMPLATES).and_then(|rest| rest.strip_prefix('/'));
    name.is_some_and(|name| name.ends_with(".jinja") && !name.contains(['/', '\\', ':']) && !name.starts_with('.'))
}
