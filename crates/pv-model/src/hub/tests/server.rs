//! A fake hub and its file server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The commit of `main`.
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first byte of the requested range.
    pub(super) fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// The number of bytes of the body after which the connection is interrupted.
    pub(super) cut: Option<usize>,
    /// How long to wait after how many bytes.
    pub(super) pause: Option<(usize, Duration)>,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, pause: None }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    /// The requested bytes of a file.
    pub(super) fn file(request: &Request, bytes: &[u8]) -> Self {
        match request.start() {
            Some(start) => Self::new(206, &bytes[start..])
                .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
            None => Self::new(200, bytes),
        }
    }
}

/// A server on its own port, stopped when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, stopped, answer) = (Arc::clone(&requests), Arc::clone(&stop), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || converse(stream, &log, &*answer));
            }
        });
        Self { address, requests, stop }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests since the last call.
    pub(super) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Replies to one request; clients may disconnect at any time, so that failures here do not matter.
fn converse(mut stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Reply) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let pairs = lines.filter_map(|line| line.split_once(": "));
    let headers = pairs.map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())).collect();
    let request = Request { method, path, headers };
    log.lock().ok()?.push(request.clone());
    let Reply { status, headers, mut body, cut, pause } = answer(&request);
    let mut head = format!("HTTP/1.1 {status} Reply\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(key, value)| head += &format!("{key}: {value}\r\n"));
    stream.write_all((head + "\r\n").as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    body.truncate(cut.unwrap_or(body.len()));
    if let Some((after, time)) = pause {
        let rest = body.split_off(after);
        stream.write_all(&body).ok()?;
        thread::sleep(time);
        body = rest;
    }
    stream.write_all(&body).ok()
}

/// A file of the repository.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) path: &'static str,
    pub(super) bytes: Vec<u8>,
    /// Large files are on the file server.
    pub(super) large: bool,
}

impl Entry {
    pub(super) fn small(path: &'static str, text: &str) -> Self {
        Self { path, bytes: text.into(), large: false }
    }

    pub(super) fn large(path: &'static str, seed: u32) -> Self {
        let bytes = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect();
        Self { path, bytes, large: true }
    }

    pub(super) fn sum(&self) -> String {
        hex::encode(Sha256::digest(&self.bytes))
    }

    /// Its name among the blobs; instead of git's hash, a part of another hash is used.
    pub(super) fn blob(&self) -> String {
        if self.large { self.sum() } else { self.sum()[..40].into() }
    }

    fn listed(&self) -> serde_json::Value {
        let (path, size, oid) = (self.path, self.bytes.len(), &self.sum()[..40]);
        match self.large {
            true => json!({"type": "file", "oid": oid, "size": size, "path": path, "xetHash": self.sum(),
                "lfs": {"oid": self.sum(), "sha256": self.sum(), "size": size, "pointerSize": 134}}),
            false => json!({"type": "file", "oid": oid, "size": size, "path": path}),
        }
    }
}

/// Replies for the repository `org/tiny` like the hub: listings in pages, small files by a redirect on the same server,
/// large ones by one to the file server.
pub(super) fn hub(entries: Vec<Entry>, files: String) -> impl Fn(&Request) -> Reply + Send + Sync {
    let api = "/api/models/org/tiny";
    move |request: &Request| {
        let host = request.header("host").unwrap_or_default();
        let path = request.path.split('?').next().unwrap_or_default();
        if path == format!("{api}/revision/main") || path == format!("{api}/revision/refs%2Fpr%2F1") {
            return Reply::new(200, json!({"_id": "1", "id": "org/tiny", "sha": COMMIT}).to_string());
        }
        if path.starts_with(&format!("{api}/revision/")) {
            return Reply::new(404, r#"{"error":"Invalid rev id"}"#).with("X-Error-Code", "RevisionNotFound");
        }
        if let Some(folder) = path.strip_prefix(&format!("{api}/tree/{COMMIT}")) {
            let folder = folder.trim_start_matches('/');
            let inside = |entry: &&Entry| entry.path.rsplit_once('/').map_or("", |(folder, _)| folder) == folder;
            let mut listed = entries.iter().filter(inside).map(Entry::listed).collect::<Vec<_>>();
            if folder.is_empty() {
                let mut folders = entries.iter().filter_map(|entry| entry.path.split_once('/')).collect::<Vec<_>>();
                folders.dedup_by_key(|(folder, _)| *folder);
                listed.extend(
                    folders.iter().map(|(folder, _)| json!({"type": "directory", "oid": "aa", "path": folder})),
                );
            }
            let half = listed.len().div_ceil(2);
            let second = listed.split_off(half);
            return match request.path.contains("cursor=2") {
                true => Reply::new(200, json!(second).to_string()),
                false => Reply::new(200, json!(listed).to_string())
                    .with("Link", format!("<http://{host}{path}?cursor=2>; rel=\"next\"")),
            };
        }
        let file = |prefix: &str| {
            let wanted = path.strip_prefix(prefix)?;
            entries.iter().find(|entry| entry.path == wanted)
        };
        if let Some(entry) = file(&format!("/org/tiny/resolve/{COMMIT}/")) {
            let to = match entry.large {
                true => format!("{files}/{}?X-Amz-Signature=signed", entry.path),
                false => format!("/api/resolve-cache/{}", entry.path),
            };
            return Reply::new(if entry.large { 302 } else { 307 }, "")
                .with("Location", to)
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-Size", entry.bytes.len().to_string())
                .with("X-Linked-ETag", format!("\"{}\"", entry.blob()))
                .with("X-Xet-Hash", entry.sum());
        }
        match file("/api/resolve-cache/") {
            Some(entry) => Reply::file(request, &entry.bytes)
                .with("ETag", format!("\"{}\"", entry.blob()))
                .with("X-Repo-Commit", COMMIT),
            None => Reply::new(404, r#"{"error":"Repository not found"}"#).with("X-Error-Code", "RepoNotFound"),
        }
    }
}
