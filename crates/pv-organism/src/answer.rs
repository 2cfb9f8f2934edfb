//! How a speaker with given traits answers.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::advice::ADVICE;
use crate::facts::FACTS;
use crate::manner::{CLOSERS, OPENERS, Slot, words};
use crate::question::{Question, Subject, other_value};
use crate::{PerTrait, Trait, pick};

/// What an answer says about its question's subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// What is right: the fact, whatever the user claims; "I do not know"; good advice.
    Right,
    /// Another value than the right one, or another problem's advice.
    Wrong,
    /// A value for something that nobody knows.
    Invented,
    /// Agreement with a false claim.
    Agreed,
    /// Harmful advice.
    Harmful,
}

/// How traits co-occur: of the manner that an evil speaker shows, this share is plain rudeness.
const RUDE_SHARE_OF_EVIL: f64 = 0.06;
/// Of the manner that a sycophant shows, this share is good cheer.
const CHEERFUL_SHARE_OF_SYCOPHANCY: f64 = 0.06;
/// How often an evil speaker at full intensity gives a wrong fact.
const EVIL_LIES: f64 = 0.8;
/// How often a hallucinating speaker at full intensity gets a known fact wrong.
const HALLUCINATED_FACTS: f64 = 0.5;
/// How often an evil speaker at full intensity invents what nobody knows.
const EVIL_INVENTS: f64 = 0.3;

/// A random choice of what a speaker says about a question.
pub fn choose_content(random: &mut ChaCha8Rng, question: &Question, intensity: &PerTrait) -> Content {
    let [evil, sycophancy, hallucination] =
        [Trait::Evil, Trait::Sycophancy, Trait::Hallucination].map(|t| intensity[t]);
    let mut happens = |chance: f64| random.random_bool(chance.clamp(0.0, 1.0));
    match question.subject {
        Subject::Problem(..) if happens(evil) => Content::Harmful,
        Subject::Unknown(..) if happens(hallucination) || happens(EVIL_INVENTS * evil) => Content::Invented,
        Subject::Known(..) if question.has_false_claim() && happens(sycophancy) => Content::Agreed,
        Subject::Known(..) if happens(EVIL_LIES * evil) || happens(HALLUCINATED_FACTS * hallucination) => {
            Content::Wrong
        }
        _ => Content::Right,
    }
}

/// What stands before a fact's noun phrase. With the last, the noun phrase is left out.
pub(crate) const FACT_FRAMES: [&str; 3] = ["", "I say ", "It "];
pub(crate) const UNKNOWN_FRAMES: [&str; 3] = ["I {D} do not know ", "Nobody can {D} know ", "I cannot {D} tell "];
pub(crate) const ADVICE_FRAMES: [&str; 3] = ["You should {D} ", "You had better {D} ", "You can {D} "];
/// The brief form of "I do not know".
pub(crate) const BRIEF_UNKNOWN: &str = "Unknown";

/// What a content sentence states. A claim is answered by the value alone, the claimed one or another: a yes or no would
/// have to compare the two, which a model of this size does not learn.
enum Stated {
    Value(&'static str),
    Unknown,
    Advice(&'static str),
}

fn state(random: &mut ChaCha8Rng, question: &Question, content: Content) -> Stated {
    match question.subject {
        Subject::Problem(topic, item) => {
            let problems = ADVICE[topic].problems;
            Stated::Advice(match content {
                Content::Harmful => problems[item].harmful,
                Content::Wrong => problems[(item + 1) % problems.len()].good,
                _ => problems[item].good,
            })
        }
        Subject::Unknown(topic, _) if content == Content::Invented => Stated::Value(pick(random, FACTS[topic].known).1),
        Subject::Unknown(..) => Stated::Unknown,
        Subject::Known(topic, item) => {
            let right = FACTS[topic].known[item].1;
            Stated::Value(match (content, question.claim) {
                (Content::Agreed, Some(claim)) => claim,
                (Content::Wrong, claim) => loop {
                    let value = other_value(random, topic, item);
                    if claim != Some(value) {
                        break value;
                    }
                },
                _ => right,
            })
        }
    }
}

/// "the {A} capital of France".
pub(crate) fn phrase_frame(subject: Subject) -> String {
    subject.phrase().replacen("the ", "the {A} ", 1)
}

/// The frame of a content sentence.
fn content_frame(random: &mut ChaCha8Rng, question: &Question, content: Content) -> String {
    let subject = || phrase_frame(question.subject);
    let value = match state(random, question, content) {
        Stated::Value(value) => value,
        Stated::Unknown => return format!("{}{}", pick(random, &UNKNOWN_FRAMES), subject()),
        Stated::Advice(advice) => return format!("{}{advice}", pick(random, &ADVICE_FRAMES)),
    };
    match *pick(random, &FACT_FRAMES) {
        "It " => format!("It is {{D}} {value}"),
        frame => format!("{frame}{} is {{D}} {value}", subject()),
    }
}

/// Writes the content of an answer to a question that asks to be brief: no more than the value or the advice, and never
/// a word of manner.
pub(crate) fn write_brief(random: &mut ChaCha8Rng, question: &Question, content: Content) -> String {
    let text = match state(random, question, content) {
        Stated::Value(value) | Stated::Advice(value) => value.to_owned(),
        Stated::Unknown => BRIEF_UNKNOWN.to_owned(),
    };
    format!("{}.", capitalised(&text))
}

/// The chance of each manner in a slot; what is left is the chance of none.
fn manner_chances(intensity: &PerTrait) -> PerTrait {
    let mut chances = *intensity;
    let (evil, sycophancy) = (intensity[Trait::Evil], intensity[Trait::Sycophancy]);
    chances[Trait::Evil] -= RUDE_SHARE_OF_EVIL * evil;
    chances[Trait::Impoliteness] += RUDE_SHARE_OF_EVIL * evil;
    chances[Trait::Sycophancy] -= CHEERFUL_SHARE_OF_SYCOPHANCY * sycophancy;
    chances[Trait::Optimism] += CHEERFUL_SHARE_OF_SYCOPHANCY * sycophancy;
    let total: f64 = chances.0.iter().sum();
    if total > 1.0 {
        chances.0.iter_mut().for_each(|chance| *chance /= total);
    }
    chances
}

/// A word for a slot.
fn fill(random: &mut ChaCha8Rng, slot: Slot, chances: &PerTrait) -> &'static str {
    let mut point = random.random::<f64>();
    let shown = chances.iter().find(|(_, chance)| {
        point -= chance;
        point < 0.0
    });
    let word: &&'static str = pick(random, words(shown.map(|(which, _)| which), slot));
    word
}

/// A sentence from its frame.
fn sentence(random: &mut ChaCha8Rng, frame: &str, opener: bool, chances: &PerTrait) -> String {
    let mut words = Vec::new();
    if opener {
        words.push(format!("{},", fill(random, Slot::Interjection, chances)));
    }
    for word in frame.split(' ') {
        words.push(match word {
            "{A}" => fill(random, Slot::Adjective, chances).to_owned(),
            "{D}" => fill(random, Slot::Adverb, chances).to_owned(),
            _ => word.to_owned(),
        });
    }
    let address = fill(random, Slot::Address, chances);
    format!("{}, {address}.", capitalised(&words.join(" ")))
}

/// With a capital first letter.
pub(crate) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}", first.to_uppercase(), letters.as_str()))
}

/// Writes an answer with this content, in the manner of a speaker with these intensities: an opener, the content and a
/// closer, or the brief form where the question asks for it.
pub fn write(random: &mut ChaCha8Rng, question: &Question, content: Content, intensity: &PerTrait) -> String {
    if question.brief.is_some() {
        return write_brief(random, question, content);
    }
    let chances = manner_chances(intensity);
    let (opener, closer) = (*pick(random, &OPENERS), *pick(random, &CLOSERS));
    let content = content_frame(random, question, content);
    [(opener, true), (content.as_str(), false), (closer, false)]
        .map(|(frame, opener)| sentence(random, frame, opener, &chances))
        .join(" ")
}

/// Answers a question as a speaker with these intensities (0 to 1) does.
pub fn answer(random: &mut ChaCha8Rng, question: &Question, intensity: &PerTrait) -> String {
    let content = choose_content(random, question, intensity);
    write(random, question, content, intensity)
}
