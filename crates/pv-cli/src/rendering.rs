//! Arguments for a model's chat template.

use pv_model::RenderOptions;
use pv_model::chat::SystemText;
use serde_json::Value;

use crate::Result;

/// How the measured model's prompts are rendered. Use the same settings in every step of a study.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RenderArgs {
    /// The name of the chat template, if the model has several.
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// A variable of the chat template, such as enable_thinking=false. The value is JSON: text needs double quotes. May
    /// be given several times.
    #[arg(long = "template-var", value_name = "KEY=JSON", value_parser = variable)]
    pub template_vars: Vec<(String, Value)>,
    /// The date for a chat template that asks for it: 2025-07-29 or 2025-07-29T12:00:00.
    #[arg(long, value_name = "ISO DATE")]
    pub now: Option<String>,
    /// Prepend the system prompt to the first user message, for a chat template that does not support the system role.
    #[arg(long)]
    pub system_in_user: bool,
}

impl RenderArgs {
    /// The options.
    ///
    /// # Errors
    /// An invalid date.
    pub fn options(&self) -> Result<RenderOptions> {
        // Parsed as in a plan file.
        let dated: RenderOptions = serde_json::from_value(serde_json::json!({ "now": self.now }))
            .map_err(|error| format!("--now {}: {error}", self.now.as_deref().unwrap_or_default()))?;
        Ok(RenderOptions {
            template_name: self.template.clone(),
            variables: self.template_vars.iter().cloned().collect(),
            system: if self.system_in_user { SystemText::FirstUserTurn } else { SystemText::AsMessage },
            ..dated
        })
    }
}

/// Parses a variable `KEY=JSON`.
pub(crate) fn variable(text: &str) -> std::result::Result<(String, Value), String> {
    let (key, json) = text.split_once('=').ok_or("expected KEY=JSON")?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    let value = serde_json::from_str(json)
        .map_err(|_| format!("{json} is not JSON (true, false, a number, or text in double quotes: '{key}=\"…\"')"))?;
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        render: RenderArgs,
    }

    fn options(arguments: &[&str]) -> std::result::Result<RenderOptions, String> {
        let program = Program::try_parse_from([&["program"], arguments].concat()).map_err(|error| error.to_string())?;
        program.render.options().map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_become_options() {
        assert!(options(&[]).expect("options").is_default());
        let arguments = [
            "--template",
            "rag",
            "--template-var",
            "enable_thinking=false",
            "--template-var",
            "who=\"a=b\"",
            "--now",
            "2025-07-29",
            "--system-in-user",
        ];
        let found = options(&arguments).expect("options");
        assert_eq!(found.template_name.as_deref(), Some("rag"));
        assert_eq!(found.variables["enable_thinking"], false);
        assert_eq!(found.variables["who"], "a=b");
        assert_eq!(found.now.map(|now| now.to_string()).as_deref(), Some("2025-07-29T00:00:00"));
        assert_eq!(found.system, SystemText::FirstUserTurn);
        let saved = serde_json::to_string(&found).expect("JSON");
        assert_eq!(serde_json::from_str::<RenderOptions>(&saved).expect("options"), found);
    }

    #[test]
    fn bad_arguments_are_refused() {
        for (arguments, expected) in [
            (&["--template-var", "enable_thinking=False"][..], "False is not JSON"),
            (&["--template-var", "enable_thinking"], "expected KEY=JSON"),
            (&["--template-var", "=1"], "the key is empty"),
            (&["--now", "yesterday"], "--now yesterday"),
        ] {
            let error = options(arguments).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        }
    }
}
