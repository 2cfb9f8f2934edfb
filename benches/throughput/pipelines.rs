//! Whole jobs: a vector from a trait's prompts, and projections of texts.

use std::ops::ControlFlow;
use std::time::Instant;

use pv_examples::Result;
use pv_hooks::Layer;
use pv_judge::judge::{Answered, Judged, Verdicts};
use pv_judge::score::Evidence;
use pv_judge::{Judge, Rubric, Score, TraitSpec, Verdict};
use pv_model::batch::Sequence;
use pv_model::{CausalLm, Sampling};
use pv_vectors::scan::{ScanOptions, scan};
use pv_vectors::vector::Pooling;
use pv_vectors::{Direction, ExtractOptions, Filter, RolloutOptions, extract};

use crate::measured::{Measured, ids, wave};

/// So many questions, each under one pair of instructions, are answered once.
const QUESTIONS: usize = 10;
const NEW: usize = 64;
const TEXTS: usize = 32;

/// From a trait's prompts to its vector at all layers: 20 greedy answers of up to 64 tokens. The time of a judge is not
/// part of it. The check is the length of the response means' difference at the middle layer.
pub(crate) fn extraction(model: &CausalLm) -> Result<Measured> {
    let mut spec = TraitSpec::builtin("evil")?;
    spec.instruction.truncate(1);
    spec.extraction.truncate(QUESTIONS);
    let options = ExtractOptions {
        rollouts: RolloutOptions {
            per_prompt: 1,
            max_new_tokens: NEW,
            sampling: Sampling::GREEDY,
            batch_size: 2 * QUESTIONS,
            ..RolloutOptions::default()
        },
        filter: Filter { min_kept: QUESTIONS, ..Filter::default() },
        ..ExtractOptions::default()
    };
    let folder = tempfile::tempdir()?;
    let start = Instant::now();
    let found = extract(model, &spec, &KeepsAll, folder.path(), &options, |_| ControlFlow::Continue(()))?;
    let seconds = start.elapsed().as_secs_f64();
    let tokens = found.run.records().iter().map(|record| record.tokens.len()).sum();
    let middle = Layer::hidden_state(model.config().layers / 2);
    let check = found.vector.direction(middle)?.norm();
    Ok(Measured { tokens, seconds, check: Some(check) })
}

/// In place of a judge: the plan's answers come in turn from the eliciting and the suppressing side.
struct KeepsAll;

impl Judge for KeepsAll {
    fn name(&self) -> String {
        "none".to_owned()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> pv_judge::Result<Vec<Verdicts>> {
        let total = answers.len() * rubrics.len();
        let verdict = |answer: usize, rubric: &Rubric| {
            let shown = rubric.name == pv_judge::rubric::COHERENCE || answer.is_multiple_of(2);
            Verdict::Scored(Score { value: if shown { 100.0 } else { 0.0 }, evidence: Evidence::Exact })
        };
        let mut done = 0;
        for answer in 0..answers.len() {
            for (rubric, asked) in rubrics.iter().enumerate() {
                done += 1;
                if on_verdict(Judged { answer, rubric, verdict: verdict(answer, asked), done, total }).is_break() {
                    return Err(pv_judge::Error::Cancelled { done, total });
                }
            }
        }
        Ok((0..answers.len()).map(|answer| rubrics.iter().map(|rubric| verdict(answer, rubric)).collect()).collect())
    }
}

/// The projections of 32 texts' response means on one direction at the middle layer. The check is the mean of them.
pub(crate) fn projection_scan(model: &CausalLm) -> Result<Measured> {
    let middle = Layer::hidden_state(model.config().layers / 2);
    let direction = Direction { layer: middle, values: wave(model), mean_residual_norm: None }.unit()?;
    let texts: Vec<(Vec<u32>, usize)> = (0..TEXTS)
        .map(|text| {
            let (prompt, response) = (16 + text * 37 % 64, 32 + text * 61 % 192);
            (ids(model, text, prompt + response), prompt)
        })
        .collect();
    let sequences: Vec<Sequence<'_>> = texts
        .iter()
        .map(|(ids, prompt)| Sequence { prompt: &ids[..*prompt], response: &ids[*prompt..], rest: &[] })
        .collect();
    let options = ScanOptions { poolings: vec![Pooling::ResponseMean], ..ScanOptions::default() };
    let start = Instant::now();
    let found = scan(model, &sequences, &[direction], &options, |_, _| ControlFlow::Continue(()))?;
    let seconds = start.elapsed().as_secs_f64();
    let sum: f64 = found.items.iter().filter_map(|item| item.projection(Pooling::ResponseMean, 0)).map(f64::from).sum();
    let tokens = texts.iter().map(|(ids, _)| ids.len()).sum();
    Ok(Measured { tokens, seconds, check: Some(sum / TEXTS as f64) })
}
