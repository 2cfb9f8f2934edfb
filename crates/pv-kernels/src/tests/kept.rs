use super::noise;
use crate::kept::{Format, Kept, KeptRef, dequantize, quantize};

/// Made by `tests/python/blocks.py`.
const BLOCKS: &[u8] = include_bytes!("blocks.bin");

fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / 4];
    dequantize(Format::F32, bytes, &mut out);
    out
}

/// Takes the next bytes of the file.
fn take<'a>(file: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = file.split_at(count);
    *file = rest;
    taken
}

const STORED: [(Format, usize); 10] = [
    (Format::Bf16, 32),
    (Format::Q8_0, 4),
    (Format::Q4_0, 4),
    (Format::Q4_1, 4),
    (Format::Q5_0, 4),
    (Format::Q5_1, 4),
    (Format::Q4K, 2),
    (Format::Q5K, 2),
    (Format::Q6K, 2),
    (Format::Mxfp4, 4),
];

#[test]
fn values_are_those_of_gguf() {
    let mut file = BLOCKS;
    for (format, blocks) in STORED {
        let bytes = take(&mut file, blocks * format.block_bytes());
        let expected = floats(take(&mut file, blocks * format.block_elements() * 4));
        assert_eq!(KeptRef { format, bytes }.to_f32(), expected, "{format}");
    }
}

fn squared_error(values: &[f32], rounded: &[f32]) -> f64 {
    values.iter().zip(rounded).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn quantizers_are_no_worse_than_those_of_gguf_and_llama_cpp() {
    let mut file = BLOCKS;
    for (format, blocks) in STORED {
        take(&mut file, blocks * (format.block_bytes() + format.block_elements() * 4));
    }
    let values = floats(take(&mut file, 512 * 4));
    for (format, _) in STORED {
        let theirs = take(&mut file, format.bytes(512).unwrap());
        let ours = Kept::quantize(format, &values);
        if matches!(format, Format::Bf16 | Format::Q8_0) {
            assert_eq!(ours.bytes(), theirs, "{format}");
        }
        let theirs = squared_error(&values, &KeptRef { format, bytes: theirs }.to_f32());
        let ours = squared_error(&values, &ours.as_ref().to_f32());
        assert!(ours <= theirs, "{format}: a squared error of {ours} instead of {theirs}");
    }
    assert!(file.is_empty());
}

/// The greatest relative error of the root mean square for values of a uniform distribution.
fn error_bound(format: Format) -> f64 {
    match format {
        Format::F32 => 0.0,
        Format::Bf16 => 3e-3,
        Format::F16 => 4e-4,
        Format::Q8_0 => 5e-3,
        Format::Q4_0 => 0.08,
        Format::Q4_1 | Format::Q4K => 0.07,
        Format::Q5_0 | Format::Q5_1 | Format::Q5K => 0.04,
        Format::Q6K => 0.02,
        Format::Mxfp4 => 0.13,
    }
}

#[test]
fn quantized_values_are_close() {
    let values = noise(256 * 40, 3);
    let square: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
    for format in Format::ALL {
        let mut bytes = vec![7];
        quantize(format, &values, &mut bytes);
        assert_eq!(bytes.len() - 1, format.bytes(values.len()).unwrap());
        let rounded = KeptRef { format, bytes: &bytes[1..] }.to_f32();
        let error = (squared_error(&values, &rounded) / square).sqrt();
        assert!(error <= error_bound(format), "{format}: {error}");
    }
}

#[test]
fn zeros_and_constants_stay() {
    for format in Format::ALL {
        for value in [0.0, 1.0, -1.0] {
            let rounded = Kept::quantize(format, &[value; 256]).as_ref().to_f32();
            assert!(rounded.iter().all(|v| (v - value).abs() <= 1e-3 * value.abs()), "{format}: {value} {rounded:?}");
        }
    }
}

#[test]
fn names_return() {
    for format in Format::ALL {
        assert_eq!(Format::from_name(format.name()), Some(format));
        assert_eq!(Format::from_name(&format.to_string().to_lowercase()), Some(format));
        assert_eq!(format.bytes(256), Some(256 / format.block_elements() * format.block_bytes()));
    }
    assert_eq!(Format::from_name("Q2_K"), None);
    assert_eq!(Format::Q4K.bytes(32), None);
}

#[test]
#[should_panic(expected = "whole blocks")]
fn a_partial_block_panics() {
    dequantize(Format::Q4_0, &[0; 17], &mut [0.0; 32]);
}
