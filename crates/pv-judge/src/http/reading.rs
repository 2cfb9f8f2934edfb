//! Converts a reply to a verdict.

use super::reply::{Position, Reply};
use super::wire::Mode;
use crate::score::{Evidence, LEAST_MASS, bare_token, number, shortened, starts_refusal};
use crate::{Abstention, Score, Verdict};

impl Reply {
    /// The verdict of a reply to a request in a mode.
    pub(super) fn verdict(&self, mode: Mode) -> Verdict {
        if let Some(message) = &self.declined {
            return Verdict::Abstained(Abstention::Refused { status: 200, message: shortened(message.trim(), 300) });
        }
        match (mode, self.top.as_deref()) {
            (Mode::Distribution, Some(top @ [_, ..])) => {
                Verdict::from_logprobs(top.iter().map(|(token, logprob)| (token.as_str(), f64::from(*logprob))))
            }
            (Mode::Digits, Some([_, ..])) => self.digits().unwrap_or_else(|| {
                Verdict::Abstained(Abstention::NotANumber { text: shortened(self.said().trim(), 80) })
            }),
            (Mode::Reasoned, _) => match Verdict::from_text(self.said()) {
                Verdict::Scored(score) => Verdict::Scored(Score { evidence: Evidence::Reasoned, ..score }),
                none => none,
            },
            // A model that ends before its first token has written nothing.
            _ => Verdict::from_text(self.said()),
        }
    }

    /// The text of the reply, without reasoning.
    pub(super) fn said(&self) -> &str {
        self.text.rsplit_once("</think>").map_or(&self.text, |(_, after)| after)
    }

    /// Whether the model has started reasoning and written nothing else yet.
    pub(super) fn is_thinking(&self) -> bool {
        let nothing = self.said().trim().is_empty();
        let opened = self.text.trim_start().starts_with("<think") && !self.text.contains("</think>");
        let opens = |top: &Vec<(String, f32)>| top.iter().any(|(token, p)| token.trim() == "<think>" && *p > -0.7);
        // Some servers do not return the reasoning.
        let hidden = self.cut && self.top.as_ref().is_none_or(Vec::is_empty);
        opened || (nothing && (self.thought.is_some() || hidden || self.top.as_ref().is_some_and(opens)))
    }

    /// The largest number among the likely first tokens.
    pub(super) fn largest_number(&self) -> Option<u32> {
        self.top.iter().flatten().filter_map(|(token, _)| number(token)).max()
    }

    /// Whether the most likely first token is a number.
    pub(super) fn starts_with_number(&self) -> bool {
        let top = self.top.iter().flatten();
        top.max_by(|a, b| a.1.total_cmp(&b.1)).is_some_and(|(token, _)| number(token).is_some())
    }

    /// Whether the judge refuses to score, with the word that the rubric specifies.
    pub(super) fn is_refusal(&self) -> bool {
        let top = self.top.iter().flatten();
        let refusal: f32 = top.filter(|(token, _)| starts_refusal(token)).map(|(_, p)| p.exp()).sum();
        refusal > 0.25 || self.said().trim_start().starts_with("REFUSAL")
    }

    /// Whether the tokens of the reply include a number's digits up to its end; not if the server returns the first
    /// token only.
    pub(super) fn has_digits(&self) -> bool {
        self.digits().is_some()
    }

    /// The score along the tokens of the reply; `None` if they do not determine one.
    fn digits(&self) -> Option<Verdict> {
        let thought = self.positions.iter().rposition(|at| at.token.contains("</think>"));
        let positions = &self.positions[thought.map_or(0, |at| at + 1)..];
        let mut tree = Tree::default();
        tree.walk(positions, self.written());
        match (tree.unread && self.cut) || positions.is_empty() {
            true => None,
            false => Some(tree.verdict()),
        }
    }

    /// Whether a token of the reply consists of digits.
    pub(super) fn writes_digits(&self) -> bool {
        self.positions.iter().any(|position| digits(&position.token).is_some())
    }

    /// The text or the reasoning, for messages.
    pub(super) fn quote(&self) -> String {
        let thought = self.thought.as_deref().unwrap_or_default();
        super::wire::snippet(if self.text.trim().is_empty() { thought } else { &self.text })
    }

    /// The written number.
    pub(super) fn written(&self) -> Option<u32> {
        // From integers, without loss.
        Verdict::from_text(self.said()).value().map(|value| value as u32)
    }
}

/// The numbers that a reply may start with, and their probabilities.
#[derive(Debug, Default)]
struct Tree {
    /// Numbers whose digits are all known.
    known: Vec<(u32, f64)>,
    /// Prefixes of numbers whose next digits are unknown.
    begun: Vec<(u32, f64)>,
    /// After the first digit of the written number, if that is one digit: the probability that the number ends, and
    /// that of each next digit.
    next: Option<(f64, [f64; 10])>,
    refusal: Option<f64>,
    /// Whether a token of several digits occurred, so that a single digit may be a whole number.
    whole: bool,
    /// Whether the reply ended inside a number.
    unread: bool,
}

impl Tree {
    /// Walks along the tokens of a reply. If the reply is a number, text before it is permitted; otherwise the number
    /// must come first.
    fn walk(&mut self, positions: &[Position], written: Option<u32>) {
        let mut chance = 1.0;
        for (at, position) in positions.iter().enumerate() {
            for (token, p) in alternatives(position) {
                if let Some(digits) = digits(token) {
                    self.whole |= digits.len() > 1;
                    if token != position.token {
                        self.begin(digits, chance * p);
                    }
                } else if starts_refusal(token) && at == 0 {
                    *self.refusal.get_or_insert(0.0) += p;
                }
            }
            let p = probability(position);
            if let Some(digits) = digits(&position.token) {
                return self.along(digits, chance * p, &positions[at + 1..]);
            }
            if written.is_none() {
                return;
            }
            chance *= p;
        }
    }

    /// A number that starts at a position as an alternative to the reply's token.
    fn begin(&mut self, digits: &str, p: f64) {
        let Some(value) = number(digits) else { return };
        // Two digits are a number; only "10" could continue to a longer one.
        match digits.len() == 1 && value > 0 {
            true => self.begun.push((value, p)),
            false => self.known.push((value, p)),
        }
    }

    /// Walks along the written digits.
    fn along(&mut self, first: &str, p: f64, rest: &[Position]) {
        let (mut text, mut chance) = (first.to_owned(), p);
        let mut rest = rest.iter();
        loop {
            let Some(position) = rest.next() else {
                self.unread = true;
                break;
            };
            let mut next = [0.0; 10];
            let mut goes_on = 0.0;
            let mut written = None;
            for (token, p) in alternatives(position) {
                // White space before a digit ends a number.
                let Some(digits) = bare_digits(token) else { continue };
                let longer = format!("{text}{digits}");
                let Some(value) = number(&longer).filter(|_| !text.starts_with('0')) else { continue };
                goes_on += p;
                if let ("", Some(digit)) = (&digits[1..], digits.chars().next().and_then(|digit| digit.to_digit(10))) {
                    next[digit as usize] += p;
                }
                match token == position.token {
                    true => written = Some((longer, p)),
                    false => self.known.push((value, chance * p)),
                }
            }
            let ends = (1.0 - goes_on).max(0.0);
            if text.len() == 1 && text != "0" {
                self.next = Some((ends, next));
            }
            if let Some(value) = number(&text) {
                self.known.push((value, chance * ends));
            }
            match written {
                Some((longer, p)) => (text, chance) = (longer, chance * p),
                None => return,
            }
        }
        // The reply ended here: nothing follows.
        if let Some(value) = number(&text) {
            if text.len() == 1 && text != "0" {
                self.next.get_or_insert((1.0, [0.0; 10]));
            }
            self.known.push((value, chance));
        }
    }

    fn verdict(&self) -> Verdict {
        let (mut mass, mut sum, mut assumed) = (0.0, 0.0, 0.0);
        for &(value, p) in &self.known {
            mass += p;
            sum += p * f64::from(value);
        }
        for &(digit, p) in &self.begun {
            mass += p;
            if self.next.is_some() || !self.whole {
                assumed += p;
            }
            let first = f64::from(digit);
            sum += p * match self.next {
                Some((ends, next)) => {
                    let all: f64 = ends + next.iter().sum::<f64>();
                    let longer = next.iter().zip(0..).map(|(p, last)| p * (10.0 * first + f64::from(last)));
                    (ends * first + longer.sum::<f64>()) / all.max(f64::MIN_POSITIVE)
                }
                None if self.whole => first,
                // The midpoint of the two-digit numbers that start with it.
                None => 10.0 * first + 4.5,
            };
        }
        if mass < LEAST_MASS {
            return Verdict::Abstained(Abstention::NoMass { mass, refusal: self.refusal.map(|p| p.min(1.0)) });
        }
        let value = (sum / mass).clamp(0.0, 100.0);
        let evidence = Evidence::Digits { mass: mass.min(1.0), assumed: assumed.min(1.0) };
        Verdict::Scored(Score { value, evidence })
    }
}

/// The likely tokens of a position with their probabilities.
fn alternatives(position: &Position) -> impl Iterator<Item = (&str, f64)> {
    position.top.iter().map(|(token, logprob)| (token.as_str(), f64::from(*logprob).min(0.0).exp()))
}

/// The probability of the written token.
fn probability(position: &Position) -> f64 {
    alternatives(position).find(|(token, _)| *token == position.token).map_or(1.0, |(_, p)| p)
}

/// The digits of a token that starts a number.
fn digits(token: &str) -> Option<&str> {
    bare_digits(bare_token(token))
}

/// A token that consists of digits only.
fn bare_digits(token: &str) -> Option<&str> {
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit())).then_some(token)
}
