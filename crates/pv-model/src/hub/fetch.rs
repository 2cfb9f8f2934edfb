use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFError, HFRepository, RepoTypeModel};
use sha2::{Digest, Sha256};

use super::cache::RepoCache;
use super::download::Job;
use super::{HubAction, HubError, HubProgress};

/// How often an interrupted connection is resumed; each attempt must have received something.
const RESUMES: usize = 20;

/// The interval of progress reports.
const BEAT: Duration = Duration::from_millis(50);

/// A file in a repository.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// The path in the repository.
    pub(super) path: String,
    size: u64,
    /// The name among the cache's blobs.
    pub(super) blob: String,
    /// Whether that name is the file's SHA-256 hash, as for large files. Other files are named by git's hash.
    summed: bool,
}

impl Remote {
    pub(super) fn new(entry: &RepoTreeEntry) -> Option<Self> {
        let RepoTreeEntry::File { oid, size, path, lfs, .. } = entry else { return None };
        let lfs = lfs.as_ref();
        Some(Self {
            path: path.clone(),
            size: lfs.and_then(|lfs| lfs.size).unwrap_or(*size),
            blob: lfs.and_then(|lfs| lfs.sha256.as_ref()).unwrap_or(oid).clone(),
            summed: lfs.is_some_and(|lfs| lfs.sha256.is_some()),
        })
    }
}

/// The reason why a download stopped.
enum Stop {
    /// The connection was interrupted; the bytes so far are valid.
    Broken(HFError),
    /// The download cannot continue.
    Failed(HubError),
}

impl From<HubError> for Stop {
    fn from(error: HubError) -> Self {
        Self::Failed(error)
    }
}

/// Downloads files of one commit into the cache.
pub(super) struct Fetcher<'a> {
    job: &'a Job<'a>,
    model: &'a HFRepository<RepoTypeModel>,
    commit: &'a str,
    progress: &'a Sender<HubProgress>,
    reported: Instant,
    /// The number of bytes of the files before the current one.
    before: u64,
    /// The number of bytes of all files.
    all: u64,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        job: &'a Job<'a>,
        model: &'a HFRepository<RepoTypeModel>,
        commit: &'a str,
        progress: &'a Sender<HubProgress>,
    ) -> Self {
        Self { job, model, commit, progress, reported: Instant::now(), before: 0, all: 0 }
    }

    /// Adds the sizes of files that will be downloaded.
    pub(super) fn expect(&mut self, files: &[Remote]) {
        self.all += files.iter().map(|file| file.size).sum::<u64>();
    }

    /// Adds a file to the snapshot: by a link if the cache has its content, else by a download.
    pub(super) async fn fetch(&mut self, file: &Remote) -> Result<(), HubError> {
        let cache = &self.job.cache;
        let blob = cache.folder.join("blobs").join(&file.blob);
        self.report(file, 0);
        // Without links (on Windows), the Python libraries store files in the snapshot itself.
        let link = cache.snapshot(self.commit).join(&file.path);
        if !has_length(&link, file.size) {
            if !has_length(&blob, file.size) {
                create_parent(&blob)?;
                let lock = self.lock(file).await?;
                if !has_length(&blob, file.size) {
                    self.download(file, &blob).await?;
                }
                drop(lock);
            }
            create_link(&blob, &link, file)?;
        }
        self.report(file, file.size);
        self.before += file.size;
        Ok(())
    }

    /// Waits until no other program downloads this file; the Python libraries use the same locks.
    async fn lock(&self, file: &Remote) -> Result<File, HubError> {
        let path = self.job.cache.locks.join(format!("{}.lock", file.blob));
        create_parent(&path)?;
        let lock = File::options().write(true).create(true).truncate(false).open(&path).map_err(unwritable(&path))?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(200)).await,
                // Some network file systems have no locks; the hash still protects the result.
                Err(TryLockError::Error(source)) if source.kind() == ErrorKind::Unsupported => return Ok(lock),
                Err(TryLockError::Error(source)) => return Err(unwritable(&path)(source)),
            }
        }
    }

    /// Downloads a file next to its blob, and renames it when it is complete and verified.
    async fn download(&mut self, file: &Remote, blob: &Path) -> Result<(), HubError> {
        let path = PathBuf::from(format!("{}.incomplete", blob.display()));
        let mut part = Part::open(&path, file).await?;
        let mut resumes = RESUMES;
        loop {
            let start = part.length;
            let wrong = match self.stream(file, &mut part).await {
                Ok(()) => match part.wrong(file) {
                    None => break,
                    wrong => wrong,
                },
                Err(Stop::Broken(_)) if part.length > start && file.summed && resumes > 0 => {
                    resumes -= 1;
                    None
                }
                Err(Stop::Broken(error)) => {
                    return Err(self.job.explain(error, HubAction::Download { file: file.path.clone() }));
                }
                Err(Stop::Failed(error)) => return Err(error),
            };
            let Some((expected, found)) = wrong else { continue };
            part.clear()?;
            // The part from an earlier download may be wrong.
            if start == 0 {
                drop(part);
                let _ = fs::remove_file(&path);
                let (repo, file) = (self.job.repo.to_string(), file.path.clone());
                return Err(HubError::Corrupt { repo, file, expected, found });
            }
        }
        part.file.sync_all().map_err(unwritable(&path))?;
        drop(part);
        fs::rename(&path, blob).map_err(unwritable(blob))
    }

    /// Appends the missing bytes to a partial file, or more if the hub sends more.
    async fn stream(&mut self, file: &Remote, part: &mut Part<'_>) -> Result<(), Stop> {
        let start = part.length;
        if start >= file.size && start > 0 {
            return Ok(());
        }
        let request = self.model.download_file_stream().filename(&file.path).revision(self.commit);
        let request = request.maybe_range((start > 0).then_some(start..file.size));
        let (length, mut chunks) = request.send().await.map_err(|error| match error {
            HFError::Request { .. } => Stop::Broken(error),
            error => Stop::Failed(self.job.explain(error, HubAction::Download { file: file.path.clone() })),
        })?;
        if start > 0 && length == Some(file.size) {
            // A server without range requests sends the whole file.
            part.clear()?;
        }
        let mut told = part.length;
        loop {
            // Not with every chunk, but also after the last one before a pause.
            if part.length > told && self.reported.elapsed() >= BEAT {
                told = part.length;
                self.report(file, told);
            }
            match tokio::time::timeout(BEAT, chunks.next()).await {
                Ok(Some(chunk)) => part.append(&chunk.map_err(Stop::Broken)?)?,
                Ok(None) => return Ok(()),
                Err(_) => {}
            }
            if part.length > file.size {
                return Ok(());
            }
        }
    }

    fn report(&mut self, file: &Remote, done: u64) {
        self.reported = Instant::now();
        // The receiver is gone after a cancelled download.
        let _ = self.progress.send(HubProgress::File {
            name: file.path.clone(),
            done,
            total: file.size,
            all_done: self.before + done,
            all_total: self.all,
        });
    }
}

/// The downloaded part of a file.
struct Part<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    sum: Sha256,
}

impl<'a> Part<'a> {
    /// Opens the part of an earlier download if the file's hash is known; other files are small and start over.
    async fn open(path: &'a Path, remote: &Remote) -> Result<Self, HubError> {
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(path).map_err(unwritable(path))?;
        let mut part = Self { path, file, length: 0, sum: Sha256::new() };
        if remote.summed {
            part.hash_existing().await?;
        }
        if part.length == 0 || part.length > remote.size {
            part.clear()?;
        }
        Ok(part)
    }

    /// Counts and hashes the bytes in the file.
    async fn hash_existing(&mut self) -> Result<(), HubError> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = self.file.read(&mut buffer).map_err(unwritable(self.path))?;
            if read == 0 {
                return Ok(());
            }
            self.sum.update(&buffer[..read]);
            self.length += read as u64;
            // So that the download can be cancelled meanwhile.
            tokio::task::yield_now().await;
        }
    }

    fn clear(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(unwritable(self.path))?;
        self.length = 0;
        self.sum = Sha256::new();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(unwritable(self.path))?;
        self.length += bytes.len() as u64;
        self.sum.update(bytes);
        Ok(())
    }

    /// The expected and the found size or hash, if the file is not complete and valid.
    fn wrong(&self, remote: &Remote) -> Option<(String, String)> {
        if self.length != remote.size {
            return Some((format!("{} bytes", remote.size), format!("{} bytes or more", self.length)));
        }
        if !remote.summed {
            return None;
        }
        let sum = hex::encode(self.sum.clone().finalize());
        (sum != remote.blob).then(|| (format!("SHA-256 {}", remote.blob), format!("SHA-256 {sum}")))
    }
}

impl RepoCache {
    /// Writes a small file.
    pub(super) fn write(&self, path: &Path, contents: &[u8]) -> Result<(), HubError> {
        create_parent(path)?;
        fs::write(path, contents).map_err(unwritable(path))
    }
}

/// Whether a file exists and has this length.
fn has_length(path: &Path, length: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == length)
}

fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> HubError {
    move |source| HubError::Write { path: path.into(), source }
}

fn create_parent(path: &Path) -> Result<(), HubError> {
    path.parent().map_or(Ok(()), |folder| fs::create_dir_all(folder).map_err(unwritable(folder)))
}

/// Adds a blob to a snapshot: by a relative link, so that the cache can be moved, or by a hard link where symbolic
/// links need privileges.
fn create_link(blob: &Path, link: &Path, file: &Remote) -> Result<(), HubError> {
    create_parent(link)?;
    // The existing file is broken or has another length.
    let _ = fs::remove_file(link);
    #[cfg(unix)]
    let outcome = {
        let _ = blob;
        let up = "../".repeat(2 + file.path.matches('/').count());
        std::os::unix::fs::symlink(format!("{up}blobs/{}", file.blob), link)
    };
    #[cfg(not(unix))]
    let outcome = fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()));
    match outcome {
        // Another program was faster.
        Err(source) if source.kind() == ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome.map_err(unwritable(link)),
    }
}
