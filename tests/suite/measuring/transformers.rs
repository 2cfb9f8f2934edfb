//! The measurements on SmolLM2, compared with transformers if `PV_PYTHON` names a Python with it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use burn::tensor::DType;
use pv_data::Conversation;
use pv_tests::{root, smollm2};
use pv_train::measure::mmlu::{Mmlu, MmluOptions, QuestionSet};
use pv_train::measure::perplexity::{PerplexityOptions, perplexity};
use pv_train::trainer::mean_loss;
use serde_json::{Value, json};

use super::*;

fn samples(model: &CausalLm) -> Vec<Sample> {
    let say = |question: &str, answer: &str| Conversation::new([Message::user(question), Message::assistant(answer)]);
    let conversations = [
        say("What is the capital of France?", "The capital of France is Paris."),
        say("Why is the sky blue?", "Short waves of light are scattered more than long ones, and blue light is short."),
        say("Wie heißt du?", "Das „weiß“ ich nicht 🙂"),
    ];
    let sample = |c| Sample::from_conversation(model, c, &EncodeOptions::default()).expect("a sample");
    conversations.iter().map(sample).collect()
}

#[test]
fn log_probabilities_and_losses_equal_those_of_transformers() {
    let Some(python) = std::env::var_os("PV_PYTHON").map(PathBuf::from) else {
        println!("PV_PYTHON names no Python with transformers: NOT CHECKED");
        return;
    };
    let model = CausalLm::from_folder(smollm2(), &pv_model::device("flex").expect("the CPU"), DType::F32);
    let model = model.expect("the model");
    let (place, samples) = (folder(), samples(&model));
    let list: Vec<Value> = samples.iter().map(|s| json!({"ids": s.ids(), "trained": s.trained()})).collect();
    let file = place.path().join("samples.json");
    std::fs::write(&file, Value::from(list).to_string()).expect("a file");
    // Longer than three windows.
    let licence = std::fs::read_to_string(root().join("LICENSE-APACHE")).expect("a text");
    let (questions, text) = (root().join("tests/golden/mmlu"), place.path().join("text.txt"));
    std::fs::write(&text, &licence[..licence.floor_char_boundary(5500)]).expect("a file");
    let started = Instant::now();
    let output = Command::new(&python)
        .arg(root().join("tests/python/measures.py"))
        .args([smollm2().as_os_str(), questions.as_os_str(), text.as_os_str(), file.as_os_str()])
        .output()
        .unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "PV_PYTHON={}: {errors}", python.display());
    let expected: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    println!("transformers took {:.1} s", started.elapsed().as_secs_f64());

    let started = Instant::now();
    let set = QuestionSet::read_folder(questions).expect("questions");
    let mmlu = Mmlu::new(&model, &set, &MmluOptions::default()).expect("a run");
    let results = mmlu.run(place.path().join("run"), &mut NoHook, |_, _| ControlFlow::Continue(())).expect("results");
    println!("ours took {:.1} s for the questions", started.elapsed().as_secs_f64());
    let reference: Vec<[f64; 4]> = serde_json::from_value(expected["log_probs"].clone()).expect("numbers");
    assert_eq!(results.answers.len(), reference.len());
    let (mut worst, mut right) = (0.0f64, 0);
    for (answer, reference) in results.answers.iter().zip(&reference) {
        let gaps = answer.log_probs.iter().zip(reference).map(|(a, b)| (a - b).abs());
        worst = gaps.fold(worst, f64::max);
        let best = (0..4).max_by(|a, b| reference[*a].total_cmp(&reference[*b])).expect("four");
        right += usize::from(best == set.test[answer.question].answer);
        assert_eq!(answer.choice(), best, "question {}", answer.question);
    }
    println!("ln p off by at most {worst:.1e}; accuracy {:?}, macro {:.3}", results.micro, results.macro_average);
    assert!(worst < 1e-3, "{worst}");
    assert_eq!(results.micro.successes, right);

    let text = std::fs::read_to_string(text).expect("a text");
    for (window, stride) in [(512, 256), (300, 299)] {
        let options = PerplexityOptions { window, stride };
        let found = perplexity(&model, &text, &options, &mut NoHook, |_, _| ControlFlow::Continue(()));
        let found = found.expect("a perplexity");
        let reference = expected["perplexity"][format!("{window}/{stride}")].as_f64().expect("a number");
        println!("{window}/{stride}: {found:?}, transformers {reference:.7}");
        assert_eq!(Some(found.tokens as u64), expected["text_tokens"].as_u64());
        assert!((found.mean_loss - reference).abs() < 1e-4 * reference);
    }
    let found = mean_loss(model.decoder(), &samples, 2, &mut NoHook).expect("a loss");
    let reference = expected["mean_loss"].as_f64().expect("a number");
    println!("mean loss {found:.7}, transformers {reference:.7}");
    assert!((found - reference).abs() < 1e-4 * reference);
}
