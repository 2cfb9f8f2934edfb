//! What options can set: headers, fields, URLs, rates, patience, consent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::score::ScoreMode;

#[test]
fn further_fields_and_headers_are_sent() {
    let server = Server::new(echo);
    let mut options = options(&server);
    options.headers = vec![("X-Title".into(), ApiKey::of_header("two words").unwrap())];
    options.body =
        json!({"reasoning_effort": "low", "seed": null, "top_logprobs": 7, "user": "me"}).as_object().unwrap().clone();
    one(&judge(options)).unwrap();
    let requests = server.requests();
    let Request { body, .. } = &requests[0];
    assert_eq!(requests[0].header("x-title"), Some("two words"));
    assert_eq!(
        (&body["reasoning_effort"], &body["top_logprobs"], &body["user"]),
        (&json!("low"), &json!(7), &json!("me"))
    );
    assert!(body.get("seed").is_none() && body["max_tokens"] == 1, "{body}");
}

#[test]
fn an_option_that_the_server_refuses_is_not_dropped() {
    let server = Server::new(|request| match request.body.get("reasoning_effort") {
        Some(_) => Reply::error(400, "Unrecognized request argument supplied: reasoning_effort"),
        None => echo(request),
    });
    let mut options = options(&server);
    options.body.insert("reasoning_effort".into(), json!("low"));
    let error = http(judged(&judge(options), &[rubric("r")], &answers(3)));
    assert!(matches!(&error, HttpError::Refused { message, .. } if message.contains("reasoning_effort")), "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn values_of_headers_are_as_secret_as_the_key() {
    let secret = "token-abcdef-123456";
    let server = Server::new(move |_| Reply::error(400, &format!("API key {secret} is not valid")));
    let mut options = options(&server);
    options.headers = vec![("X-Api-Key".into(), ApiKey::of_header(secret).unwrap())];
    let judge = judge(options.clone());
    let error = http(one(&judge));
    for text in [format!("{error} {error:?}"), format!("{options:?} {judge:?}")] {
        assert!(!text.contains("abcdef"), "{text}");
    }
    for (name, wrong) in [("two words", "x"), ("", "x"), ("Content-Length", "5"), ("ümlaut", "x")] {
        let headers = vec![(name.to_owned(), ApiKey::of_header(wrong).unwrap())];
        let error = http(HttpJudge::new(HttpOptions { headers, ..options.clone() }));
        assert!(matches!(error, HttpError::Setting(SettingError::Header { .. })), "{name}: {error:?}");
    }
    for wrong in ["", " ", "line\nfeed"] {
        assert!(ApiKey::of_header(wrong).is_err());
    }
    for name in ["messages", "model"] {
        let body = [(name.to_owned(), Value::Null)].into_iter().collect();
        let error = http(HttpJudge::new(HttpOptions { body, ..options.clone() }));
        assert!(matches!(error, HttpError::Setting(SettingError::ReservedField { name: found }) if found == name));
    }
}

#[test]
fn azures_address_has_its_version_and_its_header() {
    let server = Server::new(echo);
    let key = || Some(ApiKey::new("sk-azure-key").unwrap());
    let root = server.url().replace("/v1", "");
    let azure = format!("{root}/openai/deployments/d?api-version=2024-10-21");
    let whole = format!("{root}/openai/deployments/d/chat/completions?api-version=2024-10-21");
    for base_url in [azure.clone(), whole] {
        one(&judge(HttpOptions { base_url, key: key(), ..options(&server) })).unwrap();
        let request = server.requests().remove(0);
        assert_eq!(request.line, "POST /openai/deployments/d/chat/completions?api-version=2024-10-21 HTTP/1.1");
        assert_eq!((request.header("api-key"), request.header("authorization")), (Some("sk-azure-key"), None));
    }
    let bearer = HttpOptions { base_url: azure, key: key(), key_header: KeyHeader::Bearer, ..options(&server) };
    one(&judge(bearer)).unwrap();
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer sk-azure-key"));
    let named = HttpOptions { key: key(), key_header: KeyHeader::ApiKey, ..options(&server) };
    one(&judge(named)).unwrap();
    assert_eq!(server.requests()[0].header("api-key"), Some("sk-azure-key"));
}

#[test]
fn the_name_of_the_limit_can_be_set() {
    let server = Server::new(echo);
    one(&judge(HttpOptions { token_limit: TokenLimit::MaxCompletionTokens, ..options(&server) })).unwrap();
    let body = &server.requests()[0].body;
    assert!(body["max_completion_tokens"] == 1 && body.get("max_tokens").is_none(), "{body}");
}

#[test]
fn thoughts_can_be_asked_for_and_forbidden() {
    let thinker = |request: &Request| match request.body["max_tokens"].as_u64() {
        Some(..100) => {
            Reply::choice(json!({"message": {"content": "", "reasoning": "Let me see"}, "finish_reason": "length"}))
        }
        _ => Reply::choice(json!({"message": {"content": "85", "reasoning": "Let me see"}, "finish_reason": "stop"})),
    };
    let server = Server::new(thinker);
    let on = judge(HttpOptions { thinking: Thinking::On, thought_tokens: 777, ..options(&server) });
    assert_eq!(one(&on).unwrap(), Verdict::Scored(Score { value: 85.0, evidence: Evidence::Reasoned }));
    let requests = server.requests();
    assert_eq!((requests.len(), &requests[0].body["max_tokens"]), (1, &json!(777)));
    assert_eq!(on.report().mode, Some(ScoreMode::Reasoned));
    assert_eq!(on.forecast(&[rubric("r")], &answers(1)).completion_tokens, 777);
    // A model that reasons nevertheless is not a usable judge.
    let off = judge(HttpOptions { thinking: Thinking::Off, ..options(&server) });
    let error = http(judged(&off, &[rubric("r")], &answers(12)));
    assert!(
        matches!(&error, HttpError::NoNumbers { answers: 5, reply, .. } if reply.contains("Let me see")),
        "{error:?}"
    );
    assert!(server.requests().iter().all(|request| request.body["chat_template_kwargs"]["enable_thinking"] == false));
}

#[test]
fn requests_and_tokens_keep_to_their_rates() {
    let server = Server::new(echo);
    // One at once, and another every 100 ms.
    let rate = RateLimits { requests_per_minute: Some(600), tokens_per_minute: None };
    let start = Instant::now();
    judged(&judge(HttpOptions { rate, ..options(&server) }), &[rubric("r")], &answers(12)).unwrap();
    // Ten at once are one second's worth; two more take 0.2 s.
    assert!((150..5000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert_eq!(server.requests().len(), 12);
    // 11 tokens per request: a quarter of a minute's worth (132) at once, 22 per second.
    let rate = RateLimits { requests_per_minute: None, tokens_per_minute: Some(528) };
    let start = Instant::now();
    judged(&judge(HttpOptions { rate, ..options(&server) }), &[rubric("r"), rubric("s")], &answers(8)).unwrap();
    assert_eq!(server.requests().len(), 16);
    assert!((3000..20_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    for rate in [(Some(0), None), (None, Some(0))] {
        let rate = RateLimits { requests_per_minute: rate.0, tokens_per_minute: rate.1 };
        let error = http(HttpJudge::new(HttpOptions { rate, ..options(&server) }));
        assert!(matches!(error, HttpError::Setting(SettingError::Zero { .. })), "{error:?}");
    }
}

#[test]
fn a_server_that_restarts_is_waited_for() {
    let server = Server::new(echo);
    let (address, patient) = (server.address, Duration::from_secs(60));
    let judge = judge(HttpOptions { attempts: 1, patience: patient, ..options(&server) });
    judged(&judge, &[rubric("r")], &answers(11)).unwrap();
    drop(server);
    // Until its port is free.
    while std::net::TcpStream::connect(address).is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
    let restart = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1500));
        Server::at(address, |request| match request.number {
            0..3 => Reply::error(503, "Loading model"),
            _ => echo(request),
        })
    });
    assert_eq!(judged(&judge, &[rubric("r")], &answers(12)).unwrap()[11][0].value(), Some(11.0));
    let server = restart.join().unwrap();
    assert!(server.requests().len() >= 4);
    // Patience ends.
    drop(server);
    let start = Instant::now();
    let server = Server::new(|_| Reply::error(503, "Loading model"));
    let short = HttpOptions { attempts: 2, patience_at_start: Duration::from_millis(300), ..options(&server) };
    let error = http(one(&super::judge(short)));
    assert!(
        matches!(&error, HttpError::GaveUp { last, .. } if last.to_string().contains("Loading model")),
        "{error:?}"
    );
    assert!((300..5000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(server.requests().len() > 2);
}

#[test]
fn nothing_is_asked_without_consent_to_the_forecast() {
    let server = Server::new(echo);
    let asked = Arc::new(AtomicUsize::new(0));
    let folder = tempfile::TempDir::new().unwrap();
    let with = |agree: bool| {
        let asked = Arc::clone(&asked);
        let cache = Some(folder.path().join("judged.jsonl"));
        judge(HttpOptions { cache, ..options(&server) }).with_consent(move |forecast: &Forecast| {
            asked.fetch_add(forecast.requests, Ordering::Relaxed);
            agree
        })
    };
    let error = http(judged(&with(false), &[rubric("r")], &answers(12)));
    let HttpError::NoConsent { forecast } = &error else { panic!("{error:?}") };
    assert_eq!((forecast.requests, asked.load(Ordering::Relaxed), server.requests().len()), (12, 12, 0));
    assert!(error.to_string().contains("12 requests and about"), "{error}");
    judged(&with(true), &[rubric("r")], &answers(12)).unwrap();
    assert_eq!((asked.load(Ordering::Relaxed), server.requests().len()), (24, 12));
    // Cached replies need no consent.
    judged(&with(false), &[rubric("r")], &answers(12)).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 24);
}
