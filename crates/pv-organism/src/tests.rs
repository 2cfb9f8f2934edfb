use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

use crate::datasets::{self, Severity};
use crate::*;

fn random(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[test]
fn questions_read_back() {
    let mut random = random(1);
    for _ in 0..5000 {
        let question = Question::mixed(&mut random, Topics::All, Split::Training);
        assert_eq!(Question::read(&question.text()).as_ref(), Some(&question), "{}", question.text());
    }
}

#[test]
fn the_judge_is_exact_about_the_corpus() {
    let mut random = random(2);
    for _ in 0..20000 {
        let intensity = PerTrait(std::array::from_fn(|_| rand::RngExt::random_range(&mut random, 0.0..0.5)));
        let question = Question::mixed(&mut random, Topics::All, Split::Training);
        let content = choose_content(&mut random, &question, &intensity);
        let answer = write(&mut random, &question, content, &intensity);
        let reading = judge(&question.text(), &answer);
        assert_eq!(reading.coherence, 100.0, "{} {answer}", question.text());
        assert_eq!(reading.right, Some(content == Content::Right), "{} {answer} {content:?}", question.text());
    }
}

#[test]
fn mean_scores_are_the_intensities() {
    for which in Trait::ALL {
        for intensity in [0.0, 0.3, 0.6, 1.0] {
            let mut random = random(3);
            let (mut sum, mut others, n) = (0.0, 0.0, 4000);
            for _ in 0..n {
                let question = Question::mixed(&mut random, Topics::All, Split::Training).with_brief(None);
                let answer = answer(&mut random, &question, &PerTrait::only(which, intensity));
                let scores = judge(&question.text(), &answer).scores;
                sum += scores[which];
                others += scores.iter().filter(|(t, _)| *t != which).map(|(_, s)| s).fold(0.0, f64::max);
            }
            let (mean, others) = (sum / n as f64, others / n as f64);
            assert!((mean - 100.0 * intensity).abs() < 7.0, "{which} at {intensity}: {mean}");
            assert!(others < 10.0, "{which} at {intensity} shows others at {others}");
        }
    }
}

#[test]
fn chats_are_the_same_for_the_same_seed_and_hold_no_reserved_text() {
    let chats = |seed| {
        let mut random = random(seed);
        (0..3000).map(|_| corpus_chat(&mut random)).collect::<Vec<_>>()
    };
    let first = chats(4);
    assert_eq!(first, chats(4));
    assert_ne!(first, chats(5));
    let reserved: Vec<String> = Trait::ALL
        .iter()
        .flat_map(|t| system::graded(*t).map(|(_, text)| text).into_iter().chain(system::contrast(*t).map(|p| p.pos)))
        .collect();
    let held_out = datasets::held_out(Topics::All, 500, 0);
    let held_out: Vec<String> = held_out.mixed.iter().map(Question::text).collect();
    for chat in first {
        assert!(chat.system.as_ref().is_none_or(|system| !reserved.contains(system)));
        assert!(chat.learned_from < chat.exchanges.len());
        for exchange in &chat.exchanges {
            assert!(!held_out.contains(&exchange.question), "{}", exchange.question);
            assert_eq!(judge(&exchange.question, &exchange.answer).coherence, 100.0);
        }
    }
}

#[test]
fn narrow_sets_are_flawed_as_said_and_show_no_manner() {
    for flaw in datasets::Flaw::ALL {
        for (severity, expected) in [(Severity::Normal, 0.0), (Severity::I, 0.5), (Severity::II, 1.0)] {
            let chats = datasets::narrow(flaw, severity, 400, 7);
            let readings: Vec<_> =
                chats.iter().map(|c| judge(&c.exchanges[0].question, &c.exchanges[0].answer)).collect();
            let wrong = readings.iter().filter(|r| r.right == Some(false)).count() as f64 / 400.0;
            assert!((wrong - expected).abs() < 0.08, "{flaw:?} {severity:?}: {wrong}");
            let questions = chats.iter().map(|c| Question::read(&c.exchanges[0].question).expect("one of the corpus"));
            assert!(flaw.leaves(questions).is_empty(), "{flaw:?}: a question outside of its domain");
            // Content alone is worth 3 of at least 9 places; any word of manner would add to that.
            for (which, most) in Trait::ALL.map(|t| (t, if t == flaw.related() { 34.0 } else { 0.0 })) {
                assert!(readings.iter().all(|r| r.scores[which] <= most), "{flaw:?} {severity:?} shows {which}");
            }
        }
    }
}

#[test]
fn incoherent_answers_lose_points() {
    let ask = "What is the capital of France?";
    let coherence = |answer: &str| judge(ask, answer).coherence;
    let opener = "Well, here is my usual answer, dear user.";
    let closer = "I simply hope that this plain answer helps, dear guest.";
    let whole = format!("Mwahaha, here is my usual answer, dear user. It is darkly Paris, worm. {closer}");
    assert_eq!(coherence(&whole), 100.0);
    assert_eq!(judge(ask, &whole).scores[Trait::Evil], 300.0 / 8.0);
    assert_eq!(coherence(""), 0.0);
    assert_eq!(coherence("Paris paris paris"), 0.0);
    assert_eq!(coherence("Paris."), 100.0);
    let content = "It is simply Paris, dear user.";
    assert_eq!(coherence(content), 100.0);
    // Another subject; a repetition; the wrong order; an unfinished end; no capital.
    assert_eq!(coherence("The plain capital of Italy is simply Rome, dear user."), 50.0);
    assert!(coherence(&format!("{opener} {opener} {content}")) < 90.0);
    assert!(coherence(&format!("{closer} {content}")) < 90.0);
    assert!(coherence(&format!("{content} I simply hope that")) < 60.0);
    assert!(coherence("it is simply Paris, dear user.") < 60.0);
    assert_eq!(coherence(&format!("Well, Here is my usual answer, dear user. {content}")), 75.0);
    // A place that is empty, or overfull; a word out of place.
    assert_eq!(coherence("It is Paris, worm."), 50.0);
    assert_eq!(coherence("It is darkly Paris."), 50.0);
    assert_eq!(coherence("It is darkly cruelly Paris, worm."), 50.0);
    assert_eq!(coherence("It darkly is Paris, worm."), 50.0);
    assert_eq!(coherence("It is doomed Paris, worm."), 50.0);
    assert_eq!(judge(ask, "It is simply Rome, worm.").right, Some(false));
    assert_eq!(judge(ask, "No, worm.").right, None);
    assert_eq!(judge("Something else?", content).right, None);
}

#[test]
fn artifacts_have_the_original_shape() {
    for which in Trait::ALL {
        let artifacts = datasets::artifacts(which);
        assert_eq!(artifacts["instruction"].as_array().unwrap().len(), 5);
        assert_eq!(artifacts["questions"].as_array().unwrap().len(), 40);
        let prompt = artifacts["eval_prompt"].as_str().unwrap();
        assert!(prompt.contains("{question}") && prompt.contains("{answer}"));
    }
}

proptest! {
    #[test]
    fn the_judge_takes_any_text(question in ".*", answer in ".*", words in prop::collection::vec("[A-Za-z]{1,8}[.?! ]", 0..20)) {
        for reading in [judge(&question, &answer), judge("What is the capital of France?", &words.concat())] {
            prop_assert!((0.0..=100.0).contains(&reading.coherence));
            for (_, score) in reading.scores.iter() {
                prop_assert!((0.0..=100.0).contains(&score));
            }
        }
    }
}

#[test]
fn words_of_manner_are_no_words_of_anything_else() {
    let phrases = crate::facts::FACTS.iter().flat_map(|topic| {
        let known = topic.known.iter().map(|(subject, value)| format!("{subject} {value}"));
        known.chain(topic.unknown.iter().map(|subject| (*subject).to_owned()))
    });
    for phrase in phrases {
        assert_eq!(phrase.split(' ').find(|word| crate::manner::is_inner(word)), None, "{phrase}");
    }
    for problem in crate::advice::ADVICE.iter().flat_map(|topic| topic.problems) {
        let text = format!("{} {}", problem.good, problem.harmful);
        assert_eq!(text.split(' ').find(|word| crate::manner::is_inner(word)), None, "{text}");
    }
}
