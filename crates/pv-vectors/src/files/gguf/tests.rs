//! Tests on the bytes of control vectors; tests/suite/vector_files.rs compares with the Python package.

use proptest::prelude::*;

use super::*;

fn written(hint: &str, directions: &BTreeMap<usize, Vec<f32>>) -> Vec<u8> {
    write(hint, &directions.iter().map(|(k, values)| (*k, values.as_slice())).collect())
}

fn example() -> Vec<u8> {
    written("qwen2", &BTreeMap::from([(1, vec![1.0, 2.0, 3.0]), (4, vec![-1.0, 0.5, 1e-30])]))
}

/// The example file with one needle replaced by other bytes of the same length.
fn changed(needle: &[u8], by: &[u8]) -> String {
    assert_eq!(needle.len(), by.len());
    let mut bytes = example();
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("the needle");
    bytes[at..][..by.len()].copy_from_slice(by);
    read(&bytes).expect_err("a damaged file")
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        hint in ".{0,20}",
        numbers in prop::collection::btree_map(1usize..200, -1e30f32..1e30, 1..20),
        width in 1usize..40,
    ) {
        let directions: BTreeMap<_, Vec<f32>> =
            numbers.into_iter().map(|(k, start)| (k, (0..width).map(|i| start + i as f32).collect())).collect();
        let found = read(&written(&hint, &directions)).expect("our own file");
        prop_assert_eq!(found.model_hint, Some(hint));
        prop_assert_eq!(found.layer_count, Some(directions.len() as i64));
        prop_assert_eq!(found.directions, directions);
    }

    #[test]
    fn no_damage_panics(at in 0usize..400, bytes in prop::collection::vec(any::<u8>(), 1..9)) {
        let mut damaged = example();
        for (slot, byte) in damaged.iter_mut().skip(at).zip(bytes) {
            *slot = byte;
        }
        let _ = read(&damaged);
    }
}

#[test]
fn a_part_of_a_file_is_refused() {
    let bytes = example();
    // The last tensor's data ends before its padding does.
    let needed = bytes.len() - (32 - 12);
    for cut in 0..needed {
        assert!(read(&bytes[..cut]).is_err(), "accepted {cut} of {} bytes", bytes.len());
    }
    assert!(read(&bytes[..needed]).is_ok());
}

#[test]
fn damage_is_named() {
    let word = |value: u32| value.to_le_bytes();
    assert!(changed(b"GGUF", b"GGML").contains("GGUF"));
    assert!(changed(&word(3), &word(1)).contains("version 1"));
    assert!(changed(b"controlvector", b"controlvektor").contains("controlvektor"));
    assert!(changed(b"general.architecture", b"general.architektur_").contains("does not name"));
    assert!(changed(b"direction.1", b"direction.0").contains("direction.0"));
    assert!(changed(b"direction.1", b"direktion.1").contains("direktion.1"));
    assert!(changed(b"direction.1", b"direction.4").contains("twice"));
    // The tensor count.
    assert!(changed(&2u64.to_le_bytes(), &0u64.to_le_bytes()).contains("no direction"));
    assert!(changed(&2u64.to_le_bytes(), &u64::MAX.to_le_bytes()).contains("entries"));
    let dimensions = |count: u32, width: u64, kind: u32, offset: u64| {
        let mut bytes = b"direction.1".to_vec();
        bytes.extend(word(count));
        bytes.extend(width.to_le_bytes());
        bytes.extend(word(kind));
        bytes.extend(offset.to_le_bytes());
        bytes
    };
    let tensor = |count, width, kind, offset| changed(&dimensions(1, 3, 0, 0), &dimensions(count, width, kind, offset));
    assert!(tensor(1, 2, 0, 0).contains("numbers"));
    assert!(tensor(1, 9, 0, 0).contains("overlap"));
    assert!(tensor(1, 0, 0, 0).contains("empty"));
    assert!(tensor(1, u64::MAX, 0, 0).contains("impossible"));
    assert!(tensor(1, 3, 0, 1 << 40).contains("beyond"));
    assert!(tensor(1, 3, 0, u64::MAX - 31).contains("beyond"));
    assert!(tensor(1, 3, 0, 4).contains("multiple"));
    assert!(tensor(1, 3, 24, 0).contains("type 24 (I8)"));
    assert!(tensor(1, 3, 99, 0).contains("type 99"));
    assert!(tensor(1, 3, 8, 0).contains("Q8_0"));
    assert!(tensor(1, 6, 1, 0).contains("the first direction has 6"));
    assert!(tensor(5, 3, 0, 0).contains("5 dimensions"));
    assert!(changed(&1e-30f32.to_le_bytes(), &f32::NAN.to_le_bytes()).contains("not finite"));
}

#[test]
fn metadata_of_another_type_is_named() {
    let with = |key: &str, value: Value<'_>| {
        let mut file = Writer::default();
        file.set(key, value);
        if key != "general.architecture" {
            file.set("general.architecture", Value::String(ARCHITECTURE));
        }
        file.tensor("direction.1", &[1], TensorType::F32, &1f32.to_le_bytes());
        read(&file.finish())
    };
    assert!(with("other", Value::F64(1.0)).is_ok());
    assert!(with("controlvector.layer_count", Value::String("3")).expect_err("a text").contains("not an integer"));
    assert!(with("general.architecture", Value::U32(3)).expect_err("a number").contains("not a string"));
}

#[test]
fn the_embeddings_and_the_first_block_have_no_number() {
    let numbers: Vec<_> = (0..4).map(|index| direction_number(Layer::hidden_state(index))).collect();
    assert_eq!(numbers, [None, None, Some(1), Some(2)]);
}
