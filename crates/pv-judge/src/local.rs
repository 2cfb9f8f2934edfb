//! A local model as a judge, with the exact distribution over its numbers.

mod distribution;
mod spellings;

use std::borrow::Borrow;
use std::ops::ControlFlow;

use pv_hooks::NoHook;
use pv_model::continuations::{Continuations, ScoreOptions};
use pv_model::{CausalLm, Message, RenderOptions};

pub use distribution::NumberDistribution;
use spellings::Spellings;

use crate::judge::{Answered, Judged, Verdicts};
use crate::{Abstention, Error, Judge, Result, Rubric, Verdict};

/// Judges with a model on this machine: the filled rubric is the user's message, and the score is the expectation over
/// the numbers 0 to 100 with which the model may start its reply.
///
/// Unlike a server's twenty most likely tokens, the distribution is complete, whether the model's tokenizer has a token
/// for every number, writes numbers digit by digit, or mixes both; [`NumberDistribution`] defines what is counted. A
/// number that is one token has the probability that a server would report for it.
///
/// The model may be owned, borrowed or shared (`CausalLm`, `&CausalLm`, `Arc<CausalLm>`).
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use pv_judge::judge::Answered;
/// use pv_judge::{Judge, LocalJudge, Rubric};
/// use pv_model::device::default_dtype;
/// use pv_model::{CausalLm, device};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = device("flex")?;
/// let model = CausalLm::from_folder("models/judge", &device, default_dtype(&device))?;
/// let judge = LocalJudge::new(&model)?;
/// let rubric = Rubric::new("brevity", "How brief is the answer {answer} to {question}? Say a number from 0 to 100.")?;
/// let answers = [Answered { question: "Why?", answer: "Because." }];
/// let verdicts = judge.judge(&[rubric], &answers, &mut |_| ControlFlow::Continue(()))?;
/// assert!(verdicts[0][0].value().is_some_and(|score| score > 50.0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LocalJudge<M> {
    model: M,
    template: RenderOptions,
    options: ScoreOptions,
    spellings: Spellings,
}

impl<M: Borrow<CausalLm>> LocalJudge<M> {
    /// A judge that renders its prompts with the model's default chat template.
    ///
    /// # Errors
    /// A model without tokenizer or chat template; [`Error::NumbersAlike`] if its tokenizer does not distinguish the
    /// numbers.
    pub fn new(model: M) -> Result<Self> {
        Self::rendered(model, &RenderOptions::default())
    }

    /// A judge that renders its prompts with these options, such as the date that a template needs, or a variable that
    /// disables reasoning. Prompts always end with the header of the model's reply.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and an error of a template that rejects the options.
    pub fn rendered(model: M, template: &RenderOptions) -> Result<Self> {
        let template = template.as_prompt();
        let spellings = Spellings::new(model.borrow(), &template)?;
        Ok(Self { model, template, options: ScoreOptions::default(), spellings })
    }

    /// Sets the batch sizes.
    #[must_use]
    pub fn with_options(self, options: ScoreOptions) -> Self {
        Self { options, ..self }
    }

    /// The tokens of the prompt for an answer.
    ///
    /// # Errors
    /// A template that rejects the message, or a text that cannot be encoded.
    pub fn prompt(&self, rubric: &Rubric, answered: &Answered<'_>) -> Result<Vec<u32>> {
        Ok(self.model.borrow().prompt_with(&[Message::user(rubric.fill(answered))], &self.template)?)
    }

    /// The whole distribution of one verdict.
    ///
    /// # Errors
    /// Those of [`judge`](Judge::judge); [`Error::PromptTooLong`] for a prompt longer than the model's number of
    /// positions.
    pub fn distribution(&self, rubric: &Rubric, answered: &Answered<'_>) -> Result<NumberDistribution> {
        let prompt = self.prompt(rubric, answered)?;
        if let Some((tokens, limit)) = self.excess(&prompt) {
            return Err(Error::PromptTooLong { rubric: rubric.name.clone(), answer: 0, tokens, limit });
        }
        let mut found = NumberDistribution::default();
        self.read(&[prompt], |_, distribution| {
            found = distribution;
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The number of tokens of a prompt with the longest reply, and the limit, if the limit is exceeded.
    fn excess(&self, prompt: &[u32]) -> Option<(usize, usize)> {
        let (tokens, limit) = (prompt.len() + self.spellings.longest(), self.model.borrow().config().max_positions);
        (tokens > limit).then_some((tokens, limit))
    }

    /// Reports the distribution after each prompt.
    fn read(
        &self,
        prompts: &[Vec<u32>],
        mut on_read: impl FnMut(usize, NumberDistribution) -> ControlFlow<()>,
    ) -> Result<()> {
        let continuations = self.spellings.tokens();
        let prompts: Vec<_> = prompts.iter().map(|prompt| Continuations { prompt, continuations }).collect();
        self.model.borrow().score_continuations(&prompts, &self.options, &mut NoHook, |scored| {
            on_read(scored.prompt, self.spellings.distribution(&scored.log_probs))
        })?;
        Ok(())
    }
}

impl<M: Borrow<CausalLm>> Judge for LocalJudge<M> {
    fn name(&self) -> String {
        let name = self.model.borrow().name();
        match serde_json::to_string(&self.template) {
            // Another rendering may lead to other verdicts and must not resume with these.
            Ok(options) if !self.template.is_default() => format!("{name}, read locally, rendered with {options}"),
            _ => format!("{name}, read locally"),
        }
    }

    /// All prompts are rendered and checked before the first pass; shorter ones come first. A prompt longer than the
    /// model's number of positions is an abstention of its own kind ([`Abstention::TooLong`]).
    ///
    /// # Errors
    /// Those of the model; [`Error::Cancelled`].
    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> Result<Vec<Verdicts>> {
        let total = answers.len() * rubrics.len();
        let mut verdicts: Vec<Option<Verdict>> = vec![None; total];
        let (mut prompts, mut places) = (Vec::with_capacity(total), Vec::with_capacity(total));
        for (answer, answered) in answers.iter().enumerate() {
            for (rubric, asked) in rubrics.iter().enumerate() {
                let (prompt, index) = (self.prompt(asked, answered)?, answer * rubrics.len() + rubric);
                match self.excess(&prompt) {
                    Some((tokens, limit)) => {
                        verdicts[index] = Some(Verdict::Abstained(Abstention::TooLong { tokens, limit }));
                    }
                    None => {
                        prompts.push(prompt);
                        places.push(index);
                    }
                }
            }
        }
        let (mut done, mut broken_off) = (0, false);
        let mut hand = |index: usize, verdict: Verdict| {
            done += 1;
            let (answer, rubric) = (index / rubrics.len(), index % rubrics.len());
            let flow = on_verdict(Judged { answer, rubric, verdict, done, total });
            broken_off = flow.is_break();
            flow
        };
        let too_long: Vec<_> = verdicts.iter().enumerate().filter_map(|(at, one)| Some((at, one.clone()?))).collect();
        if !too_long.is_empty() {
            let judge = self.name();
            tracing::warn!(judge, prompts = too_long.len(), "prompts are too long for the judge and get no score");
        }
        let all_told = too_long.into_iter().all(|(index, verdict)| hand(index, verdict).is_continue());
        if all_told && !prompts.is_empty() {
            self.read(&prompts, |read, distribution| {
                let (index, verdict) = (places[read], distribution.verdict());
                verdicts[index] = Some(verdict.clone());
                hand(index, verdict)
            })?;
        }
        if broken_off {
            return Err(Error::Cancelled { done, total });
        }
        let mut verdicts = verdicts.into_iter().flatten();
        Ok(answers.iter().map(|_| verdicts.by_ref().take(rubrics.len()).collect()).collect())
    }
}
