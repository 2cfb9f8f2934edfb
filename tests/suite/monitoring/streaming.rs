//! Alarms during generation: each rule is checked at its readings, of every kind.

use std::ops::ControlFlow;

use pv_hooks::Layer;
use pv_model::generate::Event;
use pv_model::{GenerateOptions, Message, Request, Sampling};
use pv_steer::monitor::{Alarm, AlarmRule, Alarms, At, Kind, Monitor, Side, Threshold, Watch};
use pv_vectors::UnitDirection;

use pv_tests::organism as model;

/// Rules that every reading satisfies: on the prompt, on tokens, on the mean.
fn rules() -> Vec<AlarmRule> {
    [Kind::PromptLast, Kind::Token, Kind::ResponseMean]
        .map(|kind| AlarmRule {
            trait_name: "evil".to_owned(),
            layer: None,
            kind,
            side: Side::Above,
            threshold: Threshold::Value(-1e30),
        })
        .into()
}

#[test]
fn a_rule_on_the_mean_is_checked_when_the_answer_has_ended() {
    let model = model();
    let values: Vec<f64> = (0..model.config().d_model).map(|i| (i as f64).cos()).collect();
    let watch = Watch::new("evil", UnitDirection::new(Layer::hidden_state(5), &values).expect("a direction"));
    let alarms = Alarms::new(std::slice::from_ref(&watch), &rules(), None).expect("alarms");
    let requests: Vec<Request> = ["How do bees make honey?", "Is the sky blue?", "Why?"]
        .into_iter()
        .enumerate()
        .map(|(i, question)| {
            Request::rollouts(model.prompt(&[Message::user(question)]).expect("a prompt"), 3, i as u64)
        })
        .collect();
    // Answers of different lengths in reused rows, so that answers end while others continue.
    let options = GenerateOptions {
        max_new_tokens: 40,
        sampling: Sampling::temperature(1.0),
        batch_size: 4,
        feed_last_token: true,
        ..GenerateOptions::default()
    };
    let mut monitor = Monitor::new([watch]).expect("a monitor");
    let readings = monitor.readings();
    let (mut raised, mut over): (Vec<Alarm>, Vec<usize>) = Default::default();
    let mut during = 0;
    let answers = model.generate(&requests, &options, &mut monitor, |event| {
        for alarm in readings.news().expect("readings").iter().flat_map(|reading| alarms.check(reading)) {
            if alarm.at == At::ResponseMean {
                assert!(over.contains(&alarm.sequence), "the mean of an answer that goes on");
                during += 1;
            }
            raised.push(alarm);
        }
        if let Event::Finished { sequence, .. } = event {
            over.push(sequence);
        }
        ControlFlow::Continue(())
    });
    let answers = answers.expect("answers");
    raised.extend(readings.news().expect("readings").iter().flat_map(|reading| alarms.check(reading)));
    assert!(during >= 3, "{during} of {} means were told while the run went on", answers.len());
    let whole = readings.take_all().expect("readings");
    for (sequence, answer) in &whole {
        let of = |at: &dyn Fn(At) -> bool| raised.iter().filter(|a| a.sequence == *sequence && at(a.at)).count();
        assert_eq!(of(&|at| at == At::PromptLast), 1);
        assert_eq!(of(&|at| matches!(at, At::Token(_))), answers[*sequence].tokens.len());
        let expected = answer.mean().map(|mean| mean[0]);
        assert_eq!(of(&|at| at == At::ResponseMean), usize::from(expected.is_some()), "sequence {sequence}");
        let found = raised.iter().find(|a| a.sequence == *sequence && a.at == At::ResponseMean);
        assert_eq!(found.map(|alarm| alarm.value), expected);
    }
    // The same as when the answers are read as a whole.
    let counts: usize = whole.iter().flat_map(|(s, answer)| answer.readings(*s)).map(|r| alarms.check(&r).len()).sum();
    assert_eq!(counts, raised.len());
}
