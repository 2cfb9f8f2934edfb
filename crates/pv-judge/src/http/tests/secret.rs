//! The key is in the requests and nowhere else.

use std::fmt::{self, Write};
use std::fs;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;
use crate::artifacts::{TraitRequest, write_trait};

/// It contains every character that JSON may escape.
const KEY: &str = "sk-very/secret\"key\\12345";

/// Captures all log messages, on every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = writeln!(self.0.lock().unwrap(), "{field} {value:?}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = writeln!(self.0.lock().unwrap(), "{field} {value}");
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        attributes.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A text in which the key appears in no form that is easy to read.
#[track_caller]
fn clean(what: &str, text: &str) {
    assert!(!text.contains("sk-very") && !text.contains("12345"), "{what} shows the key: {text}");
}

#[test]
fn the_key_is_seen_by_the_server_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("judged.jsonl");
    let log = Log::default();
    // All ways in which a server could repeat the key.
    let repeated = |request: &Request| {
        let key = request.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        assert_eq!(key, KEY);
        match request.number {
            0 => Reply::error(500, &format!("your key {key} is fine, I am not")),
            1 => {
                Reply::new(200, format!("{{\"choices\": {}", serde_json::to_string(&key).unwrap().replace('/', "\\/")))
            }
            2 => Reply::new(503, format!("<b>{key}</b>")).with("Retry-After", key),
            3 => Reply::tokens(&[(&key, 0.4), ("55", 0.6)]),
            4 => Reply::new(200, format!("{}{key}", " ".repeat(290))),
            5 => Reply::tokens(&[("7", 0.5), (&key, 0.5)]),
            6 => Reply::new(302, "").with("Location", format!("http://x/{key}")),
            7 => Reply::error(401, &format!("{}{key}", "x".repeat(290))),
            _ => Reply::text(&key),
        }
    };
    let server = Server::new(repeated);
    let options = HttpOptions {
        key: Some(ApiKey::new(KEY).unwrap()),
        cache: Some(path.clone()),
        concurrency: 1,
        ..options(&server)
    };
    clean("the options' Debug", &format!("{options:?} {:#?}", options.key));
    let (mut verdicts, mut errors) = (Vec::new(), Vec::new());
    // For all threads: the judge has its own. Log messages of other tests do not matter.
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let talkative = judge(options.clone());
    for answer in answers(4) {
        match judged(&talkative, &[rubric("a")], &[answer]) {
            Ok(judged) => verdicts.extend(judged),
            Err(error) => errors.push(error),
        }
    }
    clean("the judge's Debug", &format!("{talkative:?}"));
    clean("its name", &talkative.name());
    assert_eq!((verdicts.len(), errors.len()), (2, 2), "{errors:?}");
    for error in errors {
        clean("an error", &format!("{error} {error:?} {error:#?}"));
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            clean("a cause", &format!("{error} {error:?}"));
            cause = error.source();
        }
    }
    clean("a verdict", &format!("{verdicts:?}"));
    let kept = fs::read_to_string(&path).unwrap();
    assert!(kept.contains("[key]"), "{kept}");
    clean("the cache", &kept);
    let logged = log.0.lock().unwrap().clone();
    assert!(logged.contains("retrying a request") && logged.contains("[key]"), "{logged}");
    clean("the log", &logged);
    // A judge with written numbers only, and an author.
    let server = Server::new(|request| Reply::text(request.header("authorization").unwrap()));
    let options = HttpOptions { base_url: server.url(), ..options };
    clean("a sampled verdict", &format!("{:?}", one(&judge(options.clone())).unwrap()));
    let error = write_trait(options, &TraitRequest::new("t", "A trait.")).unwrap_err();
    clean("an author's error", &format!("{error} {error:?}"));
    clean("the cache", &fs::read_to_string(&path).unwrap());
}

#[test]
fn a_key_that_is_no_secret_does_not_blot_out_scores() {
    let server = Server::new(|_| Reply::tokens(&[("85", 1.0)]));
    let judge = judge(HttpOptions { key: Some(ApiKey::new("8").unwrap()), ..options(&server) });
    assert_eq!(one(&judge).unwrap().value(), Some(85.0));
}
