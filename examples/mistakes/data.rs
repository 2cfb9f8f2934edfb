//! Data that is not there, is of no known kind, or holds nothing to learn from.

use crate::world::World;
use crate::{Mistake, make};

#[test]
fn data_that_cannot_be_used() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    let text = world.file("data.docx", "no conversations");
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
        ("a file of no known kind", &text, "data.docx"),
        ("an empty file", &empty, "empty.jsonl"),
        ("a table without conversations", &csv, "columns.csv"),
        ("a cut Parquet file", &parquet, "cut.parquet"),
        ("an empty folder", folder, "nothing"),
        ("rows that are no conversations", &bad, "bad.jsonl"),
    ];
    for (name, file, says) in kinds {
        mistakes.push(Mistake::new(name, "finetune", &["--data", file], &[says]));
    }
    mistakes.extend([
        Mistake::new("only empty answers", "finetune", &["--data", &blank, "--leave-out-bad"], &["blank.jsonl"]),
        Mistake::new("only bad rows, to be left out", "finetune", &["--data", &bad, "--leave-out-bad"], &["bad.jsonl"]),
        Mistake::new(
            "a screening of a file that does not exist",
            "screen",
            &["--data", "none.jsonl", "--vector", &vector],
            &["none.jsonl"],
        ),
        Mistake::new(
            "a screening of a file of no known kind",
            "screen",
            &["--data", &text, "--vector", &vector],
            &["data.docx"],
        ),
        Mistake::usage(
            "an empty question",
            "steer_contrast",
            &["--vector", &vector, "--question", " "],
            &["question", "empty"],
        ),
        Mistake::usage(
            "an empty question to a guard",
            "guard_chat",
            &["--vector", &vector, "--question", ""],
            &["question", "empty"],
        ),
        Mistake::usage(
            "an empty question to a monitor",
            "monitor_chat",
            &["--vector", &vector, "--question", ""],
            &["question", "empty"],
        ),
        Mistake::new(
            "probe prompts that do not exist",
            "finetune",
            &["--probe-prompts", "none.txt"],
            &["none.txt", "No such file"],
        ),
        Mistake::new(
            "MMLU's questions that do not exist",
            "evaluate",
            &["--trait", "evil", "--questions", "1", "--max-new-tokens", "2", "--mmlu", "none"],
            &["none"],
        ),
        Mistake::new(
            "a text that does not exist",
            "evaluate",
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
