use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::HttpError;
use super::reply::Reply;
use super::wire::Mode;
use crate::score::ScoreMode;

/// A SHA-256 hash.
pub(super) type Sum = [u8; 32];

/// The position of each request's line, and its length without the line feed.
type Places = HashMap<Sum, (u64, u64)>;

/// The longest line, far longer than a reply can be.
const LONGEST_LINE: u64 = 1 << 20;

/// The hash of a prompt.
pub(super) fn prompt_sum(prompt: &str) -> Sum {
    Sha256::digest(prompt).into()
}

/// The cache key of a request: server, model, parameters, options and prompt. The API key is not part of it.
pub(super) fn request_sum(endpoint: &str, model: &str, mode: Mode, options: &str, prompt: &Sum) -> Sum {
    sum_of(&["pv-judge 2", endpoint, model, mode.parameters(), options], prompt)
}

/// The cache key of the first version, if that had this mode.
pub(super) fn old_sum(endpoint: &str, model: &str, mode: Mode, prompt: &Sum) -> Option<Sum> {
    let known = matches!(mode, Mode::Distribution | Mode::Sampled);
    known.then(|| sum_of(&["pv-judge 1", endpoint, model, mode.parameters()], prompt))
}

fn sum_of(parts: &[&str], prompt: &Sum) -> Sum {
    let mut sum = Sha256::new();
    for part in parts {
        // Each part is preceded by its length, so that different parts give different hashes.
        sum.update((part.len() as u64).to_le_bytes());
        sum.update(part);
    }
    sum.update(prompt);
    sum.finalize().into()
}

/// Replies in a file, one JSON object per line, appended as they arrive.
///
/// A program that is killed may leave an incomplete line, which is ignored when the file is read. Only the positions of
/// the replies are held in memory.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    places: Places,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    /// For readers of the file: the mode is part of the key. The first version lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<ScoreMode>,
    reply: Reply,
}

impl Cache {
    /// Opens a file, or creates it.
    pub(super) fn open(path: &Path) -> Result<Self, HttpError> {
        let failed = |source| HttpError::Cache { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = File::options().read(true).append(true).create(true).open(path).map_err(failed)?;
        let (places, torn) = places(&file).map_err(failed)?;
        if torn {
            file.write_all(b"\n").map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), inner: Mutex::new(Inner { file, places }) })
    }

    /// The reply to a request.
    pub(super) fn get(&self, key: &Sum) -> Result<Option<Reply>, HttpError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&(start, length)) = inner.places.get(key) else { return Ok(None) };
        let mut line = Vec::new();
        let file = &mut inner.file;
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.take(length).read_to_end(&mut line))
            .map_err(self.failed())?;
        // Another program may have changed the file: a missing reply is requested again.
        Ok(serde_json::from_slice(&line)
            .ok()
            .filter(|line: &Line| parse(&line.key) == Some(*key))
            .map(|line| line.reply))
    }

    /// Stores the reply to a request.
    pub(super) fn put(&self, key: Sum, mode: Mode, reply: &Reply) -> Result<(), HttpError> {
        let line = Line { key: hex::encode(key), mode: Some(mode.score_mode()), reply: reply.clone() };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| self.failed()(error.into()))?;
        let length = bytes.len() as u64;
        bytes.push(b'\n');
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // In one piece and at the end, even if another program has appended to the file.
        inner.file.write_all(&bytes).map_err(self.failed())?;
        let end = inner.file.stream_position().map_err(self.failed())?;
        inner.places.insert(key, (end.saturating_sub(length + 1), length));
        Ok(())
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> HttpError {
        |source| HttpError::Cache { path: self.path.clone(), source }
    }
}

/// The positions of the replies in a file, and whether its last line is incomplete.
fn places(file: &File) -> std::io::Result<(Places, bool)> {
    let mut reader = BufReader::new(file);
    let (mut places, mut start, mut torn, mut wrong) = (HashMap::new(), 0, false, 0u64);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            break;
        }
        torn = line.last() != Some(&b'\n');
        let bytes = line.strip_suffix(b"\n").unwrap_or(&line);
        let key = serde_json::from_slice::<Line>(bytes).ok().and_then(|line| parse(&line.key));
        match key {
            Some(key) => drop(places.insert(key, (start, bytes.len() as u64))),
            None if bytes.is_empty() => {}
            None => wrong += 1,
        }
        start += read;
    }
    if wrong > 0 {
        tracing::warn!(wrong, "incomplete lines of the judge's cache are ignored");
    }
    Ok((places, torn))
}

fn parse(text: &str) -> Option<Sum> {
    let mut sum = [0; 32];
    hex::decode_to_slice(text, &mut sum).ok().map(|()| sum)
}
