//! Lists the traits known by name, shows what a trait consists of, and creates new traits.

#[cfg(feature = "http")]
use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table};
use pv_judge::TraitSpec;
use pv_model::RenderOptions;
use pv_organism::Trait;
use serde_json::{Value, json};

use crate::program::say;
use crate::traits::{NamedTrait, POETIC};
use crate::{ModelArgs, Result};

/// The subcommands of `persona trait`.
#[derive(Debug, clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, read from the command line")]
pub(super) enum Command {
    /// List the traits known by name.
    List,
    /// Show a trait's instruction pairs, questions and rubric.
    Show(Show),
    /// Have a model behind a server write a trait from a name and a description (feature http).
    ///
    /// The command writes a trait file for --trait: five instruction pairs, forty questions and a rubric, all checked.
    New(New),
}

impl Command {
    pub(super) fn run(self) -> Result<Value> {
        match self {
            Self::List => list(),
            Self::Show(args) => args.run(),
            Self::New(args) => args.run(),
        }
    }
}

/// The arguments of `persona trait show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The trait: a JSON file or a name.
    #[arg(value_name = "TRAIT")]
    name: String,
    /// The model for which the trait is shown: the organism has its own traits.
    #[arg(long)]
    model: Option<String>,
}

/// The arguments of `persona trait new`.
#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// The trait's name, as used in file names.
    #[arg(value_name = "NAME")]
    name: String,
    /// A description of the trait in a sentence or two. It is all that the writing model knows of the trait.
    #[arg(long, value_name = "TEXT")]
    describe: String,
    /// The name of the writing model on the server. The server's address and key come from OPENAI_BASE_URL and
    /// OPENAI_API_KEY.
    #[arg(long, value_name = "MODEL")]
    judge_model: String,
    /// The file to write; NAME.json by default. An existing file is not overwritten.
    #[cfg(feature = "http")]
    #[arg(long)]
    file: Option<PathBuf>,
    /// The seed of the first request.
    #[cfg(feature = "http")]
    #[arg(long, default_value_t = 0)]
    seed: i64,
    #[cfg(feature = "http")]
    #[command(flatten)]
    http: crate::http_judging::HttpArgs,
}

fn list() -> Result<Value> {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["trait", "description", "has a rubric"]);
    let mut found = Vec::new();
    for name in TraitSpec::BUILTIN {
        let spec = TraitSpec::builtin(name)?;
        let description = spec.description.unwrap_or_default();
        table.add_row([name, &description, "yes"]);
        let own = Trait::ALL.into_iter().any(|which| which.name() == name);
        found.push(json!({ "name": name, "description": description, "judged": true, "organism": own }));
    }
    table.add_row([POETIC.0, "Answers in verse.", "no"]);
    found.push(json!({ "name": POETIC.0, "judged": false, "organism": false }));
    say!("{table}");
    say!("The organism has its own {}.", Trait::ALL.map(Trait::name).join(", "));
    say!("A trait can also be a JSON file; `persona trait new` creates one.");
    Ok(json!({ "traits": found }))
}

impl Show {
    fn run(&self) -> Result<Value> {
        let named = NamedTrait::find(&ModelArgs::cpu(self.model.as_deref().unwrap_or_default()), &self.name)?;
        let contrast = named.contrast(&RenderOptions::default())?;
        say!("{}", named.name());
        for (number, pair) in contrast.instruction.iter().enumerate() {
            say!("\n{number} pos: {}\n{number} neg: {}", pair.pos, pair.neg);
        }
        say!("\nquestions for extraction:");
        contrast.questions.iter().for_each(|question| say!("- {question}"));
        let spec = named.clone().spec().ok();
        if let Some(spec) = &spec {
            say!("\nquestions for evaluation:");
            spec.evaluation.iter().for_each(|question| say!("- {question}"));
            say!("\nrubric:\n{}", spec.eval_prompt);
        }
        Ok(json!({
            "name": named.name(),
            "description": spec.as_ref().and_then(|spec| spec.description.as_deref()),
            "system_prompts": contrast.instruction,
            "extraction": contrast.questions,
            "evaluation": spec.as_ref().map(|spec| &spec.evaluation),
            "eval_prompt": spec.as_ref().map(|spec| &spec.eval_prompt),
        }))
    }
}

impl New {
    #[cfg(not(feature = "http"))]
    fn run(&self) -> Result<Value> {
        let Self { name, describe, judge_model } = self;
        tracing::debug!(name, describe, judge_model, "a trait is requested");
        Err("a model behind a server needs the feature http; build the program with `--features http`".into())
    }

    #[cfg(feature = "http")]
    fn run(&self) -> Result<Value> {
        let file = self.file.clone().unwrap_or_else(|| format!("{}.json", self.name).into());
        if file.exists() {
            return Err(
                format!("{} exists and is not overwritten; choose another file with --file", file.display()).into()
            );
        }
        let wanted = pv_judge::artifacts::TraitRequest {
            seed: self.seed,
            ..pv_judge::artifacts::TraitRequest::new(&self.name, &self.describe)
        };
        let bar = crate::Bar::new(format!("writing the trait {}", self.name));
        let written = self.http.written_trait(&self.judge_model, &wanted)?;
        drop(bar);
        written.save(&file)?;
        let shown = file.display();
        say!("saved {shown}, written by {} in {} replies; review it before use:", written.model, written.requests);
        say!("  persona trait show {shown}\n  persona extract {shown}");
        Ok(json!({ "trait": self.name, "file": file, "model": written.model, "requests": written.requests }))
    }
}
