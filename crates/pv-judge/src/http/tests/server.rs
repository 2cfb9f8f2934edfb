//! A fake OpenAI-compatible server, with faults.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// 0 for the first.
    pub(crate) number: usize,
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Value,
    pub(crate) at: Instant,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The text of the last message.
    pub(crate) fn prompt(&self) -> &str {
        self.body["messages"].as_array().and_then(|all| all.last()?["content"].as_str()).unwrap_or_default()
    }

    pub(crate) fn wants_logprobs(&self) -> bool {
        self.body["logprobs"] == true
    }
}

pub(crate) enum Reply {
    Http {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Silence for this long, then the end.
    Stall(Duration),
    /// A reply after this long.
    Late(Duration, Box<Reply>),
    /// The connection is reset.
    Reset,
    /// A body that ends too early.
    Cut(Vec<u8>),
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Http { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }

    pub(crate) fn late(self, after: Duration) -> Self {
        Self::Late(after, Box::new(self))
    }

    /// A first token with these alternatives, as OpenAI sends it; probability 0 has the logarithm -9999.
    pub(crate) fn tokens(alternatives: &[(&str, f64)]) -> Self {
        let top = alternatives
            .iter()
            .map(|(token, p)| json!({"token": token, "logprob": p.ln().max(-9999.0), "bytes": token.as_bytes()}))
            .collect::<Vec<_>>();
        let first = alternatives.first().map_or("", |(token, _)| token);
        let position = json!({"token": first, "logprob": alternatives.first().map_or(0.0, |(_, p)| p.ln()),
            "bytes": null, "top_logprobs": top});
        Self::choice(json!({"index": 0, "message": {"role": "assistant", "content": first, "refusal": null},
            "logprobs": {"content": [position], "refusal": null}, "finish_reason": "length"}))
    }

    /// A text without probabilities.
    pub(crate) fn text(text: &str) -> Self {
        Self::choice(json!({"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": null,
            "finish_reason": "stop"}))
    }

    /// Tokens with their alternatives, the first of which is written.
    pub(crate) fn positions(tokens: &[Vec<(&str, f64)>], cut: bool) -> Self {
        let candidate = |(token, p): &(&str, f64)| json!({"token": token, "logprob": p.ln().max(-9999.0)});
        let position = |alternatives: &Vec<(&str, f64)>| {
            let mut position = candidate(&alternatives[0]);
            position["top_logprobs"] = alternatives.iter().map(candidate).collect();
            position
        };
        let text = tokens.iter().map(|alternatives| alternatives[0].0).collect::<String>();
        Self::choice(json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason":
            if cut { "length" } else { "stop" }, "logprobs": {"content": tokens.iter().map(position).collect::<Vec<_>>()}}))
    }

    /// The same, compressed.
    pub(crate) fn packed(self) -> Self {
        let Self::Http { status, headers, body } = self else { return self };
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(&body).unwrap();
        Self::Http { status, headers, body: packer.finish().unwrap() }.with("Content-Encoding", "gzip")
    }

    pub(crate) fn choice(choice: Value) -> Self {
        let body = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}});
        Self::new(200, body.to_string())
    }

    pub(crate) fn error(status: u16, message: &str) -> Self {
        Self::new(status, json!({"error": {"message": message, "type": "t", "param": null, "code": 7}}).to_string())
    }
}

/// The number of requests, and those that were not read yet.
type Log = (usize, Vec<Request>);

/// A server on its own port, stopped when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Log>>,
    busiest: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), answer)
    }

    /// At an address, such as that of a stopped server.
    pub(crate) fn at(address: SocketAddr, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(Mutex::new((0, Vec::new()))), Arc::new(AtomicBool::new(false)));
        let (busy, busiest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (log, stopped, most, answer) =
            (Arc::clone(&requests), Arc::clone(&stop), Arc::clone(&busiest), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (log, answer, busy, most) =
                    (Arc::clone(&log), Arc::clone(&answer), Arc::clone(&busy), Arc::clone(&most));
                thread::spawn(move || {
                    most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    converse(stream, &log, &*answer, || {
                        busy.fetch_sub(1, Ordering::SeqCst);
                    });
                });
            }
        });
        Self { address, requests, busiest, stop }
    }

    /// Replies by the request's number; the last reply repeats.
    pub(crate) fn script(replies: Vec<fn() -> Reply>) -> Self {
        Self::new(move |request| replies[request.number.min(replies.len() - 1)]())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap().1)
    }

    /// The greatest number of concurrent requests.
    pub(crate) fn busiest(&self) -> usize {
        self.busiest.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Replies to one request; clients may disconnect at any time, so that failures here do not matter.
fn converse(
    mut stream: TcpStream,
    log: &Mutex<Log>,
    answer: &dyn Fn(&Request) -> Reply,
    answered: impl FnOnce(),
) -> Option<()> {
    let request = receive(&mut stream, log);
    let reply = request.as_ref().map(answer);
    let mut reply = reply.unwrap_or(Reply::Reset);
    while let Reply::Late(after, then) = reply {
        thread::sleep(after);
        reply = *then;
    }
    // Before the reply is sent, since the client's next request may arrive before this continues.
    answered();
    if !matches!(reply, Reply::Reset) {
        stream.read_exact(&mut [0]).ok()?;
    }
    match reply {
        Reply::Http { status, headers, body } => {
            let mut head =
                format!("HTTP/1.1 {status} Reply\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
            headers.iter().for_each(|(key, value)| head += &format!("{key}: {value}\r\n"));
            stream.write_all((head + "\r\n").as_bytes()).ok()?;
            stream.write_all(&body).ok()
        }
        Reply::Cut(body) => {
            let head = format!("HTTP/1.1 200 Reply\r\nContent-Length: {}\r\n\r\n", body.len() + 100);
            stream.write_all(head.as_bytes()).ok()?;
            stream.write_all(&body).ok()
        }
        Reply::Stall(time) => {
            thread::sleep(time);
            None
        }
        // Closing a socket with unread data resets the connection: the last byte of the request has not been read.
        Reply::Reset | Reply::Late(..) => None,
    }
}

fn receive(stream: &mut TcpStream, log: &Mutex<Log>) -> Option<Request> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let pairs = lines.filter_map(|line| line.split_once(": "));
    let headers = pairs.map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())).collect::<Vec<_>>();
    let length = headers.iter().find(|(key, _)| key == "content-length")?.1.parse::<usize>().ok()?;
    // All but the last byte, which closes the JSON object.
    let mut body = vec![0; length.checked_sub(1)?];
    stream.read_exact(&mut body).ok()?;
    body.push(b'}');
    let body = serde_json::from_slice(&body).ok()?;
    let (count, requests) = &mut *log.lock().ok()?;
    let request = Request { number: *count, line, headers, body, at: Instant::now() };
    *count += 1;
    requests.push(request.clone());
    Some(request)
}
