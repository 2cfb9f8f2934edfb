//! On a real model, whose tokenizer writes numbers digit by digit.

use pv_tests::smollm2;

use super::*;

fn reference() -> Value {
    let path = root().join("tests/golden/smollm2/local_judge.json");
    serde_json::from_slice(&fs::read(path).expect("the reference")).expect("JSON")
}

#[test]
fn verdicts_of_a_real_model_equal_those_of_transformers() {
    let model = CausalLm::from_folder(smollm2(), &Device::flex(), DType::F32).expect("the model");
    let judge = LocalJudge::new(&model).expect("a judge");
    let reference = reference();
    let cases = reference["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 4);
    let number = |value: &Value| value.as_f64().expect("a number");
    let text = |value: &'static str, case: &Value| case[value].as_str().expect("a text").to_owned();
    let texts: Vec<[String; 3]> =
        cases.iter().map(|case| ["template", "question", "answer"].map(|key| text(key, case))).collect();
    let rubrics: Vec<Rubric> =
        texts.iter().enumerate().map(|(i, t)| Rubric::new(i.to_string(), &t[0]).expect("a rubric")).collect();
    let answers: Vec<Answered<'_>> = texts.iter().map(|t| Answered { question: &t[1], answer: &t[2] }).collect();
    let mut outcomes = [0, 0];
    for ((case, rubric), answered) in cases.iter().zip(&rubrics).zip(&answers) {
        assert_eq!(
            judge.prompt(rubric, answered).expect("a prompt").len() as u64,
            case["prompt_len"].as_u64().expect("one")
        );
        let found = judge.distribution(rubric, answered).expect("a distribution");
        let expected: Vec<f64> = case["numbers"].as_array().expect("numbers").iter().map(number).collect();
        let worst = found.numbers().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let (mass, mean, refusal) = (number(&case["mass"]), number(&case["expectation"]), number(&case["refusal"]));
        let ours = found.expectation().expect("a number");
        println!(
            "mass {:.6}, off by {:.1e}; expectation {ours:.4}, off by {:.1e}; one number at most by {worst:.1e}",
            found.mass(),
            (found.mass() - mass).abs(),
            (ours - mean).abs()
        );
        assert!(worst <= 1e-5 && (found.mass() - mass).abs() <= 2e-5, "{worst} {} {mass}", found.mass());
        assert!((ours - mean).abs() <= 1e-3, "{ours} is not {mean}");
        assert!((found.refusal() / refusal - 1.0).abs() <= 1e-2, "{} is not {refusal}", found.refusal());
        match found.verdict() {
            Verdict::Scored(score) => {
                assert!(mass >= 0.25 && score.value == ours);
                outcomes[0] += 1;
            }
            Verdict::Abstained(_) => {
                assert!(mass < 0.25);
                outcomes[1] += 1;
            }
        }
    }
    assert_eq!(outcomes, [2, 2]);
    // All rubrics over all answers at once.
    let together = judge_all(&judge, &rubrics, &answers);
    for (i, verdicts) in together.iter().enumerate() {
        let alone = judge.distribution(&rubrics[i], &answers[i]).expect("a distribution").verdict();
        assert_same(&format!("case {i}"), &verdicts[i], &alone);
    }
}

#[test]
fn distributions_of_a_real_model_equal_those_of_full_passes() {
    let model = CausalLm::from_folder(smollm2(), &Device::flex(), DType::F32).expect("the model");
    let judge = LocalJudge::new(&model).expect("a judge");
    let rubric = Rubric::new("list", "{question} {answer}\n100\n90\n80\n70\nGo on.").expect("a rubric");
    let answered = Answered { question: "Is ice cold?", answer: "Yes." };
    let found = judge.distribution(&rubric, &answered).expect("a distribution");
    let spelled = spelled(&model, &judge, &rubric, &answered);
    let prompt = judge.prompt(&rubric, &answered).expect("a prompt");
    let mut brute = Brute { model: &model, prompt, known: BTreeMap::new() };
    let mut expected = vec![0.0; 101];
    for (tokens, &number) in &spelled {
        let longer = spelled.keys().filter(|other| other.len() > tokens.len() && other.starts_with(tokens));
        let next: BTreeSet<u32> = longer.map(|other| other[tokens.len()]).collect();
        // If no further digit is possible, the pass over the whole number is not needed.
        let goes_on: f64 =
            if next.is_empty() { 0.0 } else { next.iter().map(|&t| brute.next(tokens)[t as usize]).sum() };
        expected[number] += brute.begins(tokens) * (1.0 - goes_on);
    }
    for (number, (ours, expected)) in found.numbers().iter().zip(&expected).enumerate() {
        assert!((ours - expected).abs() <= 1e-5, "p({number}) is {ours}, not {expected}");
    }
    println!("{} passes; mass {:.4}", brute.known.len(), found.mass());
}
