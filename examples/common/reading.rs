//! How conversations are read from files, and how a model's template writes them, as arguments.

use pv_data::conversations::Format;
use pv_model::Unwritten;

use crate::RenderArgs;

/// How conversations are read.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ReadingArgs {
    /// The form of every row: messages, sharegpt, alpaca, prompt_completion or question_answer; by default what its keys say.
    #[arg(long)]
    pub format: Option<Format>,
    /// The roles that messages may have, separated by commas, for templates that know others than system, developer, user,
    /// assistant and tool.
    #[arg(long, value_delimiter = ',')]
    pub roles: Vec<String>,
    /// Use conversations of which the chat template leaves a message, calls of tools or tools out, instead of counting them as
    /// bad rows.
    #[arg(long)]
    pub keep_unwritten: bool,
    /// Count answers that the chat template shortens as bad rows, instead of using what it writes.
    #[arg(long)]
    pub refuse_altered: bool,
    /// How the chat template is used.
    #[command(flatten)]
    pub render: RenderArgs,
}

impl ReadingArgs {
    /// The roles, where they are given.
    pub fn roles(&self) -> Option<Vec<String>> {
        (!self.roles.is_empty()).then(|| self.roles.clone())
    }

    /// Whether a conversation is used of which the template leaves something out.
    pub fn unwritten(&self) -> Unwritten {
        if self.keep_unwritten { Unwritten::Keep } else { Unwritten::Refuse }
    }

    /// Whether an answer is used that the template shortens.
    pub fn altered(&self) -> Unwritten {
        if self.refuse_altered { Unwritten::Refuse } else { Unwritten::Keep }
    }
}
