//! First commands to try.

use serde_json::{Value, json};

use crate::program::say;

/// Commands to copy, each with a description. All run on the model organism; the later ones take minutes.
pub(super) const STEPS: [(&str, &str); 10] = [
    ("persona steer", "extract a direction, steer along it, compare the texts"),
    ("persona chat --trait optimism --coef 1", "talk to the steered model"),
    ("persona monitor chat", "monitor a trait while a model answers, with alarms"),
    ("persona extract evil --rollouts 2", "rollouts, judge, filter, vector and its uncertainty"),
    ("persona sweep --trait evil --halving 5", "find the layer and the coefficient that steer best"),
    ("persona train --trait evil --steps 20", "finetune on data that shows a trait"),
    ("persona eval --trait evil --rollouts 1", "measure a model's traits"),
    ("persona screen --trait evil --chats 40", "rank data sets by their predicted effect on a model"),
    ("persona trait list", "list the built-in traits"),
    ("persona model info organism", "show a model's architecture"),
];

/// Prints them.
pub(super) fn show() -> Value {
    say!("persona: find, measure and steer a language model's character traits (persona vectors, arXiv 2507.21509)\n");
    say!("First commands, on the model organism, a small chat model with known traits that is part of this program:\n");
    let width = STEPS.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    for (command, what) in STEPS {
        say!("  {command:width$}   {what}");
    }
    say!("\nFor another model, add --model FOLDER, or --model org/name from the Hugging Face cache.");
    say!("All commands: persona --help. All switches of a command: persona COMMAND --help.");
    let steps = STEPS.map(|(command, what)| json!({ "command": command, "what": what }));
    json!({ "try": steps })
}
