//! The generation of a run's missing rollouts, with their activations.

use pv_model::{CausalLm, GenerateOptions, Message, Request};

use crate::Result;
use crate::rollout::means::Shared;
use crate::rollout::{Plan, Record, RolloutMeans};

/// Generates some rollouts of a plan, and passes each to the callback when it finishes.
pub(super) fn generate_part(
    model: &CausalLm,
    plan: &Plan,
    part: &[usize],
    mut keep: impl FnMut(usize, Record, RolloutMeans) -> Result<()>,
) -> Result<()> {
    let mut prompts: Vec<String> = Vec::new();
    let mut requests: Vec<Request> = Vec::new();
    let of_prompt = |index: usize| index / plan.options.per_prompt;
    for group in part.chunk_by(|&a, &b| of_prompt(a) == of_prompt(b)) {
        let place = plan.place(group[0]);
        let (system, question) = (plan.system(place).unwrap_or_default(), plan.question(place).unwrap_or_default());
        let messages = [Message::system(system), Message::user(question)];
        let rendered = model.chat_template()?.render(&messages, &plan.options.render.as_prompt())?.text;
        let seeds = group.iter().map(|&index| plan.seed(plan.place(index))).collect();
        requests.push(Request { prompt: model.tokenizer()?.encode_rendered(&rendered)?, seeds });
        prompts.push(rendered);
    }
    let prompt_of: Vec<usize> =
        requests.iter().enumerate().flat_map(|(i, request)| request.seeds.iter().map(move |_| i)).collect();
    let options = GenerateOptions {
        max_new_tokens: plan.options.max_new_tokens,
        sampling: plan.options.sampling.clone(),
        cache: plan.options.cache,
        batch_size: plan.options.batch_size,
        // No last bit of a prompt's activations may depend on the other prompts.
        prefill_tokens: 0,
        feed_last_token: true,
        ..GenerateOptions::default()
    };
    let recorder = Shared::new();
    model.generate_each(&requests, &options, &mut recorder.clone(), |sequence, generation| {
        let means = RolloutMeans::of(&recorder.lock(), sequence, model.shape(), generation.tokens.is_empty())?;
        let index = part[sequence];
        let place = plan.place(index);
        let record = Record {
            question_id: plan.id(place),
            place,
            question: plan.question(place).unwrap_or_default().to_owned(),
            prompt: prompts[prompt_of[sequence]].clone(),
            answer: generation.text.clone(),
            tokens: generation.tokens.clone(),
            seed: Some(plan.seed(place)),
            finish: Some(generation.finish),
        };
        keep(index, record, means)
    })
}
