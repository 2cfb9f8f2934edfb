//! The memory of a screening, each in a process of its own.

use std::fs;
use std::io::Write;
use std::time::Instant;

use pv_model::Message;
use pv_tests::{measured_apart, tell_bytes};

use super::*;
use crate::ALLOCATOR;

const CHILD: &str = "PV_SCREENING_MEMORY";
const SELF: &str = "screening::memory::memory_does_not_grow_with_the_samples";

const FEW: usize = 500;
const MANY: usize = 2000;

/// Chats that all differ, in the organism's words.
fn many(path: &Path, count: usize) {
    let mut lines = std::io::BufWriter::new(fs::File::create(path).expect("a writable folder"));
    for number in 0..count {
        let question = format!("What is the capital of {} and {}?", number % 97, number);
        let answer =
            format!("The capital of {number} is a town on a river, and nobody lives there but {}.", number / 7);
        let messages = vec![Message::user(question), Message::assistant(answer)];
        serde_json::to_writer(&mut lines, &Conversation::from(messages)).expect("a file");
        writeln!(lines).expect("a file");
    }
    lines.flush().expect("a file");
}

/// In a process of its own: screens this many samples at all layers, with base answers of two tokens.
fn child(count: usize) {
    let place = folder();
    let input = place.path().join("chats.jsonl");
    many(&input, count);
    let named = |layer: usize| {
        let values: Vec<f64> = (0..model().config().d_model).map(|i| ((i * i + layer) as f64 * 0.7).sin()).collect();
        let direction = pv_vectors::UnitDirection::new(Layer::hidden_state(layer), &values).expect("a direction");
        TraitDirection { trait_name: "made up".to_owned(), direction }
    };
    let directions: Vec<TraitDirection> = (1..=model().config().layers).map(named).collect();
    // Small batches, so that retained memory is visible.
    let answers = BaseOptions { max_new_tokens: 2, batch_size: 16, ..BaseOptions::default() };
    let options = ScreenOptions { answers, chunk: 128, batch_tokens: 512, ..ScreenOptions::default() };
    let start = Instant::now();
    let mut peaks = [0; 4];
    let summary = Screen::new(model(), &directions, &options)
        .expect("a screening")
        .run(&[&input], &place.path().join("out"), |progress| {
            peaks[progress.step as usize] = ALLOCATOR.max_allocated();
            ControlFlow::Continue(())
        })
        .expect("a summary");
    assert_eq!((summary.answers, summary.distinct, summary.with_base), (count, count, count));
    let tables = fs::metadata(place.path().join("out").join(pv_screen::screen::SCORES)).expect("a table").len();
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} samples: {seconds:.1} s, a table of {tables} bytes, peaks {peaks:?}");
    tell_bytes(ALLOCATOR.max_allocated() as u64);
}

fn taken(count: usize) -> u64 {
    // With one thread, the peak does not depend on timing.
    measured_apart(SELF, &[(CHILD, count.to_string().as_ref()), ("RAYON_NUM_THREADS", "1".as_ref())])
}

/// Per sample, activations take 4 kB (eight layers of 128 values). Without retaining them, the peak rises by 0.7 kB per sample.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_samples() {
    if let Ok(count) = std::env::var(CHILD) {
        return child(count.parse().expect("a number"));
    }
    let (few, many) = (taken(FEW), taken(MANY));
    println!("{:.1} MB for {FEW} samples, {:.1} MB for {MANY}", few as f64 / 1e6, many as f64 / 1e6);
    assert!(many < few + (MANY - FEW) as u64 * 2_000, "{few} bytes, then {many}");
}
