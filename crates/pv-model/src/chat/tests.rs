use std::path::PathBuf;

use serde_json::json;

use super::*;

mod jinja2;
mod language;
mod placing;

fn fixtures() -> PathBuf {
    PathBuf::from("tests/fixtures/chat")
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// A template of the fixtures, with its special tokens.
fn named(cases: &Value, name: &str) -> ChatTemplate {
    let source = fs::read_to_string(fixtures().join(format!("templates/{name}.jinja"))).unwrap();
    ChatTemplate::from_source(source, object(cases["tokens"][name].clone())).unwrap()
}

fn cases() -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("cases.json")).unwrap()).unwrap()
}

fn chat(cases: &Value, name: &Value) -> Vec<Message> {
    serde_json::from_value(cases["chats"][name.as_str().unwrap()].clone()).unwrap()
}

/// The fault of an outcome, given the outcome of the real Jinja.
fn difference(outcome: &Result<Rendered, TemplateError>, expected: &Value) -> Option<String> {
    let agrees = match outcome {
        Ok(rendered) => {
            let spans: Vec<[usize; 2]> = rendered.generation_spans.iter().map(|span| [span.start, span.end]).collect();
            expected["text"] == rendered.text.as_str() && expected["generation_spans"] == json!(spans)
        }
        Err(TemplateError::Raised { message } | TemplateError::SystemRoleRefused { message }) => {
            expected["raised"] == message.as_str()
        }
        Err(TemplateError::Failed { .. } | TemplateError::Syntax { .. }) => expected.get("failed").is_some(),
        Err(_) => false,
    };
    (!agrees).then(|| format!("\n  expected {expected}\n  got      {outcome:?}"))
}

#[test]
fn the_templates_of_real_models_render_as_jinja_renders_them() {
    let cases = cases();
    let now = cases["now"].as_str().unwrap().parse().unwrap();
    let mut wrong = Vec::new();
    for case in cases["cases"].as_array().unwrap() {
        let template = named(&cases, case["template"].as_str().unwrap());
        let options = RenderOptions {
            add_generation_prompt: case["prompt"] == true,
            variables: object(case["variables"].clone()),
            now: Some(now),
            ..RenderOptions::default()
        };
        let outcome = template.render(&chat(&cases, &case["chat"]), &options);
        wrong.extend(
            difference(&outcome, &case["expected"]).map(|text| format!("{}/{}{text}", case["template"], case["chat"])),
        );
    }
    assert!(wrong.is_empty(), "{} wrong: {}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_language_is_that_of_jinja_and_python() {
    let cases = cases();
    let messages = chat(&cases, &cases["snippet_chat"]);
    let options = RenderOptions {
        variables: object(cases["snippet_variables"].clone()),
        now: Some(cases["now"].as_str().unwrap().parse().unwrap()),
        ..RenderOptions::default()
    };
    let mut wrong = Vec::new();
    for snippet in cases["snippets"].as_array().unwrap() {
        let source = snippet["source"].as_str().unwrap();
        let outcome = ChatTemplate::from_source(source, object(cases["snippet_tokens"].clone()))
            .and_then(|template| template.render(&messages, &options));
        wrong.extend(difference(&outcome, &snippet["expected"]).map(|text| format!("{source}{text}")));
    }
    assert!(wrong.is_empty(), "{} wrong: {}", wrong.len(), wrong.join("\n"));
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_source(source, Map::new()).unwrap()
}

fn text(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    template(source).render(messages, &RenderOptions::default()).map(|rendered| rendered.text)
}

/// An empty folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pv-model-chat-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("additional_chat_templates")).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.0.join(file), content).unwrap();
    }

    fn load(&self) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::from_folder(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_keeps_its_templates_in_one_of_three_places() {
    let folder = Folder::new("places");
    let error = folder.load().unwrap_err();
    assert!(matches!(&error, TemplateError::NotFound { folder: named } if *named == folder.0), "{error}");
    folder.write("tokenizer_config.json", r#"{"chat_template": null}"#);
    assert!(matches!(folder.load(), Err(TemplateError::NotFound { .. })));

    folder.write(
        "tokenizer_config.json",
        r#"{"chat_template": "{{ bos_token }}1{{ eos_token }}", "bos_token": {"content": "<b>"}, "eos_token": "</b>"}"#,
    );
    let render = |options: &RenderOptions| folder.load().unwrap().render(&[], options).map(|rendered| rendered.text);
    assert_eq!(render(&RenderOptions::default()).unwrap(), "<b>1</b>");

    folder.write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "2"}, {"name": "tool_use", "template": "3"},
            {"name": "broken", "template": "{% if %}"}]}"#,
    );
    let mut options = RenderOptions::default();
    assert_eq!(render(&options).unwrap(), "2");
    options.variables = object(json!({"tools": []}));
    assert_eq!(render(&options).unwrap(), "3");
    options.template_name = Some("broken".to_owned());
    assert!(matches!(render(&options), Err(TemplateError::Syntax { name, .. }) if name == "broken"));
    options.template_name = Some("rag".to_owned());
    let error = render(&options).unwrap_err();
    assert_eq!(error.to_string(), "unknown chat template `rag`, expected one of: broken, default, tool_use");

    folder.write("additional_chat_templates/rag.jinja", "5");
    folder.write("chat_template.jinja", "4");
    assert_eq!(render(&options).unwrap(), "5");
    assert_eq!(render(&RenderOptions::default()).unwrap(), "4");
    assert_eq!(folder.load().unwrap().source("default"), Some("4"));
}

#[test]
fn a_system_message_is_named_when_it_is_what_a_template_refuses() {
    let cases = cases();
    let options = RenderOptions::default();
    let with_system = [Message::system("Be brief."), Message::user("Hi")];
    for name in ["gemma2", "mistral-v0.1"] {
        let error = named(&cases, name).render(&with_system, &options).unwrap_err();
        assert!(matches!(error, TemplateError::SystemRoleRefused { .. }), "{name}: {error}");
    }
    let twice = [Message::system("Be brief."), Message::user("Hi"), Message::user("Hi")];
    let error = named(&cases, "gemma2").render(&twice, &options).unwrap_err();
    assert!(matches!(&error, TemplateError::Raised { message } if message == "System role not supported"), "{error}");
}

#[test]
fn templates_that_would_not_end_are_stopped() {
    let runaway = [
        "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s=1) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=1) %}{% for i in range(9999) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 999999999999 }}",
    ];
    for source in runaway {
        let error = text(source, &[]).unwrap_err();
        assert!(matches!(error, TemplateError::Runaway { .. }), "{source}: {error}");
    }
    let long_chain = format!("{{{{ 1{} }}}}", "~1".repeat(9999));
    assert_eq!(text(&long_chain, &[]).unwrap(), "1".repeat(10_000));
    for piece in ["(", "not ", "-", "[", "1 if 1 else ", "{% if 1 %}", "{% for x in y %}", "{{", "{%"] {
        let _ = ChatTemplate::from_source(format!("{{{{ {}", piece.repeat(1000)), Map::new());
        let _ = ChatTemplate::from_source(piece.repeat(1000), Map::new());
    }
}

#[test]
fn the_date_is_an_argument() {
    let source = "{{ strftime_now('%Y') if strftime_now is defined else 'none' }}";
    assert_eq!(text(source, &[]).unwrap(), "none");
    assert!(matches!(text("{{ strftime_now('%Y') }}", &[]), Err(TemplateError::NeedsClock)));
    let options = RenderOptions { now: Some(jiff::civil::date(2031, 1, 2).at(3, 4, 5, 0)), ..RenderOptions::default() };
    assert_eq!(template(source).render(&[], &options).unwrap().text, "2031");
    assert!(matches!(template("{{ strftime_now('%') }}").render(&[], &options), Err(TemplateError::Failed { .. })));
}

#[test]
fn the_final_message_can_be_continued() {
    let cases = cases();
    let messages = [Message::user("Hi"), Message::assistant(" Sure, ")];
    let options = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
    let open = |name: &str| named(&cases, name).render(&messages, &options).map(|rendered| rendered.text);
    assert!(open("smollm2").unwrap().ends_with("<|im_start|>assistant\n Sure, "));
    assert!(open("llama2").unwrap().ends_with(" [/INST] Sure,"));
    let template = named(&cases, "smollm2");
    assert!(matches!(template.render(&[], &options), Err(TemplateError::NothingToContinue)));
    let both = RenderOptions { add_generation_prompt: true, ..options.clone() };
    assert!(matches!(template.render(&messages, &both), Err(TemplateError::NothingToContinue)));
    let last = self::template("{{ messages[0].content }}").render(&messages, &options);
    assert!(matches!(last, Err(TemplateError::AnswerNotFound { index: 1 })));
}

/// The answers that the spans of a conversation cover.
fn answers(template: &ChatTemplate, messages: &[Message]) -> Result<Vec<String>, TemplateError> {
    let options = RenderOptions::default();
    let text = template.render(messages, &options)?.text;
    let spans = assistant_spans(template, messages, &options)?;
    Ok(spans.into_iter().map(|span| text[span].to_owned()).collect())
}

#[test]
fn answers_are_found_in_every_template() {
    let cases = cases();
    let messages = [
        Message::user("assistant"),
        Message::assistant("assistant"),
        Message::user("b"),
        Message::assistant(" naïve\n<|im_end|>0 "),
    ];
    for name in cases["tokens"].as_object().unwrap().keys() {
        let template = named(&cases, name);
        let found = answers(&template, &messages);
        if name == "qwen3" {
            assert!(matches!(found, Err(TemplateError::PrefixChanged { index: 1 })), "{found:?}");
            let found = answers(&template, &messages[..2]).unwrap();
            assert_eq!(found, ["assistant"]);
            continue;
        }
        let found = found.unwrap();
        assert_eq!(found[0], "assistant", "{name}");
        assert_eq!(found[1].trim(), messages[3].content.trim(), "{name}");
    }
    assert!(answers(&named(&cases, "smollm2"), &[Message::user("a")]).unwrap().is_empty());
}

#[test]
fn reasoning_belongs_to_the_answer() {
    let cases = cases();
    let template = named(&cases, "qwen3");
    let verbatim = "<think>\nTwo and two.\n</think>\n\nFour.";
    let found = answers(&template, &[Message::user("2+2?"), Message::assistant(verbatim)]).unwrap();
    assert_eq!(found, [verbatim]);
    let found = answers(&template, &[Message::user("2+2?"), Message::assistant("<think>Hm.</think>Four.")]).unwrap();
    assert_eq!(found, ["<think>\nHm.\n</think>\n\nFour."]);
}

#[test]
fn an_answer_that_is_not_in_the_text_is_an_error() {
    let messages = [Message::user("a"), Message::assistant("b")];
    let found = answers(&template("{{ messages[0].content }}"), &messages);
    assert!(matches!(found, Err(TemplateError::AnswerNotFound { index: 1 })), "{found:?}");
    // A template whose probes differ inside a character must not split it.
    let found = answers(&template("{{ {'0': 'é', '1': 'è'}.get(messages[1].content, 'ê') }}"), &messages);
    assert_eq!(found.unwrap(), ["ê"]);
}

#[test]
fn content_is_never_template_syntax() {
    for content in
        ["{{ 7 * 7 }}", "{% raw %}", "{# c #}", "{% generation %}x{% endgeneration %}", "\u{fdd0}", "<s>\0\r\n"]
    {
        let source = "{% for m in messages %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endfor %}";
        let rendered = template(source).render(&[Message::user(content)], &RenderOptions::default()).unwrap();
        assert_eq!(rendered.text, format!("[{content}]"));
        assert_eq!(rendered.generation_spans.first(), Some(&(1..1 + content.len())));
    }
}

mod arbitrary {
    use proptest::prelude::*;

    use super::*;

    /// Text with pieces that could confuse a template.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "-",
            "+",
            " ",
            "\n",
            "'",
            "\"",
            "\\",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ".",
            "|",
            "raw",
            "endraw",
            "generation",
            "endgeneration",
            "set",
            "=",
            "ns.x",
            "namespace()",
            "for",
            "in",
            "messages",
            "endfor",
            "if",
            "endif",
            "content",
            "tojson",
            "trim",
            "1",
            "é",
            "<|im_end|>",
            "macro",
            "call",
            "endcall",
            ":",
        ]);
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn templates_never_panic(source in prop_oneof![pieces(), any::<String>()], content in any::<String>()) {
            if let Ok(template) = ChatTemplate::from_source(source, Map::new()) {
                let messages = [Message::user(content.clone()), Message::assistant(content)];
                let _ = template.render(&messages, &RenderOptions::prompt());
                let _ = assistant_spans(&template, &messages, &RenderOptions::default());
            }
        }

        #[test]
        fn content_is_rendered_verbatim(
            content in prop_oneof![pieces(), any::<String>()],
            answer in prop_oneof![pieces(), any::<String>()],
        ) {
            let source = "{% for m in messages %}<{{ m.role }}>\n{% generation %}{{ m.content }}{% endgeneration %}<end>\n{% endfor %}";
            let messages = [Message::user(content.clone()), Message::assistant(answer.clone())];
            let template = template(source);
            let rendered = template.render(&messages, &RenderOptions::default()).unwrap();
            prop_assert_eq!(&rendered.text, &format!("<user>\n{content}<end>\n<assistant>\n{answer}<end>\n"));
            let spans = assistant_spans(&template, &messages, &RenderOptions::default()).unwrap();
            prop_assert_eq!(&rendered.text[spans[0].clone()], answer.as_str());
        }
    }

    #[test]
    fn configurations_never_panic() {
        let folder = Folder::new("arbitrary");
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
        let config = prop_oneof![
            any::<String>(),
            any::<String>().prop_map(|text| json!({ "chat_template": text, "bos_token": text }).to_string()),
            any::<String>()
                .prop_map(|text| json!({ "chat_template": [{ "name": text }], "eos_token": [text] }).to_string()),
            any::<i64>().prop_map(|number| json!({ "chat_template": number, "bos_token": number }).to_string()),
        ];
        let outcome = runner.run(&config, |config| {
            folder.write("tokenizer_config.json", &config);
            let _ =
                folder.load().and_then(|template| template.render(&[Message::user("a")], &RenderOptions::default()));
            Ok(())
        });
        outcome.unwrap();
    }
}
