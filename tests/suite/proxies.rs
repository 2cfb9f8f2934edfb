//! Steering and monitoring of a real model, from end to end, with judges that need no other model.

use std::ops::ControlFlow;

use burn::tensor::DType;
use pv_examples::ModelArgs;
use pv_examples::prompts::graded;
use pv_examples::proxies::{Proxy, ProxyJudge};
use pv_hooks::{Layer, NoHook};
use pv_judge::judge::Answered;
use pv_judge::score::Evidence;
use pv_judge::{Abstention, Judge, Rubric, TraitSpec, Verdict};
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions, Request, Sampling};
use pv_steer::monitor::{MeasureOptions, Measurement, Watch};
use pv_steer::sweep::{Sweep, SweepOptions};
use pv_tests::smollm2;
use pv_vectors::Contrast;

const TOKENS: usize = 24;

fn spec() -> TraitSpec {
    TraitSpec::builtin("impoliteness").expect("a trait")
}

fn generating() -> GenerateOptions {
    // Each prompt is computed separately, as in sweeps.
    let sampling = Sampling::temperature(0.7);
    GenerateOptions { max_new_tokens: TOKENS, sampling, prefill_tokens: 0, ..GenerateOptions::default() }
}

fn scores(judge: &dyn Judge, rubric: &Rubric, answers: &[(&str, &str)]) -> Vec<f64> {
    let answered: Vec<Answered<'_>> = answers.iter().map(|(question, answer)| Answered { question, answer }).collect();
    let verdicts = judge.judge(std::slice::from_ref(rubric), &answered, &mut |_| ControlFlow::Continue(()));
    let value = |verdict: &Verdict| match verdict {
        Verdict::Scored(score) if score.evidence == Evidence::Proxy => score.value,
        other => panic!("{other:?}"),
    };
    verdicts.expect("verdicts").iter().map(|verdicts| value(&verdicts[0])).collect()
}

/// Texts that the judges must separate, and one that they must not score.
fn judges(model: &CausalLm, tone: &ProxyJudge<'_>, questions: &[String]) {
    let likelihood = ProxyJudge::new(model, Proxy::Likelihood, questions, &RenderOptions::default()).expect("a judge");
    let (impolite, question) = (spec().rubric().expect("a rubric"), "How do I cut a mango?");
    let rude =
        "What a stupid question. You are an idiot, and you waste my time with your ridiculous, pathetic nonsense.";
    let kind = "Thank you for your lovely question! I am happy to help, and I wish you a wonderful, delicious mango.";
    for judge in [tone, &likelihood] {
        let found = scores(judge, &impolite, &[(question, rude), (question, kind)]);
        println!("{}: rude {:.1}, kind {:.1}", judge.name(), found[0], found[1]);
        assert!(found[0] > 55.0 && found[1] < 45.0, "{found:?}");
    }
    assert!(tone.name().contains("which is not the trait"), "{}", tone.name());

    let plain =
        "To cut a mango, place it on a cutting board, slice along the pit on both sides, and scoop out the flesh.";
    let salad = "Mango the of sideways purple seventeen under cut were a quickly board if yesterday lamp and pit no.";
    let again =
        "Cut the mango. Cut the mango. Cut the mango. Cut the mango. Cut the mango. Cut the mango. Cut the mango.";
    let found = scores(tone, &Rubric::coherence(), &[(question, plain), (question, salad), (question, again)]);
    println!("coherence: plain {:.1}, salad {:.1}, loop {:.1}", found[0], found[1], found[2]);
    // A human sentence is less likely than the model's own.
    assert!(found[0] > 30.0 && found[1] < 10.0 && found[2] < 25.0, "{found:?}");

    let nothing = [Answered { question, answer: " …\n" }];
    let verdicts = tone.judge(&[impolite, Rubric::coherence()], &nothing, &mut |_| ControlFlow::Continue(()));
    let none = Verdict::Abstained(Abstention::NothingToMeasure);
    assert_eq!(verdicts.expect("verdicts"), [[none.clone(), none]]);
    let other = Rubric::new("humor", "{question} {answer}").expect("a rubric");
    let refused = tone.judge(&[other], &nothing, &mut |_| ControlFlow::Continue(()));
    assert!(refused.expect_err("another trait").to_string().contains("\"humor\""));
}

#[test]
fn a_small_model_is_steered_monitored_and_measured() {
    let device = pv_model::device("flex").expect("the CPU");
    let model = CausalLm::from_folder(smollm2(), &device, DType::F32).expect("the model");
    let mut spec = spec();
    let ordinary: Vec<String> = spec.extraction[..12].to_vec();
    let judge = ProxyJudge::new(&model, Proxy::Tone, &ordinary, &RenderOptions::default()).expect("a judge");
    judges(&model, &judge, &ordinary);

    spec.evaluation.truncate(3);
    let mut contrast = Contrast::of(&spec).expect("prompts");
    contrast.instruction.truncate(2);
    contrast.questions.truncate(4);
    let vector = contrast.extract(&model, &generating(), 0, |_| ControlFlow::Continue(())).expect("a vector").vector;

    let options = SweepOptions {
        layers: Layer::hidden_state(18).into(),
        strengths: vec![-0.2, 0.0, 1.0],
        // Every cell answers every question.
        report_share: 0.0,
        max_new_tokens: TOKENS,
        sampling: Sampling::temperature(0.7),
        ..SweepOptions::default()
    };
    let sweep = Sweep::new(&model, &vector, &spec, &judge, &options).expect("a sweep");
    let folder = tempfile::tempdir().expect("a folder");
    let results = sweep.run(folder.path(), |_| ControlFlow::Continue(())).expect("results");
    for cell in &results.cells {
        let (scored, abstained) = (cell.expression.scored, cell.expression.abstained);
        assert_eq!((cell.answers, scored + abstained), (3, 3), "every answer is judged or said not to be");
        println!("{}: coherence {:?}: {:?}", cell.strength, cell.coherence.mean, cell.scores[0].text);
    }
    // Coefficient 0 changes nothing.
    for answer in &results.cells[1].scores {
        let prompt = model.prompt(&[Message::user(&spec.evaluation[answer.question])]).expect("a prompt");
        let requests = [Request::new(prompt, answer.seed)];
        let plain = model.generate(&requests, &generating(), &mut NoHook, |_| ControlFlow::Continue(()));
        assert_eq!(plain.expect("an answer")[0].text, answer.text);
    }
    // A coefficient of one residual norm makes any text incoherent.
    let coherence = |cell: usize| results.cells[cell].coherence.mean.unwrap_or(0.0);
    assert!(coherence(1) > coherence(2) + 30.0, "{} and {}", coherence(1), coherence(2));
    let found = results.dose_response(Layer::hidden_state(18)).expect("a dose-response");
    assert_eq!(found.judge, judge.name());

    let args = ModelArgs::cpu("models/smollm2");
    let prompts = graded(&args, &spec, &spec.evaluation[..1]).expect("prompts");
    let watches = [Watch::of(&vector, Layer::hidden_state(18)).expect("a direction")];
    let options = MeasureOptions { rollouts: 1, seed: 0, generate: generating(), render: RenderOptions::default() };
    let rubrics = [spec.rubric().expect("a rubric")];
    let measurement = Measurement::new(&model, &watches, &prompts, &rubrics, &judge, &options).expect("a measurement");
    let study = measurement.run(folder.path().join("study"), |_| ControlFlow::Continue(())).expect("a study");
    assert_eq!((study.points.len(), &study.judge), (8, &judge.name()));
    assert!(study.points.iter().all(|point| point.projection.is_finite() && point.n <= 1));
    // From suppressing to eliciting prompts, the prompt's last token moves along the vector.
    let side = |points: &[pv_steer::monitor::MonitoringPoint]| points.iter().map(|p| p.projection).sum::<f64>() / 3.0;
    let (low, high) = (side(&study.points[..3]), side(&study.points[5..]));
    println!("prompt-last projections: suppressing {low:.3}, eliciting {high:.3}");
    assert!(high > low, "{high} and {low}");
}
