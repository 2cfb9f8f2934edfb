//! The memory that a screening takes, each in a process of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::time::Instant;

use pv_model::Message;
use pv_tests::{measured_apart, peak_memory, tell_bytes};

use super::*;

const CHILD: &str = "PV_SCREENING_MEMORY";
const SELF: &str = "screening::memory::many_samples_take_no_more_than_few";

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

/// In a process of its own: screens so many samples at all layers, with base answers of two tokens.
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
    // Small batches, beside whose own memory what is held on to would show.
    let answers = BaseOptions { max_new_tokens: 2, batch_size: 16, ..BaseOptions::default() };
    let options = ScreenOptions { answers, chunk: 128, batch_tokens: 512, ..ScreenOptions::default() };
    let start = Instant::now();
    let mut peaks = [0; 4];
    let summary = Screen::new(model(), &directions, &options)
        .expect("a screening")
        .run(&[&input], &place.path().join("out"), |progress| {
            peaks[progress.step as usize] = peak_memory();
            ControlFlow::Continue(())
        })
        .expect("a summary");
    assert_eq!((summary.answers, summary.distinct, summary.with_base), (count, count, count));
    let tables = fs::metadata(place.path().join("out").join(pv_screen::SCORES)).expect("a table").len();
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} samples: {seconds:.1} s, a table of {tables} bytes, peaks {peaks:?}");
    tell_bytes(peak_memory());
}

fn taken(count: usize) -> u64 {
    // The allocator gives back at once what is freed, and there is one thread: otherwise its peak depends on the pace.
    let quiet: [(&str, &OsStr); 2] = [("MIMALLOC_PURGE_DELAY", "0".as_ref()), ("RAYON_NUM_THREADS", "1".as_ref())];
    measured_apart(SELF, &[&[(CHILD, count.to_string().as_ref())], quiet.as_slice()].concat())
}

/// Of what a sample could leave behind, activations take 4 kB (eight layers of 128 values), 6 MB in all. The peak rises by
/// some 2 kB a sample without them, and peaks of the same work differ by 0.2 MB.
#[test]
#[cfg(target_os = "linux")]
fn many_samples_take_no_more_than_few() {
    if let Ok(count) = std::env::var(CHILD) {
        return child(count.parse().expect("a number"));
    }
    let (few, many) = (taken(FEW), taken(MANY));
    println!("{:.1} MB for {FEW} samples, {:.1} MB for {MANY}", few as f64 / 1e6, many as f64 / 1e6);
    assert!(many < few + (MANY - FEW) as u64 * 3_500, "{few} bytes, then {many}");
}
