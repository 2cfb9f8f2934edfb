//! Generates the base model's answers to as many of the prompts as needed.

use std::collections::{BTreeMap, HashMap, HashSet};

use pv_hooks::Layer;

use super::stream::{self, Item};
use super::{Base, Meter, Run, Step};
use crate::base_answers::BaseAnswers;
use crate::estimate::{FIRST_LOOK, Known, Look, Method, Sequential};
use crate::hashes::key;
use crate::{Error, Result};

/// The base answers of a screening.
pub(super) struct Answered<'a> {
    pub(super) base: Option<BaseAnswers<'a>>,
    /// The number of answers, from the beginning of the random order, that have a base answer.
    pub(super) chosen: usize,
    /// The looks at each direction that determined this number.
    pub(super) looks: BTreeMap<String, Vec<Look>>,
    /// The number of looks at all directions together; 0 if the number of base answers was fixed.
    pub(super) rounds: usize,
}

/// The projections on all directions, in the random order, `[samples × directions]`, in activation units.
pub(super) struct Columns {
    pub(super) counts: Vec<u32>,
    answer: Vec<f32>,
    prompt_last: Vec<f32>,
    /// NaN if unknown.
    base: Vec<f64>,
    width: usize,
}

impl Columns {
    pub(super) fn of(&self, direction: usize) -> Vec<Known> {
        let sample = |(row, count): (usize, &u32)| {
            let at = row * self.width + direction;
            Known {
                answer: self.answer[at].into(),
                prompt_last: self.prompt_last[at].into(),
                base: Some(self.base[at]).filter(|base| !base.is_nan()),
                count: f64::from(*count),
            }
        };
        self.counts.iter().enumerate().map(sample).collect()
    }
}

impl<'a> Run<'_, 'a, '_> {
    pub(super) fn answer(&mut self) -> Result<Answered<'a>> {
        self.draw_order()?;
        let (screen, all) = (self.screen, self.order.len());
        let options = &screen.options;
        let chosen = match options.base {
            Base::Every => all,
            Base::Random { size } => size.min(all),
            Base::Until { most, .. } => most.min(all),
            Base::None => 0,
        };
        if chosen == 0 {
            return Ok(Answered { base: None, chosen, looks: BTreeMap::new(), rounds: 0 });
        }
        let root = options.cache.clone().unwrap_or_else(|| self.folder.file("base"));
        let layers: Vec<Layer> = screen.directions.iter().map(|named| named.direction.layer()).collect();
        let mut base = BaseAnswers::open_for(screen.model, &root, &options.answers, &options.reading.render, &layers)?;
        let (mut looks, mut rounds) = (BTreeMap::new(), 0);
        let chosen = match options.base {
            Base::Every => {
                self.answer_every(&mut base)?;
                chosen
            }
            Base::Until { .. } => {
                let prompts = self.prompts(chosen)?;
                self.answer_until(&mut base, &prompts, &mut looks, &mut rounds)?
            }
            _ => {
                let prompts = self.prompts(chosen)?;
                let meter = meter(&base, &prompts);
                self.generate(&mut base, &prompts, &meter, prompts.len())?;
                chosen
            }
        };
        Ok(Answered { base: Some(base), chosen, looks, rounds })
    }

    /// Generates answers to all prompts, while the data set is streamed.
    fn answer_every(&mut self, base: &mut BaseAnswers<'a>) -> Result<()> {
        let screen = self.screen;
        let (inputs, options) = (self.inputs.clone(), &screen.options);
        let mut distinct = HashSet::new();
        for at in 0..self.order.len() {
            distinct.insert(key(&self.ranked(at)?.prompt_id));
        }
        let total = distinct.len();
        let mut meter = Meter::new(Step::Answering, 0);
        let mut chunk: Vec<(String, Vec<u32>)> = Vec::new();
        let mut done = 0;
        stream::each(&inputs, options, |item| {
            let Item::Answer { conversation, .. } = item else { return Ok(()) };
            let (id, prompt_id) = Item::ids(&conversation);
            let wanted = self.entries.get(&key(&id)).is_some_and(|entry| entry.ok);
            if !wanted || !distinct.remove(&key(&prompt_id)) {
                return Ok(());
            }
            if base.contains(&prompt_id) {
                done += 1;
                meter.before += 1;
                return Ok(());
            }
            chunk.push((prompt_id, options.reading.prompt(screen.model, &conversation)?));
            if chunk.len() == options.chunk {
                let prompts = std::mem::take(&mut chunk);
                self.generate_from(base, &prompts, &meter, done, total)?;
                done += prompts.len();
            }
            Ok(())
        })?;
        self.generate_from(base, &chunk, &meter, done, total)
    }

    /// The prompts of the first answers of the random order, in that order, without duplicates.
    fn prompts(&mut self, chosen: usize) -> Result<Vec<(String, Vec<u32>)>> {
        let screen = self.screen;
        let (inputs, options) = (self.inputs.clone(), &screen.options);
        let mut ranks: HashMap<u128, usize> =
            self.order[..chosen].iter().enumerate().map(|(rank, (_, key))| (*key, rank)).collect();
        let mut found: Vec<Option<(String, Vec<u32>)>> = vec![None; chosen];
        stream::each(&inputs, options, |item| {
            let Item::Answer { conversation, .. } = item else { return Ok(()) };
            let (id, prompt_id) = Item::ids(&conversation);
            if let Some(rank) = ranks.remove(&key(&id)) {
                found[rank] = Some((prompt_id, options.reading.prompt(screen.model, &conversation)?));
            }
            Ok(())
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    fn generate(
        &mut self,
        base: &mut BaseAnswers<'a>,
        prompts: &[(String, Vec<u32>)],
        meter: &Meter,
        total: usize,
    ) -> Result<()> {
        for group in prompts.chunks(self.screen.options.chunk) {
            let done = prompts.iter().filter(|(id, _)| base.contains(id)).count();
            self.generate_from(base, group, meter, done, total)?;
        }
        Ok(())
    }

    fn generate_from(
        &mut self,
        base: &mut BaseAnswers<'a>,
        prompts: &[(String, Vec<u32>)],
        meter: &Meter,
        mut done: usize,
        total: usize,
    ) -> Result<()> {
        base.generate(prompts, || {
            done += 1;
            (self.on_progress)(meter.read(done.min(total), total))
        })?;
        Ok(())
    }

    /// Doubles the number of base answers until every direction is decided, and returns the number of looks.
    fn answer_until(
        &mut self,
        base: &mut BaseAnswers<'a>,
        prompts: &[(String, Vec<u32>)],
        looks: &mut BTreeMap<String, Vec<Look>>,
        rounds: &mut usize,
    ) -> Result<usize> {
        let screen = self.screen;
        let Base::Until { first, stop, .. } = screen.options.base else { return Ok(prompts.len()) };
        let mut open: Vec<(usize, Sequential)> = (0..screen.directions.len())
            .map(|at| (at, Sequential::new(stop, Method::ControlVariate, screen.options.estimate)))
            .collect();
        let meter = meter(base, prompts);
        let mut now = first.max(FIRST_LOOK).min(prompts.len());
        loop {
            self.generate(base, &prompts[..now], &meter, prompts.len())?;
            *rounds += 1;
            let columns = self.columns(Some(base), now)?;
            let mut undecided = Vec::new();
            for (at, mut sequential) in open {
                let look = match sequential.look(&columns.of(at)) {
                    // Too many of the answers are empty; more answers may suffice.
                    Err(Error::TooFew { .. }) => None,
                    look => Some(look?),
                };
                looks.entry(screen.directions[at].label()).or_default().extend(look);
                if look.is_none_or(|look| look.decision.is_none()) {
                    undecided.push((at, sequential));
                }
            }
            if undecided.is_empty() || now == prompts.len() {
                return Ok(now);
            }
            open = undecided;
            now = (2 * now).min(prompts.len());
        }
    }

    /// Reads the line of the answer at a position of the random order.
    pub(super) fn ranked(&mut self, rank: usize) -> Result<super::project::Line> {
        let missing = || Error::NotProjected { id: format!("number {rank}") };
        let (_, key) = self.order.get(rank).ok_or_else(missing)?;
        let at = self.entries.get(key).ok_or_else(missing)?.at;
        self.line(at)
    }

    /// The projections of all answers, with the base answers of the first `chosen`.
    pub(super) fn columns(&mut self, mut base: Option<&mut BaseAnswers<'a>>, chosen: usize) -> Result<Columns> {
        let width = self.screen.directions.len();
        let mut columns =
            Columns { counts: Vec::new(), answer: Vec::new(), prompt_last: Vec::new(), base: Vec::new(), width };
        for rank in 0..self.order.len() {
            let line = self.ranked(rank)?;
            let known = match &mut base {
                Some(base) if rank < chosen => self.base_projections(base, &line.prompt_id)?,
                _ => None,
            };
            columns.counts.push(self.entries.get(&self.order[rank].1).map_or(1, |entry| entry.count));
            columns.answer.extend(line.answer);
            columns.prompt_last.extend(line.prompt_last);
            columns.base.extend(known.unwrap_or_else(|| vec![f64::NAN; width]));
        }
        Ok(columns)
    }

    /// The projections of a base answer on the directions, `[directions]`; `None` if it is empty or not found.
    pub(super) fn base_projections(&self, base: &mut BaseAnswers<'a>, prompt_id: &str) -> Result<Option<Vec<f64>>> {
        let mut means: BTreeMap<Layer, Vec<f32>> = BTreeMap::new();
        let mut projections = Vec::with_capacity(self.screen.directions.len());
        for named in &self.screen.directions {
            let layer = named.direction.layer();
            if let std::collections::btree_map::Entry::Vacant(place) = means.entry(layer) {
                let Some(mean) = base.mean(prompt_id, layer)? else { return Ok(None) };
                place.insert(mean);
            }
            let mean = means.get(&layer).map_or(&[][..], Vec::as_slice);
            let other = || Error::OtherWidth { layer, expected: named.direction.values().len(), found: mean.len() };
            projections.push(named.direction.projection(mean).ok_or_else(other)?);
        }
        Ok(Some(projections))
    }
}

fn meter(base: &BaseAnswers<'_>, prompts: &[(String, Vec<u32>)]) -> Meter {
    Meter::new(Step::Answering, prompts.iter().filter(|(id, _)| base.contains(id)).count())
}
