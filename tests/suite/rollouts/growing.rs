//! Runs that are extended, and rollouts that several judges score.

use super::*;

fn larger() -> (TraitSpec, ExtractOptions) {
    let mut larger = spec();
    larger.extraction.push("And now?".into());
    larger.instruction.push(InstructionPair { pos: "Shout.".into(), neg: "Whisper.".into() });
    let mut options = extract_options();
    options.rollouts.per_prompt += 2;
    (larger, options)
}

#[test]
fn an_extended_run_equals_the_larger_run() {
    let model = model("qwen3");
    let (larger, options) = larger();
    let whole = tempfile::tempdir().expect("a folder");
    extract(&model, &larger, &dice(), whole.path(), &options, go_on).expect("an extraction");
    let expected = results(whole.path());

    let small = tempfile::tempdir().expect("a folder");
    extracted(&model, small.path());
    let before = results(small.path());
    let judge = dice();
    // A complete run, and one that was interrupted.
    let grown = copy(small.path());
    let extraction = extract(&model, &larger, &judge, grown.path(), &options, go_on).expect("an extraction");
    assert_eq!(results(grown.path()), expected);
    assert_ne!(results(grown.path()), before);
    let kept: Vec<_> = before.rollouts.split(|&byte| byte == b'\n').collect();
    let text = fs::read(grown.path().join("rollouts.jsonl")).expect("a file");
    let lines: std::collections::BTreeSet<_> = text.split(|&byte| byte == b'\n').collect();
    assert!(kept.iter().all(|line| lines.contains(line)), "the rollouts that were there are kept");
    let of_small = |run: &RolloutRun| run.records().iter().filter(|record| !record.is_empty()).count() * 2;
    let small_run = RolloutRun::load(small.path()).expect("a run");
    assert_eq!(judge.asked.get(), of_small(&extraction.run) - of_small(&small_run), "no verdict is asked for twice");
    drop((extraction, small_run));

    let interrupted = tempfile::tempdir().expect("a folder");
    let mut run = open(&model, interrupted.path()).expect("a run");
    let broken = run.generate(&model, |progress| match progress {
        Progress::Answering { done: 7, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(broken, Err(pv_vectors::Error::Cancelled)));
    drop(run);
    extract(&model, &larger, &dice(), interrupted.path(), &options, go_on).expect("an extraction");
    assert_eq!(results(interrupted.path()), expected);

    // An extended run cannot be reduced, and no other setting may change.
    let refused = open(&model, grown.path()).expect_err("a smaller run").to_string();
    assert!(refused.contains("questions") || refused.contains("per_prompt"), "{refused}");
    let other = RolloutOptions { per_prompt: 30, max_new_tokens: 21, ..super::options() };
    let refused = RolloutRun::open(small.path(), &model, plan(other)).expect_err("other answers").to_string();
    assert!(refused.contains("contains another run"), "{refused}");
    assert_eq!(results(small.path()), before);
}

#[test]
fn a_run_that_is_killed_while_it_is_extended_loses_nothing() {
    let model = model("qwen3");
    let (larger, options) = larger();
    let small = tempfile::tempdir().expect("a folder");
    extracted(&model, small.path());
    let before = results(small.path());
    let grown = copy(small.path());
    let plan = Plan::new(&larger, options.rollouts.clone()).expect("a plan");
    drop(RolloutRun::open(grown.path(), &model, plan).expect("a run"));
    let activations = grown.path().join("activations.bin");
    assert!(activations.exists() && !grown.path().join("means.safetensors").exists());

    // Killed before the folder stated the larger size: it is the smaller run.
    let killed = copy(small.path());
    fs::copy(&activations, killed.path().join("activations.bin")).expect("a file");
    drop(open(&model, killed.path()).expect("a run"));
    assert_eq!(results(killed.path()), before);
    // Killed after it.
    let killed = copy(grown.path());
    fs::copy(small.path().join("means.safetensors"), killed.path().join("means.safetensors")).expect("a file");
    let run = RolloutRun::load(killed.path()).expect("a run");
    assert_eq!(run.records().len(), 3 * 2 * 2 * 5);
    assert!(!run.is_complete());
}

#[test]
fn several_judges_score_the_same_rollouts() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let first = extracted(&model, folder.path()).vector;
    let before = results(folder.path());
    let rubrics = [spec().rubric().expect("a rubric"), Rubric::coherence()];

    let mut run = RolloutRun::load(folder.path()).expect("a run");
    let answers = run.records().iter().filter(|record| !record.is_empty()).count();
    let other = Dice { name: "another", ..dice() };
    run.score(&other, &rubrics, go_on).expect("verdicts");
    assert_eq!(other.asked.get(), answers * 2, "another judge's verdicts are asked for");
    assert_eq!(run.judges("rude"), ["another", "dice"]);
    drop(run);

    let mut run = RolloutRun::load(folder.path()).expect("a run");
    let error = run.scored().expect_err("which judge?");
    assert!(
        matches!(&error, pv_vectors::Error::SeveralJudges { judges, .. } if *judges == ["another", "dice"]),
        "{error}"
    );
    assert!(matches!(run.judged_by("nobody"), Err(pv_vectors::Error::NoSuchJudge { .. })));
    run.judged_by("dice").expect("verdicts");
    let kept = run.filter(&extract_options().filter).expect("kept rollouts");
    assert_eq!(bits(&run.vector(&kept).expect("a vector")), bits(&first));
    drop(run);

    // The first judge again sends no request, and its results are the same.
    let judge = dice();
    extract(&model, &spec(), &judge, folder.path(), &extract_options(), go_on).expect("an extraction");
    assert_eq!(judge.asked.get(), 0);
    assert_eq!(results(folder.path()).vector, before.vector);

    // A rubric of the same name with another template has its own verdicts.
    let mut run = RolloutRun::load(folder.path()).expect("a run");
    let judge = dice();
    run.score(&judge, &[Rubric::new("rude", "{answer} {question}").expect("a rubric")], go_on).expect("verdicts");
    assert_eq!(judge.asked.get(), answers);
}

#[test]
fn verdicts_of_earlier_versions_are_read() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    extracted(&model, folder.path());
    let before = results(folder.path());
    // They identified a rollout by its index.
    let plan = plan(options());
    let path = folder.path().join("scores.jsonl");
    let earlier: String = fs::read_to_string(&path)
        .expect("a file")
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let fields = line.as_object_mut().expect("an object");
            let place = serde_json::from_value(fields.remove("place").expect("a place")).expect("a place");
            fields.insert("index".into(), plan.index(place).into());
            format!("{line}\n")
        })
        .collect();
    fs::write(&path, earlier).expect("a file");
    let judge = dice();
    extract(&model, &spec(), &judge, folder.path(), &extract_options(), go_on).expect("an extraction");
    assert_eq!(judge.asked.get(), 0);
    assert_eq!(results(folder.path()), before);
}
