use std::collections::HashMap;

use super::cache::{Sum, prompt_sum};
use crate::Rubric;
use crate::judge::Answered;

/// The prompts to send: each distinct prompt once.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    rubrics: &'a [Rubric],
    answers: &'a [Answered<'a>],
    pub(super) jobs: Vec<Job>,
}

/// One prompt, and its verdicts.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) prompt: Sum,
    /// Indices of answers and rubrics with this prompt.
    pub(super) pairs: Vec<(usize, usize)>,
}

impl<'a> Plan<'a> {
    /// All rubrics of the first answer, all of the second, and so on.
    pub(super) fn new(rubrics: &'a [Rubric], answers: &'a [Answered<'a>]) -> Self {
        let (mut jobs, mut known) = (Vec::<Job>::new(), HashMap::new());
        for (answer, answered) in answers.iter().enumerate() {
            for (rubric, asking) in rubrics.iter().enumerate() {
                let prompt = prompt_sum(&asking.fill(answered));
                let index = *known.entry(prompt).or_insert(jobs.len());
                match jobs.get_mut(index) {
                    Some(job) => job.pairs.push((answer, rubric)),
                    None => jobs.push(Job { prompt, pairs: vec![(answer, rubric)] }),
                }
            }
        }
        Self { rubrics, answers, jobs }
    }

    /// The number of verdicts.
    pub(super) fn total(&self) -> usize {
        self.rubrics.len() * self.answers.len()
    }

    /// The prompt of a job. It is rendered each time, since all prompts together may exceed the memory.
    pub(super) fn prompt(&self, job: &Job) -> String {
        // Every job has a pair.
        job.pairs.first().map(|(answer, rubric)| self.rubrics[*rubric].fill(&self.answers[*answer])).unwrap_or_default()
    }
}
