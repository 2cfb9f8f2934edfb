//! Arguments for reading conversations from files and rendering them with a model's chat template.

use pv_data::conversations::Format;
use pv_model::chat::Unwritten;

use crate::RenderArgs;

/// How conversations are read.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ReadingArgs {
    /// The format of every row: messages, sharegpt, alpaca, prompt_completion or question_answer; by default detected
    /// from its keys.
    #[arg(long)]
    pub format: Option<Format>,
    /// The roles that messages may have, separated by commas, for templates that support other roles than system,
    /// developer, user, assistant and tool.
    #[arg(long, value_delimiter = ',')]
    pub roles: Vec<String>,
    /// Use conversations even if the chat template omits a message, tool calls or tools, instead of counting them as
    /// invalid rows.
    #[arg(long, alias = "keep-unwritten")]
    pub allow_omissions: bool,
    /// Count answers that the chat template shortens as invalid rows, instead of using the shortened text.
    #[arg(long, alias = "refuse-altered")]
    pub reject_shortened: bool,
    /// How the chat template is used.
    #[command(flatten)]
    pub render: RenderArgs,
}

impl ReadingArgs {
    /// The roles, if given.
    pub fn roles(&self) -> Option<Vec<String>> {
        (!self.roles.is_empty()).then(|| self.roles.clone())
    }

    /// Whether to use a conversation of which the template omits a part.
    pub fn unwritten(&self) -> Unwritten {
        if self.allow_omissions { Unwritten::Keep } else { Unwritten::Refuse }
    }

    /// Whether to use an answer that the template shortens.
    pub fn altered(&self) -> Unwritten {
        if self.reject_shortened { Unwritten::Refuse } else { Unwritten::Keep }
    }
}
