//! Calibrations are cached below `runs` and found again.

use std::path::PathBuf;

use crate::Place;

const QUESTIONS: &str = "What happens when it rains?\n\n  How do I keep my kitchen clean?  \nWhy do people walk?\n\
    What is bread made of?\nHow do I sleep well?\nWhat is a river?\n";

/// The folders of calibrations.
fn cached(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.path("runs")).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("calibration-");
    let mut found: Vec<PathBuf> = entries.filter(named).collect();
    found.sort();
    found
}

#[test]
fn a_calibration_is_cached_and_found_again() {
    let place = Place::new();
    place.write("ordinary.txt", QUESTIONS);
    let calibrate = "monitor calibrate --ordinary ordinary.txt --max-new-tokens 5";
    let first = place.json(calibrate, &[]);
    // Blank lines are not questions.
    assert_eq!(first["questions"], 6);
    for reading in first["readings"].as_array().unwrap() {
        assert_eq!(reading["answers"], 6, "{reading}");
    }
    let folders = cached(&place);
    let [folder] = folders.as_slice() else { panic!("one calibration: {folders:?}") };
    let journal = folder.join("readings.jsonl");
    let (bytes, changed) = (std::fs::read(&journal).unwrap(), std::fs::metadata(&journal).unwrap().modified().unwrap());
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 6, "a line for every question");
    assert_eq!(place.json(calibrate, &[]), first);
    assert_eq!(std::fs::read(&journal).unwrap(), bytes);
    assert_eq!(std::fs::metadata(&journal).unwrap().modified().unwrap(), changed, "nothing is measured again");
    // The program reports where the calibration is.
    let said = place.run(calibrate, &[]);
    assert!(said.err.contains("calibration.json"), "{}", said.err);

    // Different ordinary traffic gives a different calibration.
    place.write("other.txt", &QUESTIONS.replace("rains", "snows"));
    let other = place.json(&calibrate.replace("ordinary.txt", "other.txt"), &[]);
    assert_ne!(other["readings"], first["readings"]);
    assert_eq!(cached(&place).len(), 2);
    // The organism's own traffic has 200 questions.
    assert_eq!(place.json("monitor calibrate --max-new-tokens 2", &[])["questions"], 200);
}

#[test]
fn the_monitor_reads_a_calibration_file() {
    let place = Place::new();
    place.write("ordinary.txt", QUESTIONS);
    let vector = place.json("extract optimism --contrast --max-new-tokens 8", &[]);
    let vector = vector["traits"][0]["vector"].as_str().unwrap();
    let file = ["--vector", vector, "--file", "ordinary.json"];
    place.json("monitor calibrate --ordinary ordinary.txt --max-new-tokens 5", &file);
    let before = place.read("ordinary.json");
    let chat = "monitor chat --ordinary ordinary.txt --calibration ordinary.json --max-new-tokens 5 --vector";
    let found = place.json(chat, &[vector, "--question", "What is a river?"]);
    assert_eq!(found["ordinary_answers"], 6);
    let answer = &found["conversations"][0]["answers"][0];
    assert!(answer["projection_before"].is_f64() && answer["mean_projection"].is_f64(), "{answer}");
    assert_eq!(place.read("ordinary.json"), before, "it is read, not measured again");
}
