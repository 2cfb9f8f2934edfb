//! Rollouts in folders: the result of a run, with and without interruptions.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use pv_judge::judge::Answered;
use pv_judge::rubric::COHERENCE;
use pv_judge::score::{AbstentionKind, Evidence, ScoreMode};
use pv_judge::{Abstention, InstructionPair, Rubric, Score, TraitSpec, Verdict};
use pv_model::decoder::Decoder;
use pv_model::{CausalLm, Sampling};
use pv_tests::{RuleJudge, chat_model};
use pv_vectors::contrast::Progress;
use pv_vectors::rollout::{Plan, RolloutRun};
use pv_vectors::vector::Pooling;
use pv_vectors::{ExtractOptions, Filter, PersonaVector, RolloutOptions, TraitExtraction, extract};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

mod csv;
mod growing;
mod interrupted;
mod numbers;
mod refused;

fn model(name: &str) -> CausalLm {
    let folder = tempfile::tempdir().expect("a folder");
    chat_model(name, folder.path(), &Device::flex())
}

fn spec() -> TraitSpec {
    let pair = |pos: &str, neg: &str| InstructionPair { pos: pos.into(), neg: neg.into() };
    TraitSpec {
        name: "rude".into(),
        description: None,
        assistant_pos: None,
        assistant_neg: Some("polite".into()),
        instruction: vec![pair("Be rude.", "Be kind."), pair("Insult me.", "Praise me, \"please\".")],
        extraction: vec!["Who are you?".into(), "Why?".into(), "Où est la clé?".into()],
        evaluation: Vec::new(),
        eval_prompt: "How rude? {question} {answer}".into(),
    }
}

fn options() -> RolloutOptions {
    RolloutOptions { per_prompt: 5, max_new_tokens: 20, batch_size: 4, seed: 11, ..RolloutOptions::default() }
}

fn extract_options() -> ExtractOptions {
    ExtractOptions {
        rollouts: options(),
        filter: Filter { coherence_min: 20.0, min_kept: 2, ..Filter::default() },
        ..ExtractOptions::default()
    }
}

/// A judge whose scores are pseudo-random, and that abstains sometimes.
type Dice = RuleJudge<fn(&Rubric, &Answered<'_>) -> Verdict>;

fn dice() -> Dice {
    RuleJudge::new("dice", dice_verdict)
}

fn dice_verdict(rubric: &Rubric, answered: &Answered<'_>) -> Verdict {
    let digest = Sha256::digest(rubric.fill(answered));
    match digest[0] {
        0..16 => Verdict::Abstained(Abstention::NotANumber { text: "no\n".into() }),
        // Values with many digits.
        _ => Verdict::Scored(Score {
            value: f64::from(digest[1]) / 255.0 * 100.0,
            evidence: Evidence::Distribution { mass: f64::from(digest[2]) / 777.0 + 0.3 },
        }),
    }
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn plan(options: RolloutOptions) -> Plan {
    Plan::new(&spec(), options).expect("a plan")
}

fn open(model: &CausalLm, folder: &Path) -> pv_vectors::Result<RolloutRun> {
    RolloutRun::open(folder, model, plan(options()))
}

fn extracted(model: &CausalLm, folder: &Path) -> TraitExtraction {
    extract(model, &spec(), &dice(), folder, &extract_options(), go_on).expect("an extraction")
}

/// The complete result of a run. Vectors are compared bit by bit.
#[derive(PartialEq, Eq)]
struct Results {
    rollouts: Vec<u8>,
    means: Vec<u8>,
    scores: Vec<u8>,
    vector: Vec<u32>,
}

impl std::fmt::Debug for Results {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hash = |bytes: &[u8]| Sha256::digest(bytes)[..4].to_vec();
        let vector: Vec<u8> = self.vector.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let [rollouts, means, scores, vector] = [&self.rollouts, &self.means, &self.scores, &vector].map(|b| hash(b));
        write!(f, "rollouts {rollouts:x?}, means {means:x?}, scores {scores:x?}, vector {vector:x?}")
    }
}

fn bits(vector: &PersonaVector) -> Vec<u32> {
    let layers = vector.shape().0;
    let row = |(pooling, layer)| {
        let table = vector.table(pooling).expect("all poolings");
        table.get(pv_hooks::Layer::hidden_state(layer)).expect("all layers").iter().map(|value| value.to_bits())
    };
    Pooling::ALL.into_iter().flat_map(|pooling| (0..layers).map(move |layer| (pooling, layer))).flat_map(row).collect()
}

/// The files of a folder; there must be no others.
fn results(folder: &Path) -> Results {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    // A copy of what was damaged.
    names.retain(|name| !name.contains(".damaged"));
    names.sort();
    let expected =
        ["means.safetensors", "rollouts.jsonl", "run.json", "run.lock", "scores.jsonl", "vector.safetensors"];
    assert_eq!(names, expected);
    let read = |name: &str| fs::read(folder.join(name)).expect("a file");
    let vector = PersonaVector::load(folder.join("vector.safetensors")).expect("a vector");
    Results {
        rollouts: read("rollouts.jsonl"),
        means: read("means.safetensors"),
        scores: read("scores.jsonl"),
        vector: bits(&vector),
    }
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.path().join(entry.file_name())).expect("a file");
    }
    to
}

#[test]
fn a_run_contains_its_plan_and_results() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let mut seen = Vec::new();
    let extraction = extract(&model, &spec(), &dice(), folder.path(), &extract_options(), |progress| {
        seen.push(match progress {
            Progress::Answering { done, total } => ('a', done, total),
            Progress::Judging { done, total } => ('j', done, total),
            other => panic!("{other:?}"),
        });
        ControlFlow::Continue(())
    })
    .expect("an extraction");
    let TraitExtraction { vector, kept, run, .. } = &extraction;
    let total = 3 * 2 * 2 * 5;
    assert_eq!(run.records().len(), total);
    let empty = run.records().iter().filter(|record| record.is_empty()).count();
    assert!(empty > 0, "the stop tokens are likely enough for an empty answer");
    let verdicts = (total - empty) * 2;
    let expected = (1..=total).map(|i| ('a', i, total)).chain((1..=verdicts).map(|i| ('j', i, verdicts)));
    assert!(seen.into_iter().eq(expected));

    let mut distinct = std::collections::BTreeSet::new();
    for (index, record) in run.records().iter().enumerate() {
        let place = run.plan().place(index);
        assert_eq!(record.place, place);
        assert_eq!(record.question_id, run.plan().id(place));
        assert_eq!(record.question, spec().extraction[place.question]);
        assert_eq!(record.seed, Some(run.plan().seed(place)));
        let system = spec().system_prompt(place.pair, place.polarity).expect("a pair");
        assert_eq!(record.prompt, format!("<s>{system}\n<u>{}\n<a>", record.question));
        assert_eq!(record.answer, model.tokenizer().unwrap().decode(&record.tokens, true).unwrap());
        distinct.insert(&record.tokens);
        for rubric in [spec().rubric().unwrap(), Rubric::coherence()] {
            let answered = Answered { question: &record.question, answer: &record.answer };
            let (found, expected) = (run.verdict(&rubric.name, index), dice_verdict(&rubric, &answered));
            match record.is_empty() {
                true => assert_eq!(found, None),
                false => {
                    let gap = |v: Option<f64>| v.unwrap_or(-1.0);
                    let gap = gap(found.expect("a verdict").value()) - gap(expected.value());
                    assert!(gap.abs() < 1e-9, "{found:?}, not {expected:?}");
                }
            }
        }
    }
    assert!(distinct.len() > total * 3 / 4, "answers hardly differ");
    assert!(kept.pos.len() >= 2 && kept.pos.len() == kept.neg.len(), "{}", kept.table);
    for (&pos, &neg) in kept.pos.iter().zip(&kept.neg) {
        assert_eq!(run.records()[pos].place.partner(), run.records()[neg].place);
    }
    let provenance = vector.provenance();
    assert_eq!(provenance.trait_name, "rude");
    assert_eq!(provenance.judge.as_deref(), Some("dice"));
    assert_eq!(provenance.filter, Some(extract_options().filter));
    assert_eq!((provenance.kept_positive, provenance.kept_negative), (Some(kept.pos.len()), Some(kept.neg.len())));
    assert_eq!((provenance.total, provenance.seed), (Some(total), Some(11)));
    assert_eq!(provenance.template_hash, model.identity().expect("weights").template_hash);
    vector.check_model(model.config()).expect("its own model");

    // Finished: a further call generates and judges nothing.
    let expected = results(folder.path());
    let kept = kept.clone();
    drop(extraction);
    let judge = dice();
    let again = extract(&model, &spec(), &judge, folder.path(), &extract_options(), |p| panic!("{p:?}"));
    assert_eq!(again.expect("an extraction").kept, kept);
    assert_eq!(judge.asked.get(), 0);
    assert_eq!(results(folder.path()), expected);
    // No model is needed to read it.
    let run = RolloutRun::load(folder.path()).expect("a run");
    assert_eq!(run.filter(&extract_options().filter).expect("enough"), kept);
    assert_eq!(bits(&run.vector(&kept).expect("a vector")), expected.vector);
}

#[test]
fn results_do_not_depend_on_the_batch_size() {
    for name in ["qwen3", "qwen2"] {
        let model = model(name);
        let run = |batch_size| {
            let folder = tempfile::tempdir().expect("a folder");
            let rollouts = RolloutOptions { batch_size, ..options() };
            let options = ExtractOptions { rollouts, ..extract_options() };
            extract(&model, &spec(), &dice(), folder.path(), &options, go_on).expect("an extraction");
            results(folder.path())
        };
        let alone = run(1);
        for batch_size in [3, 16] {
            assert_eq!(run(batch_size), alone, "{name} in batches of {batch_size}");
        }
    }
}

#[test]
fn another_seed_gives_other_rollouts_and_extending_keeps_the_first() {
    let model = model("qwen3");
    let run = |options: RolloutOptions| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut run = RolloutRun::open(folder.path(), &model, plan(options)).expect("a run");
        run.generate(&model, go_on).expect("rollouts");
        run.records().to_vec()
    };
    let few = run(RolloutOptions { per_prompt: 2, ..options() });
    let more = run(RolloutOptions { per_prompt: 3, ..options() });
    assert!(few.iter().all(|record| more.contains(record)));
    let other = run(RolloutOptions { per_prompt: 2, seed: 12, ..options() });
    let equal = few.iter().zip(&other).filter(|(a, b)| a.tokens == b.tokens).count();
    assert!(equal < few.len() / 4, "{equal} of {} answers are the same under another seed", few.len());
    let greedy = run(RolloutOptions { per_prompt: 2, sampling: Sampling::GREEDY, ..options() });
    assert!(greedy.chunks(2).all(|pair| pair[0].tokens == pair[1].tokens));
}

#[test]
fn only_missing_verdicts_are_requested() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = open(&model, folder.path()).expect("a run");
    run.generate(&model, go_on).expect("rollouts");
    let answers = run.records().iter().filter(|record| !record.is_empty()).count();
    let rubrics = [spec().rubric().unwrap(), Rubric::coherence()];
    let scored = |run: &RolloutRun, rubric: &str| {
        (0..run.records().len()).filter(|&index| run.verdict(rubric, index).is_some()).count()
    };

    // An odd number: of one answer, one verdict exists and the other is missing.
    let judge = dice();
    let mut left = 7;
    let broken = run.score(&judge, &rubrics, |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken, Err(pv_vectors::Error::Cancelled)));
    assert_eq!(scored(&run, "rude") + scored(&run, COHERENCE), 7);
    assert!(matches!(run.scored(), Err(pv_vectors::Error::IncompleteRun { .. })));
    drop(run);

    let mut run = RolloutRun::load(folder.path()).expect("a run");
    assert_eq!(scored(&run, "rude") + scored(&run, COHERENCE), 7);
    let judge = dice();
    let mut seen = Vec::new();
    run.score(&judge, &rubrics, |progress| {
        let Progress::Judging { done, total } = progress else { panic!("{progress:?}") };
        seen.push((done, total));
        ControlFlow::Continue(())
    })
    .expect("verdicts");
    assert_eq!(judge.asked.get(), answers * 2 - 7);
    assert!(seen.into_iter().eq((8..=answers * 2).map(|done| (done, answers * 2))));

    // Another trait's rubric can be judged later, also by a judge that only returns its verdicts.
    let judge = Dice { reports: false, ..dice() };
    let loud = Rubric::new("loud", "{question}{answer}").unwrap();
    run.score(&judge, &[loud], go_on).expect("verdicts");
    assert_eq!(scored(&run, "loud"), answers);
    assert_eq!(judge.asked.get(), answers);
    assert_eq!((scored(&run, "rude"), scored(&run, COHERENCE)), (answers, answers));
}

/// A judge of the same name that uses written numbers.
fn written() -> Dice {
    RuleJudge::new("dice", |rubric, answered| match dice_verdict(rubric, answered) {
        Verdict::Scored(score) => Verdict::Scored(Score { evidence: Evidence::Sampled, ..score }),
        none => none,
    })
}

#[test]
fn scores_of_two_modes_are_not_mixed_in_a_run() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = open(&model, folder.path()).expect("a run");
    run.generate(&model, go_on).expect("rollouts");
    let rubrics = [spec().rubric().unwrap(), Rubric::coherence()];
    let mut left = 30;
    let broken = run.score(&dice(), &rubrics, |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken, Err(pv_vectors::Error::Cancelled)));
    let before = run.verdict_counts();
    assert!(before.mode() == Some(ScoreMode::Distribution) && before.scored.len() == 1, "{before}");
    // Verdicts in the other mode are refused; existing ones are kept.
    let error = run.score(&written(), &rubrics, go_on).expect_err("another mode");
    assert!(error.to_string().contains("must not be mixed"), "{error}");
    drop(run);
    let mut run = RolloutRun::load(folder.path()).expect("a run");
    assert_eq!(run.verdict_counts().scored, before.scored);
    run.score(&dice(), &rubrics, go_on).expect("verdicts");
    // The vector states the mode of its verdicts and the number of abstentions.
    let kept = run.filter(&extract_options().filter).expect("enough");
    let vector = run.vector(&kept).expect("a vector");
    let counts = &vector.provenance().verdicts;
    assert_eq!(counts, &run.verdict_counts());
    assert_eq!(counts.scored.keys().collect::<Vec<_>>(), [&ScoreMode::Distribution]);
    assert!(counts.abstained.get(&AbstentionKind::NotANumber).is_some_and(|count| *count > 0), "{counts}");
    let path = folder.path().join("again.safetensors");
    vector.save(&path).expect("a file");
    let again = PersonaVector::load(&path).expect("a vector");
    assert_eq!(again.provenance(), vector.provenance());
}
