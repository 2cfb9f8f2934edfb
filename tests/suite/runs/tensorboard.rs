//! Event files, read by an independent reader: framing, checksums, fields.

use std::time::SystemTime;

use pv_data::{Damage, FileError, RunError};
use pv_train::run::write_tensorboard;

use super::*;

/// The bytes that TensorBoard's own writer (2.21, `EventFileWriter`) writes for two events at 1234.5 s: step 0 with `train/loss` 0 and `b`
/// 2, step 300 with `train/loss` −1.5 and `b` 2.
const TENSORBOARDS_OWN: &str = "4800000000000000fe92489d09733090c95cc2da411a0d627261696e2e4576656e743a32522e0a2c74656e736f72\
    626f6172642e73756d6d6172792e7772697465722e6576656e745f66696c655f77726974657286c0e9092800000000000000ff70164a0900000000\
    004a93402a1d0a110a0a747261696e2f6c6f737315000000000a080a01621500000040d8d580ef2b00000000000000861bc34b0900000000004a93\
    4010ac022a1d0a110a0a747261696e2f6c6f7373150000c0bf0a080a0162150000004065a6521f";

/// One event: time, step, the file's version, scalars in order.
#[derive(Debug, Default, PartialEq)]
struct Event {
    wall_time: f64,
    step: u64,
    version: Option<String>,
    scalars: Vec<(String, f32)>,
}

/// CRC-32C bit by bit (the polynomial of RFC 3720, appendix B.4, reflected).
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

fn masked(bytes: &[u8]) -> u32 {
    let crc = crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at_checked(count).expect("the file ends too early");
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

/// A message's fields: number, and the value's bytes, or those of a varint as a number of 8.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            1 => take(&mut bytes, 8).to_vec(),
            2 => {
                let length = varint(&mut bytes) as usize;
                take(&mut bytes, length).to_vec()
            }
            5 => take(&mut bytes, 4).to_vec(),
            other => panic!("no wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn events(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
    while !bytes.is_empty() {
        let length = take(&mut bytes, 8);
        assert_eq!(word(take(&mut bytes, 4)), masked(length), "the length's checksum");
        let data = take(&mut bytes, u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize);
        assert_eq!(word(take(&mut bytes, 4)), masked(data), "the data's checksum");
        let mut event = Event::default();
        for (field, value) in fields(data) {
            match field {
                1 => event.wall_time = f64::from_le_bytes(value.try_into().expect("8 bytes")),
                2 => event.step = u64::from_le_bytes(value.try_into().expect("8 bytes")),
                3 => event.version = Some(text(&value)),
                5 => event.scalars.extend(fields(&value).into_iter().map(|(field, value)| {
                    let scalar = fields(&value);
                    assert!(field == 1 && scalar.len() == 2 && scalar[0].0 == 1 && scalar[1].0 == 2, "{scalar:?}");
                    (text(&scalar[0].1), f32::from_bits(word(&scalar[1].1)))
                })),
                // The writer's name.
                10 => {}
                other => panic!("no field {other}"),
            }
        }
        events.push(event);
    }
    events
}

#[test]
fn the_reader_reads_tensorboards_own_file() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let hex = TENSORBOARDS_OWN.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
    let found = events(&hex.chunks(2).map(byte).collect::<Vec<u8>>());
    let event = |step, loss| {
        let scalars = vec![("train/loss".to_owned(), loss), ("b".to_owned(), 2.0)];
        Event { wall_time: 1234.5, step, version: None, scalars }
    };
    assert_eq!(found[0].version.as_deref(), Some("brain.Event:2"));
    assert_eq!(found[1..], [event(0, 0.0), event(300, -1.5)]);
}

#[test]
fn metrics_are_an_event_file() {
    let place = folder();
    let begun = SystemTime::now();
    Case::named("closed_loop").run().run(place.path(), go_on).expect("a run");
    let metrics = read_metrics(place.path()).expect("metrics");
    let path = write_tensorboard(place.path(), place.path()).expect("a file");
    assert!(path.parent() == Some(place.path()) && path.display().to_string().contains("events.out.tfevents."));
    let bytes = std::fs::read(&path).expect("a file");
    let found = events(&bytes);
    assert_eq!(found[0].version.as_deref(), Some("brain.Event:2"));
    assert!(found[0].scalars.is_empty());
    assert_eq!(found.len(), metrics.len() + 1);
    let mut names = std::collections::BTreeSet::new();
    for (event, line) in found[1..].iter().zip(&metrics) {
        assert_eq!((event.step, &event.version), (line.step as u64, &None));
        let mut expected = BTreeMap::new();
        let fixed = [
            ("train/loss", line.loss),
            ("train/penalty", line.penalty),
            ("train/grad_norm", line.grad_norm),
            ("train/learning_rate", line.learning_rate),
            ("train/tokens_per_second", (line.step > 0).then_some(line.tokens_per_second)),
            ("held_out/loss", line.held_out_loss),
        ];
        expected.extend(fixed.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value? as f32))));
        for (group, values) in [("regimes", &line.regimes), ("probes", &line.projections), ("shifts", &line.shifts)] {
            expected.extend(values.iter().map(|(name, value)| (format!("{group}/{name}"), *value as f32)));
        }
        assert_eq!(event.scalars.len(), expected.len());
        assert_eq!(event.scalars.iter().cloned().collect::<BTreeMap<_, _>>(), expected, "step {}", line.step);
        names.extend(expected.into_keys());
    }
    // Everything was compared, including shifts and penalties of 0.
    for name in ["train/loss", "held_out/loss", "probes/made_up@3", "shifts/made_up@7", "regimes/regime_0_factor"] {
        assert!(names.contains(name), "{name} is none of {names:?}");
    }
    assert!(found[1].scalars.contains(&("shifts/made_up@3".to_owned(), 0.0)));
    // Times increase by the durations of the steps, and end with the metrics.
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs_f64();
    for (pair, line) in found[1..].windows(2).zip(&metrics[1..]) {
        assert!((pair[1].wall_time - pair[0].wall_time - line.seconds).abs() < 1e-5, "step {}", line.step);
    }
    let (first, last) = (found[0].wall_time, found[found.len() - 1].wall_time);
    assert!(first > seconds(begun) - 1.0 && last <= seconds(SystemTime::now()), "{first} to {last}");

    // A second call writes the same file.
    let other = place.path().join("logs/first");
    let again = [&other, &other].map(|folder| write_tensorboard(place.path(), folder).expect("a file"));
    assert_eq!(std::fs::read(&again[1]).expect("a file"), bytes);
    assert_eq!(std::fs::read_dir(&other).expect("a folder").count(), 1);
}

#[test]
fn failures_of_the_export_are_errors() {
    let place = folder();
    let metrics = place.path().join("metrics.jsonl");
    let written = || write_tensorboard(place.path(), place.path().join("logs"));
    assert!(matches!(written(), Err(pv_train::Error::File(FileError::Read { path, .. })) if path == metrics));
    std::fs::write(&metrics, "{\"step\": 0}\nno\n{\"step\": 2}\n").expect("a file");
    assert!(
        matches!(written(), Err(pv_train::Error::Run(RunError::Damaged { path, source: Damage::Line { line: 2, .. } })) if path == metrics)
    );
    assert!(!place.path().join("logs").exists());
    // A line that is still being written is ignored.
    std::fs::write(&metrics, "{\"step\": 0}\n{\"step\": 1, \"loss\": 0.5, \"seconds\": 2}\n{\"st").expect("a file");
    let found = events(&std::fs::read(written().expect("a file")).expect("a file"));
    assert_eq!(found.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 0, 1]);
    assert!((found[2].wall_time - found[1].wall_time - 2.0).abs() < 1e-6);
    let error = write_tensorboard(place.path(), &metrics).expect_err("a file is not a folder");
    assert!(matches!(&error, pv_train::Error::File(FileError::Write { path, .. }) if *path == metrics), "{error}");
}
