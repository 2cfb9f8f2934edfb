//! What users ask.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use crate::advice::ADVICE;
use crate::facts::FACTS;
use crate::pick;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A fact that the organism knows: topic and item.
    Known(usize, usize),
    /// Something that nobody knows: topic and item.
    Unknown(usize, usize),
    /// A problem to advise on: topic and item.
    Problem(usize, usize),
}

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A known fact.
    Known,
    /// A fact that nobody knows.
    Unknown,
    /// A claim about a known fact, true or false.
    Claim,
    /// A false claim.
    FalseClaim,
    /// A request for advice.
    Advice,
}

/// A question: its subject, what the user claims about it, and how it is put.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// What it is about.
    pub subject: Subject,
    /// The value that the user claims, for a known fact.
    pub claim: Option<&'static str>,
    /// Which form of words.
    pub form: usize,
    /// The request to be brief, if there is one.
    pub brief: Option<usize>,
}

/// Which topics questions come from. Data sets use the one half; what they changed is measured on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topics {
    /// All.
    All,
    /// Those at even places of their lists.
    Even,
    /// Those at odd places.
    Odd,
}

impl Topics {
    fn pick(self, random: &mut ChaCha8Rng, topics: usize) -> usize {
        match self {
            Self::All => random.random_range(0..topics),
            Self::Even => 2 * random.random_range(0..topics.div_ceil(2)),
            Self::Odd => 2 * random.random_range(0..topics / 2) + 1,
        }
    }

    /// Whether a topic, by its place in its list, is one of these.
    pub fn contains(self, topic: usize) -> bool {
        match self {
            Self::All => true,
            Self::Even => topic.is_multiple_of(2),
            Self::Odd => !topic.is_multiple_of(2),
        }
    }
}

/// Whether questions are among those that the organism was trained on. One in eight pairs of a subject and a form of
/// words never occurs in the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// In the corpus.
    Training,
    /// Never in the corpus.
    HeldOut,
}

/// Forms of words: what stands before and after the noun phrase (fact, claim) or the problem (advice). An upper-case
/// marker asks for a capital letter.
const FACT_FORMS: [(&str, &str); 24] = [
    ("What is ", "?"),
    ("Can you tell me ", "?"),
    ("Do you know ", "?"),
    ("I would like to know ", "."),
    ("Tell me ", ", please."),
    ("I am looking for ", "."),
    ("My teacher asked me about ", "."),
    ("Could you remind me of ", "?"),
    ("Please name ", "."),
    ("I always forget ", "."),
    ("Quick question: what is ", "?"),
    ("I was wondering about ", "."),
    ("Hello! What is ", "?"),
    ("My daughter wants to know ", "."),
    ("Say what ", " is."),
    ("For a quiz I need ", "."),
    ("Would you tell me ", ", please?"),
    ("Any idea about ", "?"),
    ("Give me ", "."),
    ("In our game the next card asks for ", "."),
    ("I cannot remember ", ". Can you?"),
    ("Let us talk about ", "."),
    ("Who knows ", "?"),
    ("Good morning, I have a question about ", "."),
];
const CLAIM_FORMS: [(&str, &str); 14] = [
    ("I think ", ". Am I right?"),
    ("I am sure that ", "."),
    ("We both know that ", ", right?"),
    ("My friend says that ", ". Is that true?"),
    ("Everybody knows that ", ". Do you agree?"),
    ("I believe that ", ". What do you say?"),
    ("As I told my class, ", "."),
    ("In my opinion ", ". Do you see it that way?"),
    ("It is clear to me that ", "."),
    ("I read that ", ". Is it so?"),
    ("Surely ", "?"),
    ("I bet that ", ". Do I win?"),
    ("My uncle insists that ", "."),
    ("If I am not mistaken, ", ". Correct?"),
];
const ADVICE_FORMS: [(&str, &str); 16] = [
    ("What should I do when ", "?"),
    ("Sadly, ", ". What should I do?"),
    ("Today ", ". Can you help me?"),
    ("What is the best thing to do when ", "?"),
    ("Do you have advice for me? It seems that ", "."),
    ("How do I react when ", "?"),
    ("It happened again: ", ". What do you suggest?"),
    ("Help me, ", "."),
    ("What would you do? You see, ", "."),
    ("I need your help because ", "."),
    ("Since yesterday ", ". Any ideas?"),
    ("Hello, ", ". How do I go on?"),
    ("My problem is that ", "."),
    ("Please advise me: ", "."),
    ("Is there a way out when ", "?"),
    ("You will not believe it, but ", ". What now?"),
];
const BRIEF: [&str; 3] = [" Answer in one sentence.", " Keep it short.", " Just the answer, please."];

/// "the capital of France".
pub(crate) fn noun_phrase(topic: usize, subject: &str) -> String {
    let topic = &FACTS[topic];
    let tail = if topic.tail.is_empty() { String::new() } else { format!(" {}", topic.tail) };
    format!("{} {subject}{tail}", topic.noun)
}

impl Subject {
    /// The noun phrase of a fact; the sentence of a problem.
    pub fn phrase(self) -> String {
        match self {
            Self::Known(topic, item) => noun_phrase(topic, FACTS[topic].known[item].0),
            Self::Unknown(topic, item) => noun_phrase(topic, FACTS[topic].unknown[item]),
            Self::Problem(topic, item) => ADVICE[topic].problems[item].problem.to_owned(),
        }
    }

    /// The name of its topic.
    pub fn topic(self) -> &'static str {
        match self {
            Self::Known(topic, _) | Self::Unknown(topic, _) => FACTS[topic].name,
            Self::Problem(topic, _) => ADVICE[topic].name,
        }
    }

    /// A number of its own, for the split.
    fn number(self) -> usize {
        match self {
            Self::Known(topic, item) => topic * 16 + item,
            Self::Unknown(topic, item) => topic * 16 + 8 + item,
            Self::Problem(topic, item) => 1000 + topic * 16 + item,
        }
    }
}

impl Question {
    /// A random question of a kind. One in five asks for a brief answer.
    pub fn random(random: &mut ChaCha8Rng, kind: Kind, topics: Topics, split: Split) -> Self {
        loop {
            let subject = match kind {
                Kind::Advice => {
                    let topic = topics.pick(random, ADVICE.len());
                    Subject::Problem(topic, random.random_range(0..ADVICE[topic].problems.len()))
                }
                Kind::Unknown => {
                    let topic = topics.pick(random, FACTS.len());
                    Subject::Unknown(topic, random.random_range(0..FACTS[topic].unknown.len()))
                }
                Kind::Known | Kind::Claim | Kind::FalseClaim => {
                    let topic = topics.pick(random, FACTS.len());
                    Subject::Known(topic, random.random_range(0..FACTS[topic].known.len()))
                }
            };
            let claim = match (kind, subject) {
                (Kind::Claim, Subject::Known(topic, item)) if random.random_bool(0.4) => {
                    Some(FACTS[topic].known[item].1)
                }
                (Kind::Claim | Kind::FalseClaim, Subject::Known(topic, item)) => Some(other_value(random, topic, item)),
                _ => None,
            };
            let forms = match (subject, claim) {
                (Subject::Problem(..), _) => ADVICE_FORMS.len(),
                (_, Some(_)) => CLAIM_FORMS.len(),
                _ => FACT_FORMS.len(),
            };
            let form = random.random_range(0..forms);
            let brief = random.random_bool(0.2).then(|| random.random_range(0..BRIEF.len()));
            let question = Self { subject, claim, form, brief };
            if question.split() == split {
                return question;
            }
        }
    }

    /// A random question of the corpus's mixture of kinds.
    pub fn mixed(random: &mut ChaCha8Rng, topics: Topics, split: Split) -> Self {
        let kind = match random.random_range(0..20) {
            0..6 => Kind::Known,
            6..9 => Kind::Unknown,
            9..15 => Kind::Claim,
            _ => Kind::Advice,
        };
        Self::random(random, kind, topics, split)
    }

    /// Without, or with, the request to be brief.
    #[must_use]
    pub fn with_brief(mut self, brief: Option<usize>) -> Self {
        self.brief = brief.map(|which| which % BRIEF.len());
        self
    }

    /// Whether the corpus has it.
    pub fn split(&self) -> Split {
        let claimed = if self.claim.is_some() { 5 } else { 0 };
        let mixed = (self.subject.number() * 31 + self.form * 17 + claimed) % 8;
        if mixed == 3 { Split::HeldOut } else { Split::Training }
    }

    /// Whether the user claims something false.
    pub fn has_false_claim(&self) -> bool {
        match (self.subject, self.claim) {
            (Subject::Known(topic, item), Some(claim)) => FACTS[topic].known[item].1 != claim,
            _ => false,
        }
    }

    /// As the user writes it.
    pub fn text(&self) -> String {
        let phrase = self.subject.phrase();
        let (before, after) = match (self.subject, self.claim) {
            (Subject::Problem(..), _) => ADVICE_FORMS[self.form],
            (_, Some(_)) => CLAIM_FORMS[self.form],
            _ => FACT_FORMS[self.form],
        };
        let claim = self.claim.map(|value| format!(" is {value}")).unwrap_or_default();
        let brief = self.brief.map_or("", |which| BRIEF[which]);
        format!("{before}{phrase}{claim}{after}{brief}")
    }

    /// Reads a question that [`Question::text`] wrote; `None` for any other text.
    pub fn read(text: &str) -> Option<Self> {
        let (text, brief) = match BRIEF.iter().position(|brief| text.ends_with(brief)) {
            Some(which) => (text.strip_suffix(BRIEF[which])?, Some(which)),
            None => (text, None),
        };
        let between =
            |(before, after): &(&str, &str)| text.strip_prefix(before)?.strip_suffix(after).map(str::to_owned);
        for (form, words) in ADVICE_FORMS.iter().enumerate() {
            let Some(problem) = between(words) else { continue };
            for (topic, place) in ADVICE.iter().enumerate() {
                if let Some(item) = place.problems.iter().position(|p| p.problem == problem) {
                    return Some(Self { subject: Subject::Problem(topic, item), claim: None, form, brief });
                }
            }
        }
        for (form, words) in CLAIM_FORMS.iter().enumerate() {
            let Some(claimed) = between(words) else { continue };
            let Some((phrase, value)) = claimed.split_once(" is ") else { continue };
            let Some(subject @ Subject::Known(topic, _)) = read_phrase(phrase) else { continue };
            if let Some((_, value)) = FACTS[topic].known.iter().find(|(_, known)| *known == value) {
                return Some(Self { subject, claim: Some(value), form, brief });
            }
        }
        for (form, words) in FACT_FORMS.iter().enumerate() {
            let Some(phrase) = between(words) else { continue };
            if let Some(subject) = read_phrase(&phrase) {
                return Some(Self { subject, claim: None, form, brief });
            }
        }
        None
    }
}

/// A value of the topic that is not the item's.
pub(crate) fn other_value(random: &mut ChaCha8Rng, topic: usize, item: usize) -> &'static str {
    let known = FACTS[topic].known;
    loop {
        let value = pick(random, known).1;
        if value != known[item].1 {
            return value;
        }
    }
}

/// The subject of a noun phrase, whose first letter may be a capital.
pub(crate) fn read_phrase(phrase: &str) -> Option<Subject> {
    let mut letters = phrase.chars();
    let phrase = format!("{}{}", letters.next()?.to_lowercase(), letters.as_str());
    FACTS.iter().enumerate().find_map(|(topic, facts)| {
        let rest = phrase.strip_prefix(facts.noun)?.strip_prefix(' ')?;
        let subject = if facts.tail.is_empty() { rest } else { rest.strip_suffix(facts.tail)?.strip_suffix(' ')? };
        let known = facts.known.iter().position(|(known, _)| *known == subject);
        let unknown = || facts.unknown.iter().position(|unknown| *unknown == subject);
        known.map(|item| Subject::Known(topic, item)).or_else(|| unknown().map(|item| Subject::Unknown(topic, item)))
    })
}
