//! A local model as the judge.

use pv_judge::LocalJudge;
use pv_judge::score::AbstentionKind;
use pv_tests::smollm2;

use super::*;

#[test]
fn a_local_judge_repeats_no_verdict() {
    let device = pv_model::device("flex").expect("the CPU");
    let dtype = pv_model::device::default_dtype(&device);
    let model = CausalLm::from_folder(smollm2(), &device, dtype).expect("the model");
    let local = LocalJudge::new(&model).expect("a judge");
    // A list of numbers, which this small model continues.
    let rubric = Rubric::new("list", "{question} {answer}\n100\n90\n80\n70\nGo on.").expect("a rubric");
    let chats = chats(12);
    let samples = samples(&chats);
    let distinct = distinct(&samples);
    let run = |place: &Path, judge: &dyn Judge, events: usize| {
        let mut breaks = 0;
        loop {
            let mut left = events;
            let mut judging = Judging::open(place, judge, &rubric).expect("a folder").with_chunk(4).expect("some");
            let outcome = judging.run(&samples, |_, _| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match outcome {
                Ok(verdicts) => return (verdicts, breaks),
                Err(Error::Cancelled) => breaks += 1,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let judge = noting(&local);
    let (whole, _) = run(folder().path(), &judge, usize::MAX);
    assert_eq!(judge.total(), distinct);
    // Interrupted after each chunk, the judge scores the same samples together.
    let judge = noting(&local);
    let (parts, breaks) = run(folder().path(), &judge, 4);
    assert!(breaks >= 2 && judge.total() == distinct, "{breaks}");
    assert_eq!(parts, whole);
    // Interrupted after each sample, other samples are scored together: sums have another order.
    let judge = noting(&local);
    let (single, breaks) = run(folder().path(), &judge, 1);
    assert!(breaks + 1 >= distinct && judge.total() == distinct, "{breaks}");
    // This small model hardly gives numbers to rubrics; their probability is compared instead.
    let number = |verdict: &Verdict| match verdict {
        Verdict::Scored(score) => score.value,
        Verdict::Abstained(Abstention::NoMass { mass, .. }) => *mass,
        Verdict::Abstained(other) => panic!("{other:?}"),
    };
    let mut worst: f64 = 0.0;
    for (single, whole) in single.iter().zip(&whole) {
        assert_eq!(single.value().is_some(), whole.value().is_some());
        worst = worst.max((number(single) / number(whole) - 1.0).abs());
    }
    println!("{:?}, by {worst:.1e} apart at most", whole.iter().map(number).collect::<Vec<_>>());
    assert!(worst < 1e-3 && number(&whole[0]) != number(&whole[1]), "{worst}");

    // A prompt that is too long is an abstention with its own reason; the others have verdicts.
    let long = "word ".repeat(9000);
    let mut with_long = samples.clone();
    with_long.insert(9, JudgeSample { id: "long", answer: &long, ..samples[0] });
    let place = folder();
    let mut judging = Judging::open(place.path(), &local, &rubric).expect("a folder").with_chunk(4).expect("some");
    let verdicts = judging.run(&with_long, go_on).expect("verdicts");
    assert_eq!((verdicts.len(), judging.len()), (with_long.len(), distinct + 1));
    assert!(matches!(verdicts[9], Verdict::Abstained(Abstention::TooLong { tokens: 9000.., .. })), "{:?}", verdicts[9]);
    let counts = judging.verdict_counts();
    assert_eq!(counts.abstained.get(&AbstentionKind::TooLong), Some(&1));
}
