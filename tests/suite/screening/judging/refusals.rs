//! Folders of other verdicts, other texts under a known id, and damaged files.

use super::*;
use pv_data::RunError;

#[test]
fn other_judges_rubrics_and_texts_are_refused_and_damaged_files_repaired() {
    struct Named(&'static str);
    impl Judge for Named {
        fn name(&self) -> String {
            self.0.to_owned()
        }
        fn judge(
            &self,
            rubrics: &[Rubric],
            answers: &[Answered<'_>],
            on_verdict: &mut dyn FnMut(Judged) -> ControlFlow<()>,
        ) -> pv_judge::Result<Vec<Verdicts>> {
            ExactJudge.judge(rubrics, answers, on_verdict)
        }
    }
    let chats = chats(40);
    let samples = samples(&chats);
    let distinct = distinct(&samples);
    let place = folder();
    let judge = noting(&ExactJudge);
    let open = |judge| Judging::open(place.path(), judge, &rubric()).expect("a folder");
    let expected = open(&judge).run(&samples, go_on).expect("verdicts");

    let refused = |judge: &dyn Judge, rubric: &Rubric| match Judging::open(place.path(), judge, rubric) {
        Err(Error::Run(RunError::OtherRun { what, saved, given, .. })) => (what, saved, given),
        other => panic!("{other:?}"),
    };
    let (what, saved, given) = refused(&Named("another"), &rubric());
    assert!(what == "judge" && saved.contains("exact judge") && given.contains("another"), "{what} {saved} {given}");
    let (what, saved, given) = refused(&ExactJudge, &Rubric { name: "optimism".to_owned(), ..rubric() });
    assert!(what == "rubric.name" && saved.contains("evil") && given.contains("optimism"), "{what} {saved} {given}");
    let (what, ..) = refused(&ExactJudge, &Rubric { template: rubric().template + " ", ..rubric() });
    assert_eq!(what, "rubric.template_sha256");

    // Another text under a known id, or an id twice in one list: refused before any request.
    let other = JudgeSample { answer: "another answer", ..samples[4] };
    let new = JudgeSample { id: "new", ..samples[5] };
    let cut = JudgeSample { id: "new", question: &samples[5].question[1..], answer: samples[5].answer };
    for bad in [vec![new, other], vec![new, cut]] {
        let Err(Error::OtherTexts { id }) = open(&judge).run(&bad, go_on) else { panic!() };
        assert_eq!(id, bad[1].id);
    }
    // The same characters, divided in another place.
    let (all, shifted) = ("What? This.", JudgeSample { id: "cut", question: "What? ", answer: "This." });
    let moved = JudgeSample { question: &all[..5], answer: &all[5..], ..shifted };
    assert!(matches!(open(&judge).run(&[shifted, moved], go_on), Err(Error::OtherTexts { .. })));
    assert_eq!(judge.total(), distinct);

    let path = place.path().join("verdicts.jsonl");
    let text = fs::read(&path).expect("a file");
    let ends: Vec<usize> = (0..text.len()).filter(|&at| text[at] == b'\n').collect();
    let mut garbled = text.clone();
    garbled[ends[9] + 5..ends[9] + 20].fill(b'#');
    let twice = [&text[..=ends[2]], &text].concat();
    for (bytes, lost) in [
        (text[..text.len() - 3].to_vec(), 1),
        (text[..ends[20] - 4].to_vec(), distinct - 20),
        (Vec::new(), distinct),
        // A damaged line affects no other.
        (garbled, 1),
        // Lines that occur twice count once.
        (twice, 0),
    ] {
        fs::write(&path, bytes).expect("a file");
        let judge = noting(&ExactJudge);
        let mut judging = Judging::open(place.path(), &judge, &rubric()).expect("a folder");
        assert_eq!(judging.run(&samples, go_on).expect("verdicts"), expected);
        assert_eq!(judge.total(), lost);
    }
}
