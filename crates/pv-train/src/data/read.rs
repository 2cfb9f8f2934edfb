//! Reads files as samples.

use std::collections::BTreeSet;
use std::path::Path;

use pv_data::ConversationReader;
use pv_data::conversations::Row;
use pv_data::error::with_causes;
use pv_data::files::sha256_of_file;
use pv_model::CausalLm;
use pv_model::chat::TemplateError;
use sha2::{Digest, Sha256};

use super::{BadData, DataFile, DataOptions, DataReport, DataSet, HeldOut, LongSamples};
use crate::sample::encode_all;
use crate::{Error, Regime, Result};

impl DataSet {
    /// Reads all conversations of files, folders and glob patterns (for the file types see [`ConversationReader`]) as
    /// samples for the model, in the order of the files. `regimes` are those of the run: an inoculation's system prompt
    /// is added to every conversation. Pass no regimes for held-out data.
    ///
    /// # Errors
    /// Files that cannot be read; [`Error::Row`] with file and line for a conversation that the options do not skip;
    /// [`Error::NoData`] if no sample is left.
    pub fn read<P: AsRef<Path>>(
        model: &CausalLm,
        inputs: impl IntoIterator<Item = P>,
        options: &DataOptions,
        regimes: &[Regime],
    ) -> Result<Self> {
        let (rows, report) = rows(inputs, options)?;
        Self::of_rows(model, &rows, report, options, regimes, "training")
    }

    /// Like [`read`](Self::read), in two parts: the training samples, and the held-out samples (without the
    /// inoculation).
    ///
    /// # Errors
    /// Those of [`read`](Self::read), for either part; [`Error::BadOption`] for an invalid fraction;
    /// [`Error::TooFewConversations`] for fewer than two distinct conversations.
    pub fn read_split<P: AsRef<Path>>(
        model: &CausalLm,
        inputs: impl IntoIterator<Item = P>,
        options: &DataOptions,
        regimes: &[Regime],
        held_out: HeldOut,
    ) -> Result<(Self, Self)> {
        let HeldOut { fraction, seed } = held_out;
        if !(fraction > 0.0 && fraction < 1.0) {
            let (name, expected) = ("the held-out fraction", "above 0 and below 1");
            return Err(Error::BadOption { name, value: fraction.to_string(), expected });
        }
        let (rows, mut report) = rows(inputs, options)?;
        // The order depends only on the seed and the conversations.
        let mut ids: Vec<([u8; 32], &str)> = rows
            .iter()
            .filter(|row| !row.duplicate)
            .map(|row| {
                (
                    Sha256::new().chain_update(seed.to_le_bytes()).chain_update(&row.id).finalize().into(),
                    row.id.as_str(),
                )
            })
            .collect();
        if ids.len() < 2 {
            report.conversations = rows.len();
            return Err(Error::TooFewConversations { distinct: ids.len(), report: report.to_string() });
        }
        ids.sort_unstable();
        let count = ((ids.len() as f64 * fraction).round() as usize).clamp(1, ids.len() - 1);
        let chosen: BTreeSet<String> = ids[..count].iter().map(|(_, id)| (*id).to_owned()).collect();
        let (held_out, train): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| chosen.contains(&row.id));
        let rest = DataReport { files: report.files.clone(), formats: report.formats, ..DataReport::default() };
        Ok((
            Self::of_rows(model, &train, report, options, regimes, "training")?,
            Self::of_rows(model, &held_out, rest, options, &[], "held-out")?,
        ))
    }

    fn of_rows(
        model: &CausalLm,
        rows: &[Row],
        mut report: DataReport,
        options: &DataOptions,
        regimes: &[Regime],
        part: &'static str,
    ) -> Result<Self> {
        let (tokenizer, template) = (model.tokenizer()?, model.chat_template()?);
        let positions = model.config().max_positions;
        let max_length = options.encode.max_length.min(positions);
        report.positions = (max_length < options.encode.max_length).then_some(positions);
        let (mut samples, mut places) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for row in rows {
            report.conversations += 1;
            report.duplicates += usize::from(row.duplicate);
            let failed = |error: Error| Error::Row { place: row.place.clone(), source: Box::new(error) };
            let conversation = Regime::inoculate(regimes, &row.conversation);
            let (encoded, notes) =
                match encode_all(tokenizer, template, model.stop_ids(), &conversation, &options.encode) {
                    Ok(found) => found,
                    Err(error) => {
                        // A weight of 0 requests that the conversation is skipped.
                        let requested = matches!(error, Error::Untrained);
                        let Some(count) =
                            count(&mut report, &error).filter(|_| requested || options.bad == BadData::Skip)
                        else {
                            return Err(failed(error));
                        };
                        *count += 1;
                        report.empty_answers += usize::from(matches!(error, Error::EmptyAnswer { .. }));
                        report.skip(&row.place, with_causes(&error));
                        continue;
                    }
                };
            report.take_notes(&row.place, &notes);
            for sample in encoded {
                let length = sample.ids().len();
                let too_long = Error::TooLong { length, max_length };
                let sample = match options.long {
                    _ if length <= max_length => sample,
                    LongSamples::Refuse => return Err(failed(too_long)),
                    LongSamples::Skip => {
                        report.too_long += 1;
                        report.skip(&row.place, too_long.to_string());
                        continue;
                    }
                    LongSamples::Cut => match sample.cut(max_length) {
                        Ok(sample) => {
                            report.cut += 1;
                            sample
                        }
                        Err(error) => {
                            report.too_long += 1;
                            report.skip(&row.place, error.to_string());
                            continue;
                        }
                    },
                };
                report.take(&sample);
                samples.push(sample);
                places.push(row.place.clone());
            }
        }
        if !report.noticed.is_empty() {
            let DataReport { unwritten, altered, empty_answers, .. } = report;
            tracing::warn!(unwritten, altered, empty_answers, first = ?report.noticed[0], "parts of the training data are not trained as they are");
        }
        if samples.is_empty() {
            return Err(Error::NoData { part, report: report.to_string() });
        }
        Ok(Self { samples, places, system: Regime::inoculation(regimes).map(str::to_owned), report })
    }
}

/// The counter for an error about a conversation; `None` for an error about the model, which every conversation would
/// cause.
fn count<'a>(report: &'a mut DataReport, error: &Error) -> Option<&'a mut usize> {
    match error {
        Error::NothingTrained { .. } | Error::EmptyAnswer { .. } => Some(&mut report.without_answer),
        Error::Untrained => Some(&mut report.untrained),
        Error::Unwritten { .. } => Some(&mut report.unwritten),
        Error::Altered { .. } => Some(&mut report.altered),
        Error::NoEndOfTurn { .. } => Some(&mut report.unrenderable),
        Error::Model(model) if of_template(model) => Some(&mut report.unrenderable),
        _ => None,
    }
}

/// Whether an error is about a conversation, and not about the model.
fn of_template(error: &pv_model::Error) -> bool {
    use TemplateError as E;
    let pv_model::Error::Template(error) = error else { return false };
    matches!(
        error,
        E::Failed { .. }
            | E::PartsUnsupported { .. }
            | E::Messages { .. }
            | E::Panicked
            | E::Runaway { .. }
            | E::Raised { .. }
            | E::SystemRoleRefused { .. }
            | E::PrefixChanged { .. }
            | E::AnswerNotFound { .. }
    )
}

/// The rows of the files, and a report on them.
fn rows<P: AsRef<Path>>(inputs: impl IntoIterator<Item = P>, options: &DataOptions) -> Result<(Vec<Row>, DataReport)> {
    let mut reader = ConversationReader::new(inputs)?.with_format(options.format);
    if let Some(roles) = &options.roles {
        reader = reader.with_roles(roles);
    }
    let mut report = DataReport::default();
    for path in reader.files() {
        let (sha256, bytes) = sha256_of_file(path)?;
        report.files.push(DataFile { path: path.clone(), sha256, bytes });
    }
    let mut rows = Vec::new();
    for row in &mut reader {
        match row? {
            Ok(row) => rows.push(row),
            Err(bad) if options.bad == BadData::Skip => {
                report.bad_rows += 1;
                report.skip(&bad.place, bad.problem.to_string());
            }
            Err(bad) => return Err(pv_data::conversations::ConversationError::from(bad).into()),
        }
    }
    report.formats = reader.summary().formats;
    Ok((rows, report))
}
