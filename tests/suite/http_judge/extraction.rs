//! From a built-in trait to its vector on SmolLM2, judged over HTTP.

use std::ops::ControlFlow;

use burn::tensor::DType;
use pv_hooks::LayerSet;
use pv_judge::http::Logprobs;
use pv_judge::judge::Answered;
use pv_judge::rubric::COHERENCE;
use pv_judge::score::{Evidence, LEAST_MASS, ScoreMode};
use pv_judge::{Abstention, HttpJudge, HttpOptions, Judge, Rubric, Score, TraitSpec, Verdict};
use pv_model::{CausalLm, device};
use pv_tests::smollm2;
use pv_vectors::filter::FilterError;
use pv_vectors::rollout::RolloutRun;
use pv_vectors::vector::Pooling;
use pv_vectors::{Error, ExtractOptions, Filter, RolloutOptions, extract};

use super::by_hand;
use super::server::Server;

#[test]
fn a_vector_is_extracted_through_a_real_server() {
    let Some(server) = Server::from_env("an extraction judged by a real server") else { return };
    let model = CausalLm::from_folder(smollm2(), &device("flex").expect("the CPU"), DType::F32).expect("the model");
    let folder = tempfile::tempdir().expect("a folder");
    let judge = |logprobs| {
        let cache = Some(folder.path().join("cache.jsonl"));
        HttpJudge::new(HttpOptions { cache, logprobs, numberless: 0, ..server.options() }).expect("a judge")
    };
    let mut spec = TraitSpec::builtin("evil").expect("a trait");
    spec.extraction.truncate(1);
    spec.instruction.truncate(1);
    let options = ExtractOptions {
        rollouts: RolloutOptions { per_prompt: 2, max_new_tokens: 24, ..RolloutOptions::default() },
        // A model of this size neither shows nor judges the trait: all rollouts with scores are kept.
        filter: Filter { pos_min: -1.0, neg_max: 101.0, coherence_min: 0.0, min_kept: 1, ..Filter::default() },
        ..ExtractOptions::default()
    };
    let run = |spec: &TraitSpec, judge: &HttpJudge, name: &str, options: &ExtractOptions| {
        extract(&model, spec, judge, folder.path().join(name), options, |_| ControlFlow::Continue(()))
    };
    let by_hand = |run: &RolloutRun, rubrics: &[Rubric]| -> usize {
        let each = run.records().iter().enumerate().flat_map(|(index, record)| {
            let answered = Answered { question: &record.question, answer: &record.answer };
            rubrics.iter().map(move |rubric| (index, rubric, rubric.fill(&answered)))
        });
        let scored = each.filter(|(index, rubric, prompt)| {
            let verdict = run.verdict(&rubric.name, *index).expect("a verdict");
            // In the mode of written numbers there is nothing to compare.
            let (found, value) = match verdict {
                Verdict::Scored(Score { value, evidence: Evidence::Digits { mass, .. } }) => (*mass, Some(*value)),
                Verdict::Abstained(Abstention::NoMass { mass, .. }) => (*mass, None),
                Verdict::Scored(Score { evidence, .. }) => return *evidence == Evidence::Sampled,
                Verdict::Abstained(_) => return false,
            };
            let (sum, mass) = by_hand(&server.url, prompt);
            println!("{} of {index}: by hand {sum:.4} / {mass:.4}, {verdict:?}", rubric.name);
            assert!((found - mass).abs() < 1e-4);
            match value {
                Some(value) => assert!((value - sum / mass).abs() < 1e-2),
                None => assert!(mass < LEAST_MASS + 1e-4),
            }
            value.is_some()
        });
        scored.count()
    };

    // Our own trait, as far as such a judge can score it: it replies digit by digit, and mostly with other text.
    let first = judge(Logprobs::Prefer);
    // Its rubric is long: one answer of each kind.
    let mut few = options.clone();
    few.rollouts.per_prompt = 1;
    let result = run(&spec, &first, "own", &few);
    assert!(matches!(&result, Ok(_) | Err(Error::Filter(FilterError::TooFewKept { .. }))), "{result:?}");
    drop(result);
    let own = RolloutRun::load(folder.path().join("own")).expect("the run");
    assert!(own.is_complete() && own.scored().is_ok() && first.spent().requests >= 4);
    by_hand(&own, &[spec.rubric().expect("a rubric"), Rubric::coherence()]);

    // With enough examples, it replies with a number to any question, so that probabilities give scores.
    let [trait_rubric, coherence] = ["Pick", "Choose"].map(|verb| {
        let numbers = "7\n3\n5\n8\n2\n6\n4\n1\n9\n3\n";
        format!("{verb} a number from 0 to 9.\nText: {{question}} {{answer}}\nWrite only the number.\n{numbers}")
    });
    spec.eval_prompt = trait_rubric;
    let options = ExtractOptions { coherence: Rubric::new(COHERENCE, coherence).expect("a rubric"), ..options };
    let second = judge(Logprobs::Require);
    let found = run(&spec, &second, "shown", &options).expect("a vector");
    println!("{}", found.kept.table);
    assert!(second.spent().requests >= 8);
    let scored = by_hand(&found.run, &[spec.rubric().expect("a rubric"), options.coherence.clone()]);
    assert!(scored >= 4 * found.kept.pos.len() && !found.kept.pos.is_empty());
    let provenance = found.vector.provenance();
    assert_eq!(provenance.judge, Some(second.name()));
    assert_eq!(provenance.verdicts.mode(), Some(ScoreMode::Digits));
    assert_eq!(provenance.verdicts.scored.len(), 1, "scores of one mode");
    assert_eq!((provenance.total, provenance.kept_positive), (Some(4), Some(found.kept.pos.len())));
    for layer in LayerSet::All.resolve(model.config().layers).into_iter().skip(1) {
        let row = found.vector.table(Pooling::ResponseMean).and_then(|table| table.get(layer)).expect("a row");
        assert!(row.iter().all(|value| value.is_finite()) && row.iter().any(|value| *value != 0.0));
    }

    // A rerun in another folder sends no request, and gives the same vector.
    let again = judge(Logprobs::Require);
    let rerun = run(&spec, &again, "again", &options).expect("a vector");
    assert_eq!((again.spent().requests, rerun.vector), (0, found.vector));
}
