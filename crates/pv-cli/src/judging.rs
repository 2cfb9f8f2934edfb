//! The judge that scores answers.

use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches, ValueEnum};
use pv_judge::{Judge, LocalJudge, TraitSpec};
use pv_model::{CausalLm, RenderOptions};
use serde_json::Value;

#[cfg(feature = "http")]
use crate::folder::make;
#[cfg(feature = "http")]
use crate::http_judging::HttpArgs;
use crate::organism::ExactJudge;
use crate::proxies::{Proxy, ProxyJudge};
use crate::rendering::variable;
use crate::{Bar, ModelArgs, Result};

/// The judge that scores answers. A switch that does not apply to the chosen kind of judge is a command-line error.
#[derive(Clone, Debug, Default)]
pub struct JudgeArgs(Switches);

#[derive(clap::Args, Clone, Debug, Default)]
struct Switches {
    /// The kind of judge; by default the exact judge for the organism, otherwise the model itself.
    #[arg(long)]
    judge: Option<JudgeKind>,
    /// The judging model: a folder or name for --judge local (by default the model itself), or a name on the server for
    /// --judge http. The server's address and key come from OPENAI_BASE_URL and OPENAI_API_KEY.
    #[arg(long, value_name = "MODEL")]
    judge_model: Option<String>,
    /// For --judge local: the name of the judging model's chat template. A judge that is another model than the
    /// measured one uses only --now of --template, --template-var and --now; the model itself uses all three.
    #[arg(long, value_name = "NAME")]
    judge_template: Option<String>,
    /// For --judge local: a variable of the judging model's chat template, such as enable_thinking=false. The value is
    /// JSON. May be given several times.
    #[arg(long = "judge-template-var", value_name = "KEY=JSON", value_parser = variable)]
    judge_template_vars: Vec<(String, Value)>,
    #[cfg(feature = "http")]
    #[command(flatten)]
    http: HttpArgs,
}

/// A kind of judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JudgeKind {
    /// The organism's own judge, which knows the true scores.
    Exact,
    /// A model on this machine.
    Local,
    /// A model behind an OpenAI-compatible server (feature http).
    Http,
    /// The tone of the words instead of the trait, for models too small to judge: optimism, impoliteness and evil only.
    Tone,
    /// How much likelier the unsteered model finds the answer under eliciting than under suppressing system prompts,
    /// for models too small to judge.
    Likelihood,
}

impl JudgeKind {
    /// The kinds of judges that the named switch applies to.
    fn users(switch: &str) -> &'static [Self] {
        match switch {
            "judge-model" => &[Self::Local, Self::Http],
            "judge-template" | "judge-template-var" => &[Self::Local],
            _ => &[Self::Http],
        }
    }

    /// The name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl Switches {
    /// Refuses switches that do not apply to the chosen kind of judge, and an HTTP judge without a model.
    fn check(&self, given: &[String]) -> Result<(), clap::Error> {
        let wrong = |text: String| Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        for switch in given {
            let users = JudgeKind::users(switch);
            let choices: Vec<String> = users.iter().map(|kind| format!("--judge {}", kind.name())).collect();
            let choices = choices.join(" or ");
            match self.judge {
                Some(kind) if users.contains(&kind) => {}
                Some(kind) => {
                    return wrong(format!("--{switch} is for {choices}, and not for --judge {}", kind.name()));
                }
                None => return wrong(format!("--{switch} needs {choices}")),
            }
        }
        if self.judge == Some(JudgeKind::Http) && self.judge_model.is_none() {
            return wrong("--judge http needs --judge-model NAME, the model's name on the server".to_owned());
        }
        Ok(())
    }
}

/// The names of the `judge-…` switches given on the command line.
fn given(matches: &ArgMatches) -> Vec<String> {
    let command = <Switches as clap::Args>::augment_args(Command::new(""));
    let given = |arg: &&clap::Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let names = command.get_arguments().filter(given).filter_map(|arg| arg.get_long());
    names.filter(|name| name.starts_with("judge-")).map(str::to_owned).collect()
}

impl FromArgMatches for JudgeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let switches = Switches::from_arg_matches(matches)?;
        switches.check(&given(matches))?;
        Ok(Self(switches))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for JudgeArgs {
    fn augment_args(command: Command) -> Command {
        Switches::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Switches::augment_args_for_update(command)
    }
}

impl JudgeArgs {
    /// Whether a judge was requested.
    pub fn is_given(&self) -> bool {
        self.0.judge.is_some()
    }

    /// The judge of a model's answers. Its prompts are rendered with these options. An HTTP judge's replies are cached
    /// in `folder`, so that a rerun is free.
    ///
    /// # Errors
    /// A judging model that cannot be loaded or does not support the options; an HTTP judge without an address or
    /// without the feature `http`.
    #[cfg_attr(not(feature = "http"), expect(unused_variables, reason = "only replies of a server are cached"))]
    pub fn judge<'a>(
        &self,
        args: &ModelArgs,
        model: &'a CausalLm,
        render: &RenderOptions,
        folder: &Path,
    ) -> Result<Box<dyn Judge + 'a>> {
        let Switches { judge, judge_model, .. } = &self.0;
        let default = if args.is_organism() { JudgeKind::Exact } else { JudgeKind::Local };
        Ok(match (judge.unwrap_or(default), judge_model) {
            (JudgeKind::Exact, _) => Box::new(ExactJudge),
            (kind @ (JudgeKind::Tone | JudgeKind::Likelihood), _) => {
                let proxy = if kind == JudgeKind::Tone { Proxy::Tone } else { Proxy::Likelihood };
                let traits = [TraitSpec::builtin("optimism")?, TraitSpec::builtin("impoliteness")?];
                let questions = traits.map(|spec| spec.extraction).concat();
                let _bar = Bar::new("measuring ordinary answers");
                Box::new(ProxyJudge::new(model, proxy, &questions, render)?)
            }
            (JudgeKind::Local, None) => Box::new(LocalJudge::rendered(model, &self.template(render))?),
            (JudgeKind::Local, Some(other)) => {
                Box::new(LocalJudge::rendered(args.of(other).load()?, &self.template(render))?)
            }
            #[cfg(not(feature = "http"))]
            (JudgeKind::Http, _) => {
                return Err(
                    "a judge behind a server needs the feature http; build the program with `--features http`".into()
                );
            }
            #[cfg(feature = "http")]
            (JudgeKind::Http, None) => return Err("an HTTP judge needs --judge-model".into()),
            #[cfg(feature = "http")]
            (JudgeKind::Http, Some(name)) => {
                make(folder)?;
                Box::new(self.0.http.judge(name, folder.join("judge_cache.jsonl"))?)
            }
        })
    }

    /// How a local judge's prompts are rendered. Templates and variables are specific to a model: those of the measured
    /// model are used if it judges itself. The date applies to every model.
    fn template(&self, render: &RenderOptions) -> RenderOptions {
        let mut options = match self.0.judge_model {
            None => render.clone(),
            Some(_) => RenderOptions { now: render.now, ..RenderOptions::default() },
        };
        if let Some(name) = &self.0.judge_template {
            options.template_name = Some(name.clone());
        }
        options.variables.extend(self.0.judge_template_vars.iter().cloned());
        options
    }
}

#[cfg(test)]
mod tests;
