//! Extracts a trait's vector from contrastive system prompts alone, without a judge.

use std::path::Path;

use pv_data::conversations::write_conversations;
use pv_data::{Conversation, Message};
use pv_hooks::LayerSet;
use pv_steer::sweep::AnswerPair;
use serde_json::{Value, json};

use super::Args;
use crate::Result;
use crate::folder::make;
use crate::program::say;
use crate::traits::NamedTrait;
use crate::vectors::{ContrastExtraction, FILE};

/// Extracts a trait's vector into the run folder, or loads it from there.
pub(super) fn run(args: &Args, model: &pv_model::CausalLm, named: &NamedTrait, folder: &Path) -> Result<Value> {
    make(folder)?;
    let contrast = named.contrast(&args.render.options()?)?;
    let max_new_tokens = args.max_new_tokens.unwrap_or(48);
    let extraction = ContrastExtraction { model, contrast: &contrast, max_new_tokens, seed: args.seed };
    let found = extraction.in_folder(folder)?;
    for pair in found.pairs.iter().take(1) {
        say!("{} (eliciting): {}\n", pair.question, pair.pro.trim());
        say!("{} (suppressing): {}\n", pair.question, pair.contra.trim());
    }
    say!("{:<24} {:>10} {:>16}", "layer", "‖v‖", "‖v‖ / residual");
    let mut layers = Vec::new();
    for layer in LayerSet::All.resolve(model.config().layers) {
        // Before the first block, the difference can be zero if the answers have equal tokens.
        let Ok(direction) = found.vector.direction(layer) else { continue };
        let share = direction.mean_residual_norm.map(|norm| direction.norm() / f64::from(norm));
        say!("{:<24} {:>10.2} {:>16.3}", layer.to_string(), direction.norm(), share.unwrap_or(f64::NAN));
        layers.push(json!({ "layer": layer.index(), "norm": direction.norm(), "share_of_residual": share }));
    }
    let path = folder.join(FILE);
    say!("saved {}", path.display());
    let [positive, negative] = ["positive", "negative"].map(|side| folder.join(side).with_extension("jsonl"));
    write_conversations(&positive, &conversations(&found.pairs, |pair| &pair.pro))?;
    write_conversations(&negative, &conversations(&found.pairs, |pair| &pair.contra))?;
    say!("saved an answer per question as training data in {} and {}", positive.display(), negative.display());
    let data = json!({ "positive": positive, "negative": negative });
    Ok(json!({ "trait": contrast.name, "vector": path, "layers": layers, "conversations": data }))
}

/// The questions with one side's answers, without the instructions. An answer ends after its last whole sentence, because
/// it may have been ended by the maximum number of tokens. Blank answers are omitted.
fn conversations(pairs: &[AnswerPair], answer: impl Fn(&AnswerPair) -> &String) -> Vec<Conversation> {
    let conversation = |pair: &AnswerPair| {
        let text = answer(pair).trim();
        let text = text.rfind(['.', '!', '?']).map_or(text, |end| &text[..=end]);
        let messages = [Message::user(pair.question.as_str()), Message::assistant(text)];
        (!text.is_empty()).then(|| Conversation::new(messages))
    };
    pairs.iter().filter_map(conversation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_answers_end_with_a_whole_sentence() {
        let pair = |pro: &str| AnswerPair { question: "q".to_owned(), pro: pro.to_owned(), contra: String::new() };
        let pairs = [pair(" One. Two! And thr"), pair("No end"), pair(" \n")];
        let found = conversations(&pairs, |pair| &pair.pro);
        let answers: Vec<String> = found.iter().map(|one| one.messages[1].content.as_str().to_owned()).collect();
        assert_eq!(answers, ["One. Two!", "No end"]);
        assert!(conversations(&pairs, |pair| &pair.contra).is_empty());
    }
}
