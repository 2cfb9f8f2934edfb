//! Runs that are repeated from their `config.toml`.

use crate::Place;

#[test]
fn a_run_repeated_from_its_file_has_the_same_results() {
    let place = Place::new();
    let first = place.json("extract evil --rollouts 1 --max-new-tokens 30 --out a", &[]);
    let again = place.json("extract a/config.toml --out b", &[]);
    assert_eq!(first["traits"][0]["layers"], again["traits"][0]["layers"]);
    assert!(first["traits"][0]["layers"][7]["trust"]["held_out_auc"].is_f64(), "{first}");
    assert_eq!(place.read("a/evil/vector.safetensors"), place.read("b/evil/vector.safetensors"));
    // The files differ only in the folder that they name.
    let text = |name: &str| String::from_utf8(place.read(name)).unwrap();
    assert_eq!(text("a/config.toml").replace("\"a\"", "\"b\"").replace(" a/", " b/"), text("b/config.toml"));
    // In its own folder the run resumes and has nothing to do.
    let rollouts = place.read("a/evil/rollouts.jsonl");
    place.json("extract a/config.toml", &[]);
    assert_eq!(place.read("a/evil/rollouts.jsonl"), rollouts);
}

#[test]
fn switches_override_the_file_and_unknown_keys_are_named() {
    let place = Place::new();
    let sweep = "sweep --layers 7 --coefs 0.3,0.4 --questions 2 --max-new-tokens 4 --out a";
    let coefs = |found: &serde_json::Value| -> Vec<f64> {
        let cells = found["cells"].as_array().unwrap();
        cells.iter().map(|cell| cell["strength"].as_f64().unwrap()).map(|s| (10.0 * s).round() / 10.0).collect()
    };
    assert_eq!(coefs(&place.json(sweep, &[])), [0.3, 0.4]);
    assert_eq!(coefs(&place.json("sweep a/config.toml --coefs 0.5 --out b", &[])), [0.5]);
    // Another run in the same folder is refused, and the folder's file is unchanged.
    let file = place.read("a/config.toml");
    let refused = place.run("sweep a/config.toml --seed 1", &[]);
    assert!(refused.code == Some(1) && refused.err.contains("seed"), "{}", refused.err);
    assert_eq!(place.read("a/config.toml"), file);
    // A larger one continues there, and its file repeats the larger one.
    let grown = place.json("sweep a/config.toml --coefs 0.3,0.4,0.5 --layers 6,7", &[]);
    assert_eq!(coefs(&grown), [0.3, 0.4, 0.5, 0.3, 0.4, 0.5]);
    let mut fresh = place.json("sweep a/config.toml --out c", &[]);
    assert!(place.read("c/results.json") == place.read("a/results.json"), "the results are those of a large sweep");
    assert_eq!(place.read("c/journal.jsonl").len(), place.read("a/journal.jsonl").len());
    fresh["folder"] = grown["folder"].clone();
    fresh["vector"] = grown["vector"].clone();
    assert_eq!(fresh, grown);

    place.write("mine.toml", "questions = 2\ncoeffs = [0.3]\n");
    let unknown = place.run("sweep mine.toml", &[]);
    assert_eq!((unknown.code, unknown.out.as_str()), (Some(2), ""));
    assert!(unknown.err.contains("`coeffs`") && unknown.err.contains("mine.toml"), "{}", unknown.err);
    let other = place.run("train a/config.toml", &[]);
    assert!(other.code == Some(2) && other.err.contains("persona sweep"), "{}", other.err);
}

#[test]
fn a_training_run_is_repeated_measured_and_merged() {
    let place = Place::new();
    let short =
        "--steps 3 --rank 4 --batch-size 2 --accumulate 1 --checkpoint-every 2 --measure-every 2 --learning-rate 1e-2";
    let first = place.json(&format!("train --trait evil {short} --out a"), &[]);
    let again = place.json("train a/config.toml --out b", &[]);
    assert_eq!(first["after"]["held_out_loss"], again["after"]["held_out_loss"]);
    assert!(first["after"]["step"] == 3 && first["after"]["held_out_loss"].is_f64(), "{first}");
    let saved = first["saved"].as_str().unwrap();
    let weights = |saved: &str| place.read(&format!("{saved}/adapter_model.safetensors"));
    assert_eq!(weights(saved), weights(again["saved"].as_str().unwrap()));

    // The first model with the adapter is measured too, after the others, along a vector of its own traits.
    let measure = "eval organism --trait evil --questions 2 --rollouts 1 --max-new-tokens 6 --adapter";
    let found = place.json(measure, &[saved]);
    let models = found["expression"]["models"].as_array().unwrap();
    assert!(models.len() == 2 && models[0] == "organism", "{models:?}");
    let adapted = models[1].as_str().unwrap();
    assert!(adapted.starts_with("organism+") && adapted.contains("adapter"), "{adapted}");
    let shifts = found["shifts"].as_array().unwrap();
    assert!(shifts.len() == 1 && shifts[0]["model"] == adapted, "{shifts:?}");
    let shift = &shifts[0]["traits"][0]["shifts"][0];
    let [before, after] = ["base", "finetuned"].map(|key| shift[key].as_f64().unwrap());
    assert!((after - before).abs() > 1e-4, "the adapter changes the projection: {before} and {after}");

    // Merged into the weights, it is the same model, except for rounding to the type of the files.
    place.json("model merge organism merged --adapter", &[saved]);
    let merged = place.json("eval organism merged --trait evil --questions 2 --rollouts 1 --max-new-tokens 6", &[]);
    let moved = merged["shifts"][0]["traits"][0]["shifts"][0]["finetuned"].as_f64().unwrap();
    assert!((moved - after).abs() < 0.1 * (after - before).abs(), "{moved} merged, {after} as an adapter");
}
