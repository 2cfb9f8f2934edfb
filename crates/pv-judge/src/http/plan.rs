use std::collections::HashMap;

use super::cache::{Sum, prompt_sum};
use crate::{Answered, Rubric};

/// What is to be asked: every different prompt once.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    rubrics: &'a [Rubric],
    answers: &'a [Answered<'a>],
    pub(super) jobs: Vec<Job>,
}

/// One prompt, and the verdicts that it gives.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) prompt: Sum,
    /// Indices of an answer and a rubric; the same prompt may be there several times.
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

    /// How many verdicts there will be.
    pub(super) fn total(&self) -> usize {
        self.rubrics.len() * self.answers.len()
    }

    /// The prompt of a job. It is put together anew, as all of them together may be larger than memory.
    pub(super) fn prompt(&self, job: &Job) -> String {
        // Every job has a pair.
        job.pairs.first().map(|(answer, rubric)| self.rubrics[*rubric].fill(&self.answers[*answer])).unwrap_or_default()
    }
}
