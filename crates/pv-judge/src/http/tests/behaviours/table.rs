use super::*;

pub(super) fn cases() -> Vec<Case> {
    let usual = |name, serve| Case {
        name,
        serve,
        answers: &WORTH,
        scores: &SCORES,
        mode: Some(ScoreMode::Distribution),
        requests: 4,
        found: &[],
    };
    let one_lacks = |name, serve| Case {
        answers: &["85", "5", "66", "0"],
        scores: &[Some(85.0), Some(5.0), None, Some(0.0)],
        ..usual(name, serve)
    };
    vec![
        usual("whole numbers are read off the first token", whole),
        Case {
            answers: &["5", "3", "0", "7", "9", "85", "100", "10"],
            scores: &[Some(5.0), Some(3.0), Some(0.0), Some(7.0), Some(9.0), Some(85.0), Some(100.0), Some(10.0)],
            mode: Some(ScoreMode::Digits),
            // One more shows that the first token is a digit.
            requests: 9,
            ..usual("digits after five answers below 10", digits_of)
        },
        Case {
            answers: &["5", "3", "0", "7", "9", "85"],
            scores: &[Some(5.0), Some(3.0), Some(0.0), Some(7.0), Some(9.0), Some(85.0)],
            mode: Some(ScoreMode::Sampled),
            requests: 8,
            found: &["do not include the whole number"],
            ..usual("digits of which only the first has probabilities", |request| match request.wants_logprobs() {
                true => Reply::tokens(&[(&worth(request)[..1], 1.0), ("The", 0.0)]),
                false => Reply::text(worth(request)),
            })
        },
        Case {
            answers: &["100", "10", "5", "85"],
            scores: &[Some(100.0), Some(10.0), Some(5.0), Some(85.0)],
            mode: Some(ScoreMode::Digits),
            requests: 5,
            ..usual("a hundred that is two tokens", |request| match worth(request) {
                "100" => writes(request, &["10", "0"], "The"),
                other => writes(request, &[other], "The"),
            })
        },
        Case {
            mode: Some(ScoreMode::Sampled),
            requests: 5,
            found: &["returns no log-probabilities"],
            ..usual("no log-probabilities", |request| Reply::text(worth(request)))
        },
        Case {
            mode: Some(ScoreMode::Sampled),
            requests: 5,
            found: &["returns no log-probabilities"],
            ..usual("log-probabilities are refused by name", |request| match request.wants_logprobs() {
                true => refuse(400, "logprobs are not supported by this model", "unsupported"),
                false => whole(request),
            })
        },
        Case {
            mode: Some(ScoreMode::Sampled),
            // The written number, and fewer alternatives in vain.
            requests: 6,
            found: &["refuses to return log-probabilities"],
            ..usual("log-probabilities are refused without a word", |request| match request.wants_logprobs() {
                true => refuse(422, "unprocessable", ""),
                false => whole(request),
            })
        },
        Case {
            mode: Some(ScoreMode::Sampled),
            // Three times with, once without, once with; then three without.
            requests: 8,
            found: &["fails when log-probabilities are requested"],
            ..usual("status 500 for log-probabilities only", |request| match request.wants_logprobs() {
                true => Reply::error(500, "internal error"),
                false => whole(request),
            })
        },
        Case {
            requests: 5,
            found: &["5 alternatives"],
            ..usual("more than five alternatives are refused by name", |request| {
                match request.body["top_logprobs"].as_u64().unwrap() {
                    6.. => refuse(400, "Invalid value for 'top_logprobs': must be less than or equal to 5.", "invalid"),
                    _ => whole(request),
                }
            })
        },
        Case {
            requests: 5,
            found: &["5 alternatives"],
            ..usual(
                "more than five alternatives are refused as vLLM does",
                |request| match request.body["top_logprobs"].as_u64().unwrap() {
                    6.. => refuse(400, "Requested sample logprobs of 20, which is greater than max allowed: 5", ""),
                    _ => whole(request),
                },
            )
        },
        Case {
            requests: 6,
            found: &["fewer than 20 alternatives"],
            ..usual("more than five alternatives are refused without a word", |request| {
                match request.body["top_logprobs"].as_u64() {
                    Some(6..) => refuse(400, "bad request", ""),
                    _ => whole(request),
                }
            })
        },
        Case {
            requests: 5,
            found: &["max_completion_tokens"],
            ..usual("max_tokens is refused", |request| match has(request, "max_tokens") {
                true => refuse(
                    400,
                    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' \
                     instead.",
                    "unsupported_parameter",
                ),
                false => whole(request),
            })
        },
        Case {
            // The written number by the first name and by the other, and the first prompt again.
            requests: 7,
            found: &["another form"],
            ..usual("max_tokens is refused without a word", |request| match has(request, "max_tokens") {
                true => refuse(400, "bad request", ""),
                false => whole(request),
            })
        },
        Case {
            requests: 5,
            found: &["at least 16 tokens"],
            ..usual("fewer than 16 tokens are refused", |request| match limit(request) {
                ..16 => refuse(
                    400,
                    "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead.",
                    "integer_below_min_value",
                ),
                _ => whole(request),
            })
        },
        Case {
            requests: 5,
            found: &["no temperature"],
            ..usual("temperature 0 is refused", |request| match has(request, "temperature") {
                true => refuse(
                    400,
                    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is \
                     supported.",
                    "unsupported_value",
                ),
                false => whole(request),
            })
        },
        Case {
            requests: 5,
            found: &["no seed"],
            ..usual("a seed is refused by its parameter alone", |request| match has(request, "seed") {
                true => Reply::new(
                    400,
                    json!({"error": {"message": "unknown field", "param": "seed", "code": null}}).to_string(),
                ),
                false => whole(request),
            })
        },
        Case {
            requests: 7,
            found: &["max_completion_tokens", "no temperature", "no seed"],
            ..usual("three parameters are refused one by one", |request| {
                let wrong = ["max_tokens", "temperature", "seed"].into_iter().find(|name| has(request, name));
                match wrong {
                    Some(name) => refuse(400, &format!("Unsupported parameter: {name}"), "unsupported_parameter"),
                    None => whole(request),
                }
            })
        },
        Case {
            requests: 5,
            found: &["reasoning is disabled"],
            ..usual("a thought in place of the content, left out when asked", |request| thinker(request, true))
        },
        Case {
            mode: Some(ScoreMode::Reasoned),
            // As usual, with reasoning disabled in vain, with room for it; then three.
            requests: 6,
            found: &["the number after the reasoning"],
            ..usual("a thought whatever is asked", |request| thinker(request, false))
        },
        Case {
            mode: Some(ScoreMode::Reasoned),
            requests: 7,
            found: &["does not support disabling", "the number after the reasoning"],
            ..usual("the first token opens a thought", |request| match has(request, "chat_template_kwargs") {
                true => refuse(400, "Unknown parameter: 'chat_template_kwargs'.", "unknown_parameter"),
                false if limit(request) > 100 => {
                    Reply::text(&format!("<think>\n50 or 60?\n</think>\n\n{}", worth(request)))
                }
                false => writes(request, &["<think>", "\n", "Well", " so"], "55"),
            })
        },
        Case {
            mode: Some(ScoreMode::Reasoned),
            requests: 5,
            found: &["the number after the reasoning"],
            ..usual("all tokens go into a thought, which is an error", |request| match limit(request) {
                ..100 => refuse(
                    400,
                    "Could not finish the message because max_tokens or model output limit was reached. Please try again \
                     with higher max_tokens.",
                    "",
                ),
                _ => whole(request),
            })
        },
        Case {
            mode: Some(ScoreMode::Reasoned),
            requests: 6,
            found: &["the number after the reasoning"],
            ..usual("a thought that the server keeps to itself", |request| match limit(request) {
                ..100 => Reply::choice(json!({"message": {"content": ""}, "finish_reason": "length"})),
                _ => Reply::text(worth(request)),
            })
        },
        Case {
            mode: Some(ScoreMode::Reasoned),
            requests: 6,
            found: &["the number after the reasoning"],
            ..usual("a wish for no thoughts that is refused without a word", |request| {
                match has(request, "chat_template_kwargs") {
                    true => refuse(422, "unprocessable", ""),
                    false => thinker(request, false),
                }
            })
        },
        Case {
            mode: Some(ScoreMode::Reasoned),
            // Two names, the temperature, the log-probabilities, and reasoning that uses up all tokens; then four.
            requests: 8,
            found: &[
                "max_completion_tokens",
                "no temperature",
                "no log-probabilities",
                "the number after the reasoning",
            ],
            ..usual("a reasoning model of OpenAI's", |request| {
                let wrong = ["max_tokens", "temperature", "logprobs"].into_iter().find(|name| has(request, name));
                match (wrong, limit(request)) {
                    (Some(name), _) => refuse(
                        400,
                        &format!("Unsupported parameter: '{name}' is not supported with this model."),
                        "unsupported_parameter",
                    ),
                    (None, ..100) => refuse(
                        400,
                        "Could not finish the message because max_tokens or model output limit was reached.",
                        "",
                    ),
                    (None, _) => whole(request),
                }
            })
        },
        Case {
            mode: Some(ScoreMode::Digits),
            requests: 5,
            ..usual("a blank comes first", |request| writes(request, &[" ", worth(request)], "55"))
        },
        usual("the mark of SentencePiece before a number", |request| {
            writes(request, &[&format!("▁{}", worth(request))], "▁55")
        }),
        usual("the mark of byte-level BPE before a number", |request| {
            writes(request, &[&format!("Ġ{}", worth(request))], "Ġ55")
        }),
        usual("a number in quotation marks that is one token", |request| {
            writes(request, &[&format!("\"{}\"", worth(request))], "\"55\"")
        }),
        Case {
            mode: Some(ScoreMode::Digits),
            requests: 5,
            ..usual("a number in quotation marks", |request| writes(request, &["\"", worth(request), "\""], "55"))
        },
        Case {
            mode: Some(ScoreMode::Digits),
            requests: 5,
            ..usual("emphasis", |request| writes(request, &["**", worth(request), "**"], "55"))
        },
        Case {
            mode: Some(ScoreMode::Digits),
            requests: 5,
            ..usual("a label before the number", |request| writes(request, &["Score", ":", " ", worth(request)], "55"))
        },
        one_lacks("a content filter refuses one prompt", |request| match worth(request) {
            "66" => refuse(
                400,
                "The response was filtered due to Azure OpenAI's content management policy.",
                "content_filter",
            ),
            _ => whole(request),
        }),
        one_lacks("one prompt is too long", |request| match worth(request) {
            "66" => refuse(
                400,
                "This model's maximum context length is 8192 tokens. However, you requested 9000 (8999 in the messages, 1 in \
                 max_tokens).",
                "context_length_exceeded",
            ),
            _ => whole(request),
        }),
        one_lacks("one prompt is too long for llama.cpp, an older one", |request| match worth(request) {
            "66" => refuse(500, "the request exceeds the available context size, try increasing it", "server_error"),
            _ => whole(request),
        }),
        one_lacks("moderation refuses one prompt by 403", |request| match worth(request) {
            "66" => refuse(403, "This model requires moderation and your input was flagged for violence", "403"),
            _ => whole(request),
        }),
        one_lacks("one prompt is refused by 422 without a word", |request| match worth(request) {
            "66" => refuse(422, "not this text", ""),
            _ => whole(request),
        }),
        one_lacks("one prompt is larger than the server takes", |request| match worth(request) {
            "66" => Reply::new(413, "<html>Request Entity Too Large</html>"),
            _ => whole(request),
        }),
        one_lacks("one reply is filtered", |request| match worth(request) {
            "66" => Reply::choice(json!({"message": {"content": null}, "finish_reason": "content_filter"})),
            _ => whole(request),
        }),
        one_lacks("the model declines one prompt", |request| match worth(request) {
            "66" => Reply::choice(json!({"message": {"content": null, "refusal": "I cannot judge that."},
                "finish_reason": "stop"})),
            _ => whole(request),
        }),
        one_lacks("one response with status 200 is an error", |request| match worth(request) {
            "66" => refuse(200, "Content Exists Risk: inappropriate content", "invalid_request_error"),
            _ => whole(request),
        }),
        Case {
            answers: &["66", "85", "5"],
            scores: &[None, Some(85.0), Some(5.0)],
            // Three forms are tried in vain on the first.
            requests: 6,
            ..usual("the first prompt is refused without a word", |request| match worth(request) {
                "66" => refuse(400, "no", ""),
                _ => whole(request),
            })
        },
        usual("minus infinity among the log-probabilities", |request| {
            raw_logprobs(request, "{\"token\": \"55\", \"logprob\": -Infinity}")
        }),
        usual("not a number among the log-probabilities", |request| {
            raw_logprobs(request, "{\"token\": \"55\", \"logprob\": NaN}")
        }),
        usual("null among the log-probabilities", |request| {
            raw_logprobs(request, "{\"token\": \"55\", \"logprob\": null}")
        }),
        usual("-9999 and lower among the log-probabilities", |request| {
            raw_logprobs(request, "{\"token\": \"55\", \"logprob\": -9999.0}, {\"token\": \"44\", \"logprob\": -1e300}")
        }),
        usual("log-probabilities in the older form", |request| {
            let token = worth(request);
            Reply::choice(json!({"message": {"content": token}, "finish_reason": "length", "logprobs":
                {"tokens": [token], "token_logprobs": [0.0], "top_logprobs": [{token: 0.0, "55": -50.0}]}}))
        }),
        usual("the alternatives lack what was written", |request| {
            let token = worth(request);
            Reply::choice(json!({"message": {"content": token}, "finish_reason": "length", "logprobs": {"content":
                [{"token": token, "logprob": 0.0, "top_logprobs": [{"token": "55", "logprob": -50.0}]}]}}))
        }),
        Case {
            mode: Some(ScoreMode::Sampled),
            requests: 5,
            found: &["returns no log-probabilities"],
            ..usual("content in parts", |request| {
                Reply::choice(json!({"message": {"content": [{"type": "text", "text": worth(request)}]}}))
            })
        },
        Case {
            requests: 5,
            found: &["are streamed"],
            ..usual("a server that only streams", |request| match request.body["stream"] == true {
                true => pieces(request),
                false => refuse(400, "This endpoint only supports stream=true", "invalid_request_error"),
            })
        },
        usual("a server that streams unasked", pieces),
        usual("a packed response", |request| whole(request).packed()),
        Case {
            requests: 5,
            ..usual("status 503 while the model is loaded", |request| match request.number {
                0 => refuse(503, "Loading model", "unavailable_error"),
                _ => whole(request),
            })
        },
        Case {
            requests: 5,
            ..usual("too many requests", |request| match request.number {
                1 => refuse(
                    429,
                    "Rate limit reached. Add a payment method at https://x/account/billing",
                    "rate_limit_exceeded",
                )
                .with("Retry-After-Ms", "5"),
                _ => whole(request),
            })
        },
        Case {
            answers: &["85", "5"],
            scores: &[Some(85.0), None],
            requests: 2,
            ..usual("a judge that declines as it was told to", |request| match worth(request) {
                "5" => writes(request, &["REF", "USAL"], "55"),
                _ => whole(request),
            })
        },
    ]
}
