//! Folders of adapters: written, read and rejected.

use super::*;
use crate::config::ConfigError;

#[test]
fn folders_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let some = LoraConfig {
        targets: [LoraTarget::Query, LoraTarget::Down].into(),
        blocks: Some([0, 2].into()),
        alpha: 2.5,
        dropout: 0.1,
        ..lora()
    };
    for config in [lora(), some, LoraConfig { rslora: false, ..lora() }] {
        let saved = adapter(config, 4).with_base("org/name");
        saved.save(folder.path()).expect("it is written");
        assert_eq!(Adapter::load(folder.path()).expect("it is read"), saved);
    }
}

#[test]
fn what_cannot_be_run_faithfully_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter_config.json");
    assert!(matches!(Adapter::load(folder.path()), Err(AdapterError::NotAnAdapter { .. })));
    adapter(lora(), 4).save(folder.path()).expect("it is written");
    let written: Value = serde_json::from_slice(&std::fs::read(&path).expect("it is there")).expect("JSON");
    let with = |key: &str, value: Value| {
        let mut changed = written.clone();
        changed[key] = value;
        std::fs::write(&path, changed.to_string()).expect("it is written");
        Adapter::load(folder.path())
    };
    for (key, value) in [
        ("use_dora", json!(true)),
        ("rank_pattern", json!({"q_proj": 8})),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
        ("peft_type", json!("IA3")),
        ("init_lora_weights", json!("pissa")),
    ] {
        assert!(
            matches!(with(key, value), Err(AdapterError::Config(ConfigError::Unsupported { key: found, .. })) if found == key)
        );
    }
    for (key, value) in [("r", json!(0)), ("lora_alpha", json!("x")), ("use_rslora", json!(1))] {
        assert!(
            matches!(with(key, value), Err(AdapterError::Config(ConfigError::Value { key: found, .. })) if found == key)
        );
    }
    assert!(matches!(with("r", json!(5)), Err(AdapterError::Tensor { .. })));
    assert!(matches!(with("r", Value::Null), Err(AdapterError::Config(ConfigError::Missing { .. }))));

    let config = decoder().config().clone();
    let narrow = DecoderConfig { d_ff: 10, ..config.clone() };
    assert!(matches!(adapter(lora(), 1).check(&narrow), Err(AdapterError::Widths { target: LoraTarget::Gate, .. })));
    let short = DecoderConfig { layers: 2, ..config.clone() };
    assert!(matches!(adapter(lora(), 1).check(&short), Err(AdapterError::BlockOutOfRange { block: 2, blocks: 2 })));
    for (bad, wanted) in [
        (LoraConfig { rank: 0, ..lora() }, "rank"),
        (LoraConfig { alpha: f64::NAN, ..lora() }, "alpha"),
        (LoraConfig { dropout: 1.0, ..lora() }, "dropout"),
    ] {
        let refused = Adapter::init(bad, &config, 0);
        assert!(matches!(refused, Err(AdapterError::Setting { name, .. }) if name == wanted), "{wanted}: {refused:?}");
    }
    let empty = LoraConfig { targets: BTreeSet::new(), ..lora() };
    assert!(matches!(Adapter::init(empty, &config, 0), Err(AdapterError::Empty)));
    let fourth = LoraConfig { blocks: Some([3].into()), ..lora() };
    let refused = Adapter::init(fourth, &config, 0);
    assert!(matches!(refused, Err(AdapterError::BlockOutOfRange { block: 3, blocks: 3 })), "{refused:?}");
}

/// Writes an adapter's folder with its tensors renamed or omitted, and other settings.
pub(super) fn write_changed(
    folder: &std::path::Path,
    saved: &Adapter,
    rename: impl Fn(&str) -> Option<String>,
    settings: &[(&str, Value)],
) -> Result<Adapter, AdapterError> {
    saved.save(folder).expect("it is written");
    let path = folder.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).expect("it is there");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
    let views = tensors.iter().filter_map(|(name, view)| Some((rename(name)?, view)));
    std::fs::write(&path, safetensors::serialize(views, None).expect("a file")).expect("it is written");
    let path = folder.join("adapter_config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).expect("it is there")).expect("JSON");
    for (key, value) in settings {
        json[*key] = value.clone();
    }
    std::fs::write(&path, json.to_string()).expect("it is written");
    Adapter::load(folder)
}

/// The missing and the unexpected modules.
pub(super) fn mismatch<T: std::fmt::Debug>(found: Result<T, AdapterError>) -> (Vec<String>, Vec<String>) {
    match found {
        Err(AdapterError::Mismatch { missing, unexpected, .. }) => (missing, unexpected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_an_adapter_lacks_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let architecture = decoder().config().clone();
    let saved = adapter(lora(), 4);
    let without = |part: &'static str| move |name: &str| (!name.contains(part)).then(|| name.to_owned());
    // A target, a target of one block, a block, the last block, one matrix.
    let (missing, unexpected) = mismatch(write_changed(folder.path(), &saved, without("v_proj"), &[]));
    assert_eq!(missing, [0, 1, 2].map(|i| format!("model.layers.{i}.self_attn.v_proj")));
    assert!(unexpected.is_empty());
    let (missing, _) = mismatch(write_changed(folder.path(), &saved, without("layers.1.mlp.up_proj"), &[]));
    assert_eq!(missing, ["model.layers.1.mlp.up_proj"]);
    let (missing, _) = mismatch(write_changed(folder.path(), &saved, without("layers.0."), &[]));
    assert_eq!(missing.len(), 7);
    let last =
        write_changed(folder.path(), &saved, without("layers.2."), &[]).expect("known to be whole with two blocks");
    let (missing, _) = mismatch(last.check(&architecture));
    assert!(missing.len() == 7 && missing.iter().all(|name| name.starts_with("model.layers.2.")), "{missing:?}");
    assert_eq!(mismatch(Adapter::load_for(folder.path(), &architecture)).0, missing);
    let on_decoder = decoder().with_adapter(&last, 1.0).map_err(|error| match error {
        Error::Adapter(error) => error,
        other => panic!("{other}"),
    });
    assert_eq!(mismatch(on_decoder).0, missing);
    let half = write_changed(folder.path(), &saved, without("layers.1.self_attn.k_proj.lora_B"), &[]);
    let Err(AdapterError::Tensor { tensor, problem: TensorProblem::OtherMatrixMissing { name }, .. }) = half else {
        panic!("{half:?}")
    };
    assert!(tensor.contains("layers.1.self_attn.k_proj.lora_A") && name.contains("layers.1.self_attn.k_proj.lora_B"));

    // Unexpected tensors.
    let whole = |name: &str| Some(name.to_owned());
    let (missing, unexpected) =
        mismatch(write_changed(folder.path(), &saved, whole, &[("target_modules", json!(["q_proj"]))]));
    assert!(missing.is_empty() && unexpected.len() == 18, "{unexpected:?}");
}

#[test]
fn targets_are_read_as_peft_reads_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let architecture = decoder().config().clone();
    let part = adapter(LoraConfig { targets: [LoraTarget::Query, LoraTarget::Down].into(), ..lora() }, 4);
    let upper = adapter(LoraConfig { blocks: Some([1, 2].into()), ..lora() }, 4);
    let whole = |name: &str| Some(name.to_owned());
    let check = |saved: &Adapter, settings: &[(&str, Value)]| {
        write_changed(folder.path(), saved, whole, settings).and_then(|adapter| adapter.check(&architecture))
    };
    for targets in [
        json!(["q_proj", "down_proj"]),
        json!(["self_attn.q_proj", "mlp.down_proj"]),
        json!(["q_proj", "down_proj", "c_attn"]),
        json!(r"model\.layers\.\d+\.(self_attn\.q_proj|mlp\.down_proj)"),
        json!(r".*(?<!k_|v_)(q_proj|down_proj)"),
        json!(r"^(?!.*vision).*\.(?P<kind>q_proj|down_proj)$"),
        json!(
            [0, 1, 2]
                .map(|i| [format!("model.layers.{i}.self_attn.q_proj"), format!("model.layers.{i}.mlp.down_proj")])
                .concat()
        ),
        json!(null),
    ] {
        check(&part, &[("target_modules", targets.clone())]).unwrap_or_else(|error| panic!("{targets}: {error}"));
    }
    let excluded = [
        ("target_modules", json!("all-linear")),
        ("exclude_modules", json!(["k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"])),
    ];
    check(&part, &excluded).expect("the other projections");
    let excluded = [("target_modules", json!("All-Linear")), ("exclude_modules", json!(r".*(k|v|o|gate|up)_proj"))];
    check(&part, &excluded).expect("the other projections");
    for targets in [json!(["proj"]), json!(r"q_proj|down_proj"), json!(["query_key_value"]), json!("")] {
        assert!(mismatch(check(&part, &[("target_modules", targets)])).1.len() == 6);
    }
    assert_eq!(mismatch(check(&part, &[("target_modules", json!("all-linear"))])).0.len(), 15);

    for blocks in [json!([1, 2]), json!([2, 1, 9])] {
        check(&upper, &[("layers_to_transform", blocks.clone()), ("layers_pattern", json!("layers"))])
            .expect("these blocks");
        check(&upper, &[("layers_to_transform", blocks), ("layers_pattern", json!(["h", "layers"]))])
            .expect("these blocks");
    }
    assert_eq!(mismatch(check(&upper, &[("layers_to_transform", json!(2))])).1.len(), 7);
    assert_eq!(mismatch(check(&upper, &[("layers_to_transform", json!([0, 1, 2]))])).0.len(), 7);
    assert_eq!(mismatch(check(&upper, &[("layers_to_transform", json!([]))])).0.len(), 7);
    assert_eq!(mismatch(check(&upper, &[("layers_pattern", json!("blocks"))])).1.len(), 14);

    // Blocks that differ in their projections are written by name.
    let mut uneven = adapter(lora(), 4);
    uneven.weights.remove(&(1, LoraTarget::Key));
    check(&uneven, &[]).expect("what was written is asked for");
    for (key, value) in [
        ("target_modules", json!(["lm_head", "q_proj"])),
        ("target_modules", json!(["embed_tokens"])),
        ("target_modules", json!(".*")),
        ("rank_pattern", json!({"q_proj": 8})),
        ("alpha_pattern", json!({"q_proj": 8})),
        ("fan_in_fan_out", json!(true)),
        ("use_something_new", json!(true)),
        ("new_kind_config", json!({"a": 1})),
    ] {
        let error = check(&part, &[(key, value.clone())]).expect_err("unsupported");
        assert!(
            matches!(&error, AdapterError::Config(ConfigError::Unsupported { key: found, .. }) if found == key),
            "{key} {value}: {error}"
        );
    }
    for (key, value) in [
        ("target_modules", json!(3)),
        ("target_modules", json!("(")),
        ("layers_to_transform", json!(["a"])),
        ("layers_to_transform", json!(-1)),
        ("layers_pattern", json!(7)),
        ("layers_pattern", json!("(")),
        ("exclude_modules", json!([1])),
    ] {
        let error = check(&part, &[(key, value.clone())]).expect_err("impossible");
        assert!(
            matches!(&error, AdapterError::Config(ConfigError::Value { key: found, .. }) if found == key),
            "{key} {value}: {error}"
        );
    }
}

#[test]
fn names_that_wrappers_and_adapters_add_are_understood() {
    let folder = tempfile::tempdir().expect("a folder");
    let saved = adapter(lora(), 4);
    type Rename = fn(&str) -> Option<String>;
    let renames: [Rename; 8] = [
        |name| Some(name.replace(".weight", ".default.weight")),
        |name| Some(name.replace(".weight", ".my_adapter.weight")),
        |name| Some(format!("_orig_mod.{name}")),
        |name| Some(format!("module.{name}")),
        |name| Some(name.replace("base_model.model.model.", "base_model.model.")),
        |name| Some(name.replace("base_model.model.", "")),
        |name| {
            Some(
                name.replace("base_model.model.", "module.base_model.model._orig_mod.")
                    .replace(".weight", ".default.weight"),
            )
        },
        |name| Some(name.replace(".self_attn", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn")),
    ];
    for (i, rename) in renames.into_iter().enumerate() {
        let loaded = write_changed(folder.path(), &saved, rename, &[]);
        assert_eq!(loaded.unwrap_or_else(|error| panic!("{i}: {error}")), saved, "{i}");
    }
    let refused: [(Rename, &str); 9] =
        [
            (
                |name| {
                    Some(name.replace(
                        "layers.1.self_attn.q_proj.lora_A.weight",
                        "layers.1.self_attn.q_proj.lora_A.b.weight",
                    ))
                },
                "belongs to the adapter",
            ),
            (
                |name| {
                    Some(name.replace(
                        "layers.1.self_attn.q_proj.lora_A.weight",
                        "layers.0.self_attn.q_proj.lora_A.weight.x",
                    ))
                },
                "found a weight of the model",
            ),
            (
                |name| {
                    Some(name.replace(
                        "layers.0.self_attn.q_proj.lora_A.weight",
                        "layers.0.self_attn.q_proj.lora_magnitude_vector.weight",
                    ))
                },
                "DoRA",
            ),
            (
                |name| {
                    Some(
                        name.replace(
                            "layers.0.self_attn.q_proj.lora_B.weight",
                            "layers.0.self_attn.q_proj.lora_B.bias",
                        ),
                    )
                },
                "biases",
            ),
            (
                |name| {
                    Some(name.replace(
                        "model.layers.0.self_attn.q_proj.lora_A.weight",
                        "model.embed_tokens.lora_embedding_A",
                    ))
                },
                "embedding",
            ),
            (|name| Some(name.replace("model.layers.0.self_attn.q_proj", "lm_head")), "seven projections"),
            (
                |name| {
                    Some(name.replace(
                        "layers.0.self_attn.q_proj.lora_A.weight",
                        "layers.0.self_attn.q_proj.base_layer.weight",
                    ))
                },
                "found a weight of the model",
            ),
            (|name| Some(name.replace("self_attn.q_proj", "self_attn.c_attn")), "seven projections"),
            (
                |name| {
                    Some(name.replace(
                        "base_model.model.model.layers.1.self_attn.q_proj.lora_A",
                        "model.layers.0.self_attn.q_proj.lora_A",
                    ))
                },
                "under another name",
            ),
        ];
    for (rename, wanted) in refused {
        let error = write_changed(folder.path(), &saved, rename, &[]).expect_err(wanted);
        assert!(
            matches!(error, AdapterError::Tensor { .. }) && error.to_string().contains(wanted),
            "{wanted}: {error}"
        );
    }
}

/// The number of the 21 projections that match Python's `re.fullmatch`, which PEFT uses.
#[test]
fn expressions_take_the_modules_that_they_take_in_python() {
    let whole = adapter(lora(), 4);
    let folder = tempfile::tempdir().expect("a folder");
    let architecture = decoder().config().clone();
    for (pattern, expected) in [
        (r"model\.layers\.([02])\.(?:self_attn|mlp)\.\w+", 14),
        (r".*(?<=attn\.)[qk]_proj", 6),
        (r".*\.(?=q_|k_)(?:q|k)_proj", 6),
        (r"(?P<a>model)\..*\.[^.]*_proj\Z", 21),
        (r".*\.(?i:Q_PROJ)", 3),
        (r".*\.\d{1,2}\.mlp\.(up|down)_proj$", 6),
        (r"model.layers.[0-1].*", 14),
        (r"(?:model\.)?layers.*", 21),
        (r".*[^qkv]_proj", 12),
        (r".*(?<!self_attn\.)(q|k|up)_proj", 3),
        (r"model\.layers\.(?!1)\d+\..*", 14),
        (r".*?(gate|up)\_proj", 6),
        (r"(?s)model.*(q|v)_proj", 6),
        (r"model\.layers\.(?:0|2)\..*|.*k_proj", 15),
        (r".*\bmlp\b.*", 9),
        (r".*\.(q_proj|(?:[kv])_proj)", 9),
        (r".*([qk])_proj|.*(?P<w>o)_proj", 9),
        (r".*[\w.]+down_pro{1}j", 3),
        (r".*\.q\-?_proj", 3),
    ] {
        let settings = [("target_modules", json!(pattern))];
        let loaded = write_changed(folder.path(), &whole, |name| Some(name.to_owned()), &settings);
        let unexpected = match loaded.and_then(|adapter| adapter.check(&architecture)) {
            Ok(()) => 0,
            other => mismatch(other).1.len(),
        };
        assert_eq!(21 - unexpected, expected, "{pattern}");
    }
    // An expression that would never finish is an error, and does not count as matching nothing.
    let endless = [("target_modules", json!(r"(?:(?=[a-z._0-9])[a-z._0-9]+)+!"))];
    let loaded = write_changed(folder.path(), &whole, |name| Some(name.to_owned()), &endless);
    let error = loaded.and_then(|adapter| adapter.check(&architecture)).expect_err("endless");
    assert!(matches!(error, AdapterError::Pattern { .. }), "{error}");
}
