//! A real OpenAI-compatible server.
//!
//! `PV_PYTHON` names a Python with the packages of `tests/python/requirements.txt`, whose llama.cpp is started;
//! `PV_OPENAI_SERVER` overrides it: a base URL (`http://127.0.0.1:8000/v1`), or a command that starts a server on the port
//! in `$PORT`, with the model SmolLM2-135M-Instruct.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pv_judge::HttpOptions;
use pv_tests::{root, smollm2};
use serde_json::Value;

const VARIABLE: &str = "PV_OPENAI_SERVER";
const PYTHON: &str = "PV_PYTHON";

/// A server, which is ended when dropped if it was started here.
pub(super) struct Server {
    pub(super) url: String,
    process: Option<Child>,
}

impl Server {
    /// The server that the environment names, if any; otherwise `what` is reported as not run. If a named server
    /// does not start, the test fails.
    pub(super) fn from_env(what: &str) -> Option<Self> {
        let named = |variable| std::env::var(variable).ok().filter(|value: &String| !value.trim().is_empty());
        let packaged = || {
            let (script, model) = (root().join("tests/python/openai_server.py"), smollm2().join("model.gguf"));
            named(PYTHON).map(|python| format!("{python:?} {script:?} {model:?} $PORT"))
        };
        let Some(named) = named(VARIABLE).or_else(packaged) else {
            println!("NOT RUN: {what}, as neither {PYTHON} nor {VARIABLE} is set");
            return None;
        };
        let (url, process) = if named.starts_with("http") {
            (named, None)
        } else {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
            // With `exec`, the ended process is the server itself.
            let command = format!("exec {named}");
            let process = Command::new("sh")
                .args(["-c", &command])
                .env("PORT", port.to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the server's command");
            (format!("http://127.0.0.1:{port}/v1"), Some(process))
        };
        let mut server = Self { url, process };
        // A running server has loaded its model; a started one loads it first.
        let patience = Instant::now() + Duration::from_secs(if server.process.is_some() { 180 } else { 5 });
        while !server.is_up() {
            assert!(Instant::now() < patience, "no server answers at {}", server.url);
            let ended = server.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            assert!(ended.is_none(), "the server has ended: {ended:?}");
            thread::sleep(Duration::from_millis(500));
        }
        Some(server)
    }

    fn is_up(&self) -> bool {
        request(&self.url, "GET", "/models", "").is_some_and(|(status, _)| status == 200)
    }

    pub(super) fn options(&self) -> HttpOptions {
        // One core computes the answers one by one.
        let timeout = Duration::from_secs(300);
        HttpOptions { concurrency: 2, timeout, ..HttpOptions::new(&self.url, "smollm2") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A request without the judge's code. `None` as long as the server does not reply.
pub(super) fn request(url: &str, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let rest = url.strip_prefix("http://").expect("the test speaks plain HTTP");
    let (host, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut stream = TcpStream::connect(host).ok()?;
    let length = body.len();
    // The older version of the protocol sends bodies in one piece.
    let head = format!("{method} {base}{path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n");
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}
