use burn::tensor::Device;
use pv_hooks::{NoHook, Phase};
use serde_json::{Value, json};

use super::*;
use crate::{Batch, Decoder, Logits, Pass, Sequence, to_f32};

fn decoder() -> Decoder {
    let config = DecoderConfig::from_json(&json!({
        "model_type": "qwen3", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 11, "attention_bias": true,
    }));
    Decoder::init(config.expect("a configuration"), 5, &Device::flex()).expect("a decoder")
}

fn lora() -> LoraConfig {
    LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() }
}

/// An adapter that does something.
fn adapter(config: LoraConfig, seed: u64) -> Adapter {
    let mut adapter = Adapter::init(config, decoder().config(), seed).expect("an adapter");
    for (i, weights) in adapter.weights.values_mut().enumerate() {
        for (j, value) in weights.b.iter_mut().enumerate() {
            *value = ((i * 37 + j * j + seed as usize) as f32 * 0.7).sin();
        }
    }
    adapter
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let sequences = [
        Sequence { prompt: &[1, 2, 3, 4], ..Sequence::default() },
        Sequence { prompt: &[7, 8], ..Sequence::default() },
    ];
    let batch = Batch::whole(&sequences).expect("a batch");
    let pass = Pass { ids: batch.ids(), spans: batch.spans(), phase: Phase::Full, stop_at: None, logits: Logits::All };
    to_f32(decoder.pass(&pass, None, &mut NoHook).logits.expect("asked for")).expect("values")
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
    }
}

#[test]
fn a_new_adapter_changes_nothing_and_a_trained_one_is_its_dense_update() {
    let base = decoder();
    let plain = logits(&base);
    let new = Adapter::init(lora(), base.config(), 1).expect("an adapter");
    assert_eq!(logits(&base.with_adapter(&new, 1.0).expect("it fits")), plain, "B is zero");
    assert_eq!(new, Adapter::init(lora(), base.config(), 1).expect("an adapter"));
    assert_ne!(new.hash(), Adapter::init(lora(), base.config(), 2).expect("an adapter").hash());

    let (first, second) = (adapter(lora(), 1), adapter(LoraConfig { rslora: false, rank: 2, ..lora() }, 2));
    let one = base.with_adapter(&first, 1.0).expect("it fits");
    let both = one.with_adapter(&second, 1.0).expect("it fits");
    assert_eq!((base.adapters(), one.adapters(), both.adapters()), (0, 1, 2));
    let changed = logits(&one);
    assert!(changed.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-3), "the adapter acts");
    for decoder in [&one, &both] {
        assert_close(&logits(&decoder.merged()), &logits(decoder));
        assert_eq!(decoder.merged().adapters(), 0);
        assert_eq!(logits(&decoder.without_adapters()), plain, "taken off, it leaves nothing");
    }
    assert_eq!(both.adapter(0).expect("it is there"), first);
    assert_eq!(both.adapter(1).expect("it is there"), second);
    assert!(matches!(both.adapter(2), Err(Error::BadAdapter { .. })));
    assert_close(&logits(&one.with_adapter(&first, -1.0).expect("it fits")), &plain);
    let folder = tempfile::tempdir().expect("a folder");
    assert!(matches!(both.save(folder.path(), burn::tensor::DType::F32), Err(Error::UnmergedAdapters { adapters: 2 })));
}

#[test]
fn the_scale_is_that_of_lora_or_of_rslora() {
    let config = |rslora| LoraConfig { rank: 16, alpha: 32.0, rslora, ..LoraConfig::default() };
    assert_eq!(config(true).scale(), 8.0);
    assert_eq!(config(false).scale(), 2.0);
}

#[test]
fn dropout_drops_inputs_in_training_only_and_keeps_the_mean() {
    let base = decoder();
    let dropping = adapter(LoraConfig { dropout: 0.5, ..lora() }, 3);
    let decoder = base.with_adapter(&dropping, 1.0).expect("it fits");
    let whole = logits(&base.with_adapter(&adapter(lora(), 3), 1.0).expect("it fits"));
    assert_eq!(logits(&decoder), whole);
    let seeded = |seed| logits(&decoder.clone().with_dropout(Some(seed)));
    assert_ne!(seeded(1), whole);
    assert_eq!(seeded(1), seeded(1));
    assert_ne!(seeded(1), seeded(2));
    assert_eq!(logits(&decoder.clone().with_dropout(Some(1)).with_dropout(None)), whole);
}

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
    assert!(matches!(Adapter::load(folder.path()), Err(Error::NotAnAdapterFolder { .. })));
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
        assert!(matches!(with(key, value), Err(Error::ConfigUnsupported { key: found, .. }) if found == key));
    }
    for (key, value) in [("r", json!(0)), ("lora_alpha", json!("x")), ("use_rslora", json!(1))] {
        assert!(matches!(with(key, value), Err(Error::ConfigValue { key: found, .. }) if found == key));
    }
    assert!(matches!(with("r", json!(5)), Err(Error::AdapterTensor { .. })));
    assert!(matches!(with("r", Value::Null), Err(Error::ConfigMissing { .. })));

    let config = decoder().config().clone();
    let narrow = DecoderConfig { d_ff: 10, ..config.clone() };
    assert!(matches!(adapter(lora(), 1).check(&narrow), Err(Error::BadAdapter { .. })));
    let short = DecoderConfig { layers: 2, ..config.clone() };
    assert!(matches!(adapter(lora(), 1).check(&short), Err(Error::BadAdapter { .. })));
    for bad in [
        LoraConfig { rank: 0, ..lora() },
        LoraConfig { alpha: f64::NAN, ..lora() },
        LoraConfig { dropout: 1.0, ..lora() },
        LoraConfig { targets: BTreeSet::new(), ..lora() },
        LoraConfig { blocks: Some([3].into()), ..lora() },
    ] {
        assert!(matches!(Adapter::init(bad, &config, 0), Err(Error::BadOption { .. })));
    }
}

/// Writes an adapter's folder with its tensors renamed or left out, and other settings.
fn write_changed(
    folder: &std::path::Path,
    saved: &Adapter,
    rename: impl Fn(&str) -> Option<String>,
    settings: &[(&str, Value)],
) -> Result<Adapter> {
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

/// The modules that are said to be missing, and those that should not be there.
fn mismatch<T: std::fmt::Debug>(found: Result<T>) -> (Vec<String>, Vec<String>) {
    match found {
        Err(Error::AdapterMismatch { missing, unexpected, .. }) => (missing, unexpected),
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
    assert_eq!(mismatch(decoder().with_adapter(&last, 1.0)).0, missing);
    let half = write_changed(folder.path(), &saved, without("layers.1.self_attn.k_proj.lora_B"), &[]);
    let Err(Error::AdapterTensor { tensor, reason, .. }) = half else { panic!("{half:?}") };
    assert!(tensor.contains("layers.1.self_attn.k_proj.lora_A") && reason.contains("layers.1.self_attn.k_proj.lora_B"));

    // What was not asked for.
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
            matches!(&error, Error::ConfigUnsupported { key: found, .. } if found == key),
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
        assert!(matches!(&error, Error::ConfigValue { key: found, .. } if found == key), "{key} {value}: {error}");
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
                "of the adapter",
            ),
            (
                |name| {
                    Some(name.replace(
                        "layers.1.self_attn.q_proj.lora_A.weight",
                        "layers.0.self_attn.q_proj.lora_A.weight.x",
                    ))
                },
                "a weight of the model's own",
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
                "a weight of the model's own",
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
            matches!(error, Error::AdapterTensor { .. }) && error.to_string().contains(wanted),
            "{wanted}: {error}"
        );
    }
}

/// Several adapters are summed in f64 and added to the weights once: what rounds twice is further off.
#[test]
fn merged_weights_are_rounded_once() {
    let base = decoder();
    let exact = |adapters: &[(&Adapter, f64)], block: usize| -> Vec<f64> {
        let [_, inputs] = base.blocks[block].down.weight.val().dims();
        let mut weight: Vec<f64> = halved(&base, block).iter().map(|value| f64::from(*value)).collect();
        for (adapter, by) in adapters {
            let LoraWeights { a, b, outputs, .. } = &adapter.weights[&(block, LoraTarget::Down)];
            let (rank, scale) = (adapter.config.rank, adapter.config.scale() * by);
            for (o, row) in weight.chunks_mut(inputs).enumerate().take(*outputs) {
                for (i, value) in row.iter_mut().enumerate() {
                    let product = |r: usize| f64::from(b[o * rank + r]) * f64::from(a[r * inputs + i]);
                    *value += scale * (0..rank).map(product).sum::<f64>();
                }
            }
        }
        weight
    };
    let bf16 = in_bf16(&base);
    let (first, second) = (adapter(lora(), 1), adapter(LoraConfig { rslora: false, rank: 2, ..lora() }, 2));
    let third = adapter(lora(), 5);
    let parts = [(&first, 1.0), (&second, -0.75), (&third, 0.3)];
    let put = |decoder: &Decoder| {
        parts
            .iter()
            .fold(decoder.clone(), |decoder, (adapter, by)| decoder.with_adapter(adapter, *by).expect("it fits"))
    };
    let merged = put(&bf16).merged();
    let one_by_one = parts
        .iter()
        .fold(bf16.clone(), |decoder, (adapter, by)| decoder.with_adapter(adapter, *by).expect("it fits").merged());
    let values = |decoder: &Decoder, block: usize| to_f32(decoder.blocks[block].down.weight.val()).expect("values");
    let mut twice = 0;
    for block in 0..3 {
        for ((found, other), exact) in
            values(&merged, block).iter().zip(values(&one_by_one, block)).zip(exact(&parts, block))
        {
            // Half a unit in the last place of bf16, and what f32 adds.
            assert!((f64::from(*found) - exact).abs() <= exact.abs() / 256.0 + 1e-6, "{found} for {exact}");
            let nearest = f64::from(half::bf16::from_f64(exact));
            twice += usize::from(f64::from(other) != nearest);
            let ties = 1e-5 * exact.abs().max(1.0);
            assert!(
                f64::from(*found) == nearest
                    || (f64::from(half::bf16::from_f64(exact + ties)) - f64::from(half::bf16::from_f64(exact - ties)))
                        .abs()
                        > 0.0
            );
        }
    }
    assert!(twice > 5, "merging one by one rounds otherwise: {twice}");
}

/// The down projection of a block as bf16 holds it.
fn halved(decoder: &Decoder, block: usize) -> Vec<f32> {
    let values = to_f32(decoder.blocks[block].down.weight.val()).expect("values");
    values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect()
}

/// The decoder with its weights in bf16.
fn in_bf16(decoder: &Decoder) -> Decoder {
    let folder = tempfile::tempdir().expect("a folder");
    decoder.save(folder.path(), burn::tensor::DType::BF16).expect("it is written");
    Decoder::from_folder(folder.path(), &Device::flex(), burn::tensor::DType::BF16).expect("it is read")
}

/// How many of the 21 projections Python's `re.fullmatch` takes, which is what PEFT asks.
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
    // An expression that would take for ever is refused, and not said to match nothing.
    let endless = [("target_modules", json!(r"(?:(?=[a-z._0-9])[a-z._0-9]+)+!"))];
    let loaded = write_changed(folder.path(), &whole, |name| Some(name.to_owned()), &endless);
    let error = loaded.and_then(|adapter| adapter.check(&architecture)).expect_err("endless");
    assert!(matches!(error, Error::BadAdapter { .. }), "{error}");
}
