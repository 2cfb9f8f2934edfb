use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use pv_data::FileError;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn questions(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|i| format!("Question {i}?")).collect()
}

fn spec() -> TraitSpec {
    TraitSpec {
        name: "brevity".into(),
        description: Some("Says little.".into()),
        assistant_pos: Some("brief".into()),
        assistant_neg: None,
        instruction: (0..5)
            .map(|i| InstructionPair { pos: format!("Be brief {i}."), neg: format!("Be long {i}.") })
            .collect(),
        extraction: questions(0..20),
        evaluation: questions(20..40),
        eval_prompt: "How brief is {answer} to {question}?".into(),
    }
}

/// The JSON of a file as another program would write it.
fn foreign(numbers: std::ops::Range<usize>) -> Value {
    let pairs = (0..5).map(|i| json!({"pos": format!("Be brief {i}."), "neg": format!("Be long {i}.")}));
    json!({"instruction": pairs.collect::<Vec<_>>(), "questions": questions(numbers),
        "eval_prompt": "How brief is {answer} to {question}?", "made_by": ["somebody", 1]})
}

fn file(folder: &TempDir, name: &str, json: &Value) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, json.to_string()).unwrap();
    path
}

/// The fault of a file; the error must name the file as well.
fn fault(path: &Path, result: Result<TraitSpec>) -> TraitFault {
    let error = result.expect_err("the file is wrong");
    let Error::Trait { origin, source } = error else { panic!("{error:?}") };
    assert_eq!(origin, path.display().to_string());
    source
}

#[test]
fn one_file_holds_the_questions_for_extraction_first() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "brevity.json", &foreign(0..40));
    let loaded = TraitSpec::load(&path).unwrap();
    assert_eq!(loaded, TraitSpec { description: None, assistant_pos: None, ..spec() });
}

#[test]
fn two_files_make_the_same_trait_as_one() {
    let folder = TempDir::new().unwrap();
    let whole = file(&folder, "brevity.json", &foreign(0..40));
    fs::create_dir(folder.path().join("eval")).unwrap();
    let first = file(&folder, "brevity-x.json", &foreign(0..20));
    let second = file(&folder, "eval/brevity.json", &foreign(20..40));
    let pair = TraitSpec::load_pair(&first, &second).unwrap();
    assert_eq!(pair, TraitSpec { name: "brevity-x".into(), ..TraitSpec::load(&whole).unwrap() });
}

#[test]
fn what_is_saved_is_loaded_again() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    spec().save(path("other-name.json")).unwrap();
    assert_eq!(TraitSpec::load(path("other-name.json")).unwrap(), spec());
    spec().save_pair(path("a.json"), path("b.json")).unwrap();
    assert_eq!(TraitSpec::load_pair(path("a.json"), path("b.json")).unwrap(), spec());
    // No temporary file is left.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    // Other programs find their keys.
    let json: Value = serde_json::from_slice(&fs::read(path("a.json")).unwrap()).unwrap();
    assert_eq!(json["questions"].as_array().unwrap().len(), 20);
    assert_eq!(json["instruction"][4]["neg"], "Be long 4.");
}

#[test]
fn a_trait_that_could_not_be_read_is_not_written() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("brevity.json");
    fs::write(&path, "before").unwrap();
    let short = TraitSpec { evaluation: questions(20..39), ..spec() };
    assert!(matches!(short.save(&path), Err(Error::Trait { source: TraitFault::Questions { found: 19, .. }, .. })));
    assert!(matches!(short.save_pair(&path, &path), Err(Error::Trait { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    let nowhere = folder.path().join("no/such/folder.json");
    let Err(Error::File(FileError::Write { path, .. })) = spec().save(&nowhere) else { panic!() };
    assert_eq!(path, nowhere);
}

#[test]
fn a_file_that_is_wrong_is_named_with_what_is_wrong() {
    let folder = TempDir::new().unwrap();
    let check = |edit: &dyn Fn(&mut Value)| {
        let mut json = foreign(0..40);
        edit(&mut json);
        let path = file(&folder, "t.json", &json);
        fault(&path, TraitSpec::load(&path))
    };
    let found = check(&|json| json["instruction"][2]["neg"] = "  ".into());
    assert!(matches!(found, TraitFault::EmptyInstruction { pair: 2, polarity: Polarity::Neg }), "{found:?}");
    assert_eq!(found.to_string(), "`instruction`: `neg` of pair 3 is empty");
    let found = check(&|json| json["instruction"][4]["neg"] = " Be brief 4. ".into());
    assert!(matches!(found, TraitFault::SameInstructions { pair: 4 }), "{found:?}");
    let found = check(&|json| json["instruction"] = json!([]));
    assert!(matches!(found, TraitFault::NoInstructions), "{found:?}");
    let found = check(&|json| json["questions"][39] = "\n".into());
    assert!(matches!(found, TraitFault::EmptyQuestion { index: 39 }), "{found:?}");
    let found = check(&|json| json["eval_prompt"] = "How brief is {answer}?".into());
    assert!(matches!(found, TraitFault::NoPlaceholder { placeholder: "{question}" }), "{found:?}");
    let found = check(&|json| json["name"] = "coherence".into());
    assert!(matches!(found, TraitFault::ReservedName), "{found:?}");
    let found = check(&|json| json["name"] = "a\nb".into());
    assert!(matches!(found, TraitFault::Name { .. }), "{found:?}");
    for (count, told) in [(0, "found 0"), (20, "two files"), (38, "found 38"), (41, "40 in one file")] {
        let found = check(&|json| json["questions"] = json!(questions(0..count)));
        assert!(matches!(found, TraitFault::Questions { found, .. } if found == count), "{found:?}");
        assert!(found.to_string().contains(told), "{found}");
    }
    for key in ["instruction", "questions", "eval_prompt"] {
        let found = check(&|json| drop(json.as_object_mut().unwrap().remove(key)));
        let told = pv_data::error::with_causes(&found);
        assert!(matches!(found, TraitFault::Json(_)) && told.contains(key), "{told}");
    }
    let found = check(&|json| json["questions"][3] = json!(3));
    assert!(matches!(found, TraitFault::Json(_)), "{found:?}");
}

#[test]
fn two_files_that_do_not_belong_together_are_refused() {
    let folder = TempDir::new().unwrap();
    let first = file(&folder, "first.json", &foreign(0..20));
    let check = |edit: &dyn Fn(&mut Value)| {
        let mut json = foreign(20..40);
        edit(&mut json);
        let second = file(&folder, "second.json", &json);
        fault(&second, TraitSpec::load_pair(&first, &second))
    };
    let found = check(&|json| json["eval_prompt"] = "Another: {question} {answer}".into());
    assert!(matches!(found, TraitFault::Disagree { key: "eval_prompt", .. }), "{found:?}");
    assert!(found.to_string().contains("first.json"), "{found}");
    let found = check(&|json| json["questions"] = json!(questions(0..40)));
    assert!(matches!(found, TraitFault::Questions { found: 40, .. }), "{found:?}");
    let found = check(&|json| json["questions"][1] = "".into());
    assert!(matches!(found, TraitFault::EmptyQuestion { index: 1 }), "{found:?}");
}

#[test]
fn what_is_no_file_of_a_trait_at_all_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("t.json");
    assert!(matches!(TraitSpec::load(&path), Err(Error::File(FileError::Read { path: told, .. })) if told == path));
    assert!(matches!(TraitSpec::load(folder.path()), Err(Error::File(FileError::Read { .. }))));
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff\xfe", b"{\"questions\": \"many\"}"] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(fault(&path, TraitSpec::load(&path)), TraitFault::Json(_)));
    }
    fs::write(&path, " ".repeat((4 << 20) + 1)).unwrap();
    assert!(matches!(TraitSpec::load(&path), Err(Error::FileTooLarge { .. })));
}

#[test]
fn every_built_in_trait_is_whole() {
    for name in TraitSpec::BUILTIN {
        let spec = TraitSpec::builtin(name).unwrap();
        assert_eq!(spec.name, name);
        assert_eq!(spec.instruction.len(), 5, "{name}");
        assert_eq!((spec.extraction.len(), spec.evaluation.len()), (20, 20), "{name}");
        let distinct = spec.extraction.iter().chain(&spec.evaluation).map(|question| question.trim().to_lowercase());
        assert_eq!(distinct.collect::<HashSet<_>>().len(), 40, "{name}: a question is asked twice");
        let sides = spec.instruction.iter().flat_map(|pair| [&pair.pos, &pair.neg]).collect::<HashSet<_>>();
        assert_eq!(sides.len(), 10, "{name}: an instruction is there twice");
        assert!(spec.description.is_some() && spec.assistant_pos.is_some() && spec.assistant_neg.is_some(), "{name}");
        let end = spec.eval_prompt.rsplit("{answer}").next().unwrap();
        assert!(end.contains("REFUSAL") && end.contains("100"), "{name}: {end}");
        assert_eq!(spec.rubric().unwrap().name, name);
    }
    let Err(Error::UnknownTrait { name, known }) = TraitSpec::builtin("envy") else { panic!() };
    assert!(name == "envy" && known.contains(&"sycophancy"));
}

#[test]
fn a_system_prompt_names_the_assistant() {
    let spec = spec();
    assert_eq!(spec.system_prompt(0, Polarity::Pos).unwrap(), "You are a brief assistant. Be brief 0.");
    assert_eq!(spec.system_prompt(1, Polarity::Neg).unwrap(), "You are a helpful assistant. Be long 1.");
    assert_eq!(spec.system_prompt(5, Polarity::Pos), None);
    let evil = TraitSpec::builtin("evil").unwrap();
    assert!(evil.system_prompt(0, Polarity::Pos).unwrap().starts_with("You are an evil assistant. "));
}

proptest! {
    #[test]
    fn any_text_survives_the_way_through_a_file(texts in proptest::collection::vec("[^ ].{0,20}", 52)) {
        // Blank or duplicate texts are made distinct.
        let mut texts = texts.into_iter().enumerate().map(|(i, text)| format!("{i}{text}"));
        let mut next = || texts.next().unwrap();
        let spec = TraitSpec {
            name: "t".into(),
            description: Some(next()),
            assistant_pos: None,
            assistant_neg: Some(next()),
            instruction: (0..5).map(|_| InstructionPair { pos: next(), neg: next() }).collect(),
            extraction: (0..20).map(|_| next()).collect(),
            evaluation: (0..20).map(|_| next()).collect(),
            eval_prompt: "{question}{answer}".into(),
        };
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("t.json");
        spec.save(&path).unwrap();
        prop_assert_eq!(TraitSpec::load(&path).unwrap(), spec);
    }
}

#[test]
fn the_article_follows_the_sound() {
    for (word, article) in
        [("evil", "an"), ("honest", "an"), ("unique", "a"), ("unimpressed", "an"), ("helpful", "a"), ("One-sided", "a")]
    {
        assert_eq!(super::article(word), article, "{word}");
    }
}
