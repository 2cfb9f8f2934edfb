//! Who scores the answers.

use std::path::Path;

use clap::ValueEnum;
use pv_judge::{Judge, LocalJudge, TraitSpec};
use pv_model::CausalLm;

#[cfg(feature = "http")]
use crate::folder::make;
#[cfg(feature = "http")]
use crate::http_judging::HttpArgs;
use crate::organism::ExactJudge;
use crate::proxies::{Proxy, ProxyJudge};
use crate::{ModelArgs, Result};

/// Who scores the answers.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct JudgeArgs {
    /// Who scores the answers; by default the organism's exact judge for the organism, else the model itself.
    #[arg(long)]
    pub judge: Option<JudgeKind>,
    /// The judging model: a folder or name for a local judge (the model itself by default), a name on the server for an
    /// HTTP one. Its address and key come from OPENAI_BASE_URL and OPENAI_API_KEY.
    #[arg(long)]
    pub judge_model: Option<String>,
    /// How an HTTP judge is asked.
    #[cfg(feature = "http")]
    #[command(flatten)]
    pub http: HttpArgs,
}

/// A kind of judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JudgeKind {
    /// The organism's own, which knows the truth.
    Exact,
    /// A model on this machine.
    Local,
    /// A model behind an OpenAI-compatible server (feature http).
    Http,
    /// The tone of words in the place of the trait, for models too small to judge: optimism, impoliteness and evil only.
    Tone,
    /// How much likelier the unsteered model finds the answer under eliciting than under suppressing system prompts, for
    /// models too small to judge.
    Likelihood,
}

impl JudgeArgs {
    /// The judge of a model's answers. What an HTTP judge says is kept in `folder`, so that a rerun is free.
    ///
    /// # Errors
    /// A judging model that cannot be loaded; an HTTP judge without a name or an address, or without the feature `http`.
    #[cfg_attr(not(feature = "http"), expect(unused_variables, reason = "only what a server says is kept"))]
    pub fn judge<'a>(&self, args: &ModelArgs, model: &'a CausalLm, folder: &Path) -> Result<Box<dyn Judge + 'a>> {
        let default = if args.is_organism() { JudgeKind::Exact } else { JudgeKind::Local };
        Ok(match (self.judge.unwrap_or(default), &self.judge_model) {
            (JudgeKind::Exact, _) => Box::new(ExactJudge),
            (kind @ (JudgeKind::Tone | JudgeKind::Likelihood), _) => {
                let proxy = if kind == JudgeKind::Tone { Proxy::Tone } else { Proxy::Likelihood };
                let traits = [TraitSpec::builtin("optimism")?, TraitSpec::builtin("impoliteness")?];
                Box::new(ProxyJudge::new(model, proxy, &traits.map(|spec| spec.extraction).concat())?)
            }
            (JudgeKind::Local, None) => Box::new(LocalJudge::new(model)?),
            (JudgeKind::Local, Some(other)) => {
                let other = ModelArgs { model: other.clone(), ..args.clone() };
                Box::new(LocalJudge::new(other.load()?)?)
            }
            #[cfg(not(feature = "http"))]
            (JudgeKind::Http, _) => {
                return Err(
                    "a judge behind a server is the feature http; build the program with `--features http`".into()
                );
            }
            #[cfg(feature = "http")]
            (JudgeKind::Http, None) => {
                return Err("an HTTP judge needs --judge-model NAME, as its server calls the model".into());
            }
            #[cfg(feature = "http")]
            (JudgeKind::Http, Some(name)) => {
                make(folder)?;
                Box::new(self.http.judge(name, folder.join("judge_cache.jsonl"))?)
            }
        })
    }
}
