use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::traits::check_eval_prompt;
use crate::{InstructionPair, TraitSpec};

/// The numbers of the method.
const PAIRS: usize = 5;
const QUESTIONS: usize = 40;

/// The greatest number of faults that are reported to the author at once.
const MAX_REPORTED: usize = 8;

/// The valid parts of a trait so far.
#[derive(Debug, Default, Serialize)]
pub(super) struct Draft {
    #[serde(skip_serializing_if = "Option::is_none")]
    assistant_pos: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assistant_neg: Option<String>,
    instruction: Vec<InstructionPair>,
    questions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_prompt: Option<String>,
}

impl Draft {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Takes the valid parts of a reply, and returns the faults of the others.
    pub(super) fn absorb(&mut self, text: &str) -> Vec<String> {
        let reply = match object(text) {
            Ok(reply) => reply,
            Err(fault) => return vec![fault],
        };
        let mut faults = Vec::new();
        for (key, place) in [("assistant_pos", &mut self.assistant_pos), ("assistant_neg", &mut self.assistant_neg)] {
            let adjective = reply.get(key).and_then(Value::as_str).map(str::trim);
            if place.is_none()
                && let Some(adjective) = adjective.filter(|text| !text.is_empty())
            {
                *place = Some(adjective.to_owned());
            }
        }
        if let Some(value) = reply.get("instruction").filter(|_| self.instruction.len() < PAIRS) {
            self.take_pairs(value, &mut faults);
        }
        if let Some(value) = reply.get("questions").filter(|_| self.questions.len() < QUESTIONS) {
            self.take_questions(value, &mut faults);
        }
        if let Some(value) = reply.get("eval_prompt").filter(|_| self.eval_prompt.is_none()) {
            match rubric(value) {
                Ok(template) => self.eval_prompt = Some(template),
                Err(fault) => faults.push(fault),
            }
        }
        faults.truncate(MAX_REPORTED);
        faults
    }

    fn take_pairs(&mut self, value: &Value, faults: &mut Vec<String>) {
        let Some(pairs) = value.as_array() else { return faults.push("`instruction` was not a list".into()) };
        let mut known = self.instruction.iter().flat_map(|pair| [&pair.pos, &pair.neg]).map(|t| same(t)).collect();
        for (index, pair) in pairs.iter().enumerate() {
            let text = |key: &str| pair.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
            let (pos, neg) = (text("pos"), text("neg"));
            let number = index + 1;
            if pos.is_empty() || neg.is_empty() {
                faults.push(format!("`instruction`: pair {number} lacks a text under `pos` or `neg`"));
            } else if same(&pos) == same(&neg) {
                faults.push(format!("`instruction`: `pos` and `neg` of pair {number} are the same"));
            } else if !is_new(&mut known, &[&pos, &neg]) {
                faults.push(format!("`instruction`: pair {number} repeats a text of another one"));
            } else if self.instruction.len() < PAIRS {
                self.instruction.push(InstructionPair { pos, neg });
            }
        }
    }

    fn take_questions(&mut self, value: &Value, faults: &mut Vec<String>) {
        let Some(questions) = value.as_array() else { return faults.push("`questions` was not a list".into()) };
        let mut known = self.questions.iter().map(|question| same(question)).collect();
        for (index, question) in questions.iter().enumerate() {
            let text = question.as_str().unwrap_or_default().trim();
            if text.is_empty() {
                faults.push(format!("`questions`: entry {} is not a text, or is empty", index + 1));
            } else if !is_new(&mut known, &[text]) {
                faults.push(format!("`questions`: entry {} repeats another one", index + 1));
            } else if self.questions.len() < QUESTIONS {
                self.questions.push(text.to_owned());
            }
        }
    }

    /// The missing parts, described for the author.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let more = |there: usize, all: usize| match there {
            0 => format!("{all}"),
            _ => format!("{} more", all - there),
        };
        if self.instruction.len() < PAIRS {
            let count = more(self.instruction.len(), PAIRS);
            missing.push(format!("`instruction`: a list of {count} objects with `pos` and `neg`, unlike all others"));
        }
        if self.questions.len() < QUESTIONS {
            let count = more(self.questions.len(), QUESTIONS);
            missing.push(format!("`questions`: a list of {count} questions, unlike all others"));
        }
        if self.eval_prompt.is_none() {
            let end = "that ends by asking for a number from 0 to 100 or REFUSAL";
            missing.push(format!("`eval_prompt`: a text with {{question}} and {{answer}} {end}"));
        }
        missing
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// The schema of a reply with the missing parts. The numbers of entries are in the prompt only: not every server's
    /// schemas support them.
    pub(super) fn schema(&self) -> Value {
        let text = json!({"type": "string"});
        let mut properties = Map::new();
        for (key, there) in [("assistant_pos", &self.assistant_pos), ("assistant_neg", &self.assistant_neg)] {
            if there.is_none() {
                properties.insert(key.into(), text.clone());
            }
        }
        if self.instruction.len() < PAIRS {
            let pair = closed(Map::from_iter([("pos".into(), text.clone()), ("neg".into(), text.clone())]));
            properties.insert("instruction".into(), json!({"type": "array", "items": pair}));
        }
        if self.questions.len() < QUESTIONS {
            properties.insert("questions".into(), json!({"type": "array", "items": text}));
        }
        if self.eval_prompt.is_none() {
            properties.insert("eval_prompt".into(), text);
        }
        closed(properties)
    }

    /// The trait, if it is complete.
    pub(super) fn into_spec(self, name: &str, description: &str) -> TraitSpec {
        let mut extraction = self.questions;
        let evaluation = extraction.split_off(extraction.len() / 2);
        TraitSpec {
            name: name.to_owned(),
            description: Some(description.trim().to_owned()),
            assistant_pos: self.assistant_pos,
            assistant_neg: self.assistant_neg,
            instruction: self.instruction,
            extraction,
            evaluation,
            eval_prompt: self.eval_prompt.unwrap_or_default(),
        }
    }
}

/// The schema of an object with exactly these keys.
fn closed(properties: Map<String, Value>) -> Value {
    let required = properties.keys().cloned().collect::<Vec<_>>();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The JSON object in a reply. Thoughts before it, a code fence around it and text after it are ignored.
fn object(text: &str) -> Result<Map<String, Value>, String> {
    let text = text.rsplit_once("</think>").map_or(text, |(_, after)| after);
    let Some(start) = text.find('{') else { return Err("the reply was not a JSON object".into()) };
    match serde_json::Deserializer::from_str(&text[start..]).into_iter::<Map<String, Value>>().next() {
        Some(Ok(object)) => Ok(object),
        Some(Err(error)) if error.is_eof() => Err("the reply ended in the middle of the JSON object".into()),
        Some(Err(error)) => Err(format!("the reply was not a JSON object: {error}")),
        None => Err("the reply was not a JSON object".into()),
    }
}

/// A template that is a valid rubric and asks for a number or a refusal.
fn rubric(value: &Value) -> Result<String, String> {
    let Some(text) = value.as_str().map(str::trim) else { return Err("`eval_prompt` was not a text".into()) };
    check_eval_prompt(text).map_err(|fault| fault.to_string())?;
    let end = ["{question}", "{answer}"].iter().filter_map(|place| text.rfind(place)).max().unwrap_or(0);
    match text[end..].contains("REFUSAL") && text[end..].contains("100") {
        true => Ok(text.to_owned()),
        false => Err("`eval_prompt` does not end by asking for a number from 0 to 100 or REFUSAL".into()),
    }
}

/// The form of a text in which duplicates are equal.
fn same(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Adds texts to the known ones and returns whether all were new.
fn is_new(known: &mut HashSet<String>, texts: &[&str]) -> bool {
    let texts = texts.iter().map(|text| same(text)).collect::<Vec<_>>();
    let new = texts.iter().all(|text| !known.contains(text));
    if new {
        known.extend(texts);
    }
    new
}
