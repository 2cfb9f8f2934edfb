//! The main job: extracts a direction from contrastive prompts, steers with it at several coefficients, and shows the
//! texts side by side with their projections.

use comfy_table::{ContentArrangement, Table};
use pv_hooks::Hook;
use pv_model::batch::Sequence;
use pv_model::decoder::to_f32;
use pv_model::generate::{CacheType, Generation};
use pv_model::{CausalLm, GenerateOptions, Message, Request};
use pv_organism::Trait;
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::Direction;
use pv_vectors::contrast::{prompt_last, response_mean};
use pv_vectors::projection::projection;
use serde_json::{Value, json};

use crate::organism::{Judged, Means, evaluation_questions};
use crate::program::{question, say};
use crate::vectors::{TraitOfModel, TraitVectorArgs};
use crate::{Result, SAMPLING, generate};

/// The arguments of `persona steer`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    of: TraitVectorArgs,
    /// The coefficients on the raw vector.
    #[arg(long, alias = "coef", value_delimiter = ',', allow_hyphen_values = true)]
    coefs: Option<Vec<f32>>,
    /// A question to answer. May be given several times.
    #[arg(long = "question", value_parser = question)]
    questions: Vec<String>,
    /// The maximum number of tokens in an answer.
    #[arg(long, default_value_t = 48)]
    max_new_tokens: usize,
    /// Keep steered values out of the KV cache, so that their effect does not accumulate over an answer.
    #[arg(long)]
    clean_cache: bool,
    /// The type in which keys and values are cached: compute (the compute type), or f16, which takes half the memory of f32 and
    /// rounds them.
    #[arg(long, value_name = "TYPE", default_value_t)]
    kv_cache: CacheType,
    /// The seed of the first answer.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const QUESTIONS: [&str; 3] =
    ["What happens when it rains?", "How do I keep my kitchen clean?", "Why do people like walking in the forest?"];
/// The number of answers printed side by side.
const SHOWN: usize = 3;

/// The answers at one coefficient.
struct Column {
    coefficient: f32,
    answers: Vec<Generation>,
    projections: Vec<Option<f64>>,
}

impl Column {
    /// The mean projection over the answers that have tokens.
    fn mean(&self) -> f64 {
        let known: Vec<f64> = self.projections.iter().copied().flatten().collect();
        known.iter().sum::<f64>() / known.len() as f64
    }

    /// The exact judge's means over the answers to the organism's questions.
    fn judged(&self, questions: &[String]) -> Means {
        let judged = questions.iter().zip(&self.answers).map(|(q, answer)| Judged::new(q, answer));
        Means::over(&judged.collect::<Vec<_>>())
    }

    fn to_json(&self, questions: &[String], judged: Option<Trait>) -> Value {
        let answers = questions.iter().zip(&self.answers).zip(&self.projections);
        let answer = |((question, answer), projection): ((&String, &Generation), &Option<f64>)| json!({ "question": question, "text": answer.text, "projection": projection });
        let means = judged.map(|which| (which, self.judged(questions)));
        json!({
            "coefficient": self.coefficient,
            "mean_projection": self.mean(),
            "expression": means.as_ref().map(|(which, means)| means.scores[*which]),
            "coherence": means.as_ref().map(|(_, means)| means.coherence),
            "answers": answers.map(answer).collect::<Vec<_>>(),
        })
    }
}

pub(super) fn run(args: &Args) -> Result<Value> {
    let loaded = args.of.load()?;
    let vector = args.of.vector(&loaded, args.max_new_tokens, args.seed)?;
    let TraitOfModel { named, render, model, .. } = loaded;
    let judged = named.organisms();
    let direction = vector.direction(args.of.layer(&model))?;
    let name = &vector.provenance().trait_name;
    say!("{name} on {} at {}, ‖v‖ = {:.2}\n", model.name(), direction.layer, direction.norm());

    let questions: Vec<String> = match (args.questions.is_empty(), judged) {
        (false, _) => args.questions.clone(),
        (true, Some(which)) => evaluation_questions(which),
        (true, None) => QUESTIONS.map(String::from).to_vec(),
    };
    let prompts =
        questions.iter().map(|q| model.prompt_with(&[Message::user(q)], &render)).collect::<Result<Vec<_>, _>>()?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: SAMPLING,
        clean_cache: args.clean_cache,
        cache: args.kv_cache,
        ..GenerateOptions::default()
    };
    let mut columns = Vec::new();
    let organism = args.of.model.is_organism();
    let usual = if organism { [-1.0, 0.0, 1.0, 1.4] } else { [-2.0, 0.0, 1.0, 2.0] };
    let coefficients = args.coefs.clone().unwrap_or_else(|| usual.to_vec());
    for coefficient in coefficients {
        let mut steerer = Steerer::new().add(&direction, Coefficient::Raw(coefficient), Positions::Response)?;
        let answers = answer(&model, &prompts, &options, args.seed, &mut steerer)?;
        let projections = projections(&model, &direction, &prompts, &answers)?;
        columns.push(Column { coefficient, answers, projections });
    }

    let mut texts = Table::new();
    texts.set_content_arrangement(ContentArrangement::Dynamic);
    if !texts.is_tty() {
        texts.set_width(150);
    }
    texts.set_header(columns.iter().map(|column| format!("{name} {:+}", column.coefficient)));
    for (row, question) in questions.iter().enumerate().take(SHOWN.max(args.questions.len())) {
        let before = prompt_last(&model, &[&prompts[row]], direction.layer)?;
        let before = projection(&to_f32(before)?, &direction).unwrap_or(f64::NAN);
        say!("{question}  (projection before the first token: {before:+.2})");
        texts.add_row(columns.iter().map(|column| column.answers[row].text.trim().to_owned()));
    }
    say!("{texts}\n");

    let mut table = Table::new();
    let mut header = vec!["coefficient".to_owned(), "mean projection".to_owned()];
    if judged.is_some() {
        header.extend([format!("{name}, 0 to 100"), "coherence, 0 to 100".to_owned()]);
    }
    table.set_header(header);
    for column in &columns {
        let mut row = vec![format!("{:+}", column.coefficient), format!("{:+.2}", column.mean())];
        if let Some(which) = judged {
            let means = column.judged(&questions);
            row.extend([format!("{:.0}", means.scores[which]), format!("{:.0}", means.coherence)]);
        }
        table.add_row(row);
    }
    say!(
        "Means over all {} answers: projections measured with the unsteered model (activation units){}:\n{table}",
        questions.len(),
        if judged.is_some() { ", and the exact judge's scores" } else { "" },
    );
    Ok(json!({
        "trait": name,
        "model": model.name(),
        "layer": direction.layer.index(),
        "norm": direction.norm(),
        "columns": columns.iter().map(|column| column.to_json(&questions, judged)).collect::<Vec<_>>(),
    }))
}

fn answer(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    seed: u64,
    hook: &mut impl Hook,
) -> Result<Vec<Generation>> {
    let requests: Vec<Request> = prompts.iter().map(|prompt| Request::new(prompt.clone(), seed)).collect();
    generate(model, &requests, options, hook)
}

/// The projection of each answer's mean activation under the unsteered model; `None` for an answer without tokens.
fn projections(
    model: &CausalLm,
    direction: &Direction,
    prompts: &[Vec<u32>],
    answers: &[Generation],
) -> Result<Vec<Option<f64>>> {
    let mut projections = Vec::new();
    for (prompt, answer) in prompts.iter().zip(answers) {
        if answer.tokens.is_empty() {
            projections.push(None);
            continue;
        }
        let sequence = Sequence { prompt, response: &answer.tokens, rest: &[] };
        let mean = response_mean(model, &[sequence], direction.layer)?;
        projections.push(projection(&to_f32(mean)?, direction));
    }
    Ok(projections)
}
