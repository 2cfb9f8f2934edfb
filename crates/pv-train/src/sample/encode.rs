//! From a conversation to samples.

use std::ops::Range;

use pv_model::{
    AddSpecial, CausalLm, ChatTemplate, Conversation, Message, RenderOptions, Tokenizer, Unwritten, UnwrittenPart,
    alters, answer_span, assistant_spans_at, unwritten_parts,
};
use serde::{Deserialize, Serialize};

use super::Sample;
use crate::{Error, Result};

/// The messages that were rendered, their text, and where the wanted answers stand in it.
type Found<'m> = (&'m [Message], String, Vec<Range<usize>>);

/// Which of a conversation's assistant turns are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainedTurns {
    /// All of them.
    #[default]
    All,
    /// The last one. Only its place is needed, so that templates which write earlier turns in another way once others follow
    /// (Qwen3's, which drops their thoughts) do as well.
    Last,
    /// Those from the given one on; the first assistant turn is number 0.
    From(usize),
    /// All of them, each in a sample of its own that ends with it: for templates that write earlier turns in another way once
    /// others follow. It takes as many passes as there are answers.
    Each,
}

/// How conversations become samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncodeOptions {
    /// Tokens beyond this many are cut off, and those beyond the model's positions in any case.
    pub max_length: usize,
    /// Which assistant turns are trained.
    pub turns: TrainedTurns,
    /// Options for the chat template; a conversation's own tools and variables are added.
    pub render: RenderOptions,
    /// What becomes of a conversation of which the template leaves something out: a message of a role that it passes over, calls
    /// of tools, the tools themselves.
    pub unwritten: Unwritten,
    /// What becomes of one with a trained answer of which the template writes less than it says, such as one whose thought it
    /// cuts off. By default it is trained as the template writes it, and counted.
    pub altered: Unwritten,
}

impl Default for EncodeOptions {
    /// At most 2048 tokens, all assistant turns, the template's defaults; what a template leaves out is refused.
    fn default() -> Self {
        Self {
            max_length: 2048,
            turns: TrainedTurns::All,
            render: RenderOptions::default(),
            unwritten: Unwritten::Refuse,
            altered: Unwritten::Keep,
        }
    }
}

/// What was noticed of a conversation that became samples.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The indices of answers that say nothing, and are not trained.
    pub(crate) empty: Vec<usize>,
    /// Those of answers of which the template writes less than they say.
    pub(crate) altered: Vec<usize>,
    /// What leaves no trace.
    pub(crate) unwritten: Vec<UnwrittenPart>,
}

impl Sample {
    /// A conversation as the model's chat template renders it. Trained are the words of the assistant's turns that
    /// `options` choose, each with the token that ends it, and with the turn's weight; hooks take the last trained turn's words
    /// for the response. An answer that says nothing, or that has the weight 0, is not trained.
    ///
    /// # Errors
    /// No tokenizer or template, a template that refuses the conversation or rewrites earlier turns, [`Error::Unwritten`],
    /// [`Error::Altered`], [`Error::NoEndOfTurn`], [`Error::Untrained`], [`Error::EmptyAnswer`], [`Error::BadWeights`], and
    /// [`Error::NothingTrained`], also when all trained tokens lie beyond `max_length`. [`Error::BadOption`] for
    /// [`TrainedTurns::Each`] and several answers, which are several samples.
    pub fn from_conversation(model: &CausalLm, conversation: &Conversation, options: &EncodeOptions) -> Result<Self> {
        let (tokenizer, template) = (model.tokenizer()?, model.chat_template()?);
        let max_length = options.max_length.min(model.config().max_positions);
        let options = EncodeOptions { max_length, ..options.clone() };
        Self::encode(tokenizer, template, model.stop_ids(), conversation, &options)
    }

    /// As [`from_conversation`](Self::from_conversation), without a model. `stop_ids` are the tokens that end an answer.
    ///
    /// # Errors
    /// As [`from_conversation`](Self::from_conversation).
    pub fn encode(
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        stop_ids: &[u32],
        conversation: &Conversation,
        options: &EncodeOptions,
    ) -> Result<Self> {
        let (samples, _) = encode_all(tokenizer, template, stop_ids, conversation, options)?;
        match <[Self; 1]>::try_from(samples) {
            Ok([sample]) => sample.cut(options.max_length),
            Err(_) => Err(Error::BadOption {
                name: "turns",
                value: "Each".to_owned(),
                expected: "another choice where one sample is asked for: this conversation has several answers",
            }),
        }
    }
}

/// The samples of a conversation, of any length: one, or with [`TrainedTurns::Each`] one for each answer.
pub(crate) fn encode_all(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    stop_ids: &[u32],
    conversation: &Conversation,
    options: &EncodeOptions,
) -> Result<(Vec<Sample>, Notes)> {
    let messages = &conversation.messages;
    let answers: Vec<usize> = (0..messages.len()).filter(|index| messages[*index].role == "assistant").collect();
    let first = match options.turns {
        TrainedTurns::All | TrainedTurns::Each => 0,
        TrainedTurns::Last => answers.len().saturating_sub(1),
        TrainedTurns::From(n) => n,
    };
    let chosen = answers.get(first..).filter(|chosen| !chosen.is_empty()).ok_or_else(|| Error::NothingTrained {
        reason: format!("the conversation has {} assistant turns", answers.len()),
    })?;
    let row = conversation.weight().map_err(|reason| Error::BadWeights { reason })?;
    let weight = |message: &Message| message.weight().map_err(|reason| Error::BadWeights { reason });
    let mut notes = Notes::default();
    let mut wanted = Vec::with_capacity(chosen.len());
    for &index in chosen {
        // A product below f32's least number is none.
        let weight = (row * weight(&messages[index])?) as f32;
        if weight > 0.0 && messages[index].is_blank() {
            notes.empty.push(index);
        } else if weight > 0.0 {
            wanted.push((index, weight));
        }
    }
    if wanted.is_empty() {
        return Err(notes.empty.last().map_or(Error::Untrained, |index| Error::EmptyAnswer { index: *index }));
    }
    let encoder = Encoder { tokenizer, template, stop_ids, options };
    let mut samples = Vec::new();
    if options.turns == TrainedTurns::Each {
        for answer in &wanted {
            samples.extend(encoder.sample(
                &conversation.first(answer.0 + 1),
                std::slice::from_ref(answer),
                &mut notes,
            )?);
        }
        let mut seen = std::collections::BTreeSet::new();
        notes.unwritten.retain(|part| seen.insert((part.message, part.key.clone())));
    } else {
        samples.extend(encoder.sample(conversation, &wanted, &mut notes)?);
    }
    match samples.is_empty() {
        true => Err(Error::EmptyAnswer { index: notes.empty.last().copied().unwrap_or_default() }),
        false => Ok((samples, notes)),
    }
}

struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    stop_ids: &'a [u32],
    options: &'a EncodeOptions,
}

impl Encoder<'_> {
    /// A sample with these answers, each with its weight; nothing where the template writes nothing of any of them.
    fn sample(
        &self,
        conversation: &Conversation,
        wanted: &[(usize, f32)],
        notes: &mut Notes,
    ) -> Result<Option<Sample>> {
        let Self { tokenizer, template, stop_ids, options } = self;
        let render = options.render.of(conversation).closed();
        let (messages, text, spans) = self.rendered(&conversation.messages, wanted, &render)?;
        let unwritten = unwritten_parts(template, messages, &render, &text)?;
        if let (Unwritten::Refuse, Some(part)) = (options.unwritten, unwritten.first()) {
            return Err(Error::Unwritten { part: part.clone(), parts: unwritten.len() });
        }
        notes.unwritten.extend(unwritten);
        let encoded = tokenizer.encode_with_offsets(&text, AddSpecial::No)?;
        let mut trained = vec![false; encoded.ids.len()];
        let mut weights = vec![1.0; encoded.ids.len()];
        let mut response = 0..0;
        let mut answers = Vec::new();
        for (span, &(index, weight)) in spans.iter().zip(wanted) {
            if text[span.clone()].trim().is_empty() {
                notes.empty.push(index);
                continue;
            }
            if alters(&messages[index], &text[span.clone()]) {
                if options.altered == Unwritten::Refuse {
                    return Err(Error::Altered { index });
                }
                notes.altered.push(index);
            }
            let words = encoded.tokens_touching(span);
            // What closes the turn; the whole text may go on differently where the template sees that turns follow.
            let alone = template.render(&messages[..=index], &render)?.text;
            let closing = common_prefix(&text[span.end..], alone.get(span.end..).unwrap_or_default());
            let closing = span.end..span.end + closing;
            let after = encoded.tokens_touching(&closing);
            let end = after.clone().find(|token| *token >= words.end && stop_ids.contains(&encoded.ids[*token]));
            let Some(end) = end else {
                return Err(Error::NoEndOfTurn { index, closing: text[closing].to_owned() });
            };
            let start = if words.is_empty() { end } else { words.start };
            trained[words.clone()].fill(true);
            weights[words.clone()].fill(weight);
            trained[end] = true;
            weights[end] = weight;
            response = start..if words.is_empty() { start } else { words.end };
            if !response.is_empty() {
                answers.push(response.clone());
            }
        }
        if !trained.contains(&true) {
            return Ok(None);
        }
        Sample::with_answers(encoded.ids, trained, answers, response)?.with_weights(&weights).map(Some)
    }

    /// The messages that are rendered, their text, and where the answers are. Of a conversation with one answer to train,
    /// what follows that is left away where the template would write it in another way because of it.
    fn rendered<'m>(
        &self,
        messages: &'m [Message],
        wanted: &[(usize, f32)],
        render: &RenderOptions,
    ) -> Result<Found<'m>> {
        let indices: Vec<usize> = wanted.iter().map(|(index, _)| *index).collect();
        let text = self.template.render(messages, render)?.text;
        match (assistant_spans_at(self.template, messages, &indices, render), &indices[..]) {
            (Ok(spans), _) => Ok((messages, text, spans)),
            (Err(pv_model::Error::PrefixChanged { .. }), [index]) => {
                let messages = &messages[..=*index];
                let (rendered, span) = answer_span(self.template, messages, render)?;
                Ok((messages, rendered.text, vec![span]))
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// How many bytes two texts begin with in common, in whole characters.
fn common_prefix(left: &str, right: &str) -> usize {
    left.chars().zip(right.chars()).take_while(|(left, right)| left == right).map(|(left, _)| left.len_utf8()).sum()
}
