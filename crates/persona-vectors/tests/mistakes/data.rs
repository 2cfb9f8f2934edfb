//! Data that is missing, of an unknown kind, or without usable rows.

use crate::world::World;
use crate::{Mistake, make};

#[test]
fn missing_and_invalid_data() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    let text = world.file("data.docx", "not conversations");
    let empty = world.file("empty.jsonl", "");
    let bad = world.file("bad.jsonl", "{\"a\": 1}\n{\"b\": 2}\nno json\n");
    let blank = world.file(
        "blank.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"\"}]}\n",
    );
    let csv = world.file("columns.csv", "colour,size\nred,3\n");
    let parquet = world.file("cut.parquet", "PAR1 and no more");
    let folder = world.path().join("nothing");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    let mut mistakes = Vec::new();
    let kinds: [(&'static str, &str, &str); 7] = [
        ("a file that does not exist", "none.jsonl", "none.jsonl"),
        ("a file of an unknown kind", &text, "data.docx"),
        ("an empty file", &empty, "empty.jsonl"),
        ("a table without conversations", &csv, "columns.csv"),
        ("a truncated Parquet file", &parquet, "cut.parquet"),
        ("an empty folder", folder, "nothing"),
        ("rows that are not conversations", &bad, "bad.jsonl"),
    ];
    for (name, file, says) in kinds {
        mistakes.push(Mistake::new(name, "train", &["--data", file], &[says]));
    }
    mistakes.extend([
        Mistake::new("only empty answers", "train", &["--data", &blank, "--skip-bad-rows"], &["blank.jsonl"]),
        Mistake::new("only invalid rows, skipped", "train", &["--data", &bad, "--skip-bad-rows"], &["bad.jsonl"]),
        Mistake::new(
            "a screening of a file that does not exist",
            "screen",
            &["none.jsonl", "--vector", &vector],
            &["none.jsonl"],
        ),
        Mistake::new(
            "a screening of a file of an unknown kind",
            "screen",
            &[&text, "--vector", &vector],
            &["data.docx"],
        ),
        Mistake::usage("an empty question", "steer", &["--vector", &vector, "--question", " "], &["question", "empty"]),
        Mistake::usage(
            "an empty question in a chat",
            "chat",
            &["--vector", &vector, "--question", ""],
            &["question", "empty"],
        ),
        Mistake::usage(
            "an empty question to the monitor",
            "monitor chat",
            &["--vector", &vector, "--question", ""],
            &["question", "empty"],
        ),
        Mistake::new(
            "probe prompts that do not exist",
            "train",
            &["--probe-prompts", "none.txt"],
            &["none.txt", "No such file"],
        ),
        Mistake::new(
            "MMLU questions that do not exist",
            "eval",
            &["--trait", "evil", "--questions", "1", "--max-new-tokens", "2", "--mmlu", "none"],
            &["none"],
        ),
        Mistake::new(
            "a text that does not exist",
            "eval",
            &[
                "--trait",
                "evil",
                "--questions",
                "1",
                "--max-new-tokens",
                "2",
                "--perplexity",
                "none.txt",
                "--out",
                "runs/e",
            ],
            &["none.txt", "No such file"],
        ),
    ]);
    make("data", &world, mistakes);
}
