use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::config::ConfigError;
use crate::folder::FolderError;

/// A tokenizer with one token per byte, a BOS that its post-processor adds, and truncation and padding enabled.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pv-model-tokenizer-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut spare = 255;
    let byte = |byte: u32| {
        let shown = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        spare += u32::from(!shown);
        char::from_u32(if shown { byte } else { spare }).unwrap()
    };
    let vocabulary: Map<String, Value> = (0..256).map(byte).map(String::from).zip((0..256).map(Value::from)).collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 257,
            "pad_type_id": 0, "pad_token": "</s>"},
        "added_tokens": [added(256, "<s>"), added(257, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn special_tokens_are_added_once_and_only_when_asked() {
    let folder = folder("special");
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    assert_eq!(tokenizer.encode("abcd", AddSpecial::No).unwrap(), [97, 98, 99, 100]);
    assert_eq!(tokenizer.encode("a", AddSpecial::Yes).unwrap(), [256, 97]);
    assert_eq!(tokenizer.encode_rendered("<s>a</s>").unwrap(), [256, 97, 257]);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(256), Some(257), None));
    assert_eq!((tokenizer.vocab_size(), tokenizer.id("</s>"), tokenizer.id("no")), (258, Some(257), None));
    assert_eq!(tokenizer.stop_ids(), [257]);
    assert_eq!(tokenizer.decode(&[256, 97, 999_999], true).unwrap(), "a");

    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(Tokenizer::from_folder(&folder), Err(TokenizerError::Load { .. })));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn offsets_are_bytes_of_the_text() {
    let folder = folder("offsets");
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let encoded = tokenizer.encode_with_offsets("é b", AddSpecial::Yes).unwrap();
    assert_eq!(encoded.offsets, [0..0, 0..2, 0..2, 2..3, 3..4]);
    assert_eq!(encoded.tokens_touching(&(0..1)), 1..3);
    assert_eq!(encoded.tokens_touching(&(3..4)), 4..5);
    assert_eq!(encoded.tokens_touching(&(2..2)), 0..0);
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_stream_gives_what_decoding_at_once_gives() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
    let folder = folder("stream");
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let mut stream = tokenizer.stream(false);
    let pieces: Vec<_> =
        tokenizer.encode_rendered("a👍").unwrap().into_iter().map(|id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, [Some("a".to_owned()), None, None, None, Some("👍".to_owned())]);
    assert_eq!(stream.flush().unwrap(), None);

    let bad = [0xff; 40].to_vec();
    let cut = vec![97, 0xf0, 0x9f];
    let text = tokenizer.encode_rendered("naïve \u{fffd} 日本語<s>👩‍👩‍👧").unwrap();
    for ids in [bad, cut, text] {
        let mut stream = tokenizer.stream(false);
        let mut whole = String::new();
        for id in &ids {
            whole.extend(stream.push(*id).unwrap());
        }
        whole.extend(stream.flush().unwrap());
        assert_eq!(whole, tokenizer.decode(&ids, false).unwrap());
    }
    fs::remove_dir_all(folder).unwrap();
}

fn write(folder: &Path, file: &str, value: Value) {
    fs::write(folder.join(file), value.to_string()).unwrap();
}

fn token(content: &str) -> Value {
    json!({"content": content, "lstrip": false, "rstrip": false, "single_word": false, "normalized": false, "special": true})
}

const OWN: [&str; 2] = ["<s>", "</s>"];

/// The tokens of `tokenizer.json` and others, by id.
fn decoder(more: &[(u32, &str)]) -> Value {
    let own = OWN.iter().enumerate().map(|(i, content)| (256 + i as u32, *content));
    own.chain(more.iter().copied()).map(|(id, content)| (id.to_string(), token(content))).collect::<Map<_, _>>().into()
}

const RENDERED: &str = "<|turn|>ab<|done|>";

#[test]
fn tokens_are_added_from_every_file() {
    let folder = folder("added");
    let more = [(258, "<|turn|>"), (259, "<|done|>")];
    let ids = json!({"<|turn|>": 258, "<|done|>": 259});
    let (config, map, added) = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json");
    let none = json!({});
    for (what, files) in [
        (
            "decoder",
            [(config, json!({"eos_token": "<|done|>", "added_tokens_decoder": decoder(&more)})), (map, none.clone())],
        ),
        ("added tokens", [(config, json!({"eos_token": "<|done|>"})), (added, ids.clone())]),
        ("map", [(map, json!({"eos_token": token("<|done|>")})), (added, ids.clone())]),
        (
            "both",
            [(config, json!({"eos_token": "<|done|>", "added_tokens_decoder": decoder(&more)})), (added, ids.clone())],
        ),
        (
            "extra",
            [(config, json!({"eos_token": "<|done|>", "extra_special_tokens": ["<|turn|>"]})), (added, ids.clone())],
        ),
        ("null", [(config, json!({"eos_token": "<|done|>", "added_tokens_decoder": null})), (added, ids.clone())]),
    ] {
        for file in [config, map, added] {
            write(&folder, file, json!({}));
        }
        files.into_iter().for_each(|(file, value)| write(&folder, file, value));
        let tokenizer = Tokenizer::from_folder(&folder).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(tokenizer.encode_rendered(RENDERED).unwrap(), [258, 97, 98, 259], "{what}");
        assert_eq!((tokenizer.eos(), tokenizer.stop_ids()), (Some(259), &[259][..]), "{what}");
        let skipped = tokenizer.decode(&[258, 97, 259], true).unwrap();
        // A token only in added_tokens.json is special if another file says so.
        let turn = if what == "decoder" || what == "both" || what == "extra" { "" } else { "<|turn|>" };
        assert_eq!(skipped, format!("{turn}a"), "{what}");
    }
    // Tokens of the vocabulary become added tokens if a file names them, and flags are honoured.
    let strip = json!({"content": "abc", "lstrip": true, "rstrip": true, "single_word": true, "normalized": false, "special": false});
    let mut listed = decoder(&[]);
    listed["258"] = strip;
    write(&folder, config, json!({"eos_token": "a", "added_tokens_decoder": listed}));
    fs::remove_file(folder.join(added)).unwrap();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    assert_eq!(tokenizer.encode_rendered("b  abc  b").unwrap(), [98, 258, 98]);
    assert_eq!(tokenizer.encode_rendered("babc").unwrap(), [98, 97, 98, 99]);
    assert_eq!((tokenizer.eos(), tokenizer.decode(&[97, 98, 258], true).unwrap()), (Some(97), "babc".into()));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn files_that_contradict_one_another_are_refused_by_name() {
    let folder = folder("contradicting");
    let (config, added) = ("tokenizer_config.json", "added_tokens.json");
    for (what, listed, ids, wrong) in [
        ("a gap", decoder(&[(300, "<|turn|>")]), json!({}), ("<|turn|>", 300, config)),
        ("another's id", decoder(&[(97, "<|turn|>")]), json!({}), ("<|turn|>", 97, config)),
        ("an id of the vocabulary", decoder(&[(258, "a")]), json!({}), ("a", 258, config)),
        ("two files", decoder(&[(258, "<|turn|>")]), json!({"<|turn|>": 259}), ("<|turn|>", 259, added)),
        ("a token that the newer file lacks", decoder(&[]), json!({"<|turn|>": 258}), ("<|turn|>", 258, added)),
        ("a gap in the older file", Value::Null, json!({"<|turn|>": 259}), ("<|turn|>", 259, added)),
    ] {
        write(&folder, config, json!({"added_tokens_decoder": listed}));
        write(&folder, added, ids);
        let error = Tokenizer::from_folder(&folder).unwrap_err();
        let TokenizerError::AddedTokenId { path, token, id, .. } = &error else { panic!("{what}: {error}") };
        assert_eq!((token.as_str(), *id, path.file_name().unwrap().to_str().unwrap()), wrong, "{what}");
    }
    write(&folder, added, json!({}));
    for (config, key) in [
        (json!({"added_tokens_decoder": {"x": token("<|turn|>")}}), "added_tokens_decoder"),
        (json!({"added_tokens_decoder": {"258": "<|turn|>"}}), "added_tokens_decoder"),
        (json!({"added_tokens_decoder": [token("<|turn|>")]}), "added_tokens_decoder"),
        (json!({"extra_special_tokens": 3}), "extra_special_tokens"),
        (json!({"additional_special_tokens": [3]}), "additional_special_tokens"),
        (json!({"eos_token": 3}), "eos_token"),
    ] {
        write(&folder, "tokenizer_config.json", config);
        let error = Tokenizer::from_folder(&folder).unwrap_err();
        assert!(
            matches!(&error, TokenizerError::Config(ConfigError::Value { key: found, .. }) if found == key),
            "{key}: {error}"
        );
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn answers_end_at_every_end_that_a_file_names() {
    let folder = folder("stop");
    let (tokens, map) = ("tokenizer_config.json", "special_tokens_map.json");
    for (generation, config, tokenizer_config, special_map, expected) in [
        (
            json!({"eos_token_id": 1}),
            json!({"eos_token_id": 2}),
            json!({"eos_token": "</s>"}),
            json!({}),
            &[1, 2, 257][..],
        ),
        (json!({"eos_token_id": [4, 5]}), json!({"eos_token_id": [5, 6]}), json!({}), json!({}), &[4, 5, 6]),
        (
            json!({"eos_token_id": null}),
            json!({"eos_token_id": -1}),
            json!({"eos_token": token("</s>")}),
            json!({}),
            &[257],
        ),
        (
            json!({}),
            json!({"text_config": {"eos_token_id": 9}}),
            json!({"eos_token": null}),
            json!({"eos_token": "</s>"}),
            &[9, 257],
        ),
        (
            json!({}),
            json!({}),
            json!({"added_tokens_decoder": decoder(&[])}),
            json!({"eos_token": {"content": "</s>"}}),
            &[257],
        ),
        (json!({"eos_token_id": 257}), json!({}), json!({"eos_token": "</s>"}), json!({}), &[257]),
        (json!({}), json!({}), json!({"eos_token": ""}), json!({}), &[]),
    ] {
        write(&folder, "generation_config.json", generation);
        write(&folder, "config.json", config);
        write(&folder, tokens, tokenizer_config.clone());
        write(&folder, map, special_map);
        assert_eq!(Tokenizer::from_folder(&folder).unwrap().stop_ids(), expected, "{tokenizer_config}");
    }
    write(&folder, map, json!({}));
    for token in [json!("<|gone|>"), token("<|gone|>")] {
        write(&folder, tokens, json!({"eos_token": token}));
        let error = Tokenizer::from_folder(&folder).unwrap_err();
        assert!(
            matches!(&error, TokenizerError::UnknownToken { key, token, .. } if key == "eos_token" && token == "<|gone|>"),
            "{error}"
        );
    }
    write(&folder, tokens, json!({}));
    for bad in [json!("x"), json!([1, "x"]), json!(1.5), json!(1u64 << 40), json!({})] {
        write(&folder, "generation_config.json", json!({"eos_token_id": bad}));
        let error = Tokenizer::from_folder(&folder).unwrap_err();
        assert!(
            matches!(&error, TokenizerError::Config(ConfigError::Value { key, .. }) if key == "eos_token_id"),
            "{bad}: {error}"
        );
    }
    fs::write(folder.join("generation_config.json"), "[").unwrap();
    assert!(matches!(eos_ids(&folder), Err(TokenizerError::Folder(FolderError::Json { .. }))));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_folder_without_the_file_says_what_to_do() {
    let folder = folder("converted");
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    let said = || {
        let error = Tokenizer::from_folder(&folder).unwrap_err();
        assert!(matches!(error, TokenizerError::NotFound { .. }), "{error}");
        error.to_string()
    };
    assert!(said().ends_with("has no tokenizer.json"));
    for file in ["vocab.json", "tokenizer.model"] {
        fs::write(folder.join(file), "{}").unwrap();
        assert!(said().contains(file) && said().contains("save_pretrained"), "{}", said());
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n";
    for file in ["tokenizer_config.json", "tokenizer.json"] {
        if file == "tokenizer_config.json" {
            let whole = self::folder("whole");
            fs::copy(whole.join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
            fs::remove_dir_all(whole).unwrap();
        }
        fs::write(folder.join(file), pointer).unwrap();
        let error = Tokenizer::from_folder(&folder).unwrap_err();
        assert!(
            matches!(&error, TokenizerError::Folder(FolderError::GitLfsPointer { path, size: Some(99) }) if path.ends_with(file)),
            "{error}"
        );
        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_text_that_the_expressions_give_up_on_is_an_error() {
    let folder = folder("limits");
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let encoded = |text: &str| tokenizer.encode(text, AddSpecial::No);
    // A choice is open at each space until the letter. The crate would leave the rest in one piece without an error.
    let long = " ".repeat(1_100_000) + "a b";
    for refused in [encoded(&long).map(drop), tokenizer.encode_with_offsets(&long, AddSpecial::No).map(drop)] {
        assert!(matches!(refused, Err(TokenizerError::Encode { .. })), "{refused:?}");
    }
    for text in [" ".repeat(900_000) + "a b", "a".repeat(2_000_000), "!?".repeat(1_000_000), "a 1! ".repeat(400_000)] {
        assert_eq!(encoded(&text).unwrap().len(), text.len());
    }

    let path = folder.join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["normalizer"] = json!({"type": "Replace", "pattern": {"String": "_"}, "content": " "});
    fs::write(&path, json.to_string()).unwrap();
    let spaced = Tokenizer::from_folder(&folder).unwrap();
    assert!(spaced.encode(&("_".repeat(1_100_000) + "a b"), AddSpecial::No).is_err(), "spaces after normalisation");
    assert_eq!(spaced.encode(&"a_".repeat(500_000), AddSpecial::No).unwrap().len(), 1_000_000);
    fs::remove_dir_all(folder).unwrap();
}
