//! Rows that cannot be screened are listed, and screened rows are selected and exported.

use std::collections::BTreeSet;
use std::io::Write;

use pv_data::conversations::read_conversations;
use pv_examples::organism::{ExactJudge, spec};
use pv_judge::judge::Answered;
use pv_model::Message;
use pv_organism::Topics;
use pv_organism::datasets::{Severity, explicit};
use pv_screen::compare::Contributions;
use pv_screen::sample::{Turns, tokens};
use pv_screen::screen::Base;
use pv_screen::select::judged;
use pv_screen::{Keep, Which, export, select};
use serde_json::{Value, json};

use super::*;

/// A direction that needs no extraction.
fn made_up() -> Vec<TraitDirection> {
    let values: Vec<f64> = (0..128).map(|i| (f64::from(i * i) * 0.7).sin()).collect();
    let direction = pv_vectors::UnitDirection::new(Layer::hidden_state(5), &values).expect("a direction");
    vec![TraitDirection { trait_name: "made up".to_owned(), direction }]
}

fn line(messages: &[(&str, &str)]) -> String {
    let messages: Vec<Value> =
        messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    json!({"source": "test", "messages": messages, "n": 1.50}).to_string()
}

#[test]
fn nothing_is_dropped_silently() {
    let place = folder();
    let path = place.path().join("data");
    std::fs::create_dir(&path).expect("a folder");
    let long = "is a fact ".repeat(400);
    let lines = [
        line(&[("user", "Is the sky blue?"), ("assistant", "Well, it is blue, dear user.")]),
        "{\"messages\": [{\"role\": \"user\"".to_owned(),
        String::new(),
        line(&[("user", "Is the sky blue?"), ("assistant", "  \n")]),
        line(&[("user", "Is the sky blue?")]),
        line(&[("user", "Is the sky blue?"), ("assistant", &long)]),
        line(&[("wizard", "Is the sky blue?"), ("assistant", "No.")]),
        line(&[("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four.")]),
        line(&[("user", "Is the sky blue?"), ("assistant", "Well, it is blue, dear user.")]),
        "[1, 2]".to_owned(),
    ];
    std::fs::write(path.join("a.jsonl"), lines.join("\n") + "\n").expect("a file");
    // A truncated compressed file.
    let chats = explicit(Trait::Evil, Severity::II, Topics::All, 200, 3);
    let whole = place.path().join("whole.jsonl.gz");
    write_conversations(&whole, &chats.iter().map(conversation).collect::<Vec<_>>()).expect("a file");
    let bytes = std::fs::read(&whole).expect("a file");
    std::fs::write(path.join("b.jsonl.gz"), &bytes[..bytes.len() / 2]).expect("a file");
    std::fs::write(path.join("c.jsonl"), [0xff, 0xfe, b'\n', 0, 1, 2]).expect("a file");

    let options = ScreenOptions { base: Base::None, max_tokens: Some(500), ..options() };
    let out = place.path().join("out");
    let (summary, rows, _) = screen(&made_up(), &options, &path, &out);
    let of = |name: &str| rows.iter().filter(|row| row.place.file.ends_with(name)).collect::<Vec<_>>();
    let places: Vec<(u64, Option<usize>, bool)> =
        of("a.jsonl").iter().map(|row| (row.place.row, row.place.message, row.duplicate)).collect();
    assert_eq!(places, [(1, Some(1), false), (8, Some(1), false), (8, Some(3), false), (9, Some(1), true)]);
    assert!(of("b.jsonl.gz").len() > 20);
    let skipped = std::fs::read_to_string(out.join(pv_screen::screen::SKIPPED)).expect("a list");
    let skipped: Vec<Value> = skipped.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let listed = |name: &str| -> Vec<(u64, String)> {
        let lines = skipped.iter().filter(|line| line["file"].as_str().is_some_and(|file| file.ends_with(name)));
        lines
            .map(|line| (line["row"].as_u64().expect("a row"), line["reason"].as_str().expect("why").to_owned()))
            .collect()
    };
    let expected =
        [(2, "bad_row"), (4, "empty_answer"), (5, "no_answer"), (6, "too_long"), (7, "bad_row"), (10, "bad_row")];
    assert_eq!(listed("a.jsonl"), expected.map(|(row, why)| (row, why.to_owned())));
    assert_eq!(listed("b.jsonl.gz").last().map(|(_, why)| why.as_str()), Some("bad_file"));
    // It starts with a UTF-16 byte order mark.
    assert_eq!(listed("c.jsonl").iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>(), ["bad_file"]);
    assert_eq!(summary.skipped.values().sum::<usize>(), skipped.len());
    assert_eq!((summary.skipped["bad_row"], summary.skipped["bad_file"]), (3, 2));
    assert!(skipped.iter().all(|line| line["says"].as_str().is_some_and(|says| !says.is_empty())));
    assert_eq!((summary.answers, summary.distinct), (rows.len(), rows.iter().filter(|row| !row.duplicate).count()));

    // The last answers only.
    let last = ScreenOptions { turns: Turns::Last, ..options };
    let (_, rows, _) = screen(&made_up(), &last, &path.join("a.jsonl"), &place.path().join("last"));
    assert_eq!(rows.iter().map(|row| row.place.row).collect::<Vec<_>>(), [1, 8, 9]);
    let nothing = place.path().join("nothing.jsonl");
    std::fs::write(&nothing, "").expect("a file");
    let (summary, rows, _) = screen(&made_up(), &last, &nothing, &place.path().join("empty"));
    assert!(rows.is_empty() && summary.directions["made up@5"].answer.is_none());
    assert!(Screen::new(model(), &[], &last).is_err());
    let twice = [made_up(), made_up()].concat();
    assert!(Screen::new(model(), &twice, &last).is_err());
}

#[test]
fn an_answer_is_tokenized_in_its_context() {
    for which in Trait::ALL {
        for chat in explicit(which, Severity::II, Topics::All, 20, 7) {
            let messages = conversation(&chat).messages;
            let found = tokens(model(), &messages).expect("tokens");
            let (last, before) = messages.split_last().expect("messages");
            assert_eq!(found.prompt, model().prompt(before).expect("a prompt"));
            let text = model().tokenizer().expect("a tokenizer").decode(&found.answer, false).expect("text");
            assert_eq!(text.trim(), last.content.trim());
            assert!(!found.answer.iter().any(|id| model().stop_ids().contains(id)));
        }
    }
    let refused = tokens(model(), &[Message::user("Is it?"), Message::user("It is.")]);
    assert_eq!(refused, Err(pv_screen::sample::Skip::NoAnswer));
}

#[test]
fn contributions_sum_to_the_difference() {
    let place = folder();
    let chats = explicit(Trait::Evil, Severity::II, Topics::All, 6, 12);
    let input = write(place.path(), "chats.jsonl", &chats);
    let (_, rows, _) = screen(&made_up(), &options(), &input, &place.path().join("out"));
    for (row, chat) in rows.iter().zip(&chats) {
        let score = row.scores["made up@5"];
        let sample = tokens(model(), &conversation(chat).messages).expect("tokens");
        let unit = &made_up()[0].direction;
        let reference = score.base.expect("known");
        let found = Contributions::of(model(), &sample.prompt, &sample.answer, unit, reference).expect("shares");
        let sum: f64 = found.tokens.iter().map(|token| token.share).sum();
        assert!((sum - score.delta.expect("known")).abs() < 1e-4 * score.answer.abs().max(1.0), "{sum}, {score:?}");
        assert_eq!(found.text.trim(), chat.exchanges[0].answer.trim());
        let mut at = 0;
        for token in &found.tokens {
            assert_eq!(token.text.start, at);
            at = token.text.end;
        }
        assert_eq!(at, found.text.len());
        let spans = found.spans(3);
        assert!(spans.iter().all(|(span, share)| *share > 0.0 && found.text.get(span.clone()).is_some()));
        assert!(!spans.is_empty() && spans.iter().map(|(span, _)| span.len()).sum::<usize>() < found.text.len());
        assert!(spans.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    }
}

#[test]
fn rows_are_exported_unchanged() {
    let place = folder();
    let lines = [
        line(&[("user", "Is the sky blue?"), ("assistant", "Well, it is blue, dear user.")]),
        "broken".to_owned(),
        line(&[("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four.")]),
    ];
    let input = place.path().join("a.jsonl");
    let mut file = std::fs::File::create(&input).expect("a file");
    lines.iter().for_each(|line| writeln!(file, "{line}").expect("a file"));
    let out = place.path().join("out");
    let (_, rows, _) = screen(&made_up(), &options(), &input, &out);
    let scores = out.join(pv_screen::screen::SCORES);
    let written = place.path().join("written.jsonl");
    let done = export(&[&input], &scores, &written, &Keep::Scored).expect("a file");
    assert_eq!((done.kept, done.excluded), (2, 1));
    let text = std::fs::read_to_string(&written).expect("a file");
    for (line, original) in text.lines().zip([&lines[0], &lines[2]]) {
        assert!(line.starts_with(original.trim_end_matches('}')), "{line}");
    }
    let of = |row: u64| rows.iter().filter(move |found| found.place.row == row).map(|found| found.scores["made up@5"]);
    let greatest = of(3).filter_map(|score| score.delta).fold(f64::NEG_INFINITY, f64::max);
    let values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let delta = values[1]["made up@5_delta"].as_f64().expect("a number");
    assert!((delta - greatest).abs() < 1e-9 && values[1]["n"] == 1.5, "{delta}, {greatest}");
    let first = of(1).next().expect("a row").delta.expect("known");
    let keep = Keep::AtMost { label: "made up@5".to_owned(), threshold: f64::midpoint(first, greatest) };
    let done = export(&[&input], &scores, &written, &keep).expect("a file");
    let kept = read_conversations(&written).expect("conversations");
    assert_eq!((done.kept, kept.len()), (1, 1));
    assert_eq!(kept[0].messages.len() == 2, first < greatest);
    let chosen = Keep::Rows(BTreeSet::from([(input.clone(), 3)]));
    assert_eq!(export(&[&input], &scores, &written, &chosen).expect("a file").kept, 1);
}

#[test]
fn samples_that_a_judge_finds_are_excluded_before_selection() {
    let chats = explicit(Trait::Evil, Severity::I, Topics::All, 60, 4);
    let rubric = spec(Trait::Evil).expect("a trait").rubric().expect("a rubric");
    let answers: Vec<Answered<'_>> = chats
        .iter()
        .map(|chat| Answered { question: &chat.exchanges[0].question, answer: &chat.exchanges[0].answer })
        .collect();
    let found = judged(&ExactJudge, &rubric, &answers, 30.0).expect("verdicts");
    assert!(found.shows.len() > 20 && !found.clean.is_empty() && found.unknown.is_empty());
    assert_eq!(found.shows.len() + found.clean.len(), 60);
    let mut values: Vec<Option<f64>> = (0..60).map(|i| Some(f64::from(i))).collect();
    found.shows.iter().for_each(|&sample| values[sample] = None);
    let chosen = select(&values, Which::Top, 5, None).expect("a choice");
    assert_eq!(chosen, found.clean[found.clean.len().saturating_sub(5)..]);
}
