//! Converts conversations to samples.

use std::ops::Range;

use pv_data::Conversation;
use pv_model::chat::{
    TemplateError, Unwritten, UnwrittenPart, alters, answer_span, assistant_spans_at, unwritten_parts,
};
use pv_model::tokenizer::AddSpecial;
use pv_model::{CausalLm, ChatTemplate, Message, RenderOptions, Tokenizer};
use serde::{Deserialize, Serialize};

use super::Sample;
use crate::error::NothingTrained;
use crate::{Error, Result};

/// The rendered messages, their text, and the byte ranges of the requested answers in it.
type Found<'m> = (&'m [Message], String, Vec<Range<usize>>);

/// The assistant turns of a conversation that are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainedTurns {
    /// All of them.
    #[default]
    All,
    /// The last one. Only its own position is needed, so this also works for templates that render earlier turns
    /// differently once other turns follow (Qwen3's, which drops their thoughts).
    Last,
    /// Those from the given index on; the first assistant turn has index 0.
    From(usize),
    /// All of them, each in a sample of its own that ends with it. For templates that render earlier turns differently
    /// once other turns follow. The number of samples is the number of answers.
    Each,
}

/// Options for converting conversations to samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EncodeOptions {
    /// Samples are truncated to this many tokens, and always to the model's number of positions.
    pub max_length: usize,
    /// The assistant turns that are trained.
    pub turns: TrainedTurns,
    /// Options for the chat template; a conversation's own tools and variables are added.
    pub render: RenderOptions,
    /// How to handle a conversation of which the template omits a part: a message whose role it ignores, tool calls, or
    /// the tools themselves.
    pub unwritten: Unwritten,
    /// How to handle a conversation with a trained answer that the template renders incompletely, such as one whose
    /// thought it removes. By default the answer is trained as rendered, and counted.
    pub altered: Unwritten,
}

impl Default for EncodeOptions {
    /// At most 2048 tokens, all assistant turns, the template's defaults; conversations of which the template omits a
    /// part are refused.
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

/// Remarks on a conversation that was converted to samples.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The indices of empty answers, which are not trained.
    pub(crate) empty: Vec<usize>,
    /// The indices of answers that the template renders incompletely.
    pub(crate) altered: Vec<usize>,
    /// The parts that the template does not render.
    pub(crate) unwritten: Vec<UnwrittenPart>,
}

impl Sample {
    /// Renders a conversation with the model's chat template and encodes it. The trained tokens are those of the
    /// assistant turns that `options` select, each with its end-of-turn token and with the turn's weight. For hooks,
    /// the response is the last trained turn, without its end-of-turn token. An answer that is empty or has the weight
    /// 0 is not trained.
    ///
    /// # Errors
    /// No tokenizer or template, a template that refuses the conversation or changes earlier turns,
    /// [`Error::Unwritten`], [`Error::Altered`], [`Error::NoEndOfTurn`], [`Error::Untrained`], [`Error::EmptyAnswer`],
    /// [`Error::BadWeights`], and [`Error::NothingTrained`], also if truncation to `max_length` removes all trained
    /// tokens. [`Error::BadOption`] for [`TrainedTurns::Each`] and several answers, because these are several samples.
    pub fn from_conversation(model: &CausalLm, conversation: &Conversation, options: &EncodeOptions) -> Result<Self> {
        let (tokenizer, template) = (model.tokenizer()?, model.chat_template()?);
        let max_length = options.max_length.min(model.config().max_positions);
        let options = EncodeOptions { max_length, ..options.clone() };
        Self::encode(tokenizer, template, model.stop_ids(), conversation, &options)
    }

    /// Like [`from_conversation`](Self::from_conversation), without a model. `stop_ids` are the tokens that end an
    /// answer.
    ///
    /// # Errors
    /// Those of [`from_conversation`](Self::from_conversation).
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
                expected: "another choice for a conversation with several answers, which would be several samples",
            }),
        }
    }
}

/// The samples of a conversation, not truncated: one, or with [`TrainedTurns::Each`] one per answer.
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
    let no_turn = NothingTrained::NoTurn { turns: answers.len() };
    let chosen = answers.get(first..).filter(|chosen| !chosen.is_empty()).ok_or(Error::NothingTrained(no_turn))?;
    let row = conversation.weight().map_err(Error::BadWeights)?;
    let weight = |message: &Message| message.weight().map_err(Error::BadWeights);
    let mut notes = Notes::default();
    let mut wanted = Vec::with_capacity(chosen.len());
    for &index in chosen {
        // A product that underflows f32 is 0.
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
    /// A sample with these answers, each with its weight; `None` if the template renders none of the answers.
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
            // The text that closes the turn is taken from a shorter rendering, because the template may continue the
            // whole text differently when other turns follow.
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

    /// The messages that are rendered, their text, and the byte ranges of the answers. If only one answer is trained
    /// and the template would render it differently because of the messages after it, those messages are omitted.
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
            (Err(TemplateError::PrefixChanged { .. }), [index]) => {
                let messages = &messages[..=*index];
                let (rendered, span) = answer_span(self.template, messages, render)?;
                Ok((messages, rendered.text, vec![span]))
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// The length in bytes of the common prefix of two texts, in whole characters.
fn common_prefix(left: &str, right: &str) -> usize {
    left.chars().zip(right.chars()).take_while(|(left, right)| left == right).map(|(left, _)| left.len_utf8()).sum()
}
