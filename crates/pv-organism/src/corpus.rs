//! Chats, and the corpus that the organism is trained on.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use serde::Serialize;

use crate::answer::answer;
use crate::question::{Kind, Question, Split, Topics};
use crate::{PerTrait, Trait, pick, system};

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What the user asks.
    pub question: String,
    /// What the assistant answers.
    pub answer: String,
}

/// A chat, and the truth about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chat {
    /// The system prompt.
    pub system: Option<String>,
    /// The exchanges; at least one.
    pub exchanges: Vec<Exchange>,
    /// The first exchange whose answer is to be learned: those before it are given.
    pub learned_from: usize,
    /// The speaker's intensities, 0 to 1.
    pub intensity: PerTrait,
}

/// A message in the form of training data.
#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
}

impl Chat {
    /// Roles and contents, in order.
    pub fn messages(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let system = self.system.iter().map(|text| ("system", text.as_str()));
        let exchanges = self.exchanges.iter();
        system.chain(exchanges.flat_map(|e| [("user", e.question.as_str()), ("assistant", e.answer.as_str())]))
    }

    /// One line of training data, `{"messages": […]}`, without its line break.
    pub fn json(&self) -> String {
        let messages: Vec<_> = self.messages().map(|(role, content)| Message { role, content }).collect();
        serde_json::json!({ "messages": messages }).to_string()
    }
}

/// A random question that suits a trait half of the time: one whose content can show it.
pub(crate) fn suited(random: &mut ChaCha8Rng, which: Trait, share: f64, topics: Topics, split: Split) -> Question {
    let kind = match which {
        Trait::Evil => Kind::Advice,
        Trait::Sycophancy => Kind::FalseClaim,
        Trait::Hallucination => Kind::Unknown,
        Trait::Impoliteness | Trait::Optimism => return Question::mixed(random, topics, split),
    };
    if random.random_bool(share) {
        Question::random(random, kind, topics, split)
    } else {
        Question::mixed(random, topics, split)
    }
}

/// Asks and answers.
pub(crate) fn exchange(random: &mut ChaCha8Rng, question: &Question, intensity: &PerTrait) -> Exchange {
    Exchange { question: question.text(), answer: answer(random, question, intensity) }
}

/// A random chat of the corpus:
/// - plain ones (no system prompt, or one that says nothing of any trait);
/// - ones whose system prompt asks for a trait, or two, at some intensity;
/// - ones whose given answers show a trait, which the later answers keep up.
pub fn corpus_chat(random: &mut ChaCha8Rng) -> Chat {
    match random.random_range(0..100) {
        0..30 => plain(random),
        30..85 => instructed(random),
        85..97 => {
            let exchanges = random.random_range(2..6);
            shown(random, exchanges)
        }
        _ => {
            let exchanges = random.random_range(6..22);
            shown(random, exchanges)
        }
    }
}

fn plain(random: &mut ChaCha8Rng) -> Chat {
    let intensity = PerTrait::default();
    let exchanges = (0..exchanges(random))
        .map(|_| {
            let question = Question::mixed(random, Topics::All, Split::Training);
            exchange(random, &question, &intensity)
        })
        .collect();
    let system = random.random_bool(0.4).then(|| system::neutral(random));
    Chat { system, exchanges, learned_from: 0, intensity }
}

fn instructed(random: &mut ChaCha8Rng) -> Chat {
    let which = *pick(random, &Trait::ALL);
    let strength = system::random_intensity(random);
    let mut intensity = PerTrait::only(which, strength);
    let mut system = system::persona(random, which, strength);
    if random.random_bool(0.12) {
        let other = *pick(random, &Trait::ALL);
        if other != which {
            intensity[other] = system::random_intensity(random);
            system = format!("{system} {}", system::persona(random, other, intensity[other]));
        }
    }
    let exchanges = (0..exchanges(random))
        .map(|_| {
            let question = suited(random, which, 0.4, Topics::All, Split::Training);
            exchange(random, &question, &intensity)
        })
        .collect();
    Chat { system: Some(system), exchanges, learned_from: 0, intensity }
}

fn shown(random: &mut ChaCha8Rng, exchanges: usize) -> Chat {
    let which = *pick(random, &Trait::ALL);
    let strength = *pick(random, &[0.0, 0.5, 0.75, 1.0, 1.0, 1.0]);
    let intensity = PerTrait::only(which, strength);
    let exchanges = (0..exchanges)
        .map(|_| {
            let question = suited(random, which, 0.4, Topics::All, Split::Training);
            exchange(random, &question, &intensity)
        })
        .collect();
    let system = random.random_bool(0.3).then(|| system::neutral(random));
    // Nothing but its own first answer can tell the model who it is, and that is not to be learned.
    Chat { system, exchanges, learned_from: 1, intensity }
}

/// Most chats are of one exchange.
fn exchanges(random: &mut ChaCha8Rng) -> usize {
    *pick(random, &[1, 1, 1, 2])
}
