//! One attempt at a request.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use pv_data::error::with_causes;
use reqwest::header::{CONTENT_ENCODING, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::{Map, Value};

use super::Client;
use crate::cost::Tokens;
use crate::http::RequestFailure;
use crate::http::refusal::{About, about};
use crate::http::reply::{self, Body, ErrorBody, Reply, error_of};
use crate::http::retry::retry_after;
use crate::http::wire::snippet;

/// The limit on the size of a response, far above any expected one.
const LARGEST_BODY: usize = 8 << 20;

/// The result of one attempt.
pub(super) enum Attempt {
    /// A reply.
    Answered(Box<Reply>),
    /// Another attempt may help, possibly after the delay that the server requested.
    Again { failure: RequestFailure, after: Option<Duration>, status: Option<u16> },
    /// The server refuses.
    Refused { status: u16, error: ErrorBody },
}

impl Attempt {
    /// Whether the server cannot be reached or a proxy reports that, as during a restart.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Again { status: Some(0 | 502..=504 | 520..=530), .. })
    }
}

impl Client {
    /// Sends the request once, and returns the tokens that it used.
    pub(super) async fn attempt(
        &self,
        body: &Map<String, Value>,
        estimate: Tokens,
        timeout: Duration,
    ) -> (Attempt, Tokens) {
        let bytes = serde_json::to_vec(body).unwrap_or_default();
        let response = match self.http.post(self.endpoint.clone()).timeout(timeout).body(bytes).send().await {
            Ok(response) => response,
            // A request that never arrived used no tokens.
            Err(error) if error.is_connect() => return (again(connection(error), Some(0)), Tokens::default()),
            Err(error) => return (again(connection(error), None), estimate),
        };
        let status = response.status();
        if !matches!(status.as_u16(), 502..=504) {
            self.reached.store(true, Ordering::Relaxed);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let milliseconds = header("retry-after-ms").and_then(|value| value.trim().parse::<f64>().ok());
        let milliseconds = milliseconds.and_then(|value| Duration::try_from_secs_f64(value / 1e3).ok());
        let after = header(RETRY_AFTER.as_str()).and_then(|value| retry_after(value, Timestamp::now()));
        let after = milliseconds.or(after);
        let location = header(LOCATION.as_str()).map(str::to_owned);
        let body_text = match whole(response).await {
            Ok(body) => body,
            Err(failure) => return (again(failure, None), estimate),
        };
        if status != StatusCode::OK {
            let error = match location.filter(|_| status.is_redirection()) {
                Some(to) => ErrorBody { message: format!("it redirects to {to}"), ..ErrorBody::default() },
                None => error_of(&body_text),
            };
            return (self.sorted(status.as_u16(), error, body, after), Tokens::default());
        }
        match reply::read(&body_text) {
            Body::Answer(reply, used) => {
                let reply = reply.map(|text| self.redacted(text));
                (Attempt::Answered(Box::new(reply)), used.unwrap_or(estimate))
            }
            Body::Error(error) => (self.sorted(error.status.unwrap_or(200), error, body, after), Tokens::default()),
            Body::Malformed(fault) => {
                let body = snippet(&self.redacted(body_text));
                (again(RequestFailure::Malformed { fault, body }, None), estimate)
            }
        }
    }

    /// Classifies an error by its status and text: temporary or permanent.
    fn sorted(&self, status: u16, error: ErrorBody, body: &Map<String, Value>, after: Option<Duration>) -> Attempt {
        match about(status, &error, body) {
            About::Passing => {
                let message = snippet(&self.redacted(error.message));
                Attempt::Again { failure: RequestFailure::Status { status, message }, after, status: Some(status) }
            }
            _ => Attempt::Refused { status, error },
        }
    }
}

fn again(failure: RequestFailure, status: Option<u16>) -> Attempt {
    Attempt::Again { failure, after: None, status }
}

/// The whole body of a response.
async fn whole(mut response: Response) -> Result<String, RequestFailure> {
    let encoding = response.headers().get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let too_long = RequestFailure::TooLong { limit: LARGEST_BODY };
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(connection)? {
        if body.len() + chunk.len() > LARGEST_BODY {
            return Err(too_long);
        }
        body.extend_from_slice(&chunk);
    }
    // No compression was requested, but some proxies compress anyway.
    let unpacked = match encoding.as_deref().map(str::trim) {
        Some("gzip" | "x-gzip") => Some(unpack(flate2::read::MultiGzDecoder::new(body.as_slice()))),
        Some("deflate") => Some(unpack(flate2::read::ZlibDecoder::new(body.as_slice()))),
        Some("" | "identity") | None => None,
        Some(other) => return Err(RequestFailure::Encoding { encoding: other.to_owned() }),
    };
    let body = match unpacked {
        Some(unpacked) => unpacked.map_err(|error| RequestFailure::Compression { message: error.to_string() })?,
        None => body,
    };
    match body.len() > LARGEST_BODY {
        true => Err(too_long),
        false => Ok(String::from_utf8_lossy(&body).into_owned()),
    }
}

/// At most one byte more than the limit on a body.
fn unpack(packed: impl Read) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    packed.take(LARGEST_BODY as u64 + 1).read_to_end(&mut body)?;
    Ok(body)
}

/// The failure of a connection: the HTTP library's error, with its causes.
fn connection(error: reqwest::Error) -> RequestFailure {
    RequestFailure::Connection { message: with_causes(&error.without_url()) }
}
