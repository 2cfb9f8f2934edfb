//! Tokenizers of many kinds beside transformers', where `PV_PYTHON` names a Python that has it; and folders whose files name tokens
//! in every way that there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use pv_model::{AddSpecial, Tokenizer};
use pv_tests::{root, smollm2};
use serde::Deserialize;

#[derive(Deserialize)]
struct Found {
    texts: Vec<String>,
    folders: Vec<Folder>,
}

/// What transformers makes of the texts with one tokenizer.
#[derive(Deserialize)]
struct Folder {
    path: PathBuf,
    class: String,
    tokens: Tokens,
    ids: Vec<Vec<u32>>,
    with_special: Vec<Vec<u32>>,
    decoded: Vec<String>,
    skipped: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Tokens {
    bos_token: Option<u32>,
    eos_token: Option<u32>,
    pad_token: Option<u32>,
}

fn organism() -> PathBuf {
    root().join("examples/organism/model")
}

fn ask(python: &Path, place: &Path) -> Found {
    let output = Command::new(python)
        .arg(root().join("tests/python/tokenizer_ids.py"))
        .args([place, &organism(), &smollm2()])
        .output()
        .unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "PV_PYTHON={}: {errors}", python.display());
    let bytes = std::fs::read(place.join("found.json")).expect("the script's output");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// How many of the texts come out otherwise than in transformers: their ids, their ids with what is put around a text, and the ids
/// decoded with and without special tokens. The first of each is shown.
fn differences(folder: &Folder, texts: &[String]) -> [usize; 4] {
    let tokenizer = Tokenizer::from_folder(&folder.path).unwrap_or_else(|error| panic!("{:?}: {error}", folder.path));
    let tokens = Tokens { bos_token: tokenizer.bos(), eos_token: tokenizer.eos(), pad_token: tokenizer.pad() };
    assert_eq!(tokens, folder.tokens, "{:?}", folder.path);
    let mut differing = [0; 4];
    let mut note = |kind: usize, ours: String, theirs: String, text: &str| {
        if ours != theirs {
            differing[kind] += 1;
            if differing[kind] == 1 {
                println!("{:?}, {kind}: {text:?}: {ours}, in transformers {theirs}", folder.path);
            }
        }
    };
    for (i, text) in texts.iter().enumerate() {
        let encoded = |special| format!("{:?}", tokenizer.encode(text, special).expect("ids"));
        let decoded = |skip| format!("{:?}", tokenizer.decode(&folder.ids[i], skip).expect("text"));
        note(0, encoded(AddSpecial::No), format!("{:?}", folder.ids[i]), text);
        note(1, encoded(AddSpecial::Yes), format!("{:?}", folder.with_special[i]), text);
        note(2, decoded(false), format!("{:?}", folder.decoded[i]), text);
        note(3, decoded(true), format!("{:?}", folder.skipped[i]), text);
    }
    differing
}

#[test]
fn tokenizers_are_those_of_transformers() {
    let Some(python) = std::env::var_os("PV_PYTHON").map(PathBuf::from) else {
        println!("PV_PYTHON names no Python with transformers: NOT CHECKED");
        return;
    };
    let place = tempfile::tempdir().expect("a folder");
    let Found { texts, folders } = ask(&python, place.path());
    assert!(texts.len() >= 2000 && folders.len() >= 25, "{} texts, {} tokenizers", texts.len(), folders.len());
    let (mut compared, mut rebuilt, mut listed) = (0, 0, 0);
    for folder in &folders {
        let differing = differences(folder, &texts);
        println!("{:?} as {}: {differing:?} of {} texts differ", folder.path, folder.class, texts.len());
        // For some models AutoTokenizer chooses a class of theirs, which splits texts in its own way and not as tokenizer.json says;
        // the file is what a model was trained with, and what other programs go by. Such a folder is in the list a second
        // time, as its file says.
        if folder.class != "TokenizersBackend" {
            rebuilt += 1;
            continue;
        }
        // A token that added_tokens.json gives an id and the additional_special_tokens of special_tokens_map.json call special:
        // transformers reads the second list too late to know it when it leaves special tokens out of a text.
        let allowed = if folder.path.ends_with("special-map") { differing[3] } else { 0 };
        listed += allowed;
        assert_eq!(differing, [0, 0, 0, allowed], "{:?}", folder.path);
        compared += 4 * texts.len();
    }
    println!(
        "{compared} comparisons, {listed} differing, all for the reason that is given; {rebuilt} tokenizers of which transformers does not go by the file"
    );
    assert!(folders.len() - rebuilt >= 29);
}
