//! Trait expression on the organism.

use std::cell::Cell;

use pv_hooks::Hook;
use pv_judge::judge::{Answered, Judged, Verdicts};
use pv_judge::{Abstention, Judge, Rubric, Verdict};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_train::measure::evaluate::{Comparison, EvaluateOptions, Evaluation, EvaluationResults};
use pv_train::measure::{BootstrapOptions, MeasureError};

use super::*;

pub(super) fn options() -> EvaluateOptions {
    EvaluateOptions {
        per_question: 1,
        max_new_tokens: 80,
        sampling: SAMPLING,
        seed: seed(0),
        ..EvaluateOptions::default()
    }
}

fn run(
    model: &CausalLm,
    specs: &[TraitSpec],
    judge: &dyn Judge,
    options: &EvaluateOptions,
    hook: &mut impl Hook,
) -> EvaluationResults {
    let evaluation = Evaluation::new(model, specs, judge, options).expect("an evaluation");
    evaluation.run(folder().path(), hook, go_on).expect("results")
}

fn mean(results: &EvaluationResults, which: Trait) -> [f64; 2] {
    let found = results.get(which.name()).expect("measured");
    [found.expression.mean, found.coherence.mean].map(|mean| mean.expect("scored"))
}

#[test]
fn effects_of_prompts_finetuning_and_steering_are_measured() {
    let which = Trait::Optimism;
    let specs = [the_spec(which), the_spec(Trait::Evil)];
    let prompted = EvaluateOptions { system: Some(eliciting(which)), ..options() };
    let direction = vector(which).direction(layer(7)).expect("a direction");
    let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(-1.0), Positions::Response).expect("a direction");
    let steered = EvaluateOptions { intervention: Some("−1 × optimism at layer 7".into()), ..options() };
    let named = |name: &str, results| (name.to_owned(), results);
    let all = [
        named("base", run(model(), &specs, &ExactJudge, &options(), &mut NoHook)),
        named("prompted", run(model(), &specs, &ExactJudge, &prompted, &mut NoHook)),
        named("finetuned", run(optimist(), &specs, &ExactJudge, &options(), &mut NoHook)),
        named("steered back", run(optimist(), &specs, &ExactJudge, &steered, &mut steerer)),
    ];
    for (name, results) in &all {
        let evil = mean(results, Trait::Evil);
        println!("{name}: optimism {:?}, evil {evil:?} (expression, coherence)", mean(results, which));
    }
    let [base, prompted, tuned, back] = [0, 1, 2, 3].map(|at| mean(&all[at].1, which)[0]);
    assert!(base <= 10.0 && prompted >= 70.0 && tuned >= 50.0 && back <= tuned - 10.0);

    let comparison = Comparison::new(&all, &BootstrapOptions::default()).expect("a comparison");
    assert_eq!(comparison.rows.len(), 8);
    let row = comparison.get("optimism", "finetuned").expect("a row");
    let change = row.expression_change.expect("questions in common");
    assert!((change.mean - (tuned - base)).abs() < 1e-9, "one answer per question: means of differences are those");
    assert!(change.interval.expect("many questions").low > 0.0 && change.pairs == 20);
    assert_eq!(comparison.get("optimism", "base").expect("a row").expression_change, None);
    assert_eq!(comparison.to_csv().expect("a table").lines().count(), 9);
    let read: Comparison = serde_json::from_str(&comparison.to_json()).expect("JSON");
    assert_eq!(read.models, ["base", "prompted", "finetuned", "steered back"]);

    // With one seed, the answers use the same random numbers for every model.
    let seeds = |at: usize| -> Vec<u64> { all[at].1.traits[0].scores.iter().map(|scores| scores.seed).collect() };
    assert_eq!(seeds(0), seeds(2));
    let mut other = all[1].clone();
    other.1.plan.seed = 8;
    let refused = Comparison::new(&[all[0].clone(), other], &BootstrapOptions::default());
    assert!(matches!(refused, Err(MeasureError::Mismatch { what, .. }) if what == "seed"));
    let twice = Comparison::new(&[all[0].clone(), all[0].clone()], &BootstrapOptions::default());
    assert!(matches!(twice, Err(MeasureError::Setting(_))));
    assert!(Comparison::new(&[], &BootstrapOptions::default()).is_err());
}

/// Like the exact judge, but abstains on every third question, and counts the requests.
pub(super) struct Reserved {
    pub(super) asked: Cell<usize>,
    pub(super) reports: bool,
}

fn silent(question: &str) -> bool {
    the_spec(Trait::Optimism).evaluation.iter().position(|known| known == question).is_some_and(|at| at % 3 == 0)
}

impl Judge for Reserved {
    fn name(&self) -> String {
        "a reserved judge".to_owned()
    }

    fn judge(
        &self,
        rubrics: &[Rubric],
        answers: &[Answered<'_>],
        on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
    ) -> pv_judge::Result<Vec<Verdicts>> {
        self.asked.set(self.asked.get() + rubrics.len() * answers.len());
        let mut all = ExactJudge.judge(rubrics, answers, &mut |_| ControlFlow::Continue(()))?;
        let total = rubrics.len() * answers.len();
        for (answer, verdicts) in all.iter_mut().enumerate() {
            if silent(answers[answer].question) {
                verdicts.fill(Verdict::Abstained(Abstention::NotANumber { text: "no".into() }));
            }
            for (rubric, verdict) in verdicts.iter().enumerate().filter(|_| self.reports) {
                let judged = Judged { answer, rubric, verdict: verdict.clone(), done: 1, total };
                if on_verdict(judged).is_break() {
                    return Err(pv_judge::Error::Cancelled { done: 1, total });
                }
            }
        }
        Ok(all)
    }
}

#[test]
fn abstentions_are_counted_and_never_scored() {
    let specs = [the_spec(Trait::Optimism)];
    let options = EvaluateOptions { system: Some(eliciting(Trait::Optimism)), per_question: 2, ..options() };
    for reports in [true, false] {
        let judge = Reserved { asked: Cell::new(0), reports };
        let found = run(model(), &specs, &judge, &options, &mut NoHook).traits.remove(0);
        assert_eq!(judge.asked.get(), 80);
        let expression = found.expression;
        assert_eq!((expression.questions, expression.scored, expression.abstained), (13, 26, 14));
        assert_eq!((found.answers, found.coherence.abstained), (40, 14));
        let scores: Vec<f64> = found.scores.iter().filter_map(|scores| scores.expression).collect();
        let expected = scores.iter().sum::<f64>() / 26.0;
        assert!(scores.len() == 26 && (expression.mean.expect("scored") - expected).abs() < 1e-9 && expected > 60.0);
        assert!(found.scores.iter().all(|scores| scores.expression.is_none() == (scores.question % 3 == 0)));
    }
}

#[test]
fn invalid_evaluations_are_refused() {
    let optimism = the_spec(Trait::Optimism);
    let refused = |specs: &[TraitSpec], options: EvaluateOptions| {
        let error = Evaluation::new(model(), specs, &ExactJudge, &options).expect_err("refused");
        assert!(matches!(error, MeasureError::Setting(_)), "{error}");
    };
    refused(&[], options());
    refused(&[optimism.clone(), optimism.clone()], options());
    refused(&[TraitSpec { evaluation: Vec::new(), ..optimism.clone() }], options());
    refused(&[TraitSpec { name: "coherence".into(), ..optimism.clone() }], options());
    refused(std::slice::from_ref(&optimism), EvaluateOptions { per_question: 0, ..options() });
    refused(std::slice::from_ref(&optimism), EvaluateOptions { max_new_tokens: 0, ..options() });
    refused(std::slice::from_ref(&optimism), EvaluateOptions { batch_size: 0, ..options() });

    // A hook needs a description, which is stored in the folder.
    let specs = [TraitSpec { evaluation: optimism.evaluation[..2].to_vec(), ..optimism }];
    let place = folder();
    let direction = vector(Trait::Optimism).direction(layer(7)).expect("a direction");
    let steerer = || Steerer::new().add(&direction, Coefficient::Raw(1.0), Positions::Response).expect("a steerer");
    let evaluation =
        |model, options: &EvaluateOptions| Evaluation::new(model, &specs, &ExactJudge, options).expect("an evaluation");
    let outcome = evaluation(model(), &options()).run(place.path(), &mut steerer(), go_on);
    assert!(matches!(outcome, Err(MeasureError::Setting(_))), "{outcome:?}");
    let steered = EvaluateOptions { intervention: Some("+1".into()), ..options() };
    let outcome = evaluation(model(), &steered).run(place.path(), &mut NoHook, go_on);
    assert!(matches!(outcome, Err(MeasureError::Setting(_))), "{outcome:?}");

    // A folder belongs to one model, one set of options and one judge.
    evaluation(model(), &options()).run(place.path(), &mut NoHook, go_on).expect("results");
    let outcome = evaluation(optimist(), &options()).run(place.path(), &mut NoHook, go_on);
    let error = outcome.expect_err("another model of the same name").to_string();
    assert!(error.contains("model.weights"), "{error}");
    let error = evaluation(model(), &steered).run(place.path(), &mut steerer(), go_on).expect_err("another hook");
    assert!(error.to_string().contains("intervention"), "{error}");
    // The batch size may change.
    let again = EvaluateOptions { batch_size: 1, ..options() };
    evaluation(model(), &again).run(place.path(), &mut NoHook, |p| panic!("{p:?}")).expect("all is done");
}
