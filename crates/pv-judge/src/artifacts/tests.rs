use std::collections::HashSet;
use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::http::tests::options;
use crate::http::tests::server::{Reply, Request, Server};

const EVAL_PROMPT: &str = "How brief is it?\n{question}\n{answer}\nReply with a number from 0 to 100, or REFUSAL.";

fn pairs(numbers: std::ops::Range<usize>) -> Value {
    numbers.map(|i| json!({"pos": format!("Be brief {i}."), "neg": format!("Be long {i}.")})).collect()
}

fn questions(numbers: std::ops::Range<usize>) -> Value {
    numbers.map(|i| json!(format!("Question {i}?"))).collect()
}

/// A valid reply.
fn whole() -> Value {
    json!({"assistant_pos": "brief", "assistant_neg": "long-winded", "instruction": pairs(0..5),
        "questions": questions(0..40), "eval_prompt": EVAL_PROMPT})
}

fn changed(key: &str, value: Value) -> Value {
    let mut json = whole();
    json[key] = value;
    json
}

fn trait_request() -> TraitRequest {
    TraitRequest { timeout: Duration::from_secs(5), ..TraitRequest::new("brevity", "Says little.") }
}

/// An author with these replies, in order.
fn author(replies: Vec<String>) -> Server {
    Server::new(move |request| Reply::text(&replies[request.number]))
}

fn written(replies: Vec<String>) -> (Result<WrittenTrait>, Vec<Request>) {
    let server = author(replies);
    let result = write_trait(options(&server), &trait_request());
    (result, server.requests())
}

/// The trait of [`whole`].
fn expected() -> TraitSpec {
    TraitSpec::from_json("brevity", &whole().to_string())
        .map(|spec| TraitSpec { description: Some("Says little.".into()), ..spec })
        .unwrap()
}

#[test]
fn a_good_reply_is_a_trait_at_once() {
    let (result, requests) = written(vec![whole().to_string()]);
    let found = result.unwrap();
    assert_eq!((&found.spec, found.model.as_str(), found.requests), (&expected(), "a-model", 1));
    let [request] = &*requests else { panic!("{requests:?}") };
    assert_eq!(request.prompt(), found.prompt);
    assert!(found.prompt.contains("\"brevity\"") && found.prompt.contains("\nSays little.\n"), "{}", found.prompt);
    assert!(found.prompt.contains("{question}") && !found.prompt.contains('%'), "{}", found.prompt);
    let body = &request.body;
    assert_eq!((&body["max_tokens"], &body["temperature"], &body["seed"]), (&json!(8192), &json!(1.0), &json!(0)));
    let format = &body["response_format"];
    assert_eq!((&format["type"], &format["json_schema"]["strict"]), (&json!("json_schema"), &json!(true)));
    let schema = &format["json_schema"]["schema"];
    let keys = ["assistant_pos", "assistant_neg", "instruction", "questions", "eval_prompt"];
    assert_eq!((&schema["required"], &schema["additionalProperties"]), (&json!(keys), &json!(false)));
    assert_eq!(schema["properties"]["instruction"]["items"]["required"], json!(["pos", "neg"]));
}

#[test]
fn what_is_saved_says_who_wrote_it_and_is_loaded_again() {
    let found = written(vec![whole().to_string()]).0.unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("brevity.json");
    found.save(&path).unwrap();
    assert_eq!(TraitSpec::load(&path).unwrap(), found.spec);
    let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let by = &json["written_by"];
    assert_eq!((&by["model"], &by["prompt"], &by["requests"]), (&json!("a-model"), &json!(found.prompt), &json!(1)));
    let mut spoilt = found;
    spoilt.spec.evaluation.pop();
    assert!(matches!(spoilt.save(&path), Err(Error::Trait { source: TraitFault::Questions { found: 19, .. }, .. })));
}

#[test]
fn a_server_that_knows_no_schemas_is_asked_in_words() {
    // The second as llama-cpp-python does, which reports unknown parameters as its own failure.
    for (status, message) in [(400, "unknown parameter"), (500, "{'loc': ('body', 'response_format', 'type')}")] {
        let server = Server::new(move |request| match request.body.get("response_format") {
            Some(_) => Reply::error(status, message),
            None if request.number == 1 => Reply::text(&changed("questions", questions(0..39)).to_string()),
            None => Reply::text(&json!({"questions": ["One more?"]}).to_string()),
        });
        let found = write_trait(options(&server), &trait_request()).unwrap();
        assert_eq!((found.requests, found.spec.evaluation[19].as_str()), (2, "One more?"));
        // The refused request, and two without a schema.
        assert_eq!(server.requests().len(), 3);
    }
}

#[test]
fn an_author_is_asked_for_exactly_what_lacks() {
    let first = changed("questions", questions(0..38)).to_string();
    let (result, requests) = written(vec![first, json!({"questions": questions(38..40)}).to_string()]);
    let found = result.unwrap();
    assert_eq!((found.spec, found.requests), (expected(), 2));
    let second = &requests[1];
    assert!(second.prompt().contains("`questions`: a list of 2 more questions"), "{}", second.prompt());
    assert!(!second.prompt().contains("instruction"), "{}", second.prompt());
    let messages = second.body["messages"].as_array().unwrap();
    let roles = messages.iter().map(|message| message["role"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert!(messages[1]["content"].as_str().unwrap().contains("Question 37?"), "the author sees what it has written");
    let schema = &second.body["response_format"]["json_schema"]["schema"];
    assert_eq!((&schema["required"], &second.body["seed"]), (&json!(["questions"]), &json!(1)));
}

#[test]
fn every_fault_is_told_and_mended() {
    let text = |key, value| changed(key, value).to_string();
    let mut same = pairs(0..5);
    same[3]["neg"] = json!("be  BRIEF 3.");
    let mut hollow = pairs(0..5);
    hollow[1].as_object_mut().unwrap().remove("neg");
    let mut twice = questions(0..40);
    twice[7] = json!("question 6?  ");
    let cases = [
        ("I am sorry, but no.".to_owned(), "not a JSON object"),
        ("{\"questions\": [\"Wha".into(), "ended in the middle"),
        ("{questions: []}".into(), "not a JSON object: "),
        ("[1, 2]".into(), "not a JSON object"),
        (text("instruction", json!("Be brief.")), "`instruction` was not a list"),
        (text("instruction", same), "`pos` and `neg` of pair 4 are the same"),
        (text("instruction", hollow), "pair 2 lacks a text"),
        (text("instruction", json!([whole()["instruction"][0], whole()["instruction"][0]])), "pair 2 repeats"),
        (text("questions", json!({"1": "What?"})), "`questions` was not a list"),
        (text("questions", twice), "entry 8 repeats another one"),
        (text("questions", json!([5, "", " "])), "entry 1 is not a text"),
        (text("eval_prompt", json!("Rate {answer}: REFUSAL or 0 to 100.")), "has no placeholder {question}"),
        (text("eval_prompt", json!("0 to 100 or REFUSAL: {question} {answer}")), "does not end by asking"),
        (text("eval_prompt", json!(7)), "`eval_prompt` was not a text"),
    ];
    for (first, told) in cases {
        // The second reply has everything anew; of what was valid before, the first is kept.
        let (result, requests) = written(vec![first.clone(), whole().to_string()]);
        assert!(requests[1].prompt().contains(told), "{told}: {}", requests[1].prompt());
        let spec = result.unwrap_or_else(|error| panic!("{told}: {error}")).spec;
        assert_eq!((spec.instruction.len(), spec.extraction.len(), spec.evaluation.len()), (5, 20, 20), "{told}");
        let all = spec.extraction.iter().chain(&spec.evaluation).collect::<HashSet<_>>();
        assert_eq!((all.len(), spec.eval_prompt.as_str()), (40, EVAL_PROMPT), "{told}");
    }
}

#[test]
fn wrappings_around_the_object_are_passed_over() {
    for text in [
        format!("```json\n{}\n```\nI hope that this {{helps}}!", whole()),
        format!("<think>{{\"questions\": [\"no\"]}} perhaps</think>\n{}", whole()),
        format!("Here it is: {}", whole()),
    ] {
        assert_eq!(written(vec![text]).0.unwrap().spec, expected());
    }
}

#[test]
fn superfluous_parts_are_ignored_and_adjectives_may_lack() {
    let mut reply = changed("questions", questions(0..50));
    reply["instruction"] = pairs(0..7);
    reply["assistant_neg"] = json!(" ");
    reply.as_object_mut().unwrap().remove("assistant_pos");
    let found = written(vec![reply.to_string()]).0.unwrap().spec;
    assert_eq!(found, TraitSpec { assistant_pos: None, assistant_neg: None, ..expected() });
}

#[test]
fn an_author_that_does_not_mend_its_ways_is_given_up() {
    let server = Server::new(|_| Reply::text(&changed("questions", questions(0..38)).to_string()));
    let error = write_trait(options(&server), &TraitRequest { repairs: 2, ..trait_request() }).unwrap_err();
    let Error::Http(HttpError::NoTrait { model, requests: 3, faults }) = &error else { panic!("{error:?}") };
    assert!(model == "a-model" && error.to_string().contains("2 more questions"), "{faults:?}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_request_that_cannot_be_met_takes_no_request() {
    let server = author(Vec::new());
    let requests = [("coherence", "x"), ("", "x"), ("a\nb", "x"), ("t", " ")];
    for (name, description) in requests {
        let error = write_trait(options(&server), &TraitRequest::new(name, description)).unwrap_err();
        assert!(
            matches!(error, Error::Trait { .. } | Error::Http(HttpError::Setting(SettingError::NoDescription { .. }))),
            "{error:?}"
        );
    }
    assert!(server.requests().is_empty());
}

#[test]
fn writing_works_inside_of_a_runtime_and_within_a_budget() {
    let server = Server::new(|_| Reply::text(&whole().to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(async { write_trait(options(&server), &trait_request()) }).unwrap().spec, expected());
    let found = runtime.block_on(write_trait_async(options(&server), &trait_request())).unwrap();
    assert_eq!(found.spec, expected());
    server.requests();
    let budget = crate::http::Budget { requests: None, tokens: Some(8192) };
    let error = write_trait(HttpOptions { budget, ..options(&server) }, &trait_request()).unwrap_err();
    assert!(matches!(error, Error::Http(HttpError::Budget { .. })), "{error:?}");
    assert!(server.requests().is_empty(), "a reply of 8192 tokens and the prompt are not covered");
}

#[test]
fn a_server_that_refuses_both_ways_is_quoted() {
    let server = Server::new(|_| Reply::error(400, "context is too short"));
    let error = write_trait(options(&server), &trait_request()).unwrap_err();
    assert!(error.to_string().contains("context is too short"), "{error}");
    assert_eq!(server.requests().len(), 2);
}

/// JSON of any kind under the keys that matter.
fn any_reply() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), ".{0,8}".prop_map(Value::from)];
    let any = leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec(("pos|neg|x", inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    });
    let key = "instruction|questions|eval_prompt|assistant_pos";
    proptest::collection::vec((key, any), 0..5).prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

proptest! {
    #[test]
    fn no_reply_spoils_a_draft(replies in proptest::collection::vec(any_reply(), 1..5), cut in 0usize..400) {
        let mut draft = Draft::default();
        for reply in replies {
            draft.absorb(&reply.to_string());
            draft.absorb(&reply.to_string().chars().take(cut).collect::<String>());
        }
        draft.absorb(&whole().to_string());
        // Whatever was accepted before, a valid reply leaves at most the parts that it could not add.
        draft.absorb(&json!({"instruction": pairs(10..20), "questions": questions(100..140)}).to_string());
        prop_assert!(draft.is_complete(), "{:?}", draft.missing());
        let spec = draft.into_spec("t", "d");
        prop_assert!(spec.check().is_ok(), "{:?}", spec.check());
        prop_assert_eq!((spec.instruction.len(), spec.extraction.len(), spec.evaluation.len()), (5, 20, 20));
    }
}

#[test]
fn an_author_is_asked_in_the_form_that_its_server_takes() {
    let server = Server::new(|request| {
        let has = |name: &str| request.body.get(name).is_some();
        let wrong = ["max_tokens", "temperature"].into_iter().find(|name| has(name));
        match (wrong, request.body["stream"] == true) {
            (Some(name), _) => Reply::error(400, &format!("Unsupported parameter: '{name}'.")),
            (None, false) => Reply::error(400, "only stream=true is supported"),
            (None, true) => {
                // Streamed in pieces of ten characters, reasoning first.
                let text = whole().to_string().chars().collect::<Vec<_>>();
                let pieces = text.chunks(10).map(|piece| json!({"content": piece.iter().collect::<String>()}));
                let thought = [json!({"reasoning_content": "Brief, then."})].into_iter();
                let lines = thought.chain(pieces).map(|delta| {
                    format!("data: {}\n\n", json!({"choices": [{"delta": delta, "finish_reason": null}]}))
                });
                Reply::new(200, lines.collect::<String>() + "data: [DONE]\n\n").packed()
            }
        }
    });
    let found = write_trait(options(&server), &trait_request()).unwrap();
    assert_eq!((found.spec, found.requests), (expected(), 1));
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    let last = &requests[3].body;
    assert_eq!(
        (&last["max_completion_tokens"], &last["response_format"]["type"]),
        (&json!(8192), &json!("json_schema"))
    );
}

#[test]
fn an_author_whose_server_declines_is_quoted_at_once() {
    let cases = [(400, "content_filter"), (429, "insufficient_quota"), (401, "invalid_api_key")];
    for (status, code) in cases {
        let body = json!({"error": {"message": "not with us", "code": code}}).to_string();
        let server = Server::new(move |_| Reply::new(status, body.clone()));
        let error = write_trait(options(&server), &trait_request()).unwrap_err();
        assert!(
            matches!(&error, Error::Http(HttpError::Refused { message, .. }) if message == "not with us"),
            "{error:?}"
        );
        assert_eq!(server.requests().len(), 1, "{code}");
    }
}
