//! The main job: extracts a direction from contrastive prompts, steers with it at several strengths, and shows the texts
//! side by side with their projections.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::process::ExitCode;

use clap::Parser;
use comfy_table::{ContentArrangement, Table};
use pv_examples::organism::{Judged, Means, evaluation_questions};
use pv_examples::program::question;
use pv_examples::vectors::VectorArgs;
use pv_examples::{ModelArgs, RenderArgs, Result, SAMPLING, TraitArgs, generate, run};
use pv_hooks::Hook;
use pv_model::{CausalLm, GenerateOptions, Generation, Message, Request, Sequence, to_f32};
use pv_steer::{Coefficient, Positions, Steerer};
use pv_vectors::{Direction, projection, prompt_last, response_mean};

/// Extracts a trait's direction, steers with it at several strengths, and shows texts and projections.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    render: RenderArgs,
    #[command(flatten)]
    contrast: TraitArgs,
    #[command(flatten)]
    vector: VectorArgs,
    /// Coefficients on the raw vector.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    coef: Option<Vec<f32>>,
    /// Questions to answer; may be given several times.
    #[arg(long = "question", value_parser = question)]
    questions: Vec<String>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 48)]
    max_new_tokens: usize,
    /// Keep what steering changes out of the KV cache, so that it does not add up over an answer.
    #[arg(long)]
    clean_cache: bool,
    /// The seed of the first answer.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const QUESTIONS: [&str; 3] =
    ["What happens when it rains?", "How do I keep my kitchen clean?", "Why do people like walking in the forest?"];
/// The number of answers that are printed side by side.
const SHOWN: usize = 3;

/// The answers at one coefficient.
struct Column {
    coefficient: f32,
    answers: Vec<Generation>,
    projections: Vec<Option<f64>>,
}

fn main() -> ExitCode {
    run(program)
}

fn program(args: Args) -> Result {
    let named = args.contrast.read(&args.model)?;
    let judged = named.organisms();
    let render = args.render.options()?;
    let model = args.model.load()?;
    let vector = args.vector.read(&args.model, &model, &named.contrast(&render), args.max_new_tokens, args.seed)?;
    let direction = vector.direction(args.vector.layer(&args.model, &model))?;
    let name = &vector.provenance().trait_name;
    println!("{name} on {} at {}, ‖v‖ = {:.2}\n", model.name(), direction.layer, direction.norm());

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
        ..GenerateOptions::default()
    };
    let mut columns = Vec::new();
    let organism = args.model.is_organism();
    let coefficients =
        args.coef.unwrap_or_else(|| if organism { vec![-1.0, 0.0, 1.0, 1.4] } else { vec![-2.0, 0.0, 1.0, 2.0] });
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
        println!("{question}  (projection before the first token: {before:+.2})");
        texts.add_row(columns.iter().map(|column| column.answers[row].text.trim().to_owned()));
    }
    println!("{texts}\n");

    let mut table = Table::new();
    let mut header = vec!["coefficient".to_owned(), "mean projection".to_owned()];
    if judged.is_some() {
        header.extend([format!("{name}, 0 to 100"), "coherence, 0 to 100".to_owned()]);
    }
    table.set_header(header);
    for column in &columns {
        let known: Vec<f64> = column.projections.iter().copied().flatten().collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let mut row = vec![format!("{:+}", column.coefficient), format!("{mean:+.2}")];
        if let Some(which) = judged {
            let judged = questions.iter().zip(&column.answers).map(|(q, answer)| Judged::new(q, answer));
            let means = Means::over(&judged.collect::<Vec<_>>());
            row.extend([format!("{:.0}", means.scores[which]), format!("{:.0}", means.coherence)]);
        }
        table.add_row(row);
    }
    println!(
        "All {} answers as the unsteered model reads them, projected on the direction (activation units){}:\n{table}",
        questions.len(),
        if judged.is_some() { ", and as the exact judge reads them" } else { "" },
    );
    Ok(())
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

/// Each answer's mean activation under the unsteered model, projected; `None` for an answer without tokens.
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
