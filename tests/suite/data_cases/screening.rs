//! Screening follows the same rules as training.

use std::ops::ControlFlow;

use pv_data::Conversation;
use pv_data::conversations::Format;
use pv_hooks::Layer;
use pv_model::Message;
use pv_model::chat::Unwritten;
use pv_screen::base_answers::BaseOptions;
use pv_screen::sample::{ReadingOptions, Skip, Turns, tokens_with};
use pv_screen::scores::{ScoreRow, read_scores};
use pv_screen::screen::{Base, NOTICED, SKIPPED};
use pv_screen::{Screen, ScreenOptions, Summary};
use pv_vectors::TraitDirection;

use super::*;

fn directions(model: &CausalLm) -> Vec<TraitDirection> {
    let values: Vec<f64> = (0..model.config().d_model).map(|i| ((i * i) as f64 * 0.7).sin()).collect();
    let direction = pv_vectors::UnitDirection::new(Layer::hidden_state(5), &values).expect("a direction");
    vec![TraitDirection { trait_name: "made up".to_owned(), direction }]
}

fn options(base: Base) -> ScreenOptions {
    let answers = BaseOptions { max_new_tokens: 6, ..BaseOptions::default() };
    ScreenOptions { base, answers, ..ScreenOptions::default() }
}

fn screen(model: &CausalLm, path: &Path, out: &Path, options: &ScreenOptions) -> (Summary, Vec<ScoreRow>) {
    let screen = Screen::new(model, &directions(model), options).expect("a screening");
    let summary = screen.run(&[path], out, |_| ControlFlow::Continue(())).expect("a summary");
    let mut rows = Vec::new();
    let kept = read_scores(&out.join(pv_screen::screen::SCORES), |row| {
        rows.push(row);
        Ok(())
    });
    kept.expect("a table");
    (summary, rows)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn training_and_screening_skip_the_same_rows() {
    let mut weightless = chat(&[("user", "Hello"), ("assistant", "Hi.")]);
    weightless["messages"][1]["weight"] = json!(0);
    let rows = [
        chat(&[("user", "Hello"), ("assistant", "Hi.")]),
        chat(&[("user", "Hello"), ("assistant", "  ")]),
        weightless,
        chat(&[("developer", "Answer in verse."), ("user", "Hello"), ("assistant", "Hi.")]),
        json!({"messages": calling(json!(""))}),
        chat(&[("user", "2 + 2?"), ("assistant", "<think>Hm.</think>Four.")]),
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": -1}]}),
    ];
    let (folder, path) = file(&rows);
    let template = SKIPS_ROLES.replace("m['content'] +", "m['content'].split('</think>')[-1] +");
    let model = model(&template);
    let options = ScreenOptions { turns: Turns::Last, ..options(Base::None) };
    let (summary, found) = screen(&model, &path, &folder.path().join("out"), &options);
    assert_eq!(found.iter().map(|row| row.place.row).collect::<Vec<_>>(), [1, 6]);
    let skipped = lines(&folder.path().join("out").join(SKIPPED));
    let listed: Vec<(u64, &str)> = skipped
        .iter()
        .map(|line| (line["row"].as_u64().expect("a row"), line["reason"].as_str().expect("why")))
        .collect();
    let expected = [(2, "empty_answer"), (3, "untrained"), (4, "unwritten"), (5, "unwritten"), (7, "bad_row")];
    assert_eq!(listed, expected);
    assert_eq!(summary.noticed.get("altered"), Some(&1));
    let noticed = lines(&folder.path().join("out").join(NOTICED));
    assert_eq!((noticed.len(), noticed[0]["row"].as_u64()), (1, Some(6)));
    assert_eq!(summary.formats.get(Format::Messages), 6);
    let turns = TrainedTurns::Last;
    let data = read(&model, &path, &lenient(EncodeOptions { turns, ..EncodeOptions::default() })).expect("samples");
    let trained: Vec<u64> = (0..data.samples().len()).filter_map(|at| Some(data.place(at)?.row)).collect();
    assert_eq!(trained, [1, 6]);

    // As rendered, if that is requested.
    let reading =
        ReadingOptions { unwritten: Unwritten::Keep, altered: Unwritten::Refuse, ..ReadingOptions::default() };
    let options = ScreenOptions { reading, ..options };
    let (summary, found) = screen(&model, &path, &folder.path().join("kept"), &options);
    assert_eq!(found.iter().map(|row| row.place.row).collect::<Vec<_>>(), [1, 4, 5]);
    assert_eq!((summary.noticed["unwritten"], summary.skipped["altered"]), (3, 1));
}

#[test]
fn every_answer_of_a_thinking_template_is_screened() {
    let talk = chat(&[("user", "Hello"), ("assistant", "Hi."), ("user", "How are you?"), ("assistant", "Well.")]);
    let (folder, path) = file(&[talk]);
    let think = model(THINK);
    let (summary, rows) = screen(&think, &path, &folder.path().join("out"), &options(Base::Every));
    assert_eq!(rows.iter().map(|row| row.place.message).collect::<Vec<_>>(), [Some(1), Some(3)]);
    assert!(summary.skipped.is_empty());
    let thought = Message::assistant("Four.").with("reasoning_content", "Hm.");
    let conversation = Conversation::new([Message::user("2 + 2?"), thought]);
    let (found, _) = tokens_with(&think, &conversation, &ReadingOptions::default()).expect("tokens");
    let text = think.tokenizer().expect("a tokenizer").decode(&found.answer, false).expect("text");
    assert_eq!(text, "<think>\nHm.\n</think>\n\nFour.");
}

#[test]
fn screening_training_and_generation_use_the_same_prompt() {
    let tools = json!([{"type": "function", "function": {"name": "weather"}}]);
    let mut row = chat(&[("user", "How cold is Oslo?"), ("assistant", "Three below zero.")]);
    row["tools"] = tools.clone();
    row["system"] = json!("Be brief.");
    let (folder, path) =
        file(&[row.clone(), chat(&[("user", "How cold is Oslo?"), ("assistant", "Three below zero.")])]);
    let template = "{% if tone %}<|im_start|>system\nBe {{ tone }}.<|im_end|>\n{% endif %}".to_owned() + TOOLS;
    let model = model(&template);
    let variables = |tone: &str| -> Map<String, Value> { [("tone".to_owned(), json!(tone))].into_iter().collect() };
    let reading = |tone: &str| ReadingOptions {
        render: RenderOptions { variables: variables(tone), ..RenderOptions::default() },
        ..ReadingOptions::default()
    };
    let data = read(
        &model,
        &path,
        &DataOptions {
            encode: EncodeOptions { render: reading("kind").render, ..EncodeOptions::default() },
            ..DataOptions::default()
        },
    );
    let data = data.expect("samples");
    let mut row = pv_data::ConversationReader::new([&path]).expect("a file");
    let conversation = row.next().expect("a row").expect("a file").expect("a row").conversation;
    let (found, _) = tokens_with(&model, &conversation, &reading("kind")).expect("tokens");
    assert_eq!(found.prompt, data.samples()[0].ids()[..data.samples()[0].response().start]);
    let asked = RenderOptions {
        variables: variables("kind").into_iter().chain([("tools".to_owned(), tools)]).collect(),
        ..RenderOptions::prompt()
    };
    assert_eq!(model.prompt_with(&conversation.messages[..2], &asked).expect("a prompt"), found.prompt);

    // Base answers belong to their prompts, and are separate from those to other prompts; so are screenings.
    let cache = folder.path().join("cache");
    let with =
        |tone: &str| ScreenOptions { reading: reading(tone), cache: Some(cache.clone()), ..options(Base::Every) };
    let (kind, rows) = screen(&model, &path, &folder.path().join("kind"), &with("kind"));
    assert_eq!((rows.len(), kind.distinct, kind.options.reading.clone()), (2, 2, reading("kind")));
    let (_, others) = screen(&model, &path, &folder.path().join("stern"), &with("stern"));
    assert_ne!(rows[1].scores, others[1].scores);
    assert_eq!(std::fs::read_dir(&cache).expect("a folder").count(), 2, "one folder for each way of asking");
    let again = Screen::new(&model, &directions(&model), &with("stern")).expect("a screening");
    assert!(again.run(&[&path], &folder.path().join("kind"), |_| ControlFlow::Continue(())).is_err());
    // Options saved by earlier versions equal today's defaults.
    let saved = serde_json::to_value(options(Base::None)).expect("JSON");
    assert!(saved.get("reading").is_none() && saved.get("format").is_none());
    assert_eq!(serde_json::from_value::<ScreenOptions>(saved).expect("options"), options(Base::None));
}

#[test]
fn reasons_can_be_read_back() {
    for skip in [Skip::Untrained, Skip::Altered, Skip::EmptyAnswer] {
        let text = serde_json::to_string(&skip).expect("JSON");
        assert_eq!(serde_json::from_str::<Skip>(&text).expect("a reason"), skip);
        assert!(!skip.to_string().is_empty() && text.contains(skip.kind()));
    }
}
