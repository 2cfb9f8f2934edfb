//! Tests on bytes. tests/suite/gguf compares with the Python package and with llama.cpp's files.

use proptest::prelude::*;

use super::*;

/// A file with values of every type, an array of arrays, and two tensors.
fn example() -> Vec<u8> {
    let mut file = Writer::default();
    file.set("general.architecture", Value::String("example"));
    for (key, value) in scalars() {
        file.set(key, value);
    }
    file.set_array("texts", &["a", "", "zwölf"]).set_array("numbers", &[1i32, -2, 3]).set_array("none", &[0f64; 0]);
    // Two arrays of u16: [[1, 2], [3]].
    let inner = |values: &[u16]| {
        let mut bytes = [2u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    };
    let bytes = [inner(&[1, 2]), inner(&[3])].concat();
    file.set("nested", Value::Array(Array { kind: ValueType::Array, count: 2, bytes: &bytes }));
    file.tensor("first", &[32, 2], TensorType::from_number(8).expect("Q8_0"), &[1; 68]);
    file.tensor("empty", &[4, 0], TensorType::F32, &[]).tensor("other", &[3], TensorType::F32, &[2; 12]);
    file.finish()
}

fn scalars() -> [(&'static str, Value<'static>); 12] {
    [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(1e-5)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("Straße")),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(1e-300)),
    ]
}

/// The error after one needle was replaced by other bytes of the same length.
fn changed(needle: &[u8], by: &[u8]) -> GgufError {
    assert_eq!(needle.len(), by.len());
    let mut bytes = example();
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("the needle");
    bytes[at..][..by.len()].copy_from_slice(by);
    Gguf::parse(&bytes).expect_err("a damaged file")
}

#[test]
fn what_is_written_is_read() {
    let bytes = example();
    let file = Gguf::parse(&bytes).expect("our own file");
    assert_eq!((file.version(), file.alignment(), file.metadata().count()), (3, 32, 17));
    for (key, value) in scalars() {
        assert_eq!(file.get(key), Some(value), "{key}");
    }
    assert_eq!(file.strings("texts"), Ok(Some(vec!["a", "", "zwölf"])));
    let numbers = file.array("numbers").expect("an array").expect("present");
    assert_eq!((numbers.len(), numbers.values().map(|v| v.integer()).collect()), (3, vec![Some(1), Some(-2), Some(3)]));
    assert!(file.array("none").expect("an array").expect("present").is_empty());
    let nested = file.array("nested").expect("an array").expect("present");
    let inner = |value| match value {
        Value::Array(array) => array.values().collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let inner: Vec<_> = nested.values().map(inner).collect();
    assert_eq!(inner, [vec![Value::U16(1), Value::U16(2)], vec![Value::U16(3)]]);
    let [first, empty, other] = file.tensors() else { panic!("{:?}", file.tensors()) };
    assert_eq!(
        (first.name, first.kind.name(), &first.shape[..], first.bytes),
        ("first", "Q8_0", &[32, 2][..], &[1; 68][..])
    );
    assert_eq!((other.bytes, &bytes[other.range.clone()]), (&[2; 12][..], &[2; 12][..]));
    assert!(other.range.start.is_multiple_of(32) && empty.bytes.is_empty() && file.tensor("other") == Some(other));
    // Version 2 has the same layout.
    let mut older = bytes.clone();
    older[4] = 2;
    assert_eq!(Gguf::parse(&older).expect("version 2").version(), 2);
}

#[test]
fn getters_name_other_types() {
    let bytes = example();
    let file = Gguf::parse(&bytes).expect("our own file");
    assert_eq!(
        (file.unsigned("u8"), file.integer("i8"), file.flag("bool")),
        (Ok(Some(200)), Ok(Some(-100)), Ok(Some(true)))
    );
    assert_eq!((file.string("no such key"), file.unsigned("no such key")), (Ok(None), Ok(None)));
    for error in [
        file.string("u8").expect_err("a number"),
        file.unsigned("i8").expect_err("negative"),
        file.integer("f32").expect_err("a fraction"),
        file.flag("u8").expect_err("a number"),
        file.array("string").expect_err("a text"),
        file.strings("numbers").expect_err("numbers"),
    ] {
        assert!(matches!(error, GgufError::ValueType { .. }), "{error}");
    }
}

#[test]
fn another_alignment_is_used() {
    let mut file = Writer::with_alignment(256);
    file.tensor("a", &[1], TensorType::F32, &[1; 4]).tensor("b", &[1], TensorType::F32, &[2; 4]);
    let bytes = file.finish();
    let read = Gguf::parse(&bytes).expect("our own file");
    assert_eq!(read.tensors()[1].range.start - read.tensors()[0].range.start, 256);
    for (alignment, damage) in [(0u32, "0"), (3, "3"), (1 << 17, "131072")] {
        let mut damaged = bytes.clone();
        // After its type, u32.
        let at = bytes.windows(8).position(|window| window == [4, 0, 0, 0, 0, 1, 0, 0]).expect("the value") + 4;
        damaged[at..][..4].copy_from_slice(&alignment.to_le_bytes());
        let error = Gguf::parse(&damaged).expect_err("an impossible alignment");
        assert!(matches!(error, GgufError::Alignment { .. }) && error.to_string().contains(damage), "{error}");
    }
}

#[test]
fn every_part_of_a_file_is_refused() {
    let bytes = example();
    // The last tensor's padding may be missing.
    let needed = bytes.len() - (32 - 12);
    for cut in 0..needed {
        assert!(Gguf::parse(&bytes[..cut]).is_err(), "accepted {cut} of {} bytes", bytes.len());
    }
    assert!(Gguf::parse(&bytes[..needed]).is_ok());
}

#[test]
fn damage_is_named() {
    let word = |value: u32| value.to_le_bytes();
    assert!(matches!(changed(b"GGUF", b"GGML"), GgufError::Magic { found } if &found == b"GGML"));
    assert!(matches!(changed(&word(3), &word(1)), GgufError::Version { version: 1 }));
    assert!(changed(&word(3), &3u32.to_be_bytes()).to_string().contains("big-endian"));
    assert!(
        matches!(changed(b"\x02\0\0\0\0\0\0\0u8", b"\x02\0\0\0\0\0\0\0i8"), GgufError::DuplicateKey { key } if key == "i8")
    );
    assert!(matches!(changed("zwölf".as_bytes(), b"zw\xff\xfflf"), GgufError::Text { .. }));
    // The counts of tensors, and of values.
    assert!(matches!(changed(&3u64.to_le_bytes(), &u64::MAX.to_le_bytes()), GgufError::Count { count: u64::MAX, .. }));
    assert!(matches!(changed(&17u64.to_le_bytes(), &(1u64 << 40).to_le_bytes()), GgufError::Count { .. }));
    let tensor = |dimensions: u32, width: u64, rows: u64, kind: u32, offset: u64| {
        let mut bytes = word(dimensions).to_vec();
        bytes.extend([width, rows].iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend([word(kind).as_slice(), &offset.to_le_bytes()].concat());
        bytes
    };
    let now = tensor(2, 32, 2, 8, 0);
    let damaged = |dimensions, width, rows, kind, offset| changed(&now, &tensor(dimensions, width, rows, kind, offset));
    assert!(matches!(damaged(5, 32, 2, 8, 0), GgufError::Dimensions { dimensions: 5, .. }));
    assert!(matches!(damaged(2, 32, 2, 99, 0), GgufError::TensorType { number: 99, .. }));
    assert!(matches!(damaged(2, 33, 2, 8, 0), GgufError::Shape { .. }));
    assert!(matches!(damaged(2, u64::MAX, 2, 0, 0), GgufError::Shape { .. }));
    for (width, rows, offset) in [(32, u64::MAX, 0), (32, 2, 1 << 40), (32, 2, u64::MAX - 31), (32, 1 << 59, 0)] {
        assert!(matches!(damaged(2, width, rows, 8, offset), GgufError::OutOfRange { .. }), "{width} {rows} {offset}");
    }
    assert!(matches!(damaged(2, 32, 2, 8, 4), GgufError::Offset { offset: 4, alignment: 32, .. }));
    // In f32 the first tensor reaches the second one.
    assert!(
        matches!(damaged(2, 32, 1, 0, 0), GgufError::Overlap { first, second, .. } if first == "first" && second == "other")
    );
    assert!(matches!(changed(b"other", b"first"), GgufError::DuplicateTensor { tensor } if tensor == "first"));
}

/// The result for a file with one pair only, of this type and these bytes.
fn with_pair(kind: u32, value: &[u8]) -> Result<usize, GgufError> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    bytes.extend(b"key");
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
    Gguf::parse(&bytes).map(|file| file.metadata().count())
}

#[test]
fn values_of_all_types_and_no_others_are_read() {
    let array = |kind: u32, count: u64, rest: &[u8]| [&kind.to_le_bytes()[..], &count.to_le_bytes(), rest].concat();
    for kind in ValueType::ALL {
        let (number, bytes) = (kind.number(), kind.least_bytes() as usize);
        assert_eq!(ValueType::from_number(number), Some(*kind));
        assert_eq!(with_pair(number, &vec![0; bytes]), Ok(1), "{kind}");
        assert!(matches!(with_pair(number, &vec![0; bytes - 1]), Err(GgufError::Truncated { .. })), "{kind}");
        assert_eq!(with_pair(9, &array(number, 3, &vec![0; 3 * bytes])), Ok(1), "{kind}");
        for count in [4, u64::MAX, u64::MAX / bytes as u64] {
            let found = with_pair(9, &array(number, count, &vec![0; 3 * bytes]));
            assert!(matches!(found, Err(GgufError::Count { .. })), "{kind}: {found:?}");
        }
    }
    assert!(matches!(with_pair(13, &[0; 8]), Err(GgufError::UnknownType { number: 13, .. })));
    assert!(matches!(with_pair(9, &array(13, 0, &[])), Err(GgufError::UnknownType { number: 13, .. })));
    let mut deep = array(0, 0, &[]);
    for depth in 1.. {
        let found = with_pair(9, &deep);
        if depth > reader::MAX_DEPTH {
            assert!(matches!(found, Err(GgufError::Nesting { .. })), "{depth}: {found:?}");
            break;
        }
        assert_eq!(found, Ok(1), "{depth}");
        deep = array(9, 1, &deep);
    }
}

#[test]
fn parts_are_found_by_their_names() {
    let part = |count: u16, number: u16| {
        let mut file = Writer::default();
        file.set("split.count", Value::U16(count)).set("split.no", Value::U16(number));
        file.set("split.tensors.count", Value::I32(7));
        Gguf::parse(&file.finish()).expect("our own file").split()
    };
    assert_eq!((part(0, 0), part(1, 0)), (Ok(None), Ok(None)));
    assert_eq!(part(2, 2), Err(GgufError::PartNumber { number: 2, count: 2 }));
    let split = part(3, 1).expect("a part").expect("of several");
    assert_eq!(split, Split { number: 1, count: 3, tensors: Some(7) });
    let paths = split.paths("some/m-00002-of-00003.gguf".as_ref()).expect("a part's name");
    let names = ["some/m-00001-of-00003.gguf", "some/m-00002-of-00003.gguf", "some/m-00003-of-00003.gguf"];
    assert_eq!(paths, names.map(std::path::PathBuf::from));
    for name in ["m.gguf", "m-00001-of-00003.gguf", "m-00002-of-00004.gguf"] {
        assert!(matches!(split.paths(name.as_ref()), Err(GgufError::PartName { number: 2, count: 3, .. })), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_written_again(
        texts in prop::collection::vec(".{0,12}", 0..6),
        numbers in prop::collection::vec(any::<i64>(), 0..6),
        tensors in prop::collection::vec((1usize..40, 1usize..4), 0..6),
        alignment in prop::sample::select(vec![1u32, 8, 32, 64]),
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut file = Writer::with_alignment(alignment);
        file.set_array("texts", &texts).set_array("numbers", &numbers);
        for (i, (width, rows)) in tensors.iter().enumerate() {
            file.tensor(&format!("t{i}"), &[*width, *rows], TensorType::F32, &vec![i as u8; 4 * width * rows]);
        }
        let bytes = file.finish();
        let read = Gguf::parse(&bytes).expect("our own file");
        prop_assert_eq!(read.strings("texts").expect("texts"), Some(texts));
        for (i, tensor) in read.tensors().iter().enumerate() {
            prop_assert_eq!(tensor.shape.as_slice(), &[tensors[i].0, tensors[i].1]);
            prop_assert!(tensor.bytes.iter().all(|byte| *byte == i as u8));
        }
        let mut again = Writer::with_alignment(alignment);
        for (key, value) in read.metadata().filter(|(key, _)| *key != ALIGNMENT_KEY) {
            again.set(key, value);
        }
        for tensor in read.tensors() {
            again.tensor(tensor.name, &tensor.shape, tensor.kind, tensor.bytes);
        }
        let again = again.finish();
        let again = Gguf::parse(&again).expect("our own file");
        prop_assert!(again.metadata().eq(read.metadata()) && again.tensors().len() == tensors.len());
    }

    #[test]
    fn no_damage_panics(at in any::<prop::sample::Index>(), by in prop::collection::vec(any::<u8>(), 1..9), cut in 0usize..9) {
        let mut bytes = example();
        let at = at.index(bytes.len());
        for (slot, byte) in bytes.iter_mut().skip(at).zip(by) {
            *slot = byte;
        }
        bytes.truncate(bytes.len() - cut);
        if let Ok(file) = Gguf::parse(&bytes) {
            // Everything that was accepted can be read, and takes no more than the file.
            let values: usize = file.metadata().map(|(_, value)| match value {
                Value::Array(array) => array.values().count(),
                _ => 1,
            }).sum();
            prop_assert!(values <= bytes.len());
            prop_assert!(file.tensors().iter().map(|tensor| tensor.bytes.len()).sum::<usize>() <= bytes.len());
        }
    }
}
