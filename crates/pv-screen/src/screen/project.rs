//! Reads and projects the data set's own answers, batch by batch, and stores the projections.

use std::collections::HashMap;

use pv_data::{Conversation, Damage, FileError, RunError};
use pv_vectors::scan::token_batches;
use serde::{Deserialize, Serialize};

use super::stream::{self, Item};
use super::{Base, Meter, Run, Step};
use crate::difference::{ReadOptions, Rows, difference};
use crate::hashes::{draw, key};
use crate::likelihood::{LikelihoodScore, likelihood};
use crate::sample::{Skip, Tokens, tokens_with};
use crate::{Error, Result};

/// A line of the journal: the projections of a distinct answer, or why there are none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) id: String,
    pub(super) prompt_id: String,
    /// The number of tokens of the answer.
    pub(super) tokens: usize,
    /// The answer's projection on each direction, in activation units.
    pub(super) answer: Vec<f32>,
    pub(super) prompt_last: Vec<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) likelihood: Option<LikelihoodScore>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) skip: Option<Skip>,
    /// Remarks on an answer that has projections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) noticed: Vec<Skip>,
}

impl Line {
    /// Whether the line has a value for every direction and persona.
    pub(super) fn fits(&self, directions: usize, personas: usize) -> bool {
        let finite = |values: &[f32]| values.len() == directions && values.iter().all(|value| value.is_finite());
        let likelihood = match &self.likelihood {
            Some(LikelihoodScore { surprise, gains }) => {
                gains.len() == personas && gains.values().chain([surprise]).all(|value| value.is_finite())
            }
            None => personas == 0,
        };
        self.skip.is_some() || (finite(&self.answer) && finite(&self.prompt_last) && likelihood)
    }
}

/// The values of a line that are kept in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The offset of the line.
    pub(super) at: u64,
    /// Whether it has projections.
    pub(super) ok: bool,
    /// The number of times that the answer occurs in the data set.
    pub(super) count: u32,
}

/// An answer's tokens, and the remarks on it.
type Noted = (Tokens, Vec<Skip>);

/// A distinct answer that waits for its batch.
struct Pending {
    id: String,
    prompt_id: String,
    conversation: Conversation,
}

impl Run<'_, '_, '_> {
    /// Counts the answers, so that the remaining work is known.
    pub(super) fn count(&mut self) -> Result<()> {
        const TELL: usize = 2000;
        let meter = Meter::new(Step::Counting, 0);
        let (inputs, options) = (self.inputs.clone(), &self.screen.options);
        stream::each(&inputs, options, |item| {
            if let Item::Answer { .. } = item {
                self.answers += 1;
                if self.answers.is_multiple_of(TELL) {
                    self.tell(&meter, self.answers, 0)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    pub(super) fn project(&mut self) -> Result<()> {
        let meter = Meter::new(Step::Projecting, self.entries.len());
        let (inputs, options) = (self.inputs.clone(), &self.screen.options);
        let (mut seen, mut chunk) = (HashMap::new(), Vec::new());
        let mut repeated = 0;
        stream::each(&inputs, options, |item| {
            let Item::Answer { conversation, .. } = item else { return Ok(()) };
            let (id, prompt_id) = Item::ids(&conversation);
            let count = seen.entry(key(&id)).or_insert(0);
            *count += 1;
            if *count > 1 {
                repeated += 1;
                return Ok(());
            }
            chunk.push(Pending { id, prompt_id, conversation });
            if chunk.len() == options.chunk {
                self.project_chunk(&std::mem::take(&mut chunk), &meter, repeated)?;
            }
            Ok(())
        })?;
        self.project_chunk(&chunk, &meter, repeated)?;
        self.journal.sync()?;
        for (key, count) in seen {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.count = count;
            }
        }
        // There should be no lines of answers that are not in the data set; they are ignored.
        self.entries.retain(|_, entry| entry.count > 0);
        Ok(())
    }

    /// The answers that share a pass depend only on the data and the options, and not on what is done already, so a run
    /// that was killed ends with bit-identical numbers.
    fn project_chunk(&mut self, chunk: &[Pending], meter: &Meter, repeated: usize) -> Result<()> {
        if chunk.iter().all(|pending| self.entries.contains_key(&key(&pending.id))) {
            return self.tell_projected(meter, repeated);
        }
        let encoded: Vec<_> = chunk.iter().map(|pending| self.encode(pending)).collect();
        let refused = chunk.iter().zip(&encoded).filter_map(|(pending, found)| Some((pending, found.as_ref().err()?)));
        let lines: Vec<Line> = refused.map(|(pending, skip)| line(pending, Some(skip.clone()))).collect();
        self.keep(lines)?;
        let mut queue: Vec<(&Pending, &Noted)> =
            chunk.iter().zip(&encoded).filter_map(|(pending, found)| Some((pending, found.as_ref().ok()?))).collect();
        let length = |(tokens, _): &Noted| tokens.prompt.len() + tokens.answer.len();
        // The longest first, so that a lack of memory shows immediately.
        queue.sort_by_key(|(_, tokens)| std::cmp::Reverse(length(tokens)));
        for batch in token_batches(&queue, self.screen.options.batch_tokens, |(_, tokens)| length(tokens)) {
            self.project_batch(batch)?;
            self.tell_projected(meter, repeated)?;
        }
        Ok(())
    }

    fn tell_projected(&mut self, meter: &Meter, repeated: usize) -> Result<()> {
        self.tell(meter, self.entries.len() + repeated, self.answers)
    }

    fn encode(&self, pending: &Pending) -> std::result::Result<Noted, Skip> {
        let options = &self.screen.options;
        let (found, noticed) = tokens_with(self.screen.model, &pending.conversation, &options.reading)?;
        let positions = self.screen.model.config().max_positions;
        let (length, limit) = (found.prompt.len() + found.answer.len(), options.max_tokens.unwrap_or(positions));
        let limit = limit.min(positions);
        if length > limit {
            return Err(Skip::TooLong { tokens: length, limit });
        }
        let asked = found.prompt.len() + options.answers.max_new_tokens;
        if options.base != Base::None && asked > positions {
            return Err(Skip::TooLong { tokens: asked, limit: positions });
        }
        Ok((found, noticed))
    }

    fn project_batch(&mut self, batch: &[(&Pending, &Noted)]) -> Result<()> {
        if batch.iter().all(|(pending, _)| self.entries.contains_key(&key(&pending.id))) {
            return Ok(());
        }
        let screen = self.screen;
        let prompts: Vec<&[u32]> = batch.iter().map(|(_, (tokens, _))| tokens.prompt.as_slice()).collect();
        let answers: Vec<&[u32]> = batch.iter().map(|(_, (tokens, _))| tokens.answer.as_slice()).collect();
        let rows = Rows { prompts: &prompts, answers: &answers, base: &[] };
        let units: Vec<_> = screen.directions.iter().map(|named| named.direction.clone()).collect();
        let options = ReadOptions { batch_tokens: screen.options.batch_tokens, max_tokens: Some(usize::MAX) };
        let columns = difference(screen.model, &rows, &units, &options)?;
        let mut likelihoods = self.likelihoods(&rows, &options)?;
        let mut lines = Vec::with_capacity(batch.len());
        for (row, (pending, (tokens, noticed))) in batch.iter().enumerate() {
            let answer: Option<Vec<f32>> = columns.iter().map(|column| column.answer[row]).collect();
            let prompt_last: Option<Vec<f32>> = columns.iter().map(|column| column.prompt_last[row]).collect();
            let (Some(answer), Some(prompt_last)) = (answer, prompt_last) else {
                return Err(Error::NotProjected { id: pending.id.clone() });
            };
            let likelihood = likelihoods.get_mut(row).map(std::mem::take);
            let (tokens, noticed) = (tokens.answer.len(), noticed.clone());
            let line = Line { tokens, answer, prompt_last, likelihood, noticed, ..line(pending, None) };
            if !line.fits(units.len(), self.personas.len()) {
                return Err(Error::NotFinite { prompt: pending.prompt_id.clone() });
            }
            lines.push(line);
        }
        self.keep(lines)
    }

    /// The likelihoods of each row's answer; empty without personas.
    fn likelihoods(&mut self, rows: &Rows<'_>, options: &ReadOptions) -> Result<Vec<LikelihoodScore>> {
        if self.personas.is_empty() {
            return Ok(Vec::new());
        }
        let columns = likelihood(self.screen.model, rows, self.personas, options)?;
        let mut scores = vec![LikelihoodScore::default(); rows.prompts.len()];
        for (persona, column) in self.personas.iter().zip(columns) {
            for (score, found) in scores.iter_mut().zip(column) {
                let found = found.ok_or(Error::EmptyAnswer)?;
                score.surprise = found.surprise();
                score.gains.insert(persona.label.clone(), found.gain());
            }
        }
        Ok(scores)
    }

    /// Appends the new lines in one write.
    fn keep(&mut self, lines: Vec<Line>) -> Result<()> {
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        for line in lines.iter().filter(|line| !self.entries.contains_key(&key(&line.id))) {
            places.push((key(&line.id), bytes.len() as u64, line.skip.is_none()));
            let failed = |error: serde_json::Error| FileError::Write {
                path: self.journal.path().to_owned(),
                source: error.into(),
            };
            serde_json::to_writer(&mut bytes, line).map_err(failed)?;
            bytes.push(b'\n');
        }
        let start = self.journal.append(&bytes)?;
        for (key, at, ok) in places {
            self.entries.insert(key, Entry { at: start + at, ok, count: 0 });
        }
        Ok(())
    }

    /// Reads the line of an answer.
    pub(super) fn line(&mut self, at: u64) -> Result<Line> {
        let bytes = self.journal.line(at)?;
        let damaged =
            |source| RunError::Damaged { path: self.journal.path().to_owned(), source: Damage::LineAt { at, source } };
        Ok(serde_json::from_slice(&bytes).map_err(damaged)?)
    }

    /// Sorts the answers with projections in a random but reproducible order.
    pub(super) fn draw_order(&mut self) -> Result<()> {
        let mut places: Vec<u64> = self.entries.values().filter(|entry| entry.ok).map(|entry| entry.at).collect();
        places.sort_unstable();
        let mut order = Vec::with_capacity(places.len());
        for at in places {
            let id = self.line(at)?.id;
            order.push((draw(self.screen.options.seed, &id), key(&id)));
        }
        order.sort_unstable();
        self.order = order;
        Ok(())
    }
}

fn line(pending: &Pending, skip: Option<Skip>) -> Line {
    let Pending { id, prompt_id, .. } = pending;
    let (id, prompt_id) = (id.clone(), prompt_id.clone());
    let (answer, prompt_last, noticed) = Default::default();
    Line { id, prompt_id, tokens: 0, answer, prompt_last, likelihood: None, skip, noticed }
}
