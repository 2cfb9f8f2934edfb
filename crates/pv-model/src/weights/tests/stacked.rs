//! Files with all experts of a block in one tensor.

use pv_kernels::kept::KeptRef;

use super::*;

fn config() -> DecoderConfig {
    DecoderConfig::from_json(&json!({
        "model_type": "gpt_oss", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 4, "num_local_experts": 2, "num_experts_per_tok": 1,
    }))
    .expect("a configuration")
}

/// Tensors of two experts: names without the prefix, types, and shapes.
const MXFP4: [(&str, &str, &[usize]); 6] = [
    ("gate_up_proj_blocks", "U8", &[2, 128, 1, 16]),
    ("gate_up_proj_scales", "U8", &[2, 128, 1]),
    ("gate_up_proj_bias", "BF16", &[2, 128]),
    ("down_proj_blocks", "U8", &[2, 32, 2, 16]),
    ("down_proj_scales", "U8", &[2, 32, 2]),
    ("down_proj_bias", "BF16", &[2, 32]),
];

const FLOATS: [(&str, &str, &[usize]); 4] = [
    ("gate_up_proj", "F16", &[2, 32, 128]),
    ("gate_up_proj_bias", "F32", &[2, 128]),
    ("down_proj", "BF16", &[2, 64, 32]),
    ("down_proj_bias", "F32", &[2, 32]),
];

/// The weights of these tensors, whose bytes are 0, 1, 2, ….
fn opened(tensors: &[(&str, &str, &[usize])]) -> Result<WeightFiles, WeightsError> {
    let (mut header, mut start) = (serde_json::Map::new(), 0);
    for (name, dtype, shape) in tensors {
        let size = match *dtype {
            "U8" => 1,
            "F32" => 4,
            _ => 2,
        };
        let end = start + shape.iter().product::<usize>() * size;
        header.insert(format!("model.layers.0.mlp.experts.{name}"), info(dtype, shape, start, end));
        start = end;
    }
    let bytes = file(&Value::Object(header).to_string(), start);
    WeightFiles::open_for(folder(&[("model.safetensors", &bytes)]).path(), &config())
}

#[test]
fn experts_get_names_of_their_own() {
    for tensors in [&MXFP4[..], &FLOATS] {
        let files = opened(tensors).expect("weights");
        let expected = config().expected_tensors().into_iter().filter(|tensor| tensor.name.contains(".experts."));
        let expected: Vec<ExpectedTensor> = expected.collect();
        assert_eq!(expected.len(), 2 * 3 * 2);
        files.check(&expected).expect("these tensors and no others");
    }
    let byte = |at: usize| (at % 256) as u8;
    let files = opened(&MXFP4).expect("weights");
    let up = files.get("model.layers.0.mlp.experts.1.up_proj.weight").expect("a tensor");
    assert_eq!((up.format, up.shape.clone()), (Format::Mxfp4, vec![64, 32]));
    // Row 3 of up is row 7 of expert 1, and its scale the one after those of expert 0.
    let row = 128 + 7;
    let block = &up.bytes[3 * 17..][..17];
    assert_eq!(block[0], byte(2 * 128 * 16 + row));
    let element = |i: usize| byte(row * 16 + i / 2) >> (4 * (i % 2)) & 15;
    assert!((0..16).all(|i| block[1 + i] == element(i) | element(i + 16) << 4));
    assert_eq!(up.to_f32(), KeptRef { format: Format::Mxfp4, bytes: &up.bytes }.to_f32());
    let biases = 2 * 128 * 17;
    let bias = files.get("model.layers.0.mlp.experts.1.up_proj.bias").expect("a tensor");
    assert_eq!(bias.bytes[6..8], [byte(biases + 2 * row), byte(biases + 2 * row + 1)]);

    let files = opened(&FLOATS).expect("weights");
    let gate = files.get("model.layers.0.mlp.experts.0.gate_proj.weight").expect("a tensor");
    assert_eq!((gate.format, gate.shape.clone()), (Format::F16, vec![64, 32]));
    // Row 5, column 9 is row 9, column 10 of the file.
    let at = 2 * (9 * 128 + 10);
    assert_eq!(gate.bytes[2 * (5 * 32 + 9)..][..2], [byte(at), byte(at + 1)]);
    files.release("model.layers.0.mlp.experts.0.gate_proj.weight");
    assert_eq!(files.get("model.layers.0.mlp.experts.0.gate_proj.weight").expect("again").bytes, gate.bytes);
}

#[test]
fn impossible_experts_are_refused() {
    let with = |from: &[(&'static str, &'static str, &'static [usize])], at: usize, new| {
        let mut tensors = from.to_vec();
        match new {
            Some(new) => tensors[at] = new,
            None => drop(tensors.remove(at)),
        }
        opened(&tensors).expect_err("refused").to_string()
    };
    for (at, tensor) in MXFP4.iter().enumerate() {
        // Without the blocks, the values in floating point are missing.
        let said = with(&MXFP4, at, None);
        assert!(said.contains(tensor.0.trim_end_matches("_blocks")) && said.contains("missing"), "{said}");
    }
    for (at, tensor) in FLOATS.iter().enumerate() {
        assert!(with(&FLOATS, at, None).contains(tensor.0));
    }
    for (at, tensor, part) in [
        (0, ("gate_up_proj_blocks", "U8", &[3, 128, 1, 16][..]), "[2, 128, 1, 16]"),
        (0, ("gate_up_proj_blocks", "U8", &[2, 128, 16]), "[2, 128, 1, 16]"),
        (0, ("gate_up_proj_blocks", "BF16", &[2, 128, 1, 16]), "BF16"),
        (1, ("gate_up_proj_scales", "F8_E8M0", &[2, 128, 1]), "F8_E8M0"),
        (1, ("gate_up_proj_scales", "U8", &[2, 128]), "[2, 128, 1]"),
        (2, ("gate_up_proj_bias", "BF16", &[2, 64]), "[2, 128]"),
        (4, ("down_proj_scales", "U8", &[0, 32, 2]), "[2, 32, 2]"),
    ] {
        let said = with(&MXFP4, at, Some(tensor));
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = with(&FLOATS, 0, Some(("gate_up_proj", "F16", &[2, 128, 32])));
    assert!(said.contains("[2, 32, 128]"), "{said}");
    // A single expert's tensor beside those of all.
    let more = [&FLOATS[..], &[("1.up_proj.weight", "F32", &[64, 32])]].concat();
    assert!(matches!(opened(&more), Err(WeightsError::DuplicateTensor { .. })));
    // A type of no matrix.
    let files = opened(&[("gate_up_proj", "I16", &[2, 32, 128]), FLOATS[1], FLOATS[2], FLOATS[3]]).expect("weights");
    assert!(matches!(files.get("model.layers.0.mlp.experts.0.up_proj.weight"), Err(WeightsError::TensorDtype { .. })));
    // Both forms of one matrix.
    let both = [&MXFP4[..], &FLOATS[..1]].concat();
    let files = opened(&both).expect("weights");
    assert!(files.names().any(|name| name == "model.layers.0.mlp.experts.gate_up_proj"), "it is unused");
}
