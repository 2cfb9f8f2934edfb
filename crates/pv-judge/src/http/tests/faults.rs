//! Servers that fail in different ways.

use std::time::Instant;

use jiff::Timestamp;

use super::retry::{Backoff, retry_after};
use super::*;

/// A server's response to every request.
type Says = fn() -> Reply;

/// A reply with the score 40.
fn good() -> Reply {
    Reply::tokens(&[("40", 1.0)])
}

/// The verdict is 40, after the given number of requests.
#[track_caller]
fn recovers(server: &Server, options: HttpOptions, requests: usize) {
    assert_eq!(one(&judge(options)).unwrap().value(), Some(40.0));
    assert_eq!(server.requests().len(), requests);
}

#[test]
fn a_stall_is_cut_short_and_asked_again() {
    let server = Server::script(vec![|| Reply::Stall(Duration::from_secs(30)), good]);
    let start = Instant::now();
    recovers(&server, HttpOptions { timeout: Duration::from_millis(1500), ..options(&server) }, 2);
    assert!((1500..20_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let server = Server::script(vec![|| Reply::Reset, || Reply::Cut(b"{\"choices\": [".to_vec()), good]);
    recovers(&server, options(&server), 3);
}

#[test]
fn a_server_error_is_asked_again() {
    let server = Server::script(vec![|| Reply::error(500, "oops"), || Reply::new(503, "<html>busy</html>"), good]);
    recovers(&server, options(&server), 3);
}

#[test]
fn too_many_requests_wait_as_long_as_the_server_says() {
    let server = Server::script(vec![|| Reply::error(429, "slow down").with("Retry-After", "1"), good]);
    recovers_after(&server, 900..5000);
    // A date has whole seconds: the requested wait is between two and three.
    let server = Server::script(vec![
        || {
            let until = Timestamp::now() + Duration::from_secs(3);
            let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&until).unwrap();
            Reply::error(503, "later").with("Retry-After", date)
        },
        good,
    ]);
    recovers_after(&server, 1900..6000);
}

/// Like [`recovers`], with this many milliseconds between the two requests.
#[track_caller]
fn recovers_after(server: &Server, expected: std::ops::Range<u128>) {
    assert_eq!(one(&judge(options(server))).unwrap().value(), Some(40.0));
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    let between = (requests[1].at - requests[0].at).as_millis();
    assert!(expected.contains(&between), "{between} ms");
}

#[test]
fn one_request_that_is_told_to_wait_holds_all_others_back() {
    let server = Server::new(|request| match request.number {
        1 => Reply::error(429, "slow down").with("Retry-After", "1"),
        _ => echo(request).late(Duration::from_millis(20)),
    });
    judged(&judge(HttpOptions { concurrency: 2, ..options(&server) }), &[rubric("r")], &answers(12)).unwrap();
    let requests = server.requests();
    let told = requests[1].at;
    let early = requests[2..].iter().filter(|request| (request.at - told).as_millis() < 900).count();
    // The one that was running at the same time, and no other.
    assert!(early <= 1, "{early} requests did not wait");
    assert_eq!(requests.len(), 13);
}

#[test]
fn a_server_that_asks_for_too_much_patience_ends_the_run() {
    let server = Server::script(vec![|| Reply::error(429, "daily limit").with("Retry-After", "86400")]);
    let error = http(one(&judge(options(&server))));
    assert!(matches!(error, HttpError::WaitTooLong { requested, .. } if requested.as_secs() == 86400), "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn what_the_server_says_of_waiting_is_read_in_both_forms() {
    let now = "2015-10-21T07:27:00Z".parse::<Timestamp>().unwrap();
    let seconds = |value: &str| retry_after(value, now).map(|wait| wait.as_secs_f64());
    assert_eq!(seconds(" 120 "), Some(120.0));
    assert_eq!(seconds("0.5"), Some(0.5));
    assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60.0));
    assert_eq!(seconds("Wed, 21 Oct 2015 07:26:00 GMT"), Some(0.0));
    for wrong in ["", "soon", "-1", "NaN", "inf", "1e300", "Wed, 99 Oct 2015", "2015-10-21"] {
        assert_eq!(seconds(wrong), None, "{wrong:?}");
    }
}

#[test]
fn waits_grow_up_to_a_limit_and_are_spread_out() {
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 3);
    for (attempts, most) in [(1, 100), (2, 200), (4, 800), (5, 1000), (40, 1000), (u32::MAX, 1000)] {
        let waits = (0..500).map(|_| backoff.after(attempts).as_secs_f64() * 1e3).collect::<Vec<_>>();
        let (longest, mean) = (waits.iter().copied().fold(0.0, f64::max), waits.iter().sum::<f64>() / 500.0);
        let most = f64::from(most);
        assert!(longest <= most && longest > 0.95 * most, "{attempts}: {longest}");
        // The mean of 500 uniform numbers, within seven standard errors.
        assert!((mean / most - 0.5).abs() < 0.1, "{attempts}: {mean}");
    }
    let again = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 3);
    let same = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 3);
    assert_eq!(again.after(3), same.after(3));
}

#[test]
fn patience_comes_to_an_end_and_says_what_was_wrong_last() {
    // If a request for log-probabilities fails by 500, another is sent without them.
    let cases: [(Says, &str, usize); 6] = [
        (|| Reply::error(500, "the model is on fire"), "status 500: the model is on fire", 6),
        (|| Reply::new(502, "<html>\n  bad gateway"), "status 502: <html> bad gateway", 3),
        (|| Reply::new(200, "{\"choices\": [{\"mess"), "invalid JSON: {\"choices\": [{\"mess", 3),
        (|| Reply::new(200, "{\"choices\": []}"), "no `choices`", 3),
        (|| Reply::new(200, "[{\"message\": 5}]"), "no `choices`", 3),
        (|| Reply::new(200, "{\"choices\": [{\"message\": 5}]}"), "no message", 3),
    ];
    for (reply, told, requests) in cases {
        let server = Server::script(vec![reply]);
        let error = http(one(&judge(HttpOptions { attempts: 3, ..options(&server) })));
        let HttpError::GaveUp { attempts: 3, last, server: name } = &error else { panic!("{error:?}") };
        assert!(last.to_string().contains(told), "{last}");
        assert!(error.to_string().contains(name) && *name == server.address.to_string());
        assert_eq!(server.requests().len(), requests);
    }
}

#[test]
fn a_body_without_end_is_not_read_to_its_end() {
    let server = Server::script(vec![|| Reply::new(200, vec![b' '; 9 << 20])]);
    let error = http(one(&judge(HttpOptions { attempts: 1, ..options(&server) })));
    assert!(matches!(&error, HttpError::GaveUp { last, .. } if last.to_string().contains("more than")), "{error:?}");
}

#[test]
fn a_server_that_is_not_there_is_given_up() {
    let server = Server::new(echo);
    let options = HttpOptions { attempts: 2, ..options(&server) };
    drop(server);
    let error = http(one(&judge(options)));
    let HttpError::GaveUp { attempts: 2, last: RequestFailure::Connection { message }, .. } = error else {
        panic!("{error:?}")
    };
    assert!(message.to_lowercase().contains("refused"), "{message}");
}

#[test]
fn a_refusal_is_final_and_says_what_the_server_says() {
    let cases: [(u16, Says, &str); 6] = [
        (401, || Reply::error(401, "bad key"), "bad key"),
        (403, || Reply::new(403, "{\"detail\": \"not yours\"}"), "not yours"),
        (404, || Reply::new(404, "{\"message\": \"no such\\n model\"}"), "no such model"),
        (402, || Reply::new(402, "{\"error\": \"pay\"}"), "pay"),
        (418, || Reply::new(418, ""), "(nothing)"),
        (301, || Reply::new(301, "").with("Location", "http://elsewhere/v1"), "redirects to http://elsewhere/v1"),
    ];
    for (expected, reply, told) in cases {
        let server = Server::script(vec![reply]);
        let error = http(one(&judge(options(&server))));
        let HttpError::Refused { status, message, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*status, expected);
        assert!(message.contains(told), "{message}");
        assert_eq!(server.requests().len(), 1, "{status} is not asked again");
    }
}

#[test]
fn an_error_in_a_response_that_claims_success_is_one() {
    let server = Server::script(vec![|| Reply::error(200, "model not loaded")]);
    let error = http(one(&judge(options(&server))));
    // Whatever the form of a request.
    assert_eq!(server.requests().len(), 4);
    assert!(matches!(&error, HttpError::Refused { status: 200, message, .. } if message == "model not loaded"));
    // With a code for a temporary problem it is sent again.
    let busy = r#"{"error": {"message": "upstream is busy", "code": 503}}"#;
    let server = Server::new(move |request| if request.number == 0 { Reply::new(200, busy) } else { good() });
    recovers(&server, options(&server), 2);
}

#[test]
fn a_refusal_in_the_middle_ends_the_run_but_not_what_is_under_way() {
    let server = Server::new(|request| match request.prompt().ends_with("|3") {
        true => Reply::error(403, "not that one"),
        false => echo(request).late(Duration::from_millis(50)),
    });
    let judge = judge(HttpOptions { concurrency: 2, ..options(&server) });
    let mut reported = Vec::new();
    let outcome = judge.judge(&[rubric("r")], &answers(12), &mut |judged| {
        reported.push(judged.answer);
        ControlFlow::Continue(())
    });
    assert!(matches!(http(outcome), HttpError::Refused { status: 403, .. }));
    // 0 alone, then 1 and 2 together; when they are done, 3, and with it at most one more.
    assert!(reported.len() >= 3 && reported.len() <= 4 && reported.starts_with(&[0]), "{reported:?}");
    assert!(server.requests().len() <= 5);
}

#[test]
fn options_that_cannot_be_used_are_refused_without_repeating_a_password() {
    let server = Server::new(echo);
    let wrong = |change: &dyn Fn(&mut HttpOptions)| {
        let mut options = options(&server);
        change(&mut options);
        let error = http(HttpJudge::new(options));
        assert!(matches!(error, HttpError::Setting(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    };
    for url in [
        "",
        "localhost:8080/v1",
        "ftp://host/v1",
        "http://",
        "/v1",
        "http://me:hunter2@host/v1",
        "http://hunter2@host/v1",
        "http://me:hunter2@ho st/v1",
        "http://host/v1?key=hunter2",
        "http://host/v1#hunter2",
    ] {
        wrong(&|options| options.base_url = url.into());
    }
    wrong(&|options| options.model = " ".into());
    wrong(&|options| options.concurrency = 0);
    wrong(&|options| options.attempts = 0);
    for key in ["", " ", "two words", "line\nfeed", "schlüssel"] {
        assert!(ApiKey::new(key).is_err(), "{key:?}");
    }
}
