//! A server that answers like an OpenAI-compatible one, or refuses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The server's reply.
#[derive(Clone)]
pub(crate) enum Reply {
    /// A status and a body.
    Refusal(u16, String),
    /// The number 50, with all probability on it, after a delay.
    Fifty(Duration),
    /// A text.
    Text(String),
}

/// A server on its own port, until the test ends.
pub(crate) struct Stub {
    address: String,
    requests: Arc<AtomicUsize>,
}

impl Stub {
    pub(crate) fn new(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (reply, counted) = (reply.clone(), Arc::clone(&counted));
                // A client that has disconnected is not an error.
                std::thread::spawn(move || answer(stream, &reply, &counted));
            }
        });
        Self { address, requests }
    }

    /// The value of OPENAI_BASE_URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The number of requests answered.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(stream: TcpStream, reply: &Reply, counted: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let (status, body) = match reply {
            Reply::Refusal(status, body) => (*status, body.clone()),
            Reply::Fifty(wait) => {
                std::thread::sleep(*wait);
                (200, fifty())
            }
            Reply::Text(text) => (200, said(text)),
        };
        counted.fetch_add(1, Ordering::SeqCst);
        let head = format!(
            "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
    }
}

fn fifty() -> String {
    let top = serde_json::json!([{ "token": "50", "logprob": 0.0, "bytes": null }]);
    let token = serde_json::json!({ "token": "50", "logprob": 0.0, "bytes": null, "top_logprobs": top });
    serde_json::json!({
        "id": "1", "object": "chat.completion", "created": 0, "model": "stub",
        "choices": [{
            "index": 0, "finish_reason": "length", "message": { "role": "assistant", "content": "50" },
            "logprobs": { "content": [token], "refusal": null },
        }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11 },
    })
    .to_string()
}

fn said(text: &str) -> String {
    serde_json::json!({
        "id": "1", "object": "chat.completion", "created": 0, "model": "stub",
        "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text } }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110 },
    })
    .to_string()
}
