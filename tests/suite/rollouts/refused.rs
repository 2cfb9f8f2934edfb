//! Refused input and its error messages.

use pv_data::error::with_causes;
use pv_data::{Damage, FileError, RunError};
use pv_judge::traits::Polarity;
use pv_vectors::Error;
use pv_vectors::filter::FilterError;
use pv_vectors::rollout::{Precision, ScoredRollouts};

use super::*;

fn refusal(result: pv_vectors::Result<RolloutRun>) -> String {
    match result {
        Err(error @ Error::Run(RunError::OtherRun { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_folder_of_another_run_is_refused_with_the_difference() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(&model, folder.path()).expect("a run"));
    for (what, options) in [
        ("plan.options.per_prompt is 5, but 4", RolloutOptions { per_prompt: 4, ..options() }),
        ("plan.options.max_new_tokens is 20, but 21", RolloutOptions { max_new_tokens: 21, ..options() }),
        ("plan.options.seed is 11, but 12", RolloutOptions { seed: 12, ..options() }),
        ("plan.options.precision is \"f32\", but \"f16\"", RolloutOptions { precision: Precision::F16, ..options() }),
        (
            "plan.options.sampling.temperature is 1.0, but 0.7",
            RolloutOptions { sampling: Sampling::temperature(0.7), ..options() },
        ),
        (
            "plan.options.sampling.top_k is null, but 5",
            RolloutOptions { sampling: Sampling { top_k: Some(5), ..options().sampling }, ..options() },
        ),
    ] {
        let error = refusal(RolloutRun::open(folder.path(), &model, plan(options)));
        assert!(error.contains(what), "{error}");
    }
    let with = |change: fn(&mut TraitSpec)| {
        let mut spec = spec();
        change(&mut spec);
        refusal(RolloutRun::open(folder.path(), &model, Plan::new(&spec, options()).expect("a plan")))
    };
    let error = with(|spec| spec.extraction[1] = "How?".into());
    assert!(error.contains("plan.questions[1] is \"Why?\", but \"How?\""), "{error}");
    let error = with(|spec| spec.extraction.truncate(2));
    assert!(error.contains("number of plan.questions is 3, but 2"), "{error}");
    let error = with(|spec| spec.assistant_neg = None);
    assert!(error.contains("plan.systems[0][1]"), "{error}");
    let error = with(|spec| spec.name = "evil".into());
    assert!(error.contains("plan.trait_name is \"rude\", but \"evil\""), "{error}");

    let other = self::model("qwen2");
    let error = refusal(open(&other, folder.path()));
    assert!(error.contains("model.name is \"qwen3\", but \"qwen2\""), "{error}");
    let mut run = open(&model, folder.path()).expect("a run");
    assert!(matches!(run.generate(&other, go_on), Err(Error::Run(RunError::OtherRun { .. }))));
    drop(run);
    // Another batch size changes nothing, and is accepted.
    RolloutRun::open(folder.path(), &model, plan(RolloutOptions { batch_size: 9, ..options() })).expect("the same run");
}

/// A model and its finetuned copy often have one name. Folders of older versions do not identify the weights; they
/// belong to the first model that resumes them.
#[test]
fn a_copy_with_other_weights_is_another_model() {
    let model = model("qwen3");
    let decoder = Decoder::init(model.config().clone(), 5, &Device::flex()).expect("a decoder");
    let copy = model.clone().with_decoder(decoder).expect("the same architecture");
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(&model, folder.path()).expect("a run"));
    let header = folder.path().join("run.json");
    let written = fs::read(&header).expect("a file");
    let refused = || refusal(open(&copy, folder.path()));
    assert!(refused().contains("model.weights is"), "{}", refused());

    let mut older: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
    older["model"].as_object_mut().expect("a model").remove("weights").expect("they are there");
    fs::write(&header, older.to_string()).expect("a file");
    drop(RolloutRun::load(folder.path()).expect("a folder of an older version"));
    drop(open(&model, folder.path()).expect("a folder of an older version"));
    assert!(refused().contains("model.weights is"), "{}", refused());
}

/// Damage in the middle loses only the rollouts that it affects.
#[test]
fn damage_affects_no_other_rollouts() {
    let model = model("qwen3");
    let whole = tempfile::tempdir().expect("a folder");
    open(&model, whole.path()).expect("a run").generate(&model, go_on).expect("answers");
    let expected = fs::read(whole.path().join("rollouts.jsonl")).expect("a file");

    let folder = tempfile::tempdir().expect("a folder");
    let mut run = open(&model, folder.path()).expect("a run");
    let mut met = 0;
    let broken = run.generate(&model, |_| {
        met += 1;
        if met == 12 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken, Err(Error::Cancelled)));
    drop(run);
    let path = folder.path().join("rollouts.jsonl");
    let before = fs::read_to_string(&path).expect("a file");
    let mut lines: Vec<String> = before.lines().map(str::to_owned).collect();
    let kept = lines.len();
    assert!(kept >= 12);
    lines[3] = lines[3].replacen("\"tokens\"", "\"tokenz\"", 1);
    lines[7].truncate(20);
    let damaged = lines.join("\n") + "\n";
    fs::write(&path, &damaged).expect("a file");
    let mut run = open(&model, folder.path()).expect("a damaged run");
    assert_eq!(run.records().len(), kept - 2);
    assert_eq!(fs::read_to_string(folder.path().join("rollouts.jsonl.damaged")).expect("a file"), damaged);
    run.generate(&model, go_on).expect("answers");
    assert_eq!(fs::read(&path).expect("a file"), expected);
}

#[test]
fn a_folder_has_one_process_at_a_time() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let run = open(&model, folder.path()).expect("a run");
    for second in [open(&model, folder.path()), RolloutRun::load(folder.path())] {
        let error = second.expect_err("it is in use");
        assert!(matches!(error, Error::Run(RunError::Locked { .. })));
        assert!(error.to_string().contains("in use"), "{error}");
    }
    drop(run);
    open(&model, folder.path()).expect("it is free again");
}

#[test]
fn an_incomplete_run_has_no_results() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = open(&model, folder.path()).expect("a run");
    let incomplete = |error: Error, what: &str| {
        assert!(matches!(error, Error::IncompleteRun { .. }) && error.to_string().contains(what), "{error}");
    };
    let rubric = spec().rubric().unwrap();
    incomplete(run.score(&dice(), std::slice::from_ref(&rubric), go_on).expect_err("no rollouts"), "0 of 60 rollouts");
    incomplete(run.filter(&Filter::default()).expect_err("no rollouts"), "0 of 60 rollouts");
    incomplete(run.write_csv(folder.path().join("x.csv"), None).expect_err("no rollouts"), "0 of 60 rollouts");
    run.generate(&model, go_on).expect("rollouts");
    incomplete(run.filter(&Filter::default()).expect_err("no verdicts"), "of 60 verdicts on rude");
    run.score(&dice(), &[rubric], go_on).expect("verdicts");
    incomplete(run.filter(&Filter::default()).expect_err("half the verdicts"), "of 60 verdicts on coherence");
    run.score(&dice(), &[Rubric::coherence()], go_on).expect("verdicts");
    run.filter(&Filter { min_kept: 1, ..extract_options().filter }).expect("enough");
    let all = Filter { min_kept: 30, ..Filter::default() };
    let error = run.filter(&all).expect_err("too few");
    assert!(matches!(&error, Error::Filter(FilterError::TooFewKept { needed: 30, .. })), "{error:?}");
    let missing = tempfile::tempdir().expect("a folder");
    assert!(matches!(RolloutRun::load(missing.path()), Err(Error::File(FileError::Read { .. }))));
    assert!(matches!(RolloutRun::load(missing.path().join("none")), Err(Error::File(FileError::Read { .. }))));
    assert!(!missing.path().join("none").exists());
}

#[test]
fn invalid_settings_are_refused_before_anything_runs() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("run");
    let refuse = |spec: &TraitSpec, options: &ExtractOptions| {
        let error = extract(&model, spec, &dice(), &place, options, |p| panic!("{p:?}")).expect_err("refused");
        assert!(!place.exists(), "{error}");
        error
    };
    let bad_rubric = TraitSpec { eval_prompt: "How rude?".into(), ..spec() };
    assert!(matches!(refuse(&bad_rubric, &extract_options()), Error::Judge(_)));
    let no_question = TraitSpec { extraction: Vec::new(), ..spec() };
    assert!(matches!(refuse(&no_question, &extract_options()), Error::BadContrast(_)));
    let confusing = TraitSpec { name: COHERENCE.into(), ..spec() };
    assert!(matches!(refuse(&confusing, &extract_options()), Error::Setting(_)));
    let filter = Filter { pos_min: f64::NAN, ..Filter::default() };
    assert!(matches!(refuse(&spec(), &ExtractOptions { filter, ..extract_options() }), Error::Filter(_)));
}

#[test]
fn damage_to_a_complete_run_is_an_error_without_a_panic() {
    let model = model("qwen3");
    let whole = tempfile::tempdir().expect("a folder");
    extracted(&model, whole.path());
    let with = |name: &str, bytes: &[u8]| {
        let folder = copy(whole.path());
        fs::write(folder.path().join(name), bytes).expect("a file");
        RolloutRun::load(folder.path())
    };
    let means = fs::read(whole.path().join("means.safetensors")).expect("a file");
    let header = 8 + u64::from_le_bytes(means[..8].try_into().expect("eight bytes")) as usize;
    for end in (0..header).step_by(97).chain([header, means.len() - 1]) {
        assert!(
            matches!(with("means.safetensors", &means[..end]), Err(Error::Run(RunError::Damaged { .. }))),
            "{end} bytes"
        );
    }
    assert!(with("means.safetensors", &[means.as_slice(), &[0]].concat()).is_err());
    assert!(with("means.safetensors", &u64::MAX.to_le_bytes()).is_err());
    for at in 0..header {
        let mut damaged = means.clone();
        damaged[at] ^= 0x41;
        // White space at the header's end may become other white space; whatever is accepted is read correctly.
        let _ = with("means.safetensors", &damaged);
    }
    let rollouts = fs::read(whole.path().join("rollouts.jsonl")).expect("a file");
    let damage = |bytes: &[u8]| match with("rollouts.jsonl", bytes) {
        Err(Error::Run(RunError::Damaged { source, .. })) => source,
        other => panic!("{other:?}"),
    };
    let half = damage(&rollouts[..rollouts.len() / 2]);
    assert!(matches!(half, Damage::Incomplete { missing, expected, .. } if (1..expected).contains(&missing)), "{half}");
    let text = String::from_utf8(rollouts).expect("text");
    let changed = text.replacen("\"seed\":", "\"seed\": ", 1);
    assert!(matches!(damage(changed.as_bytes()), Damage::ChangedAfter { than: "means.safetensors" }));
    let first = text.lines().next().expect("a line");
    assert!(matches!(damage(format!("{first}\n{text}").as_bytes()), Damage::StrayLine { line: 2 }));

    let run = fs::read_to_string(whole.path().join("run.json")).expect("a file");
    for (from, to) in [
        ("pv-rollouts/1", "pv-rollouts/2"),
        ("\"per_prompt\": 5", "\"per_prompt\": 0"),
        ("\"per_prompt\": 5", "\"per_prompt\": 18446744073709551615"),
        ("\"layers\": 5", "\"layers\": 18446744073709551615"),
        ("\"d_model\": 48", "\"d_model\": 0"),
        ("{", "["),
    ] {
        let changed = run.replacen(from, to, 1);
        assert_ne!(changed, run, "{from} is not there");
        let expected = match with("run.json", changed.as_bytes()) {
            // The last change alone leaves no JSON.
            Err(Error::Run(RunError::Json { .. })) => from == "{",
            Err(Error::Run(RunError::Damaged { .. })) => from != "{",
            _ => false,
        };
        assert!(expected, "{from} -> {to}");
    }
}

#[test]
fn bad_csv_is_refused_with_the_line() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rude.csv");
    let read = |text: &[u8], polarity| {
        fs::write(&path, text).expect("a file");
        ScoredRollouts::read(&path, "rude", polarity, model.tokenizer().unwrap())
    };
    let head = "question,prompt,answer,question_id,rude,coherence\n";
    let row = "q,p,\"two\nlines\",rude_0_pos_0,1,2\n";
    for (text, line, what) in [
        (String::new(), None, "no column \"question\""),
        ("question,prompt,answer\n".into(), None, "no column \"question_id\""),
        (format!("{head}{row}q,p,a,rude_0_pos_0,1\n"), Some(4), "expected 6 fields, as in the header, found 5"),
        (format!("{head}{row}q,p,a,evil_0_pos_0,1,2\n"), Some(4), "its id \"evil_0_pos_0\""),
        (format!("{head}{row}q,p,a,rude_0,1,2\n"), Some(4), "polarity"),
        (format!("{head}{row}q,p,a,rude_0_pos_0,high,2\n"), Some(4), "\"high\""),
        (format!("{head}{row}q,p,a,rude_0_pos_0,1,200\n"), Some(4), "\"200\""),
    ] {
        match read(text.as_bytes(), None) {
            Err(Error::BadRollouts { line: found, source, .. }) => {
                let told = with_causes(&source);
                assert!(found == line && told.contains(what), "{found:?}: {told}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let mut bytes = format!("{head}{row}").into_bytes();
    bytes.extend(b"q,p,\xff,rude_0_pos_0,1,2\n");
    assert!(matches!(read(&bytes, None), Err(Error::BadRollouts { line: Some(4), .. })));
    let wrong_side = read(format!("{head}{row}").as_bytes(), Some(Polarity::Neg));
    assert!(matches!(wrong_side, Err(Error::BadRollouts { line: Some(2), .. })), "{wrong_side:?}");
    assert!(matches!(
        ScoredRollouts::read(folder.path().join("none.csv"), "rude", None, model.tokenizer().unwrap()),
        Err(Error::File(FileError::Read { .. }))
    ));
    assert_eq!(read(head.as_bytes(), None).expect("no rollouts").records, []);
}

#[test]
fn more_answers_than_a_run_can_have_are_refused_at_once() {
    let model = model("qwen3");
    for n in [usize::MAX, usize::MAX / 2 + 1, pv_model::Request::MAX_ANSWERS + 1] {
        let requests = [pv_model::Request::rollouts(vec![1, 2], n, 0)];
        let error = model
            .generate(&requests, &pv_model::GenerateOptions::default(), &mut pv_hooks::NoHook, |_| {
                std::ops::ControlFlow::Continue(())
            })
            .expect_err("too many");
        assert!(error.to_string().contains("4194304"), "{error}");
        let plan = Plan::new(&spec(), RolloutOptions { per_prompt: n, ..options() });
        let said = plan.expect_err("too many").to_string();
        assert!(said.contains(&n.to_string()) && said.contains("4194304"), "{said}");
    }
    let batch_size = usize::MAX;
    assert!(Plan::new(&spec(), RolloutOptions { batch_size, ..options() }).is_ok());
}
