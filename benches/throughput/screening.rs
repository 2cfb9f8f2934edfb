//! Short chats: screening data sets of them from their file to the table, and rendering.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::Instant;

use pv_data::Conversation;
use pv_data::conversations::write_conversations;
use pv_examples::Result;
use pv_hooks::Layer;
use pv_model::tokenizer::AddSpecial;
use pv_model::{CausalLm, Message, RenderOptions};
use pv_screen::base_answers::{BaseAnswers, BaseOptions};
use pv_screen::sample::tokens;
use pv_screen::screen::Base;
use pv_screen::{Screen, ScreenOptions};
use pv_vectors::{TraitDirection, UnitDirection};

use crate::measured::{Measured, wave};

/// The most tokens of a base answer.
const NEW: usize = 64;
/// So many base answers are generated together, by the peer too.
const TOGETHER: usize = 16;
/// So often is a conversation rendered.
const RENDERINGS: usize = 500;
const WORDS: [&str; 32] = [
    "river", "garden", "letter", "winter", "music", "stone", "village", "bread", "doctor", "window", "forest", "money",
    "teacher", "horse", "kitchen", "island", "summer", "paper", "bridge", "mother", "honest", "cruel", "gentle",
    "ancient", "green", "sudden", "writes", "carries", "forgets", "answers", "breaks", "follows",
];

/// A question of 7 to 16 words and an answer of 12 to 71; the peer's script makes the same.
fn chat(number: usize) -> Conversation {
    let mut state = number as u32;
    let mut words = |start: &str, count: usize, end: char| {
        let mut text = start.to_owned();
        for _ in 0..count {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let _ = write!(text, " {}", WORDS[(state >> 16) as usize % WORDS.len()]);
        }
        text.push(end);
        text
    };
    let question = words("Please tell me about", 3 + number * 5 % 10, '?');
    let answer = words("The", 11 + number * 29 % 60, '.');
    Conversation::new([Message::user(question), Message::assistant(answer)])
}

/// So many chats' ΔP at the middle layer or, without base answers, their projections. The check is the mean; tokens are those
/// of prompts, answers and base answers.
pub(crate) fn screening(model: &CausalLm, chats: usize, difference: bool) -> Result<Measured> {
    let middle = Layer::hidden_state(model.config().layers / 2);
    let values: Vec<f64> = wave(model).into_iter().map(f64::from).collect();
    let direction = TraitDirection { trait_name: "wave".to_owned(), direction: UnitDirection::new(middle, &values)? };
    let label = direction.label();
    let answers = BaseOptions { max_new_tokens: NEW, batch_size: TOGETHER, ..BaseOptions::default() };
    let base = if difference { Base::Every } else { Base::None };
    let options = ScreenOptions { base, answers: answers.clone(), ..ScreenOptions::default() };
    let chats: Vec<Conversation> = (0..chats).map(chat).collect();
    let place = tempfile::tempdir()?;
    let (input, out) = (place.path().join("chats.jsonl"), place.path().join("out"));
    write_conversations(&input, &chats)?;
    let start = Instant::now();
    let summary = Screen::new(model, &[direction], &options)?.run(&[&input], &out, |_| ControlFlow::Continue(()))?;
    let seconds = start.elapsed().as_secs_f64();
    let mut read = 0;
    for chat in &chats {
        let sample = tokens(model, &chat.messages).map_err(|skip| skip.to_string())?;
        read += sample.prompt.len() + sample.answer.len();
    }
    let check = if difference {
        let mut kept = BaseAnswers::open(model, &out.join("base"), &answers, &[middle])?;
        for chat in &chats {
            let prompt = chat.first(1).id();
            read += kept.tokens(&prompt)?.ok_or("a chat has no base answer")?.len();
        }
        summary.delta(&label).map(|found| found.value)
    } else {
        summary.directions.get(&label).and_then(|found| found.answer)
    };
    Ok(Measured { tokens: read, seconds, check: Some(check.ok_or("a screening without a result")?) })
}

/// A conversation of a system prompt and 20 turns through the model's chat template, [`RENDERINGS`] times; tokens are those of all
/// renderings, which nobody encodes in this time. The check is the number of characters.
pub(crate) fn rendering(model: &CausalLm) -> Result<Measured> {
    let turns = (0..10).flat_map(|number| chat(number).messages);
    let messages: Vec<Message> = [Message::system("You are a helpful assistant.")].into_iter().chain(turns).collect();
    let (template, options) = (model.chat_template()?, RenderOptions::default());
    let start = Instant::now();
    let mut text = String::new();
    for _ in 0..RENDERINGS {
        text = std::hint::black_box(template.render(&messages, &options)?.text);
    }
    let seconds = start.elapsed().as_secs_f64();
    let tokens = RENDERINGS * model.tokenizer()?.encode(&text, AddSpecial::No)?.len();
    Ok(Measured { tokens, seconds, check: Some(text.chars().count() as f64) })
}
