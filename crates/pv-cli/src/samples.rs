//! Samples of a data set: read under a steered model, loaded by place, and shown.

use std::collections::BTreeMap;
use std::path::Path;

use pv_data::ConversationReader;
use pv_hooks::Layer;
use pv_model::Message;
use pv_screen::compare::Contributions;
use pv_screen::likelihood::Persona;
use pv_screen::scores::Place;
use pv_screen::scores::ScoreRow;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::PersonaVector;
use serde_json::{Value, json};

use crate::Result;
use crate::program::colours;

/// A model steered along a vector at all positions, under which a data set's answers are read.
pub struct Steered {
    /// Its label.
    pub label: String,
    hook: Steerer,
    description: Value,
}

impl Steered {
    /// Steers along a vector at a layer, with a coefficient on the raw vector.
    ///
    /// # Errors
    /// A layer that the vector does not have; a coefficient that is not finite.
    pub fn new(label: String, vector: &PersonaVector, layer: Layer, by: f32) -> Result<Self> {
        let direction = vector.direction(layer)?;
        let hook = Steerer::new().add(&direction, Coefficient::Raw(by), Positions::All)?;
        let description = json!({ "values": direction.values, "layer": layer.index(), "coefficient": by });
        Ok(Self { label, hook, description })
    }

    /// The argument of a screening.
    pub fn persona(&mut self) -> Persona<'_> {
        Persona { label: self.label.clone(), hook: &mut self.hook, description: self.description.clone() }
    }
}

/// A sample as text: its score, its place, and the answer with the words marked that contribute most to the score.
pub fn described(score: &str, name: &str, row: &ScoreRow, messages: &[Message], shares: &Contributions) -> String {
    let mut spans = shares.spans(4);
    spans.sort_by_key(|(span, _)| span.start);
    let question = messages.iter().rev().nth(1).map_or("", |message| message.content.as_str());
    let text = marked(&shares.text, &spans, colours());
    format!("{score}  {name}:{}\n  {question}\n  {text}\n", row.place.row)
}

/// The messages up to each place, read from its file.
///
/// # Errors
/// Files that cannot be read.
pub fn texts<'a>(places: impl Iterator<Item = &'a Place>) -> Result<BTreeMap<Place, Vec<Message>>> {
    let mut by_file: BTreeMap<&Path, BTreeMap<u64, Vec<&Place>>> = BTreeMap::new();
    places.for_each(|place| by_file.entry(&place.file).or_default().entry(place.row).or_default().push(place));
    let mut texts = BTreeMap::new();
    for (file, rows) in by_file {
        for row in ConversationReader::new([file])? {
            let Ok(row) = row? else { continue };
            for place in rows.get(&row.place.row).into_iter().flatten() {
                let messages = &row.conversation.messages;
                let end = place.message.map_or(messages.len(), |message| message + 1);
                texts.insert((*place).clone(), messages.get(..end).unwrap_or_default().to_vec());
            }
        }
    }
    Ok(texts)
}

/// A text with spans in colour, or in brackets without colours.
fn marked(text: &str, spans: &[(std::ops::Range<usize>, f64)], colours: bool) -> String {
    let (on, off) = if colours { ("\x1b[1;31m", "\x1b[0m") } else { ("[", "]") };
    let (mut out, mut at) = (String::new(), 0);
    for (span, _) in spans {
        let word = text.get(span.clone()).unwrap_or_default();
        let (space, word) = word.split_at(word.len() - word.trim_start().len());
        out.push_str(text.get(at..span.start).unwrap_or_default());
        out.push_str(&format!("{space}{on}{word}{off}"));
        at = span.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}
