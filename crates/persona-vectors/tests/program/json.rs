//! `--json` prints one JSON document at the end.

use serde_json::Value;

use crate::Place;

fn array<'a>(document: &'a Value, key: &str) -> &'a Vec<Value> {
    document[key].as_array().unwrap_or_else(|| panic!("no list {key} in {document}"))
}

#[test]
fn steer_prints_texts_projections_and_scores() {
    let place = Place::new();
    let found = place.json("steer --coefs=0,1.4 --max-new-tokens 12", &["--question", "What happens when it rains?"]);
    let columns = array(&found, "columns");
    assert_eq!((found["trait"].as_str(), found["layer"].as_u64(), columns.len()), (Some("optimism"), Some(7), 2));
    for (column, coefficient) in columns.iter().zip([0.0, 1.4]) {
        assert!((column["coefficient"].as_f64().unwrap() - coefficient).abs() < 1e-6);
        let [answer] = array(column, "answers").as_slice() else { panic!("one answer: {column}") };
        assert_eq!(answer["question"], "What happens when it rains?");
        assert!(!answer["text"].as_str().unwrap().is_empty());
        assert!((answer["projection"].as_f64().unwrap() - column["mean_projection"].as_f64().unwrap()).abs() < 1e-9);
        assert!((0.0..=100.0).contains(&column["coherence"].as_f64().unwrap()));
    }
    let [plain, steered] = [0, 1].map(|at| columns[at]["mean_projection"].as_f64().unwrap());
    assert!(steered > plain, "{steered} along the vector, {plain} without it");
}

#[test]
fn extract_prints_layers_and_the_vector_file() {
    let place = Place::new();
    let found = place.json("extract optimism --contrast --max-new-tokens 8 --gguf", &[]);
    let [one] = array(&found, "traits").as_slice() else { panic!("one trait: {found}") };
    let norms: Vec<f64> = array(one, "layers").iter().map(|layer| layer["norm"].as_f64().unwrap()).collect();
    assert!(norms.len() >= 8 && norms.iter().all(|norm| *norm > 0.0), "{norms:?}");
    let vector = one["vector"].as_str().unwrap();
    assert!(vector.starts_with("runs/extract-organism-optimism"), "{vector}");
    assert!(place.path(vector).is_file() && place.path(one["gguf"].as_str().unwrap()).is_file());
    // Other commands accept the file.
    let steered = place.json("steer --coefs=1 --max-new-tokens 4 --question x --vector", &[vector]);
    let layer = steered["layer"].as_u64().unwrap() as usize;
    let of_layer = array(one, "layers").iter().find(|found| found["layer"] == layer).unwrap();
    assert!((of_layer["norm"].as_f64().unwrap() - steered["norm"].as_f64().unwrap()).abs() < 1e-6);
}

#[test]
fn models_and_traits_are_shown() {
    let place = Place::new();
    let info = place.json("model info", &[]);
    assert_eq!((info["family"].as_str(), info["config"]["layers"].as_u64()), (Some("qwen2"), Some(8)));
    let stored = info["bytes"].as_u64().unwrap();
    let parameters = info["parameters"].as_u64().unwrap();
    assert!((2 * parameters..2 * parameters + 100_000).contains(&stored), "{stored} bytes for {parameters} in f16");
    assert!(!array(&info, "stop_tokens").is_empty() && !array(&info, "chat_templates").is_empty());
    let memory = place.json("model memory --tokens 100", &[]);
    let uses = array(&memory, "uses");
    let weights = |dtype: &str| uses.iter().find(|found| found["dtype"] == dtype).unwrap()["weights"].as_u64();
    assert_eq!((weights("f32"), weights("bf16")), (Some(4 * parameters), Some(2 * parameters)));
    let traits = place.json("trait list", &[]);
    assert!(array(&traits, "traits").iter().any(|found| found["name"] == "sycophancy"));
    let shown = place.json("trait show sycophancy", &[]);
    assert_eq!((array(&shown, "extraction").len(), array(&shown, "evaluation").len()), (20, 20));
}

#[test]
fn chat_prints_its_answers() {
    let place = Place::new();
    let questions = ["--question", "What happens when it rains?", "--question", "And when it is cold?"];
    let plain = place.json("chat --max-new-tokens 6", &questions);
    let steered = place.json("chat --max-new-tokens 6 --trait optimism --coef 1.4", &questions);
    let text = |found: &Value| -> Vec<String> {
        array(found, "answers").iter().map(|answer| answer["answer"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((text(&plain).len(), text(&steered).len()), (2, 2));
    assert_ne!(text(&plain), text(&steered));
    // Steering with coefficient 0 changes nothing.
    assert_eq!(text(&place.json("chat --max-new-tokens 6 --trait optimism --coef 0", &questions)), text(&plain));
}

#[test]
fn a_model_is_saved_in_another_type() {
    let place = Place::new();
    let saved = place.json("model save organism copy --as bf16", &[]);
    assert_eq!((saved["dtype"].as_str(), saved["folder"].as_str()), (Some("bf16"), Some("copy")));
    let [ours, copy] = ["organism", "copy"].map(|model| place.json("model info", &[model]));
    for key in ["family", "parameters", "stop_tokens", "chat_templates"] {
        assert_eq!(ours[key], copy[key], "{key}");
    }
    assert_eq!(copy["config"]["stored_dtype"].as_str().map(str::to_lowercase).as_deref(), Some("bf16"));
    let refused = place.run("model save organism copy", &[]);
    assert!(refused.code == Some(1) && refused.err.contains("not empty"), "{}", refused.err);
    let refused = place.run("model merge organism other", &[]);
    assert!(refused.code == Some(1) && refused.err.contains("--adapter"), "{}", refused.err);
}
