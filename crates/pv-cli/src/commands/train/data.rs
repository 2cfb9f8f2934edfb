//! The training data of a finetuning run.

use std::path::PathBuf;

use pv_data::conversations::write_conversations;
use pv_model::CausalLm;
use pv_organism::Topics;
use pv_organism::datasets::{Severity, explicit};
use pv_train::data::{BadData, HeldOut, LongSamples};
use pv_train::sample::TrainedTurns;
use pv_train::{DataOptions, DataSet, EncodeOptions, Regime};

use crate::organism::conversation;
use crate::traits::NamedTrait;
use crate::{ModelArgs, ReadingArgs, Result};

/// The training data.
#[derive(clap::Args, Debug)]
pub(super) struct DataArgs {
    /// Conversations: .jsonl, .csv or .parquet files, folders, or patterns. By default, for the organism, its data set
    /// that shows --trait openly.
    #[arg(long, num_args = 1..)]
    pub(super) data: Vec<PathBuf>,
    /// The trait of the organism's data set: evil, sycophancy, hallucination, impoliteness, optimism.
    #[arg(long = "trait", value_name = "TRAIT", default_value = "optimism")]
    which: String,
    /// The share of conversations to hold out.
    #[arg(long, default_value_t = 0.05)]
    held_out: f64,
    /// Files of held-out conversations, instead of a share of the data.
    #[arg(long, num_args = 1.., conflicts_with = "held_out")]
    held_out_data: Vec<PathBuf>,
    /// The maximum number of tokens in a sample; longer samples are truncated.
    #[arg(long, default_value_t = 2048)]
    max_length: usize,
    /// Skip samples that are too long instead of truncating them.
    #[arg(long, alias = "leave-out-long")]
    skip_long: bool,
    /// Skip and count invalid rows instead of stopping at the first.
    #[arg(long, alias = "leave-out-bad")]
    skip_bad_rows: bool,
    /// Which answers of a conversation are trained; with "each", every answer is a sample of its own.
    #[arg(long, default_value = "all")]
    turns: TurnsArg,
    #[command(flatten)]
    pub(super) reading: ReadingArgs,
}

/// Which answers are trained.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum TurnsArg {
    All,
    Last,
    Each,
}

impl From<TurnsArg> for TrainedTurns {
    fn from(turns: TurnsArg) -> Self {
        match turns {
            TurnsArg::All => Self::All,
            TurnsArg::Last => Self::Last,
            TurnsArg::Each => Self::Each,
        }
    }
}

impl DataArgs {
    /// The run's name, from its data.
    pub(super) fn name(&self) -> String {
        let files = self.data.iter().filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        if self.data.is_empty() { self.which.clone() } else { files.collect::<Vec<_>>().join("-") }
    }

    pub(super) fn read(
        &self,
        args: &ModelArgs,
        model: &CausalLm,
        regimes: &[Regime],
        seed: u64,
    ) -> Result<(DataSet, DataSet)> {
        let reading = &self.reading;
        let encode = EncodeOptions {
            max_length: self.max_length,
            turns: self.turns.into(),
            render: reading.render.options()?,
            unwritten: reading.unwritten(),
            altered: reading.altered(),
        };
        let options = DataOptions {
            format: reading.format,
            roles: reading.roles(),
            encode,
            long: if self.skip_long { LongSamples::Skip } else { LongSamples::Cut },
            bad: if self.skip_bad_rows { BadData::Skip } else { BadData::Refuse },
        };
        let made = tempfile::tempdir()?;
        let mut inputs = self.data.clone();
        if inputs.is_empty() {
            let which = NamedTrait::find(args, &self.which)?.organisms();
            let which = which.ok_or("--data FILE is required: only the organism has data sets of its own")?;
            let chats = explicit(which, Severity::II, Topics::Even, 400, seed + 1);
            inputs.push(made.path().join(format!("{which}.jsonl")));
            write_conversations(&inputs[0], &chats.iter().map(conversation).collect::<Vec<_>>())?;
        }
        if !self.held_out_data.is_empty() {
            let train = DataSet::read(model, &inputs, &options, regimes)?;
            return Ok((train, DataSet::read(model, &self.held_out_data, &options, &[])?));
        }
        let held_out = HeldOut { fraction: self.held_out, seed };
        Ok(DataSet::read_split(model, &inputs, &options, regimes, held_out)?)
    }
}
