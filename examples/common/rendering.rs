//! How prompts are rendered by the model's chat template.

use std::str::FromStr;

use pv_model::{RenderOptions, SystemText};
use serde_json::{Value, json};

/// How prompts are rendered.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RenderArgs {
    /// Which of the model's chat templates, where it has several.
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
    /// A variable for the chat template, such as enable_thinking=false; the value is JSON, or text as it stands. May be
    /// given several times.
    #[arg(long, value_name = "KEY=JSON")]
    pub template_var: Vec<Variable>,
    /// The date for chat templates that ask for it, as 2025-07-29 or 2025-07-29T12:00:00. Results depend on it, so that
    /// there is no default.
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub now: Option<String>,
    /// Put system prompts in front of the first user message, for chat templates that refuse the system role.
    #[arg(long)]
    pub system_in_user: bool,
}

/// A variable's name and value.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    name: String,
    value: Value,
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("a variable is KEY=JSON, such as enable_thinking=false")?;
        if name.is_empty() {
            return Err("a variable has a name".to_owned());
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok(Self { name: name.to_owned(), value })
    }
}

fn date(text: &str) -> Result<String, String> {
    let known = serde_json::from_value::<RenderOptions>(json!({ "now": text }));
    known.map(|_| text.to_owned()).map_err(|_| "it is no date such as 2025-07-29 or 2025-07-29T12:00:00".to_owned())
}

impl RenderArgs {
    /// What all plans of a program take.
    pub fn options(&self) -> RenderOptions {
        // Only dates that can be read are there.
        let now = serde_json::from_value::<RenderOptions>(json!({ "now": self.now })).unwrap_or_default().now;
        let variables = self.template_var.iter().map(|variable| (variable.name.clone(), variable.value.clone()));
        RenderOptions {
            template_name: self.template.clone(),
            variables: variables.collect(),
            now,
            system: if self.system_in_user { SystemText::FirstUserTurn } else { SystemText::AsMessage },
            ..RenderOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        render: RenderArgs,
    }

    fn parsed(args: &[&str]) -> Result<RenderOptions, String> {
        let args = Args::try_parse_from([&["program"][..], args].concat()).map_err(|error| error.to_string())?;
        Ok(args.render.options())
    }

    #[test]
    fn switches_become_options() {
        assert!(parsed(&[]).expect("none").is_default());
        let args = ["--template-var", "enable_thinking=false", "--template-var", "who=me", "--now", "2025-07-29"];
        let found = parsed(&[&args[..], &["--system-in-user", "--template", "tool_use"]].concat()).expect("good");
        assert_eq!(found.variables["enable_thinking"], json!(false));
        assert_eq!(found.variables["who"], json!("me"));
        assert_eq!(found.template_name.as_deref(), Some("tool_use"));
        assert_eq!(found.system, SystemText::FirstUserTurn);
        assert_eq!(found.now.expect("a date").to_string(), "2025-07-29T00:00:00");
    }

    #[test]
    fn what_is_no_date_or_variable_is_refused() {
        assert!(parsed(&["--now", "today"]).expect_err("no date").contains("2025-07-29"));
        assert!(parsed(&["--template-var", "thinking"]).expect_err("no value").contains("KEY=JSON"));
        assert!(parsed(&["--template-var", "=1"]).expect_err("no name").contains("name"));
    }
}
