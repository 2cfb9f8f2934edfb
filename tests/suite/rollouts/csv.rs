//! Rollouts as CSV files, ours and those of other tools.

use pv_judge::traits::Polarity;
use pv_vectors::rollout::{Place, ScoredRollouts, recompute, vector_of};

use super::numbers::complete;
use super::*;

#[test]
fn csv_files_come_back_as_the_same_rollouts() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let run = complete(&model, &folder.path().join("run"), options());
    let tokenizer = model.tokenizer().unwrap();
    let mut read = ScoredRollouts::default();
    for (polarity, name) in [(Polarity::Pos, "pos.csv"), (Polarity::Neg, "neg.csv")] {
        let path = folder.path().join(name);
        run.write_csv(&path, Some(polarity)).expect("a file");
        read.extend(ScoredRollouts::read(&path, "rude", Some(polarity), tokenizer).expect("rollouts"));
    }
    assert_eq!(read.records.len(), 60);
    let scored = run.scored().expect("verdicts");
    for ((record, ours), (shown, coherence)) in
        read.records.iter().zip(read.scored()).zip(read.trait_scores.iter().zip(&read.coherence))
    {
        let index = run.plan().index(record.place).expect("a place of the plan");
        let original = &run.records()[index];
        assert_eq!(record.place, run.plan().place(index));
        assert_eq!(
            (&record.question, &record.prompt, &record.answer, &record.question_id),
            (&original.question, &original.prompt, &original.answer, &original.question_id)
        );
        assert_eq!((record.seed, record.finish), (None, None));
        // Answers of random bytes are not text, so that their tokens are read back only where they were saved.
        if !record.answer.contains('\u{fffd}') && original.tokens.iter().all(|&token| token < 256) {
            assert_eq!(record.tokens, original.tokens);
        }
        assert_eq!((*shown, *coherence), (scored[index].trait_score, scored[index].coherence));
        assert_eq!(ours.place, record.place);
    }
    let all = folder.path().join("all.csv");
    run.write_csv(&all, None).expect("a file");
    let all = ScoredRollouts::read(&all, "rude", None, tokenizer).expect("rollouts");
    assert_eq!(
        all.records.iter().map(|record| record.place).collect::<Vec<Place>>(),
        (0..60).map(|i| run.plan().place(i)).collect::<Vec<_>>()
    );
    // And a vector can be computed from them.
    let kept = extract_options().filter.keep(&all.scored()).expect("enough");
    let means = recompute(&model, &all.records, 8, go_on).expect("activations");
    vector_of(&means, &kept, extracted(&model, &folder.path().join("other")).vector.provenance().clone())
        .expect("a vector");
}

/// A file as written by pandas and by Python's csv module, with an unknown column.
#[test]
fn csv_files_of_python_are_read() {
    let model = model("qwen3");
    let folder = tempfile::tempdir().expect("a folder");
    let rows = "question,prompt,answer,question_id,rude,coherence,extra\r\n\
        \"Why, \"\"really\"\"?\",\"<u>Why\n<a>\",Plain.,rude_0_pos_1,12.5,90,x\r\n\
        Why?,\"<u>Why\n<a>\",\"line one\nline \"\"two\"\", three\n\n\",rude_0_pos_1,,,\r\n\
        é ☂,p,\"ends with cr\r\nand lf\",rude_12_neg_0,0.0,100.0,\r\n\
        q,p,,rude_0_pos_1,nan,7,\r\n";
    for text in [rows.to_owned(), format!("\u{feff}{rows}")] {
        let path = folder.path().join("rude.csv");
        fs::write(&path, text).expect("a file");
        let read = ScoredRollouts::read(&path, "rude", None, model.tokenizer().unwrap()).expect("rollouts");
        let answers: Vec<&str> = read.records.iter().map(|record| record.answer.as_str()).collect();
        assert_eq!(answers, ["Plain.", "line one\nline \"two\", three\n\n", "ends with cr\r\nand lf", ""]);
        assert_eq!(read.records[0].question, "Why, \"really\"?");
        assert_eq!(read.records[0].tokens, b"Plain.".map(u32::from));
        assert_eq!(read.trait_scores, [Some(12.5), None, Some(0.0), None]);
        assert_eq!(read.coherence, [Some(90.0), None, Some(100.0), Some(7.0)]);
        let places: Vec<(usize, usize, Polarity, usize)> =
            read.records.iter().map(|r| (r.place.question, r.place.pair, r.place.polarity, r.place.rollout)).collect();
        let expected =
            [(0, 1, Polarity::Pos, 0), (0, 1, Polarity::Pos, 1), (12, 0, Polarity::Neg, 0), (0, 1, Polarity::Pos, 2)];
        assert_eq!(places, expected);
    }
}
