//! Render options: stored fields, and the placement of system text.

use super::*;

/// The case tpl_system_refused: a template that rejects every other role in the first position.
const USER_FIRST: &str = "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
    {{ raise_exception('Roles must take turns, user first') }}{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}\
    {% if add_generation_prompt %}<assistant>{% endif %}";

fn in_user_turn() -> RenderOptions {
    RenderOptions { system: SystemText::FirstUserTurn, ..RenderOptions::default() }
}

#[test]
fn system_text_can_stand_in_the_first_user_turn() {
    let template = template(USER_FIRST);
    let talk = [Message::system("Be brief."), Message::user("Hi"), Message::assistant("Yes."), Message::user("Why?")];
    let error = template.render(&talk, &RenderOptions::default()).unwrap_err();
    assert!(matches!(error, TemplateError::SystemRoleRefused { .. }), "{error}");
    assert!(error.to_string().contains("first_user_turn"), "{error}");
    let text = |messages: &[Message], options: &RenderOptions| template.render(messages, options).unwrap().text;
    let expected = "<user>Be brief.\n\nHi<assistant>Yes.<user>Why?";
    assert_eq!(text(&talk, &in_user_turn()), expected);
    assert_eq!(text(&talk, &in_user_turn().as_prompt()), format!("{expected}<assistant>"));
    let twice = [Message::system("a"), Message::system("b"), Message::user("c")];
    assert_eq!(text(&twice, &in_user_turn()), "<user>a\n\nb\n\nc");
    assert_eq!(text(&[Message::system("a"), Message::assistant("b")], &in_user_turn()), "<user>a<assistant>b");
    assert_eq!(text(&[Message::system("a")], &in_user_turn()), "<user>a");
    // Only system messages at the start of a conversation.
    let later = [Message::user("a"), Message::system("b")];
    assert_eq!(text(&later, &in_user_turn()), "<user>a<system>b");
    // The same placement in training: answers are located correctly.
    let spans = assistant_spans(&template, &talk, &in_user_turn()).unwrap();
    assert_eq!(&expected[spans[0].clone()], "Yes.");
    let open = RenderOptions { continue_final_message: true, ..in_user_turn() };
    assert_eq!(text(&talk[..3], &open), "<user>Be brief.\n\nHi<assistant>Yes.");
}

#[test]
fn options_are_saved_without_what_is_default() {
    let saved = |options: &RenderOptions| serde_json::to_value(options).unwrap();
    assert_eq!(saved(&RenderOptions::prompt()), json!({}));
    assert!(RenderOptions::prompt().is_default());
    let options = RenderOptions {
        template_name: Some("rag".to_owned()),
        variables: object(json!({"enable_thinking": false})),
        now: Some(jiff::civil::date(2025, 7, 29).at(12, 0, 0, 0)),
        ..in_user_turn()
    };
    assert!(!options.is_default());
    let file = json!({
        "template_name": "rag", "variables": {"enable_thinking": false}, "now": "2025-07-29T12:00:00",
        "system": "first_user_turn",
    });
    assert_eq!(saved(&options), file);
    assert_eq!(serde_json::from_value::<RenderOptions>(file).unwrap(), options);
    assert_eq!(saved(&options.as_prompt()), saved(&options));
    assert!(options.as_prompt().add_generation_prompt && !options.as_prompt().closed().add_generation_prompt);
    let date: RenderOptions = serde_json::from_value(json!({"now": "2025-07-29"})).unwrap();
    assert_eq!(date.now, Some(jiff::civil::date(2025, 7, 29).at(0, 0, 0, 0)));
    for (file, told) in [
        (json!({"now": "today"}), "`now` is not an ISO date"),
        (json!({"system": "nowhere"}), "unknown variant"),
        (json!({"enable_thinking": false}), "unknown field `enable_thinking`"),
    ] {
        let error = serde_json::from_value::<RenderOptions>(file).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[test]
fn variables_reach_the_template() {
    // The case tpl_think.
    let template = template(
        "{{ messages[0].content }}|{% if enable_thinking is defined and enable_thinking is false %}<think>{% endif %}",
    );
    let options = RenderOptions { variables: object(json!({"enable_thinking": false})), ..RenderOptions::default() };
    let text = |options: &RenderOptions| template.render(&[Message::user("Hi")], options).unwrap().text;
    assert_eq!(text(&RenderOptions::default()), "Hi|");
    assert_eq!(text(&options), "Hi|<think>");
}
