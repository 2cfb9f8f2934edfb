//! Tests of the torch reader that need no file; tests/suite/vector_files.rs reads real ones.

use std::path::Path;

use proptest::prelude::*;

use super::tensor::{Dtype, Storage, Tensor};
use super::{Fault, PtFile, pickle};

fn storage(numbers: usize) -> Storage {
    Storage { key: "0".into(), dtype: Dtype::F32, numbers }
}

/// The index of every value of a view, computed one by one.
fn looked_up(offset: usize, shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut found = vec![offset];
    for (size, stride) in shape.iter().zip(strides) {
        found = found.iter().flat_map(|start| (0..*size).map(move |i| start + i * stride)).collect();
    }
    found
}

proptest! {
    #[test]
    fn a_view_holds_what_its_indices_say_or_is_refused(
        numbers in 0usize..40,
        offset in -2i64..12,
        dimensions in prop::collection::vec((-1i64..5, -1i64..9), 0..4),
    ) {
        let (shape, strides): (Vec<i64>, Vec<i64>) = dimensions.into_iter().unzip();
        let bytes: Vec<u8> = (0..numbers).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let sizes = |values: &[i64]| values.iter().map(|v| usize::try_from(*v).ok()).collect::<Option<Vec<_>>>();
        let fits = || {
            let (offset, shape, strides) = (usize::try_from(offset).ok()?, sizes(&shape)?, sizes(&strides)?);
            let indices = looked_up(offset, &shape, &strides);
            (indices.len() <= numbers && indices.iter().all(|i| *i < numbers)).then_some(indices)
        };
        match Tensor::new(storage(numbers), offset, &shape, &strides) {
            Ok(tensor) => {
                let indices: Vec<f64> = fits().expect("a view that fits").into_iter().map(|i| i as f64).collect();
                prop_assert_eq!(tensor.gather(&bytes), indices);
            }
            Err(Fault::Bad(_)) => prop_assert_eq!(fits(), None),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn no_pickle_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = pickle::read(&bytes);
    }

    /// Bytes of supported instructions, so that the parser gets further.
    #[test]
    fn no_program_panics(picks in prop::collection::vec((0usize..28, any::<u8>()), 0..120)) {
        const KNOWN: [u8; 28] = [
            b'N', 0x88, b'J', b'K', b'M', 0x8a, b'G', 0x8c, b']', b'}', b')', b'(', b't', 0x85, 0x86, 0x87, b'a', b'e',
            b's', b'u', b'q', 0x94, b'h', b'c', 0x93, b'Q', b'R', b'.',
        ];
        let mut bytes = vec![0x80, 2];
        for (pick, operand) in picks {
            bytes.push(KNOWN[pick]);
            let operand: &[u8] = match KNOWN[pick] {
                b'K' | b'q' | b'h' => &[operand % 8],
                b'M' => &[operand, 0],
                b'J' => &[operand, 0, 0, 0],
                0x8a => &[1, operand],
                b'G' => &[0; 8],
                0x8c => b"\x07storage",
                b'c' if operand % 3 == 0 => b"torch\nFloatStorage\n",
                b'c' if operand % 3 == 1 => b"torch._utils\n_rebuild_tensor_v2\n",
                b'c' => b"collections\nOrderedDict\n",
                _ => &[],
            };
            bytes.extend(operand);
        }
        let _ = pickle::read(&bytes);
    }
}

#[test]
fn half_precision_is_read_exactly() {
    let one = |dtype, bytes: &[u8]| {
        let storage = Storage { key: "0".into(), dtype, numbers: 1 };
        Tensor::new(storage, 0, &[1], &[1]).expect("a view").gather(bytes)[0]
    };
    assert_eq!(one(Dtype::F16, &[0x00, 0x3e]), 1.5);
    assert_eq!(one(Dtype::F16, &[0x01, 0x00]), 2f64.powi(-24));
    assert_eq!(one(Dtype::BF16, &[0xc0, 0xbf]), -1.5);
    assert_eq!(one(Dtype::F64, &0.1f64.to_le_bytes()), 0.1);
}

#[test]
fn a_tuple_passed_again_and_again_costs_nothing() {
    // A tuple of many values, then as many calls with it as fit: checking all of it each time would take minutes.
    let mut bytes = vec![0x80, 2, b'('];
    bytes.extend([b'N'; 200_000]);
    bytes.extend(b"tq\x00");
    bytes.extend(b"ccollections\nOrderedDict\nq\x01");
    for _ in 0..1000 {
        bytes.extend(b"h\x01h\x00R");
    }
    assert!(matches!(pickle::read(&bytes), Err(Fault::Bad(_))), "OrderedDict takes no arguments");
    let mut many = vec![0x80, 2];
    many.extend(vec![b'N'; 300_000]);
    let fault = pickle::read(&many).expect_err("too many values");
    assert!(format!("{fault:?}").contains("more than 262144 values"), "{fault:?}");
    let mut memo = vec![0x80, 2, b'N'];
    memo.extend(vec![0x94; 300_000]);
    let fault = pickle::read(&memo).expect_err("too many values put away");
    assert!(format!("{fault:?}").contains("stores more than 262144"), "{fault:?}");
}

#[test]
fn integers_of_any_length_up_to_eight_bytes_have_their_sign() {
    for value in [0i64, 1, -1, 127, 128, -128, -129, i64::MAX, i64::MIN, 1 << 40] {
        let digits = value.to_le_bytes();
        let mut length = 8;
        while length > 0 && i64_of(&digits[..length - 1]) == value {
            length -= 1;
        }
        let mut bytes = vec![0x80, 2, 0x8a, length as u8];
        bytes.extend(&digits[..length]);
        bytes.push(b'.');
        let values = pickle::read(&bytes).expect("an integer");
        assert!(matches!(values.nodes[values.root], pickle::Node::Int(found) if found == value), "{value}");
    }
}

/// Two's complement by arithmetic.
fn i64_of(bytes: &[u8]) -> i64 {
    let unsigned: i128 = bytes.iter().rev().fold(0, |value, byte| value * 256 + i128::from(*byte));
    let negative = bytes.last().is_some_and(|byte| *byte >= 128);
    (unsigned - if negative { 1i128 << (8 * bytes.len()) } else { 0 }) as i64
}

#[test]
fn what_is_not_an_archive_is_said_to_be_none() {
    for bytes in [&b""[..], b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02N.", &[0; 1000]] {
        let fault = PtFile::from_bytes(Path::new("a.pt"), bytes.to_vec()).expect_err("no archive");
        assert!(matches!(fault, Fault::Bad(_)), "{fault:?}");
    }
}
