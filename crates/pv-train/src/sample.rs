//! Token ids with the marks of which are learnt.

use std::ops::Range;

use pv_model::{AddSpecial, CausalLm, ChatTemplate, RenderOptions, Sequence, Tokenizer, assistant_spans};

use crate::{Conversation, Error, Result};

/// Which of a conversation's assistant turns are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainedTurns {
    /// All of them.
    #[default]
    All,
    /// The last one.
    Last,
    /// Those from the given one on; the first assistant turn is number 0.
    From(usize),
}

/// How conversations become samples.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeOptions {
    /// Tokens beyond this many are cut off.
    pub max_length: usize,
    /// Which assistant turns are trained.
    pub turns: TrainedTurns,
    /// Options for the chat template.
    pub render: RenderOptions,
}

impl Default for EncodeOptions {
    /// At most 2048 tokens, all assistant turns, the template's defaults.
    fn default() -> Self {
        Self { max_length: 2048, turns: TrainedTurns::All, render: RenderOptions::default() }
    }
}

/// One sequence to learn from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    ids: Vec<u32>,
    trained: Vec<bool>,
    /// The words of each trained answer, without the tokens that end them.
    answers: Vec<Range<usize>>,
    response: Range<usize>,
}

impl Sample {
    /// A sample from token ids and, for each of them, whether the model learns to predict it. What hooks take for the
    /// response are the last trained tokens that stand together, for the prompt all before them.
    ///
    /// # Errors
    /// [`Error::MarksLength`]; [`Error::NothingTrained`] when no token after the first one, which nothing predicts, is
    /// trained.
    pub fn new(ids: Vec<u32>, trained: Vec<bool>) -> Result<Self> {
        if ids.len() != trained.len() {
            return Err(Error::MarksLength { ids: ids.len(), marks: trained.len() });
        }
        let Some(last) = trained.iter().rposition(|trained| *trained) else {
            return Err(Error::NothingTrained { reason: format!("none of {} tokens is marked", ids.len()) });
        };
        let start = trained[..last].iter().rposition(|trained| !trained).map_or(0, |before| before + 1);
        let mut answers = Vec::new();
        let mut at = 0;
        for run in trained.chunk_by(PartialEq::eq) {
            if run[0] {
                answers.push(at..at + run.len());
            }
            at += run.len();
        }
        Self::with_answers(ids, trained, answers, start..last + 1)
    }

    fn with_answers(
        ids: Vec<u32>,
        mut trained: Vec<bool>,
        answers: Vec<Range<usize>>,
        response: Range<usize>,
    ) -> Result<Self> {
        // Nothing predicts a sequence's first token.
        if let Some(first) = trained.first_mut() {
            *first = false;
        }
        if !trained.contains(&true) {
            return Err(Error::NothingTrained {
                reason: "only the first token is marked, which nothing predicts".into(),
            });
        }
        Ok(Self { ids, trained, answers, response })
    }

    /// A conversation as the model's chat template renders it. Trained are the words of the assistant's turns that
    /// `options` choose, each with the token that ends it; hooks take the last trained turn's words for the response.
    ///
    /// # Errors
    /// No tokenizer or template, a template that refuses the conversation or rewrites earlier turns,
    /// [`Error::NoEndOfTurn`], and [`Error::NothingTrained`], also when all trained tokens lie beyond `max_length`.
    pub fn from_conversation(model: &CausalLm, conversation: &Conversation, options: &EncodeOptions) -> Result<Self> {
        let (tokenizer, template) = (model.tokenizer()?, model.chat_template()?);
        Self::encode(tokenizer, template, model.stop_ids(), conversation, options)
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
        let messages = &conversation.messages;
        let render =
            RenderOptions { add_generation_prompt: false, continue_final_message: false, ..options.render.clone() };
        let text = template.render(messages, &render)?.text;
        let encoded = tokenizer.encode_with_offsets(&text, AddSpecial::No)?;
        let spans = assistant_spans(template, messages, &render)?;
        let indices: Vec<usize> = (0..messages.len()).filter(|i| messages[*i].role == "assistant").collect();
        let first = match options.turns {
            TrainedTurns::All => 0,
            TrainedTurns::Last => spans.len().saturating_sub(1),
            TrainedTurns::From(n) => n,
        };
        if first >= spans.len() {
            let reason = format!("the conversation has {} assistant turns", spans.len());
            return Err(Error::NothingTrained { reason });
        }
        let mut trained = vec![false; encoded.ids.len()];
        let mut response = 0..0;
        let mut answers = Vec::new();
        for (span, index) in spans.iter().zip(&indices).skip(first) {
            let words = encoded.tokens_touching(span);
            // What closes the turn; the whole text may go on differently where the template sees that turns follow.
            let alone = template.render(&messages[..=*index], &render)?.text;
            let closing = common_prefix(&text[span.end..], alone.get(span.end..).unwrap_or_default());
            let closing = span.end..span.end + closing;
            let after = encoded.tokens_touching(&closing);
            let end = after.clone().find(|token| *token >= words.end && stop_ids.contains(&encoded.ids[*token]));
            let Some(end) = end else {
                return Err(Error::NoEndOfTurn { index: *index, closing: text[closing].to_owned() });
            };
            let start = if words.is_empty() { end } else { words.start };
            trained[words.clone()].fill(true);
            trained[end] = true;
            response = start..if words.is_empty() { start } else { words.end };
            if !response.is_empty() {
                answers.push(response.clone());
            }
        }
        Self::with_answers(encoded.ids, trained, answers, response)?.cut(options.max_length)
    }

    /// The sample without the tokens beyond so many.
    ///
    /// # Errors
    /// [`Error::NothingTrained`] when all trained tokens lie beyond.
    pub fn cut(self, max_length: usize) -> Result<Self> {
        let Self { mut ids, mut trained, answers, response } = self;
        let length = ids.len();
        if length <= max_length {
            return Ok(Self { ids, trained, answers, response });
        }
        ids.truncate(max_length);
        trained.truncate(max_length);
        if !trained.contains(&true) {
            let reason = format!("all trained tokens lie beyond the first {max_length} of {length}");
            return Err(Error::NothingTrained { reason });
        }
        let cut = |range: Range<usize>| range.start.min(max_length)..range.end.min(max_length);
        let answers = answers.into_iter().map(cut).filter(|answer| !answer.is_empty()).collect();
        Self::with_answers(ids, trained, answers, cut(response))
    }

    /// The token ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// For each token whether the model learns to predict it; never the first one.
    pub fn trained(&self) -> &[bool] {
        &self.trained
    }

    /// The positions of the tokens that hooks take for the response; what comes before is the prompt.
    pub fn response(&self) -> Range<usize> {
        self.response.clone()
    }

    /// The positions of the words of each trained answer, without the tokens that end them; for a sample from marks, each
    /// run of marked tokens.
    pub fn answers(&self) -> &[Range<usize>] {
        &self.answers
    }

    /// How many tokens the trained answers' words have.
    pub fn answer_tokens(&self) -> usize {
        self.answers.iter().map(Range::len).sum()
    }

    /// How many tokens are trained.
    pub fn trained_count(&self) -> usize {
        self.trained.iter().filter(|trained| **trained).count()
    }

    pub(crate) fn sequence(&self) -> Sequence<'_> {
        let Range { start, end } = self.response;
        Sequence { prompt: &self.ids[..start], response: &self.ids[start..end], rest: &self.ids[end..] }
    }
}

/// How many bytes two texts begin with in common, in whole characters.
fn common_prefix(left: &str, right: &str) -> usize {
    left.chars().zip(right.chars()).take_while(|(left, right)| left == right).map(|(left, _)| left.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_is_the_response() {
        let marks = [true, true, false, false, true, true, false].to_vec();
        let sample = Sample::new((0..7).collect(), marks).expect("a sample");
        assert_eq!(sample.response(), 4..6);
        assert_eq!(sample.trained_count(), 3, "the first token is predicted by nothing");
        let Sequence { prompt, response, rest } = sample.sequence();
        assert_eq!((prompt, response, rest), (&[0, 1, 2, 3][..], &[4, 5][..], &[6][..]));
    }

    #[test]
    fn what_cannot_be_learnt_from_is_refused() {
        assert!(matches!(Sample::new(vec![1], vec![]), Err(Error::MarksLength { ids: 1, marks: 0 })));
        for trained in [vec![], vec![false, false], vec![true, false]] {
            let sample = Sample::new(vec![1; trained.len()], trained);
            assert!(matches!(sample, Err(Error::NothingTrained { .. })));
        }
    }
}
