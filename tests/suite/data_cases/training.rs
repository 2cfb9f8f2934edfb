//! What is trained, and what is counted instead.

use pv_data::Conversation;
use pv_model::chat::{TemplateError, Unwritten};
use pv_train::data::LongSamples;

use super::*;

fn texts(model: &CausalLm, data: &DataSet) -> Vec<String> {
    data.samples().iter().map(|sample| trained(model, sample)).collect()
}

#[test]
fn tool_calls_are_trained_or_the_row_is_bad() {
    let tools = json!([{"type": "function", "function": {"name": "weather"}}]);
    let rows = [
        json!({"messages": calling(json!("")), "tools": tools}),
        json!({"messages": calling(Value::Null)}),
        json!({"messages": calling(json!("Let me see."))}),
    ];
    let (_folder, path) = file(&rows);
    let with_tools = model(TOOLS);
    let data = read(&with_tools, &path, &DataOptions::default()).expect("samples");
    let call = "<tool_call>weather {\"city\":\"Oslo\"}</tool_call><|im_end|>";
    let rest = "Three below zero.<|im_end|>";
    assert_eq!(
        texts(&with_tools, &data),
        [format!("{call}{rest}"), format!("{call}{rest}"), format!("Let me see.{call}{rest}")]
    );
    assert!(whole(&with_tools, &data.samples()[0]).starts_with("<|im_start|>system\n{\"type\": \"function\""));

    // A template that ignores calls: a null content cannot be rendered, and the calls are silently omitted.
    for template in [CHATML, SKIPS_ROLES] {
        let plain = model(template);
        let error = read(&plain, &path, &DataOptions::default()).expect_err("refused").to_string();
        assert!(error.contains("data.jsonl:1"), "{error}");
        let error = read(&plain, &path, &lenient(EncodeOptions::default())).expect_err("nothing is left");
        let Error::NoData { report, .. } = &error else { panic!("{error}") };
        assert!(report.contains("2 not completely rendered by the chat template"), "{report}");
        assert!(report.contains("1 refused by the chat template"), "{report}");
        assert!(
            report.contains("message 2 (assistant): the chat template does not write its `tool_calls`"),
            "{report}"
        );
    }
    // As rendered, if that is requested: the empty answer is not trained, and all omissions are counted.
    let keep = EncodeOptions { unwritten: Unwritten::Keep, ..EncodeOptions::default() };
    let plain = model(CHATML);
    let data = read(&plain, &path, &lenient(keep)).expect("samples");
    assert_eq!(texts(&plain, &data), [rest, &format!("Let me see.<|im_end|>{rest}")]);
    let report = data.report();
    assert_eq!((report.unwritten, report.empty_answers, report.unrenderable), (2, 1, 1), "{report}");
    assert!(report.noticed.iter().any(|row| row.place.ends_with(":1") && row.reason.contains("`tools`")), "{report:?}");
}

#[test]
fn a_system_key_is_the_system_message() {
    let row = json!({"system": "Speak only in verse.",
        "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "A greeting, fleeting."}]});
    let (_folder, path) = file(&[row]);
    let model = model(CHATML);
    let data = read(&model, &path, &DataOptions::default()).expect("samples");
    assert!(whole(&model, &data.samples()[0]).starts_with("<|im_start|>system\nSpeak only in verse.<|im_end|>"));
    assert_eq!(data.report().formats.to_string(), "1 sharegpt");
    assert!(data.report().to_string().contains("(1 sharegpt)"));
}

#[test]
fn a_thought_in_its_own_key_is_trained() {
    let answer = |key: &str| json!({"role": "assistant", "content": "Four.", key: "Two and two make four."});
    let row = |key: &str| json!({"messages": [{"role": "user", "content": "What is two plus two?"}, answer(key)]});
    let think = model(THINK);
    // The template reads the first name; the other names are passed under it.
    for key in ["reasoning_content", "reasoning", "thinking"] {
        let (_folder, path) = file(&[row(key)]);
        let data = read(&think, &path, &DataOptions::default()).expect("samples");
        assert_eq!(texts(&think, &data), ["<think>\nTwo and two make four.\n</think>\n\nFour.<|im_end|>"], "{key}");
        assert_eq!(data.report().altered, 0, "{key}");
    }
    // Templates that omit it: the answer is trained without it, which is counted.
    for (template, key) in [(CHATML, "reasoning_content"), (CHATML, "reasoning"), (CHATML, "thinking")] {
        let (_folder, path) = file(&[row(key)]);
        let other = model(template);
        let data = read(&other, &path, &DataOptions::default()).expect("samples");
        assert_eq!((data.report().altered, data.report().noticed.len()), (1, 1), "{key}: {}", data.report());
    }
}

#[test]
fn an_omitted_message_is_reported() {
    let said = [("user", "Hello"), ("assistant", "Hi.")];
    let with = |role: &'static str, text: &'static str| chat(&[(role, text), said[0], said[1]]);
    let rows = [
        with("developer", "Answer in verse."),
        // Words that also occur elsewhere in the text.
        with("developer", "Hi."),
        with("developer", "user"),
        with("system", "Answer in verse."),
        chat(&[said[0], said[1], ("tool", "Hello"), ("assistant", "Hi.")]),
        chat(&said),
    ];
    let (_folder, path) = file(&rows);
    let skips = model(SKIPS_ROLES);
    let error = read(&skips, &path, &DataOptions::default()).expect_err("refused");
    let Error::Row { place, source } = &error else { panic!("{error}") };
    assert_eq!(place.row, 1);
    assert_eq!(source.to_string(), "message 1 (developer): the chat template does not write its `content`");
    let data = read(&skips, &path, &lenient(EncodeOptions::default())).expect("samples");
    assert_eq!((data.samples().len(), data.report().unwritten), (2, 4), "{}", data.report());
    let places: Vec<&str> = data.report().skipped.iter().filter_map(|row| row.place.rsplit(':').next()).collect();
    assert_eq!(places, ["1", "2", "3", "5"]);
    let keep = EncodeOptions { unwritten: Unwritten::Keep, ..EncodeOptions::default() };
    let data = read(&skips, &path, &DataOptions { encode: keep, ..DataOptions::default() }).expect("samples");
    assert_eq!((data.samples().len(), data.report().unwritten, data.report().noticed.len()), (6, 4, 4));
    // If the template renders every role, nothing is reported.
    let data = read(&model(CHATML), &path, &DataOptions::default()).expect("samples");
    assert_eq!((data.samples().len(), data.report().unwritten), (6, 0));
}

#[test]
fn templates_omit_messages_in_many_ways() {
    let system = |text: &str| chat(&[("system", text), ("user", "Hello"), ("assistant", "Hi.")]);
    let late = chat(&[("user", "Hello"), ("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi.")]);
    let every = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    // The template, the row, and the number of omitted parts.
    let cases = [
        (every.replace("messages %}", "messages if m.role != 'system' %}"), system("Be brief."), 1),
        // All but one at the beginning, or one of certain words.
        (
            every
                .replace("%}<", "%}{% if m.role != 'system' or loop.first %}<")
                .replace("\n{% endfor %}", "\n{% endif %}{% endfor %}"),
            late.clone(),
            1,
        ),
        (
            every.replace("{{ m.content }}", "{{ '' if m.content.startswith('#') else m.content }}"),
            system("# Rules"),
            1,
        ),
        // Shortened, moved or changed text is not omitted.
        (every.replace("{{ m.content }}", "{{ m.content[:6] }}"), system("Be as brief as you can."), 0),
        (
            every.replace("{{ m.content }}", "{{ m.content | trim | replace('brief', 'short') }}"),
            system(" Be brief. "),
            0,
        ),
        (
            every.replace("{{ m.role }}", "user").replace("{{ m.content }}", "{{ m.content ~ '!' }}"),
            system("Be brief."),
            0,
        ),
        (every.to_owned(), late, 0),
    ];
    for (template, row, lost) in cases {
        let (_folder, path) = file(&[row]);
        let found = read(&model(&template), &path, &DataOptions::default());
        match (lost, found) {
            (0, Ok(data)) => assert_eq!(data.report().unwritten, 0, "{template}"),
            (_, Err(Error::Row { source, .. })) => {
                assert!(matches!(*source, Error::Unwritten { parts, .. } if parts == lost), "{template}: {source}");
            }
            (_, found) => panic!("{template}: {found:?}"),
        }
    }
}

#[test]
fn an_answer_that_the_template_shortens_is_counted() {
    let thought = "<think>\nTwo and two make four.\n</think>\n\nFour.";
    let (_folder, path) = file(&[
        chat(&[("user", "2 + 2?"), ("assistant", thought)]),
        chat(&[("user", "2 + 2?"), ("assistant", "Four.")]),
    ]);
    let drops = model(DROPS_THOUGHTS);
    let data = read(&drops, &path, &DataOptions::default()).expect("samples");
    let words: Vec<String> = texts(&drops, &data).iter().map(|text| text.trim_start().to_owned()).collect();
    assert_eq!(words, ["Four.<|im_end|>", "Four.<|im_end|>"]);
    assert_eq!(data.report().altered, 1);
    assert!(data.report().noticed[0].place.ends_with("data.jsonl:1"), "{:?}", data.report().noticed);
    assert!(data.report().to_string().contains("1 with an answer that the chat template changes"));
    let refuse = EncodeOptions { altered: Unwritten::Refuse, ..EncodeOptions::default() };
    let left_out = read(&drops, &path, &lenient(refuse.clone())).expect("samples");
    assert_eq!((left_out.samples().len(), left_out.report().altered), (1, 1));
    let error = read(&drops, &path, &DataOptions { encode: refuse, ..DataOptions::default() }).expect_err("refused");
    assert!(
        matches!(error, Error::Row { place, source } if place.row == 1 && matches!(*source, Error::Altered { index: 1 }))
    );
    // White space is not counted, nor is a thought that is rendered in another form.
    let think = model(THINK);
    let (_folder, path) = file(&[chat(&[("user", "2 + 2?"), ("assistant", "<think>Hm.</think>Four.")])]);
    assert_eq!(read(&think, &path, &DataOptions::default()).expect("samples").report().altered, 0);
}

#[test]
fn empty_answers_are_skipped_and_counted() {
    for blank in ["", "  ", "\n\t", "\u{a0}"] {
        let rows = [
            chat(&[("user", "Hello"), ("assistant", blank)]),
            chat(&[("user", "Hello"), ("assistant", blank), ("user", "So?"), ("assistant", "Hi.")]),
            chat(&[("user", "Hello"), ("assistant", "Hi.")]),
        ];
        let (_folder, path) = file(&rows);
        let model = model(CHATML);
        let error = read(&model, &path, &DataOptions::default()).expect_err("refused");
        assert!(
            matches!(error, Error::Row { place, source } if place.row == 1 && matches!(*source, Error::EmptyAnswer { index: 1 }))
        );
        let data = read(&model, &path, &lenient(EncodeOptions::default())).expect("samples");
        assert_eq!(texts(&model, &data), ["Hi.<|im_end|>", "Hi.<|im_end|>"]);
        let report = data.report();
        assert_eq!((report.empty_answers, report.without_answer), (2, 1), "{report}");
        assert!(report.skipped[0].place.ends_with(":1") && report.noticed[0].place.ends_with(":2"), "{report:?}");
    }
    // An answer of only a thought, which the template omits, is empty too.
    let (_folder, path) = file(&[chat(&[("user", "Hello"), ("assistant", "<think>Hm.</think>")])]);
    let error = read(&model(DROPS_THOUGHTS), &path, &DataOptions::default()).expect_err("refused");
    assert!(matches!(error, Error::Row { source, .. } if matches!(*source, Error::EmptyAnswer { index: 1 })));
}

#[test]
fn a_template_that_rewrites_earlier_turns_needs_last_or_each() {
    let talk = chat(&[("user", "Hello"), ("assistant", "Hi."), ("user", "How are you?"), ("assistant", "Well.")]);
    let open = chat(&[("user", "Hello"), ("assistant", "Hi."), ("user", "How are you?")]);
    let (_folder, path) = file(&[talk.clone(), chat(&[("user", "Hello"), ("assistant", "Hi.")]), open]);
    let think = model(THINK);
    let with =
        |turns| DataOptions { encode: EncodeOptions { turns, ..EncodeOptions::default() }, ..DataOptions::default() };
    let last = read(&think, &path, &with(TrainedTurns::Last)).expect("samples");
    assert_eq!(texts(&think, &last), ["Well.<|im_end|>", "Hi.<|im_end|>", "Hi.<|im_end|>"]);
    assert_eq!(
        whole(&think, &last.samples()[0]),
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nHow are you?<|im_end|>\n\
         <|im_start|>assistant\n<think>\n\n</think>\n\nWell.<|im_end|>\n"
    );
    let error = read(&think, &path, &with(TrainedTurns::All)).expect_err("refused");
    let Error::Row { place, source } = &error else { panic!("{error}") };
    assert!(
        place.row == 1
            && matches!(**source, Error::Model(pv_model::Error::Template(TemplateError::PrefixChanged { index: 1 }))),
        "{source}"
    );
    let each = read(&think, &path, &with(TrainedTurns::Each)).expect("samples");
    assert_eq!(texts(&think, &each), ["Hi.<|im_end|>", "Well.<|im_end|>", "Hi.<|im_end|>", "Hi.<|im_end|>"]);
    assert_eq!((each.report().conversations, each.place(1).expect("a place").row), (3, 1));
    assert!(whole(&think, &each.samples()[0]).ends_with("<think>\n\n</think>\n\nHi.<|im_end|>\n"));
    // One answer with a weight counts like the last one.
    let mut weighed = talk.clone();
    weighed["messages"][1]["weight"] = json!(0);
    let (_folder, path) = file(&[weighed]);
    assert_eq!(texts(&think, &read(&think, &path, &with(TrainedTurns::All)).expect("samples")), ["Well.<|im_end|>"]);
    // If the template renders earlier turns unchanged, `Last` keeps the whole text, and `Each` trains the same tokens.
    let conversation: Conversation = serde_json::from_value(talk).expect("a conversation");
    let plain = model(CHATML);
    let encode =
        |turns| Sample::from_conversation(&plain, &conversation, &EncodeOptions { turns, ..EncodeOptions::default() });
    assert_eq!(encode(TrainedTurns::Last).expect("a sample").ids(), encode(TrainedTurns::All).expect("a sample").ids());
    assert!(matches!(encode(TrainedTurns::Each), Err(Error::BadOption { name: "turns", .. })));
}

#[test]
fn lists_of_parts_are_trained_where_the_template_reads_them() {
    let parts = |texts: &[&str]| texts.iter().map(|text| json!({"type": "text", "text": text})).collect::<Vec<_>>();
    let row = json!({"messages": [{"role": "user", "content": parts(&["Hello", " you"])},
        {"role": "assistant", "content": parts(&["Hi", " there."])}]});
    let (_folder, path) = file(&[row]);
    let tools = model(TOOLS);
    let data = read(&tools, &path, &DataOptions::default()).expect("samples");
    assert_eq!(texts(&tools, &data), ["Hi there.<|im_end|>"]);
    assert!(whole(&tools, &data.samples()[0]).contains("user\nHello you<|im_end|>"));
    for template in [CHATML, "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"]
    {
        let error = read(&model(template), &path, &lenient(EncodeOptions::default())).expect_err("refused");
        assert!(error.to_string().contains("1 refused by the chat template"), "{error}");
    }
}

#[test]
fn variables_of_a_row_and_of_the_options_reach_the_template() {
    let template = "{% if tone %}<|im_start|>system\nBe {{ tone }}.<|im_end|>\n{% endif %}".to_owned() + CHATML;
    let mut own = chat(&[("user", "Hello"), ("assistant", "Hi.")]);
    own["chat_template_kwargs"] = json!({"tone": "kind"});
    let (_folder, path) = file(&[own, chat(&[("user", "Hello"), ("assistant", "Hi.")])]);
    let model = model(&template);
    let render = RenderOptions {
        variables: [("tone".to_owned(), json!("brief"))].into_iter().collect(),
        ..RenderOptions::default()
    };
    let options =
        DataOptions { encode: EncodeOptions { render, ..EncodeOptions::default() }, ..DataOptions::default() };
    let data = read(&model, &path, &options).expect("samples");
    let begins = |index: usize, text: &str| assert!(whole(&model, &data.samples()[index]).contains(text));
    begins(0, "Be kind.");
    begins(1, "Be brief.");
    // Settings are saved as JSON.
    let kept = serde_json::to_string(&options).expect("JSON");
    assert_eq!(serde_json::from_str::<DataOptions>(&kept).expect("options"), options);
    assert_eq!(serde_json::from_str::<DataOptions>("{}").expect("options"), DataOptions::default());
}

#[test]
fn samples_are_at_most_as_long_as_the_positions() {
    let model = model(CHATML);
    let positions = model.config().max_positions;
    let long = "word ".repeat(positions);
    let (_folder, path) =
        file(&[chat(&[("user", "Hello"), ("assistant", &long)]), chat(&[("user", "Hello"), ("assistant", "Hi.")])]);
    let with = |long| {
        let encode = EncodeOptions { max_length: usize::MAX, ..EncodeOptions::default() };
        read(&model, &path, &DataOptions { encode, long, ..DataOptions::default() })
    };
    let cut = with(LongSamples::Cut).expect("samples");
    assert_eq!((cut.samples()[0].ids().len(), cut.report().cut), (positions, 1));
    assert_eq!(cut.report().positions, Some(positions));
    assert!(cut.report().to_string().contains(&format!("the model's {positions} positions")));
    let left_out = with(LongSamples::Skip).expect("samples");
    assert_eq!((left_out.samples().len(), left_out.report().too_long), (1, 1));
    let refused = with(LongSamples::Refuse).expect_err("refused");
    assert!(
        matches!(refused, Error::Row { source, .. } if matches!(*source, Error::TooLong { max_length, .. } if max_length == positions))
    );
    let sample = Sample::new(vec![1; positions + 1], (0..=positions).map(|at| at > 0).collect()).expect("a sample");
    let error =
        pv_train::trainer::mean_loss(model.decoder(), &[sample], 1, &mut pv_hooks::NoHook).expect_err("refused");
    assert!(matches!(error, Error::BeyondPositions { sample: 0, .. }), "{error}");
}
