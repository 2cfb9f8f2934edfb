//! The local judge, compared with full passes, with sampled replies, and with transformers.

mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device};
use pv_hooks::NoHook;
use pv_judge::judge::{Answered, Judged, Verdicts};
use pv_judge::score::Evidence;
use pv_judge::{Abstention, Error, Judge, LocalJudge, Rubric, Verdict};
use pv_model::batch::{Batch, Sequence};
use pv_model::causal_lm::ForwardOptions;
use pv_model::continuations::ScoreOptions;
use pv_model::decoder::{Decoder, Logits, to_f32};
use pv_model::{CausalLm, ChatTemplate, GenerateOptions, RenderOptions, Request, Sampling, Tokenizer};
use pv_tests::root;
use serde_json::{Map, Value, json};

/// How a tokenizer of characters writes numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    /// "85" is "8", "5", as in Llama 2 or Qwen.
    Digits,
    /// "85" is one token, as in GPT-4 or Llama 3.
    Whole,
    /// "85" is one token, "42" is two; " 8" is one, " 85" two and " 42" is " 4", "2".
    Mixed,
}

const ALL: [Numbers; 3] = [Numbers::Digits, Numbers::Whole, Numbers::Mixed];

impl Numbers {
    fn merges(self) -> Vec<[String; 2]> {
        let pair = |number: u32| [(number / 10).to_string(), (number % 10).to_string()];
        match self {
            Self::Digits => Vec::new(),
            Self::Whole => (10..100).map(pair).chain([["10".to_owned(), "0".to_owned()]]).collect(),
            Self::Mixed => {
                (50..100).map(pair).chain((0..10).map(|digit| [" ".to_owned(), digit.to_string()])).collect()
            }
        }
    }
}

const TURN: &str =
    "{% for message in messages %}<u>{{ message.content }}</u>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";

/// A tokenizer of characters with a few merges.
fn character_tokenizer(folder: &Path, merges: &[[String; 2]]) -> Tokenizer {
    let special = ["<unk>", "<u>", "</u>", "<a>"];
    let characters = (' '..='~').chain(['\n']).map(String::from);
    let merged = merges.iter().map(|[left, right]| format!("{left}{right}"));
    let tokens = special.map(str::to_owned).into_iter().chain(characters).chain(merged);
    let vocab: Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let model = json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges});
    write_tokenizer(folder, &added, &model)
}

fn write_tokenizer(folder: &Path, added: &[Value], model: &Value) -> Tokenizer {
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"}, "model": model});
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("a file");
    Tokenizer::from_folder(folder).expect("a tokenizer")
}

/// A small model of random weights with a tokenizer of its own.
fn model(name: &str, device: &Device, numbers: Numbers) -> CausalLm {
    let temporary = tempfile::tempdir().expect("a folder");
    with_tokenizer(name, device, character_tokenizer(temporary.path(), &numbers.merges()))
}

fn with_tokenizer(name: &str, device: &Device, tokenizer: Tokenizer) -> CausalLm {
    let folder = root().join("tests/golden").join(name);
    let decoder = Decoder::from_folder(&folder, device, DType::F32).expect("a model folder");
    assert!(tokenizer.vocab_size() <= decoder.config().vocab, "{name} has too few tokens");
    let template = ChatTemplate::from_source(TURN, Map::new()).expect("a template");
    CausalLm::new(decoder, Some(tokenizer), Some(template), folder)
}

fn rubrics() -> [Rubric; 2] {
    let rubric = |name, template| Rubric::new(name, template).expect("a rubric");
    [
        rubric("wit", "Q: {question}\nA: {answer}\nHow witty, 0-100?"),
        rubric("coherence", "{answer} <- {question}. Sense?"),
    ]
}

const ANSWERS: [Answered<'static>; 5] = [
    Answered { question: "Why?", answer: "Because." },
    Answered { question: "", answer: "" },
    Answered { question: "How long is a piece of string?", answer: "Twice as long as half of it, says my {question}." },
    Answered { question: "2+2", answer: "4" },
    Answered { question: "Who?", answer: "I, \u{e9}, 85 and 100" },
];

fn judge_all(judge: &impl Judge, rubrics: &[Rubric], answers: &[Answered<'_>]) -> Vec<Verdicts> {
    let mut reported = Vec::new();
    let verdicts = judge.judge(rubrics, answers, &mut |judged: Judged| {
        assert_eq!((judged.done, judged.total), (reported.len() + 1, rubrics.len() * answers.len()));
        reported.push(judged);
        ControlFlow::Continue(())
    });
    let verdicts = verdicts.expect("verdicts");
    assert_eq!(reported.len(), rubrics.len() * answers.len());
    for Judged { answer, rubric, verdict, .. } in reported {
        assert_eq!(verdicts[answer][rubric], verdict);
    }
    verdicts
}

/// The distribution of the next token, from a pass over all tokens.
struct Brute<'a> {
    model: &'a CausalLm,
    prompt: Vec<u32>,
    known: BTreeMap<Vec<u32>, Vec<f64>>,
}

impl Brute<'_> {
    fn next(&mut self, reply: &[u32]) -> &[f64] {
        let (model, prompt) = (self.model, &self.prompt);
        self.known.entry(reply.to_vec()).or_insert_with(|| {
            let batch = Batch::whole(&[Sequence { prompt, response: reply, rest: &[] }]).expect("a sequence");
            let options = ForwardOptions { stop_at: None, logits: Logits::Last };
            let logits = model.forward(&batch, options, &mut NoHook).expect("a pass").logits.expect("asked for");
            let exps: Vec<f64> = to_f32(logits).expect("values").iter().map(|&logit| f64::from(logit).exp()).collect();
            let total: f64 = exps.iter().sum();
            exps.iter().map(|exp| exp / total).collect()
        })
    }

    fn begins(&mut self, reply: &[u32]) -> f64 {
        (0..reply.len()).map(|at| self.next(&reply[..at])[reply[at] as usize].ln()).sum::<f64>().exp()
    }
}

/// Every number's tokens after a prompt's text: encoded together with it, or separately if the prompt's last token
/// would change.
fn spelled(
    model: &CausalLm,
    judge: &LocalJudge<&CausalLm>,
    rubric: &Rubric,
    answered: &Answered<'_>,
) -> BTreeMap<Vec<u32>, usize> {
    let prompt = judge.prompt(rubric, answered).expect("a prompt");
    let message = pv_model::Message::user(rubric.fill(answered));
    let text = model.chat_template().expect("one").render(&[message], &RenderOptions::prompt()).expect("a prompt").text;
    let mut spelled = BTreeMap::new();
    for number in 0..=100 {
        for space in ["", " "] {
            let encode = |text: &str| model.tokenizer().expect("one").encode_rendered(text).expect("ids");
            let whole = encode(&format!("{text}{space}{number}"));
            let after = whole.strip_prefix(prompt.as_slice()).map(<[u32]>::to_vec);
            spelled.insert(after.unwrap_or_else(|| encode(&format!("{space}{number}"))), number);
        }
    }
    assert_eq!(spelled.len(), 202);
    spelled
}

#[test]
fn distributions_equal_those_of_full_passes_and_sum_to_one() {
    for device in [Device::flex(), Device::flex().autodiff().gradient_checkpointing()] {
        for (name, numbers) in ALL.into_iter().flat_map(|numbers| [("llama", numbers), ("qwen3", numbers)]) {
            let model = model(name, &device, numbers);
            let judge = LocalJudge::new(&model).expect("a judge");
            for (rubric, answered) in rubrics().iter().zip([&ANSWERS[0], &ANSWERS[4]]) {
                let found = judge.distribution(rubric, answered).expect("a distribution");
                let spelled = spelled(&model, &judge, rubric, answered);
                let prompt = judge.prompt(rubric, answered).expect("a prompt");
                let mut brute = Brute { model: &model, prompt, known: BTreeMap::new() };
                let (mut expected, mut nothing) = (vec![0.0; 101], 0.0);
                // Every proper prefix of a number, including the empty one: the next token makes it longer or ends it.
                let beginnings: BTreeSet<Vec<u32>> =
                    spelled.keys().flat_map(|tokens| (0..=tokens.len()).map(|n| tokens[..n].to_vec())).collect();
                for beginning in &beginnings {
                    let goes_on = |next: u32| beginnings.contains(&[beginning.as_slice(), &[next]].concat());
                    let vocab = model.config().vocab as u32;
                    let begun = brute.begins(beginning);
                    let next = brute.next(beginning);
                    let ends: f64 = (0..vocab).filter(|&t| !goes_on(t)).map(|t| next[t as usize]).sum();
                    match spelled.get(beginning) {
                        Some(&number) => expected[number] += begun * ends,
                        None => nothing += begun * ends,
                    }
                }
                for (number, (ours, expected)) in found.numbers().iter().zip(&expected).enumerate() {
                    assert!(
                        (ours - expected).abs() <= 1e-6,
                        "{name} {numbers:?}: p({number}) is {ours}, not {expected}"
                    );
                }
                let total = found.numbers().iter().sum::<f64>() + nothing;
                assert!((total - 1.0).abs() <= 1e-5, "{name} {numbers:?}: all probabilities sum to {total}");
                let mass: f64 = expected.iter().sum();
                let mean = expected.iter().enumerate().map(|(k, p)| k as f64 * p).sum::<f64>() / mass;
                assert!((found.mass() - mass).abs() <= 1e-5, "{} is not {mass}", found.mass());
                let ours = found.expectation().expect("some number");
                assert!((ours - mean).abs() <= 1e-3, "{ours} is not {mean}");

                let refusals = ["REFUSAL", " REFUSAL"].map(|text| {
                    let ids = model.tokenizer().expect("one").encode_rendered(text).expect("ids");
                    brute.begins(&ids)
                });
                let refusal: f64 = refusals.iter().sum();
                assert!(refusal > 0.0 && (found.refusal() / refusal - 1.0).abs() <= 1e-3, "{refusal} {found:?}");
                println!("{name} {numbers:?}: mass {mass:.4}, expectation {mean:.2}, refusal {refusal:.1e}");
            }
        }
    }
}

/// The number at the start of a reply, as a person would read it: at most one space, then the longest run of digits that
/// is a number up to 100 without leading zeros.
fn read(reply: &str) -> Option<usize> {
    let reply = reply.strip_prefix(' ').unwrap_or(reply);
    let digits = reply.bytes().take_while(u8::is_ascii_digit).count();
    let fits =
        |n: &usize| reply[..*n].parse().ok().filter(|number: &usize| *number <= 100 && number.to_string().len() == *n);
    (1..=digits.min(3)).rev().find_map(|n| fits(&n))
}

#[test]
fn sampled_replies_follow_the_distribution() {
    assert_eq!(
        ["8", " 85%", "853", "1000", "07", "  5", "x5", "100", ""].map(read),
        [Some(8), Some(85), Some(85), Some(100), Some(0), None, None, Some(100), None]
    );
    // Digits have one spelling each in this tokenizer, so that the text determines the tokens.
    let model = model("llama", &Device::flex(), Numbers::Digits);
    let judge = LocalJudge::new(&model).expect("a judge");
    let (rubric, answered) = (&rubrics()[0], &ANSWERS[0]);
    let found = judge.distribution(rubric, answered).expect("a distribution");
    let n = 6000;
    let request = Request::rollouts(judge.prompt(rubric, answered).expect("a prompt"), n, 0);
    let options = GenerateOptions {
        max_new_tokens: 4,
        sampling: Sampling::temperature(1.0),
        stop_tokens: Some(Vec::new()),
        batch_size: 64,
        ..GenerateOptions::default()
    };
    let replies = model.generate(&[request], &options, &mut NoHook, |_| ControlFlow::Continue(())).expect("replies");
    let mut counts = vec![0.0; 101];
    for reply in &replies {
        // Token by token, so that special tokens and tokens without text are not lost.
        let piece = |&id: &u32| model.tokenizer().expect("one").decode(&[id], false).expect("a text");
        let text: String =
            reply.tokens.iter().map(|id| Some(piece(id)).filter(|t| t.len() == 1).unwrap_or("?".into())).collect();
        read(&text).into_iter().for_each(|number| counts[number] += 1.0);
    }
    let check = |what: &str, count: f64, p: f64| {
        // Five standard deviations, and one reply.
        let slack = 5.0 * (p * (1.0 - p) * n as f64).sqrt() + 1.0;
        assert!((count - p * n as f64).abs() <= slack, "{what}: {count} of {n} replies, the probability is {p}");
    };
    for (number, p) in found.numbers().iter().enumerate() {
        check(&number.to_string(), counts[number], *p);
    }
    let read: f64 = counts.iter().sum();
    check("any number", read, found.mass());
    println!("{read} of {n} replies begin with a number; the mass is {:.4}", found.mass());
    assert!(read > 50.0, "too few to compare");
}

fn assert_same(what: &str, ours: &Verdict, reference: &Verdict) {
    match (ours, reference) {
        (Verdict::Scored(a), Verdict::Scored(b)) => {
            assert!((a.value - b.value).abs() <= 1e-3, "{what}: {a:?} is not {b:?}");
            let (Evidence::Distribution { mass: a }, Evidence::Distribution { mass: b }) = (a.evidence, b.evidence)
            else {
                panic!("{what}: {a:?} {b:?}");
            };
            assert!((a - b).abs() <= 1e-5, "{what}: mass {a} is not {b}");
        }
        (
            Verdict::Abstained(Abstention::NoMass { mass: a, refusal: Some(_) }),
            Verdict::Abstained(Abstention::NoMass { mass: b, refusal: Some(_) }),
        ) => assert!((a - b).abs() <= 1e-5, "{what}: mass {a} is not {b}"),
        _ => panic!("{what}: {ours:?} is not {reference:?}"),
    }
}

#[test]
fn a_verdict_does_not_depend_on_its_neighbours() {
    let (mut scored, mut abstained) = (0, 0);
    for (name, numbers) in [("llama", Numbers::Whole), ("qwen3", Numbers::Whole), ("qwen3", Numbers::Mixed)] {
        let model = model(name, &Device::flex(), numbers);
        let judge = LocalJudge::new(&model).expect("a judge");
        let rubrics = rubrics();
        let together = judge_all(&judge, &rubrics, &ANSWERS);
        for (answer, verdicts) in ANSWERS.iter().zip(&together) {
            for (rubric, verdict) in rubrics.iter().zip(verdicts) {
                let alone = judge_all(&judge, std::slice::from_ref(rubric), std::slice::from_ref(answer));
                assert_same(&format!("{name} {numbers:?} {answer:?}"), verdict, &alone[0][0]);
                assert_eq!(alone[0][0], judge.distribution(rubric, answer).expect("a distribution").verdict());
                match verdict {
                    Verdict::Scored(_) => scored += 1,
                    Verdict::Abstained(_) => abstained += 1,
                }
            }
        }
        for (batch_size, prefill_tokens) in [(1, 1), (3, 300), (100, 100_000)] {
            let judge = judge.clone().with_options(ScoreOptions { batch_size, prefill_tokens });
            for (verdicts, reference) in judge_all(&judge, &rubrics, &ANSWERS).iter().zip(&together) {
                verdicts.iter().zip(reference).for_each(|(a, b)| assert_same(&format!("{batch_size}"), a, b));
            }
        }
    }
    println!("{scored} scores, {abstained} abstentions");
    assert!(scored >= 3 && abstained >= 3, "both should occur: {scored} scores, {abstained} abstentions");
}

#[test]
fn judging_can_be_interrupted() {
    let model = model("llama", &Device::flex(), Numbers::Whole);
    let judge = LocalJudge::new(model).expect("a judge");
    let whole = judge_all(&judge, &rubrics(), &ANSWERS);
    let mut seen = Vec::new();
    let result = judge.judge(&rubrics(), &ANSWERS, &mut |judged| {
        seen.push(judged);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(Error::Cancelled { done: 3, total: 10 })), "{result:?}");
    assert_eq!(seen.len(), 3);
    for Judged { answer, rubric, verdict, .. } in &seen {
        assert_same("before the interruption", verdict, &whole[*answer][*rubric]);
    }
}

#[test]
fn an_empty_list_is_not_an_error() {
    let judge = LocalJudge::new(model("llama", &Device::flex(), Numbers::Digits)).expect("a judge");
    assert_eq!(judge_all(&judge, &rubrics(), &[]), Vec::<Verdicts>::new());
    assert_eq!(judge_all(&judge, &[], &ANSWERS[..2]), vec![Verdicts::new(); 2]);
    assert_eq!(judge.name(), "llama, read locally");
}

#[test]
fn a_prompt_that_is_too_long_is_an_abstention() {
    let model = model("llama", &Device::flex(), Numbers::Digits);
    let limit = model.config().max_positions;
    let judge = LocalJudge::new(&model).expect("a judge");
    let rubric = Rubric::new("length", "{question}{answer}").expect("a rubric");
    let read = |answer: &str| {
        let answers = [ANSWERS[0], Answered { question: "", answer }, ANSWERS[1]];
        judge_all(&judge, std::slice::from_ref(&rubric), &answers).concat()
    };
    // Three special tokens, and eight of " REFUSAL".
    let longest = "x".repeat(limit - 11);
    let too_long = |verdict: &Verdict| matches!(verdict, Verdict::Abstained(Abstention::TooLong { .. }));
    let fitting = read(&longest);
    assert!(!fitting.iter().any(too_long), "it fits");
    let verdicts = read(&format!("{longest}x"));
    assert_eq!(verdicts[1], Verdict::Abstained(Abstention::TooLong { tokens: limit + 1, limit }));
    // The others are judged.
    assert!(!too_long(&verdicts[0]) && !too_long(&verdicts[2]));
    let too_long = format!("{longest}x");
    let alone = judge.distribution(&rubric, &Answered { question: "", answer: &too_long });
    assert!(matches!(alone, Err(Error::PromptTooLong { answer: 0, .. })));
}

#[test]
fn a_model_that_cannot_judge_is_refused() {
    let device = Device::flex();
    // Without a tokenizer and a template.
    let bare = CausalLm::from_folder(root().join("tests/golden/llama"), &device, DType::F32).expect("a model");
    assert!(matches!(LocalJudge::new(bare), Err(Error::Model(_))));
    // A vocabulary without digits.
    let temporary = tempfile::tempdir().expect("a folder");
    let words = json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": 0, "yes": 1}});
    let blind = with_tokenizer("llama", &device, write_tokenizer(temporary.path(), &[], &words));
    let error = LocalJudge::new(blind).expect_err("it has no numbers");
    assert!(matches!(&error, Error::NumbersAlike { first, second, .. } if first != second), "{error:?}");
}

#[test]
fn a_template_has_variables_and_always_opens_the_reply() {
    let temporary = tempfile::tempdir().expect("a folder");
    let tokenizer = character_tokenizer(temporary.path(), &[]);
    let folder = root().join("tests/golden/llama");
    let decoder = Decoder::from_folder(&folder, &Device::flex(), DType::F32).expect("a model folder");
    let source = format!("{TURN}{{% if think %}}hm {{% endif %}}");
    let template = ChatTemplate::from_source(source, Map::new()).expect("a template");
    let model = CausalLm::new(decoder, Some(tokenizer), Some(template), folder);
    let mut options = RenderOptions::default();
    options.variables.insert("think".into(), true.into());
    let judge = LocalJudge::rendered(&model, &options).expect("a judge");
    let prompt = judge.prompt(&rubrics()[0], &ANSWERS[3]).expect("a prompt");
    let text = model.tokenizer().expect("one").decode(&prompt, false).expect("a text");
    assert!(text.ends_with("</u><a>hm "), "{text}");
}
